//! Enters the new root; host paths are gone afterwards.

use std::os::fd::BorrowedFd;

use rustix::mount::UnmountFlags;

use super::parking;
use crate::error::{At, SetupError, Stage};

/// Puts the root over `/`, makes it the root of the mount namespace and drops
/// everything below: the parking and the host's mounts.
pub(super) fn enter(root: BorrowedFd<'_>) -> Result<(), SetupError> {
    parking::cover_root(root)?;
    rustix::process::fchdir(root).at(Stage::Pivot, || "entering the root".into())?;
    // With both paths the same the old root ends up mounted over the new one,
    // with the parking over it; "." finds the topmost of them each time.
    rustix::process::pivot_root(".", ".").at(Stage::Pivot, || "pivot_root".into())?;
    for what in ["leaving the parking", "leaving the host's root"] {
        rustix::mount::unmount(".", UnmountFlags::DETACH).at(Stage::Pivot, || what.into())?;
    }
    rustix::process::chdir("/").at(Stage::Pivot, || "entering the root".into())?;
    // "/.." is what is mounted over the root, if anything still is.
    let above = rustix::fs::stat("/..").at(Stage::Pivot, || "checking the root".into())?;
    let inside = rustix::fs::fstat(root).at(Stage::Pivot, || "checking the root".into())?;
    if (above.st_dev, above.st_ino) != (inside.st_dev, inside.st_ino) {
        let detail = "something is still mounted over the root";
        return Err(SetupError::new(Stage::Pivot, 0, detail));
    }
    Ok(())
}
