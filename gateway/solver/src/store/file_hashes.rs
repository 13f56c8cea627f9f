//! Digests of a directory's files by their stat, from build to build: one file per directory,
//! replaced as a whole by a rename. A file that is not exactly what was written counts as absent.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway_images::fail_point::fail_point;
use sha2::{Digest as _, Sha256};

use crate::fs::hash::{ContentDigest, HashCache, StatKey};
use crate::fs::walk::settled_at;

const MAGIC: &[u8; 8] = b"gwhash01";
const DIGEST: usize = 32;
/// Three numbers, two times, three short numbers and a digest.
const RECORD: usize = 3 * 8 + 2 * 16 + 3 * 4 + DIGEST;
/// Above this many unused entries the unused ones go.
const SPARE: usize = 20_000;

/// The digests of one directory's files.
pub struct FileHashes {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Known,
    used: usize,
    changed: bool,
}

/// A context of many files is looked up whole in every build. The kernel hands out the inode
/// numbers, not who fills the directory: a hash that is easy to foresee does no harm.
type Known = HashMap<StatKey, Entry, BuildHasherDefault<InodeHasher>>;

struct Entry {
    digest: ContentDigest,
    used: bool,
}

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
        let known = std::fs::read(&path)
            .ok()
            .and_then(|bytes| decode(&bytes))
            .unwrap_or_default();
        FileHashes {
            path,
            state: Mutex::new(State {
                known,
                ..State::default()
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is new. Losing it costs time only, so a failure is no error.
    pub fn save(&self) {
        let bytes = {
            let mut state = self.state();
            if !std::mem::take(&mut state.changed) {
                return;
            }
            if state.known.len() > state.used + SPARE {
                state.known.retain(|_, entry| entry.used);
            }
            encode(&state.known)
        };
        let _ = replace(&self.path, &bytes);
    }
}

impl std::fmt::Debug for FileHashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileHashes({})", self.path.display())
    }
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    std::io::Write::write_all(&mut file, bytes)?;
    fail_point("hashes-unnamed");
    file.persist(path)?;
    Ok(())
}

impl HashCache for FileHashes {
    fn get(&self, key: &StatKey) -> Option<ContentDigest> {
        let mut state = self.state();
        let State { known, used, .. } = &mut *state;
        let entry = known.get_mut(key)?;
        *used += usize::from(!std::mem::replace(&mut entry.used, true));
        Some(entry.digest)
    }

    fn put(&self, key: StatKey, digest: ContentDigest, began: i128) {
        if settled_at(key.ctime, key.mtime) > began {
            return;
        }
        let mut state = self.state();
        let entry = Entry { digest, used: true };
        let before = state.known.insert(key, entry);
        state.used += usize::from(!before.is_some_and(|before| before.used));
        state.changed = true;
    }
}

fn encode(known: &Known) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + known.len() * RECORD + DIGEST);
    out.extend_from_slice(MAGIC);
    for (key, Entry { digest, .. }) in known {
        for number in [key.dev, key.ino, key.size] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for time in [key.mtime, key.ctime] {
            out.extend_from_slice(&time.to_le_bytes());
        }
        for number in [key.mode, key.uid, key.gid] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&digest.0);
    }
    let check = Sha256::digest(&out);
    out.extend_from_slice(&check);
    out
}

fn decode(bytes: &[u8]) -> Option<Known> {
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
    if Sha256::digest(body).as_slice() != check {
        return None;
    }
    let records = body.strip_prefix(MAGIC)?;
    if records.len() % RECORD != 0 {
        return None;
    }
    records
        .chunks_exact(RECORD)
        .map(|record| {
            let mut reader = Reader(record);
            let key = StatKey {
                dev: u64::from_le_bytes(reader.take()?),
                ino: u64::from_le_bytes(reader.take()?),
                size: u64::from_le_bytes(reader.take()?),
                mtime: i128::from_le_bytes(reader.take()?),
                ctime: i128::from_le_bytes(reader.take()?),
                mode: u32::from_le_bytes(reader.take()?),
                uid: u32::from_le_bytes(reader.take()?),
                gid: u32::from_le_bytes(reader.take()?),
            };
            let digest = ContentDigest(reader.take()?);
            let entry = Entry {
                digest,
                used: false,
            };
            Some((key, entry))
        })
        .collect()
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
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

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = decode(&bytes);
        }
    }
}
