//! The root file system as a detached mount.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::mount::MountAttrFlags;

use super::detached::{self, Upper};
use super::parking::Parking;
use crate::error::{At, SetupError, Stage};
use crate::host::Host;
use crate::spec::{Root, SandboxSpec, Security};
use crate::sys;

/// No device node in the root can be opened: a step may make some (they
/// belong to its layer), but reaching the host's disks through them would
/// otherwise only be stopped by a device control group.
const ATTRIBUTES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;

fn attributes(spec: &SandboxSpec) -> MountAttrFlags {
    match spec.security {
        Security::Sandbox => ATTRIBUTES,
        // Devices are among what it asked for.
        Security::Insecure => MountAttrFlags::empty(),
    }
}

pub(super) fn open(
    spec: &SandboxSpec,
    host: &Host,
    parking: &Parking,
) -> Result<OwnedFd, SetupError> {
    match &spec.root {
        Root::Overlay {
            lowers,
            upper,
            work,
        } => detached::overlay(
            lowers,
            Upper::Dir { upper, work },
            host.user_namespace,
            attributes(spec),
            Stage::RootFs,
        ),
        Root::Throwaway { lowers, size_bytes } => {
            throwaway(lowers, *size_bytes, host, parking, Stage::RootFs)
        }
        Root::Dir { path, readonly } => {
            let fail = || path.display().to_string();
            let root = detached::clone_tree(rustix::fs::CWD, path, true).at(Stage::RootFs, fail)?;
            let mut attributes = u64::from(attributes(spec).bits());
            if *readonly {
                attributes |= sys::ATTR_RDONLY;
            }
            sys::mount_setattr(root.as_fd(), c"", true, attributes, 0).at(Stage::RootFs, fail)?;
            Ok(root)
        }
    }
}

/// Layers whose changes go to memory. The tmpfs that holds them is parked
/// and never visible to the payload.
pub(super) fn throwaway(
    lowers: &[PathBuf],
    size_bytes: u64,
    host: &Host,
    parking: &Parking,
    stage: Stage,
) -> Result<OwnedFd, SetupError> {
    let size = size_bytes.to_string();
    let mut options = vec![("mode", "0755")];
    if size_bytes > 0 {
        options.push(("size", size.as_str()));
    }
    let memory = detached::tmpfs(&options, ATTRIBUTES, stage)?;
    for name in ["upper", "work"] {
        rustix::fs::mkdirat(&memory, name, Mode::from_raw_mode(0o755))
            .at(stage, || "preparing a throw-away directory".into())?;
    }
    copy_root_metadata(lowers.first().map(PathBuf::as_path), &memory)
        .at(stage, || "preparing a throw-away directory".into())?;
    parking.park(memory.as_fd())?;
    let base = PathBuf::from(format!("/proc/self/fd/{}", memory.as_fd().as_raw_fd()));
    detached::overlay(
        lowers,
        Upper::Dir {
            upper: &base.join("upper"),
            work: &base.join("work"),
        },
        host.user_namespace,
        ATTRIBUTES,
        stage,
    )
}

/// The merged root directory shows the upper directory's owner and mode, so
/// these are taken from the topmost layer.
fn copy_root_metadata(top: Option<&Path>, memory: &OwnedFd) -> rustix::io::Result<()> {
    let Some(top) = top else { return Ok(()) };
    let stat = rustix::fs::stat(top)?;
    rustix::fs::chmodat(
        memory,
        "upper",
        Mode::from_raw_mode(stat.st_mode & 0o7777),
        rustix::fs::AtFlags::empty(),
    )?;
    rustix::fs::chownat(
        memory,
        "upper",
        Some(rustix::fs::Uid::from_raw(stat.st_uid)),
        Some(rustix::fs::Gid::from_raw(stat.st_gid)),
        rustix::fs::AtFlags::empty(),
    )
}
