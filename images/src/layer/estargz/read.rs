//! Reading: is a blob eStargz, what is its table of contents, is all in it as that says?

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use flate2::bufread::GzDecoder;
use sha2::{Digest as _, Sha256};

use super::toc::{Toc, TocEntry, VERSION};
use super::{FOOTER_SIZE, TOC_NAME, toc_offset};
use crate::digest::Digest;
use crate::layer::{Kind, TarReader};

/// Bytes of a table of contents: some 300 for each file, of a million files.
const MAX_TOC: u64 = 512 << 20;
/// Bytes of a chunk that is verified: what other writers make is not larger, and it is held in memory.
const MAX_CHUNK: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum EstargzError {
    #[error("read an estargz layer: {0}")]
    Read(#[from] io::Error),
    #[error("the table of contents of an estargz layer is broken: {0}")]
    Toc(String),
    #[error(
        "{name}: the content of an estargz layer is not what its table of contents says: {what}"
    )]
    Content { name: String, what: String },
}

/// An eStargz layer, opened.
#[derive(Debug)]
pub struct Estargz {
    blob: File,
    toc_offset: u64,
    toc: Toc,
    /// Of the JSON.
    pub toc_digest: Digest,
}

/// Reads a part of a file.
struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let want = buffer.len().min(most);
        let n = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Where the table of contents begins, when the blob has the footer of an eStargz layer.
fn find_toc(blob: &File) -> io::Result<Option<u64>> {
    let mut footer = [0; FOOTER_SIZE];
    let Some(at) = blob.metadata()?.len().checked_sub(FOOTER_SIZE as u64) else {
        return Ok(None);
    };
    blob.read_exact_at(&mut footer, at)?;
    Ok(toc_offset(&footer).filter(|offset| *offset < at))
}

impl Estargz {
    /// `None` when the blob is something else, by its footer.
    pub fn open(blob: File) -> Result<Option<Self>, EstargzError> {
        let Some(toc_offset) = find_toc(&blob)? else {
            return Ok(None);
        };
        let broken = |what: &str| EstargzError::Toc(what.into());
        let end = blob.metadata()?.len() - FOOTER_SIZE as u64;
        let part = Part {
            file: &blob,
            at: toc_offset,
            end,
        };
        let member = GzDecoder::new(io::BufReader::new(part));
        let mut tar = TarReader::new(member.take(MAX_TOC));
        let entry = tar
            .next_entry()
            .map_err(|e| EstargzError::Toc(e.to_string()))?;
        let entry = entry.ok_or_else(|| broken("it is empty"))?;
        if entry.name != TOC_NAME.as_bytes() || entry.kind != Kind::File || entry.sparse {
            return Err(broken("it has another name"));
        }
        let mut json = Vec::new();
        tar.read_to_end(&mut json)?;
        if tar.next_entry().is_ok_and(|next| next.is_some()) {
            return Err(broken("it is not the last file"));
        }
        let toc: Toc =
            serde_json::from_slice(&json).map_err(|e| EstargzError::Toc(e.to_string()))?;
        if toc.version != VERSION {
            return Err(EstargzError::Toc(format!("version {}", toc.version)));
        }
        Ok(Some(Estargz {
            blob,
            toc_offset,
            toc,
            toc_digest: Digest::of(&json),
        }))
    }

    #[cfg(test)]
    pub(super) fn toc(self) -> Toc {
        self.toc
    }

    /// The tar without the table of contents, still packed: what the layer was made of.
    pub fn payload(blob: File) -> io::Result<Box<dyn Read + Send>> {
        Ok(match find_toc(&blob)? {
            Some(offset) => Box::new(blob.take(offset)),
            None => Box::new(blob),
        })
    }

    /// Reads every chunk by its place and compares it with its digest, and those of a file with the file's.
    pub fn verify(&self) -> Result<(), EstargzError> {
        let mut entries = self.toc.entries.iter().peekable();
        while let Some(first) = entries.next() {
            if !first.has_content() {
                continue;
            }
            let wrong = |what: String| EstargzError::Content {
                name: first.name.clone(),
                what,
            };
            let mut whole = Sha256::new();
            let mut at = 0;
            let mut part = Some(first);
            while let Some(chunk) = part {
                if chunk.chunk_offset != at || chunk.name != first.name {
                    return Err(wrong(format!(
                        "a chunk at {} instead of {at}",
                        chunk.chunk_offset
                    )));
                }
                let bytes = self.chunk(chunk, first.size)?;
                let found = Digest::of(&bytes).to_string();
                if found != chunk.chunk_digest {
                    return Err(wrong(format!("{found} instead of {}", chunk.chunk_digest)));
                }
                whole.update(&bytes);
                at += bytes.len() as u64;
                part = entries.next_if(|next| next.kind == "chunk");
            }
            let found = Digest::from_hasher(whole).to_string();
            if at != first.size || found != first.digest {
                return Err(wrong(format!("{at} bytes, {found}")));
            }
        }
        Ok(())
    }

    fn chunk(&self, entry: &TocEntry, file: u64) -> Result<Vec<u8>, EstargzError> {
        let wrong = |what: &str| EstargzError::Content {
            name: entry.name.clone(),
            what: what.into(),
        };
        let size = match entry.chunk_size {
            0 => file.saturating_sub(entry.chunk_offset),
            size => size,
        };
        if size == 0 || size > MAX_CHUNK || entry.offset >= self.toc_offset {
            return Err(wrong("a chunk that cannot be"));
        }
        let part = Part {
            file: &self.blob,
            at: entry.offset,
            end: self.toc_offset,
        };
        let mut member = GzDecoder::new(io::BufReader::new(part));
        let skipped = io::copy(&mut (&mut member).take(entry.inner_offset), &mut io::sink())?;
        let mut bytes = Vec::new();
        member.take(size).read_to_end(&mut bytes)?;
        if skipped != entry.inner_offset || bytes.len() as u64 != size {
            return Err(wrong("a chunk is cut"));
        }
        Ok(bytes)
    }
}
