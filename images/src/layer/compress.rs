//! A tar stream into a blob of the store in one pass: diffID, compression on all cores, blob digest.
//!
//! The stream is cut into blocks of a fixed size that are compressed independently, so the bytes are the same whatever
//! the number of cores: each block is a gzip member or a zstd frame. Every reader of layers takes a series of them
//! (eStargz layers are such series).

mod block;
mod parallel;

use std::io::{self, PipeWriter, Write};
use std::num::NonZeroUsize;
use std::thread::JoinHandle;

use crate::digest::Digest;
use crate::layer::Compression;
use crate::layer::estargz::{self, Estargz, TocInfo};
use crate::media::{
    DOCKER_LAYER_GZIP, DOCKER_LAYER_TAR, DOCKER_LAYER_ZSTD, Descriptor, OCI_LAYER_GZIP,
    OCI_LAYER_TAR, OCI_LAYER_ZSTD,
};
use crate::store::{BlobStore, BlobWriter, StoreError};

pub(crate) use block::Codec;
pub(crate) use parallel::Pipeline;

#[derive(Clone, Copy, Debug)]
pub struct CompressOptions {
    pub compression: Compression,
    /// 0 to 9 for gzip, 1 to 22 for zstd; `None` for the default of each. More is smaller and slower.
    pub level: Option<i32>,
    /// Threads that compress; `None` for one a core. The result does not depend on it.
    pub threads: Option<NonZeroUsize>,
    /// Media types of the Docker family instead of OCI's.
    pub docker_types: bool,
    /// With gzip: a layer of which single files can be fetched.
    pub estargz: bool,
}

impl CompressOptions {
    pub fn new(compression: Compression) -> Self {
        CompressOptions {
            compression,
            level: None,
            threads: None,
            docker_types: false,
            estargz: false,
        }
    }

    /// The media type of the layers that these options make.
    pub fn media_type(&self) -> &'static str {
        match (self.docker_types, self.compression) {
            (false, Compression::None) => OCI_LAYER_TAR,
            (false, Compression::Gzip) => OCI_LAYER_GZIP,
            (false, Compression::Zstd) => OCI_LAYER_ZSTD,
            (true, Compression::None) => DOCKER_LAYER_TAR,
            (true, Compression::Gzip) => DOCKER_LAYER_GZIP,
            (true, Compression::Zstd) => DOCKER_LAYER_ZSTD,
        }
    }
}

/// A layer in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBlob {
    /// Media type, digest and size of the compressed blob.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub size: u64,
    /// Of an eStargz layer.
    pub toc: Option<TocInfo>,
}

#[derive(Debug, thiserror::Error)]
pub enum CompressError<E: std::error::Error + 'static> {
    /// The source of the tar stream failed.
    #[error(transparent)]
    Source(E),
    #[error("compress layer: {0}")]
    Compress(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Stores the tar stream that `source` writes as a layer blob.
///
/// ```no_run
/// # use gateway_images::{layer::*, store::BlobStore};
/// # fn f(store: &BlobStore, upper: &std::path::Path, parents: &[std::path::PathBuf]) -> Result<(), CompressError<DiffError>> {
/// let options = CompressOptions::new(Compression::Gzip);
/// let (blob, report) = write_layer(store, &options, |out| diff(upper, parents, &DiffOptions::default(), out))?;
/// # Ok(()) }
/// ```
pub fn write_layer<T, E: std::error::Error + 'static>(
    store: &BlobStore,
    options: &CompressOptions,
    source: impl FnOnce(&mut LayerWriter) -> Result<T, E>,
) -> Result<(LayerBlob, T), CompressError<E>> {
    let mut writer = LayerWriter::new(store.writer()?, *options);
    let value = match source(&mut writer) {
        Ok(value) => value,
        Err(e) => {
            // A failed write is told by the cause, not by the source's "broken pipe".
            return Err(match writer.failure() {
                Some(cause) => CompressError::Compress(cause),
                None => CompressError::Source(e),
            });
        }
    };
    let (finished, toc) = writer.finish().map_err(CompressError::Compress)?;
    let blob = finished.blob.commit()?;
    let diff_id = finished.diff_id.unwrap_or_else(|| blob.digest.clone());
    let layer = LayerBlob {
        descriptor: Descriptor::new(options.media_type(), blob.digest, blob.size),
        diff_id,
        size: finished.size,
        toc,
    };
    Ok((layer, value))
}

/// Packs a layer of the store anew (`force-compression`): other bytes, the same tar and so the same diffID; but an
/// eStargz layer gets another table of contents, and so another diffID.
pub fn recompress(
    store: &BlobStore,
    layer: &Digest,
    options: &CompressOptions,
) -> Result<LayerBlob, CompressError<io::Error>> {
    let blob = store.reader(layer)?;
    let source: Box<dyn io::Read + Send> = match options.estargz {
        true => Estargz::payload(blob).map_err(CompressError::Compress)?,
        false => Box::new(blob),
    };
    let (blob, _) = write_layer(store, options, |out| {
        io::copy(&mut super::Decoder::new(source)?, out)
    })?;
    Ok(blob)
}

/// Takes the tar stream of a layer. Threads start with the second block: most layers are smaller than that.
pub struct LayerWriter {
    options: CompressOptions,
    block: Vec<u8>,
    state: State,
}

enum State {
    /// Not compressed: the blob is the tar, and its hash the diffID.
    Plain(Box<BlobWriter>),
    /// All that was written so far is in `block`.
    Small(Box<BlobWriter>),
    Large(Pipeline),
    /// Another thread reads the tar's entries.
    Estargz(PipeWriter, Thread),
    Failed(Option<io::Error>),
}

pub(crate) struct Finished {
    pub blob: BlobWriter,
    /// `None` where it is the blob's digest.
    pub diff_id: Option<Digest>,
    pub size: u64,
}

impl LayerWriter {
    fn new(blob: BlobWriter, options: CompressOptions) -> Self {
        LayerWriter {
            options,
            block: Vec::new(),
            state: match options.compression {
                Compression::Gzip if options.estargz => match start_estargz(blob, options) {
                    Ok((pipe, thread)) => State::Estargz(pipe, thread),
                    Err(error) => State::Failed(Some(error)),
                },
                Compression::None => State::Plain(Box::new(blob)),
                Compression::Gzip | Compression::Zstd => State::Small(Box::new(blob)),
            },
        }
    }

    fn failure(&mut self) -> Option<io::Error> {
        match &mut self.state {
            State::Failed(cause) => cause.take(),
            _ => None,
        }
    }

    fn send_block(&mut self) -> io::Result<()> {
        let full = std::mem::take(&mut self.block);
        let state = std::mem::replace(&mut self.state, State::Failed(None));
        let sent = match state {
            State::Small(blob) => {
                Pipeline::start(*blob, &self.options).and_then(|pipeline| pipeline.send(full))
            }
            State::Large(pipeline) => pipeline.send(full),
            state @ (State::Plain(_) | State::Estargz(..) | State::Failed(_)) => {
                self.state = state;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        };
        match sent {
            Ok(mut pipeline) => {
                self.block = pipeline.buffer();
                self.state = State::Large(pipeline);
                Ok(())
            }
            Err(e) => {
                self.state = State::Failed(Some(e));
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    fn finish(self) -> io::Result<(Finished, Option<TocInfo>)> {
        let finished = match self.state {
            State::Estargz(pipe, thread) => {
                drop(pipe);
                let (finished, toc) = joined(thread)?;
                return Ok((finished, Some(toc)));
            }
            State::Large(pipeline) => pipeline.finish(self.block),
            State::Plain(blob) => Ok(Finished {
                size: blob.written(),
                blob: *blob,
                diff_id: None,
            }),
            State::Failed(cause) => Err(cause.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())),
            State::Small(mut blob) => {
                let mut codec = block::Codec::new(self.options.compression, self.options.level)?;
                let packed = codec.pack(&self.block)?;
                blob.write_all(&packed)?;
                Ok(Finished {
                    blob: *blob,
                    diff_id: Some(Digest::of(&self.block)),
                    size: self.block.len() as u64,
                })
            }
        };
        Ok((finished?, None))
    }
}

type Thread = JoinHandle<io::Result<(Finished, TocInfo)>>;

fn start_estargz(blob: BlobWriter, options: CompressOptions) -> io::Result<(PipeWriter, Thread)> {
    let (tar, pipe) = io::pipe()?;
    let thread = parallel::spawn("layer-estargz", move || estargz::write(tar, blob, &options))?;
    Ok((pipe, thread))
}

fn joined(thread: Thread) -> io::Result<(Finished, TocInfo)> {
    let panicked = |_| io::Error::other("the thread of an estargz layer panicked");
    thread.join().map_err(panicked)?
}

impl Write for LayerWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let State::Plain(blob) = &mut self.state {
            return blob.write(bytes);
        }
        if let State::Estargz(pipe, _) = &mut self.state {
            let error = match pipe.write(bytes) {
                Ok(n) => return Ok(n),
                Err(error) => error,
            };
            // The thread has ended, and knows why.
            if let State::Estargz(pipe, thread) =
                std::mem::replace(&mut self.state, State::Failed(None))
            {
                drop(pipe);
                self.state = State::Failed(Some(joined(thread).err().unwrap_or(error)));
            }
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let size = block::size(self.options.compression);
        if self.block.len() == size {
            self.send_block()?;
        }
        let n = bytes.len().min(size - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
