//! The descriptors of a process in a container: pipes or one terminal, moved to and from channels.

use std::io;

use gateway_api::{Code, Error, ProcessEvent};
use gateway_sandbox::Stdio;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::terminal::Terminal;

/// Bytes of output in one event.
const CHUNK: usize = 32 * 1024;

/// Pieces of input that wait for the process to read; with more the writer waits.
const PENDING_INPUT: usize = 16;

/// Our ends.
pub struct Ends {
    /// Of what is written to the process; none if it was not asked for.
    pub input: Option<mpsc::Sender<Vec<u8>>>,
    pub terminal: Option<Terminal>,
    /// The outputs to announce the end of, each with the task that moves it.
    pub outputs: Vec<(u32, Option<JoinHandle<()>>)>,
}

fn internal(error: io::Error) -> Error {
    Error::new(Code::Internal, format!("cannot make a pipe: {error}"))
}

/// Makes what `fds` ask for; everything else is empty or discarded.
///
/// # Errors
/// The machine is out of descriptors.
pub fn open(fds: &[u32], tty: bool, events: &Events) -> Result<(Stdio, Ends), Error> {
    match tty {
        true => open_terminal(fds, events).map_err(internal),
        false => open_pipes(fds, events).map_err(internal),
    }
}

/// Where output goes, once the process is said to have started.
#[derive(Clone)]
pub struct Events {
    pub sender: mpsc::Sender<ProcessEvent>,
    pub started: CancellationToken,
}

impl Events {
    /// False when nobody listens any more.
    async fn output(&self, fd: u32, data: &[u8]) -> bool {
        self.started.cancelled().await;
        let data = data.to_vec();
        self.sender
            .send(ProcessEvent::Output { fd, data })
            .await
            .is_ok()
    }
}

fn distinct(fds: &[u32]) -> Vec<u32> {
    let mut distinct: Vec<u32> = fds.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

fn open_pipes(fds: &[u32], events: &Events) -> io::Result<(Stdio, Ends)> {
    let mut stdio = Stdio::default();
    let mut ends = Ends {
        input: None,
        terminal: None,
        outputs: Vec::new(),
    };
    for fd in distinct(fds) {
        if fd > 2 {
            // Nothing is ever written there.
            ends.outputs.push((fd, None));
            continue;
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        if fd == 0 {
            rustix::io::ioctl_fionbio(&write, true)?;
            let mut pipe = pipe::Sender::from_owned_fd(write)?;
            let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(PENDING_INPUT);
            tokio::spawn(async move {
                while let Some(piece) = pieces.recv().await {
                    // The process does not want more; that is no error.
                    if pipe.write_all(&piece).await.is_err() {
                        break;
                    }
                }
            });
            stdio.stdin = Some(read);
            ends.input = Some(sender);
            continue;
        }
        rustix::io::ioctl_fionbio(&read, true)?;
        let mut pipe = pipe::Receiver::from_owned_fd(read)?;
        let events = events.clone();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; CHUNK];
            loop {
                match pipe.read(&mut buffer).await {
                    Ok(length) if length > 0 => {
                        let data = buffer.get(..length).unwrap_or_default();
                        if !events.output(fd, data).await {
                            break;
                        }
                    }
                    _ => break,
                }
            }
        });
        ends.outputs.push((fd, Some(task)));
        match fd {
            1 => stdio.stdout = Some(write),
            _ => stdio.stderr = Some(write),
        }
    }
    Ok((stdio, ends))
}

fn open_terminal(fds: &[u32], events: &Events) -> io::Result<(Stdio, Ends)> {
    let (terminal, stdio) = Terminal::open()?;
    let fds = distinct(fds);
    let input = fds.contains(&0).then(|| {
        let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(PENDING_INPUT);
        let terminal = terminal.clone();
        tokio::spawn(async move {
            while let Some(piece) = pieces.recv().await {
                if terminal.write(&piece).await.is_err() {
                    break;
                }
            }
        });
        sender
    });
    let (near, events) = (terminal.clone(), events.clone());
    let shown = fds.contains(&1);
    // Read in any case: a terminal that nobody reads stops its process.
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = near.read(&mut buffer).await {
            let data = buffer.get(..length).unwrap_or_default();
            if shown && !events.output(1, data).await {
                break;
            }
        }
    });
    let mut task = Some(task);
    let outputs = fds.into_iter().filter(|fd| *fd != 0);
    let outputs = outputs
        .map(|fd| (fd, (fd == 1).then(|| task.take()).flatten()))
        .collect();
    let ends = Ends {
        input,
        terminal: Some(terminal),
        outputs,
    };
    Ok((stdio, ends))
}
