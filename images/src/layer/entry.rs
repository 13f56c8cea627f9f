//! Reads tar streams from anywhere: every header form that images are found with, every number and length checked.
//!
//! Ours rather than the tar crate's `Archive`, because that one reads a PAX header of any claimed length into memory
//! and has no limits; the semantics are those of Go's archive/tar, so that we see the files that BuildKit sees.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::BLOCK;
use super::header::{Kind, PAX_XATTR};
use super::sparse::{OldMap, PaxMap, PaxSparse, SparseMap, map_in_data};

/// Longest PAX or GNU extension header, as in Go's reader. Large xattrs are 64 KiB.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// The PAX keys about a sparse file.
const PAX_SPARSE: &str = "GNU.sparse.";

#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("invalid tar header: {0}")]
    Header(&'static str),
    #[error("unexpected end of the tar stream")]
    Truncated,
    #[error("tar extension header of {0} bytes is over the limit of {MAX_EXTENSION_BYTES}")]
    ExtensionTooLarge(u64),
    #[error("sparse file of more than the limit of {0} pieces")]
    SparseRuns(usize),
    #[error("unhandled tar header type {0}")]
    UnknownType(u8),
    #[error("read layer: {0}")]
    Read(#[from] io::Error),
}

/// One entry as read. Names are bytes as found: nothing is cleaned or checked for escapes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes of content; only files have any.
    pub size: u64,
    /// Not all of the content is in the archive: a small archive may hold a huge file.
    pub sparse: bool,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The content of an entry: bytes, and holes that need not be written.
pub trait Content: Read {
    /// Passes over the hole that is here and gives its length; 0 where data is next. Who does not ask reads zeros.
    fn hole(&mut self) -> u64 {
        0
    }
}

impl Content for io::Empty {}
impl Content for std::fs::File {}

/// A tar stream. `next_entry` and then, for a file, `read` until it gives 0 (or not at all: what is left is skipped).
pub struct TarReader<R> {
    source: R,
    /// Stored content of the current entry not yet read.
    left: u64,
    /// Zeros after it up to the next block.
    pad: u64,
    /// Where that content belongs, when it is not all of it.
    sparse: Option<SparseMap>,
    ended: bool,
}

impl<R: Read> TarReader<R> {
    pub fn new(source: R) -> Self {
        TarReader {
            source,
            left: 0,
            pad: 0,
            sparse: None,
            ended: false,
        }
    }

    /// The stream below, while entries are read.
    pub(crate) fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// The stream below, for what follows the archive's end.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next entry, or `None` at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut long_name = None;
        let mut long_link = None;
        loop {
            self.skip()?;
            let Some(block) = self.header_block()? else {
                return Ok(None);
            };
            check_sum(&block)?;
            let size = number(&block[124..136])?;
            let size = u64::try_from(size).map_err(|_| TarError::Header("negative size"))?;
            match block[156] {
                b'x' => pax = parse_pax(&self.extension(size)?)?,
                b'g' => drop(self.extension(size)?), // global records: ignored, as containerd does
                b'L' => long_name = Some(until_nul(&self.extension(size)?).to_vec()),
                b'K' => long_link = Some(until_nul(&self.extension(size)?).to_vec()),
                _ => {
                    let (mut entry, sparse) = build_entry(&block, size, pax, long_name, long_link)?;
                    let old = match block[156] {
                        b'S' => Some(self.old_map(&block)?),
                        _ => None,
                    };
                    self.start(entry.size)?;
                    if let Some(old) = old {
                        self.sparse = Some(SparseMap::new(old.runs, old.size, entry.size)?);
                    } else if entry.kind == Kind::File {
                        self.pax_map(sparse, entry.size)?;
                    }
                    if let Some(map) = &self.sparse {
                        entry.size = map.size();
                        entry.sparse = true;
                    }
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The map of an old GNU entry; its further blocks lie between the header and the content.
    fn old_map(&mut self, header: &[u8; BLOCK]) -> Result<OldMap, TarError> {
        let mut map = OldMap::of_header(header)?;
        while map.more {
            let block = self.block()?.ok_or(TarError::Truncated)?;
            map.take_more(&block)?;
        }
        Ok(map)
    }

    fn pax_map(&mut self, sparse: PaxSparse, stored: u64) -> Result<(), TarError> {
        let (runs, stored) = match sparse.map {
            PaxMap::None => return Ok(()),
            PaxMap::Here(runs) => (runs, stored),
            PaxMap::InData => {
                let (runs, blocks) = map_in_data(|| {
                    let mut block = [0; BLOCK];
                    match self.read_exact(&mut block) {
                        Ok(()) => Ok(block),
                        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                            Err(TarError::Truncated)
                        }
                        Err(e) => Err(e.into()),
                    }
                })?;
                (runs, stored.saturating_sub(blocks * BLOCK as u64))
            }
        };
        let size = sparse.size.unwrap_or(stored);
        self.sparse = Some(SparseMap::new(runs, size, stored)?);
        Ok(())
    }

    fn start(&mut self, size: u64) -> Result<(), TarError> {
        self.sparse = None;
        self.left = size;
        self.pad = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        size.checked_add(self.pad)
            .map(drop)
            .ok_or(TarError::Header("size out of range"))
    }

    fn skip(&mut self) -> Result<(), TarError> {
        let mut rest = self.left + self.pad;
        let mut buffer = [0; 16 << 10];
        while rest > 0 {
            let want = rest.min(buffer.len() as u64) as usize;
            match self.source.read(&mut buffer[..want]) {
                Ok(0) => return Err(TarError::Truncated),
                Ok(n) => rest -= n as u64,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        (self.left, self.pad, self.sparse) = (0, 0, None);
        Ok(())
    }

    /// One header block; `None` at two zero blocks or where the stream ends between entries.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block.iter().any(|&b| b != 0) {
            return Ok(Some(block));
        }
        self.ended = true;
        match self.block()? {
            Some(second) if second.iter().any(|&b| b != 0) => {
                Err(TarError::Header("one zero block inside the archive"))
            }
            _ => Ok(None),
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(TarError::ExtensionTooLarge(size));
        }
        self.start(size)?;
        let mut data = vec![0; size as usize];
        let mut filled = 0;
        while filled < data.len() {
            match self.read(&mut data[filled..])? {
                0 => return Err(TarError::Truncated),
                n => filled += n,
            }
        }
        Ok(data)
    }
}

/// Reads the content of the current entry, holes as zeros.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut most = buffer.len();
        if let Some(map) = &mut self.sparse {
            let within = |n: u64| most.min(usize::try_from(n).unwrap_or(usize::MAX));
            let zeros = within(map.hole());
            if zeros > 0 {
                buffer[..zeros].fill(0);
                map.advance(zeros as u64);
                return Ok(zeros);
            }
            most = within(map.data());
        }
        let want = self.left.min(most as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        let n = self.source.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        if let Some(map) = &mut self.sparse {
            map.advance(n as u64);
        }
        Ok(n)
    }
}

impl<R: Read> Content for TarReader<R> {
    fn hole(&mut self) -> u64 {
        let Some(map) = &mut self.sparse else {
            return 0;
        };
        let length = map.hole();
        map.advance(length);
        length
    }
}

/// The entry, and what its records say about holes.
fn build_entry(
    block: &[u8; BLOCK],
    size: u64,
    mut pax: BTreeMap<Vec<u8>, Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
) -> Result<(Entry, PaxSparse), TarError> {
    let mut take = |key: &str| pax.remove(key.as_bytes()).filter(|v| !v.is_empty());
    let mut sparse = PaxSparse::of(|key| take(&[PAX_SPARSE, key].concat()))?;
    let path = take("path");
    // The name in the header is a made-up one then.
    let name = sparse
        .name
        .take()
        .or(path)
        .or(long_name)
        .unwrap_or_else(|| header_name(block));
    let link = take("linkpath")
        .or(long_link)
        .unwrap_or_else(|| until_nul(&block[157..257]).to_vec());
    if name.contains(&0) || link.contains(&0) {
        return Err(TarError::Header("NUL in a name"));
    }
    let kind = match block[156] {
        0 if name.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(TarError::UnknownType(other)),
    };
    let size = match take("size") {
        Some(value) => decimal(&value)?,
        None => size,
    };
    let id = |key: Option<Vec<u8>>, field: &[u8]| -> Result<u32, TarError> {
        let value = match key {
            Some(value) => decimal(&value)?,
            None => u64::try_from(number(field)?).unwrap_or(u64::MAX),
        };
        // The highest value means "leave as it is" to chown.
        u32::try_from(value)
            .ok()
            .filter(|&id| id != u32::MAX)
            .ok_or(TarError::Header("user or group id out of range"))
    };
    let uid = id(take("uid"), &block[108..116])?;
    let gid = id(take("gid"), &block[116..124])?;
    let mtime = match take("mtime") {
        Some(value) => pax_time(&value)?,
        None => (number(&block[136..148])?, 0),
    };
    let device = |field: &[u8]| -> Result<u32, TarError> {
        u32::try_from(number(field)?).map_err(|_| TarError::Header("device number out of range"))
    };
    let devices = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    let entry = Entry {
        kind,
        name,
        link,
        mode: (number(&block[100..108])? & 0o7777) as u32,
        uid,
        gid,
        // Old archives give directories and links a size that no content follows (as in Go).
        size: if kind == Kind::File { size } else { 0 },
        sparse: false,
        mtime,
        device: if devices {
            (device(&block[329..337])?, device(&block[337..345])?)
        } else {
            (0, 0)
        },
        xattrs: pax
            .into_iter()
            .filter_map(|(key, value)| {
                let name = key.strip_prefix(PAX_XATTR.as_bytes())?;
                (!name.is_empty()).then(|| (name.to_vec(), value))
            })
            .collect(),
    };
    Ok((entry, sparse))
}

fn header_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[0..100]);
    // The prefix belongs to ustar only; GNU keeps times there.
    let prefix = until_nul(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/", name].concat()
    } else {
        name.to_vec()
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), TarError> {
    let given = number(&block[148..156])?;
    let sum = |byte: fn(u8) -> i64| -> i64 {
        let outside = block[..148].iter().chain(&block[156..]);
        outside.map(|&b| byte(b)).sum::<i64>() + 8 * i64::from(b' ')
    };
    // Some old writers summed signed bytes.
    if given == sum(i64::from) || given == sum(|b| i64::from(b as i8)) {
        Ok(())
    } else {
        Err(TarError::Header("checksum mismatch"))
    }
}

/// A numeric field: octal text, or base 256 when the highest bit is set.
pub(super) fn number(field: &[u8]) -> Result<i64, TarError> {
    const BAD: TarError = TarError::Header("malformed number");
    let Some(&first) = field.first() else {
        return Err(BAD);
    };
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (i, &byte) in field.iter().enumerate() {
            let byte = match (i, negative) {
                (0, false) => byte & 0x7f,
                _ => byte,
            };
            value = value << 8 | i128::from(byte);
            if i64::try_from(value).is_err() {
                return Err(TarError::Header("number out of range"));
            }
        }
        return i64::try_from(value).map_err(|_| BAD);
    }
    let text = field
        .iter()
        .position(|&b| b != b' ' && b != 0)
        .map_or(&[][..], |start| &field[start..]);
    let end = text
        .iter()
        .position(|&b| b == b' ' || b == 0)
        .unwrap_or(text.len());
    let mut value: i64 = 0;
    for &byte in &text[..end] {
        if !(b'0'..=b'7').contains(&byte) {
            return Err(BAD);
        }
        value = value * 8 + i64::from(byte - b'0'); // at most twelve digits: 36 bits
    }
    Ok(value)
}

pub(super) fn decimal(text: &[u8]) -> Result<u64, TarError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .ok_or(TarError::Header("malformed PAX number"))
}

/// `seconds[.fraction]`, digits past nanoseconds cut.
fn pax_time(text: &[u8]) -> Result<(i64, u32), TarError> {
    const BAD: TarError = TarError::Header("malformed PAX time");
    let text = std::str::from_utf8(text).map_err(|_| BAD)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| BAD)?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BAD);
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: u32 = digits.parse().map_err(|_| BAD)?;
    if whole.starts_with('-') && nanos > 0 {
        let seconds = seconds.checked_sub(1).ok_or(BAD)?;
        return Ok((seconds, 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

/// The records of a PAX header: `"<length> key=value\n"` each; a later one wins. Only the pairs of a sparse map are
/// collected in their order, into the one record that later writers used for all of them.
fn parse_pax(mut data: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, TarError> {
    const BAD: TarError = TarError::Header("malformed PAX record");
    let mut records = BTreeMap::new();
    let (mut map, mut pairs) = (Vec::new(), 0);
    while !data.is_empty() {
        let space = data.iter().position(|&b| b == b' ').ok_or(BAD)?;
        let length = decimal(&data[..space])?;
        let length = usize::try_from(length).map_err(|_| BAD)?;
        if length > data.len() || length < space + 3 {
            return Err(BAD);
        }
        let (record, rest) = data.split_at(length);
        let body = record[space + 1..].strip_suffix(b"\n").ok_or(BAD)?;
        let equals = body.iter().position(|&b| b == b'=').ok_or(BAD)?;
        if equals == 0 {
            return Err(BAD);
        }
        let (key, value) = (&body[..equals], &body[equals + 1..]);
        data = rest;
        let expected = match pairs % 2 {
            0 => b"GNU.sparse.offset".as_slice(),
            _ => b"GNU.sparse.numbytes",
        };
        if key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes" {
            if key != expected || value.contains(&b',') {
                return Err(BAD);
            }
            if pairs > 0 {
                map.push(b',');
            }
            map.extend_from_slice(value);
            pairs += 1;
            continue;
        }
        records.insert(key.to_vec(), value.to_vec());
    }
    if pairs > 0 {
        records.insert(b"GNU.sparse.map".to_vec(), map);
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
