//! Unfinished work of this process, and what dead processes left of theirs.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::FlockOperation;

/// The file in a process's directory that it holds locked.
const LOCK: &str = "lock";
/// Younger directories without their final name are left alone.
const STAGING_AGE: Duration = Duration::from_secs(60);

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
        let lock = File::create(staging.join(LOCK))?;
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
        let dir = entry.path();
        let staging = entry.file_name().as_encoded_bytes().starts_with(b".");
        if staging && !is_old(&dir) {
            // Its maker may be about to lock it.
            continue;
        }
        match File::open(dir.join(LOCK)) {
            Ok(lock) => {
                if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    remove(&dir);
                }
            }
            // Removed before by one who was killed over it, or is at it now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => remove(&dir),
            Err(_) => {}
        }
    }
}

/// Nobody takes this long between making a directory and locking it.
fn is_old(dir: &Path) -> bool {
    let modified = std::fs::symlink_metadata(dir).and_then(|metadata| metadata.modified());
    // A time as far in the future is of another clock, not of a directory just made.
    let distance = |time: std::time::SystemTime| match time.elapsed() {
        Ok(age) => age,
        Err(ahead) => ahead.duration(),
    };
    modified.is_ok_and(|time| distance(time) > STAGING_AGE)
}

fn remove(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
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
        let half_removed = tmp.path().join("half");
        std::fs::create_dir_all(half_removed.join("2/fs")).unwrap();
        let young = tmp.path().join(".young");
        std::fs::create_dir(&young).unwrap();
        let ahead = tmp.path().join(".ahead");
        std::fs::create_dir(&ahead).unwrap();
        let tomorrow = std::time::SystemTime::now() + Duration::from_secs(86_400);
        File::open(&ahead).unwrap().set_modified(tomorrow).unwrap();
        let living = Workspace::open(tmp.path());
        let work = living.dir().unwrap();
        sweep(tmp.path());
        assert!(!dead.exists());
        assert!(!half_removed.exists());
        assert!(young.exists());
        assert!(!ahead.exists());
        std::fs::remove_dir(&young).unwrap();
        assert!(work.path().is_dir());
        drop(work);
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
        assert!(living.dir().unwrap().path().is_dir());
    }
}
