//! A terminal under an OCI runtime. The runtime makes one inside the container
//! and hands its near side over a socket; this process moves bytes between that
//! and the terminal that the caller made, and tells the inner one the size of
//! the outer one. So the caller sees what it sees without a runtime.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::{STAGE, STAGE_DIR};
use crate::error::{At, SetupError};
use crate::{sys, wire};

/// A terminal holds about as much.
const PIECE: usize = 4096;
/// Pieces that are moved in one direction before anything else is looked at.
const AT_ONCE: usize = 16;

/// Where a runtime sends the terminal that it makes.
pub(super) struct Console {
    /// What the caller gave for stdin, stdout and stderr.
    outer: OwnedFd,
    listener: OwnedFd,
    path: String,
}

impl Console {
    /// Takes the caller's terminal as this process's own, so that the kernel
    /// tells of its sizes, and listens for the runtime's.
    pub(super) fn open(stdio: [Option<OwnedFd>; 3]) -> Result<Console, SetupError> {
        let what = || "preparing the terminal".to_owned();
        let [outer, stdout, stderr] = stdio;
        let no_terminal = || SetupError::new(STAGE, 0, "stdin has to be the terminal");
        let outer = outer.ok_or_else(no_terminal)?;
        let device = rustix::fs::fstat(&outer).at(STAGE, what)?.st_rdev;
        for fd in [stdout, stderr].into_iter().flatten() {
            if rustix::fs::fstat(&fd).at(STAGE, what)?.st_rdev != device {
                let detail = "with an OCI runtime a terminal is stdin, stdout and stderr alike";
                return Err(SetupError::new(STAGE, 0, detail));
            }
        }
        let mut modes = tcgetattr(&outer).at(STAGE, what)?;
        // Echo, line editing and signals are the inner one's.
        modes.make_raw();
        tcsetattr(&outer, OptionalActions::Now, &modes).at(STAGE, what)?;
        sys::place_fd(outer.as_fd(), 0).at(STAGE, what)?;
        rustix::process::setsid().at(STAGE, what)?;
        sys::set_controlling_terminal().at(STAGE, what)?;
        rustix::io::ioctl_fionbio(&outer, true).at(STAGE, what)?;

        let path = format!("{STAGE_DIR}/console.{}", std::process::id());
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let listener =
            rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).at(STAGE, what)?;
        let address = SocketAddrUnix::new(path.as_str()).at(STAGE, what)?;
        rustix::net::bind(&listener, &address).at(STAGE, what)?;
        rustix::net::listen(&listener, 1).at(STAGE, what)?;
        Ok(Console {
            outer,
            listener,
            path,
        })
    }

    /// Of the socket.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Takes what the runtime has sent for `payload`.
    pub(super) fn accept(self, payload: BorrowedFd<'_>) -> Result<Terminal, SetupError> {
        let what = || "taking the container's terminal".to_owned();
        let missing = || SetupError::new(STAGE, 0, "the OCI runtime has sent no terminal");
        wait_for(self.listener.as_fd(), payload).at(STAGE, what)?;
        let socket = rustix::net::accept_with(&self.listener, SocketFlags::NONBLOCK);
        let socket = match socket {
            Err(Errno::AGAIN) => return Err(missing()),
            socket => socket.at(STAGE, what)?,
        };
        wait_for(socket.as_fd(), payload).at(STAGE, what)?;
        let mut name = [0; PIECE];
        let (_, fds) = wire::receive(socket.as_fd(), &mut name).at(STAGE, what)?;
        let inner = fds.into_iter().next().ok_or_else(missing)?;
        rustix::io::ioctl_fionbio(&inner, true).at(STAGE, what)?;
        let terminal = Terminal {
            outer: self.outer,
            inner: Some(inner),
            to_inner: Piece::default(),
            to_outer: Piece::default(),
        };
        terminal.resize();
        let _ = std::fs::remove_file(&self.path);
        Ok(terminal)
    }
}

/// Waits until there is something to read, or the payload has ended.
fn wait_for(fd: BorrowedFd<'_>, payload: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(fd, PollFlags::IN),
            PollFd::from_borrowed_fd(payload, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            polled => return polled.map(drop),
        }
    }
}

/// Both terminals, and what is on its way between them.
pub(super) struct Terminal {
    outer: OwnedFd,
    /// `None` once nobody has the other side of one of them any more.
    inner: Option<OwnedFd>,
    to_inner: Piece,
    to_outer: Piece,
}

#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    sent: usize,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.sent >= self.bytes.len()
    }

    /// Moves what can be moved at once, up to a limit: signals must not wait for
    /// the end of a flood.
    fn pass(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Passed {
        for _ in 0..AT_ONCE {
            if self.is_empty() {
                self.sent = 0;
                self.bytes.resize(PIECE, 0);
                let read = rustix::io::read(from, &mut self.bytes);
                self.bytes.truncate(*read.as_ref().unwrap_or(&0));
                match read {
                    Ok(length) if length > 0 => {}
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => return Passed::All,
                    Ok(_) | Err(_) => return Passed::End,
                }
            }
            match rustix::io::write(to, self.bytes.get(self.sent..).unwrap_or_default()) {
                Ok(length) => self.sent += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Passed::Stuck,
                Err(_) => return Passed::End,
            }
        }
        Passed::Some
    }
}

/// How far bytes were moved.
#[derive(PartialEq, Eq)]
enum Passed {
    All,
    Some,
    /// The other side takes no more at present.
    Stuck,
    /// One of the sides is nobody's any more.
    End,
}

impl Terminal {
    /// What is to be waited for: reading where the last piece has gone on,
    /// else writing that.
    pub(super) fn interests(&self) -> Vec<PollFd<'_>> {
        let Some(inner) = &self.inner else {
            return Vec::new();
        };
        let flags = |incoming: &Piece, outgoing: &Piece| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, incoming.is_empty());
            flags.set(PollFlags::OUT, !outgoing.is_empty());
            flags
        };
        let both = [
            (&self.outer, flags(&self.to_inner, &self.to_outer)),
            (inner, flags(&self.to_outer, &self.to_inner)),
        ];
        // Of a side that nothing is wanted from its end would be told again and
        // again.
        let wanted = both.into_iter().filter(|(_, flags)| !flags.is_empty());
        wanted.map(|(fd, flags)| PollFd::new(fd, flags)).collect()
    }

    /// Moves what there is.
    pub(super) fn pass(&mut self) {
        let Some(inner) = &self.inner else {
            return;
        };
        let (outer, inner) = (self.outer.as_fd(), inner.as_fd());
        let ended = [
            self.to_inner.pass(outer, inner),
            self.to_outer.pass(inner, outer),
        ];
        if ended.contains(&Passed::End) {
            // The kernel tells whoever still has the inner one.
            self.inner = None;
        }
    }

    /// Gives the inner one the size of the outer one.
    pub(super) fn resize(&self) {
        if let (Some(inner), Ok(size)) = (&self.inner, tcgetwinsize(&self.outer)) {
            let _ = tcsetwinsize(inner, size);
        }
    }

    /// Hands on what was written before the payload's end, as long as somebody
    /// is there to take it.
    pub(super) fn finish(mut self) {
        let Some(inner) = &self.inner else {
            return;
        };
        let (outer, inner) = (self.outer.as_fd(), inner.as_fd());
        loop {
            match self.to_outer.pass(inner, outer) {
                Passed::Some => {}
                Passed::All | Passed::End => return,
                Passed::Stuck => {
                    let mut fds = [PollFd::from_borrowed_fd(outer, PollFlags::OUT)];
                    if !matches!(poll(&mut fds, None), Ok(_) | Err(Errno::INTR)) {
                        return;
                    }
                }
            }
        }
    }
}
