//! Makes a sandbox's first process in its namespaces.

use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;

use crate::cgroup::{self, Group};
use crate::error::{At, SetupError, Stage};
use crate::spec::Network;
use crate::stages::{self, Child, Host};
use crate::sys::{self, Cloned};
use crate::wire::Received;

/// A process that is being set up.
pub(crate) struct Spawned {
    pub pidfd: OwnedFd,
    /// Gives [`stages::Report`]s, a line each, and ends when the payload runs.
    pub report: OwnedFd,
    pub cgroup: Option<Group>,
}

/// Starts the process. `serial` is unique among this zygote's.
///
/// # Safety
/// The process must be single-threaded.
pub(crate) unsafe fn spawn(
    host: &Host,
    received: Received,
    serial: u64,
) -> Result<Spawned, SetupError> {
    let spec = &received.request.spec;
    let name = format!("{}-{serial}", host.instance);
    let (cgroup, entrances) = match cgroup::create(spec, &name) {
        Ok(Some((group, entrances))) => (Some(group), entrances),
        Ok(None) => (None, Vec::new()),
        Err(_) if spec.resources_optional => (None, Vec::new()),
        Err(error) => return Err(error),
    };
    let mut namespaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    if spec.network == Network::None {
        namespaces |= libc::CLONE_NEWNET;
    }
    let (report, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .at(Stage::Namespaces, || "making a pipe".into())?;
    rustix::io::ioctl_fionbio(&report, true).at(Stage::Namespaces, || "making a pipe".into())?;
    // SAFETY: the caller's promise.
    let cloned = unsafe { sys::clone3(namespaces as u64) };
    match cloned.at(Stage::Namespaces, || "clone3".into())? {
        Cloned::Parent { pidfd } => Ok(Spawned {
            pidfd,
            report,
            cgroup,
        }),
        Cloned::Child => {
            // The group is the zygote's to remove.
            std::mem::forget(cgroup);
            let child = Child {
                host: host.clone(),
                request: received.request,
                stdio: received.stdio,
                entrances,
                report: write,
            };
            // Unwinding would run the zygote's own code in this process.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stages::run(child)));
            sys::exit_now(1)
        }
    }
}
