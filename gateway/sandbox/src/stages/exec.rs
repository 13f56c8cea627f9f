//! Becomes the payload: its descriptors, its environment, its program; and
//! when that fails, a reason a reader of a build log can use.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::user::User;
use crate::error::{At, SetupError, Stage};
use crate::spec::SandboxSpec;
use crate::sys;

/// `PATH` of a step whose image sets none, as observed in BuildKit.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Puts the three descriptors in place; absent ones become
/// `null`.
pub(super) fn place_stdio(
    null: OwnedFd,
    stdio: [Option<OwnedFd>; 3],
    user: &User,
    terminal: bool,
) -> Result<(), SetupError> {
    let what = || "preparing stdin, stdout and stderr".to_owned();
    for (number, fd) in (0..).zip(stdio) {
        if let Some(fd) = &fd {
            lend(fd, user, terminal);
        }
        let fd = fd.as_ref().unwrap_or(&null);
        sys::place_fd(fd.as_fd(), number).at(Stage::Exec, what)?;
    }
    rustix::process::setsid().at(Stage::Exec, || "starting a session".into())?;
    if terminal {
        sys::set_controlling_terminal()
            .at(Stage::Exec, || "taking the controlling terminal".into())?;
    }
    Ok(())
}

/// Lets another user open its own output again through `/dev/stdout`: a pipe
/// belongs to who made it. Best effort: some descriptors have no owner.
fn lend(fd: &OwnedFd, user: &User, terminal: bool) {
    let Ok(stat) = rustix::fs::fstat(fd) else {
        return;
    };
    let lendable = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::Socket => true,
        // A terminal made for the payload; any other is the host's.
        FileType::CharacterDevice => terminal,
        _ => false,
    };
    if lendable && stat.st_uid != user.uid {
        let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(user.uid)), None);
    }
}

/// A program ready to be executed.
pub(super) struct Program {
    /// As the caller named it, for messages.
    name: String,
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Completes the environment and finds the program. The current directory
    /// is already the payload's.
    pub(super) fn find(spec: &SandboxSpec, user: &User) -> Result<Program, SetupError> {
        let env = environment(&spec.env, &user.home);
        let Some(name) = spec.args.first() else {
            return Err(SetupError::new(
                Stage::Exec,
                0,
                "there is no program to run",
            ));
        };
        let path = if name.contains('/') {
            name.clone()
        } else {
            let path = env
                .iter()
                .find_map(|e| e.strip_prefix("PATH="))
                .unwrap_or(DEFAULT_PATH);
            search(name, path)?
        };
        Ok(Program {
            name: name.clone(),
            path: c_string(&path)?,
            args: spec
                .args
                .iter()
                .map(|a| c_string(a))
                .collect::<Result<_, _>>()?,
            env: env.iter().map(|e| c_string(e)).collect::<Result<_, _>>()?,
        })
    }

    /// Executes it; returns only if that failed.
    pub(super) fn run(self) -> SetupError {
        let errno = sys::execve(&self.path, &self.args, &self.env);
        let name = &self.name;
        let path = self.path.to_string_lossy();
        let detail = match errno {
            Errno::NOENT if foreign_architecture(Path::new(&*path)).is_some() => format!(
                "exec {path}: no such file or directory (it is built for {}, and the emulator \
                 that binfmt_misc names is not in the image: register it with the flag F, as the \
                 package qemu-user-static does)",
                foreign_architecture(Path::new(&*path)).unwrap_or_default()
            ),
            Errno::NOENT => match interpreter(Path::new(&*path)) {
                None => format!("exec: {name:?}: stat {path}: no such file or directory"),
                Some(Interpreter::Script(interpreter)) => format!(
                    "exec {path}: no such file or directory \
                     (the script exists, but not its interpreter {interpreter})"
                ),
                Some(Interpreter::Loader) => format!(
                    "exec {path}: no such file or directory (the program exists, but not the \
                     dynamic loader it asks for: it was built for another C library or platform)"
                ),
            },
            Errno::ACCESS if Path::new(&*path).is_dir() => {
                format!("exec: {name:?}: is a directory")
            }
            Errno::ACCESS => format!("exec: {name:?}: permission denied"),
            Errno::NOEXEC => match foreign_architecture(Path::new(&*path)) {
                Some(name) => format!(
                    "exec {path}: exec format error (it is built for {name}, and this machine is \
                     {}: an emulator must be registered with binfmt_misc, as the packages \
                     qemu-user-static and binfmt-support do)",
                    std::env::consts::ARCH
                ),
                None => format!(
                    "exec {path}: exec format error (neither a program for {} nor a script \
                     with a #! line)",
                    std::env::consts::ARCH
                ),
            },
            Errno::TOOBIG => {
                format!("exec {path}: argument list too long (arguments and environment together)")
            }
            errno => format!("exec {path}: {errno}"),
        };
        SetupError::new(Stage::Exec, errno, detail)
    }
}

fn c_string(text: &str) -> Result<CString, SetupError> {
    CString::new(text).map_err(|_| {
        let detail = "an argument or environment variable contains a zero byte";
        SetupError::new(Stage::Exec, libc::EINVAL, detail)
    })
}

/// Adds `PATH` and `HOME` where they are missing.
pub(super) fn environment(given: &[String], home: &str) -> Vec<String> {
    let mut env = given.to_vec();
    if !env.iter().any(|e| e.starts_with("PATH=")) {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    // An empty HOME counts as none, as in runc.
    let home_of = |e: &String| e.strip_prefix("HOME=").map(|h| !h.is_empty());
    if !env.iter().any(|e| home_of(e) == Some(true)) {
        env.retain(|e| home_of(e).is_none());
        env.push(format!("HOME={home}"));
    }
    env
}

fn search(name: &str, path: &str) -> Result<String, SetupError> {
    let mut refused = false;
    for dir in path.split(':') {
        let candidate = match dir {
            "" => format!("./{name}"),
            dir => format!("{}/{name}", dir.trim_end_matches('/')),
        };
        let Ok(stat) = rustix::fs::stat(&*candidate) else {
            continue;
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            continue;
        }
        if stat.st_mode & 0o111 != 0 {
            return Ok(candidate);
        }
        refused = true;
    }
    let (errno, reason) = if refused {
        (libc::EACCES, "permission denied")
    } else {
        (libc::ENOENT, "executable file not found in $PATH")
    };
    Err(SetupError::new(
        Stage::Exec,
        errno,
        format!("exec: {name:?}: {reason}"),
    ))
}

/// The architecture that a program is for, if it is another one.
fn foreign_architecture(path: &Path) -> Option<String> {
    let mut head = [0; 20];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut head))
        .ok()?;
    let native = |name: &str| {
        // 32 bit programs are at home on 64 bit machines.
        name == std::env::consts::ARCH || (cfg!(target_arch = "x86_64") && name == "x86")
    };
    architecture(&head).filter(|name| !native(name))
}

/// What the start of an ELF file says; a name as the compiler's.
fn architecture(head: &[u8; 20]) -> Option<String> {
    let [0x7f, b'E', b'L', b'F', class, order, ..] = head else {
        return None;
    };
    let machine = [head[18], head[19]];
    let machine = match order {
        2 => u16::from_be_bytes(machine),
        _ => u16::from_le_bytes(machine),
    };
    Some(match (machine, class) {
        (0x03, _) => "x86".into(),
        (0x3e, _) => "x86_64".into(),
        (0xb7, _) => "aarch64".into(),
        (0x28, _) => "arm".into(),
        (0xf3, 2) => "riscv64".into(),
        (0x15, _) => "powerpc64".into(),
        (0x16, _) => "s390x".into(),
        (0x08, 2) => "mips64".into(),
        (0x102, _) => "loongarch64".into(),
        (other, _) => format!("machine {other}"),
    })
}

enum Interpreter {
    Script(String),
    Loader,
}

/// What a program that exists but could not be found needs.
fn interpreter(path: &Path) -> Option<Interpreter> {
    let mut head = [0; 256];
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(_) => return path.exists().then_some(Interpreter::Loader),
    };
    let length = file.read(&mut head).unwrap_or(0);
    let head = head.get(..length).unwrap_or_default();
    let Some(line) = head.strip_prefix(b"#!") else {
        return Some(Interpreter::Loader);
    };
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
    // A carriage return at the end is the usual reason; show it.
    let text = String::from_utf8_lossy(line);
    let name = text
        .trim_start()
        .split([' ', '\t'])
        .next()
        .unwrap_or_default();
    Some(Interpreter::Script(name.escape_debug().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(given: &[&str]) -> Vec<String> {
        let given: Vec<String> = given.iter().map(|s| (*s).to_owned()).collect();
        environment(&given, "/home/user")
    }

    #[test]
    fn a_missing_path_and_home_are_added_after_what_was_given() {
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(env(&["A=1"]), ["A=1", &path, "HOME=/home/user"]);
    }

    #[test]
    fn a_given_path_and_home_stay() {
        assert_eq!(env(&["PATH=/x", "HOME=/y"]), ["PATH=/x", "HOME=/y"]);
    }

    #[test]
    fn the_architecture_of_a_program_is_read_from_its_head() {
        let mut head = [0; 20];
        assert_eq!(architecture(&head), None);
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18] = 0xb7;
        assert_eq!(architecture(&head).as_deref(), Some("aarch64"));
        head[5] = 2;
        (head[18], head[19]) = (0, 0x16);
        assert_eq!(architecture(&head).as_deref(), Some("s390x"));
        head[19] = 0x77;
        assert_eq!(architecture(&head).as_deref(), Some("machine 119"));
    }

    #[test]
    fn an_empty_home_is_replaced() {
        assert_eq!(env(&["PATH=/x", "HOME="]), ["PATH=/x", "HOME=/home/user"]);
    }
}
