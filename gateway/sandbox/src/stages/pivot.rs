//! Enters the new root; host paths are gone afterwards.

use std::os::fd::BorrowedFd;

use rustix::mount::UnmountFlags;

use super::detached;
use crate::error::{At, SetupError, Stage};

/// Puts the root over `/`, makes it the root of the mount namespace and drops
/// everything below: the host's mounts and all that was parked.
pub(super) fn enter(root: BorrowedFd<'_>) -> Result<(), SetupError> {
    detached::park(root).at(Stage::Pivot, || "attaching the root".into())?;
    rustix::process::fchdir(root).at(Stage::Pivot, || "entering the root".into())?;
    // With both paths the same the old root ends up over the new one, where
    // "." still finds it after the call.
    rustix::process::pivot_root(".", ".").at(Stage::Pivot, || "pivot_root".into())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .at(Stage::Pivot, || "leaving the host's root".into())?;
    rustix::process::chdir("/").at(Stage::Pivot, || "entering the root".into())
}
