//! What the new process does, in order, until it becomes the payload. It runs
//! in its own namespaces, alone, and can only succeed by `exec`; every failure
//! is a [`SetupError`] that goes to the zygote through the report pipe.
//!
//! While host paths are visible ([`rootfs`], [`sources`], [`kernel_fs`]) every
//! mount is made *detached*: a descriptor, attached nowhere. Then the process
//! enters the new root ([`pivot`]) and host paths are gone for good; what
//! follows attaches the detached mounts inside it.

mod attach;
mod detached;
mod exec;
mod kernel_fs;
mod oci;
mod parking;
mod pivot;
mod privileges;
mod rootfs;
mod sources;
mod user;

pub(crate) use oci::KILL_SIGNAL;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::{At, SetupError, Stage};
use crate::host::Host;
use crate::isolated;
use crate::spec::{Network, Profile, SandboxSpec, Security};
use crate::sys;
use crate::walk::{self, Create, Made};
use crate::wire::StartRequest;

/// What a new process is for.
pub(crate) enum Work {
    /// Making a sandbox and being its first process.
    /// With the name of the control group, for runtimes that make their own.
    Start(Box<StartRequest>, String),
    /// Being a further process of one that runs.
    Join {
        sandbox: OwnedFd,
        spec: Box<SandboxSpec>,
    },
}

/// A new process's inheritance.
pub(crate) struct Child {
    pub host: Host,
    pub work: Work,
    pub stdio: [Option<OwnedFd>; 3],
    /// What to write to in order to enter the control group.
    pub entrances: Vec<OwnedFd>,
    /// Takes a [`Report`] and, if all goes well, is closed by `exec`.
    pub report: OwnedFd,
}

/// What the new process says before it becomes the payload.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Everything but `exec` has worked.
    Ready(Ready),
    Failed(SetupError),
}

/// What the set-up of a process had to do.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Mount points made in the root's own file system, in the order made.
    pub made: Vec<Made>,
    /// `/proc` shows the host's processes.
    pub proc_is_hosts: bool,
}

/// Runs all stages; does not return.
pub(crate) fn run(child: Child) -> ! {
    let Child {
        host,
        work,
        stdio,
        entrances,
        report,
    } = child;
    let mut report = Some(std::fs::File::from(report));
    let Err(error) = enter_cgroup(entrances).and_then(|()| match &work {
        Work::Start(request, cgroup) => match &request.spec.runtime {
            None => start(&host, request, stdio, &mut report),
            Some(runtime) => oci::start(&host, request, runtime, cgroup, stdio, &mut report),
        },
        Work::Join { sandbox, spec } => match &spec.runtime {
            None => join(&host, sandbox, spec, stdio, &mut report),
            Some(runtime) => oci::join(&host, sandbox.as_fd(), spec, runtime, stdio, &mut report),
        },
    });
    // If even this fails the zygote sees a process that ended early.
    if let Some(mut report) = report {
        let _ = send(&mut report, &Report::Failed(error));
    }
    sys::exit_now(1)
}

fn enter_cgroup(entrances: Vec<OwnedFd>) -> Result<(), SetupError> {
    for entrance in entrances {
        rustix::io::write(&entrance, b"0").at(Stage::Cgroup, || "entering it".into())?;
    }
    Ok(())
}

fn send(pipe: &mut std::fs::File, report: &Report) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    pipe.write_all(&line)
}

fn start(
    host: &Host,
    request: &StartRequest,
    stdio: [Option<OwnedFd>; 3],
    report: &mut Option<std::fs::File>,
) -> Result<std::convert::Infallible, SetupError> {
    let spec = &request.spec;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::mount_setattr(rustix::fs::CWD, c"/", true, 0, libc::MS_PRIVATE)
        .at(Stage::Namespaces, || "making all mounts private".into())?;

    // Host paths are visible.
    enter_network(host, &spec.network)?;
    let parking = parking::Parking::open()?;
    let root = rootfs::open(spec, host, &parking)?;
    let kernel = kernel_fs::open(spec, host)?;
    let sources = sources::open(request, host, &parking)?;
    drop(parking);

    pivot::enter(root.as_fd())?;

    // Only the new root is visible.
    let user = user::find(root.as_fd(), &spec.user)?;
    let proc_is_hosts = kernel.proc_is_hosts;
    let null = kernel.attach(root.as_fd())?;
    let made = attach::mounts(root.as_fd(), spec, sources)?;
    // A strict frontend's own /proc and /dev have nothing to hide.
    let bare = spec.profile == Profile::FrontendStrict && !proc_is_hosts;
    if spec.security == Security::Sandbox && !bare {
        kernel_fs::confine(root.as_fd(), null.as_fd())?;
    }
    let cwd = working_directory(&root, &spec.cwd, &user)?;
    if spec.root_readonly {
        sys::mount_setattr(root.as_fd(), c"", false, sys::ATTR_RDONLY, 0)
            .at(Stage::RootFs, || "making it read-only".into())?;
    }
    rustix::system::sethostname(spec.hostname().as_bytes()).at(Stage::Namespaces, || {
        format!("setting host name {:?}", spec.hostname())
    })?;
    if spec.network == Network::None {
        sys::loopback_up().at(Stage::Network, || "bringing lo up".into())?;
    }
    let payload = Payload { user, cwd, null };
    let ready = Ready {
        made,
        proc_is_hosts,
    };
    payload.become_it(host, spec, stdio, ready, report)
}

/// Enters a network that is neither the launcher's own nor the sandbox's.
fn enter_network(host: &Host, network: &Network) -> Result<(), SetupError> {
    match network {
        Network::Host | Network::None => Ok(()),
        Network::Namespace(path) => isolated::join(path),
        Network::Isolated => {
            let what = || "entering the isolated network".to_owned();
            let Some(netns) = &host.isolated else {
                return Err(SetupError::new(Stage::Network, 0, what()));
            };
            sys::setns(netns.as_fd(), libc::CLONE_NEWNET).at(Stage::Network, what)
        }
    }
}

/// Enters the namespaces of a sandbox that runs.
fn join(
    host: &Host,
    sandbox: &OwnedFd,
    spec: &SandboxSpec,
    stdio: [Option<OwnedFd>; 3],
    report: &mut Option<std::fs::File>,
) -> Result<std::convert::Infallible, SetupError> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // The sandbox's processes see this one, but may not look into it.
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(Stage::Namespaces, || "hiding".into())?;
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    if spec.network != Network::Host {
        namespaces |= libc::CLONE_NEWNET;
    }
    sys::setns(sandbox.as_fd(), namespaces)
        .at(Stage::Namespaces, || "joining the sandbox".into())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).at(Stage::Pivot, || "/".into())?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let null = rustix::fs::openat(&root, "dev/null", flags, Mode::empty())
        .at(Stage::Exec, || "/dev/null".into())?;
    let user = user::find(root.as_fd(), &spec.user)?;
    let cwd = working_directory(&root, &spec.cwd, &user)?;
    let payload = Payload { user, cwd, null };
    payload.become_it(host, spec, stdio, Ready::default(), report)
}

/// What both kinds of process have found when they stand in the sandbox.
struct Payload {
    user: user::User,
    cwd: OwnedFd,
    null: OwnedFd,
}

impl Payload {
    /// The last stages, without a way back.
    fn become_it(
        self,
        host: &Host,
        spec: &SandboxSpec,
        stdio: [Option<OwnedFd>; 3],
        ready: Ready,
        report: &mut Option<std::fs::File>,
    ) -> Result<std::convert::Infallible, SetupError> {
        let Payload { user, cwd, null } = self;
        privileges::limit(&spec.ulimits)?;
        if let Some(report) = report {
            send(report, &Report::Ready(ready)).at(Stage::Launcher, || "reporting".into())?;
        }
        exec::place_stdio(null, stdio, &user, spec.terminal)?;
        rustix::process::fchdir(&cwd).at(Stage::Cwd, || format!("entering {}", spec.cwd))?;
        let program = exec::Program::find(spec, &user)?;
        sys::close_on_exec_from(3).at(Stage::Privileges, || "closing descriptors".into())?;
        sys::reset_signals();
        privileges::drop(spec, host, &user)?;
        Err(program.run())
    }
}

/// Opens the working directory, making it for the user where it is missing.
fn working_directory(root: &OwnedFd, cwd: &str, user: &user::User) -> Result<OwnedFd, SetupError> {
    let path = if cwd.is_empty() { "/" } else { cwd };
    if !path.starts_with('/') {
        return Err(SetupError::new(
            Stage::Cwd,
            0,
            format!("{path} is not an absolute path"),
        ));
    }
    let resolved = walk::resolve(root.as_fd(), Path::new(path), Create::Directory)
        .at(Stage::Cwd, || path.to_owned())?;
    for made in &resolved.made {
        let made = walk::resolve(root.as_fd(), &made.path, Create::Nothing)
            .at(Stage::Cwd, || path.to_owned())?;
        rustix::fs::chownat(
            &made.fd,
            "",
            Some(rustix::fs::Uid::from_raw(user.uid)),
            Some(rustix::fs::Gid::from_raw(user.gid)),
            rustix::fs::AtFlags::EMPTY_PATH,
        )
        .at(Stage::Cwd, || format!("giving {path} to the user"))?;
    }
    rustix::fs::openat(
        &resolved.fd,
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .at(Stage::Cwd, || path.to_owned())
}
