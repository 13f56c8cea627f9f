//! Sockets that a service manager opened for us: systemd's socket activation.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::FdFlags;

use crate::serve::Listener;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// More than any unit has.
const MOST: i32 = 64;

/// Takes `count` sockets over. To be called once, by a process that was told of them.
///
/// # Errors
/// When one is no listening Unix socket: over TCP clients would have to prove who they are.
pub fn inherited(count: i32) -> std::io::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for number in FIRST..FIRST.saturating_add(count.clamp(0, MOST)) {
        // SAFETY: the caller was told that these descriptors are there for it, and calls this once; one
        // that is not open fails at the first use below and closing it is harmless.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let wrong = |what: &str| std::io::Error::other(format!("descriptor {number}: {what}"));
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if kind != FileType::Socket {
            return Err(wrong("not a socket"));
        }
        if rustix::net::sockopt::socket_domain(&fd)? != rustix::net::AddressFamily::UNIX {
            return Err(wrong(
                "not a Unix socket: give TCP addresses with --addr and certificates",
            ));
        }
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        listeners.push(Listener::Unix(tokio::net::UnixListener::from_std(
            listener,
        )?));
    }
    Ok(listeners)
}
