//! Calls of the runtime, and the wait for what it made.

use std::ffi::CString;
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::super::{Report, send};
use super::terminal::{Console, Terminal};
use super::{STAGE, STAGE_DIR};
use crate::error::{At, SetupError, Stage};
use crate::spec::SandboxSpec;
use crate::sys::{self, SignalFd};

/// What the zygote sends a further process's supervisor instead of SIGKILL,
/// which would leave the process itself running.
pub(crate) const KILL_SIGNAL: i32 = 64;

/// Of the runtime; the payload's is in its configuration.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const ID: &str = "sandbox";
const LOG: &str = "/tmp/log";

/// An OCI runtime.
pub(super) struct Runtime<'a> {
    pub program: OwnedFd,
    pub name: &'a Path,
}

type Stdio = [Option<OwnedFd>; 3];

const NONE: Stdio = [const { None }; 3];

/// What a process of the container reads and writes.
pub(super) enum Streams {
    /// These, as they are.
    Plain(Stdio),
    /// A terminal of the container's own.
    Terminal(Console),
}

impl Streams {
    pub(super) fn open(spec: &SandboxSpec, stdio: Stdio) -> Result<Streams, SetupError> {
        Ok(match spec.terminal {
            true => Streams::Terminal(Console::open(stdio)?),
            false => Streams::Plain(stdio),
        })
    }

    fn arguments(&self) -> Vec<&str> {
        match self {
            Streams::Plain(_) => Vec::new(),
            Streams::Terminal(console) => vec!["--console-socket", console.path()],
        }
    }

    fn descriptors(&self) -> &Stdio {
        match self {
            Streams::Plain(stdio) => stdio,
            Streams::Terminal(_) => &NONE,
        }
    }
}

impl Runtime<'_> {
    /// Makes the container; its first process waits to be started.
    pub(super) fn create(&self, bundle: &str, stdio: &Streams) -> Result<Pid, SetupError> {
        let file = format!("{STAGE_DIR}/pid");
        let mut arguments = vec!["create", "--bundle", bundle, "--pid-file", &file];
        arguments.extend(stdio.arguments());
        arguments.push(ID);
        self.call(&arguments, stdio.descriptors())?;
        read_pid(&file)
    }

    pub(super) fn start(&self) -> Result<(), SetupError> {
        self.call(&["start", ID], &NONE)
    }

    /// Makes a further process in the container.
    pub(super) fn exec(&self, process: &str, stdio: &Streams) -> Result<Pid, SetupError> {
        let file = format!("{process}.pid");
        let mut arguments = vec!["exec", "--detach", "--pid-file", &file];
        arguments.extend(["--process", process]);
        arguments.extend(stdio.arguments());
        arguments.push(ID);
        self.call(&arguments, stdio.descriptors())?;
        read_pid(&file)
    }

    /// Runs one command of it to its end.
    fn call(&self, arguments: &[&str], stdio: &Stdio) -> Result<(), SetupError> {
        let what = || format!("running {}", self.name.display());
        let log = format!("{LOG}.{}", std::process::id());
        let _ = std::fs::remove_file(&log);
        let name = self.name.display().to_string();
        let state = format!("--root={STAGE_DIR}/state");
        let log_option = format!("--log={log}");
        let mut words = vec![name.as_str(), &state, &log_option, "--log-format=json"];
        words.extend(arguments);
        let words: Vec<CString> = words
            .into_iter()
            .filter_map(|word| CString::new(word).ok())
            .collect();
        let env: Vec<CString> = CString::new(PATH).into_iter().collect();
        let null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .at(STAGE, || "/dev/null".into())?;
        // SAFETY: this process was cloned from the zygote and starts no thread.
        let pid = unsafe { sys::fork() }.at(STAGE, what)?;
        if pid == 0 {
            for (number, fd) in (0..).zip(stdio) {
                let fd = fd.as_ref().map_or(null.as_fd(), AsFd::as_fd);
                if sys::place_fd(fd, number).is_err() {
                    sys::exit_now(1);
                }
            }
            if sys::close_on_exec_from(3).is_err() {
                sys::exit_now(1);
            }
            sys::reset_signals();
            sys::execveat(self.program.as_fd(), &words, &env);
            sys::exit_now(127)
        }
        let status = sys::wait_child(pid).at(STAGE, what)?;
        if status == 0 {
            return Ok(());
        }
        // Whatever a runtime cannot make ends with its exit code 1, as a
        // program that cannot be executed does.
        let detail = last_error(&log).unwrap_or_else(|| {
            format!(
                "{} {} failed without a word (status {status})",
                self.name.display(),
                arguments.first().unwrap_or(&"")
            )
        });
        Err(SetupError::new(Stage::Exec, 0, detail))
    }
}

fn read_pid(file: &str) -> Result<Pid, SetupError> {
    let text = std::fs::read_to_string(file).at(STAGE, || file.to_owned())?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| SetupError::new(STAGE, 0, format!("{file} has no process number: {text:?}")))
}

/// The last line of the log that is an error.
fn last_error(log: &str) -> Option<String> {
    let file = std::fs::File::open(log).ok()?;
    let lines = std::io::BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok())
        .filter(|line| line["level"] == "error")
        .filter_map(|line| Some(line["msg"].as_str()?.to_owned()));
    lines.last()
}

/// Starts the payload, says so, passes signals on and ends as it does.
pub(super) fn follow(
    payload: Pid,
    streams: Streams,
    report: &mut Option<std::fs::File>,
    ready: &Report,
    start: impl FnOnce() -> Result<(), SetupError>,
) -> Result<std::convert::Infallible, SetupError> {
    let pidfd = rustix::process::pidfd_open(payload, PidfdFlags::empty())
        .at(STAGE, || "following the payload".into())?;
    // Blocked signals are kept for a process 1 that has no handler for them.
    let unstoppable = [libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD];
    let forwarded: Vec<i32> = (1..=KILL_SIGNAL)
        .filter(|signal| !unstoppable.contains(signal))
        // The C library keeps two for itself.
        .filter(|signal| ![32, 33].contains(signal))
        .collect();
    let signals = SignalFd::new(&forwarded).at(STAGE, || "signalfd".into())?;
    let mut terminal = match streams {
        // Only the payload may have them open.
        Streams::Plain(stdio) => {
            drop(stdio);
            None
        }
        Streams::Terminal(console) => Some(console.accept(pidfd.as_fd())?),
    };
    start()?;
    if let Some(mut report) = report.take() {
        // With its end the caller knows that the payload runs.
        let _ = send(&mut report, ready);
    }
    loop {
        let mut fds = vec![
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        fds.extend(terminal.iter().flat_map(Terminal::interests));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => sys::exit_now(1),
        }
        let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        if let Some(terminal) = &mut terminal {
            terminal.pass();
        }
        while let Some((signal, by_kernel)) = signals.next() {
            let signal = match (signal, &terminal) {
                (KILL_SIGNAL, _) => libc::SIGKILL,
                (libc::SIGWINCH, Some(terminal)) if by_kernel => {
                    terminal.resize();
                    continue;
                }
                // What the outer terminal says about itself. Of its end the
                // inner one tells the payload.
                (_, Some(_)) if by_kernel => continue,
                (signal, _) => signal,
            };
            let _ = sys::send_signal(pidfd.as_fd(), signal);
        }
        if ended {
            if let Some(terminal) = terminal.take() {
                terminal.finish();
            }
            let Ok(status) = sys::wait_child(payload.as_raw_pid()) else {
                sys::exit_now(1);
            };
            sys::exit_now(if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                128 + libc::WTERMSIG(status)
            });
        }
    }
}
