//! Digests of a directory's files by their stat, from build to build: one file per directory,
//! replaced as a whole by a rename. A file that is not exactly what was written counts as absent.
//!
//! Its records are sorted by inode number and looked up where they lie: most builds find all of
//! them and add none, and a directory may have hundreds of thousands.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway_images::fail_point::fail_point;
use sha2::{Digest as _, Sha256};

use crate::fs::hash::{ContentDigest, HashCache, StatKey};
use crate::fs::meta::split_time;
use crate::fs::walk::settled_at;

const MAGIC: &[u8; 8] = b"gwhash02";
const DIGEST: usize = 32;
/// Three numbers, two times, three short numbers and a digest.
const RECORD: usize = 3 * 8 + 2 * 12 + 3 * 4 + DIGEST;
/// Above this many unused entries the unused ones go.
const SPARE: usize = 20_000;

type Record = [u8; RECORD];

/// The digests of one directory's files.
pub struct FileHashes {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the file holds, by inode number, and which of it was asked for.
    kept: Vec<Record>,
    used: Vec<bool>,
    /// Where the record was that was found last: the next one is often beside it.
    last: usize,
    /// What was added, and where the newest record of an inode number is in it.
    fresh: Vec<Record>,
    newest: HashMap<u64, usize, BuildHasherDefault<InodeHasher>>,
    changed: bool,
}

/// The kernel hands out the inode numbers, not who fills the directory: a hash that is easy to
/// foresee does no harm.
#[derive(Default)]
struct InodeHasher(u64);

impl Hasher for InodeHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Spreads neighbours over all bits (the golden ratio in 64 bits).
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl FileHashes {
    /// What was kept of the directory; empty when nothing was or it cannot be read.
    pub fn open(path: PathBuf) -> Self {
        let kept = std::fs::read(&path)
            .ok()
            .and_then(|bytes| decode(&bytes))
            .unwrap_or_default();
        FileHashes {
            path,
            state: Mutex::new(State {
                used: vec![false; kept.len()],
                kept,
                ..State::default()
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is new. Losing it costs time only, so a failure is no error.
    pub fn save(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.changed) {
            let _ = replace(&self.path, &state.merged());
        }
    }
}

impl std::fmt::Debug for FileHashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileHashes({})", self.path.display())
    }
}

impl State {
    /// Where the kept record of a file is.
    fn find(&self, ino: u64, stat: &[u8]) -> Option<usize> {
        let next = self.last + 1;
        if self.kept.get(next).is_some_and(|r| r.starts_with(stat)) {
            return Some(next);
        }
        let from = self.kept.partition_point(|record| inode(record) < ino);
        let same = self.kept.iter().skip(from);
        let mut same = same.take_while(|record| inode(record) == ino);
        Some(from + same.position(|record| record.starts_with(stat))?)
    }

    fn get(&mut self, key: &StatKey) -> Option<ContentDigest> {
        let stat = record(key, &ContentDigest([0; DIGEST]));
        let stat = &stat[..RECORD - DIGEST];
        if let Some(index) = self.find(key.ino, stat) {
            self.last = index;
            if let Some(used) = self.used.get_mut(index) {
                *used = true;
            }
            return digest(self.kept.get(index)?);
        }
        let newest = self.fresh.get(*self.newest.get(&key.ino)?)?;
        newest.starts_with(stat).then(|| digest(newest)).flatten()
    }

    /// All records that are worth keeping, by inode number.
    fn merged(&self) -> Vec<&Record> {
        let unused = self.used.iter().filter(|used| !**used).count();
        // Of a file that has changed the digest from before is of no use.
        let fresh: HashSet<&[u8]> = self.fresh.iter().map(file).collect();
        let kept = self.kept.iter().zip(&self.used);
        let kept = kept
            .filter(|(record, used)| **used || unused <= SPARE && !fresh.contains(file(record)));
        let mut all: Vec<&Record> = kept.map(|(record, _)| record).collect();
        let newest = |index: &usize| self.fresh.get(*index);
        all.extend(self.newest.values().filter_map(newest));
        all.sort_unstable_by(|a, b| by_inode(a, b));
        all
    }
}

fn replace(path: &Path, records: &[&Record]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    encode(records, BufWriter::new(file.as_file_mut()))?;
    fail_point("hashes-unnamed");
    file.persist(path)?;
    Ok(())
}

impl HashCache for FileHashes {
    fn get(&self, key: &StatKey) -> Option<ContentDigest> {
        self.state().get(key)
    }

    fn put(&self, key: StatKey, digest: ContentDigest, began: i128) {
        if settled_at(key.ctime, key.mtime) > began {
            return;
        }
        let mut state = self.state();
        let index = state.fresh.len();
        state.fresh.push(record(&key, &digest));
        state.newest.insert(key.ino, index);
        state.changed = true;
    }
}

/// A record begins with what names the file, the inode number first.
fn record(key: &StatKey, digest: &ContentDigest) -> Record {
    let mut out = [0; RECORD];
    let mut rest = out.as_mut_slice();
    // Of exactly as many bytes as there is room for.
    let mut put = |bytes: &[u8]| {
        let _ = rest.write_all(bytes);
    };
    for number in [key.ino, key.dev, key.size] {
        put(&number.to_le_bytes());
    }
    for time in [key.mtime, key.ctime] {
        let (seconds, nanos) = split_time(time);
        put(&seconds.to_le_bytes());
        put(&nanos.to_le_bytes());
    }
    for number in [key.mode, key.uid, key.gid] {
        put(&number.to_le_bytes());
    }
    put(&digest.0);
    out
}

fn inode(record: &Record) -> u64 {
    record
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What of a record names a file.
fn file(record: &Record) -> &[u8] {
    &record[..16]
}

fn digest(record: &Record) -> Option<ContentDigest> {
    record.last_chunk().map(|bytes| ContentDigest(*bytes))
}

fn by_inode(a: &Record, b: &Record) -> Ordering {
    inode(a).cmp(&inode(b)).then_with(|| a.cmp(b))
}

fn encode(records: &[&Record], mut out: impl Write) -> std::io::Result<()> {
    let mut check = Sha256::new();
    let mut put = |bytes: &[u8]| {
        check.update(bytes);
        out.write_all(bytes)
    };
    put(MAGIC)?;
    for record in records {
        put(record.as_slice())?;
    }
    out.write_all(&check.finalize())?;
    out.flush()
}

fn decode(bytes: &[u8]) -> Option<Vec<Record>> {
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
    if Sha256::digest(body).as_slice() != check {
        return None;
    }
    let (records, rest) = body.strip_prefix(MAGIC)?.as_chunks::<RECORD>();
    let sorted = records.is_sorted_by(|a, b| by_inode(a, b) != Ordering::Greater);
    (sorted && rest.is_empty()).then(|| records.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ino: u64, ctime: i128) -> StatKey {
        StatKey {
            dev: 1,
            ino,
            size: 3,
            mtime: -5,
            ctime,
            mode: 0o100_644,
            uid: 6,
            gid: 7,
        }
    }

    #[test]
    fn what_is_saved_is_found_again_and_a_torn_file_counts_as_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h");
        let hashes = FileHashes::open(path.clone());
        let digest = ContentDigest::of(b"x");
        hashes.put(key(2, 4), digest, i128::from(i64::MAX));
        assert!(hashes.get(&key(2, 4)) == Some(digest));
        hashes.save();
        let again = FileHashes::open(path.clone());
        assert!(again.get(&key(2, 4)) == Some(digest));
        assert!(again.get(&key(3, 4)).is_none());
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(FileHashes::open(path).get(&key(2, 4)).is_none());
    }

    #[test]
    fn a_file_that_was_just_changed_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let hashes = FileHashes::open(dir.path().join("h"));
        let second = 1_000_000_000;
        let changed = 1_700_000_000 * second + 5;
        for (ino, changed, began, kept) in [
            (1, changed, changed - 1, false),
            (2, changed, changed + 1_000_000, false),
            (3, changed, changed + second, true),
            // A time in whole seconds is not to be trusted as far.
            (4, 1_700_000_000 * second, 1_700_000_001 * second, false),
            (5, 1_700_000_000 * second, 1_700_000_009 * second, true),
        ] {
            let key = key(ino, changed);
            hashes.put(key, ContentDigest::of(b"x"), began);
            assert_eq!(hashes.get(&key).is_some(), kept, "{ino}");
        }
    }

    #[test]
    fn what_is_added_joins_what_was_kept_and_a_changed_file_has_one_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h");
        let always = i128::from(i64::MAX);
        let of = |ino: u64, time: i128| ContentDigest::of(format!("{ino} {time}").as_bytes());
        // Out of order, several builds, every third file changed by each.
        for build in 0..4_i128 {
            let hashes = FileHashes::open(path.clone());
            for ino in (0..100_u64).rev() {
                let time = if ino % 3 == 0 { 10 + build } else { 10 };
                let known = hashes.get(&key(ino, time));
                assert_eq!(known.is_some(), build > 0 && ino % 3 != 0, "{build} {ino}");
                assert!(known.is_none_or(|digest| digest == of(ino, time)));
                if known.is_none() {
                    hashes.put(key(ino, time), of(ino, time), always);
                }
            }
            hashes.save();
            let kept = FileHashes::open(path.clone());
            assert_eq!(kept.state().kept.len(), 100);
        }
    }

    #[test]
    fn two_file_systems_may_have_the_same_inode_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h");
        let other = StatKey {
            dev: 2,
            ..key(2, 4)
        };
        for key in [key(2, 4), other] {
            let hashes = FileHashes::open(path.clone());
            hashes.put(
                key,
                ContentDigest::of(&key.dev.to_le_bytes()),
                i128::from(i64::MAX),
            );
            hashes.save();
        }
        let hashes = FileHashes::open(path);
        for key in [key(2, 4), other] {
            assert!(hashes.get(&key) == Some(ContentDigest::of(&key.dev.to_le_bytes())));
        }
    }

    #[test]
    fn records_that_nobody_asks_for_go_when_there_are_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h");
        let put = |inodes: std::ops::Range<u64>| {
            let hashes = FileHashes::open(path.clone());
            for ino in inodes {
                hashes.put(key(ino, 4), ContentDigest::of(b"x"), i128::from(i64::MAX));
            }
            hashes.save();
            FileHashes::open(path.clone()).state().kept.len()
        };
        let spare = SPARE as u64;
        assert_eq!(put(0..spare), SPARE);
        assert_eq!(put(spare..spare + 1), SPARE + 1);
        assert_eq!(put(spare + 1..spare + 2), 1);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = decode(&bytes);
        }
    }
}
