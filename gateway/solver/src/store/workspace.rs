//! Unfinished work of this process, and what dead processes left of theirs.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::FlockOperation;

/// Where this process works: a locked directory below `tmp/` while there is work, none otherwise.
pub struct Workspace {
    tmp: PathBuf,
    current: Mutex<Weak<Locked>>,
}

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

impl Locked {
    fn create(tmp: &Path) -> io::Result<Locked> {
        let dir = tmp.join(super::new_id());
        // Locked before it gets the name under which others look for abandoned ones.
        let staging = tmp.join(format!(".{}", super::new_id()));
        std::fs::create_dir(&staging)?;
        let lock = File::create(staging.join("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        std::fs::rename(&staging, &dir)?;
        Ok(Locked {
            dir,
            next: AtomicU64::new(0),
            _lock: lock,
        })
    }
}

impl Workspace {
    /// Removes what dead processes left, in the background.
    pub fn open(tmp: &Path) -> Workspace {
        let tmp = tmp.to_owned();
        let swept = tmp.clone();
        std::thread::spawn(move || sweep(&swept));
        Workspace {
            tmp,
            current: Mutex::default(),
        }
    }

    pub fn dir(&self) -> io::Result<WorkDir> {
        let workspace = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            match current.upgrade() {
                Some(workspace) => workspace,
                None => {
                    let workspace = Arc::new(Locked::create(&self.tmp)?);
                    *current = Arc::downgrade(&workspace);
                    workspace
                }
            }
        };
        let number = workspace.next.fetch_add(1, Ordering::Relaxed);
        let path = workspace.dir.join(number.to_string());
        std::fs::create_dir(&path)?;
        Ok(WorkDir {
            path,
            _workspace: workspace,
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
        let living = Workspace::open(tmp.path());
        let work = living.dir().unwrap();
        sweep(tmp.path());
        assert!(!dead.exists());
        assert!(work.path().is_dir());
        drop(work);
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
        assert!(living.dir().unwrap().path().is_dir());
    }
}
