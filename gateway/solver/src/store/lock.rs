//! One process at a time for one piece of work: equal work in flight is not done twice.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// First and longest pause between two looks at a lock that another process holds. The kernel can
/// wait for us, but only on a thread that cannot be cancelled.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The work is ours until this is dropped. The kernel frees it whatever ends the process.
pub struct WorkLock {
    path: PathBuf,
    _file: File,
}

impl WorkLock {
    pub async fn acquire(dir: &Path, key: &str) -> io::Result<WorkLock> {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(lock) = WorkLock::try_acquire(dir, key)? {
                return Ok(lock);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub fn try_acquire(dir: &Path, key: &str) -> io::Result<Option<WorkLock>> {
        let path = dir.join(key.replace([':', '/'], "-"));
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The last owner may have removed the name between our open and lock.
                Ok(()) if is_still(&file, &path) => {
                    return Ok(Some(WorkLock { path, _file: file }));
                }
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn is_still(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

impl Drop for WorkLock {
    fn drop(&mut self) {
        // Before the lock is freed, so that nobody can hold the removed file unnoticed.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = WorkLock::acquire(dir.path(), "sha256:x").await.unwrap();
        let waiting = WorkLock::acquire(dir.path(), "sha256:x");
        assert!(
            tokio::time::timeout(Duration::from_millis(30), waiting)
                .await
                .is_err()
        );
        drop(first);
        let second = WorkLock::acquire(dir.path(), "sha256:x");
        assert!(
            tokio::time::timeout(Duration::from_secs(5), second)
                .await
                .is_ok()
        );
    }
}
