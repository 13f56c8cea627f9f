//! Sparse files of archives: GNU's own header (`S`) and the three PAX forms (0.0, 0.1, 1.0) that GNU tar has written.
//!
//! A map says where the stored bytes belong; the rest are zeros. What is no map of exactly the stored bytes, in order
//! and within the file, is refused, as Go's archive/tar does, so that we see the files that BuildKit sees.

use super::entry::{TarError, decimal, number};

/// Most runs of data in one file. A file that alternates data and hole every 4 KiB reaches this at 8 GiB; it bounds
/// what a small archive can make us hold to 16 MiB.
const MAX_RUNS: usize = 1 << 20;
/// In an old GNU header block: where its four entries start, the mark that blocks of more entries follow, the file's size.
const OLD_ENTRIES: std::ops::Range<usize> = 386..482;
const OLD_EXTENDED: usize = 482;
const OLD_SIZE: std::ops::Range<usize> = 483..495;
/// In a block of more entries: twenty-one of them, then the mark.
const MORE_ENTRIES: std::ops::Range<usize> = 0..504;
const MORE_EXTENDED: usize = 504;

const BAD: TarError = TarError::Header("malformed sparse map");

/// Where the stored bytes of a file belong, and how far its content was handed out.
#[derive(Debug, Default)]
pub(super) struct SparseMap {
    /// Offset and length of each run of data, in order, none empty.
    runs: Vec<(u64, u64)>,
    /// The run that is under or next after `at`.
    next: usize,
    at: u64,
    size: u64,
}

impl SparseMap {
    /// `stored` is how many bytes of data the archive holds for the file.
    pub fn new(runs: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Self, TarError> {
        let (mut end, mut data) = (0u64, 0u64);
        for &(offset, length) in &runs {
            if offset < end {
                return Err(BAD);
            }
            end = offset.checked_add(length).ok_or(BAD)?;
            data += length; // no more than `end`
        }
        if end > size || data != stored {
            return Err(BAD);
        }
        Ok(SparseMap {
            runs: runs.into_iter().filter(|(_, length)| *length > 0).collect(),
            size,
            ..SparseMap::default()
        })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of hole from here to the next data or the end of the file.
    pub fn hole(&self) -> u64 {
        let end = self.runs.get(self.next).map_or(self.size, |run| run.0);
        end.saturating_sub(self.at)
    }

    /// Bytes of data from here to the next hole or the end.
    pub fn data(&self) -> u64 {
        match self.runs.get(self.next) {
            Some((offset, length)) if *offset <= self.at => offset + length - self.at,
            _ => 0,
        }
    }

    /// `n` bytes, of the hole or of the data that is here, were taken.
    pub fn advance(&mut self, n: u64) {
        self.at += n;
        while let Some((offset, length)) = self.runs.get(self.next)
            && self.at >= offset + length
        {
            self.next += 1;
        }
    }
}

/// Collects the runs of an old GNU header and of the blocks behind it.
pub(super) struct OldMap {
    pub size: u64,
    pub runs: Vec<(u64, u64)>,
    /// A block of more entries follows.
    pub more: bool,
}

impl OldMap {
    pub fn of_header(block: &[u8]) -> Result<Self, TarError> {
        // The fields mean something else in other formats.
        if block.get(257..265) != Some(b"ustar  \0") {
            return Err(TarError::Header(
                "a sparse entry in another format than GNU's",
            ));
        }
        let size = number(block.get(OLD_SIZE).unwrap_or_default())?;
        let mut map = OldMap {
            size: u64::try_from(size).map_err(|_| BAD)?,
            runs: Vec::new(),
            more: false,
        };
        map.take(block, OLD_ENTRIES, OLD_EXTENDED)?;
        Ok(map)
    }

    pub fn take_more(&mut self, block: &[u8]) -> Result<(), TarError> {
        self.take(block, MORE_ENTRIES, MORE_EXTENDED)
    }

    fn take(
        &mut self,
        block: &[u8],
        entries: std::ops::Range<usize>,
        extended: usize,
    ) -> Result<(), TarError> {
        self.more = block.get(extended).is_some_and(|&mark| mark != 0);
        for entry in block.get(entries).unwrap_or_default().chunks_exact(24) {
            let (offset, length) = entry.split_at(12);
            // The first empty entry ends the list of a block, as in GNU's and BSD's tar.
            if offset.first() == Some(&0) {
                break;
            }
            let part = |field| u64::try_from(number(field)?).map_err(|_| BAD);
            push(&mut self.runs, (part(offset)?, part(length)?))?;
        }
        Ok(())
    }
}

fn push(runs: &mut Vec<(u64, u64)>, run: (u64, u64)) -> Result<(), TarError> {
    if runs.len() >= MAX_RUNS {
        return Err(TarError::SparseRuns(MAX_RUNS));
    }
    runs.push(run);
    Ok(())
}

/// What the PAX records of a file say about it being sparse.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub map: PaxMap,
}

/// Where the map is.
#[derive(Debug, Default)]
pub(super) enum PaxMap {
    #[default]
    None,
    /// In the records (0.0 and 0.1).
    Here(Vec<(u64, u64)>),
    /// In front of the data (1.0).
    InData,
}

impl PaxSparse {
    /// Takes one `GNU.sparse.*` record out of the records of a header, by the rest of its key.
    pub fn of(mut take: impl FnMut(&str) -> Option<Vec<u8>>) -> Result<Self, TarError> {
        let (major, minor) = (take("major"), take("minor"));
        let (map, blocks) = (take("map"), take("numblocks"));
        let (size, real_size) = (take("size"), take("realsize"));
        let name = take("name");
        let version = (
            major.as_deref().unwrap_or_default(),
            minor.as_deref().unwrap_or_default(),
        );
        let in_records = match version {
            (b"1", b"0") => false,
            (b"0", b"0" | b"1") => true,
            (b"", b"") if map.is_some() => true,
            (b"", b"") => return Ok(PaxSparse::default()),
            _ => return Err(TarError::Header("unknown version of a sparse file")),
        };
        let size = match size.or(real_size) {
            Some(text) => Some(decimal(&text)?),
            None => None,
        };
        let map = match in_records {
            false => PaxMap::InData,
            true => PaxMap::Here(list(
                &map.unwrap_or_default(),
                decimal(&blocks.unwrap_or_default())?,
            )?),
        };
        Ok(PaxSparse { name, size, map })
    }
}

/// `offset,length,offset,length,...`, as many pairs as were announced.
fn list(text: &[u8], pairs: u64) -> Result<Vec<(u64, u64)>, TarError> {
    let mut runs = Vec::new();
    if !text.is_empty() {
        let mut numbers = text.split(|&b| b == b',');
        while let Some(offset) = numbers.next() {
            let length = numbers.next().ok_or(BAD)?;
            push(&mut runs, (decimal(offset)?, decimal(length)?))?;
        }
    }
    match runs.len() as u64 == pairs {
        true => Ok(runs),
        false => Err(BAD),
    }
}

/// The map of form 1.0: a count, then offset and length of each run, one decimal number a line, filled up to a block.
/// `next` gives the next block of the data. Returns the blocks read, too.
pub(super) fn map_in_data(
    mut next: impl FnMut() -> Result<[u8; super::BLOCK], TarError>,
) -> Result<(Vec<(u64, u64)>, u64), TarError> {
    let mut line: Vec<u8> = Vec::new();
    let (mut runs, mut wanted, mut offset) = (Vec::new(), None::<u64>, None);
    let mut blocks = 0;
    loop {
        let block = next()?;
        blocks += 1;
        for byte in block {
            if byte != b'\n' {
                // No number has more digits.
                if line.len() >= 20 {
                    return Err(BAD);
                }
                line.push(byte);
                continue;
            }
            let value = decimal(&line)?;
            line.clear();
            match (wanted, offset.take()) {
                (None, _) => wanted = Some(value),
                (Some(_), None) => offset = Some(value),
                (Some(_), Some(start)) => push(&mut runs, (start, value))?,
            }
            if wanted == Some(runs.len() as u64) {
                return Ok((runs, blocks));
            }
        }
    }
}
