//! Moves the uncompressed bytes to the archive reader and to the hasher, each on its own core when there are many.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;

use sha2::{Digest as _, Sha256};

use super::error::UnpackError;
use crate::digest::Digest;

/// Bytes handed over at once: large against the cost of a hand-over, small enough for the caches.
const CHUNK: usize = 256 << 10;
/// Chunks waiting at one consumer at most: bounds memory at about 2 MiB a layer.
const QUEUE: usize = 4;

type Chunk = Arc<Vec<u8>>;

/// Reads `source` to its end, gives the bytes to `apply`, and returns the digest and number of all bytes.
///
/// `apply` may stop reading early at the archive's end: the rest is hashed all the same.
pub(super) fn consume<R: Read + Send>(
    mut source: R,
    limit: u64,
    apply: impl FnOnce(&mut dyn Read) -> Result<(), UnpackError>,
) -> Result<(Digest, u64), UnpackError> {
    let first = read_chunk(&mut source).map_err(UnpackError::Read)?;
    if first.len() as u64 > limit {
        return Err(UnpackError::TooManyBytes(limit));
    }
    if first.len() < CHUNK {
        // The whole layer is here: threads would cost more than they save.
        apply(&mut &first[..])?;
        return Ok((Digest::of(&first), first.len() as u64));
    }
    std::thread::scope(|scope| {
        let (to_hasher, hash_queue) = sync_channel::<Chunk>(QUEUE);
        let (to_applier, apply_queue) = sync_channel::<Chunk>(QUEUE);
        let hasher = Builder::new()
            .name("layer-hash".into())
            .spawn_scoped(scope, move || {
                let mut hasher = Sha256::new();
                for chunk in hash_queue {
                    hasher.update(&chunk[..]);
                }
                Digest::from_hasher(hasher)
            })
            .map_err(UnpackError::Read)?;
        let decoder = Builder::new()
            .name("layer-inflate".into())
            .spawn_scoped(scope, move || {
                distribute(source, first, limit, &to_hasher, to_applier)
            })
            .map_err(UnpackError::Read)?;
        let mut plain = Plain {
            queue: apply_queue,
            chunk: Chunk::default(),
            at: 0,
        };
        let mut applied = apply(&mut plain);
        if applied.is_err() {
            drop(plain); // lets the decoder stop
        } else if let Err(e) = io::copy(&mut plain, &mut io::sink()) {
            applied = Err(UnpackError::Read(e));
        }
        let decoded = decoder
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let digest = hasher
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A failed read is the cause of what the archive reader then says about a short stream.
        match (decoded, applied) {
            (Ok(Some(size)), Ok(())) => Ok((digest, size)),
            (Err(e), _) | (_, Err(e)) => Err(e),
            (Ok(None), Ok(())) => Err(UnpackError::Read(io::ErrorKind::BrokenPipe.into())),
        }
    })
}

/// Sends every chunk to both consumers. `None` when the applier stopped listening.
fn distribute<R: Read>(
    mut source: R,
    first: Vec<u8>,
    limit: u64,
    to_hasher: &SyncSender<Chunk>,
    to_applier: SyncSender<Chunk>,
) -> Result<Option<u64>, UnpackError> {
    let mut size = 0;
    let mut next = first;
    while !next.is_empty() {
        size += next.len() as u64;
        if size > limit {
            return Err(UnpackError::TooManyBytes(limit));
        }
        let chunk = Arc::new(next);
        if to_hasher.send(chunk.clone()).is_err() || to_applier.send(chunk).is_err() {
            return Ok(None);
        }
        next = read_chunk(&mut source).map_err(UnpackError::Read)?;
    }
    Ok(Some(size))
}

/// As many bytes as there are, up to a chunk; fewer only at the end.
fn read_chunk(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK);
    source.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// The applier's end of the queue, as a reader.
struct Plain {
    queue: Receiver<Chunk>,
    chunk: Chunk,
    at: usize,
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.queue.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
