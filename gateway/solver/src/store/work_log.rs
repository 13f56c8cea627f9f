//! What a piece of work prints, for those who wait for it in other processes.
//!
//! Whoever has the lock of the work writes to a file in `logs/`, from the first output on. Who waits reads
//! along. The file goes when the work ends and nobody waits, else with the last who waited: output may
//! hold what should not lie around.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gateway_images::store::range_lock::{self, Mode};

use super::lock::WorkLock;

/// Longest single piece of output: what writes uses less, anything else is no log.
const MAX_FRAME: usize = 1 << 20;
/// Stream, time and length before each piece.
const HEAD: usize = 1 + 8 + 4;

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// 1 stdout, 2 stderr.
    pub stream: u8,
    /// Nanoseconds since the epoch.
    pub time: i64,
    pub data: Vec<u8>,
}

fn log_path(dir: &Path, key: &str) -> PathBuf {
    dir.join(key.replace([':', '/'], "-"))
}

/// The byte that those hold who wait for the work.
fn waiters(key: &str) -> i64 {
    range_lock::offset(&format!("waiting for {key}"))
}

/// Removes the file unless somebody waits for the work.
fn remove_if_unread(path: &Path, locks: &Path, key: &str) {
    let waited_for = range_lock::open(locks)
        .and_then(|file| range_lock::is_held(&file, waiters(key)))
        .unwrap_or(false);
    if !waited_for {
        let _ = std::fs::remove_file(path);
    }
}

/// The side that works. Its output goes to nobody if the file cannot be written.
#[derive(Debug)]
pub struct WorkLog {
    path: PathBuf,
    locks: PathBuf,
    key: String,
    file: Mutex<Option<File>>,
}

impl WorkLog {
    /// Only for who has the lock of `key` in the file `locks`.
    pub fn new(dir: &Path, locks: &Path, key: &str) -> WorkLog {
        let path = log_path(dir, key);
        WorkLog {
            path,
            locks: locks.to_owned(),
            key: key.to_owned(),
            file: Mutex::new(None),
        }
    }

    pub fn write(&self, frame: &Frame) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            // Of one who was killed at the same work.
            let _ = std::fs::remove_file(&self.path);
            *file = File::options()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&self.path)
                .ok();
        }
        let Some(out) = file.as_mut() else { return };
        let mut bytes = Vec::with_capacity(HEAD + frame.data.len());
        bytes.push(frame.stream);
        bytes.extend_from_slice(&frame.time.to_le_bytes());
        let length = u32::try_from(frame.data.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&frame.data);
        let _ = out.write_all(&bytes);
    }
}

impl WorkLog {
    /// The work is done; whoever still writes is not heard.
    pub fn end(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.take().is_some() {
            remove_if_unread(&self.path, &self.locks, &self.key);
        }
    }
}

impl Drop for WorkLog {
    fn drop(&mut self) {
        self.end();
    }
}

/// The side that waits. Its own existence keeps the file.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    locks: PathBuf,
    key: String,
    /// Holds the byte of those who wait.
    waiting: Option<File>,
    open: Option<File>,
    unread: Vec<u8>,
}

impl Follower {
    pub fn new(dir: &Path, locks: &Path, key: &str) -> Follower {
        let waiting = range_lock::open(locks).ok();
        let waiting = waiting
            .filter(|file| range_lock::try_lock(file, waiters(key), Mode::Shared).unwrap_or(false));
        Follower {
            path: log_path(dir, key),
            locks: locks.to_owned(),
            key: key.to_owned(),
            waiting,
            open: None,
            unread: Vec::new(),
        }
    }

    /// What came since the last call. Another worker's file is read after the one before it.
    pub fn read(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            self.read_open(&mut frames);
            let Ok(named) = File::open(&self.path) else {
                return frames;
            };
            let is_same = self.open.as_ref().is_some_and(|open| {
                matches!((open.metadata(), named.metadata()),
                    (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
            });
            if is_same {
                return frames;
            }
            self.unread.clear();
            self.open = Some(named);
        }
    }

    fn read_open(&mut self, frames: &mut Vec<Frame>) {
        let Some(open) = &mut self.open else { return };
        let _ = open.read_to_end(&mut self.unread);
        let mut at = 0;
        while let Some((frame, length)) = self.unread.get(at..).and_then(decode) {
            frames.push(frame);
            at += length;
        }
        self.unread.drain(..at);
        // Whatever this is, it is no log of ours.
        if self.unread.len() > HEAD + MAX_FRAME {
            self.unread.clear();
        }
    }
}

fn decode(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let [stream, head @ ..] = head;
    let (time, length) = head.split_first_chunk::<8>()?;
    let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
    if length > MAX_FRAME {
        return None;
    }
    let frame = Frame {
        stream: *stream,
        time: i64::from_le_bytes(*time),
        data: rest.get(..length)?.to_vec(),
    };
    Some((frame, HEAD + length))
}

impl Follower {
    /// For who has got the lock: the file has been read, and goes unless others wait for it.
    pub fn end(mut self) {
        self.waiting = None;
        remove_if_unread(&self.path, &self.locks, &self.key);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.waiting = None;
        // The worker may be at it still: then it removes the file at its end.
        if let Ok(Some(_lock)) = WorkLock::try_acquire(&self.locks, &self.key) {
            remove_if_unread(&self.path, &self.locks, &self.key);
        }
    }
}

/// Removes files that nobody writes or waits for.
pub fn sweep(dir: &Path, locks: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let key = name.replacen("sha256-", "sha256:", 1);
        if let Ok(Some(_lock)) = WorkLock::try_acquire(locks, &key) {
            remove_if_unread(&entry.path(), locks, &key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> Frame {
        Frame {
            stream: 2,
            time: -7,
            data: text.as_bytes().to_vec(),
        }
    }

    #[test]
    fn who_waits_reads_everything_also_of_the_next_worker_and_the_file_goes_with_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let locks = dir.path().join("work");
        let logs = dir.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        let files = || std::fs::read_dir(&logs).unwrap().count();
        let key = "sha256:ab";
        let log = WorkLog::new(&logs, &locks, key);
        log.write(&frame("early"));
        let mut one = Follower::new(&logs, &locks, key);
        assert_eq!(one.read(), [frame("early")]);
        log.write(&frame("b"));
        log.write(&frame(""));
        assert_eq!(one.read(), [frame("b"), frame("")]);
        log.write(&frame("last"));
        let mut two = Follower::new(&logs, &locks, key);
        drop(log);
        assert_eq!(one.read(), [frame("last")]);
        let next = WorkLog::new(&logs, &locks, key);
        assert_eq!(two.read().len(), 4);
        next.write(&frame("again"));
        assert_eq!(one.read(), [frame("again")]);
        assert_eq!(two.read(), [frame("again")]);
        drop(next);
        drop(one);
        assert_eq!(files(), 1);
        drop(two);
        assert_eq!(files(), 0);
        let alone = WorkLog::new(&logs, &locks, key);
        alone.write(&frame("x"));
        drop(alone);
        assert_eq!(files(), 0);
    }

    #[test]
    fn files_of_the_killed_are_swept_and_of_workers_not() {
        let dir = tempfile::tempdir().unwrap();
        let locks = dir.path().join("work");
        std::fs::write(dir.path().join("sha256-dead"), "x").unwrap();
        let log = WorkLog::new(dir.path(), &locks, "sha256:alive");
        log.write(&frame("x"));
        let _lock = WorkLock::try_acquire(&locks, "sha256:alive").unwrap();
        sweep(dir.path(), &locks);
        assert!(!dir.path().join("sha256-dead").exists());
        assert!(dir.path().join("sha256-alive").exists());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_frames_or_nothing(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            if let Some((_, length)) = decode(&bytes) {
                assert!(length <= bytes.len());
            }
        }
    }
}
