//! Owners, modes, times and attributes of what was unpacked.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::error::{UnpackError, at, lossy};
use crate::layer::entry::Entry;
use crate::layer::header::Kind;
use crate::layer::is_overlay_xattr;

/// Latest time that is kept, in seconds: where 64 bits of nanoseconds end. Others become the epoch, as in containerd.
const MAX_TIME: i64 = i64::MAX / 1_000_000_000;
/// Notes kept in a report.
const MAX_NOTES: usize = 100;

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

/// What could not be kept, for a log.
#[derive(Default)]
pub(super) struct Notes(Vec<String>);

impl Notes {
    pub fn add(&mut self, text: impl FnOnce() -> String) {
        if self.0.len() < MAX_NOTES {
            self.0.push(text());
        }
    }

    pub fn into_list(self) -> Vec<String> {
        self.0
    }
}

/// Sets them, with no call for what the kernel has given a new file already: most files are root's with mode 644 or
/// 755, and three calls less for each is a good part of what a small file costs.
pub(super) struct Metadata {
    owners: bool,
    given: Given,
    pub notes: Notes,
}

/// What the kernel gives a file that is made in the destination.
struct Given {
    owner: (u32, u32),
    /// Permission bits that it takes away (the umask).
    withheld: u32,
}

impl Given {
    /// Looked at in a file of no name: neither the umask nor a default access list can be asked for otherwise.
    fn of(dir: BorrowedFd<'_>) -> io::Result<Self> {
        const UNKNOWN: Given = Given {
            owner: (u32::MAX, u32::MAX),
            withheld: 0o777,
        };
        // Directories made below would get this bit, and hand on their group.
        if rustix::fs::fstat(dir)?.st_mode & 0o2000 != 0 {
            return Ok(UNKNOWN);
        }
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let stat = match rustix::fs::openat(dir, c".", flags, Mode::from_raw_mode(0o777)) {
            Ok(file) => rustix::fs::fstat(&file)?,
            // Not every file system has such files. Then everything is set.
            Err(_) => return Ok(UNKNOWN),
        };
        Ok(Given {
            owner: (stat.st_uid, stat.st_gid),
            withheld: 0o777 & !stat.st_mode,
        })
    }
}

impl Metadata {
    /// For what is made below `dest`, in directories that are not set-group-id.
    pub fn new(owners: bool, dest: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Metadata {
            owners,
            given: Given::of(dest)?,
            notes: Notes::default(),
        })
    }

    /// Owner, attributes and mode of an open file or directory; a `fresh` one was just made with the mode's permission
    /// bits. The order matters: a change of owner clears the set-user-id bit and the capabilities.
    pub fn of_open(
        &mut self,
        name: &[u8],
        fd: impl AsFd,
        entry: &Entry,
        mode: u32,
        fresh: bool,
    ) -> Result<(), UnpackError> {
        let fd = fd.as_fd();
        let owned = fresh && (entry.uid, entry.gid) == self.given.owner;
        if self.owners && !owned {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(at(name, "change owner"))?;
        }
        for (key, value) in &entry.xattrs {
            self.xattr(name, key, |key| {
                rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty())
            })?;
        }
        // An access list among the attributes is part of the mode.
        let exact = fresh
            && entry.xattrs.is_empty()
            && mode & !0o777 == 0
            && mode & self.given.withheld == 0;
        if exact {
            return Ok(());
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(at(name, "chmod"))
    }

    /// The same for links, devices and pipes, which cannot be opened; with the times.
    pub fn of_name(
        &mut self,
        name: &[u8],
        dir: &OwnedFd,
        base: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        if self.owners && (entry.uid, entry.gid) != self.given.owner {
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
            self.notes
                .add(|| format!("{}: attribute {} left out", lossy(name), lossy(key)));
            return Ok(());
        }
        match set(key) {
            Ok(()) => Ok(()),
            // No support, or no right: user.* on links and devices, trusted.* and security.* in a user namespace.
            Err(Errno::NOTSUP | Errno::PERM) => {
                self.notes
                    .add(|| format!("{}: attribute {} not kept", lossy(name), lossy(key)));
                Ok(())
            }
            Err(e) => Err(at(name, "set attribute")(e)),
        }
    }
}
