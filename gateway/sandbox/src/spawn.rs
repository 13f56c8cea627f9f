//! Makes a sandbox's processes: the first one together with its namespaces,
//! further ones in the same.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::pipe::PipeFlags;

use crate::cgroup::{self, Group};
use crate::error::{At, SetupError, Stage};
use crate::host::Host;
use crate::spec::{Network, SandboxSpec};
use crate::stages::{self, Child, Work};
use crate::sys::{self, Cloned};
use crate::wire::StartRequest;

/// A process that is being set up.
pub(crate) struct Spawned {
    pub pidfd: OwnedFd,
    /// Gives [`stages::Report`]s, a line each, and ends when the payload runs.
    pub report: OwnedFd,
    pub cgroup: Option<Group>,
}

/// Starts a sandbox's first process. `serial` is unique among this zygote's.
///
/// # Safety
/// The process must be single-threaded.
pub(crate) unsafe fn first(
    host: &Host,
    request: StartRequest,
    stdio: [Option<OwnedFd>; 3],
    serial: u64,
) -> Result<Spawned, SetupError> {
    let spec = &request.spec;
    let name = format!("{}-{serial}", host.instance);
    let (cgroup, entrances) = if spec.runtime.is_some() {
        (Some(cgroup::of_runtime(spec, &name)?), Vec::new())
    } else {
        match cgroup::create(spec, &name) {
            Ok(Some((group, entrances))) => (Some(group), entrances),
            Ok(None) => (None, Vec::new()),
            Err(_) if spec.resources_optional => (None, Vec::new()),
            Err(error) => return Err(error),
        }
    };
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    if spec.runtime.is_none() {
        namespaces |= libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    }
    if spec.network == Network::None {
        namespaces |= libc::CLONE_NEWNET;
    }
    let group = match spec.runtime {
        Some(_) => cgroup::relative(spec, &name)?.display().to_string(),
        None => String::new(),
    };
    let work = Work::Start(Box::new(request), group);
    // SAFETY: the caller's promise.
    let (pidfd, report) = unsafe { clone_into(host, work, stdio, entrances, namespaces) }?;
    Ok(Spawned {
        pidfd,
        report,
        cgroup,
    })
}

/// A sandbox that gets a further process.
pub(crate) struct Target<'a> {
    pub pidfd: BorrowedFd<'a>,
    pub cgroup: Option<&'a Group>,
    pub own_pid_namespace: BorrowedFd<'a>,
}

/// Starts a further process in a sandbox.
///
/// # Safety
/// The process must be single-threaded.
pub(crate) unsafe fn further(
    host: &Host,
    target: Target<'_>,
    spec: SandboxSpec,
    stdio: [Option<OwnedFd>; 3],
) -> Result<Spawned, SetupError> {
    let what = || "joining the sandbox".to_owned();
    let entrances = match target.cgroup {
        // A runtime enters the container's itself.
        Some(group) if spec.runtime.is_none() => group.entrances()?,
        _ => Vec::new(),
    };
    let pidfd = target
        .pidfd
        .try_clone_to_owned()
        .at(Stage::Namespaces, what)?;
    let work = Work::Join {
        sandbox: pidfd,
        spec: Box::new(spec),
    };
    // A process cannot move to another process namespace, only its children
    // can be made there.
    sys::setns(target.pidfd, libc::CLONE_NEWPID).at(Stage::Namespaces, what)?;
    // SAFETY: the caller's promise.
    let cloned = unsafe { clone_into(host, work, stdio, entrances, 0) };
    if sys::setns(target.own_pid_namespace, libc::CLONE_NEWPID).is_err() {
        // Every later sandbox would be made inside this one.
        sys::exit_now(1);
    }
    let (pidfd, report) = cloned?;
    Ok(Spawned {
        pidfd,
        report,
        cgroup: None,
    })
}

/// # Safety
/// The process must be single-threaded.
unsafe fn clone_into(
    host: &Host,
    work: Work,
    stdio: [Option<OwnedFd>; 3],
    entrances: cgroup::Entrances,
    namespaces: libc::c_int,
) -> Result<(OwnedFd, OwnedFd), SetupError> {
    let (report, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .at(Stage::Namespaces, || "making a pipe".into())?;
    rustix::io::ioctl_fionbio(&report, true).at(Stage::Namespaces, || "making a pipe".into())?;
    // SAFETY: the caller's promise.
    let cloned = unsafe { sys::clone3(namespaces as u64) };
    match cloned.at(Stage::Namespaces, || "clone3".into())? {
        Cloned::Parent { pidfd } => Ok((pidfd, report)),
        Cloned::Child => {
            let child = Child {
                host: host.clone(),
                work,
                stdio,
                entrances,
                report: write,
            };
            // Unwinding would run the zygote's own code in this process.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stages::run(child)));
            sys::exit_now(1)
        }
    }
}
