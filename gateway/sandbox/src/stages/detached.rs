//! Mounts that are attached nowhere yet: a descriptor each.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::error::{SetupError, Stage};

/// The kernel takes no more layers than this in one overlay.
const MAX_LAYERS: usize = 500;

/// A file system being configured. Failures carry what the kernel wrote about
/// them, which is the only place where it says which option was wrong.
pub(super) struct NewFs {
    fd: OwnedFd,
    name: &'static str,
    stage: Stage,
}

impl NewFs {
    pub(super) fn open(name: &'static str, stage: Stage) -> Result<NewFs, SetupError> {
        match fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fd) => {
                // What the first column of /proc/mounts shows.
                let _ = fsconfig_set_string(&fd, "source", name);
                Ok(NewFs { fd, name, stage })
            }
            Err(errno) => Err(SetupError::new(stage, errno, format!("opening {name}"))),
        }
    }

    pub(super) fn set(&self, key: &str, value: &str) -> Result<(), SetupError> {
        fsconfig_set_string(&self.fd, key, value)
            .map_err(|e| self.error(e, &format!("option {key}={value}")))
    }

    pub(super) fn set_path(&self, key: &str, value: &Path) -> Result<(), SetupError> {
        fsconfig_set_string(&self.fd, key, value)
            .map_err(|e| self.error(e, &format!("option {key}={}", value.display())))
    }

    pub(super) fn flag(&self, key: &str) -> Result<(), SetupError> {
        fsconfig_set_flag(&self.fd, key).map_err(|e| self.error(e, &format!("option {key}")))
    }

    /// Sets an option that older kernels or user namespaces may refuse.
    pub(super) fn try_flag(&self, key: &str) {
        let _ = fsconfig_set_flag(&self.fd, key);
    }

    pub(super) fn mount(self, attributes: MountAttrFlags) -> Result<OwnedFd, SetupError> {
        fsconfig_create(&self.fd).map_err(|e| self.error(e, "creating"))?;
        fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|e| self.error(e, "mounting"))
    }

    fn error(&self, errno: Errno, what: &str) -> SetupError {
        let mut detail = format!("{what} ({})", self.name);
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = rustix::io::read(&self.fd, &mut buffer) {
            let line = buffer.get(..length).unwrap_or_default();
            detail.push_str("; kernel: ");
            // Each line starts with its severity and a blank.
            let text = String::from_utf8_lossy(line);
            detail.push_str(text.get(2..).unwrap_or_default().trim());
        }
        SetupError::new(self.stage, errno, detail)
    }
}

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
            return Err(SetupError::new(
                stage,
                0,
                "neither layers nor an upper directory",
            ));
        }
        ([], Upper::Dir { upper, .. }) => return bind_dir(upper, attributes, stage),
        ([only], Upper::None) => {
            return bind_dir(only, attributes | MountAttrFlags::MOUNT_ATTR_RDONLY, stage);
        }
        _ => {}
    }
    if lowers.len() > MAX_LAYERS {
        let detail = format!("{} layers, the kernel takes {MAX_LAYERS}", lowers.len());
        return Err(SetupError::new(stage, 0, detail));
    }
    match configure_overlay(lowers, &upper, user_namespace, stage)?.mount(attributes) {
        // A work directory that was mounted `volatile` before carries a mark
        // that refuses every later mount.
        Err(error) if error.errno == libc::EINVAL => {
            let Upper::Dir { work, .. } = &upper else {
                return Err(error);
            };
            if std::fs::remove_dir_all(work.join("work/incompat")).is_err() {
                return Err(explain_overlay(error));
            }
            configure_overlay(lowers, &upper, user_namespace, stage)?.mount(attributes)
        }
        result => result.map_err(explain_overlay),
    }
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

fn configure_overlay(
    lowers: &[PathBuf],
    upper: &Upper<'_>,
    user_namespace: bool,
    stage: Stage,
) -> Result<NewFs, SetupError> {
    let fs = NewFs::open("overlay", stage)?;
    // The kernel takes no directory twice. Images do contain a layer twice; the
    // lower one shows nothing that the upper one does not.
    let mut seen = HashSet::new();
    for lower in lowers.iter().filter(|lower| seen.insert(*lower)) {
        fs.set_path("lowerdir+", lower).map_err(|mut error| {
            if error.errno == libc::EINVAL {
                error.detail.push_str(" (Linux 6.5 or newer is needed)");
            }
            error
        })?;
    }
    if let Upper::Dir { upper, work } = upper {
        fs.set_path("upperdir", upper)?;
        fs.set_path("workdir", work)?;
        // Without it each unmount writes back the whole file system that
        // holds the upper directory.
        fs.flag("volatile")?;
    }
    if user_namespace {
        fs.flag("userxattr")?;
    } else {
        // Renamed directories and metadata-only copies are stored in ways
        // that whoever reads the upper directory would have to understand.
        fs.set("redirect_dir", "off")?;
        fs.set("metacopy", "off")?;
    }
    fs.set("index", "off")?;
    fs.set("xino", "off")?;
    Ok(fs)
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
