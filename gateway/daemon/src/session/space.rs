//! Keeps clients from filling the disk: what they send is refused while the daemon can still write.

use std::os::fd::AsFd;

use rustix::io::Errno;

/// Left free on the disk of the store: its database and logs must still be written, and other builds
/// told why they fail.
pub const RESERVE: u64 = 256 << 20;

/// The disk is asked again after this many bytes.
const STEP: u64 = 64 << 20;

/// Largest archive, of a context or of images, that is taken from a client.
pub const MAX_UPLOAD: u64 = 64 << 30;

/// Watches one transfer.
#[derive(Debug)]
pub struct Space {
    reserve: u64,
    /// Bytes that may still come.
    left: u64,
    /// Bytes since the disk was asked last.
    since: u64,
}

impl Space {
    pub fn new(reserve: u64) -> Space {
        // The first byte asks.
        Space {
            reserve,
            left: u64::MAX,
            since: STEP,
        }
    }

    /// Of an archive: no more than [`MAX_UPLOAD`], however large the disk is.
    pub fn of_archive() -> Space {
        Space {
            left: MAX_UPLOAD,
            ..Space::new(RESERVE)
        }
    }

    /// `bytes` are about to be written to the file system of `dir`.
    ///
    /// # Errors
    /// In words, when they do not fit.
    pub fn take(&mut self, dir: impl AsFd, bytes: u64) -> Result<(), String> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| format!("the archive is larger than {MAX_UPLOAD} bytes"))?;
        self.since = self.since.saturating_add(bytes);
        if self.since < STEP {
            return Ok(());
        }
        self.since = 0;
        fits(dir, bytes, self.reserve)
    }
}

/// Whether this many bytes fit onto the file system of `dir`.
///
/// # Errors
/// In words, when they do not.
pub fn fits(dir: impl AsFd, bytes: u64, reserve: u64) -> Result<(), String> {
    let free = free(dir).map_err(|errno| format!("the disk of the store: {errno}"))?;
    if bytes.saturating_add(reserve) > free {
        return Err(format!(
            "no space for {bytes} more bytes from the client: {free} bytes are free on the disk of the store, of which {reserve} are kept back (gateway prune makes room)"
        ));
    }
    Ok(())
}

fn free(dir: impl AsFd) -> Result<u64, Errno> {
    let about = rustix::fs::fstatvfs(dir)?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_written() {
        let dir = std::fs::File::open("/").unwrap();
        let mut space = Space::new(0);
        assert!(space.take(&dir, 1).is_ok());
        let problem = fits(&dir, 1 << 62, 0).unwrap_err();
        assert!(problem.contains("gateway prune"), "{problem}");
        assert!(Space::new(u64::MAX).take(&dir, 1).is_err());
    }

    #[test]
    fn archives_of_more_than_64_gibibytes_are_refused() {
        let dir = std::fs::File::open("/").unwrap();
        let mut archive = Space {
            left: MAX_UPLOAD,
            ..Space::new(0)
        };
        let mut pieces = std::iter::repeat_n(STEP - 1, 1024);
        let taken = pieces.try_for_each(|piece| archive.take(&dir, piece));
        // What is on the disk is not counted with them: nothing was written.
        assert_eq!(taken, Ok(()));
        let problem = archive.take(&dir, 1025).unwrap_err();
        assert!(
            problem.contains("larger than 68719476736 bytes"),
            "{problem}"
        );
        assert_eq!(Space::of_archive().left, 64 << 30);
    }
}
