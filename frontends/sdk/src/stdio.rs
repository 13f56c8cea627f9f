//! The process's own stdin and stdout as one stream.

use std::io;
use std::os::fd::AsFd;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;

/// Takes over stdin and stdout. From then on nothing printed can reach the stream: stdout is where
/// stderr is, stdin is empty.
///
/// # Errors
/// They are not pipes: this program was not started by an engine.
pub fn take() -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let reader = pipe::Receiver::from_owned_fd(input)?;
    let writer = pipe::Sender::from_owned_fd(output)?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    // Without /dev/null (an odd sandbox) stdin keeps its pipe: nobody reads it by accident.
    if let Ok(null) = std::fs::File::open("/dev/null") {
        rustix::stdio::dup2_stdin(null)?;
    }
    Ok(tokio::io::join(reader, writer))
}
