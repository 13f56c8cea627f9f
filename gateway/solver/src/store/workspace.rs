//! Unfinished work of this process, and what dead processes left of theirs.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;

/// The locked directory of one process below `tmp/`.
pub struct Workspace(Arc<Locked>);

struct Locked {
    dir: PathBuf,
    next: AtomicU64,
    /// Holds the lock; freed by the kernel whatever ends the process.
    _lock: File,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Workspace {
    /// Makes the directory and removes those of dead processes in the background.
    pub fn create(tmp: &Path) -> io::Result<Self> {
        let dir = tmp.join(super::new_id());
        // Locked before it gets the name under which others look for abandoned ones.
        let staging = tmp.join(format!(".{}", super::new_id()));
        std::fs::create_dir(&staging)?;
        let lock = File::create(staging.join("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        std::fs::rename(&staging, &dir)?;
        let tmp = tmp.to_owned();
        std::thread::spawn(move || sweep(&tmp));
        Ok(Workspace(Arc::new(Locked {
            dir,
            next: AtomicU64::new(0),
            _lock: lock,
        })))
    }

    pub fn dir(&self) -> io::Result<WorkDir> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let path = self.0.dir.join(number.to_string());
        std::fs::create_dir(&path)?;
        Ok(WorkDir {
            path,
            _workspace: self.0.clone(),
        })
    }
}

/// Removes directories whose lock nobody holds.
fn sweep(tmp: &Path) {
    let Ok(entries) = std::fs::read_dir(tmp) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            // Between creation and rename, or killed there: empty, so never in the way.
            continue;
        }
        let Ok(lock) = File::open(entry.path().join("lock")) else {
            continue;
        };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A directory that is deleted when dropped.
pub struct WorkDir {
    path: PathBuf,
    _workspace: Arc<Locked>,
}

impl std::fmt::Debug for WorkDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WorkDir({})", self.path.display())
    }
}

impl WorkDir {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory in it.
    pub fn sub(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_left_is_removed_and_the_living_are_spared() {
        let tmp = tempfile::tempdir().unwrap();
        let dead = tmp.path().join("dead");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("lock"), "").unwrap();
        let living = Workspace::create(tmp.path()).unwrap();
        let work = living.dir().unwrap();
        sweep(tmp.path());
        assert!(!dead.exists());
        assert!(work.path().is_dir());
    }
}
