//! Bytes start on their way to the disk while a build still works.
//!
//! Left alone, the kernel keeps what was unpacked in memory until the sync at the end of a build asks for all of it
//! at once; a process cannot end before that is done. Asked for in portions, the disk works beside the processor.
//! The system does this itself, on a thread of its own: nobody waits, and a failure is found by the sync that counts.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

/// Bytes read of compressed layers between two requests: two to four times as many are written. Smaller layers are
/// not worth a request of their own.
const PORTION: u64 = 16 << 20;

/// One store's bytes that nobody asked the disk for. Cheap to clone.
#[derive(Clone)]
pub struct WriteBack(Arc<Inner>);

struct Inner {
    root: PathBuf,
    bytes: AtomicU64,
    /// A request is under way; the next waits for its end, however slow the disk is.
    busy: AtomicBool,
}

impl WriteBack {
    pub fn new(root: &Path) -> WriteBack {
        WriteBack(Arc::new(Inner {
            root: root.to_owned(),
            bytes: AtomicU64::new(0),
            busy: AtomicBool::new(false),
        }))
    }

    /// `reader`, whose bytes are those of a layer that is written while they are read.
    pub fn of<R>(&self, reader: R) -> Counted<R> {
        Counted {
            reader,
            write_back: self.clone(),
        }
    }

    /// Whether a request was started.
    fn add(&self, bytes: u64) -> bool {
        let inner = &self.0;
        let so_far = inner.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if so_far < PORTION || inner.busy.swap(true, Ordering::Relaxed) {
            return false;
        }
        inner.bytes.store(0, Ordering::Relaxed);
        let inner = self.0.clone();
        let asked = std::thread::Builder::new()
            .name("write-back".into())
            .spawn(move || {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                if let Ok(dir) = rustix::fs::open(&inner.root, flags, Mode::empty()) {
                    let _ = rustix::fs::syncfs(dir);
                }
                inner.busy.store(false, Ordering::Relaxed);
            });
        if asked.is_err() {
            self.0.busy.store(false, Ordering::Relaxed);
        }
        asked.is_ok()
    }
}

/// See [`WriteBack::of`].
pub struct Counted<R> {
    reader: R,
    write_back: WriteBack,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.write_back.add(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_asked_once_for_each_portion_and_never_twice_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let write_back = WriteBack::new(dir.path());
        assert!(!write_back.add(PORTION - 1));
        assert!(write_back.add(1));
        while write_back.0.busy.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        // As while the disk is slow.
        write_back.0.busy.store(true, Ordering::Relaxed);
        assert!(!write_back.add(PORTION));
        write_back.0.busy.store(false, Ordering::Relaxed);
        let mut counted = write_back.of([0; 8].as_slice());
        assert_eq!(counted.read(&mut [0; 8]).unwrap(), 8);
        // What came meanwhile counts.
        assert_eq!(write_back.0.bytes.load(Ordering::Relaxed), 0);
    }
}
