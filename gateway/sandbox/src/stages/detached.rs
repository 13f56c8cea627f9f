//! Mounts that are attached nowhere yet: a descriptor each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::error::{SetupError, Stage};
use crate::new_fs::NewFs;
use crate::overlay::{Overlay, Place};

/// Where an overlay's changes go.
pub(super) enum Upper<'a> {
    None,
    Dir { upper: &'a Path, work: &'a Path },
}

/// Stacks layers, topmost first. A single layer without an upper needs no
/// overlay.
pub(super) fn overlay(
    lowers: &[PathBuf],
    upper: Upper<'_>,
    user_namespace: bool,
    attributes: MountAttrFlags,
    stage: Stage,
) -> Result<OwnedFd, SetupError> {
    match (lowers, &upper) {
        ([], Upper::None) => {
            let detail = "neither layers nor an upper directory";
            return Err(SetupError::new(stage, 0, detail));
        }
        ([], Upper::Dir { upper, .. }) => return bind_dir(upper, attributes, stage),
        ([only], Upper::None) => {
            return bind_dir(only, attributes | MountAttrFlags::MOUNT_ATTR_RDONLY, stage);
        }
        _ => {}
    }
    let overlay = Overlay {
        lowers,
        changes: match upper {
            Upper::None => None,
            Upper::Dir { upper, work } => Some((upper, work)),
        },
        user_namespace,
    };
    // All of a starting sandbox happens in a mount namespace of its own.
    let result = match overlay.mount(attributes, Place::PrivateNamespace, stage) {
        // A work directory that was mounted `volatile` before carries a mark
        // that refuses every later mount.
        Err(error) if error.errno == libc::EINVAL => {
            let Some((_, work)) = overlay.changes else {
                return Err(error);
            };
            if std::fs::remove_dir_all(work.join("work/incompat")).is_err() {
                return Err(explain_overlay(error));
            }
            overlay.mount(attributes, Place::PrivateNamespace, stage)
        }
        result => result,
    };
    result.map_err(explain_overlay)
}

fn explain_overlay(mut error: SetupError) -> SetupError {
    if matches!(error.errno, libc::EINVAL | libc::EPERM | libc::ENODEV) {
        error.detail.push_str(
            " (the directory for changes must be on a file system with extended attributes that \
             is no overlay itself: inside a container put the state directory on a volume)",
        );
    }
    error
}

fn bind_dir(path: &Path, attributes: MountAttrFlags, stage: Stage) -> Result<OwnedFd, SetupError> {
    let fail = |errno| SetupError::new(stage, errno, path.display().to_string());
    let fd = clone_tree(rustix::fs::CWD, path, true).map_err(fail)?;
    let attributes = u64::from(attributes.bits());
    crate::sys::mount_setattr(fd.as_fd(), c"", true, attributes, 0).map_err(fail)?;
    Ok(fd)
}

/// A detached copy of the mount (or the part of it) at a path; an empty path
/// means what `dirfd` refers to.
pub(super) fn clone_tree(
    dirfd: BorrowedFd<'_>,
    path: &Path,
    recursive: bool,
) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(dirfd, path, flags)
}

/// Attaches a detached mount to an open file or directory.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// An empty file system in memory.
pub(super) fn tmpfs(
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
    stage: Stage,
) -> Result<OwnedFd, SetupError> {
    let fs = NewFs::open("tmpfs", stage)?;
    for (key, value) in options {
        fs.set(key, value)?;
    }
    fs.mount(attributes)
}
