//! What must be changed in one file system to have another, as the directory of a layer: for diffs of results that
//! are not built on one another.
//!
//! A file is the same when its type, mode, owner, device, capability, size and time are; where both times are whole
//! seconds the content decides, since archives keep no more of them. Directories are the same by mode, owner and
//! capability. That is BuildKit's rule, which it needs for layers too.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fs::copy::{CopyOptions, copy};
use crate::fs::error::FsError;
use crate::fs::gopath;
use crate::fs::meta::{Meta, XattrsOf};
use crate::fs::root::{self, Owner, Root};
use crate::view::in_user_namespace;

const CAPABILITY: &[u8] = b"security.capability";
/// Bytes of two files that are compared at a time.
const BLOCK: u64 = 64 << 10;

/// Fills the empty directory `out` with what is other in `upper` than in `lower`; what is gone becomes an overlay's
/// mark of absence.
pub fn write(
    lower: &Root,
    upper: &Root,
    out: &Root,
    cancel: Option<&AtomicBool>,
) -> Result<(), FsError> {
    let mut difference = Difference {
        lower,
        upper,
        out,
        cancel,
        made: BTreeMap::new(),
    };
    difference.make(b"/")?;
    difference.walk(b"/")?;
    // What was put into them changed their times; the innermost come first.
    for (path, meta) in difference.made.iter().rev() {
        let failed = |errno| FsError::path("utimensat", path, errno);
        let (dir, name) = out.open_parent(path).map_err(failed)?;
        root::set_times(dir.as_fd(), name, meta.atime, meta.mtime).map_err(failed)?;
    }
    Ok(())
}

struct Difference<'a> {
    lower: &'a Root,
    upper: &'a Root,
    out: &'a Root,
    cancel: Option<&'a AtomicBool>,
    /// Directories of `out`, with what they are in `upper`. A directory sorts before what is in it.
    made: BTreeMap<Vec<u8>, Meta>,
}

impl Difference<'_> {
    fn walk(&mut self, dir: &[u8]) -> Result<(), FsError> {
        if self
            .cancel
            .is_some_and(|cancel| cancel.load(Ordering::Relaxed))
        {
            return Err(FsError::Cancelled);
        }
        let (below, above) = (names(self.lower, dir)?, names(self.upper, dir)?);
        for name in below.union(&above) {
            let path = gopath::join(dir, name);
            if !above.contains(name) {
                self.make(dir)?;
                self.remove(dir, &path)?;
                continue;
            }
            let new = self.upper.lstat(&path)?;
            let old = match below.contains(name) {
                true => Some(self.lower.lstat(&path)?),
                false => None,
            };
            match old {
                Some(old) if old.is_dir() && new.is_dir() => {
                    if !self.same(&path, &old, &new)? {
                        self.make(&path)?;
                    }
                    self.walk(&path)?;
                }
                Some(old) if self.same(&path, &old, &new)? => {}
                _ => {
                    self.make(dir)?;
                    let options = CopyOptions {
                        cancel: self.cancel,
                        ..CopyOptions::default()
                    };
                    copy(self.upper, &path, self.out, &path, &options)?;
                }
            }
        }
        Ok(())
    }

    /// A directory of `out` and those above it, each as it is in `upper`.
    fn make(&mut self, path: &[u8]) -> Result<(), FsError> {
        if self.made.contains_key(path) {
            return Ok(());
        }
        if path != b"/" {
            self.make(&gopath::dir(path))?;
        }
        let meta = self.upper.lstat(path)?;
        let failed = |errno| FsError::path("mkdir", path, errno);
        let (dir, name) = self.out.open_parent(path).map_err(failed)?;
        if path != b"/" {
            root::make_dir(dir.as_fd(), name, 0o700).map_err(failed)?;
        }
        let owner = Owner {
            uid: meta.uid,
            gid: meta.gid,
        };
        root::chown(dir.as_fd(), name, owner).map_err(failed)?;
        let mode = Mode::from_raw_mode(meta.permissions());
        rustix::fs::chmodat(&dir, OsStr::from_bytes(name), mode, AtFlags::empty())
            .map_err(failed)?;
        let xattrs = XattrsOf::Path(&self.upper.host_path(path)).read();
        XattrsOf::Path(&self.out.host_path(path)).set(&xattrs.map_err(failed)?);
        self.made.insert(path.to_vec(), meta);
        Ok(())
    }

    fn remove(&self, dir: &[u8], path: &[u8]) -> Result<(), FsError> {
        let failed = |errno| FsError::path("mknod", path, errno);
        let (parent, name) = self.out.open_parent(path).map_err(failed)?;
        let name = OsStr::from_bytes(name);
        rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(failed)?;
        // Overlays look for absent names only in directories that are several, or were copied from below: else the
        // name would be listed, though nothing is there.
        let mark = match in_user_namespace() {
            true => "user.overlay.origin",
            false => "trusted.overlay.origin",
        };
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(self.out.host_path(dir), mark, &[], flags)
            .map_err(|errno| FsError::path("setxattr", dir, errno))
    }

    fn same(&self, path: &[u8], old: &Meta, new: &Meta) -> Result<bool, FsError> {
        let key = |meta: &Meta| (meta.mode, meta.uid, meta.gid, meta.rdev);
        if key(old) != key(new) {
            return Ok(false);
        }
        let capability = |root: &Root| {
            let xattrs = XattrsOf::Path(&root.host_path(path)).read();
            let xattrs = xattrs.map_err(|errno| FsError::path("listxattr", path, errno))?;
            Ok::<_, FsError>(xattrs.get(CAPABILITY).cloned())
        };
        if capability(self.lower)? != capability(self.upper)? {
            return Ok(false);
        }
        if new.is_dir() {
            return Ok(true);
        }
        if (old.size, old.mtime) != (new.size, new.mtime) {
            return Ok(false);
        }
        if new.mtime.rem_euclid(1_000_000_000) != 0 {
            return Ok(true);
        }
        let failed = |errno| FsError::path("read", path, errno);
        match new.kind() {
            FileType::Symlink => {
                let target = |root: &Root| root.read_link(path).map_err(failed);
                Ok(target(self.lower)? == target(self.upper)?)
            }
            FileType::RegularFile => self.same_content(path).map_err(failed),
            _ => Ok(true),
        }
    }

    fn same_content(&self, path: &[u8]) -> Result<bool, Errno> {
        let open = |root: &Root| {
            let fd = root.open_resolved(path, OFlags::RDONLY, Mode::empty())?;
            Ok::<_, Errno>(std::fs::File::from(fd))
        };
        let (mut old, mut new) = (open(self.lower)?, open(self.upper)?);
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        loop {
            for (file, buffer) in [(&mut old, &mut one), (&mut new, &mut two)] {
                buffer.clear();
                file.take(BLOCK).read_to_end(buffer).map_err(failed)?;
            }
            if one != two {
                return Ok(false);
            }
            if one.is_empty() {
                return Ok(true);
            }
        }
    }
}

fn names(root: &Root, dir: &[u8]) -> Result<BTreeSet<Vec<u8>>, FsError> {
    let failed = |errno| FsError::path("readdir", dir, errno);
    let open = root.open_dir(dir).map_err(failed)?;
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(&open).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.insert(name.to_vec());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn put(dir: &Path, name: &str, text: &str, seconds: u64) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }

    /// All that is in a directory, a word each on what it is.
    fn listing(dir: &Path, prefix: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut entries: Vec<_> = fs::read_dir(dir).unwrap().flatten().collect();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                lines.push(format!("{name}/"));
                lines.extend(listing(&entry.path(), &format!("{name}/")));
            } else if kind.is_char_device() {
                assert_eq!(entry.metadata().unwrap().rdev(), 0);
                lines.push(format!("{name} gone"));
            } else if kind.is_symlink() {
                lines.push(format!(
                    "{name} -> {}",
                    fs::read_link(entry.path()).unwrap().display()
                ));
            } else {
                lines.push(format!(
                    "{name} {}",
                    fs::read_to_string(entry.path()).unwrap()
                ));
            }
        }
        lines
    }

    #[test]
    fn a_difference_has_what_is_other_new_and_gone_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let [lower, upper, out] = ["lower", "upper", "out"].map(|name| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        });
        for root in [&lower, &upper] {
            put(root, "same/a", "a", 100);
            put(root, "deep/er/same", "s", 100);
            symlink("same/a", root.join("link")).unwrap();
        }
        for root in [&lower, &upper] {
            // Links have the time of their making.
            let whole = rustix::fs::Timespec {
                tv_sec: 5,
                tv_nsec: 0,
            };
            let times = rustix::fs::Timestamps {
                last_access: whole,
                last_modification: whole,
            };
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, root.join("link"), &times, flags).unwrap();
        }
        put(&lower, "deep/er/edited", "1", 100);
        put(&upper, "deep/er/edited", "2", 100);
        put(&lower, "older", "x", 100);
        put(&upper, "older", "x", 101);
        put(&lower, "gone/with/all", "x", 100);
        put(&lower, "same/gone", "x", 100);
        put(&upper, "new/tree/f", "n", 100);
        put(&lower, "file-to-dir", "x", 100);
        put(&upper, "file-to-dir/f", "f", 100);
        put(&lower, "dir-to-file/f", "f", 100);
        put(&upper, "dir-to-file", "x", 100);
        for root in [&lower, &upper] {
            put(root, "mode/f", "f", 100);
        }
        fs::set_permissions(upper.join("mode"), fs::Permissions::from_mode(0o700)).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(77);
        File::open(upper.join("deep"))
            .unwrap()
            .set_modified(time)
            .unwrap();

        let [lower, upper, open] = [&lower, &upper, &out].map(|path| Root::open(path).unwrap());
        write(&lower, &upper, &open, None).unwrap();
        let expected = [
            "deep/",
            "deep/er/",
            "deep/er/edited 2",
            "dir-to-file x",
            "file-to-dir/",
            "file-to-dir/f f",
            "gone gone",
            "mode/",
            "new/",
            "new/tree/",
            "new/tree/f n",
            "older x",
            "same/",
            "same/gone gone",
        ];
        assert_eq!(listing(&out, ""), expected);
        assert_eq!(fs::metadata(out.join("deep")).unwrap().mtime(), 77);
        assert_eq!(
            fs::metadata(out.join("mode")).unwrap().mode() & 0o777,
            0o700
        );
        assert_eq!(fs::metadata(out.join("older")).unwrap().mtime(), 101);
    }

    #[test]
    fn a_difference_stops_when_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let cancel = AtomicBool::new(true);
        let stopped = write(&root, &root, &root, Some(&cancel));
        assert!(matches!(stopped, Err(FsError::Cancelled)));
    }
}
