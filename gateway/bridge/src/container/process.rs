//! One process of a container, followed from its start to the end of its outputs by a task of its
//! own; the handle that callers have talks to that task.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway_api::{Code, Detail, Error, Process, ProcessEvent, ProcessRequest};
use gateway_sandbox::{ProcessSpec, Running, SandboxSpec, Stdio};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::stdio::{self, Ends, Events};
use super::terminal::Terminal;
use super::{Inner, locked, signal};

/// Events that wait for the caller; with more the process waits.
const PENDING_EVENTS: usize = 16;

/// Signals that wait for the process to have started.
const PENDING_SIGNALS: usize = 16;

/// What a process wrote last comes before its exit, if it comes in this time: something else may
/// keep its outputs open for ever.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// A request to start a further process, answered by the one that has the sandbox.
pub struct Further {
    specification: ProcessSpec,
    stdio: Stdio,
    answer: oneshot::Sender<Result<Running, gateway_sandbox::Error>>,
}

/// A process, from outside.
pub struct LocalProcess {
    events: Mutex<mpsc::Receiver<ProcessEvent>>,
    input: std::sync::Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    signals: mpsc::Sender<i32>,
    terminal: Option<Terminal>,
    _end: DropGuard,
}

/// What the task has.
struct Follower {
    inner: Arc<Inner>,
    events: Events,
    signals: mpsc::Receiver<i32>,
    outputs: Vec<(u32, Option<tokio::task::JoinHandle<()>>)>,
    cancel: CancellationToken,
    _counted: Counted,
}

/// Counts the processes of a container that have not ended.
struct Counted(tokio::sync::watch::Sender<usize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl LocalProcess {
    /// The container's first process.
    pub fn first(
        inner: Arc<Inner>,
        specification: SandboxSpec,
        request: &ProcessRequest,
    ) -> Result<LocalProcess, Error> {
        let joining = locked(&inner.joining).take();
        let joining = joining.ok_or_else(|| inner.gone())?;
        let (process, mut follower, stdio) = Self::prepare(inner, request)?;
        tokio::spawn(async move {
            let launcher = follower.inner.job.solver().launcher().await;
            let spawned = match launcher {
                Err(error) => Err(error),
                Ok(launcher) => {
                    follower
                        .starting(launcher.spawn(specification, stdio))
                        .await
                }
            };
            follower.follow(spawned, Some(joining)).await;
        });
        Ok(process)
    }

    /// A process in the sandbox of the first.
    pub fn join(
        inner: Arc<Inner>,
        specification: ProcessSpec,
        request: &ProcessRequest,
    ) -> Result<LocalProcess, Error> {
        let (process, mut follower, stdio) = Self::prepare(inner, request)?;
        let (answer, answered) = oneshot::channel();
        let further = Further {
            specification,
            stdio,
            answer,
        };
        tokio::spawn(async move {
            // What could not be asked is dropped at once, with its ends of the pipes.
            let asked = follower.inner.further.send(further).await.is_ok();
            let answered = async {
                match asked {
                    true => answered.await.ok(),
                    false => None,
                }
            };
            let spawned = tokio::select! {
                spawned = answered => spawned,
                () = follower.cancel.cancelled() => None,
            };
            let spawned = match spawned {
                Some(spawned) => follower.starting(std::future::ready(spawned)).await,
                None => Err(follower.inner.gone()),
            };
            follower.follow(spawned, None).await;
        });
        Ok(process)
    }

    fn prepare(
        inner: Arc<Inner>,
        request: &ProcessRequest,
    ) -> Result<(LocalProcess, Follower, Stdio), Error> {
        let (sender, events) = mpsc::channel(PENDING_EVENTS);
        let (signals, receiver) = mpsc::channel(PENDING_SIGNALS);
        let events_in = Events {
            sender,
            started: CancellationToken::new(),
        };
        let (stdio, ends) = stdio::open(&request.fds, request.tty, &events_in)?;
        let Ends {
            input,
            terminal,
            outputs,
        } = ends;
        let cancel = inner.cancel.child_token();
        let process = LocalProcess {
            events: Mutex::new(events),
            input: std::sync::Mutex::new(input),
            signals,
            terminal,
            _end: cancel.clone().drop_guard(),
        };
        inner.running.send_modify(|count| *count += 1);
        let follower = Follower {
            events: events_in,
            signals: receiver,
            outputs,
            cancel,
            _counted: Counted(inner.running.clone()),
            inner,
        };
        Ok((process, follower, stdio))
    }
}

/// A process that could not be started, with what it would have said to its user.
fn not_started(error: &gateway_sandbox::Error) -> Error {
    match error.step_exit_code() {
        Some(code) => exit_error(code).context(error),
        None => Error::unknown(error.to_string()),
    }
}

fn exit_error(code: i32) -> Error {
    Error::unknown(format!("exit code: {code}")).with(Detail::Exit {
        code: code.unsigned_abs(),
    })
}

impl Follower {
    /// The result of a start, or the end of the wait for it.
    async fn starting(
        &mut self,
        start: impl Future<Output = Result<Running, gateway_sandbox::Error>>,
    ) -> Result<Running, Error> {
        let started = tokio::select! {
            started = start => started,
            () = self.cancel.cancelled() => return Err(Error::canceled()),
        };
        started.map_err(|error| not_started(&error))
    }

    async fn tell(&self, event: ProcessEvent) {
        // Nobody may be listening any more.
        let _ = self.events.sender.send(event).await;
    }

    async fn follow(
        mut self,
        spawned: Result<Running, Error>,
        joining: Option<mpsc::Receiver<Further>>,
    ) {
        self.tell(ProcessEvent::Started).await;
        self.events.started.cancel();
        let ended = match spawned {
            Ok(running) => self.until_exit(running, joining).await,
            Err(error) => {
                drop(joining);
                Err(self.explained(error).await)
            }
        };
        let failure = ended.err();
        if let Some(error) = &failure {
            locked(&self.inner.failure).get_or_insert_with(|| error.clone());
        }
        let drained = async {
            for task in self
                .outputs
                .iter_mut()
                .filter_map(|(_, task)| task.as_mut())
            {
                // One that panicked has nothing more to move.
                let _ = task.await;
            }
        };
        let all = tokio::time::timeout(LAST_OUTPUT, drained).await.is_ok();
        self.tell(ProcessEvent::Exit(failure)).await;
        for (fd, task) in std::mem::take(&mut self.outputs) {
            if let Some(task) = task.filter(|_| !all) {
                self.drained(task).await;
            }
            self.tell(ProcessEvent::OutputEnd { fd }).await;
        }
    }

    /// Waits for an output that others still have, but not beyond the container.
    async fn drained(&self, mut task: tokio::task::JoinHandle<()>) {
        if task.is_finished() {
            return;
        }
        tokio::select! {
            _ = &mut task => {}
            () = self.cancel.cancelled() => task.abort(),
        }
    }

    /// A program that cannot be executed says so where its user looks.
    async fn explained(&self, error: Error) -> Error {
        let Some(code) = error.exit_code() else {
            return error;
        };
        let shown = [2, 1].into_iter().find(|fd| {
            let mut fds = self.outputs.iter().map(|(fd, _)| fd);
            fds.any(|known| known == fd)
        });
        if let Some(fd) = shown {
            let suffix = format!(": exit code: {code}");
            let text = error.message.strip_suffix(&suffix);
            let data = format!("{}\n", text.unwrap_or(&error.message)).into_bytes();
            self.tell(ProcessEvent::Output { fd, data }).await;
        }
        exit_error(i32::try_from(code).unwrap_or(255))
    }

    async fn until_exit(
        &mut self,
        mut running: Running,
        mut joining: Option<mpsc::Receiver<Further>>,
    ) -> Result<(), Error> {
        let mut killed = false;
        loop {
            let further = async {
                match &mut joining {
                    Some(joining) => joining.recv().await,
                    None => None,
                }
            };
            tokio::select! {
                ended = running.wait() => {
                    let status = ended.map_err(|error| Error::unknown(error.to_string()))?;
                    return match status.exit_code() {
                        0 => Ok(()),
                        _ if status.oom_killed => Err(out_of_memory(status.exit_code())),
                        code => Err(exit_error(code)),
                    };
                }
                () = self.cancel.cancelled(), if !killed => {
                    killed = true;
                    running.kill();
                }
                Some(number) = self.signals.recv() => {
                    // It may have ended meanwhile.
                    let _ = running.signal(number);
                }
                Some(further) = further => {
                    let Further { specification, stdio, answer } = further;
                    let _ = answer.send(running.exec(specification, stdio).await);
                }
            }
        }
    }
}

fn out_of_memory(code: i32) -> Error {
    let mut error = exit_error(code);
    error.code = Code::ResourceExhausted;
    error.context("cannot allocate memory")
}

#[async_trait]
impl Process for LocalProcess {
    async fn next_event(&self) -> Option<Result<ProcessEvent, Error>> {
        self.events.lock().await.recv().await.map(Ok)
    }

    async fn write(&self, data: &[u8]) -> Result<(), Error> {
        let input = locked(&self.input).clone();
        let input = input.ok_or_else(no_input)?;
        // It ended, or does not read any more: then nobody misses it.
        let _ = input.send(data.to_vec()).await;
        Ok(())
    }

    async fn close_input(&self) -> Result<(), Error> {
        locked(&self.input).take().map(drop).ok_or_else(no_input)
    }

    async fn resize(&self, rows: u32, columns: u32) -> Result<(), Error> {
        if let Some(terminal) = &self.terminal {
            // Fails once nobody has the terminal any more.
            let _ = terminal.resize(rows, columns);
        }
        Ok(())
    }

    async fn signal(&self, name: &str) -> Result<(), Error> {
        let number = signal::number(name)?;
        // It may have ended meanwhile.
        let _ = self.signals.send(number).await;
        Ok(())
    }
}

fn no_input() -> Error {
    Error::new(Code::OutOfRange, "fd 0 unavailable to write")
}
