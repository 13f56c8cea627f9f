//! The sandboxed process of a frontend image.

use std::os::fd::OwnedFd;

use async_trait::async_trait;
use gateway_api::{Code, Detail, Error};
use gateway_llb::pb;
use gateway_sandbox::{
    Launcher, Mount, MountKind, Network, Profile, Resources, Root, Running, SandboxSpec,
    SecretBytes, Stdio, Ulimit,
};
use prost::Message;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe;

use super::FrontendLimits;
use super::conduct::Conduct;
use super::life::{Child, Exit, Process};

/// What a frontend without `ENTRYPOINT` is run as.
const DEFAULT_ENTRYPOINT: &str = "/run";

/// Where a frontend finds its own image's definition.
pub const OWN_IMAGE_PATH: &str = "/run/config/buildkit/metadata/frontend.bin";

/// What to run.
pub struct FrontendProcess<'a> {
    /// The image as the user wrote it, for messages.
    pub image: &'a str,
    /// The image's layers, topmost first.
    pub lowers: Vec<std::path::PathBuf>,
    /// `ENTRYPOINT` of the image; `CMD` and `USER` have no say.
    pub entrypoint: &'a [String],
    pub env: Vec<String>,
    pub cwd: &'a str,
    /// The image asks for no network: then it needs none of the other privileges either.
    pub network_none: bool,
    /// What it gets otherwise: the same as a step that asks for none.
    pub network: Network,
    /// The image's own definition.
    pub definition: &'a pb::Definition,
    /// Of a host that is not itself.
    pub conduct: Option<&'a Conduct>,
}

pub type SandboxedProcess = Process<SandboxedChild, pipe::Sender, pipe::Receiver, pipe::Receiver>;

/// Starts it.
///
/// # Errors
/// The sandbox cannot be made, or the entry point cannot be executed: the message names it.
pub async fn start(
    launcher: &Launcher,
    process: FrontendProcess<'_>,
    limits: &FrontendLimits,
) -> Result<SandboxedProcess, Error> {
    let machine = |what: &str, error: &dyn std::fmt::Display| {
        Error::new(
            Code::Internal,
            format!("frontend {}: {what}: {error}", process.image),
        )
    };
    let (stdin_read, stdin) = pipe_pair().map_err(|error| machine("cannot make a pipe", &error))?;
    let (stdout, stdout_write) =
        pipe_pair().map_err(|error| machine("cannot make a pipe", &error))?;
    let (stderr, stderr_write) =
        pipe_pair().map_err(|error| machine("cannot make a pipe", &error))?;
    let stdio = Stdio {
        stdin: Some(stdin_read),
        stdout: Some(stdout_write),
        stderr: Some(stderr_write),
    };
    let running = launcher
        .spawn(changed(specification(&process, limits), &process), stdio)
        .await
        .map_err(|error| not_started(&process, &error))?;
    let pipes = || -> std::io::Result<_> {
        Ok((
            pipe::Sender::from_owned_fd(stdin)?,
            pipe::Receiver::from_owned_fd(stdout)?,
            pipe::Receiver::from_owned_fd(stderr)?,
        ))
    };
    let (stdin, stdout, stderr) = pipes().map_err(|error| machine("cannot use a pipe", &error))?;
    Ok(Process {
        child: SandboxedChild(running),
        stdin,
        stdout,
        stderr,
    })
}

fn pipe_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC)
}

fn specification(process: &FrontendProcess<'_>, limits: &FrontendLimits) -> SandboxSpec {
    let args = match process.entrypoint {
        [] => vec![DEFAULT_ENTRYPOINT.to_owned()],
        entrypoint => entrypoint.to_vec(),
    };
    let root = Root::Throwaway {
        lowers: process.lowers.clone(),
        size_bytes: limits.scratch_bytes,
    };
    let own_image = Mount {
        dest: OWN_IMAGE_PATH.to_owned(),
        kind: MountKind::SecretFile {
            data: SecretBytes(process.definition.encode_to_vec()),
            uid: 0,
            gid: 0,
            mode: 0o400,
        },
    };
    SandboxSpec {
        mounts: match run_is_a_file(&process.lowers) {
            true => Vec::new(),
            false => vec![own_image],
        },
        env: process.env.clone(),
        cwd: process.cwd.to_owned(),
        network: match process.network_none {
            true => Network::None,
            false => process.network.clone(),
        },
        profile: match process.network_none {
            true => Profile::FrontendStrict,
            false => Profile::FrontendCompat,
        },
        resources: Resources {
            memory: i64::try_from(limits.memory_bytes).ok(),
            pids: Some(limits.processes),
            ..Resources::default()
        },
        resources_optional: true,
        ulimits: ulimits(limits),
        ..SandboxSpec::new(root, args)
    }
}

fn changed(mut specification: SandboxSpec, process: &FrontendProcess<'_>) -> SandboxSpec {
    let change = process.conduct.and_then(|conduct| conduct.process.clone());
    if let Some(change) = change {
        change(&mut specification);
    }
    specification
}

/// Without a control group an ordinary user's processes are counted together, those of steps that
/// run at the same time included.
const SHARED_COUNT_FACTOR: u64 = 4;

/// Data counts what is asked for, not what is used, and a control group's end is the clearer one.
const DATA_FACTOR: u64 = 2;

/// What still limits a frontend where no control group can be made. Never above what this process
/// has: only the privileged may raise a limit.
fn ulimits(limits: &FrontendLimits) -> Vec<Ulimit> {
    use rustix::process::{Resource, getrlimit};
    let at_most = |name: &str, resource, value: u64| {
        let ours = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let value = i64::try_from(value.min(ours)).unwrap_or(-1);
        Ulimit {
            name: name.to_owned(),
            soft: value,
            hard: value,
        }
    };
    let processes = limits.processes.saturating_mul(SHARED_COUNT_FACTOR);
    vec![
        at_most(
            "data",
            Resource::Data,
            limits.memory_bytes.saturating_mul(DATA_FACTOR),
        ),
        at_most("nproc", Resource::Nproc, processes),
        // A core file would be written into the throwaway root, and may hold secrets.
        at_most("core", Resource::Core, 0),
    ]
}

/// The default entry point may stand where the own image's definition goes. Frontends can do
/// without that: hosts have it since 2021 only.
fn run_is_a_file(lowers: &[std::path::PathBuf]) -> bool {
    let top = lowers
        .iter()
        .find_map(|lower| lower.join("run").symlink_metadata().ok());
    top.is_some_and(|found| found.is_file())
}

fn not_started(process: &FrontendProcess<'_>, error: &gateway_sandbox::Error) -> Error {
    let image = process.image;
    let Some(code) = error.step_exit_code() else {
        return Error::new(Code::Internal, format!("frontend {image}: {error}"));
    };
    let text = match process.entrypoint {
        [] => format!(
            "frontend {image}: the image has no ENTRYPOINT and {DEFAULT_ENTRYPOINT} cannot be run; is it a BuildKit frontend? {error}"
        ),
        entrypoint => {
            format!("frontend {image}: its ENTRYPOINT {entrypoint:?} cannot be run: {error}")
        }
    };
    Error::unknown(format!("{text}: exit code: {code}")).with(Detail::Exit {
        code: u32::try_from(code).unwrap_or(1),
    })
}

/// A frontend in a sandbox.
pub struct SandboxedChild(Running);

#[async_trait]
impl Child for SandboxedChild {
    async fn wait(&mut self) -> Result<Exit, Error> {
        let status = self
            .0
            .wait()
            .await
            .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        Ok(Exit {
            code: status.exit_code(),
            oom_killed: status.oom_killed,
        })
    }

    fn kill(&self) {
        self.0.kill();
    }
}
