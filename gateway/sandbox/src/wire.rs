//! Messages between the launcher and the zygote, and how descriptors travel
//! with them.
//!
//! One `SOCK_SEQPACKET` pair carries start requests; each request brings the
//! zygote's end of another pair that belongs to this sandbox alone: replies
//! come back over it, signals go to it, and closing it kills the sandbox.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::error::SetupError;
use crate::spec::{ProcessSpec, SandboxSpec};
use crate::usage::Usage;

/// Larger bodies travel in a memfd: a packet is copied as a whole into one
/// kernel buffer, which has a limit of about 200 KiB.
const INLINE_LIMIT: usize = 64 * 1024;
/// A packet: flags and an inline body.
const PACKET_LIMIT: usize = INLINE_LIMIT + 1;
/// Run socket, three of stdio, memfd.
const MAX_FDS: usize = 5;
/// A specification with its secrets and here-documents; more than this is a
/// mistake of the caller.
const BODY_LIMIT: u64 = 256 << 20;

const HAS_STDIO: [u8; 3] = [1, 2, 4];
const BODY_IN_MEMFD: u8 = 8;

/// What the zygote is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Start(Box<StartRequest>),
    /// A further process in a sandbox, by the serial of its [`Reply::Started`].
    Exec {
        sandbox: u64,
        process: ProcessSpec,
    },
}

/// What the zygote needs for a sandbox besides the descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StartRequest {
    pub spec: SandboxSpec,
    /// Content of `/etc/hosts`.
    pub hosts: Vec<u8>,
    /// Content of `/etc/resolv.conf`; `None` leaves the root's.
    pub resolv_conf: Option<Vec<u8>>,
}

/// A start request as it arrived.
pub(crate) struct Received {
    pub request: Request,
    pub run: OwnedFd,
    /// stdin, stdout, stderr; absent ones are `/dev/null`.
    pub stdio: [Option<OwnedFd>; 3],
}

/// Zygote to launcher: the first one says whether it works at all.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Hello {
    Ready,
    Failed(SetupError),
}

/// Zygote to launcher, over a sandbox's own socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The payload runs; its pidfd comes along.
    Started {
        serial: u64,
        proc_is_hosts: bool,
        /// Where what it uses is counted, when that was asked for.
        group: Option<PathBuf>,
    },
    /// The payload never ran; nothing follows.
    Failed(SetupError),
    /// The payload ended; nothing follows.
    Exited {
        code: Option<i32>,
        signal: Option<i32>,
        oom_killed: bool,
        /// When that was asked for.
        usage: Option<Box<Usage>>,
    },
}

/// Launcher to zygote, over a sandbox's own socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Signal(i32),
}

/// A start request ready to be sent; separate from sending it, because the
/// socket may have to be waited for.
pub(crate) struct Packet {
    bytes: Vec<u8>,
    memfd: Option<OwnedFd>,
}

impl Packet {
    pub(crate) fn new(request: &Request, stdio: [bool; 3]) -> io::Result<Packet> {
        let body = serde_json::to_vec(request)?;
        let mut flags = 0;
        for (present, flag) in stdio.into_iter().zip(HAS_STDIO) {
            if present {
                flags |= flag;
            }
        }
        if body.len() <= INLINE_LIMIT {
            let mut bytes = Vec::with_capacity(body.len() + 1);
            bytes.push(flags);
            bytes.extend_from_slice(&body);
            return Ok(Packet { bytes, memfd: None });
        }
        let memfd = rustix::fs::memfd_create("sandbox-request", MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(memfd);
        file.write_all(&body)?;
        Ok(Packet {
            bytes: vec![flags | BODY_IN_MEMFD],
            memfd: Some(file.into()),
        })
    }

    /// Sends the packet with its descriptors; `run` first.
    pub(crate) fn send(
        &self,
        socket: BorrowedFd<'_>,
        run: BorrowedFd<'_>,
        stdio: &[Option<BorrowedFd<'_>>; 3],
    ) -> Result<(), Errno> {
        let mut fds = vec![run];
        fds.extend(stdio.iter().flatten());
        fds.extend(self.memfd.as_ref().map(AsFd::as_fd));
        send(socket, &self.bytes, &fds)
    }
}

/// Takes one start request; `None` when the other side is gone.
pub(crate) fn receive_request(socket: BorrowedFd<'_>) -> io::Result<Option<Received>> {
    let mut buffer = vec![0; PACKET_LIMIT];
    let (length, fds) = receive(socket, &mut buffer)?;
    let Some((flags, inline)) = buffer.get(..length).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    let mut fds = fds.into_iter();
    let mut next = || {
        fds.next()
            .ok_or_else(|| io::Error::other("a start request lacks a descriptor"))
    };
    let run = next()?;
    let mut stdio = [None, None, None];
    for (slot, flag) in stdio.iter_mut().zip(HAS_STDIO) {
        if flags & flag != 0 {
            *slot = Some(next()?);
        }
    }
    let request = if flags & BODY_IN_MEMFD != 0 {
        let mut file = std::fs::File::from(next()?);
        file.seek(SeekFrom::Start(0))?;
        let mut body = Vec::new();
        file.take(BODY_LIMIT).read_to_end(&mut body)?;
        serde_json::from_slice(&body)?
    } else {
        serde_json::from_slice(inline)?
    };
    Ok(Some(Received {
        request,
        run,
        stdio,
    }))
}

/// Sends one message as a packet.
pub(crate) fn send_message<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    Ok(send(socket, &bytes, fds)?)
}

/// Takes one message; `None` when the other side is gone.
pub(crate) fn receive_message<T: for<'de> Deserialize<'de>>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; PACKET_LIMIT];
    let (length, fds) = receive(socket, &mut buffer)?;
    match buffer.get(..length) {
        None | Some([]) => Ok(None),
        Some(bytes) => Ok(Some((serde_json::from_slice(bytes)?, fds))),
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    // NOSIGNAL: the other side may be gone, which is an error, not a signal.
    retry_on_intr(|| {
        rustix::net::sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// One message and the descriptors that came with it.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Root;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("socketpair")
    }

    fn request(argument: String) -> Request {
        let root = Root::Dir {
            path: "/r".into(),
            readonly: false,
        };
        Request::Start(Box::new(StartRequest {
            spec: SandboxSpec::new(root, vec!["echo".into(), argument]),
            hosts: b"h".to_vec(),
            resolv_conf: None,
        }))
    }

    fn round_trip(argument: String) -> Received {
        let (near, far) = pair();
        let (run, _kept) = pair();
        let (stdout, _reader) = pair();
        let packet = Packet::new(&request(argument), [false, true, false]).expect("packet");
        packet
            .send(
                near.as_fd(),
                run.as_fd(),
                &[None, Some(stdout.as_fd()), None],
            )
            .expect("send");
        receive_request(far.as_fd())
            .expect("receive")
            .expect("a request")
    }

    fn args(received: Received) -> Vec<String> {
        match received.request {
            Request::Start(request) => request.spec.args,
            Request::Exec { process, .. } => process.args,
        }
    }

    #[test]
    fn a_request_arrives_with_its_descriptors_in_their_places() {
        let received = round_trip("x".into());
        assert!(received.stdio[0].is_none() && received.stdio[2].is_none());
        assert!(received.stdio[1].is_some());
        assert_eq!(args(received), ["echo", "x"]);
    }

    #[test]
    fn a_request_larger_than_a_packet_arrives_whole() {
        let long = "y".repeat(3 * INLINE_LIMIT);
        let received = round_trip(long.clone());
        assert_eq!(args(received)[1], long);
    }

    #[test]
    fn the_end_of_the_other_side_is_no_request() {
        let (near, far) = pair();
        drop(near);
        assert!(receive_request(far.as_fd()).expect("receive").is_none());
    }
}
