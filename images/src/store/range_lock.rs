//! Locks on single bytes of a file: one file serves any number of names, nothing has to be removed, and
//! the kernel frees what a process held whatever ends it.
//!
//! They belong to the open file (open file description locks of Linux), so two opens in one process keep each
//! other out just as two processes do. On network file systems they are not reliable; the store refuses those.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// How a byte is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By any number at once.
    Shared,
    /// By one alone.
    Exclusive,
}

/// Where in the lock file a name has its byte. Two names on one byte only wait for each other needlessly.
pub fn offset(name: &str) -> i64 {
    let hash = Sha256::digest(name.as_bytes());
    let (first, _) = hash.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    // Room is left for the length: an end past the largest offset is refused.
    (u64::from_le_bytes(*first) >> 2).cast_signed()
}

/// Opens a lock file, making it when it is missing.
///
/// # Errors
/// When the file cannot be made or opened for reading and writing.
pub fn open(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
}

/// Takes the byte, waiting for whoever has it.
///
/// # Errors
/// When the kernel cannot lock this file.
pub fn lock(file: &File, at: i64, mode: Mode) -> io::Result<()> {
    loop {
        match call(file, libc::F_OFD_SETLKW, &mut request(kind(mode), at)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Takes the byte if nobody else has it; says whether it did.
///
/// # Errors
/// When the kernel cannot lock this file.
pub fn try_lock(file: &File, at: i64, mode: Mode) -> io::Result<bool> {
    match call(file, libc::F_OFD_SETLK, &mut request(kind(mode), at)) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Gives the byte back.
///
/// # Errors
/// None that a working kernel has.
pub fn unlock(file: &File, at: i64) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, &mut request(libc::F_UNLCK, at))
}

/// Whether another open file holds the byte in any way. Takes nothing.
///
/// # Errors
/// When the kernel cannot lock this file.
pub fn is_held(file: &File, at: i64) -> io::Result<bool> {
    let mut asked = request(libc::F_WRLCK, at);
    call(file, libc::F_OFD_GETLK, &mut asked)?;
    Ok(i32::from(asked.l_type) != libc::F_UNLCK)
}

fn kind(mode: Mode) -> libc::c_int {
    match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    }
}

fn request(kind: libc::c_int, at: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        // Must be zero for these locks.
        l_pid: 0,
    }
}

fn call(file: &File, command: libc::c_int, request: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file`, and the kernel reads and writes one `flock`
    // where `request` points.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(request)) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_of_one_process_keep_each_other_out_byte_by_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        let (one, two) = (open(&path).unwrap(), open(&path).unwrap());
        let (a, b) = (offset("a"), offset("b"));
        lock(&one, a, Mode::Exclusive).unwrap();
        assert!(is_held(&two, a).unwrap());
        assert!(!is_held(&one, a).unwrap());
        assert!(!try_lock(&two, a, Mode::Shared).unwrap());
        assert!(try_lock(&two, b, Mode::Exclusive).unwrap());
        unlock(&one, a).unwrap();
        assert!(try_lock(&two, a, Mode::Shared).unwrap());
        assert!(try_lock(&one, a, Mode::Shared).unwrap());
        assert!(!try_lock(&one, b, Mode::Shared).unwrap());
        drop(two);
        assert!(try_lock(&one, b, Mode::Shared).unwrap());
    }
}
