//! Who uses what: a build holds what it works with, and collectors of garbage leave that alone.
//!
//! Each thing of the store (a blob, a layer, a cache mount) has a name, each name a byte in the file
//! `leases`. A user holds the byte shared before it looks whether the thing is there; a collector takes
//! it alone before it removes the thing. So a thing that was seen stays until its user ends, whatever
//! ends it: the kernel gives the bytes back.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::range_lock::{self, Mode};

/// Name of the lock file in the directory of a store.
const FILE: &str = "leases";

/// What one user holds; given back when dropped. Opens its file at the first hold.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    file: OnceLock<File>,
    held: Mutex<HashSet<i64>>,
}

impl Lease {
    /// An empty lease on the store at `root`.
    pub fn new(root: &Path) -> Lease {
        Lease {
            path: root.join(FILE),
            file: OnceLock::new(),
            held: Mutex::default(),
        }
    }

    fn file(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = range_lock::open(&self.path)?;
        Ok(self.file.get_or_init(|| opened))
    }

    fn held(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what has this name, whether it is there or comes later. Waits for a collector that is
    /// removing it at this moment. True when it was not held before.
    ///
    /// # Errors
    /// When the lock file cannot be used: then nothing is held, and the thing must count as absent.
    pub fn hold(&self, name: &str) -> io::Result<bool> {
        let at = range_lock::offset(name);
        let mut held = self.held();
        if held.contains(&at) {
            return Ok(false);
        }
        range_lock::lock(self.file()?, at, Mode::Shared)?;
        held.insert(at);
        Ok(true)
    }
}

/// Looks at and takes what nobody uses, for removing it.
#[derive(Debug)]
pub struct Collector {
    file: File,
}

/// One thing that is a collector's alone until this is dropped.
#[derive(Debug)]
pub struct Claim<'a> {
    file: &'a File,
    at: i64,
}

impl Collector {
    /// # Errors
    /// When the lock file cannot be opened or made.
    pub fn open(root: &Path) -> io::Result<Collector> {
        Ok(Collector {
            file: range_lock::open(&root.join(FILE))?,
        })
    }

    /// Whether anybody uses it at this moment.
    ///
    /// # Errors
    /// When the kernel cannot lock the file.
    pub fn is_used(&self, name: &str) -> io::Result<bool> {
        range_lock::is_held(&self.file, range_lock::offset(name))
    }

    /// Takes it, unless somebody uses it.
    ///
    /// # Errors
    /// When the kernel cannot lock the file.
    pub fn claim(&self, name: &str) -> io::Result<Option<Claim<'_>>> {
        let at = range_lock::offset(name);
        let taken = range_lock::try_lock(&self.file, at, Mode::Exclusive)?;
        Ok(taken.then_some(Claim {
            file: &self.file,
            at,
        }))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Closing the file gives it back in any case.
        let _ = range_lock::unlock(self.file, self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_cannot_be_claimed_and_what_is_claimed_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let collector = Collector::open(dir.path()).unwrap();
        let (one, two) = (Lease::new(dir.path()), Lease::new(dir.path()));
        assert!(one.hold("x").unwrap());
        assert!(!one.hold("x").unwrap());
        two.hold("x").unwrap();
        drop(one);
        assert!(collector.is_used("x").unwrap());
        assert!(collector.claim("x").unwrap().is_none());
        drop(two);
        let claim = collector.claim("x").unwrap().unwrap();
        let waiting = Lease::new(dir.path());
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| waiting.hold("x").unwrap());
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert!(!holder.is_finished());
            drop(claim);
            assert!(holder.join().unwrap());
        });
        assert!(collector.claim("x").unwrap().is_none());
    }
}
