//! A place where mounts are attached without being visible: older kernels copy
//! parts of mounts only if these are attached somewhere.
//!
//! It is a file system in memory mounted over `/`, where absolute paths do not
//! see it, and is dropped with the host's mounts when the new root is entered.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountAttrFlags, MoveMountFlags, move_mount};

use super::detached;
use crate::error::{At, SetupError, Stage};
use crate::new_fs::NewFs;

const STAGE: Stage = Stage::MountSource;

pub(super) struct Parking {
    tmpfs: OwnedFd,
    names: Cell<u32>,
}

impl Parking {
    pub(super) fn open() -> Result<Parking, SetupError> {
        let fs = NewFs::open("tmpfs", STAGE)?;
        fs.set("mode", "0700")?;
        // Secrets are kept here; they must not be written to a swap device.
        fs.try_flag("noswap");
        let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
        let tmpfs = fs.mount(attributes)?;
        cover_root(tmpfs.as_fd())?;
        Ok(Parking {
            tmpfs,
            names: Cell::new(0),
        })
    }

    /// Where files can be made.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.tmpfs.as_fd()
    }

    /// A name that is not taken yet.
    pub(super) fn name(&self) -> String {
        self.names.set(self.names.get() + 1);
        self.names.get().to_string()
    }

    /// Attaches a directory mount.
    pub(super) fn park(&self, mount: BorrowedFd<'_>) -> Result<(), SetupError> {
        let name = self.name();
        let what = || "parking a mount".to_owned();
        rustix::fs::mkdirat(&self.tmpfs, &*name, Mode::from_raw_mode(0o700)).at(STAGE, what)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = rustix::fs::openat(&self.tmpfs, &*name, flags, Mode::empty());
        target
            .and_then(|target| detached::attach(mount, target.as_fd()))
            .at(STAGE, what)
    }
}

/// Attaches a mount on top of everything mounted over `/`.
pub(super) fn cover_root(mount: BorrowedFd<'_>) -> Result<(), SetupError> {
    move_mount(
        mount,
        "",
        rustix::fs::CWD,
        "/",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .at(Stage::Pivot, || "mounting over /".into())
}
