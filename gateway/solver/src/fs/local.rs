//! A private copy of a local source: filtered, owned by root, brought up to date in place.
//!
//! A second sync writes only what differs by stat, as the reference's receiver decides it:
//! size and time of files, modes, link texts, device numbers (and extended attributes, which
//! the reference forgets). Changed files are new files, never written over: a build that
//! still reads the old ones keeps them.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::content::ContentCopier;
use super::error::FsError;
use super::gopath;
use super::meta::{Meta, Xattrs, XattrsOf};
use super::root::{self, Owner, Root};
use super::walk::{self, Entry, Filter};

/// How to sync.
#[derive(Clone, Copy, Default)]
pub struct SyncOptions<'a> {
    /// Told the bytes copied so far, after each file.
    pub progress: Option<&'a dyn Fn(u64)>,
    /// Stop soon after this becomes true; what is copied by then stays.
    pub cancel: Option<&'a AtomicBool>,
}

/// What a sync did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Entries of the source, directories included.
    pub entries: u64,
    /// Entries that were written, directories included.
    pub written: u64,
    /// Bytes of the files among them.
    pub bytes: u64,
    /// Entries removed because the source has them no longer.
    pub removed: u64,
}

/// Makes the directory `to` a filtered copy of `from`.
pub fn sync_into(
    from: &Root,
    filter: &Filter,
    to: &Root,
    options: &SyncOptions<'_>,
) -> Result<SyncStats, FsError> {
    sync_entries(from, &walk::entries(from, filter)?, to, options)
}

/// The same with the entries of a walk over `from`, or some of them with their directories.
pub fn sync_entries(
    from: &Root,
    entries: &[Entry],
    to: &Root,
    options: &SyncOptions<'_>,
) -> Result<SyncStats, FsError> {
    let mut sync = Sync {
        from,
        to,
        options,
        owner: Owner::of_local_sources(),
        rest: entries,
        links: HashMap::new(),
        content: ContentCopier::default(),
        stats: SyncStats::default(),
    };
    let dir = to
        .open_dir(b"/")
        .map_err(|errno| FsError::path("open", "/", errno))?;
    sync.directory(&dir, b"")?;
    Ok(sync.stats)
}

struct Sync<'a> {
    from: &'a Root,
    to: &'a Root,
    options: &'a SyncOptions<'a>,
    owner: Owner,
    /// Entries not looked at yet, in walking order.
    rest: &'a [Entry],
    /// Inode in the copy of each path, for hard links to it.
    links: HashMap<&'a [u8], u64>,
    content: ContentCopier,
    stats: SyncStats,
}

impl<'a> Sync<'a> {
    /// Syncs what is directly below `path`, and removes what should not be there.
    fn directory(&mut self, dir: &OwnedFd, path: &[u8]) -> Result<(), FsError> {
        let failed = |errno| FsError::path("open", path, errno);
        let mut extra: BTreeSet<Vec<u8>> = root::read_dir(dir.as_fd())
            .map_err(failed)?
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        while let Some((entry, rest)) = self.rest.split_first() {
            let Some(name) = child_name(path, &entry.path) else {
                break;
            };
            self.rest = rest;
            let exists = extra.remove(name);
            self.entry(dir, name, entry, exists)?;
        }
        for name in extra {
            root::remove_all(dir.as_fd(), &name)
                .map_err(|errno| FsError::path("unlinkat", gopath::join(path, &name), errno))?;
            self.stats.removed += 1;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        entry: &'a Entry,
        exists: bool,
    ) -> Result<(), FsError> {
        if self
            .options
            .cancel
            .is_some_and(|c| c.load(Ordering::Relaxed))
        {
            return Err(FsError::Cancelled);
        }
        self.stats.entries += 1;
        let failed = |errno| FsError::path("lstat", &entry.path, errno);
        let mut old = None;
        if exists {
            old = Some(Meta::of(dir.as_fd(), name).map_err(failed)?);
        }
        if entry.meta.is_dir() {
            return self.enter(dir, name, entry, old);
        }
        let xattrs = self.xattrs(entry)?;
        if let Some(old) = old
            && self.is_same(dir, name, entry, &old, &xattrs)?
        {
            self.remember(entry, old.ino);
            return Ok(());
        }
        if old.is_some() {
            root::remove_all(dir.as_fd(), name)
                .map_err(|errno| FsError::path("unlinkat", &entry.path, errno))?;
        }
        self.stats.written += 1;
        self.write(dir, name, entry, &xattrs)?;
        if entry.meta.nlink > 1 {
            let ino = Meta::of(dir.as_fd(), name).map_err(failed)?.ino;
            self.remember(entry, ino);
        }
        Ok(())
    }

    fn remember(&mut self, entry: &'a Entry, ino: u64) {
        if entry.meta.nlink > 1 && entry.hard_link.is_none() {
            self.links.insert(&entry.path, ino);
        }
    }

    fn enter(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        entry: &'a Entry,
        old: Option<Meta>,
    ) -> Result<(), FsError> {
        let failed = |op| move |errno| FsError::path(op, &entry.path, errno);
        let stays = old.is_some_and(|old| old.is_dir());
        if old.is_some() && !stays {
            root::remove_all(dir.as_fd(), name).map_err(failed("unlinkat"))?;
        }
        if !stays {
            self.stats.written += 1;
            root::make_dir(dir.as_fd(), name, 0o700).map_err(failed("mkdir"))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty())
            .map_err(failed("open"))?;
        self.directory(&fd, &entry.path)?;
        let now = Meta::of_fd(fd.as_fd()).map_err(failed("fstat"))?;
        let xattrs = self.xattrs(entry)?;
        if stays && wanted(XattrsOf::Fd(fd.as_fd()).read().unwrap_or_default()) != xattrs {
            // Attributes cannot be compared away one by one; set what is there now.
            XattrsOf::Fd(fd.as_fd()).set(&xattrs);
        }
        if now.mode == entry.meta.mode && now.mtime == entry.meta.mtime && self.is_owned(&now) {
            return Ok(());
        }
        self.finish(&fd, entry, &xattrs)
    }

    fn is_owned(&self, meta: &Meta) -> bool {
        (meta.uid, meta.gid) == (self.owner.uid, self.owner.gid)
    }

    /// Whether the copy has what the source has, without reading either.
    fn is_same(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        old: &Meta,
        xattrs: &Xattrs,
    ) -> Result<bool, FsError> {
        let new = &entry.meta;
        if let Some(first) = &entry.hard_link {
            return Ok(self.links.get(first.as_slice()) == Some(&old.ino));
        }
        if old.kind() != copied_kind(new) || !self.is_owned(old) {
            return Ok(false);
        }
        if new.is_symlink() {
            let target = rustix::fs::readlinkat(dir, OsStr::from_bytes(name), Vec::new())
                .map_err(|errno| FsError::path("readlink", &entry.path, errno))?;
            return Ok(Some(target.as_bytes()) == entry.target.as_deref() && old.mtime == new.mtime);
        }
        // A copy that was linked is linked no longer if the source is not.
        let linked = old.nlink > 1 && new.nlink == 1;
        let same = old.permissions() == new.permissions()
            && (old.size, old.mtime, old.rdev) == (new.size, new.mtime, new.rdev)
            && !linked;
        if !same {
            return Ok(false);
        }
        let path = self.to.host_path(&entry.path);
        Ok(wanted(XattrsOf::Path(&path).read().unwrap_or_default()) == *xattrs)
    }

    fn xattrs(&self, entry: &Entry) -> Result<Xattrs, FsError> {
        if entry.hard_link.is_some() {
            return Ok(Xattrs::new());
        }
        let path = self.from.host_path(&entry.path);
        match XattrsOf::Path(&path).read() {
            Ok(xattrs) => Ok(wanted(xattrs)),
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => Ok(Xattrs::new()),
            Err(errno) => {
                Err(FsError::path("llistxattr", &entry.path, errno).context("failed to xattr"))
            }
        }
    }

    fn write(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        xattrs: &Xattrs,
    ) -> Result<(), FsError> {
        let failed = |op| move |errno| FsError::path(op, &entry.path, errno);
        let os_name = OsStr::from_bytes(name);
        if let Some(first) = &entry.hard_link {
            let (old_dir, old) = self.to.open_parent(first).map_err(failed("link"))?;
            let old = OsStr::from_bytes(old);
            return rustix::fs::linkat(&old_dir, old, dir, os_name, AtFlags::empty())
                .map_err(failed("link"));
        }
        match entry.meta.kind() {
            FileType::RegularFile => return self.write_file(dir, name, entry, xattrs),
            FileType::Symlink => {
                let target = OsStr::from_bytes(entry.target.as_deref().unwrap_or_default());
                rustix::fs::symlinkat(target, dir, os_name).map_err(failed("symlink"))?;
            }
            _ => {
                let mode = Mode::from_raw_mode(entry.meta.permissions());
                let kind = copied_kind(&entry.meta);
                rustix::fs::mknodat(dir, os_name, kind, mode, entry.meta.rdev)
                    .map_err(failed("mknod"))?;
                rustix::fs::chmodat(dir, os_name, mode, AtFlags::empty())
                    .map_err(failed("chmod"))?;
            }
        }
        root::chown(dir.as_fd(), name, self.owner).map_err(failed("lchown"))?;
        if !xattrs.is_empty() {
            XattrsOf::Path(&self.to.host_path(&entry.path)).set(xattrs);
        }
        let time = entry.meta.mtime;
        root::set_times(dir.as_fd(), name, time, time).map_err(failed("utime"))
    }

    fn write_file(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        xattrs: &Xattrs,
    ) -> Result<(), FsError> {
        let failed = |op| move |errno| FsError::path(op, &entry.path, errno);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let source = self
            .from
            .open_resolved(&entry.path, flags, Mode::empty())
            .map_err(failed("open"))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let dest = rustix::fs::openat(dir, OsStr::from_bytes(name), flags, mode)
            .map_err(failed("open"))?;
        self.stats.bytes += self
            .content
            .copy(source.as_fd(), dest.as_fd(), entry.meta.size)
            .map_err(failed("write"))?;
        self.finish(&dest, entry, xattrs)?;
        if let Some(progress) = self.options.progress {
            progress(self.stats.bytes);
        }
        Ok(())
    }

    /// Owner, mode, attributes and time of an open copy.
    fn finish(&self, fd: &OwnedFd, entry: &Entry, xattrs: &Xattrs) -> Result<(), FsError> {
        let failed = |op| move |errno| FsError::path(op, &entry.path, errno);
        rustix::fs::fchown(
            fd,
            Some(rustix::fs::Uid::from_raw(self.owner.uid)),
            Some(rustix::fs::Gid::from_raw(self.owner.gid)),
        )
        .map_err(failed("chown"))?;
        let mode = Mode::from_raw_mode(entry.meta.permissions());
        rustix::fs::fchmod(fd, mode).map_err(failed("chmod"))?;
        XattrsOf::Fd(fd.as_fd()).set(xattrs);
        let time = entry.meta.mtime;
        rustix::fs::futimens(fd, &root::timestamps(time, time))
            .map_err(|errno| root::utime_error(&entry.path, errno))
    }
}

/// The name of `path` if it lies directly below `dir`.
fn child_name<'p>(dir: &[u8], path: &'p [u8]) -> Option<&'p [u8]> {
    let name = match dir {
        [] => path,
        dir => path.strip_prefix(dir)?.strip_prefix(b"/")?,
    };
    (!name.contains(&b'/')).then_some(name)
}

/// What a copy is: a client sends a socket as an empty file.
fn copied_kind(meta: &Meta) -> FileType {
    match meta.kind() {
        FileType::Socket => FileType::RegularFile,
        kind => kind,
    }
}

/// The attributes that count: those of content hashes. Labels and access lists are the
/// host's own affair.
fn wanted(mut xattrs: Xattrs) -> Xattrs {
    xattrs.retain(|name, _| super::meta::is_portable_xattr(name));
    xattrs
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
