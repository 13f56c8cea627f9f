//! The life of a frontend's process beside its connection: when it is killed, and what the call's
//! outcome is, from its Return, its exit and the connection's end together.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway_api::{BuildResult, Detail, Error, Gateway};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::FrontendLimits;
use super::conduct::Conduct;
use super::stderr::StderrLog;
use crate::service::{BridgeService, Outcome};
use crate::transport::{Observed, serve};

/// How long a connection may go on after the process has ended: what it wrote last is still in the
/// pipe, but another process could hold the pipe open for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// A process whose connection broke may just be ending: then its exit says more than the break.
const EXIT_WAIT: Duration = Duration::from_millis(300);

/// A killed process ends at once, unless the kernel is stuck.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 128 plus the signal for a process that a signal ended.
    pub code: i32,
    pub oom_killed: bool,
}

/// A running frontend. Dropping it kills it.
#[async_trait]
pub trait Child: Send {
    /// Waits for the end; may be dropped and called again.
    async fn wait(&mut self) -> Result<Exit, Error>;
    /// Kills it with everything it started; `wait` tells when that is done.
    fn kill(&self);
}

/// A process with its pipes.
pub struct Process<C, I, O, E> {
    pub child: C,
    pub stdin: I,
    pub stdout: O,
    pub stderr: E,
}

/// What [`host`] needs beside the process.
pub struct Call<'a> {
    /// The image as the user wrote it, for messages.
    pub image: &'a str,
    pub gateway: Arc<dyn Gateway>,
    pub limits: &'a FrontendLimits,
    pub cancel: &'a CancellationToken,
    pub log: StderrLog,
    /// Of a host that is not itself.
    pub conduct: Option<Arc<Conduct>>,
}

/// Why we killed a process.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Killed {
    Canceled,
    NeverSpoke,
    ConnectionBroke,
    /// Had returned, or could not any more, and did not exit.
    Lingered,
    TimedOut,
    /// Neither spoke nor waited for us.
    Idle,
}

/// Serves the frontend until it has ended.
///
/// # Errors
/// In this order: its own error, the failure of its process, no result.
pub async fn host<C, I, O, E>(
    process: Process<C, I, O, E>,
    call: Call<'_>,
) -> Result<BuildResult, Error>
where
    C: Child,
    I: AsyncWrite + Unpin + Send + 'static,
    O: AsyncRead + Unpin + Send + 'static,
    E: AsyncRead + Unpin + Send + 'static,
{
    let mut child = process.child;
    let outcome = Arc::new(Outcome::default());
    let observed = Arc::new(Observed::default());
    let service = BridgeService::new(call.gateway.clone(), outcome.clone(), call.limits)
        .with_conduct(call.conduct.clone());
    let connection = serve(process.stdout, process.stdin, service, observed.clone());
    let mut connection = Connection {
        future: Some(Box::pin(connection)),
        ended: None,
    };
    let mut log = call.log;
    let mut stderr = Box::pin(log.follow(process.stderr));
    let mut stderr_open = true;

    let mut killed = None;
    let exit = {
        let spoke = async {
            tokio::select! {
                () = observed.speaks_http2() => std::future::pending().await,
                () = sleep(call.limits.start_timeout) => {}
            }
        };
        let mut spoke = pin!(spoke);
        let grace = call.limits.exit_grace;
        let mut returned = pin!(async {
            outcome.wait().await;
            sleep(grace).await;
        });
        let mut idle = pin!(async {
            observed.speaks_http2().await;
            observed.activity().idle(call.limits.idle_timeout).await;
        });
        let mut timeout = call.limits.timeout.map(|limit| Box::pin(sleep(limit)));
        let mut kill_wait = None;
        // Only ever one reason: the first.
        let mut kill = |child: &C, why: Killed| {
            child.kill();
            killed.get_or_insert(why);
        };
        let mut closed = None;
        let mut broken = None;
        loop {
            let dying = kill_wait.is_some();
            let why = tokio::select! {
                exit = child.wait() => break exit,
                () = call.cancel.cancelled(), if !dying => Killed::Canceled,
                () = &mut spoke, if !dying => Killed::NeverSpoke,
                () = &mut returned, if !dying => Killed::Lingered,
                () = wait_for(&mut timeout), if !dying => Killed::TimedOut,
                () = &mut idle, if !dying => Killed::Idle,
                () = &mut stderr, if stderr_open => {
                    stderr_open = false;
                    continue;
                }
                is_broken = connection.run(), if connection.is_open() => {
                    if is_broken && outcome.get().is_none() {
                        broken = Some(Box::pin(sleep(EXIT_WAIT)));
                    } else {
                        closed = Some(Box::pin(sleep(grace)));
                    }
                    continue;
                }
                () = leaving(call.conduct.as_deref()), if connection.is_open() => {
                    connection.future = None;
                    closed = Some(Box::pin(sleep(grace)));
                    continue;
                }
                () = wait_for(&mut broken), if !dying => Killed::ConnectionBroke,
                () = wait_for(&mut closed), if !dying => Killed::Lingered,
                () = wait_for(&mut kill_wait), if dying => {
                    break Err(Error::unknown("the process cannot be killed"));
                }
            };
            kill(&child, why);
            kill_wait = Some(Box::pin(sleep(KILL_WAIT)));
        }
    };
    // What it wrote before its end: the last requests and the last words.
    let _ = tokio::time::timeout(DRAIN, async {
        while connection.is_open() {
            connection.run().await;
        }
    })
    .await;
    let fault = connection.ended.take().and_then(Result::err);
    if let Some(conduct) = &call.conduct {
        conduct.note(|seen| {
            seen.empty_authority = observed.has_empty_authority();
            // Of a process that was killed the last frame may well be torn.
            seen.torn = killed.is_none() && observed.is_torn();
        });
    }
    drop(connection);
    if stderr_open {
        let _ = tokio::time::timeout(DRAIN, &mut stderr).await;
    }
    drop(stderr);
    let tail = log.finish();
    let returned = outcome.get().cloned();
    Verdict {
        image: call.image,
        returned,
        exit,
        killed,
        fault,
        spoke: observed.spoke_http2(),
        stray: observed.fault(),
        tail: &tail,
        limits: call.limits,
    }
    .decide()
}

async fn wait_for(timer: &mut Option<Pin<Box<tokio::time::Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

async fn leaving(conduct: Option<&Conduct>) {
    match conduct {
        Some(conduct) => conduct.leaves.cancelled().await,
        None => std::future::pending().await,
    }
}

type Serving = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

struct Connection {
    future: Option<Serving>,
    ended: Option<Result<(), String>>,
}

impl Connection {
    fn is_open(&self) -> bool {
        self.future.is_some()
    }

    /// Goes on serving; whether it ended broken.
    async fn run(&mut self) -> bool {
        let Some(future) = &mut self.future else {
            return false;
        };
        let ended = future.await;
        let broken = ended.is_err();
        self.future = None;
        self.ended = Some(ended);
        broken
    }
}

struct Verdict<'a> {
    image: &'a str,
    returned: Option<Result<BuildResult, Error>>,
    exit: Result<Exit, Error>,
    killed: Option<Killed>,
    fault: Option<String>,
    spoke: bool,
    /// What it wrote instead of HTTP/2.
    stray: Option<String>,
    tail: &'a str,
    limits: &'a FrontendLimits,
}

impl Verdict<'_> {
    fn decide(self) -> Result<BuildResult, Error> {
        if self.killed == Some(Killed::Canceled) {
            return Err(Error::canceled());
        }
        match self.returned {
            Some(Err(ref error)) => return Err(error.clone()),
            // A result stands if the frontend ended well, or ended late by our hand.
            Some(Ok(ref result)) if self.killed == Some(Killed::Lingered) => {
                return Ok(result.clone());
            }
            _ => {}
        }
        match &self.exit {
            Err(error) => return Err(self.failed(&error.message)),
            Ok(exit) if exit.code != 0 && self.killed.is_none() => {
                let mut text = format!("exit code: {}", exit.code);
                if exit.oom_killed {
                    text.push_str(" (killed: out of memory)");
                    text.push_str(&format!(
                        "; frontends may take {} MiB (maxMemory of frontend.\"gateway.v0\")",
                        self.limits.memory_bytes >> 20
                    ));
                }
                // A fault before the preface is only that it ended, unless it wrote something else.
                let fault = match self.spoke {
                    true => &self.fault,
                    false => &self.stray,
                };
                if let (Some(fault), None) = (fault, &self.returned) {
                    text = format!("{text}: {fault}");
                }
                let code = u32::try_from(exit.code).unwrap_or(255);
                return Err(self.failed(&text).with(Detail::Exit { code }));
            }
            Ok(_) => {}
        }
        if let Some(Ok(result)) = self.returned {
            return Ok(result);
        }
        let text = match (&self.killed, &self.fault) {
            (Some(Killed::NeverSpoke), _) => format!(
                "it did not start to speak the frontend protocol on stdout within {} seconds; is this image a BuildKit frontend?",
                self.limits.start_timeout.as_secs()
            ),
            (Some(Killed::TimedOut), _) => format!(
                "it did not end within {} seconds (the configured timeout of frontends)",
                self.limits.timeout.unwrap_or_default().as_secs()
            ),
            (Some(Killed::Idle), _) => format!(
                "it was silent for {} seconds while nothing that it had asked for was under way (idleTimeout of frontend.\"gateway.v0\")",
                self.limits.idle_timeout.unwrap_or_default().as_secs()
            ),
            (None, _) if !self.spoke && self.stray.is_none() => {
                "no result for incomplete build: it never spoke the frontend protocol on stdout; is this image a BuildKit frontend?".to_owned()
            }
            (_, Some(fault)) => format!("frontend grpc server closed unexpectedly: {fault}"),
            (Some(_), None) => {
                "it closed its stdout without a result and did not exit".to_owned()
            }
            (None, None) => "no result for incomplete build".to_owned(),
        };
        Err(self.failed(&text))
    }

    fn failed(&self, text: &str) -> Error {
        let mut message = format!("frontend {}: {text}", self.image);
        if !self.tail.is_empty() {
            message = format!("{message}; its last output:\n{}", self.tail);
        }
        Error::unknown(message)
    }
}
