//! The other way to a payload: an OCI runtime (runc, crun and their kin) makes
//! it, in a small place prepared for it.
//!
//! This process is the *keeper*: process 1 of a process namespace with a mount
//! namespace, in which the root file system, the mounts of the caller and the
//! runtime's own state stand below [`STAGE_DIR`], in memory. It has the
//! runtime create and start a container, is its payload's parent once the
//! runtime has left, and ends as the payload does. With the keeper's end, or
//! its death, payload, mounts and state are gone; only the control group is
//! left to the zygote.

mod config;
mod seccomp;
mod supervise;
mod terminal;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{MountAttrFlags, MoveMountFlags, UnmountFlags, move_mount};

use super::detached;
use super::parking::Parking;
use super::sources::{self, Source};
use super::{Ready, Report, attach, exec, kernel_fs, rootfs, user, working_directory};
use crate::error::{At, SetupError, Stage};
use crate::host::Host;
use crate::new_fs::NewFs;
use crate::spec::{Network, SandboxSpec, Security, StubRemoval};
use crate::sys;
use crate::walk::{self, Create, Made};
use crate::wire::StartRequest;
use config::Surroundings;
pub(crate) use supervise::KILL_SIGNAL;
use supervise::Streams;

/// Every machine has it, and nothing that a runtime needs is in it.
const STAGE_DIR: &str = "/tmp";
const ROOT: &str = "/tmp/root";
const BUNDLE: &str = "/tmp/bundle";
const PROCESS: &str = "/tmp/process.json";

const STAGE: Stage = Stage::Runtime;

/// Makes a container by the runtime and waits for its end; does not return
/// while it runs.
pub(super) fn start(
    host: &Host,
    request: &StartRequest,
    runtime: &Path,
    cgroup: &str,
    stdio: [Option<OwnedFd>; 3],
    report: &mut Option<std::fs::File>,
) -> Result<std::convert::Infallible, SetupError> {
    let spec = &request.spec;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::mount_setattr(rustix::fs::CWD, c"/", true, 0, libc::MS_PRIVATE)
        .at(Stage::Namespaces, || "making all mounts private".into())?;

    // Host paths are visible.
    super::enter_network(host, &spec.network)?;
    let program = open_program(runtime)?;
    let parking = Parking::open()?;
    let root = rootfs::open(spec, host, &parking)?;
    hide_second_hierarchy(host);
    let sys = kernel_fs::sysfs(spec, host)?;
    let cgroupfs = kernel_fs::cgroupfs(spec, host);
    let mut sources = Vec::new();
    for (dest, mount) in [("/sys", sys), ("/sys/fs/cgroup", cgroupfs)] {
        if let Some(mount) = mount {
            let dest = dest.to_owned();
            sources.push(Source { dest, mount });
        }
    }
    sources.extend(sources::open(request, host, &parking)?);
    parking.leave()?;

    let staging = detached::tmpfs(
        &[("mode", "0711")],
        MountAttrFlags::MOUNT_ATTR_NOSUID,
        STAGE,
    )?;
    let proc = NewFs::open("proc", STAGE)?.mount(kernel_fs::private())?;
    cover("/proc", proc.as_fd())?;
    cover(STAGE_DIR, staging.as_fd())?;
    for dir in ["root", "bundle", "state"] {
        rustix::fs::mkdirat(&staging, dir, Mode::from_raw_mode(0o711)).at(STAGE, || dir.into())?;
    }
    cover(ROOT, root.as_fd())?;

    let user = user::find(root.as_fd(), &spec.user)?;
    let made = make_mount_points(&root, spec, &sources)?;
    let below_mount = |path: &str| sources.iter().any(|s| Path::new(path).starts_with(&s.dest));
    if !below_mount(&spec.cwd) {
        working_directory(&root, &spec.cwd, &user)?;
    }
    let lent = lent(&sources)?;
    let binds = stage(&staging, sources)?;
    let env = exec::environment(&spec.env, &user.home);
    let around = Surroundings {
        host,
        user: &user,
        env: &env,
        permitted: sys::permitted_capabilities().at(STAGE, || "reading capabilities".into())?,
        root: ROOT,
        binds: &binds,
        cgroup,
        devices: &devices(spec),
        lent: &lent,
    };
    write_json("/tmp/bundle/config.json", &config::render(spec, &around))?;
    if spec.network == Network::None {
        sys::loopback_up().at(Stage::Network, || "bringing lo up".into())?;
    }
    let runtime = supervise::Runtime {
        program,
        name: runtime,
    };
    let streams = Streams::open(spec, stdio)?;
    let payload = runtime.create(BUNDLE, &streams)?;
    let ready = Ready {
        made,
        proc_is_hosts: false,
    };
    let ready = Report::Ready(ready);
    supervise::follow(payload, streams, report, &ready, || runtime.start())
}

/// A further process in a container: this process joins the keeper, has the
/// runtime make it, and ends as it does.
pub(super) fn join(
    host: &Host,
    keeper: BorrowedFd<'_>,
    spec: &SandboxSpec,
    runtime: &Path,
    stdio: [Option<OwnedFd>; 3],
    report: &mut Option<std::fs::File>,
) -> Result<std::convert::Infallible, SetupError> {
    let program = open_program(runtime)?;
    let mut namespaces = libc::CLONE_NEWNS;
    if spec.network != Network::Host {
        namespaces |= libc::CLONE_NEWNET;
    }
    sys::setns(keeper, namespaces).at(STAGE, || "joining the container".into())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(ROOT, flags, Mode::empty()).at(STAGE, || "the root".into())?;
    let user = user::find(root.as_fd(), &spec.user)?;
    let env = exec::environment(&spec.env, &user.home);
    let around = Surroundings {
        host,
        user: &user,
        env: &env,
        permitted: sys::permitted_capabilities().at(STAGE, || "reading capabilities".into())?,
        root: ROOT,
        binds: &[],
        cgroup: "",
        devices: &[],
        lent: &[],
    };
    let file = format!("{PROCESS}.{}", std::process::id());
    write_json(&file, &config::process(spec, &around))?;
    let runtime = supervise::Runtime {
        program,
        name: runtime,
    };
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).at(STAGE, || "adopting".into())?;
    let streams = Streams::open(spec, stdio)?;
    let payload = runtime.exec(&file, &streams)?;
    let ready = Report::Ready(Ready::default());
    supervise::follow(payload, streams, report, &ready, || Ok(()))
}

fn open_program(runtime: &Path) -> Result<OwnedFd, SetupError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(runtime, flags, Mode::empty())
        .at(STAGE, || format!("the OCI runtime {}", runtime.display()))
}

/// crun refuses machines that have both versions of control groups, however
/// unused version 2 is. In this mount namespace it need not be seen.
fn hide_second_hierarchy(host: &Host) {
    if !host.pure_cgroup2 {
        // Most machines have none.
        let _ = rustix::mount::unmount("/sys/fs/cgroup/unified", UnmountFlags::DETACH);
    }
}

fn cover(path: &str, mount: BorrowedFd<'_>) -> Result<(), SetupError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, "", rustix::fs::CWD, path, flags).at(STAGE, || format!("mounting {path}"))
}

fn write_json(path: &str, value: &serde_json::Value) -> Result<(), SetupError> {
    std::fs::write(path, value.to_string()).at(STAGE, || format!("writing {path}"))
}

fn kind(source: &Source) -> Result<Create, SetupError> {
    let stat = rustix::fs::fstat(&source.mount).at(STAGE, || source.dest.clone())?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Create::Directory,
        _ => Create::File,
    })
}

/// Makes the mount points that the root lacks, so that they can be removed
/// again. Those inside other mounts are the runtime's to make.
fn make_mount_points(
    root: &OwnedFd,
    spec: &SandboxSpec,
    sources: &[Source],
) -> Result<Vec<Made>, SetupError> {
    let mut stubs = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let dest = Path::new(&source.dest);
        let kernels = ["/proc", "/dev", "/sys"]
            .iter()
            .any(|d| dest.starts_with(d));
        let earlier = sources.iter().take(index);
        if dest.starts_with("/proc") {
            attach::refuse_special(&source.dest, Path::new("proc"))?;
        }
        if kernels || earlier.map(|s| &s.dest).any(|d| dest.starts_with(d)) {
            continue;
        }
        let resolved = walk::resolve(root.as_fd(), dest, kind(source)?)
            .at(Stage::Mount, || source.dest.clone())?;
        attach::refuse_special(&source.dest, &resolved.path)?;
        match spec.remove_mount_stubs {
            StubRemoval::Off => {}
            StubRemoval::Leaf => {
                stubs.extend(
                    resolved
                        .made
                        .into_iter()
                        .filter(|m| m.path == resolved.path),
                );
            }
            StubRemoval::Recursive => stubs.extend(resolved.made),
        }
    }
    Ok(stubs)
}

/// Attaches every mount where the runtime can bind it from.
fn stage(staging: &OwnedFd, sources: Vec<Source>) -> Result<Vec<(String, String)>, SetupError> {
    let mut binds = Vec::with_capacity(sources.len());
    for (index, source) in sources.into_iter().enumerate() {
        let name = format!("m{index}");
        let what = || source.dest.clone();
        let directory = kind(&source)? == Create::Directory;
        if directory {
            rustix::fs::mkdirat(staging, &*name, Mode::from_raw_mode(0o700)).at(STAGE, what)?;
        } else {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(staging, &*name, FileType::RegularFile, mode, 0).at(STAGE, what)?;
        }
        let path = format!("{STAGE_DIR}/{name}");
        cover(&path, source.mount.as_fd())?;
        binds.push((source.dest, path));
    }
    Ok(binds)
}

/// The devices among the mounts, which a runtime must be told to let pass.
fn lent(sources: &[Source]) -> Result<Vec<(char, u32, u32)>, SetupError> {
    let mut lent = Vec::new();
    for source in sources {
        let stat = rustix::fs::fstat(&source.mount).at(STAGE, || source.dest.clone())?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => 'c',
            FileType::BlockDevice => 'b',
            _ => continue,
        };
        let number = stat.st_rdev;
        lent.push((kind, rustix::fs::major(number), rustix::fs::minor(number)));
    }
    Ok(lent)
}

/// What an unconfined payload gets on top, as far as the host has it.
fn devices(spec: &SandboxSpec) -> Vec<(String, u32, u32)> {
    if spec.security == Security::Sandbox {
        return Vec::new();
    }
    kernel_fs::MORE_DEVICES
        .iter()
        .filter_map(|name| {
            let stat = rustix::fs::stat(format!("/dev/{name}")).ok()?;
            let number = stat.st_rdev;
            Some((
                (*name).to_owned(),
                rustix::fs::major(number),
                rustix::fs::minor(number),
            ))
        })
        .collect()
}

impl Parking {
    /// Takes it away again: what was cloned out of it stays.
    fn leave(self) -> Result<(), SetupError> {
        rustix::process::fchdir(self.dir()).at(STAGE, || "leaving the parking".into())?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)
            .at(STAGE, || "leaving the parking".into())?;
        rustix::process::chdir("/").at(STAGE, || "leaving the parking".into())
    }
}
