//! Where directories of clients are kept between builds. Each slot holds one transfer; a build has its
//! slot for itself until it ends, and the next one for the same directory begins with what is there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

/// Slots that are kept; the ones used longest ago go.
const MAX_SLOTS: usize = 64;

/// All slots of a daemon. Cheap to clone.
#[derive(Clone)]
pub struct Locals(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// Of the next new slot. Never given twice: a slot that goes may still be there for a while.
    next: AtomicU64,
    slots: Mutex<HashMap<String, Slot>>,
}

#[derive(Debug, Clone)]
struct Slot {
    key: String,
    /// What the last transfer was of.
    filter: String,
    entries: u32,
    busy: bool,
    used: SystemTime,
}

/// A slot that belongs to one build; free again when dropped.
pub struct Held {
    locals: Locals,
    name: String,
}

fn short(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Locals {
    /// In the directory `root`, made if it is missing. Slots are named KEY-FILTER-ENTRIES-NUMBER.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(root: &Path) -> std::io::Result<Locals> {
        std::fs::create_dir_all(root)?;
        let mut slots = HashMap::new();
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = std::fs::read_to_string(root.join(&name).join("about")).ok();
            let known = known.and_then(|text| {
                let mut lines = text.lines().map(str::to_owned);
                Some((lines.next()?, lines.next()?, lines.next()?.parse().ok()?))
            });
            match known {
                Some((key, filter, entries)) => {
                    let used = entry.metadata().and_then(|meta| meta.modified());
                    let slot = Slot {
                        key,
                        filter,
                        entries,
                        busy: false,
                        used: used.unwrap_or(SystemTime::UNIX_EPOCH),
                    };
                    slots.insert(name, slot);
                }
                None => {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
        }
        let number = |name: &String| name.rsplit_once('-')?.1.parse::<u64>().ok();
        let next = slots
            .keys()
            .filter_map(number)
            .max()
            .map_or(0, |most| most + 1);
        Ok(Locals(Arc::new(Inner {
            root: root.to_owned(),
            next: AtomicU64::new(next),
            slots: Mutex::new(slots),
        })))
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for the directory that `key` names. Of several that which held the same part of it last,
    /// else the fullest: the less has to be transferred.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn take(&self, key: &str, filter: &str) -> std::io::Result<Held> {
        let (key, filter) = (short(key), short(filter));
        let mut slots = self.locked();
        let best = slots
            .iter()
            .filter(|(_, slot)| slot.key == key && !slot.busy)
            .max_by_key(|(_, slot)| (slot.filter == filter, slot.entries))
            .map(|(name, _)| name.clone());
        let name = match best {
            Some(name) => name,
            None => {
                let number = self.0.next.fetch_add(1, Ordering::Relaxed);
                let name = format!("{key}-{number}");
                let dir = self.0.root.join(&name);
                let _ = std::fs::remove_dir_all(&dir);
                std::fs::create_dir_all(dir.join("files"))?;
                name
            }
        };
        let slot = Slot {
            key,
            filter,
            entries: 0,
            busy: true,
            used: SystemTime::now(),
        };
        slots.insert(name.clone(), slot);
        let old = surplus(&mut slots);
        drop(slots);
        for old in old {
            let _ = std::fs::remove_dir_all(self.0.root.join(old));
        }
        Ok(Held {
            locals: self.clone(),
            name,
        })
    }
}

/// Takes those out that are too many.
fn surplus(slots: &mut HashMap<String, Slot>) -> Vec<String> {
    let mut free: Vec<(SystemTime, String)> = slots
        .iter()
        .filter(|(_, slot)| !slot.busy)
        .map(|(name, slot)| (slot.used, name.clone()))
        .collect();
    free.sort();
    let count = slots.len().saturating_sub(MAX_SLOTS).min(free.len());
    let old: Vec<String> = free.into_iter().take(count).map(|(_, name)| name).collect();
    for name in &old {
        slots.remove(name);
    }
    old
}

impl Held {
    /// Where the files are.
    pub fn path(&self) -> PathBuf {
        self.dir().join("files")
    }

    fn dir(&self) -> PathBuf {
        self.locals.0.root.join(&self.name)
    }

    /// Gives up the files that it holds.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn empty(&self) -> std::io::Result<()> {
        // Without it the slot is made anew after a restart.
        let _ = std::fs::remove_file(self.dir().join("about"));
        std::fs::remove_dir_all(self.path())?;
        std::fs::create_dir(self.path())
    }

    /// What it holds now.
    pub fn filled(&self, entries: u32) {
        let mut slots = self.locals.locked();
        if let Some(slot) = slots.get_mut(&self.name) {
            slot.entries = entries;
            let about = format!("{}\n{}\n{entries}\n", slot.key, slot.filter);
            drop(slots);
            // Without it the slot is made anew after a restart.
            let _ = std::fs::write(self.dir().join("about"), about);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(slot) = self.locals.locked().get_mut(&self.name) {
            slot.busy = false;
            slot.used = SystemTime::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_belongs_to_one_build_at_a_time_and_to_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let locals = Locals::open(dir.path()).unwrap();
        let first = locals.take("a", "f").unwrap();
        let second = locals.take("a", "f").unwrap();
        let other = locals.take("b", "f").unwrap();
        assert_ne!(first.path(), second.path());
        assert_ne!(first.path(), other.path());
        let path = first.path();
        drop(first);
        assert_eq!(locals.take("a", "f").unwrap().path(), path);
    }

    #[test]
    fn p29_the_slot_of_the_same_part_is_preferred_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let locals = Locals::open(dir.path()).unwrap();
        let (small, large) = (
            locals.take("a", "f").unwrap(),
            locals.take("a", "g").unwrap(),
        );
        small.filled(1);
        large.filled(1000);
        let (small_path, large_path) = (small.path(), large.path());
        drop((small, large));
        let locals = Locals::open(dir.path()).unwrap();
        assert_eq!(locals.take("a", "f").unwrap().path(), small_path);
        assert_eq!(locals.take("a", "h").unwrap().path(), large_path);
    }

    #[test]
    fn a_slot_that_goes_is_never_one_that_comes() {
        let dir = tempfile::tempdir().unwrap();
        let locals = Locals::open(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // More at once than are kept: slots go all the time.
                    for _ in 0..20 {
                        let held: Vec<Held> = (0..MAX_SLOTS)
                            .map(|_| locals.take("a", "f").unwrap())
                            .collect();
                        assert!(held.iter().all(|held| held.path().is_dir()));
                    }
                });
            }
        });
    }

    #[test]
    fn slots_are_not_kept_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let locals = Locals::open(dir.path()).unwrap();
        for number in 0..MAX_SLOTS + 10 {
            locals.take(&number.to_string(), "").unwrap().filled(1);
        }
        let count = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(count, MAX_SLOTS);
    }
}
