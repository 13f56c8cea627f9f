//! The caller's side: starts the zygote, sends it specifications, follows each
//! sandbox to its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::etc_files;
use crate::spec::{MountKind, ProcessSpec, SandboxSpec};
use crate::usage::{Gauge, Usage};
use crate::wire::{self, Command, Hello, Packet, Reply, Request, StartRequest};
use crate::zygote;

/// How the launcher process is started.
#[derive(Debug, Clone)]
pub struct LauncherOptions {
    /// A program whose `main` calls [`crate::maybe_run_zygote`] first. By
    /// default the running program itself.
    pub program: PathBuf,
}

impl Default for LauncherOptions {
    fn default() -> Self {
        LauncherOptions {
            program: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// Starts sandboxes. Clones share one launcher process, which ends with the
/// last of them and of the sandboxes they started.
#[derive(Debug, Clone)]
pub struct Launcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    control: AsyncFd<OwnedFd>,
    /// Reaped by the runtime after it ends.
    _process: tokio::process::Child,
}

/// The payload's descriptors; absent ones are `/dev/null`.
#[derive(Debug, Default)]
pub struct Stdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// How a payload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// The code it ended with, unless a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Whether the kernel killed one of its processes for want of memory; only
    /// known with a memory limit.
    pub oom_killed: bool,
}

impl ExitStatus {
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The code, or 128 plus the signal, as container runtimes report it.
    pub fn exit_code(&self) -> i32 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 255,
        }
    }
}

/// A payload that has started. Dropping it kills the sandbox.
#[derive(Debug)]
pub struct Running {
    /// Keeps the launcher process alive.
    launcher: Arc<Inner>,
    serial: u64,
    proc_is_hosts: bool,
    socket: AsyncFd<OwnedFd>,
    pidfd: OwnedFd,
    /// Where what it uses is counted.
    group: Option<PathBuf>,
    ended: Option<ExitStatus>,
    usage: Option<Box<Usage>>,
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    Ok(pair.map_err(io::Error::from)?)
}

fn watched(socket: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns an open descriptor; it is neither replaced nor
    // closed while the `AsyncFd` has it.
    let watched = unsafe { AsyncFd::register(socket) };
    Ok(watched.map_err(io::Error::from)?)
}

/// The next message; `None` at the end.
async fn next<T: DeserializeOwned>(socket: &AsyncFd<OwnedFd>) -> Result<Option<(T, Vec<OwnedFd>)>> {
    let received = socket
        .async_io(Interest::READABLE, |fd| wire::receive_message(fd.as_fd()))
        .await;
    match received {
        // Unread messages at the time the other side died.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        received => Ok(received?),
    }
}

impl Launcher {
    /// Starts the launcher process and waits until it is ready (some
    /// milliseconds). Callers that may never need it start it late.
    pub async fn start(options: LauncherOptions) -> Result<Launcher> {
        let (near, far) = pair()?;
        let process = tokio::process::Command::new(&options.program)
            .arg(zygote::OUTER)
            // Nothing of the caller's environment may reach a payload.
            .env_clear()
            .stdin(far)
            .stdout(std::process::Stdio::null())
            // A signal from the terminal is for the caller to handle.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::LauncherStart {
                program: options.program.display().to_string(),
                source,
            })?;
        let control = watched(near)?;
        match next::<Hello>(&control).await? {
            Some((Hello::Ready, _)) => {}
            Some((Hello::Failed(error), _)) => return Err(Error::LauncherSetup(error)),
            None => return Err(Error::LauncherGone),
        }
        Ok(Launcher {
            inner: Arc::new(Inner {
                control,
                _process: process,
            }),
        })
    }

    /// Starts a sandbox and returns when its program runs. Dropping the future
    /// kills what has been started so far.
    ///
    /// # Errors
    /// [`Error::Setup`] says which stage failed; see
    /// [`Error::step_exit_code`] for programs that cannot be executed.
    pub async fn spawn(&self, spec: SandboxSpec, stdio: Stdio) -> Result<Running> {
        check(&spec)?;
        let request = StartRequest {
            hosts: etc_files::hosts(&spec),
            resolv_conf: etc_files::resolv_conf(&spec),
            spec,
        };
        self.inner
            .clone()
            .request(&Request::Start(Box::new(request)), stdio)
            .await
    }
}

impl Inner {
    /// Sends a request and waits until the process runs.
    async fn request(self: Arc<Self>, request: &Request, stdio: Stdio) -> Result<Running> {
        let stdio = [stdio.stdin, stdio.stdout, stdio.stderr];
        let packet = Packet::new(request, stdio.each_ref().map(Option::is_some))?;
        let (near, far) = pair()?;
        {
            let fds: [Option<BorrowedFd<'_>>; 3] =
                stdio.each_ref().map(|fd| fd.as_ref().map(AsFd::as_fd));
            let sent = self
                .control
                .async_io(Interest::WRITABLE, |control| {
                    Ok(packet.send(control.as_fd(), far.as_fd(), &fds)?)
                })
                .await;
            match sent {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(Error::LauncherGone);
                }
                sent => sent?,
            }
        }
        // Whoever reads the other ends must see the payload's end, not ours.
        drop((far, stdio));
        let socket = watched(near)?;
        match next::<Reply>(&socket).await? {
            Some((
                Reply::Started {
                    serial,
                    proc_is_hosts,
                    group,
                },
                fds,
            )) => Ok(Running {
                launcher: self,
                serial,
                proc_is_hosts,
                socket,
                pidfd: fds.into_iter().next().ok_or(Error::LauncherGone)?,
                group,
                ended: None,
                usage: None,
            }),
            Some((Reply::Failed(error), _)) => Err(Error::Setup(error)),
            Some((Reply::Exited { .. }, _)) | None => Err(Error::LauncherGone),
        }
    }
}

/// Refuses what no process can be.
fn check_process(args: &[String], env: &[String], cwd: &str) -> Result<()> {
    if args.is_empty() {
        return Err(Error::InvalidSpec("there is no program to run".into()));
    }
    let mut strings = args.iter().chain(env).map(String::as_str).chain([cwd]);
    if strings.any(|text| text.contains('\0')) {
        let reason = "an argument, environment variable or path contains a zero byte";
        return Err(Error::InvalidSpec(reason.into()));
    }
    Ok(())
}

/// Refuses what no sandbox can be.
fn check(spec: &SandboxSpec) -> Result<()> {
    check_process(&spec.args, &spec.env, &spec.cwd)?;
    // They become lines of /etc/hosts.
    let names = spec.extra_hosts.iter().flat_map(|(host, ip)| [host, ip]);
    for name in names.chain([&spec.hostname]) {
        if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Error::InvalidSpec(format!("{name:?} is not a host name")));
        }
    }
    for mount in &spec.mounts {
        if mount.dest.contains('\0') {
            let reason = format!("mount point {:?} contains a zero byte", mount.dest);
            return Err(Error::InvalidSpec(reason));
        }
        if !mount.dest.starts_with('/') {
            let reason = format!("mount point {} is not an absolute path", mount.dest);
            return Err(Error::InvalidSpec(reason));
        }
        if let MountKind::Overlay { upper, work, .. } = &mount.kind
            && upper.is_some() != work.is_some()
        {
            let reason = format!("the mount at {} has only one of upper and work", mount.dest);
            return Err(Error::InvalidSpec(reason));
        }
    }
    Ok(())
}

impl Running {
    /// The payload's process number as the caller sees it; `None` once it has
    /// ended.
    pub fn pid(&self) -> Option<u32> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fdinfo/{}", self.pidfd.as_raw_fd());
        let info = std::fs::read_to_string(path).ok()?;
        let line = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        line.trim().parse().ok()
    }

    /// Whether `/proc` in the sandbox shows the processes around it: inside a
    /// container that hides parts of `/proc` the kernel allows no other. A
    /// caller should say so once; starting the container with
    /// `--security-opt systempaths=unconfined` avoids it.
    pub fn proc_is_hosts(&self) -> bool {
        self.proc_is_hosts
    }

    /// Starts a further process in the sandbox, which must have been started
    /// by [`Launcher::spawn`]. It is killed when the result is dropped and when
    /// the sandbox's first process ends.
    pub async fn exec(&self, process: ProcessSpec, stdio: Stdio) -> Result<Running> {
        check_process(&process.args, &process.env, &process.cwd)?;
        let request = Request::Exec {
            sandbox: self.serial,
            process,
        };
        self.launcher.clone().request(&request, stdio).await
    }

    /// Waits for the end of the payload and of everything it started. May be
    /// dropped and called again.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        match next::<Reply>(&self.socket).await? {
            Some((
                Reply::Exited {
                    code,
                    signal,
                    oom_killed,
                    usage,
                },
                _,
            )) => {
                self.usage = usage;
                let status = ExitStatus {
                    code,
                    signal,
                    oom_killed,
                };
                self.ended = Some(status);
                Ok(status)
            }
            Some((Reply::Failed(error), _)) => Err(Error::Setup(error)),
            Some((Reply::Started { .. }, _)) | None => Err(Error::LauncherGone),
        }
    }

    /// What the payload and everything it started used, once it has ended; only when
    /// [`SandboxSpec::measure`] asked for it.
    pub fn usage(&self) -> Option<&Usage> {
        self.usage.as_deref()
    }

    /// Reads the same while it runs, where the kernel tells.
    pub fn gauge(&self) -> Option<Gauge> {
        let group = self.group.clone()?;
        Some(Gauge { group })
    }

    /// Sends a signal to the payload. As process 1 of its namespace it only
    /// gets those it handles, and SIGKILL.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let command = Command::Signal(signal);
        Ok(wire::send_message(
            self.socket.get_ref().as_fd(),
            &command,
            &[],
        )?)
    }

    /// Kills the payload and everything it started; [`Running::wait`] tells
    /// when that is done.
    pub fn kill(&self) {
        // Fails only when there is nothing left to kill.
        let _ = self.signal(libc::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Mount, Root};

    fn refused(change: impl FnOnce(&mut SandboxSpec)) -> String {
        let root = Root::Dir {
            path: "/".into(),
            readonly: true,
        };
        let mut spec = SandboxSpec::new(root, vec!["true".into()]);
        assert!(check(&spec).is_ok());
        change(&mut spec);
        check(&spec).expect_err("must be refused").to_string()
    }

    #[test]
    fn specifications_that_cannot_be_run_are_refused() {
        assert!(refused(|s| s.args.clear()).contains("no program"));
        assert!(refused(|s| s.env.push("A=\0".into())).contains("zero byte"));
        assert!(refused(|s| s.hostname = "a\n1.2.3.4 b".into()).contains("host name"));
        let hosts = vec![("db\n".to_owned(), "10.0.0.1".to_owned())];
        assert!(refused(|s| s.extra_hosts = hosts).contains("host name"));
        let mount = |dest: &str| Mount {
            dest: dest.into(),
            kind: MountKind::Tmpfs { size_bytes: 0 },
        };
        assert!(refused(|s| s.mounts = vec![mount("relative")]).contains("absolute"));
    }
}
