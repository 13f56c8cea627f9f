//! Attempts on paths: reading, writing, making devices.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use crate::{Outcome, checked, io};

pub(crate) fn attempt(name: &str, argument: &str) -> Option<Outcome> {
    Some(match name {
        "write" => write(argument),
        "read" => read(argument),
        "list" => list(argument),
        "make" => fs::write(argument, "x")
            .map(|()| "ok".into())
            .map_err(|e| io(&e)),
        "block" => device(argument, libc::S_IFBLK),
        "char" => device(argument, libc::S_IFCHR),
        "link" => fs::read_link(argument)
            .map(|link| link.display().to_string())
            .map_err(|e| io(&e)),
        "same" => same(argument),
        "connect" => std::os::unix::net::UnixStream::connect(argument)
            .map(|_| "ok".into())
            .map_err(|e| io(&e)),
        "tty" => terminal(argument),
        _ => return None,
    })
}

/// Writes to what is there, without making it.
fn write(path: &str) -> Outcome {
    let file = fs::OpenOptions::new().write(true).open(path);
    let mut file = file.map_err(|error| io(&error))?;
    std::io::Write::write_all(&mut file, b"0").map_err(|error| io(&error))?;
    Ok("ok".into())
}

/// The number of bytes read, at most a page of them.
fn read(path: &str) -> Outcome {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let mut buffer = [0; 4096];
    let length = file.and_then(|mut file| std::io::Read::read(&mut file, &mut buffer));
    length.map(|n| n.to_string()).map_err(|error| io(&error))
}

/// The number of entries.
fn list(path: &str) -> Outcome {
    fs::read_dir(path)
        .map(|entries| entries.count().to_string())
        .map_err(|error| io(&error))
}

/// `PATH=MAJOR.MINOR`: makes a node and opens it. `made EACCES` means that
/// only the opening failed.
fn device(argument: &str, kind: libc::mode_t) -> Outcome {
    let (path, number) = argument.split_once('=').ok_or(libc::EINVAL)?;
    let (major, minor) = number.split_once('.').ok_or(libc::EINVAL)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| libc::EINVAL);
    let device = libc::makedev(number(major)?, number(minor)?);
    let c_path = std::ffi::CString::new(path).map_err(|_| libc::EINVAL)?;
    // SAFETY: a C string and integers.
    checked(unsafe { libc::mknod(c_path.as_ptr(), kind | 0o666, device) }.into())?;
    let opened = fs::File::open(path);
    let _ = fs::remove_file(path);
    match opened {
        Ok(_) => Ok("opened".into()),
        Err(error) => Ok(format!("made {}", crate::error_name(io(&error)))),
    }
}

/// Whether a path is the root directory, as another path to it may tell.
fn same(path: &str) -> Outcome {
    let of = |path: &str| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    match (of(path), of("/")) {
        (Ok(there), Ok(root)) if there == root => Ok("root".into()),
        (Ok(_), Ok(_)) => Ok("elsewhere".into()),
        (Err(error), _) | (_, Err(error)) => Err(io(&error)),
    }
}

/// Pushes a character into a terminal's input, as if it had been typed.
fn terminal(path: &str) -> Outcome {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(path)
        .map_err(|error| io(&error))?;
    let typed = b'#';
    use std::os::fd::AsRawFd;
    // SAFETY: TIOCSTI reads one byte, which lives until the call returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TIOCSTI, &raw const typed) };
    checked(result.into())?;
    Ok("typed".into())
}
