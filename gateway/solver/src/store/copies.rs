//! What a copy of a large directory was made of, so that the next copy of it, after an edit, is the
//! first one with that edit: one file per copy, replaced as a whole by a rename. A file that is
//! not exactly what was written counts as absent.

use std::path::{Path, PathBuf};

use gateway_images::fail_point::fail_point;
use sha2::{Digest as _, Sha256};

use crate::fs::Owner;
use crate::fs::meta::{Meta, join_time, split_time};

const MAGIC: &[u8; 8] = b"gwcopy02";
const DIGEST: usize = 32;
/// Records kept at most, a megabyte each for ten thousand files: the oldest ones go.
const MOST_RECORDS: usize = 64;

/// A finished copy of a directory of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRecord {
    /// The layer that it is. It holds the whole copy.
    pub layer: String,
    /// The directory that was copied and where it is in the layer, both resolved.
    pub source: Vec<u8>,
    pub dest: Vec<u8>,
    /// Owner that everything was given.
    pub owner: Option<Owner>,
    pub entries: CopiedEntries,
}

/// What was copied, in the order of the walk. It is held as it is written: there may be hundreds
/// of thousands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopiedEntries {
    bytes: Vec<u8>,
}

impl CopiedEntries {
    pub fn push(&mut self, entry: &CopiedEntry<'_>) {
        put(&mut self.bytes, entry.path);
        self.bytes.push(u8::from(entry.settled));
        let meta = &entry.meta;
        self.bytes.extend_from_slice(&meta.mode.to_le_bytes());
        for number in [meta.size, meta.dev, meta.ino, meta.rdev] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        for time in [meta.mtime, meta.ctime] {
            let (seconds, nanos) = split_time(time);
            self.bytes.extend_from_slice(&seconds.to_le_bytes());
            self.bytes.extend_from_slice(&nanos.to_le_bytes());
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = CopiedEntry<'_>> {
        let mut reader = Reader(&self.bytes);
        std::iter::from_fn(move || reader.entry())
    }

    /// Of what was written so.
    fn of(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        while !reader.0.is_empty() {
            reader.entry()?;
        }
        let bytes = bytes.to_vec();
        Some(CopiedEntries { bytes })
    }
}

/// One file or directory of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedEntry<'a> {
    /// Path in the context.
    pub path: &'a [u8],
    /// Its stat when it was copied, without owner, access time and link count.
    pub meta: Meta,
    /// It cannot have changed since without another stat.
    pub settled: bool,
}

/// All records of a store.
#[derive(Debug, Clone)]
pub struct Copies {
    dir: PathBuf,
}

impl Copies {
    pub fn in_dir(dir: PathBuf) -> Self {
        Copies { dir }
    }

    /// The record of the copy that `key` names.
    pub fn find(&self, key: &str) -> Option<CopyRecord> {
        decode(&std::fs::read(self.path(key)).ok()?)
    }

    /// Keeps a record. Losing it costs time only, so a failure is no error.
    pub fn keep(&self, key: &str, record: &CopyRecord) {
        let path = self.path(key);
        if !path.exists() {
            self.make_room();
        }
        let written = tempfile::NamedTempFile::new_in(&self.dir).and_then(|mut file| {
            std::io::Write::write_all(&mut file, &encode(record))?;
            fail_point("copy-unnoted");
            file.persist(&path).map_err(|error| error.error)
        });
        drop(written);
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(key.replace(':', "-"))
    }

    fn make_room(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return;
        };
        let mut files: Vec<_> = entries
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        if files.len() < MOST_RECORDS {
            return;
        }
        files.sort_unstable();
        for (_, path) in files.iter().take(files.len() + 1 - MOST_RECORDS) {
            let _ = std::fs::remove_file::<&Path>(path);
        }
    }
}

fn encode(record: &CopyRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(record.entries.bytes.len() + 4096);
    out.extend_from_slice(MAGIC);
    for text in [record.layer.as_bytes(), &record.source, &record.dest] {
        put(&mut out, text);
    }
    out.push(u8::from(record.owner.is_some()));
    let owner = record.owner.unwrap_or(Owner { uid: 0, gid: 0 });
    out.extend_from_slice(&owner.uid.to_le_bytes());
    out.extend_from_slice(&owner.gid.to_le_bytes());
    out.extend_from_slice(&record.entries.bytes);
    let check = Sha256::digest(&out);
    out.extend_from_slice(&check);
    out
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // Nothing that is put here is longer than a few paths.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn decode(bytes: &[u8]) -> Option<CopyRecord> {
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
    if Sha256::digest(body).as_slice() != check {
        return None;
    }
    let mut reader = Reader(body.strip_prefix(MAGIC)?);
    let layer = String::from_utf8(reader.bytes()?.to_vec()).ok()?;
    let (source, dest) = (reader.bytes()?.to_vec(), reader.bytes()?.to_vec());
    let has_owner = reader.flag()?;
    let owner = Owner {
        uid: u32::from_le_bytes(reader.take()?),
        gid: u32::from_le_bytes(reader.take()?),
    };
    let entries = CopiedEntries::of(reader.0)?;
    Some(CopyRecord {
        layer,
        source,
        dest,
        owner: has_owner.then_some(owner),
        entries,
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(u32::from_le_bytes(self.take()?)).ok()?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take::<1>()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn time(&mut self) -> Option<i128> {
        let seconds = i64::from_le_bytes(self.take()?);
        Some(join_time((seconds, u32::from_le_bytes(self.take()?))))
    }

    /// The next entry; `None` at the end, or if what comes is none.
    fn entry(&mut self) -> Option<CopiedEntry<'a>> {
        Some(CopiedEntry {
            path: self.bytes()?,
            settled: self.flag()?,
            meta: self.meta()?,
        })
    }

    /// What of a stat was kept: what tells whether a file is the same.
    fn meta(&mut self) -> Option<Meta> {
        Some(Meta {
            mode: u32::from_le_bytes(self.take()?),
            size: u64::from_le_bytes(self.take()?),
            dev: u64::from_le_bytes(self.take()?),
            ino: u64::from_le_bytes(self.take()?),
            rdev: u64::from_le_bytes(self.take()?),
            mtime: self.time()?,
            ctime: self.time()?,
            uid: 0,
            gid: 0,
            atime: 0,
            nlink: 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> CopyRecord {
        let meta = Meta {
            mode: 0o100_644,
            size: 3,
            dev: 1,
            ino: 2,
            rdev: 0,
            mtime: -4,
            ctime: 5,
            uid: 0,
            gid: 0,
            atime: 0,
            nlink: 1,
        };
        let mut entries = CopiedEntries::default();
        for (path, settled) in [("a", true), ("a/b", false)] {
            entries.push(&CopiedEntry {
                path: path.as_bytes(),
                meta,
                settled,
            });
        }
        CopyRecord {
            layer: "abc".into(),
            source: b"/".to_vec(),
            dest: b"/app".to_vec(),
            owner: Some(Owner { uid: 6, gid: 7 }),
            entries,
        }
    }

    #[test]
    fn what_is_kept_is_found_again_and_a_torn_file_counts_as_absent() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::in_dir(dir.path().to_owned());
        assert_eq!(copies.find("sha256:k"), None);
        copies.keep("sha256:k", &record());
        assert_eq!(copies.find("sha256:k"), Some(record()));
        let kept = record();
        let paths: Vec<_> = kept.entries.iter().map(|e| (e.path, e.settled)).collect();
        assert_eq!(paths, [(b"a".as_slice(), true), (b"a/b", false)]);
        assert_eq!(kept.entries.iter().count(), 2);
        let path = copies.path("sha256:k");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 1);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(copies.find("sha256:k"), None);
    }

    #[test]
    fn the_number_of_records_is_limited() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::in_dir(dir.path().to_owned());
        for i in 0..MOST_RECORDS + 3 {
            copies.keep(&i.to_string(), &record());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), MOST_RECORDS);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = decode(&bytes);
            let mut sealed = [MAGIC.as_slice(), &bytes].concat();
            let check = Sha256::digest(&sealed);
            sealed.extend_from_slice(&check);
            let _ = decode(&sealed);
        }
    }
}
