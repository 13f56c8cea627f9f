//! Removes the mount points that were made for a run, so that they do not
//! become part of what the run wrote.
//!
//! It works on the directory behind the root file system after every mount is
//! gone: in an upper directory a removed stub leaves no whiteout behind.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};

use crate::spec::{Root, SandboxSpec};
use crate::walk::Made;

/// Where the changes of a root file system end up.
pub(crate) struct Changes {
    dir: PathBuf,
    /// Whether the directory holds nothing but changes.
    upper: bool,
}

impl Changes {
    /// `None` when there are none that outlive the run.
    pub(crate) fn of(spec: &SandboxSpec) -> Option<Changes> {
        match &spec.root {
            Root::Overlay { lowers, upper, .. } => Some(Changes {
                dir: upper.clone(),
                upper: !lowers.is_empty(),
            }),
            Root::Dir {
                path,
                readonly: false,
            } => Some(Changes {
                dir: path.clone(),
                upper: false,
            }),
            Root::Dir { .. } | Root::Throwaway { .. } => None,
        }
    }
}

struct Parent {
    fd: OwnedFd,
    /// Access and modification time when the run ended.
    at_end: [(i64, i64); 2],
    /// The same before the first stub was made.
    before: [(i64, i64); 2],
    /// Modification time after the last stub was made.
    after: (i64, i64),
}

/// Removes what is still an empty directory or an empty file. Best effort:
/// what the payload replaced, filled or moved is its own.
pub(crate) fn remove(changes: &Changes, made: &[Made]) {
    if made.is_empty() {
        return;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(base) = rustix::fs::open(&changes.dir, flags, Mode::empty()) else {
        return;
    };
    let mut parents: BTreeMap<&Path, Parent> = BTreeMap::new();
    for stub in made {
        let Some(path) = stub.path.parent() else {
            continue;
        };
        if let Some(parent) = parents.get_mut(path) {
            parent.after = stub.parent_mtime_after;
        } else if let Ok(fd) = open_beneath(base.as_fd(), path)
            && let Some(at_end) = times(fd.as_fd())
        {
            let parent = Parent {
                fd,
                at_end,
                before: stub.parent_times,
                after: stub.parent_mtime_after,
            };
            parents.insert(path, parent);
        }
    }
    for stub in made.iter().rev() {
        let (Some(path), Some(name)) = (stub.path.parent(), stub.path.file_name()) else {
            continue;
        };
        if let Some(parent) = parents.get(path) {
            remove_one(parent.fd.as_fd(), name);
        }
    }
    for (path, parent) in &parents {
        // Nothing but our stubs happened here: as if they had never been.
        // Clock ticks are coarse, so equal times alone prove little.
        let untouched = parent.at_end[1] == parent.after
            && (!changes.upper
                || entries(parent.fd.as_fd()).is_some_and(|names| {
                    names.iter().all(|n| parents.contains_key(&*path.join(n)))
                }));
        let times = if untouched {
            parent.before
        } else {
            parent.at_end
        };
        set_times(parent.fd.as_fd(), times);
    }
}

fn open_beneath(base: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    rustix::fs::openat2(
        base,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

fn remove_one(parent: BorrowedFd<'_>, name: &std::ffi::OsStr) {
    let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return;
    };
    let flags = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => AtFlags::REMOVEDIR,
        FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
        _ => return,
    };
    // A directory that is not empty stays: that is the check.
    let _ = rustix::fs::unlinkat(parent, name, flags);
}

fn times(fd: BorrowedFd<'_>) -> Option<[(i64, i64); 2]> {
    let stat = rustix::fs::fstat(fd).ok()?;
    Some([
        (stat.st_atime as i64, stat.st_atime_nsec as i64),
        (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
    ])
}

fn set_times(fd: BorrowedFd<'_>, [access, modification]: [(i64, i64); 2]) {
    let spec = |(seconds, nanoseconds): (i64, i64)| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: spec(access),
        last_modification: spec(modification),
    };
    // The directory may itself have been a stub and be gone by now.
    let _ = rustix::fs::futimens(fd, &times);
}

fn entries(dir: BorrowedFd<'_>) -> Option<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).ok()? {
        let name = entry.ok()?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Some(names)
}
