//! Tries what a payload must not be able to do, and says how each attempt
//! ended: `NAME ok`, or `NAME` and the error's name. Run by the tests in
//! sandboxes of this crate and of OCI runtimes, which then can be compared.

mod calls;
mod escapes;
mod files;
mod hunt;

use std::process::ExitCode;

/// How an attempt ended: what it got, or an error number.
type Outcome = Result<String, i32>;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("hunt") => return hunt::run(),
        Some("try") => {}
        _ => {
            eprintln!("usage: sandbox-probe try ATTEMPT...");
            return ExitCode::from(2);
        }
    }
    for attempt in words {
        let (name, argument) = attempt.split_once(':').unwrap_or((&attempt, ""));
        let outcome = calls::attempt(name, argument)
            .or_else(|| files::attempt(name, argument))
            .or_else(|| escapes::attempt(name, argument));
        match outcome {
            Some(Ok(seen)) => println!("{attempt} {seen}"),
            Some(Err(errno)) => println!("{attempt} {}", error_name(errno)),
            None => {
                eprintln!("there is no attempt called {name}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}

/// Reads `errno` after a call that failed.
fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// A raw call's result.
fn checked(result: libc::c_long) -> Result<libc::c_long, i32> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}

fn io(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn error_name(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EBADF => "EBADF",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::ETXTBSY => "ETXTBSY",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        number => return format!("E{number}"),
    };
    name.into()
}
