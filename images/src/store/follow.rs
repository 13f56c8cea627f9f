//! A blob read while it is written: a layer is unpacked from the bytes that have come, so nothing waits for the last of
//! them and nothing is sent twice. The bytes are in the file, not in memory, however far the reader is behind.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    written: u64,
    /// The writer is gone; true when the blob was committed.
    ended: Option<bool>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's end. Dropped without `committed` it tells the readers that the bytes were not the blob's.
#[derive(Debug)]
pub(super) struct Lead(Arc<Shared>);

impl Lead {
    pub fn new(written: u64) -> Self {
        let shared = Shared::default();
        shared.state().written = written;
        Lead(Arc::new(shared))
    }

    pub fn follow(&self, file: File) -> Follower {
        Follower {
            file,
            at: 0,
            shared: self.0.clone(),
        }
    }

    pub fn moved(&self, written: u64) {
        self.0.state().written = written;
        self.0.moved.notify_all();
    }

    pub fn committed(self) {
        self.0.state().ended = Some(true);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.0.state().ended.get_or_insert(false);
        self.0.moved.notify_all();
    }
}

/// Reads what a [`BlobWriter`](super::BlobWriter) writes, from the start, and waits where it is ahead.
///
/// It ends well only when the blob was committed, so when digest and size were right. It blocks: not for async threads.
#[derive(Debug)]
pub struct Follower {
    file: File,
    at: u64,
    shared: Arc<Shared>,
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.state();
        let there = loop {
            let there = state.written.saturating_sub(self.at);
            match state.ended {
                _ if there > 0 => break there,
                Some(true) => return Ok(0),
                Some(false) => {
                    let text = "the transfer of the blob was given up";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
                }
                None => {
                    state = self
                        .shared
                        .moved
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(state);
        let want = buffer
            .len()
            .min(usize::try_from(there).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::super::BlobStore;
    use super::*;
    use crate::digest::Digest;
    use std::io::Write;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn a_follower_reads_all_bytes_and_ends_when_the_blob_is_there() {
        let (_dir, store) = store();
        let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        let mut writer = store.writer().unwrap();
        let (head, tail) = bytes.split_at(1000);
        writer.write_all(head).unwrap();
        let mut follower = writer.follow().unwrap();
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || {
                let mut read = Vec::new();
                follower.read_to_end(&mut read).map(|_| read)
            });
            for piece in tail.chunks(70_000) {
                writer.write_all(piece).unwrap();
                std::thread::yield_now();
            }
            let digest = Digest::of(&bytes);
            writer.commit_as(&digest, bytes.len() as u64).unwrap();
            assert!(store.contains(&digest));
            assert!(reading.join().unwrap().unwrap() == bytes);
        });
    }

    #[test]
    fn wrong_bytes_and_a_writer_that_is_gone_are_errors_at_the_end() {
        let (_dir, store) = store();
        for commit in [false, true] {
            let mut writer = store.writer().unwrap();
            let mut follower = writer.follow().unwrap();
            writer.write_all(b"some bytes").unwrap();
            if commit {
                writer.commit_as(&Digest::of(b"others"), 10).unwrap_err();
            } else {
                drop(writer);
            }
            let mut read = Vec::new();
            let error = follower.read_to_end(&mut read).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
            assert_eq!(read, b"some bytes");
        }
    }
}
