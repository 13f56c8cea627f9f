//! Running as an ordinary user: the whole program starts again inside a user
//! namespace in which it is root over a range of ids that belong to the user.
//!
//! Which ids: those that `/etc/subuid` and `/etc/subgid` give the user, set up
//! by the set-id programs `newuidmap` and `newgidmap`. A user without ranges
//! gets a namespace with a single id: steps then run as root only, and
//! changing a file's owner fails.
//!
//! The first process stays outside, passes signals on and ends as the second
//! one does; if it is killed, the second one is too.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::sys::{self, SignalFd};

/// Where administrators put set-id programs.
pub(crate) const PROGRAM_DIRS: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"];

/// CAP_SYS_ADMIN
const SYS_ADMIN: u64 = 1 << 21;

/// Signals that a user or a service manager sends to a program.
const FORWARDED: [i32; 7] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];

/// How ids are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ids {
    /// Ranges if the user has any, else a single id.
    #[default]
    Auto,
    /// Ranges, or an error.
    Ranges,
    /// A single id, even if the user has ranges.
    Single,
}

/// Where things are found; the defaults are every distribution's.
#[derive(Debug, Clone)]
pub struct RootlessOptions {
    pub ids: Ids,
    pub passwd: PathBuf,
    pub subuid: PathBuf,
    pub subgid: PathBuf,
}

impl Default for RootlessOptions {
    fn default() -> Self {
        RootlessOptions {
            ids: Ids::Auto,
            passwd: "/etc/passwd".into(),
            subuid: "/etc/subuid".into(),
            subgid: "/etc/subgid".into(),
        }
    }
}

/// Why the program cannot run as this user.
#[derive(Debug, thiserror::Error)]
pub enum RootlessError {
    #[error(
        "{program} is missing; it gives an ordinary user the ids of {file}. \
         Install the package that has it (uidmap on Debian and Ubuntu, shadow-utils on Fedora)"
    )]
    ProgramMissing {
        program: &'static str,
        file: PathBuf,
    },
    #[error(
        "{file} gives user {user} no ids; add a line such as `{user}:100000:65536` \
         (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}` does)"
    )]
    NoRanges { file: PathBuf, user: String },
    #[error("{program} failed: {message}")]
    ProgramFailed {
        program: &'static str,
        message: String,
    },
    #[error(
        "no user namespace can be made: user.max_user_namespaces allows no more \
         (`sysctl user.max_user_namespaces` shows the limit)"
    )]
    TooMany,
    #[error(
        "no user namespace can be made: permission denied. A container's system call filter \
         (run it with --security-opt seccomp=unconfined), kernel.unprivileged_userns_clone=0, or \
         a changed root directory are the usual reasons"
    )]
    Refused,
    #[error(
        "the user namespace has no privileges: kernel.apparmor_restrict_unprivileged_userns \
         is on; install an AppArmor profile that grants `userns` to this program, or set it to 0"
    )]
    AppArmor,
    #[error("entering a user namespace: {what}: {source}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> RootlessError {
    move |error| RootlessError::System {
        what,
        source: error.into(),
    }
}

/// Makes this process root, if it is not yet, by starting the program again
/// inside a user and a mount namespace.
///
/// `None`: the process has the privileges it needs; go on. `Some`: the program
/// ran inside and ended; end with this code. To be called in `main` after
/// [`crate::maybe_run_zygote`] and before any thread is started.
pub fn enter_user_namespace(options: &RootlessOptions) -> Result<Option<ExitCode>, RootlessError> {
    let capabilities =
        rustix::thread::capabilities(None).map_err(system("reading capabilities"))?;
    let uid = rustix::process::geteuid().as_raw();
    if uid == 0 && capabilities.effective.bits() & SYS_ADMIN != 0 {
        return Ok(None);
    }
    let gid = rustix::process::getegid().as_raw();
    let plan = Plan::make(options, uid, gid)?;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(system("making a pipe"));
    let (ready, say_ready) = pipe()?;
    let (go, say_go) = pipe()?;
    // SAFETY: the program has started no thread yet, as documented.
    let pid = unsafe { sys::fork() }.map_err(system("fork"))?;
    if pid == 0 {
        drop((ready, say_go));
        sys::exit_now(inside(say_ready, go))
    }
    drop((say_ready, go));
    let pid = Pid::from_raw(pid).ok_or(RootlessError::System {
        what: "fork",
        source: io::ErrorKind::Other.into(),
    })?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(system("pidfd"))?;
    let mut outcome = [0; 4];
    let made = fs::File::from(ready)
        .read_exact(&mut outcome)
        .map_err(system("waiting for the namespace"));
    let result = made
        .and_then(|()| match i32::from_ne_bytes(outcome) {
            0 => plan.apply(pid),
            libc::ENOSPC | libc::EUSERS => Err(RootlessError::TooMany),
            libc::EPERM => Err(RootlessError::Refused),
            errno => Err(system("unshare")(io::Error::from_raw_os_error(errno))),
        })
        .and_then(|()| {
            fs::File::from(say_go)
                .write_all(&[1])
                .map_err(system("starting the program inside"))
        });
    if let Err(error) = result {
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        let _ = sys::wait_child(pid.as_raw_pid());
        return Err(error);
    }
    let status = follow(pid, pidfd)?;
    let code = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    };
    if code == NO_PRIVILEGES && restricted_by_apparmor() {
        return Err(RootlessError::AppArmor);
    }
    Ok(Some(ExitCode::from(code as u8)))
}

/// How ids of the namespace are mapped here, for a caller that wants to say
/// so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// All ids: not in a user namespace.
    Full,
    /// A part of them.
    Ranges,
    /// Root only: owners cannot be changed.
    Single,
}

/// Reads this process's mapping.
pub fn mapping() -> io::Result<Mapping> {
    let text = fs::read_to_string("/proc/self/uid_map")?;
    let mut mapped: u64 = 0;
    for line in text.lines() {
        let length = line.split_whitespace().nth(2);
        mapped += length.and_then(|l| l.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(match mapped {
        1 => Mapping::Single,
        n if n >= u64::from(u32::MAX) => Mapping::Full,
        _ => Mapping::Ranges,
    })
}

/// What to map, worked out before anything is started.
enum Plan {
    Single {
        uid: u32,
        gid: u32,
    },
    Ranges {
        newuidmap: PathBuf,
        newgidmap: PathBuf,
        uids: Vec<String>,
        gids: Vec<String>,
    },
}

impl Plan {
    fn make(options: &RootlessOptions, uid: u32, gid: u32) -> Result<Plan, RootlessError> {
        if options.ids == Ids::Single {
            return Ok(Plan::Single { uid, gid });
        }
        let passwd = fs::read_to_string(&options.passwd).unwrap_or_default();
        let user = user_name(&passwd, uid).unwrap_or_else(|| uid.to_string());
        let ranges = |file: &Path| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let found = ranges(&text, &user, uid);
            if found.is_empty() {
                return Err(RootlessError::NoRanges {
                    file: file.to_owned(),
                    user: user.clone(),
                });
            }
            Ok(found)
        };
        let (uids, gids) = match (ranges(&options.subuid), ranges(&options.subgid)) {
            (Ok(uids), Ok(gids)) => (uids, gids),
            (Err(error), _) | (_, Err(error)) => {
                return match options.ids {
                    Ids::Ranges => Err(error),
                    _ => Ok(Plan::Single { uid, gid }),
                };
            }
        };
        Ok(Plan::Ranges {
            newuidmap: find_program("newuidmap", &options.subuid)?,
            newgidmap: find_program("newgidmap", &options.subgid)?,
            uids: arguments(uid, &uids),
            gids: arguments(gid, &gids),
        })
    }

    /// Maps the ids of the namespace that `pid` is in.
    fn apply(&self, pid: Pid) -> Result<(), RootlessError> {
        let pid = pid.as_raw_pid().to_string();
        match self {
            Plan::Single { uid, gid } => {
                let write =
                    |file: &str, text: String| fs::write(format!("/proc/{pid}/{file}"), text);
                // Without it a user could drop a group that takes rights away.
                write("setgroups", "deny".into()).map_err(system("writing setgroups"))?;
                write("uid_map", format!("0 {uid} 1")).map_err(system("writing uid_map"))?;
                write("gid_map", format!("0 {gid} 1")).map_err(system("writing gid_map"))
            }
            Plan::Ranges {
                newuidmap,
                newgidmap,
                uids,
                gids,
            } => {
                run("newuidmap", newuidmap, &pid, uids)?;
                run("newgidmap", newgidmap, &pid, gids)
            }
        }
    }
}

fn run(
    name: &'static str,
    program: &Path,
    pid: &str,
    arguments: &[String],
) -> Result<(), RootlessError> {
    let output = Command::new(program)
        .arg(pid)
        .args(arguments)
        .env_clear()
        .output()
        .map_err(system("running newuidmap or newgidmap"))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let message = if message.is_empty() {
        output.status.to_string()
    } else {
        message
    };
    Err(RootlessError::ProgramFailed {
        program: name,
        message,
    })
}

fn find_program(name: &'static str, file: &Path) -> Result<PathBuf, RootlessError> {
    PROGRAM_DIRS
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
        .ok_or_else(|| RootlessError::ProgramMissing {
            program: name,
            file: file.to_owned(),
        })
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// `(first, count)` of each line that is the user's, by name or number.
fn ranges(text: &str, user: &str, uid: u32) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            if owner != user && owner.parse() != Ok(uid) {
                return None;
            }
            let first = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok().filter(|count| *count > 0)?;
            Some((first, count))
        })
        .collect()
}

/// Root is the user; ids from 1 on are the ranges, one after the other.
fn arguments(own: u32, ranges: &[(u32, u32)]) -> Vec<String> {
    let mut numbers = vec![0, own, 1];
    let mut next: u32 = 1;
    for (first, count) in ranges {
        numbers.extend([next, *first, *count]);
        next = next.saturating_add(*count);
    }
    numbers.iter().map(u32::to_string).collect()
}

fn restricted_by_apparmor() -> bool {
    fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
        .is_ok_and(|text| text.trim() == "1")
}

/// What the second process ends with if its namespace gives it no power; one
/// that programs do not use.
const NO_PRIVILEGES: i32 = 213;

/// The second process, until it is the program again. Returns an exit code if
/// it cannot be.
fn inside(say_ready: OwnedFd, go: OwnedFd) -> i32 {
    let made = match sys::unshare(libc::CLONE_NEWUSER) {
        Ok(()) => 0,
        Err(errno) => errno.raw_os_error(),
    };
    let told = fs::File::from(say_ready).write_all(&made.to_ne_bytes());
    let mut byte = [0];
    // The first process ends us, or is gone, if it does not say go.
    if told.is_err() || made != 0 || fs::File::from(go).read_exact(&mut byte).is_err() {
        return 1;
    }
    // Ids first: a change of them would undo the death signal.
    if sys::become_user(0, 0, None).is_err() {
        return NO_PRIVILEGES;
    }
    let parent = rustix::process::getppid();
    if sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).is_err()
        || rustix::process::getppid() != parent
        || parent.is_none()
    {
        return 1;
    }
    if sys::unshare(libc::CLONE_NEWNS).is_err() {
        return NO_PRIVILEGES;
    }
    let c_strings = |strings: Vec<Vec<u8>>| -> Vec<CString> {
        strings
            .into_iter()
            .filter_map(|s| CString::new(s).ok())
            .collect()
    };
    let args = std::env::args_os().map(OsStringExt::into_vec).collect();
    let env = std::env::vars_os()
        .map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='))
        .collect();
    sys::execve(c"/proc/self/exe", &c_strings(args), &c_strings(env));
    1
}

/// Passes signals on until the process ends; its wait status.
fn follow(pid: Pid, pidfd: OwnedFd) -> Result<i32, RootlessError> {
    let signals = SignalFd::new(&FORWARDED).map_err(system("signalfd"))?;
    loop {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(system("poll")(errno)),
        }
        let ended = !fds[0].revents().is_empty();
        // What the terminal sends goes to both processes already.
        while let Some((signal, by_kernel)) = signals.next() {
            if !by_kernel {
                let _ = sys::send_signal(pidfd.as_fd(), signal);
            }
        }
        if ended {
            return sys::wait_child(pid.as_raw_pid()).map_err(system("waiting"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "other:1:2\nuser:100000:65536\n# user:5:5\n1000:300000:10\nuser:0:0\nuser:x:1\n";
        assert_eq!(
            ranges(text, "user", 1000),
            [(100_000, 65_536), (300_000, 10)]
        );
    }

    #[test]
    fn ids_from_1_on_are_the_ranges_one_after_the_other() {
        let arguments = arguments(1000, &[(100_000, 65_536), (300_000, 10)]);
        assert_eq!(
            arguments.join(" "),
            "0 1000 1 1 100000 65536 65537 300000 10"
        );
    }

    #[test]
    fn a_user_without_ranges_gets_a_single_id_unless_ranges_are_wanted() {
        let mut options = RootlessOptions {
            subuid: "/nonexistent/subuid".into(),
            ..RootlessOptions::default()
        };
        assert!(matches!(
            Plan::make(&options, 7, 8),
            Ok(Plan::Single { uid: 7, gid: 8 })
        ));
        options.ids = Ids::Ranges;
        let Err(error) = Plan::make(&options, 4_000_000, 8) else {
            panic!("there are no ranges");
        };
        let text = error.to_string();
        assert!(
            text.contains("/nonexistent/subuid") && text.contains("4000000:100000"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_program_is_named_with_its_package_and_file() {
        let error =
            find_program("no-such-newuidmap", Path::new("/etc/subuid")).expect_err("missing");
        let text = error.to_string();
        assert!(
            text.contains("uidmap on Debian") && text.contains("/etc/subuid"),
            "{text}"
        );
    }
}
