//! Owners, modes, times and attributes of what was unpacked.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::UnpackError;
use super::apply::{Applier, at, lossy};
use crate::layer::entry::Entry;
use crate::layer::header::Kind;
use crate::layer::is_overlay_xattr;

/// Latest time that is kept, in seconds: where 64 bits of nanoseconds end. Others become the epoch, as in containerd.
const MAX_TIME: i64 = i64::MAX / 1_000_000_000;

pub(super) fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = if (0..=MAX_TIME).contains(&seconds) {
        Timespec {
            tv_sec: seconds,
            tv_nsec: nanos.into(),
        }
    } else {
        Timespec::default()
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

impl Applier<'_> {
    /// Owner, attributes and mode of an open file or directory. The order matters: a change of owner clears the
    /// set-user-id bit and the capabilities.
    pub(super) fn fd_attributes(
        &mut self,
        name: &[u8],
        fd: impl AsFd,
        entry: &Entry,
        mode: u32,
    ) -> Result<(), UnpackError> {
        let fd = fd.as_fd();
        if self.options.owners {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(at(name, "change owner"))?;
        }
        for (key, value) in &entry.xattrs {
            self.xattr(name, key, |key| {
                rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty())
            })?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(at(name, "chmod"))
    }

    /// The same for links, devices and pipes, which cannot be opened; with the times.
    pub(super) fn attributes(
        &mut self,
        name: &[u8],
        dir: &OwnedFd,
        base: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        if self.options.owners {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(dir, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(at(name, "change owner"))?;
        }
        if !entry.xattrs.is_empty() {
            // There is no setxattrat before Linux 6.13; the last component is not followed here.
            let path = [
                format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(),
                base,
            ]
            .concat();
            for (key, value) in &entry.xattrs {
                self.xattr(name, key, |key| {
                    rustix::fs::lsetxattr(&path[..], key, value, XattrFlags::empty())
                })?;
            }
        }
        if entry.kind != Kind::Symlink {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(dir, base, mode, AtFlags::empty()).map_err(at(name, "chmod"))?;
        }
        let times = timestamps(entry.mtime);
        rustix::fs::utimensat(dir, base, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at(name, "set times of"))
    }

    fn xattr(
        &mut self,
        name: &[u8],
        key: &[u8],
        set: impl FnOnce(&[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), UnpackError> {
        if is_overlay_xattr(key) {
            self.note(|| format!("{}: attribute {} left out", lossy(name), lossy(key)));
            return Ok(());
        }
        match set(key) {
            Ok(()) => Ok(()),
            // No support, or no right: user.* on links and devices, trusted.* and security.* in a user namespace.
            Err(Errno::NOTSUP | Errno::PERM) => {
                self.note(|| format!("{}: attribute {} not kept", lossy(name), lossy(key)));
                Ok(())
            }
            Err(e) => Err(at(name, "set attribute")(e)),
        }
    }
}
