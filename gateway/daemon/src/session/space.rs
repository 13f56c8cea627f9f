//! Keeps clients from filling the disk: what they send is refused while the daemon can still write.

use std::os::fd::AsFd;

use rustix::io::Errno;

/// Left free on the disk of the store: its database and logs must still be written, and other builds
/// told why they fail.
pub const RESERVE: u64 = 256 << 20;

/// The disk is asked again after this many bytes.
const STEP: u64 = 64 << 20;

/// Watches one transfer.
#[derive(Debug)]
pub struct Space {
    reserve: u64,
    /// Bytes since the disk was asked last.
    since: u64,
}

impl Space {
    pub fn new(reserve: u64) -> Space {
        // The first byte asks.
        Space {
            reserve,
            since: STEP,
        }
    }

    /// `bytes` are about to be written to the file system of `dir`.
    ///
    /// # Errors
    /// In words, when they do not fit.
    pub fn take(&mut self, dir: impl AsFd, bytes: u64) -> Result<(), String> {
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
}
