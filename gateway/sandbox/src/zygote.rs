//! The launcher process: single-threaded, small, and the parent of every
//! sandbox.
//!
//! It is process 1 of a process namespace of its own. When the program that
//! uses it dies, however suddenly, its end of the control socket closes, the
//! zygote ends, and the kernel kills every process in the namespace: no
//! sandbox survives, whatever it did. Likewise its mount namespace holds every
//! mount ever made.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::cgroup::Group;
use crate::error::{At, SetupError, Stage};
use crate::host::Host;
use crate::isolated::Isolated;
use crate::spawn::{self, Spawned};
use crate::spec::{Network, SandboxSpec};
use crate::stages::{self, Ready, Report};
use crate::stubs::{self, Changes};
use crate::sys;
use crate::usage;
use crate::wire::{self, Command, Hello, Received, Reply, Request};

/// First argument of the process the launcher starts.
pub(crate) const OUTER: &str = "--gateway-sandbox-zygote";
/// First argument of the zygote proper.
const INNER: &str = "--gateway-sandbox-zygote-inner";

/// Becomes the launcher process if this process was started to be one, and
/// then does not return. To be called first thing in `main`, before any thread
/// is started and any option parsed.
pub fn maybe_run_zygote() {
    let first = std::env::args_os().nth(1);
    if first.as_deref() == Some(OsStr::new(OUTER)) {
        std::process::exit(outer());
    }
    if first.as_deref() == Some(OsStr::new(INNER)) {
        // SAFETY: this is the first thing the process does, as documented.
        std::process::exit(unsafe { inner() });
    }
}

/// The control socket is descriptor 0 of both processes.
fn control() -> BorrowedFd<'static> {
    sys::stdin()
}

fn fail(error: SetupError) -> i32 {
    // If the launcher is gone nobody wants to know.
    let _ = wire::send_message(control(), &Hello::Failed(error), &[]);
    1
}

/// Makes the namespaces and the zygote in them, and waits for its end.
fn outer() -> i32 {
    match enter_namespaces() {
        Ok(program) => match start_inner(program) {
            Ok(code) => code,
            Err(error) => fail(error),
        },
        Err(error) => fail(error),
    }
}

fn enter_namespaces() -> Result<Option<OwnedFd>, SetupError> {
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWPID).at(Stage::Launcher, || {
        "making mount and process namespaces (needs root, or a user namespace: see the \
         documentation on running as an ordinary user)"
            .into()
    })?;
    // What the host unmounts later must not be held here.
    sys::mount_setattr(rustix::fs::CWD, c"/", true, 0, libc::MS_SLAVE)
        .at(Stage::Launcher, || {
            "separating mounts from the host's".into()
        })?;
    Ok(read_only_program())
}

/// This program through a read-only mount of its own. A payload that tricks
/// the kernel into handing it `/proc/self/exe` of a starting sandbox then
/// cannot write to the program's file. `None` if the file is gone.
fn read_only_program() -> Option<OwnedFd> {
    let path = std::fs::read_link("/proc/self/exe").ok()?;
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    use rustix::mount::OpenTreeFlags;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, &path, flags).ok()?;
    sys::mount_setattr(tree.as_fd(), c"", false, sys::ATTR_RDONLY, 0).ok()?;
    let ours = rustix::fs::stat("/proc/self/exe").ok()?;
    let theirs = rustix::fs::fstat(&tree).ok()?;
    let same = (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino);
    same.then_some(tree)
}

fn start_inner(program: Option<OwnedFd>) -> Result<i32, SetupError> {
    let args = [
        c"gateway-sandbox-zygote".to_owned(),
        CString::new(INNER).unwrap_or_default(),
    ];
    // SAFETY: this process has started no thread.
    let pid = unsafe { sys::fork() }.at(Stage::Launcher, || "fork".into())?;
    if pid == 0 {
        let errno = match &program {
            Some(program) => sys::execveat(program.as_fd(), &args, &[]),
            None => sys::execve(c"/proc/self/exe", &args, &[]),
        };
        let detail = "executing the launcher program again";
        sys::exit_now(fail(SetupError::new(Stage::Launcher, errno, detail)));
    }
    // The zygote's copy of the socket must be the only one on this side.
    if let Ok(null) = std::fs::File::open("/dev/null") {
        sys::place_fd(null.as_fd(), 0).at(Stage::Launcher, || "dup2".into())?;
    }
    let status = sys::wait_child(pid).at(Stage::Launcher, || "waiting".into())?;
    Ok(if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    })
}

/// # Safety
/// The process must be single-threaded.
unsafe fn inner() -> i32 {
    let zygote = match Zygote::new() {
        Ok(zygote) => zygote,
        Err(error) => return fail(error),
    };
    if wire::send_message(control(), &Hello::Ready, &[]).is_err() {
        return 0;
    }
    // SAFETY: the caller's promise; nothing here starts a thread.
    match unsafe { zygote.serve() } {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// A sandbox from its request to its end.
struct Run {
    socket: OwnedFd,
    pidfd: OwnedFd,
    report: Option<OwnedFd>,
    /// What came through `report` and is no whole line yet.
    buffer: Vec<u8>,
    /// Said by the new process once everything but `exec` had worked.
    ready: Option<Ready>,
    failed: Option<SetupError>,
    changes: Option<Changes>,
    cgroup: Option<Group>,
    /// What further processes of the sandbox have in common with the first;
    /// `None` for these themselves.
    common: Option<SandboxSpec>,
    /// What ends it and all that belongs to it.
    kill_signal: i32,
    /// What it used is to be told.
    measure: bool,
}

/// A process that was just made, with what its end needs.
struct MadeProcess {
    spawned: Spawned,
    changes: Option<Changes>,
    common: Option<SandboxSpec>,
    kill_signal: i32,
    measure: bool,
}

/// Secrets among the mounts are not kept.
fn without_mounts(spec: &SandboxSpec) -> SandboxSpec {
    let root = spec.root.clone();
    SandboxSpec {
        profile: spec.profile,
        security: spec.security,
        network: spec.network.clone(),
        runtime: spec.runtime.clone(),
        no_new_privs: spec.no_new_privs,
        ulimits: spec.ulimits.clone(),
        ..SandboxSpec::new(root, Vec::new())
    }
}

/// Which of a run's descriptors an event belongs to.
#[derive(Clone, Copy)]
enum Source {
    Socket = 0,
    Report = 1,
    Process = 2,
}

/// The control socket's key; runs are numbered from 1.
const CONTROL_KEY: u64 = 0;

fn key(serial: u64, source: Source) -> u64 {
    serial * 4 + source as u64
}

struct Zygote {
    host: Host,
    isolated: Option<Isolated>,
    /// The zygote's own process namespace.
    pid_namespace: OwnedFd,
    epoll: OwnedFd,
    runs: HashMap<u64, Run>,
    next_serial: u64,
}

impl Zygote {
    fn new() -> Result<Zygote, SetupError> {
        let what = || "epoll".to_owned();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).at(Stage::Launcher, what)?;
        let data = epoll::EventData::new_u64(CONTROL_KEY);
        epoll::add(&epoll, control(), data, epoll::EventFlags::IN).at(Stage::Launcher, what)?;
        let namespace = "/proc/self/ns/pid";
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let pid_namespace = rustix::fs::open(namespace, flags, Mode::empty())
            .at(Stage::Launcher, || namespace.into())?;
        Ok(Zygote {
            host: Host::inspect(),
            isolated: None,
            pid_namespace,
            epoll,
            runs: HashMap::new(),
            next_serial: 1,
        })
    }

    /// Serves until the launcher is gone.
    ///
    /// # Safety
    /// The process must be single-threaded.
    unsafe fn serve(mut self) -> std::io::Result<()> {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                let key = event.data.u64();
                if key == CONTROL_KEY {
                    match wire::receive_request(control()) {
                        // SAFETY: the caller's promise.
                        Ok(Some(received)) => unsafe { self.start(received) },
                        Ok(None) => return Ok(()),
                        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                        // A request that makes no sense has no one to tell.
                        Err(e) if e.raw_os_error().is_none() => {}
                        Err(e) => return Err(e),
                    }
                    continue;
                }
                let serial = key / 4;
                match key % 4 {
                    0 => self.on_socket(serial),
                    1 => self.on_report(serial),
                    _ => self.on_exit(serial),
                }
            }
        }
    }

    /// # Safety
    /// The process must be single-threaded.
    unsafe fn start(&mut self, received: Received) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let Received {
            request,
            run: socket,
            stdio,
        } = received;
        // SAFETY: the caller's promise.
        let made = match unsafe { self.prepare_network(&request) } {
            // SAFETY: the caller's promise.
            Ok(()) => unsafe { self.make(serial, request, stdio) },
            Err(error) => Err(error),
        };
        match made {
            Ok(made) => {
                let run = Run {
                    socket,
                    pidfd: made.spawned.pidfd,
                    report: Some(made.spawned.report),
                    buffer: Vec::new(),
                    ready: None,
                    failed: None,
                    changes: made.changes,
                    cgroup: made.spawned.cgroup,
                    common: made.common,
                    kill_signal: made.kill_signal,
                    measure: made.measure,
                };
                if self.watch(serial, &run).is_err() {
                    // Unwatched it would never be reaped or reported.
                    let _ = rustix::process::pidfd_send_signal(&run.pidfd, Signal::KILL);
                }
                self.runs.insert(serial, run);
            }
            Err(error) => reply(&socket, &Reply::Failed(error), &[]),
        }
    }

    /// The isolated network, when a sandbox asks for it and it is not there.
    ///
    /// # Safety
    /// The process must be single-threaded.
    unsafe fn prepare_network(&mut self, request: &Request) -> Result<(), SetupError> {
        let wanted = match request {
            Request::Start(request) => request.spec.network == Network::Isolated,
            Request::Exec { .. } => false,
        };
        if !wanted || self.isolated.as_ref().is_some_and(Isolated::works) {
            return Ok(());
        }
        self.isolated = None;
        // SAFETY: the caller's promise.
        let isolated = unsafe { Isolated::start() }?;
        self.host.isolated = Some(isolated.netns.clone());
        self.isolated = Some(isolated);
        Ok(())
    }

    /// # Safety
    /// The process must be single-threaded.
    unsafe fn make(
        &self,
        serial: u64,
        request: Request,
        stdio: [Option<OwnedFd>; 3],
    ) -> Result<MadeProcess, SetupError> {
        match request {
            Request::Start(request) => Ok(MadeProcess {
                changes: Changes::of(&request.spec),
                common: Some(without_mounts(&request.spec)),
                kill_signal: libc::SIGKILL,
                measure: request.spec.measure,
                // SAFETY: the caller's promise.
                spawned: unsafe { spawn::first(&self.host, *request, stdio, serial) }?,
            }),
            Request::Exec { sandbox, process } => {
                let run = self.runs.get(&sandbox);
                let Some((run, common)) = run.and_then(|run| Some((run, run.common.as_ref()?)))
                else {
                    let detail = "the sandbox has ended";
                    return Err(SetupError::new(Stage::Namespaces, 0, detail));
                };
                let target = spawn::Target {
                    pidfd: run.pidfd.as_fd(),
                    cgroup: run.cgroup.as_ref(),
                    own_pid_namespace: self.pid_namespace.as_fd(),
                };
                let spec = process.over(common.clone());
                Ok(MadeProcess {
                    changes: None,
                    common: None,
                    kill_signal: match spec.runtime {
                        None => libc::SIGKILL,
                        Some(_) => stages::KILL_SIGNAL,
                    },
                    measure: false,
                    // SAFETY: the caller's promise.
                    spawned: unsafe { spawn::further(&self.host, target, spec, stdio) }?,
                })
            }
        }
    }

    fn watch(&self, serial: u64, run: &Run) -> rustix::io::Result<()> {
        let add = |fd: BorrowedFd<'_>, source| {
            let data = epoll::EventData::new_u64(key(serial, source));
            epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)
        };
        add(run.pidfd.as_fd(), Source::Process)?;
        add(run.socket.as_fd(), Source::Socket)?;
        match &run.report {
            Some(report) => add(report.as_fd(), Source::Report),
            None => Ok(()),
        }
    }

    /// Closing is not enough: whoever has the other descriptors of the same files, the caller its process, a child
    /// that is being made all of them, would keep them in the set, where an ended process is news without end.
    fn unwatch(&self, run: &Run) {
        let _ = epoll::delete(&self.epoll, &run.pidfd);
        let _ = epoll::delete(&self.epoll, &run.socket);
    }

    /// A signal to pass on, or the end of the caller's interest.
    fn on_socket(&mut self, serial: u64) {
        let Some(run) = self.runs.get(&serial) else {
            return;
        };
        match wire::receive_message::<Command>(run.socket.as_fd()) {
            Ok(Some((Command::Signal(number), _))) => {
                let number = match number {
                    libc::SIGKILL => run.kill_signal,
                    number => number,
                };
                // A number that is no signal, or a process that just ended.
                let _ = sys::send_signal(run.pidfd.as_fd(), number);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => {
                let _ = epoll::delete(&self.epoll, &run.socket);
                let _ = sys::send_signal(run.pidfd.as_fd(), run.kill_signal);
            }
        }
    }

    /// News from the set-up; its end means that the payload runs or that the
    /// process is about to end.
    fn on_report(&mut self, serial: u64) {
        let Some(run) = self.runs.get_mut(&serial) else {
            return;
        };
        if !run.read_report() {
            return;
        }
        if let Some(report) = run.report.take() {
            let _ = epoll::delete(&self.epoll, &report);
        }
        if let (None, Some(ready)) = (&run.failed, &run.ready) {
            let started = Reply::Started {
                serial,
                proc_is_hosts: ready.proc_is_hosts,
                group: run
                    .cgroup
                    .as_ref()
                    .and_then(Group::counted)
                    .map(Path::to_owned),
            };
            reply(&run.socket, &started, &[run.pidfd.as_fd()]);
        }
    }

    fn on_exit(&mut self, serial: u64) {
        // The last words may still be in the pipe.
        self.on_report(serial);
        let Some(run) = self.runs.remove(&serial) else {
            return;
        };
        self.unwatch(&run);
        let ended = sys::wait_process(run.pidfd.as_fd()).ok();
        if let (Some(changes), Some(ready)) = (&run.changes, &run.ready) {
            stubs::remove(changes, &ready.made);
        }
        let oom_killed = run.cgroup.as_ref().is_some_and(Group::oom_killed);
        let usage = ended.as_ref().filter(|_| run.measure).map(|ended| {
            let counted = run.cgroup.as_ref().and_then(Group::counted);
            let usage = counted.and_then(usage::of_group);
            Box::new(usage.unwrap_or_else(|| usage::of_process(&ended.used)))
        });
        drop(run.cgroup);
        let answer = match (run.failed, run.ready) {
            (Some(error), _) => Reply::Failed(error),
            (None, None) => {
                let detail = "the process was killed before it could start the program";
                Reply::Failed(SetupError::new(Stage::Namespaces, 0, detail))
            }
            (None, Some(_)) => Reply::Exited {
                code: ended.as_ref().and_then(|ended| ended.code),
                signal: ended.as_ref().and_then(|ended| ended.signal),
                oom_killed,
                usage,
            },
        };
        reply(&run.socket, &answer, &[]);
    }
}

impl Run {
    /// Takes what the pipe has; whether it ended.
    fn read_report(&mut self) -> bool {
        let Some(report) = &self.report else {
            return false;
        };
        let mut chunk = [0; 4096];
        let ended = loop {
            match rustix::io::read(report, &mut chunk) {
                Ok(0) => break true,
                Ok(length) => self
                    .buffer
                    .extend_from_slice(chunk.get(..length).unwrap_or(&[])),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break false,
                Err(_) => break true,
            }
        };
        while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Report::Ready(ready)) => self.ready = Some(ready),
                Ok(Report::Failed(error)) => self.failed = Some(error),
                Err(_) => {}
            }
        }
        ended
    }
}

fn reply(socket: &OwnedFd, reply: &Reply, fds: &[BorrowedFd<'_>]) {
    // Whoever is not there to hear it does not need it.
    let _ = wire::send_message(socket.as_fd(), reply, fds);
}
