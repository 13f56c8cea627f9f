//! Copying the bytes of one file: shared blocks where the file system can, else inside the
//! kernel, else through a buffer.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// Below this a buffer is quicker than asking the kernel to copy a range.
const SMALL: u64 = 64 * 1024;
/// Buffer for copies that the kernel cannot do itself.
const BUFFER: usize = 128 * 1024;
/// Most that one kernel call is asked to copy.
const RANGE: usize = 1 << 30;

/// A copier that remembers what the two file systems cannot do.
#[derive(Debug)]
pub(crate) struct ContentCopier {
    clone: bool,
    range: bool,
    buffer: Vec<u8>,
}

impl Default for ContentCopier {
    fn default() -> Self {
        Self {
            clone: true,
            range: true,
            buffer: Vec::new(),
        }
    }
}

impl ContentCopier {
    /// Copies everything of `from` (of `size` bytes when it was looked at) to the empty file
    /// `to`. Both are at their start. Gives the number of bytes.
    pub(crate) fn copy(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        size: u64,
    ) -> Result<u64, Errno> {
        if size == 0 {
            return Ok(0);
        }
        if self.clone {
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => return Ok(size),
                // Not this file system, or not these two: it will not be otherwise next time.
                Err(_) => self.clone = false,
            }
        }
        if self.range && size > SMALL {
            match copy_range(from, to, size) {
                Ok(copied) => return Ok(copied),
                Err((0, _)) => self.range = false,
                Err((_, errno)) => return Err(errno),
            }
        }
        self.through_buffer(from, to)
    }

    fn through_buffer(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<u64, Errno> {
        self.buffer.resize(BUFFER, 0);
        let mut copied = 0;
        loop {
            let read = match rustix::io::read(from, &mut self.buffer[..]) {
                Ok(0) => return Ok(copied),
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            write_all(to, &self.buffer[..read])?;
            copied += read as u64;
        }
    }
}

/// Copies inside the kernel. On failure tells how much had been copied.
fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<u64, (u64, Errno)> {
    let mut copied = 0;
    while copied < size {
        let left = usize::try_from(size - copied).unwrap_or(RANGE).min(RANGE);
        match rustix::fs::copy_file_range(from, None, to, None, left) {
            // The file has become shorter.
            Ok(0) => break,
            Ok(n) => copied += n as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err((copied, errno)),
        }
    }
    Ok(copied)
}

/// Writes all bytes.
pub(crate) fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    fn copied(size: usize, prepare: impl Fn(&mut ContentCopier)) -> bool {
        let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let mut from = tempfile::tempfile().expect("a file");
        from.write_all(&data).expect("written");
        from.rewind().expect("rewound");
        let mut to = tempfile::tempfile().expect("a file");
        let mut copier = ContentCopier::default();
        prepare(&mut copier);
        let n = copier
            .copy(from.as_fd(), to.as_fd(), size as u64)
            .expect("copied");
        to.rewind().expect("rewound");
        let mut got = Vec::new();
        to.read_to_end(&mut got).expect("read");
        n == size as u64 && got == data
    }

    #[test]
    fn every_way_of_copying_gives_the_same_bytes() {
        for size in [0, 1, 1000, 70_000, 300_000] {
            assert!(copied(size, |_| {}), "{size}, the best way");
            assert!(copied(size, |c| c.clone = false), "{size}, in the kernel");
            let plain = |c: &mut ContentCopier| {
                c.clone = false;
                c.range = false;
            };
            assert!(copied(size, plain), "{size}, through a buffer");
        }
    }
}
