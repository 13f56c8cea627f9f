//! A pseudo terminal: the process has one side as its stdio, we have the other.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use gateway_sandbox::Stdio;
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Our side. Clones share it.
#[derive(Clone)]
pub struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    /// A new terminal and the stdio of the process that gets it.
    pub fn open() -> io::Result<(Terminal, Stdio)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let near = openpt(flags)?;
        grantpt(&near)?;
        unlockpt(&near)?;
        let far = ioctl_tiocgptpeer(&near, flags)?;
        rustix::io::ioctl_fionbio(&near, true)?;
        let stdio = Stdio {
            stdin: Some(far.try_clone()?),
            stdout: Some(far.try_clone()?),
            stderr: Some(far),
        };
        // SAFETY: an `OwnedFd` owns an open descriptor; it is neither replaced nor closed while the
        // `AsyncFd` has it.
        let near = unsafe { AsyncFd::register(near)? };
        Ok((Terminal(Arc::new(near)), stdio))
    }

    /// Bytes that the process wrote; 0 when nobody has the other side any more.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.async_io(Interest::READABLE, |near| {
            Ok(rustix::io::read(near, &mut *buffer)?)
        });
        match read.await {
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
            read => read,
        }
    }

    /// Writes all, as fast as the process reads.
    pub async fn write(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let written = self
                .0
                .async_io(Interest::WRITABLE, |near| {
                    Ok(rustix::io::write(near, data)?)
                })
                .await?;
            data = data.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// The kernel tells the process with SIGWINCH.
    pub fn resize(&self, rows: u32, columns: u32) -> io::Result<()> {
        let size = Winsize {
            ws_row: u16::try_from(rows).unwrap_or(u16::MAX),
            ws_col: u16::try_from(columns).unwrap_or(u16::MAX),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(self.0.get_ref(), size)?)
    }
}
