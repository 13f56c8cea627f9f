//! Copies of single files: what is no directory, and everybody's metadata.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Copier;
use crate::fs::error::{FsError, lossy};
use crate::fs::hash;
use crate::fs::meta::{Meta, XattrsOf};
use crate::fs::root::{self, Owner};

/// Both ends of one copy.
pub(super) struct Names<'n> {
    pub(super) source: BorrowedFd<'n>,
    pub(super) source_name: &'n [u8],
    pub(super) source_path: &'n [u8],
    pub(super) dest: BorrowedFd<'n>,
    pub(super) dest_name: &'n [u8],
    pub(super) dest_path: &'n [u8],
}

fn metadata_error(what: &str, op: &'static str, path: &[u8], errno: Errno) -> FsError {
    FsError::path(op, path, errno)
        .context(format!("failed to {what} {}", lossy(path)))
        .context("failed to copy file info")
}

impl Copier<'_> {
    pub(super) fn file(&mut self, names: &Names<'_>, meta: &Meta) -> Result<(), FsError> {
        if meta.nlink > 1 {
            if let Some(first) = self.links.get(&(meta.dev, meta.ino)) {
                match self.link(first, names) {
                    Ok(()) => return Ok(()),
                    // The inode has as many names as it can: a second copy it is.
                    Err(Errno::MLINK) => {}
                    Err(errno) => {
                        return Err(FsError::Link {
                            op: "link",
                            old: lossy(first),
                            new: lossy(names.dest_path),
                            errno,
                        }
                        .context("failed to create hard link"));
                    }
                }
            } else {
                let path = names.dest_path.to_vec();
                self.links.insert((meta.dev, meta.ino), path);
            }
        }
        let failed = |side: &str, path: &[u8], errno| {
            FsError::path("open", path, errno)
                .context(format!("failed to open {side} {}", lossy(path)))
                .context("failed to copy files")
        };
        // Without O_NONBLOCK a file that has meanwhile become a pipe would hang the build.
        let source = rustix::fs::openat(
            names.source,
            OsStr::from_bytes(names.source_name),
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| failed("source", names.source_path, errno))?;
        let dest = rustix::fs::openat(
            names.dest,
            OsStr::from_bytes(names.dest_name),
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .map_err(|errno| failed("target", names.dest_path, errno))?;
        self.stats.bytes += self
            .content
            .copy(source.as_fd(), dest.as_fd(), meta.size)
            .map_err(|errno| {
                FsError::path("write", names.dest_path, errno).context("failed to copy files")
            })?;
        self.open_metadata(&source, &dest, meta, names.dest_path)?;
        self.check_open(names.source_path, &source)?;
        self.check_content(names, meta, &source, dest)
    }

    /// Holds a copy against the digest of its source, where a change need not show in the stat.
    fn check_content(
        &self,
        names: &Names<'_>,
        meta: &Meta,
        source: &OwnedFd,
        dest: OwnedFd,
    ) -> Result<(), FsError> {
        let Some(visible) = self.visible else {
            return Ok(());
        };
        let Some(wanted) = visible.digest_wanted(names.source_path, meta)? else {
            return Ok(());
        };
        let failed = |errno| FsError::path("read", names.dest_path, errno);
        let xattrs = XattrsOf::Fd(source.as_fd()).read().unwrap_or_default();
        let mut copy = std::fs::File::from(dest);
        rustix::fs::seek(&copy, rustix::fs::SeekFrom::Start(0)).map_err(failed)?;
        let digest = hash::of_local_file(meta, &xattrs, &mut copy)
            .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        match digest == wanted {
            true => Ok(()),
            false => Err(FsError::Changed(lossy(names.source_path))),
        }
    }

    fn link(&self, first: &[u8], names: &Names<'_>) -> Result<(), Errno> {
        let (dir, name) = self.to.open_parent(first)?;
        rustix::fs::linkat(
            dir,
            OsStr::from_bytes(name),
            names.dest,
            OsStr::from_bytes(names.dest_name),
            AtFlags::empty(),
        )
    }

    pub(super) fn symlink(&self, names: &Names<'_>, meta: &Meta) -> Result<(), FsError> {
        let name = OsStr::from_bytes(names.source_name);
        let target = rustix::fs::readlinkat(names.source, name, Vec::new()).map_err(|errno| {
            FsError::path("readlink", names.source_path, errno)
                .context(format!("failed to read link: {}", lossy(names.source_path)))
        })?;
        rustix::fs::symlinkat(&target, names.dest, OsStr::from_bytes(names.dest_name)).map_err(
            |errno| {
                FsError::Link {
                    op: "symlink",
                    old: lossy(target.as_bytes()),
                    new: lossy(names.dest_path),
                    errno,
                }
                .context(format!(
                    "failed to create symlink: {}",
                    lossy(names.dest_path)
                ))
            },
        )?;
        self.named_metadata(names, meta)?;
        self.check_named(names)
    }

    fn check_named(&self, names: &Names<'_>) -> Result<(), FsError> {
        if self.visible.is_none() {
            return Ok(());
        }
        let meta = Meta::of(names.source, names.source_name)
            .map_err(|_| FsError::Changed(lossy(names.source_path)))?;
        self.check(names.source_path, &meta)
    }

    /// Device files and pipes. A socket makes no sense in an image: an empty file stands for
    /// it, as in BuildKit.
    pub(super) fn device(&self, names: &Names<'_>, meta: &Meta) -> Result<(), FsError> {
        let kind = match meta.kind() {
            FileType::Socket => FileType::RegularFile,
            kind => kind,
        };
        rustix::fs::mknodat(
            names.dest,
            OsStr::from_bytes(names.dest_name),
            kind,
            Mode::from_raw_mode(meta.permissions()),
            meta.rdev,
        )
        .map_err(|errno| {
            FsError::path("mknod", names.dest_path, errno).context("failed to create device")
        })?;
        self.named_metadata(names, meta)
    }

    fn owner(&self, meta: &Meta) -> Owner {
        let kept = match self.visible {
            Some(_) => Owner::of_local_sources(),
            None => Owner {
                uid: meta.uid,
                gid: meta.gid,
            },
        };
        self.options.owner.unwrap_or(kept)
    }

    pub(super) fn times(&self, meta: &Meta) -> (i128, i128) {
        match self.options.time {
            Some(time) => (time, time),
            None => (meta.atime, meta.mtime),
        }
    }

    fn permissions(&self, meta: &Meta) -> Mode {
        Mode::from_raw_mode(match (&self.options.mode_change, self.options.mode) {
            (Some(change), _) => change.apply(meta.permissions(), meta.is_dir()),
            (None, Some(mode)) => mode & 0o7777,
            (None, None) => meta.permissions(),
        })
    }

    /// Gives a file or directory, open on both sides, its owner, mode, time and attributes.
    pub(super) fn open_metadata(
        &self,
        source: &OwnedFd,
        dest: &OwnedFd,
        meta: &Meta,
        path: &[u8],
    ) -> Result<(), FsError> {
        let owner = self.owner(meta);
        rustix::fs::fchown(
            dest,
            Some(rustix::fs::Uid::from_raw(owner.uid)),
            Some(rustix::fs::Gid::from_raw(owner.gid)),
        )
        .map_err(|errno| metadata_error("chown", "lchown", path, errno))?;
        rustix::fs::fchmod(dest, self.permissions(meta))
            .map_err(|errno| metadata_error("chmod", "chmod", path, errno))?;
        let xattrs = XattrsOf::Fd(source.as_fd()).read().unwrap_or_default();
        XattrsOf::Fd(dest.as_fd()).set(&xattrs);
        let (atime, mtime) = self.times(meta);
        rustix::fs::futimens(dest, &root::timestamps(atime, mtime))
            .map_err(|errno| root::utime_error(path, errno).context("failed to copy file info"))
    }

    /// The same for what cannot be opened.
    fn named_metadata(&self, names: &Names<'_>, meta: &Meta) -> Result<(), FsError> {
        let path = names.dest_path;
        root::chown(names.dest, names.dest_name, self.owner(meta))
            .map_err(|errno| metadata_error("chown", "lchown", path, errno))?;
        if !meta.is_symlink() {
            let name = OsStr::from_bytes(names.dest_name);
            rustix::fs::chmodat(names.dest, name, self.permissions(meta), AtFlags::empty())
                .map_err(|errno| metadata_error("chmod", "chmod", path, errno))?;
        }
        let xattrs = XattrsOf::Path(&self.from.host_path(names.source_path))
            .read()
            .unwrap_or_default();
        if !xattrs.is_empty() {
            XattrsOf::Path(&self.to.host_path(path)).set(&xattrs);
        }
        let (atime, mtime) = self.times(meta);
        root::set_times(names.dest, names.dest_name, atime, mtime)
            .map_err(|errno| root::utime_error(path, errno).context("failed to copy file info"))
    }
}
