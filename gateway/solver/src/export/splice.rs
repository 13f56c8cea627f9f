//! The tar of a layer that is another one with changes, from the tar that was made of that one:
//! nothing but the changes is read from the disk, and the bytes are those of a tar of the whole.
//!
//! Both tars are ours, so they have one order: a directory, then what is in it, names in byte
//! order. Whatever is not as expected is an error, and the tar is made from the files instead.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use gateway_images::layer::{Decoder, DiffOptions, END, diff};

use crate::fs::Root;

/// Bytes of changes that are held in memory at most; with more the files are read anew.
const MOST_CHANGES: u64 = 64 << 20;
const BLOCK: usize = 512;
/// Bytes of files after which it is known well enough how large they are. With their headers they are less than a
/// compressed block of the new layer, so nothing was compressed in vain.
const SAMPLE: u64 = 512 << 10;
/// Largest extended header: ours hold a path and attributes.
const MOST_HEADER: u64 = 1 << 20;

/// The changes of a layer: their own tar, and what is gone.
pub struct Changes {
    tar: Vec<u8>,
    entries: Vec<Entry>,
    gone: BTreeSet<Vec<u8>>,
}

/// One file of a tar: where it is in it, with all of its headers.
struct Entry {
    path: Vec<u8>,
    bytes: Range<usize>,
    is_dir: bool,
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Changes {
    /// The changes in a directory over a base whose view is `base` (`None` for scratch). `None`
    /// when a tar of them does not tell what the tar of the whole would hold.
    pub fn read(
        dir: &Path,
        base: Option<&Root>,
        options: &DiffOptions,
    ) -> io::Result<Option<Changes>> {
        let mut gone = BTreeSet::new();
        if content(dir, &mut gone)? > MOST_CHANGES {
            return Ok(None);
        }
        let mut tar = Vec::new();
        diff(dir, &[], options, &mut tar).map_err(io::Error::other)?;
        let mut entries = Vec::new();
        let mut reader = tar.as_slice();
        while let Some(header) = Header::read(&mut reader)? {
            let end = tar.len() - reader.len();
            let start = end - header.raw.len();
            let length = usize::try_from(header.data).map_err(io::Error::other)?;
            reader = reader
                .get(length..)
                .ok_or_else(|| unexpected("a cut tar"))?;
            entries.push(Entry {
                is_dir: header.kind == b'5',
                path: header.path,
                bytes: start..end + length,
            });
        }
        let changes = Changes { tar, entries, gone };
        Ok(changes.stand_alone(base)?.then_some(changes))
    }

    /// Whether everything in the changes is in a tar of the whole, too: files that the base has
    /// may be unchanged against it, and then are not; nor are directories of the base in which
    /// nothing changed.
    fn stand_alone(&self, base: Option<&Root>) -> io::Result<bool> {
        let Some(base) = base else {
            return Ok(true);
        };
        for (index, entry) in self.entries.iter().enumerate() {
            let path = [b"/", entry.path.as_slice()].concat();
            let in_base = match base.lstat_if_exists(&path) {
                Ok(found) => found.is_some(),
                Err(_) => return Ok(false),
            };
            let holds_a_file = || {
                let rest = self.entries.iter().skip(index + 1);
                rest.take_while(|below| is_below(&below.path, &entry.path))
                    .any(|below| !below.is_dir)
            };
            if in_base && !(entry.is_dir && holds_a_file()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the tar of the whole: that of the layer below with the changes in it. An error when its first
    /// files have more than `large` bytes each on average: then reading the files costs less than unpacking.
    pub fn splice(&self, below: impl Read, large: u64, out: &mut impl Write) -> io::Result<()> {
        let mut below = Decoder::new(below)?;
        let mut entries = self.entries.iter().peekable();
        let mut buffer = vec![0; 256 << 10];
        let mut before: Option<Vec<u8>> = None;
        let (mut files, mut bytes) = (0, 0);
        while let Some(header) = Header::read(&mut below)? {
            let path = header.path.as_slice();
            let ordered = before.is_none_or(|before| order(&before, path) == Ordering::Less);
            if !ordered || !matches!(header.kind, b'0' | b'2' | b'5') || is_whiteout(path) {
                return Err(unexpected("an entry that no copy makes"));
            }
            if header.kind == b'0' && bytes < SAMPLE {
                files += 1;
                bytes += header.data;
                if bytes >= SAMPLE && bytes / files > large {
                    return Err(unexpected("large files"));
                }
            }
            let mut replaced = false;
            while let Some(entry) = entries.next_if(|e| order(&e.path, path) != Ordering::Greater) {
                replaced = entry.path == path;
                self.write(entry, out)?;
            }
            match replaced || self.is_gone(path) {
                true => drop(pass(&mut below, header.data, &mut buffer, &mut io::sink())?),
                false => {
                    out.write_all(&header.raw)?;
                    pass(&mut below, header.data, &mut buffer, out)?;
                }
            }
            before = Some(header.path);
        }
        for entry in entries {
            self.write(entry, out)?;
        }
        // To the end, where the checksum is.
        io::copy(&mut below, &mut io::sink())?;
        out.write_all(&END)
    }

    fn write(&self, entry: &Entry, out: &mut impl Write) -> io::Result<()> {
        out.write_all(self.tar.get(entry.bytes.clone()).unwrap_or_default())
    }

    fn is_gone(&self, path: &[u8]) -> bool {
        let ends = (0..path.len()).filter(|i| path.get(*i) == Some(&b'/'));
        !self.gone.is_empty()
            && ends
                .chain([path.len()])
                .any(|end| self.gone.contains(path.get(..end).unwrap_or_default()))
    }
}

/// Bytes of the files in a directory; what it says is gone is collected.
fn content(dir: &Path, gone: &mut BTreeSet<Vec<u8>>) -> io::Result<u64> {
    let mut total = 0;
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        for entry in std::fs::read_dir(dir.join(&below))? {
            let entry = entry?;
            let (path, meta) = (below.join(entry.file_name()), entry.metadata()?);
            let kind = meta.file_type();
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_char_device() && meta.rdev() == 0 {
                gone.insert(OsString::from(path).into_vec());
            } else {
                total += meta.len();
            }
        }
    }
    Ok(total)
}

/// Moves the data of one file.
fn pass(
    from: &mut impl Read,
    mut length: u64,
    buffer: &mut [u8],
    to: &mut impl Write,
) -> io::Result<()> {
    while length > 0 {
        let part = usize::try_from(length).map_or(buffer.len(), |left| left.min(buffer.len()));
        let part = buffer.get_mut(..part).unwrap_or_default();
        from.read_exact(part)?;
        to.write_all(part)?;
        length -= part.len() as u64;
    }
    Ok(())
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty())
}

fn order(a: &[u8], b: &[u8]) -> Ordering {
    components(a).cmp(components(b))
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with(b"/"))
}

fn is_whiteout(path: &[u8]) -> bool {
    components(path)
        .last()
        .is_some_and(|name| name.starts_with(b".wh."))
}

/// The headers of one file in a tar of ours.
struct Header {
    /// With the extended ones before it.
    raw: Vec<u8>,
    /// Without slashes at its ends.
    path: Vec<u8>,
    kind: u8,
    /// Bytes of content with their padding.
    data: u64,
}

impl Header {
    /// The next ones; `None` at the archive's end.
    fn read(from: &mut impl Read) -> io::Result<Option<Header>> {
        let mut raw = Vec::new();
        let mut extended: Option<Vec<u8>> = None;
        loop {
            let mut block = [0; BLOCK];
            from.read_exact(&mut block)?;
            if block.iter().all(|b| *b == 0) && raw.is_empty() {
                return Ok(None);
            }
            raw.extend_from_slice(&block);
            let size = number(&block[124..136])?;
            let padded = size
                .checked_next_multiple_of(BLOCK as u64)
                .ok_or_else(|| unexpected("a size"))?;
            if block[156] == b'x' {
                if padded > MOST_HEADER || extended.is_some() {
                    return Err(unexpected("an extended header"));
                }
                let from_here = raw.len();
                io::copy(&mut from.by_ref().take(padded), &mut raw)?;
                let data = raw.get(from_here..).unwrap_or_default();
                let length = usize::try_from(size).map_err(io::Error::other)?;
                let data = data.get(..length).ok_or_else(|| unexpected("a cut tar"))?;
                extended = Some(data.to_vec());
                continue;
            }
            let (mut path, mut data) = (name(&block), padded);
            for (key, value) in records(extended.as_deref().unwrap_or_default())? {
                match key {
                    b"path" => path = value.to_vec(),
                    b"size" => {
                        let size: u64 = std::str::from_utf8(value)
                            .ok()
                            .and_then(|text| text.parse().ok())
                            .ok_or_else(|| unexpected("a size"))?;
                        data = size
                            .checked_next_multiple_of(BLOCK as u64)
                            .ok_or_else(|| unexpected("a size"))?;
                    }
                    _ => {}
                }
            }
            while path.last() == Some(&b'/') {
                path.pop();
            }
            return Ok(Some(Header {
                raw,
                path,
                kind: block[156],
                // Only files have content, whatever the size of others says.
                data: match block[156] {
                    b'0' => data,
                    _ => 0,
                },
            }));
        }
    }
}

fn name(block: &[u8; BLOCK]) -> Vec<u8> {
    let text = |range: Range<usize>| {
        let field = &block[range];
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        field.get(..end).unwrap_or_default()
    };
    match text(345..500) {
        b"" => text(0..100).to_vec(),
        prefix => [prefix, b"/", text(0..100)].concat(),
    }
}

/// Octal digits, ended by a space or zero.
fn number(field: &[u8]) -> io::Result<u64> {
    let digits = field.iter().take_while(|b| !matches!(b, 0 | b' '));
    digits
        .copied()
        .try_fold(0_u64, |number, digit| match digit {
            b'0'..=b'7' => Ok(number << 3 | u64::from(digit - b'0')),
            _ => Err(unexpected("a number")),
        })
}

/// The records of an extended header: `length key=value\n`.
fn records(mut data: &[u8]) -> io::Result<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    let broken = || unexpected("an extended header");
    while !data.is_empty() {
        let space = data.iter().position(|b| *b == b' ').ok_or_else(broken)?;
        let length: usize = std::str::from_utf8(data.get(..space).unwrap_or_default())
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(broken)?;
        let (record, rest) = data.split_at_checked(length).ok_or_else(broken)?;
        let text = record
            .get(space + 1..)
            .and_then(|text| text.strip_suffix(b"\n"));
        let text = text.ok_or_else(broken)?;
        let equals = text.iter().position(|b| *b == b'=').ok_or_else(broken)?;
        let (key, value) = text.split_at(equals);
        records.push((key, value.get(1..).unwrap_or_default()));
        data = rest;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_s_content_comes_before_longer_names() {
        assert_eq!(order(b"a/z", b"a-b"), Ordering::Less);
        assert_eq!(order(b"a", b"a/b"), Ordering::Less);
        assert_eq!(order(b"a/b", b"a/b"), Ordering::Equal);
    }

    #[test]
    fn changes_are_spliced_into_the_tar_that_a_tar_of_the_whole_is() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (old, new, changed) = (make("old"), make("new"), make("changed"));
        let write = |root: &Path, path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(5);
            let file = std::fs::File::open(&path).unwrap();
            file.set_modified(time).unwrap();
            for above in path.ancestors().skip(1).take_while(|above| *above != root) {
                std::fs::File::open(above)
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
            }
        };
        let long = format!("d/{}", "long-".repeat(40));
        for path in ["a", "d/f", "d/sub/g", "d-e", "gone/x", "z", &long] {
            write(&old, path, path);
            if !path.starts_with("gone") {
                write(&new, path, path);
            }
        }
        for root in [&new, &changed] {
            write(root, "d/f", "edited, and longer than before");
            write(root, "d/new", "new");
            write(root, &long, "edited");
        }
        let node = rustix::fs::Mode::empty();
        let kind = rustix::fs::FileType::CharacterDevice;
        let cwd = rustix::fs::CWD;
        rustix::fs::mknodat(cwd, changed.join("gone"), kind, node, 0).unwrap();
        let tar = |root: &Path| {
            let mut out = Vec::new();
            diff(root, &[], &DiffOptions::default(), &mut out).unwrap();
            out
        };
        let changes = Changes::read(&changed, None, &DiffOptions::default());
        let changes = changes.unwrap().unwrap();
        let mut spliced = Vec::new();
        changes
            .splice(&tar(&old)[..], u64::MAX, &mut spliced)
            .unwrap();
        assert!(spliced == tar(&new));
        // A cut tar is noticed.
        let cut = tar(&old);
        let cut = cut.get(..cut.len() - 2000).unwrap();
        assert!(changes.splice(cut, u64::MAX, &mut Vec::new()).is_err());
        // Of large files not even the first is unpacked; small ones stay small.
        write(&old, "0", &"x".repeat(1 << 20));
        let mut begun = Vec::new();
        assert!(changes.splice(&tar(&old)[..], 1 << 19, &mut begun).is_err());
        assert!(begun.is_empty(), "{} bytes", begun.len());
        assert!(changes.splice(&tar(&old)[..], 1 << 20, &mut begun).is_ok());
    }
}
