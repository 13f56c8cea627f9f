//! Ways out that take more than one step.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use crate::calls::in_child;
use crate::{Outcome, checked, io, last_errno};

pub(crate) fn attempt(name: &str, argument: &str) -> Option<Outcome> {
    Some(match name {
        "chroot" => chroot(),
        "setns" => setns(argument),
        "trace_child" => trace_child(),
        "trace" => trace(argument),
        "stop_traced" => stop_traced(),
        _ => return None,
    })
}

/// The classic: a root below the current directory lets `..` climb past it.
fn chroot() -> Outcome {
    let before = fs::metadata("/").map_err(|e| io(&e))?;
    let root = fs::File::open("/").map_err(|e| io(&e))?;
    let _ = fs::create_dir("/tmp/deeper");
    let outcome = in_child(|| {
        // SAFETY: C strings and a descriptor that is open.
        unsafe {
            checked(libc::chroot(c"/tmp/deeper".as_ptr()).into())?;
            checked(libc::fchdir(root.as_raw_fd()).into())?;
            for _ in 0..64 {
                checked(libc::chdir(c"..".as_ptr()).into())?;
            }
            checked(libc::chroot(c".".as_ptr()).into())?;
        }
        let after = fs::metadata("/").map_err(|e| io(&e))?;
        let same = (before.dev(), before.ino()) == (after.dev(), after.ino());
        Ok(if same { 0 } else { 1 })
    });
    let _ = fs::remove_dir("/tmp/deeper");
    outcome.map(|found| if found == 0 { "inside" } else { "outside" }.into())
}

/// Enters a namespace by path.
fn setns(path: &str) -> Outcome {
    let file = fs::File::open(path).map_err(|e| io(&e))?;
    in_child(|| {
        // SAFETY: integers.
        checked(unsafe { libc::setns(file.as_raw_fd(), 0) }.into())
    })
    .map(|_| "ok".into())
}

/// A debugger at work inside.
fn trace_child() -> Outcome {
    // SAFETY: this program has a single thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: pause and _exit have no preconditions.
        unsafe {
            libc::pause();
            libc::_exit(0);
        }
    }
    let outcome = attach(pid);
    // SAFETY: integers, and a null status.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    outcome
}

fn trace(pid: &str) -> Outcome {
    attach(pid.parse().map_err(|_| libc::EINVAL)?)
}

fn attach(pid: libc::pid_t) -> Outcome {
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: neither address nor data are used by PTRACE_ATTACH.
    let result = unsafe { libc::ptrace(libc::PTRACE_ATTACH, pid, null, null) };
    if result < 0 {
        return Err(last_errno());
    }
    Ok("ok".into())
}

/// Becomes a process that no SIGTERM reaches: traced by a child of init that
/// is gone from every session, and stopped.
fn stop_traced() -> Outcome {
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_TRACEME uses none of its arguments; the others take
    // integers.
    unsafe {
        if libc::fork() == 0 {
            libc::setsid();
            if libc::fork() == 0 {
                libc::ptrace(libc::PTRACE_TRACEME, 0, null, null);
                libc::raise(libc::SIGSTOP);
            }
            libc::pause();
        }
        libc::pause();
    }
    Ok("awake".into())
}
