//! The sources of the caller's mounts, opened while host paths are visible:
//! one detached mount each, in the caller's order.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::detached::{self, Upper};
use super::parking::Parking;
use super::rootfs;
use crate::error::{At, SetupError, Stage};
use crate::host::Host;
use crate::spec::MountKind;
use crate::sys;
use crate::walk::{self, Create};
use crate::wire::StartRequest;

/// A mount to be attached at a path of the root.
pub(super) struct Source {
    pub dest: String,
    pub mount: OwnedFd,
}

/// Everything that goes over the root besides the kernel's file systems.
pub(super) fn open(
    request: &StartRequest,
    host: &Host,
    parking: &Parking,
) -> Result<Vec<Source>, SetupError> {
    let spec = &request.spec;
    let mut sources = Vec::with_capacity(spec.mounts.len() + 2);
    if let Some(content) = &request.resolv_conf {
        sources.push(memory_file(
            parking,
            "/etc/resolv.conf",
            content,
            (0, 0),
            0o644,
        )?);
    }
    sources.push(memory_file(
        parking,
        "/etc/hosts",
        &request.hosts,
        (0, 0),
        0o644,
    )?);
    for mount in &spec.mounts {
        let dest = mount.dest.as_str();
        sources.push(match &mount.kind {
            MountKind::SecretFile {
                data,
                uid,
                gid,
                mode,
            } => memory_file(parking, dest, &data.0, (*uid, *gid), *mode & 0o777)?,
            kind => Source {
                dest: dest.to_owned(),
                mount: one(dest, kind, host, parking)?,
            },
        });
    }
    Ok(sources)
}

fn one(
    dest: &str,
    kind: &MountKind,
    host: &Host,
    parking: &Parking,
) -> Result<OwnedFd, SetupError> {
    let stage = Stage::MountSource;
    let nodev = MountAttrFlags::MOUNT_ATTR_NODEV;
    let (mount, readonly) = match kind {
        MountKind::Bind {
            source,
            selector,
            readonly,
        } => {
            let root = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .at(stage, || format!("{} for {dest}", source.display()))?;
            (select(&root, selector, dest)?, *readonly)
        }
        MountKind::Overlay {
            lowers,
            upper,
            work,
            selector,
            readonly,
        } => {
            let upper = match (upper, work) {
                (Some(upper), Some(work)) => Upper::Dir { upper, work },
                _ => Upper::None,
            };
            let mount = detached::overlay(lowers, upper, host.user_namespace, nodev, stage)?;
            (
                select_in_detached(mount, selector, dest, parking)?,
                *readonly,
            )
        }
        MountKind::Throwaway { lowers, selector } => {
            let mount = rootfs::throwaway(lowers, 0, host, parking, stage)?;
            (select_in_detached(mount, selector, dest, parking)?, false)
        }
        MountKind::Device { source } => return device(source, dest),
        MountKind::Tmpfs { size_bytes } => {
            let size = size_bytes.to_string();
            let options = [("size", size.as_str())];
            let options = if *size_bytes > 0 { &options[..] } else { &[] };
            let attributes = nodev | MountAttrFlags::MOUNT_ATTR_NOSUID;
            return detached::tmpfs(options, attributes, stage);
        }
        MountKind::SecretFile { .. } => {
            return Err(SetupError::new(
                stage,
                0,
                "a secret is not a mount of its own",
            ));
        }
    };
    let mut attributes = sys::ATTR_NODEV;
    if readonly {
        attributes |= sys::ATTR_RDONLY;
    }
    sys::mount_setattr(mount.as_fd(), c"", true, attributes, 0).at(stage, || {
        format!("setting attributes of the mount for {dest}")
    })?;
    Ok(mount)
}

/// A detached copy of a device node alone.
fn device(source: &Path, dest: &str) -> Result<OwnedFd, SetupError> {
    let stage = Stage::MountSource;
    let what = || format!("the device {} for {dest}", source.display());
    let node = detached::clone_tree(rustix::fs::CWD, source, false).at(stage, what)?;
    let stat = rustix::fs::fstat(&node).at(stage, what)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        let detail = format!("{} is no device", what());
        return Err(SetupError::new(stage, 0, detail));
    }
    let attributes = sys::ATTR_NOSUID | sys::ATTR_NOEXEC;
    sys::mount_setattr(node.as_fd(), c"", false, attributes, 0).at(stage, what)?;
    Ok(node)
}

/// A detached copy of what `selector` names inside `root`.
fn select(root: &OwnedFd, selector: &str, dest: &str) -> Result<OwnedFd, SetupError> {
    let stage = Stage::MountSource;
    let what = || format!("{selector} for {dest}");
    if selector.trim_matches('/').is_empty() {
        return detached::clone_tree(root.as_fd(), Path::new(""), true).at(stage, what);
    }
    let selected =
        walk::resolve(root.as_fd(), Path::new(selector), Create::Nothing).at(stage, what)?;
    detached::clone_tree(selected.fd.as_fd(), Path::new(""), true).at(stage, what)
}

fn select_in_detached(
    mount: OwnedFd,
    selector: &str,
    dest: &str,
    parking: &Parking,
) -> Result<OwnedFd, SetupError> {
    if selector.trim_matches('/').is_empty() {
        return Ok(mount);
    }
    parking.park(mount.as_fd())?;
    select(&mount, selector, dest)
}

/// A read-only file that exists in memory only, mounted by itself.
fn memory_file(
    parking: &Parking,
    dest: &str,
    content: &[u8],
    (uid, gid): (u32, u32),
    mode: u32,
) -> Result<Source, SetupError> {
    let stage = Stage::MountSource;
    let what = || format!("writing the file for {dest}");
    let name = parking.name();
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parking.dir(), &*name, flags, Mode::from_raw_mode(0o600))
        .at(stage, what)?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest).at(stage, what)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    if (uid, gid) != (0, 0) {
        rustix::fs::fchown(
            &file,
            Some(rustix::fs::Uid::from_raw(uid)),
            Some(rustix::fs::Gid::from_raw(gid)),
        )
        .at(stage, || {
            format!("giving the file for {dest} to {uid}:{gid}")
        })?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).at(stage, what)?;
    drop(file);
    let mount = detached::clone_tree(parking.dir(), Path::new(&name), false).at(stage, what)?;
    let mut attributes = sys::ATTR_RDONLY | sys::ATTR_NODEV | sys::ATTR_NOSUID;
    if mode & 0o111 == 0 {
        attributes |= sys::ATTR_NOEXEC;
    }
    sys::mount_setattr(mount.as_fd(), c"", false, attributes, 0).at(stage, what)?;
    Ok(Source {
        dest: dest.to_owned(),
        mount,
    })
}
