//! A network with a way out and no way in, for all steps of one launcher that
//! ask for it: a namespace whose only interface leads to a helper program
//! (pasta or slirp4netns), which opens each connection anew from outside. The
//! host's own services on loopback stay out of reach.
//!
//! The helper takes tens of milliseconds to start, so there is one for all
//! steps, started with the first. It is the zygote's child and lives in its
//! process namespace: it cannot outlive it.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{At, SetupError, Stage};
use crate::rootless::PROGRAM_DIRS;
use crate::sys;
use crate::wire::{self, Hello};

const STAGE: Stage = Stage::Network;

/// Where names are asked for when the host's own servers are on its loopback:
/// slirp4netns always answers there, pasta is told to.
pub(crate) const NAME_SERVER: &str = "10.0.2.3";

/// A helper that is not ready by then has failed. They need a tenth of a
/// second; a loaded machine may take much longer.
const READY_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Descriptor numbers of a helper.
const NETNS_FD: i32 = 3;
const READY_FD: i32 = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Helper {
    Pasta,
    Slirp,
}

/// In the order in which they are tried.
const HELPERS: [(Helper, &str); 2] = [(Helper::Pasta, "pasta"), (Helper::Slirp, "slirp4netns")];

/// The network as long as its helper runs.
pub(crate) struct Isolated {
    pub netns: Arc<OwnedFd>,
    helper: OwnedFd,
}

impl Isolated {
    /// Makes the network.
    ///
    /// # Errors
    /// No helper is there, or none works: what each of them said.
    ///
    /// # Safety
    /// The process must be single-threaded.
    pub(crate) unsafe fn start() -> Result<Isolated, SetupError> {
        let mut said = Vec::new();
        for (helper, name) in HELPERS {
            let Some(program) = find(name) else {
                continue;
            };
            // SAFETY: the caller's promise.
            let netns = unsafe { new_namespace() }?;
            // SAFETY: the caller's promise.
            match unsafe { run(helper, &program, netns.as_fd()) } {
                Ok(helper) => {
                    let netns = Arc::new(netns);
                    return Ok(Isolated { netns, helper });
                }
                Err(reason) => said.push(format!("{}: {reason}", program.display())),
            }
        }
        let detail = match said.as_slice() {
            [] => "an isolated network needs pasta (Debian's package passt) or slirp4netns, and \
                   neither is installed; install one, or let steps use the host's network"
                .to_owned(),
            said => format!("no isolated network could be made: {}", said.join("; ")),
        };
        Err(SetupError::new(STAGE, 0, detail))
    }

    /// Whether the helper is still there.
    pub(crate) fn works(&self) -> bool {
        !readable(self.helper.as_fd(), Duration::ZERO)
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.helper, Signal::KILL);
        reap(&self.helper);
    }
}

fn reap(pidfd: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

fn find(name: &str) -> Option<PathBuf> {
    let candidates = PROGRAM_DIRS.iter().map(|dir| Path::new(dir).join(name));
    candidates.into_iter().find(|path| path.exists())
}

/// A network namespace with `lo` up. A child makes it and hands it over: this
/// process could not come back from it, since the host's network belongs to
/// somebody else when this is an ordinary user's.
///
/// # Safety
/// The process must be single-threaded.
unsafe fn new_namespace() -> Result<OwnedFd, SetupError> {
    let what = || "making a network namespace".to_owned();
    let (near, far) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .at(STAGE, what)?;
    let make = || {
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open("/proc/self/ns/net", flags, Mode::empty())
    };
    // SAFETY: the caller's promise.
    let pid = unsafe { sys::fork() }.at(STAGE, what)?;
    if pid == 0 {
        let told = match make().at(STAGE, what) {
            Ok(made) => wire::send_message(far.as_fd(), &Hello::Ready, &[made.as_fd()]),
            Err(error) => wire::send_message(far.as_fd(), &Hello::Failed(error), &[]),
        };
        sys::exit_now(i32::from(told.is_err()))
    }
    drop(far);
    let answer = wire::receive_message::<Hello>(near.as_fd());
    sys::wait_child(pid).at(STAGE, what)?;
    match answer.at(STAGE, what)? {
        Some((Hello::Failed(error), _)) => Err(error),
        Some((Hello::Ready, made)) if !made.is_empty() => made
            .into_iter()
            .next()
            .ok_or_else(|| SetupError::new(STAGE, 0, what())),
        _ => Err(SetupError::new(STAGE, 0, what())),
    }
}

/// Starts a helper and waits until the network works; its pidfd.
///
/// # Safety
/// The process must be single-threaded.
unsafe fn run(helper: Helper, program: &Path, netns: BorrowedFd<'_>) -> Result<OwnedFd, String> {
    let text = |error: rustix::io::Errno| error.to_string();
    let (ready, say_ready) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(text)?;
    let said = rustix::fs::memfd_create("helper", rustix::fs::MemfdFlags::CLOEXEC).map_err(text)?;
    let null = std::fs::File::open("/dev/null").map_err(|error| error.to_string())?;
    let path = CString::new(program.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    let words = arguments(helper, program);
    // SAFETY: the caller's promise.
    let pid = unsafe { sys::fork() }.map_err(text)?;
    if pid == 0 {
        let placed = [null.as_fd(), said.as_fd(), said.as_fd()]
            .into_iter()
            .zip(0..)
            .try_for_each(|(fd, number)| sys::place_fd(fd, number));
        // Beyond what will be overwritten first.
        let far = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 64);
        let moved = placed.and_then(|()| Ok((far(netns)?, far(say_ready.as_fd())?)));
        let Ok((netns, say_ready)) = moved else {
            sys::exit_now(126)
        };
        if sys::place_fd(netns.as_fd(), NETNS_FD).is_err()
            || sys::place_fd(say_ready.as_fd(), READY_FD).is_err()
            || sys::close_on_exec_from(5).is_err()
        {
            sys::exit_now(126)
        }
        sys::reset_signals();
        sys::execve(&path, &words, &[]);
        sys::exit_now(127)
    }
    drop(say_ready);
    let pid = Pid::from_raw(pid).ok_or("fork")?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(text)?;
    let works = match helper {
        Helper::Slirp => says_ready(&ready),
        // SAFETY: the caller's promise.
        Helper::Pasta => unsafe { gets_interface(netns, pidfd.as_fd()) },
    };
    if works {
        return Ok(pidfd);
    }
    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    reap(&pidfd);
    Err(last_words(said))
}

fn arguments(helper: Helper, program: &Path) -> Vec<CString> {
    let netns = format!("/proc/self/fd/{NETNS_FD}");
    let ready = format!("--ready-fd={READY_FD}");
    let mut words = vec![program.display().to_string()];
    let more: &[&str] = match helper {
        // The ports of neither side are shared, and the host's loopback has no address inside.
        Helper::Pasta => &[
            "--config-net",
            "--foreground",
            "--quiet",
            "--no-map-gw",
            "--tcp-ports=none",
            "--udp-ports=none",
            "--tcp-ns=none",
            "--udp-ns=none",
            "--dns-forward",
            NAME_SERVER,
            "--netns-only",
            "--netns",
            &netns,
        ],
        Helper::Slirp => &[
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            &ready,
            "--netns-type=path",
            &netns,
            "tap0",
        ],
    };
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
        .into_iter()
        .filter_map(|word| CString::new(word).ok())
        .collect()
}

/// Whether something is there to read, its end included, within a time.
fn readable(fd: BorrowedFd<'_>, within: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let time = Timespec {
        tv_sec: within.as_secs() as i64,
        tv_nsec: i64::from(within.subsec_nanos()),
    };
    poll(&mut fds, Some(&time)).is_ok_and(|count| count > 0)
}

/// slirp4netns writes a byte when all is set up.
fn says_ready(ready: &OwnedFd) -> bool {
    readable(ready.as_fd(), READY_WITHIN)
        && rustix::io::read(ready, &mut [0; 1]).is_ok_and(|length| length == 1)
}

/// pasta says nothing; the network is there when it has a route.
///
/// # Safety
/// The process must be single-threaded.
unsafe fn gets_interface(netns: BorrowedFd<'_>, helper: BorrowedFd<'_>) -> bool {
    let deadline = Instant::now() + READY_WITHIN;
    while Instant::now() < deadline {
        if readable(helper, LOOK_EVERY) {
            return false;
        }
        // SAFETY: the caller's promise.
        if unsafe { has_route(netns) } {
            return true;
        }
    }
    false
}

/// Looked at by a child, which does not have to come back.
///
/// # Safety
/// The process must be single-threaded.
unsafe fn has_route(netns: BorrowedFd<'_>) -> bool {
    // SAFETY: the caller's promise.
    let Ok(pid) = (unsafe { sys::fork() }) else {
        return false;
    };
    if pid == 0 {
        let entered = sys::setns(netns, libc::CLONE_NEWNET).is_ok();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        // A heading, and a line for each route; those of IPv6 name the interface last.
        let four = read("/proc/self/net/route").lines().count() > 1;
        let six = read("/proc/self/net/ipv6_route");
        let six = six.lines().any(|line| !line.ends_with("lo"));
        sys::exit_now(i32::from(!(entered && (four || six))))
    }
    sys::wait_child(pid).is_ok_and(|status| status == 0)
}

/// What the helper printed, as one line.
fn last_words(said: OwnedFd) -> String {
    use std::io::{Read, Seek};
    let mut file = std::fs::File::from(said);
    let mut text = String::new();
    let _ = file.rewind();
    // A helper in distress says a few lines.
    let _ = file.take(4096).read_to_string(&mut text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    match lines.as_slice() {
        [] => "it ended without a word".into(),
        lines => lines.join(", "),
    }
}

/// A namespace given by path, as `/proc/PID/ns/net` or `/run/netns/NAME`.
pub(crate) fn join(path: &Path) -> Result<(), SetupError> {
    let what = || format!("joining the network namespace {}", path.display());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let namespace = rustix::fs::open(path, flags, Mode::empty()).at(STAGE, what)?;
    sys::setns(namespace.as_fd(), libc::CLONE_NEWNET).at(STAGE, what)
}
