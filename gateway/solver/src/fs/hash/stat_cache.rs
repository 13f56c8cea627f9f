//! Digests of files kept between builds, in one file: so that an unchanged context, and an
//! unchanged giant in it, is not read again.
//!
//! A file that has changed has another change time, which nobody can set. Only a change in
//! the same tick of the clock as the reading could hide; so what is that young is not kept.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{ContentDigest, HashCache, StatKey};

/// First bytes of a cache file; the digit is the version of the format.
const MAGIC: &[u8; 8] = b"gwstat1\n";
/// Bytes of one record.
const RECORD: usize = 8 * 6 + 4 * 3 + 32;
/// Records kept at most; with 92 bytes each this is 92 MB of file, for contexts of a million
/// files.
const MAX_RECORDS: usize = 1_000_000;
/// What is not asked for in this time is forgotten: 30 days, in nanoseconds.
const MAX_IDLE: i64 = 30 * 24 * 3600 * 1_000_000_000;
/// Ticks of kernels are 10 ms at most; a file that has not changed for ten of them cannot
/// change within the tick that its stat shows.
const TICK: i64 = 100_000_000;
/// The same for file systems that count in seconds (two, on FAT).
const COARSE_TICK: i64 = 3_000_000_000;

/// Gives the time, in nanoseconds since the epoch.
pub type Clock = fn() -> i64;

/// A [`HashCache`] in a file.
#[derive(Debug)]
pub struct StatCache {
    path: PathBuf,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<StatKey, Known>,
    changed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    digest: ContentDigest,
    /// When it was asked for last, nanoseconds.
    used: i64,
}

impl StatCache {
    /// Reads a cache. A file that is missing or makes no sense is an empty one.
    pub fn load(path: &Path, clock: Clock) -> Self {
        let known = fs::read(path)
            .map(|bytes| parse(&bytes))
            .unwrap_or_default();
        Self {
            path: path.to_owned(),
            clock,
            state: Mutex::new(State {
                known,
                changed: false,
            }),
        }
    }

    /// Writes the cache if it has changed, in one piece: readers and other writers see the
    /// old file or the new one.
    pub fn save(&self) -> std::io::Result<()> {
        let bytes = {
            let mut state = self.state();
            if !state.changed {
                return Ok(());
            }
            state.changed = false;
            serialize(&state.known, (self.clock)())
        };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&bytes)?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Records are put in whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HashCache for StatCache {
    fn get(&self, key: &StatKey) -> Option<ContentDigest> {
        let now = (self.clock)();
        let mut state = self.state();
        let known = state.known.get_mut(key)?;
        // A day's precision is enough to forget by, and saves writing the file each time.
        let stale = now.saturating_sub(known.used) > MAX_IDLE / 30;
        if stale {
            known.used = now;
        }
        let digest = known.digest;
        state.changed |= stale;
        Some(digest)
    }

    fn put(&self, key: StatKey, digest: ContentDigest) {
        let used = (self.clock)();
        if is_racy(&key, used) {
            return;
        }
        let mut state = self.state();
        state.known.insert(key, Known { digest, used });
        state.changed = true;
    }
}

/// Whether a later change could leave the stat as it is.
fn is_racy(key: &StatKey, now: i64) -> bool {
    let coarse = key.ctime % 1_000_000_000 == 0;
    let tick = if coarse { COARSE_TICK } else { TICK };
    i128::from(now) - key.ctime < i128::from(tick)
}

fn serialize(known: &HashMap<StatKey, Known>, now: i64) -> Vec<u8> {
    let mut list: Vec<_> = known
        .iter()
        .filter(|(_, known)| now.saturating_sub(known.used) <= MAX_IDLE)
        .collect();
    if list.len() > MAX_RECORDS {
        list.sort_unstable_by_key(|(_, known)| std::cmp::Reverse(known.used));
        list.truncate(MAX_RECORDS);
    }
    let mut out = Vec::with_capacity(MAGIC.len() + list.len() * RECORD);
    out.extend(MAGIC);
    for (key, known) in list {
        let (Ok(mtime), Ok(ctime)) = (i64::try_from(key.mtime), i64::try_from(key.ctime)) else {
            continue;
        };
        for word in [key.dev, key.ino, key.size] {
            out.extend(word.to_le_bytes());
        }
        for time in [mtime, ctime, known.used] {
            out.extend(time.to_le_bytes());
        }
        for word in [key.mode, key.uid, key.gid] {
            out.extend(word.to_le_bytes());
        }
        out.extend(known.digest.0);
    }
    // A flipped bit on disk must not become a wrong cache key.
    let sum = ContentDigest::of(&out);
    out.extend(sum.0);
    out
}

fn parse(bytes: &[u8]) -> HashMap<StatKey, Known> {
    let Some((content, sum)) = bytes.split_last_chunk::<32>() else {
        return HashMap::new();
    };
    let Some(records) = content.strip_prefix(MAGIC) else {
        return HashMap::new();
    };
    if ContentDigest::of(content).0 != *sum {
        return HashMap::new();
    }
    records
        .chunks_exact(RECORD)
        .take(MAX_RECORDS)
        .filter_map(record)
        .collect()
}

fn record(bytes: &[u8]) -> Option<(StatKey, Known)> {
    let mut rest = bytes;
    let mut long = || {
        let (word, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(u64::from_le_bytes(*word))
    };
    let (dev, ino, size) = (long()?, long()?, long()?);
    let (mtime, ctime, used) = (long()?, long()?, long()?);
    let mut short = || {
        let (word, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        Some(u32::from_le_bytes(*word))
    };
    let (mode, uid, gid) = (short()?, short()?, short()?);
    let key = StatKey {
        dev,
        ino,
        size,
        mtime: mtime.cast_signed().into(),
        ctime: ctime.cast_signed().into(),
        mode,
        uid,
        gid,
    };
    let digest = ContentDigest(rest.try_into().ok()?);
    let used = used.cast_signed();
    Some((key, Known { digest, used }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_700_000_000_123_456_789;

    fn key(ino: u64, ctime: i64) -> StatKey {
        StatKey {
            dev: 1,
            ino,
            size: 3,
            mtime: 5,
            ctime: ctime.into(),
            mode: 0o100_644,
            uid: 0,
            gid: 0,
        }
    }

    #[test]
    fn digests_are_found_again_in_the_next_build() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("stats");
        let digest = ContentDigest::of(b"x");
        let first = StatCache::load(&path, || NOW);
        first.put(key(1, 77), digest);
        first.save().expect("saved");
        let second = StatCache::load(&path, || NOW);
        assert_eq!(second.get(&key(1, 77)), Some(digest));
        assert_eq!(second.get(&key(1, 78)), None);
        second.save().expect("nothing to save");
        let late = StatCache::load(&path, || NOW + MAX_IDLE + 1);
        late.put(key(2, 77), digest);
        late.save().expect("saved");
        let last = StatCache::load(&path, || NOW);
        assert_eq!(
            (last.get(&key(1, 77)), last.get(&key(2, 77))),
            (None, Some(digest))
        );
    }

    #[test]
    fn what_has_just_changed_is_not_kept() {
        let cache = StatCache::load(Path::new("/nonexistent/stats"), || NOW);
        let digest = ContentDigest::of(b"x");
        for (ino, ctime, kept) in [
            (1, NOW - 1_000_000, false),
            (2, NOW + 1_000_000, false),
            (3, NOW - TICK, true),
            // A time in whole seconds is not to be trusted as far.
            (4, 1_699_999_998_000_000_000, false),
            (5, 1_699_999_990_000_000_000, true),
        ] {
            cache.put(key(ino, ctime), digest);
            assert_eq!(cache.get(&key(ino, ctime)).is_some(), kept, "{ino}");
        }
    }

    #[test]
    fn a_damaged_file_is_an_empty_cache() {
        let mut known = HashMap::new();
        let digest = ContentDigest::of(b"x");
        known.insert(key(1, 77), Known { digest, used: NOW });
        let good = serialize(&known, NOW);
        assert_eq!(parse(&good).len(), 1);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(parse(&bad).is_empty(), "byte {at}");
            assert!(parse(&good[..at]).is_empty(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let mut file = MAGIC.to_vec();
            file.extend(&bytes);
            let sum = ContentDigest::of(&file);
            file.extend(sum.0);
            prop_assert!(parse(&file).len() <= bytes.len() / RECORD);
        }
    }
}
