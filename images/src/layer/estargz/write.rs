//! Writing: the tar passes through while its entries are noted; each piece of content begins a new member.
//!
//! The members are compressed on all cores as the blocks of an ordinary layer are. Where each begins in the blob is
//! known when all are written; then the table of contents follows, as one more member.

use std::io::{self, PipeReader, Read, Write};

use sha2::{Digest as _, Sha256};

use super::toc::{Toc, TocEntry, VERSION};
use super::{CHUNK, MEMBER, TOC_NAME, footer};
use crate::digest::Digest;
use crate::layer::compress::{Codec, Finished, Pipeline};
use crate::layer::{
    CompressOptions, Compression, END, Entry, Header, Kind, TarError, TarReader, clean_path,
    padding,
};
use crate::store::BlobWriter;

/// Keeps what is read from it, while that is asked for: the bytes of headers as they are.
struct Keeper<R> {
    source: R,
    kept: Vec<u8>,
    keeps: bool,
}

impl<R: Read> Read for Keeper<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        if self.keeps {
            self.kept.extend_from_slice(&buffer[..n]);
        }
        Ok(n)
    }
}

/// What was noted of an entry: its line in the table, and the member in which its content begins.
struct Noted {
    entry: TocEntry,
    member: Option<usize>,
}

struct Writer {
    tar: TarReader<Keeper<io::BufReader<PipeReader>>>,
    pipeline: Option<Pipeline>,
    /// What goes into the next member.
    open: Vec<u8>,
    /// Members before it.
    members: usize,
    noted: Vec<Noted>,
}

/// What is said of an eStargz layer beside what is said of any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TocInfo {
    /// Of the table of contents.
    pub digest: Digest,
    /// Of the tar that was given: the layer's own has the table of contents too.
    pub tar: Digest,
}

/// Writes the tar that comes out of the pipe.
pub(crate) fn write(
    tar: PipeReader,
    blob: BlobWriter,
    options: &CompressOptions,
) -> io::Result<(Finished, TocInfo)> {
    let mut pipeline = Pipeline::start(blob, options)?;
    let open = pipeline.buffer();
    let keeper = Keeper {
        source: io::BufReader::with_capacity(64 << 10, tar),
        kept: Vec::new(),
        keeps: true,
    };
    let mut writer = Writer {
        tar: TarReader::new(keeper),
        pipeline: Some(pipeline),
        open,
        members: 0,
        noted: Vec::new(),
    };
    while let Some(entry) = writer.next_entry()? {
        writer.entry(&entry)?;
    }
    writer.rest()?;
    writer.finish(options)
}

impl Writer {
    /// The next entry; its headers, and the padding before them, are in the open member.
    fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let entry = self.tar.next_entry();
        let keeper = self.tar.source_mut();
        self.open.append(&mut keeper.kept);
        entry.map_err(|error| match error {
            TarError::Read(error) => error,
            other => io::Error::other(other),
        })
    }

    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        if clean_path(&entry.name) == [TOC_NAME.as_bytes()] {
            return Err(io::Error::other(format!(
                "a file named {TOC_NAME} cannot be in an estargz layer: its table of contents has this name"
            )));
        }
        if entry.sparse {
            return Err(io::Error::other(format!(
                "{}: a sparse file of a tar cannot be in an estargz layer",
                entry.name.escape_ascii()
            )));
        }
        let mut noted = TocEntry::of(entry);
        match (entry.kind, entry.size) {
            (Kind::File, 0) => {
                noted.digest = Digest::of(b"").to_string();
                self.note(noted, None);
            }
            (Kind::File, _) => self.content(noted)?,
            _ => self.note(noted, None),
        }
        if self.open.len() >= MEMBER {
            self.next_member()?;
        }
        Ok(())
    }

    fn note(&mut self, entry: TocEntry, member: Option<usize>) {
        self.noted.push(Noted { entry, member });
    }

    /// The content of a file, each chunk at the start of a member.
    fn content(&mut self, first: TocEntry) -> io::Result<()> {
        let at = self.noted.len();
        let (name, size) = (first.name.clone(), first.size);
        let mut whole = (size > CHUNK).then(Sha256::new);
        let mut next = Some(first);
        let mut written = 0;
        while written < size {
            let length = CHUNK.min(size - written);
            self.next_member()?;
            self.tar.source_mut().keeps = false;
            let from = self.open.len();
            let read = (&mut self.tar).take(length).read_to_end(&mut self.open);
            self.tar.source_mut().keeps = true;
            if read? as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let chunk = &self.open[from..];
            if let Some(whole) = &mut whole {
                whole.update(chunk);
            }
            let mut entry = next.take().unwrap_or_else(|| TocEntry {
                name: name.clone(),
                kind: "chunk".into(),
                ..TocEntry::default()
            });
            entry.chunk_digest = Digest::of(chunk).to_string();
            entry.chunk_offset = written;
            // The last one goes to the end of the file.
            entry.chunk_size = if length == CHUNK { length } else { 0 };
            let member = self.members;
            self.note(entry, Some(member));
            written += length;
        }
        if let Some(first) = self.noted.get_mut(at) {
            first.entry.digest = match whole {
                Some(whole) => Digest::from_hasher(whole).to_string(),
                None => first.entry.chunk_digest.clone(),
            };
        }
        Ok(())
    }

    /// Ends the open member. There is always something in it: a header, or a chunk.
    fn next_member(&mut self) -> io::Result<()> {
        let pipeline = self.pipeline.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut pipeline = pipeline.send(std::mem::take(&mut self.open))?;
        self.open = pipeline.buffer();
        self.pipeline = Some(pipeline);
        self.members += 1;
        Ok(())
    }

    /// What follows the end of the archive belongs to the layer too.
    fn rest(&mut self) -> io::Result<()> {
        let keeper = self.tar.source_mut();
        keeper.keeps = false;
        loop {
            let source = &mut self.tar.source_mut().source;
            let most = MEMBER.saturating_sub(self.open.len()) as u64;
            if (source.take(most).read_to_end(&mut self.open)? as u64) < most {
                return Ok(());
            }
            self.next_member()?;
        }
    }

    /// The table of contents and the footer.
    fn finish(mut self, options: &CompressOptions) -> io::Result<(Finished, TocInfo)> {
        let pipeline = self.pipeline.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut done = pipeline.drain(self.open)?;
        let tar = Digest::from_hasher(done.hasher.clone());
        let mut offsets = Vec::with_capacity(done.packed.len());
        let mut toc_offset = 0;
        for packed in &done.packed {
            offsets.push(toc_offset);
            toc_offset += packed;
        }
        let entries = self.noted.into_iter().map(|mut noted| {
            let offset = noted.member.and_then(|member| offsets.get(member));
            noted.entry.offset = offset.copied().unwrap_or_default();
            noted.entry
        });
        let toc = Toc {
            version: VERSION,
            entries: entries.collect(),
        };
        let json = toc.json()?;
        let mut header = Header::new(Kind::File, TOC_NAME);
        header.size = json.len() as u64;
        let mut archive = header.encode();
        archive.extend(&json);
        archive.extend(padding(header.size));
        archive.extend(END);
        done.hasher.update(&archive);
        let packed = Codec::new(Compression::Gzip, options.level)?.pack(&archive)?;
        done.blob.write_all(&packed)?;
        done.blob.write_all(&footer(toc_offset))?;
        let finished = Finished {
            blob: done.blob,
            diff_id: Some(Digest::from_hasher(done.hasher)),
            size: done.size + archive.len() as u64,
        };
        let toc = TocInfo {
            digest: Digest::of(&json),
            tar,
        };
        Ok((finished, toc))
    }
}
