//! One process at a time for one piece of work: equal work in flight is not done twice.
//!
//! All work of a store is locked in one file, each piece at the byte that its key hashes to.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use gateway_images::store::range_lock::{self, Mode};

/// First and longest pause between two looks at a lock that another holds. The kernel can wait for
/// us, but only on a thread that cannot be cancelled.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The work is ours until this is dropped. The kernel frees it whatever ends the process.
#[derive(Debug)]
pub struct WorkLock {
    _file: File,
}

impl WorkLock {
    /// Waits for the lock; `waiting` is called at each look that finds it taken.
    pub async fn acquire(
        path: &Path,
        key: &str,
        mut waiting: impl FnMut(),
    ) -> io::Result<WorkLock> {
        let file = range_lock::open(path)?;
        let at = range_lock::offset(key);
        let mut pause = FIRST_PAUSE;
        while !range_lock::try_lock(&file, at, Mode::Exclusive)? {
            waiting();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(WorkLock { _file: file })
    }

    pub fn try_acquire(path: &Path, key: &str) -> io::Result<Option<WorkLock>> {
        let file = range_lock::open(path)?;
        let taken = range_lock::try_lock(&file, range_lock::offset(key), Mode::Exclusive)?;
        Ok(taken.then_some(WorkLock { _file: file }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("work");
        let first = WorkLock::acquire(&path, "sha256:x", || {}).await.unwrap();
        WorkLock::acquire(&path, "sha256:y", || {}).await.unwrap();
        let mut looks = 0;
        let waiting = WorkLock::acquire(&path, "sha256:x", || looks += 1);
        let waited = tokio::time::timeout(Duration::from_millis(30), waiting).await;
        assert!(waited.is_err());
        assert!(looks > 0);
        drop(first);
        let second = WorkLock::acquire(&path, "sha256:x", || {});
        let second = tokio::time::timeout(Duration::from_secs(5), second).await;
        let _second = second.unwrap().unwrap();
        assert!(WorkLock::try_acquire(&path, "sha256:x").unwrap().is_none());
    }
}
