//! Bytes start on their way to the disk as soon as they are written.
//!
//! Left alone, the kernel keeps them in memory until a sync asks for all of them at once, and whoever syncs waits.
//! Asked for file by file, the disk works beside the processor. No journal is committed by it, so nobody who makes
//! files meanwhile waits either.

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// Bytes between two requests for a long file, and the least that is worth one.
pub(crate) const PORTION: u64 = 8 << 20;
/// Smaller files wait for the sync: there are many of them, and together they are little.
pub(crate) const SMALL: u64 = 64 << 10;

/// Asks the disk for `length` bytes at `offset` of a file, all behind it for a length of 0. It is a hint: waits for
/// nothing, and what fails is found by the sync that counts.
pub(crate) fn begin(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: the descriptor is open as long as `file`; no memory is handed over.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}
