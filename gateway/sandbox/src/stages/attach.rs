//! Attaches the caller's mounts inside the root and notes which mount points
//! had to be made for them.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::FileType;

use super::detached;
use super::sources::Source;
use crate::error::{At, SetupError, Stage};
use crate::spec::{SandboxSpec, StubRemoval};
use crate::walk::{self, Create, Made};

/// Attaches `sources` in their order; returns what was made in the root's own
/// file system and is to be removed after the run.
pub(super) fn mounts(
    root: BorrowedFd<'_>,
    spec: &SandboxSpec,
    sources: Vec<Source>,
) -> Result<Vec<Made>, SetupError> {
    let device = rustix::fs::fstat(root)
        .at(Stage::Mount, || "/".into())?
        .st_dev as u64;
    let mut stubs = Vec::new();
    for Source { dest, mount } in sources {
        let what = || dest.clone();
        let kind = rustix::fs::fstat(&mount).at(Stage::Mount, what)?.st_mode;
        let create = match FileType::from_raw_mode(kind) {
            FileType::Directory => Create::Directory,
            _ => Create::File,
        };
        let target = walk::resolve(root, Path::new(&dest), create).at(Stage::Mount, what)?;
        refuse_special(&dest, &target.path)?;
        detached::attach(mount.as_fd(), target.fd.as_fd()).at(Stage::Mount, what)?;
        let made = target.made.into_iter().filter(|m| m.device == device);
        match spec.remove_mount_stubs {
            StubRemoval::Off => {}
            StubRemoval::Leaf => stubs.extend(made.filter(|m| m.path == target.path)),
            StubRemoval::Recursive => stubs.extend(made),
        }
    }
    Ok(stubs)
}

/// The root as a whole cannot be covered, and a mount below `/proc` would make
/// the kernel's answers the caller's.
pub(super) fn refuse_special(dest: &str, resolved: &Path) -> Result<(), SetupError> {
    if resolved.as_os_str().is_empty() || resolved.starts_with("proc") {
        let detail = format!("{dest}: nothing can be mounted on / or inside /proc");
        return Err(SetupError::new(Stage::Mount, 0, detail));
    }
    Ok(())
}
