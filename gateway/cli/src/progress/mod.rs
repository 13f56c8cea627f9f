//! Progress on stderr: one thread takes the engine's events and writes what a renderer makes of them.
//! Renderers are pure: events in, bytes out.
//!
//! A thread of its own, because a terminal may stop taking output at any time (Ctrl-S, a pager) and
//! the build must go on meanwhile.

pub mod bytes;
mod colors;
mod go;
pub mod mode;
mod plain;
mod summary;
mod trace;
pub mod tty;

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gateway_api::progress::{Progress, Status, VertexWarning};
use time::OffsetDateTime;

use self::colors::Colors;
use self::mode::Mode;
use self::plain::{Plain, Style};
use self::trace::{Keep, Trace};
use self::tty::{Look, Size, Tty};
use crate::config::Layers;
use crate::environment::Environment;
use crate::error::CliError;

/// Pause between two prints: short enough to feel live, long enough to group events.
const TICK: Duration = Duration::from_millis(100);
/// How long the events of tasks that are still ending are waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// More would leave no room for steps on any terminal.
const MOST_LOG_LINES: u16 = 200;
/// Warnings that are kept for a metadata file; a build file has fewer, and a hostile frontend could send any number.
const MOST_WARNINGS: usize = 10_000;

/// How the display looks, beside its mode.
pub struct Options {
    pub mode: Mode,
    look: Look,
    /// Warnings once more at the end.
    pub summary: bool,
    /// ... with their explanations.
    debug: bool,
}

impl Options {
    /// The second value is what of the environment was not understood.
    ///
    /// # Errors
    /// When a variable holds what it cannot.
    pub fn new(
        mode: Mode,
        debug: bool,
        layers: &Layers,
        env: &Environment,
    ) -> Result<(Self, Vec<String>), CliError> {
        let none = env.get("NO_COLOR").map(String::as_str);
        let rules = crate::config::text(layers, env, "progress.colors")?;
        let (colors, notes) = Colors::from_variables(none, rules.as_deref());
        let log_lines = crate::config::number(layers, env, "progress.log-lines")?
            .and_then(|number| u16::try_from(number).ok())
            .unwrap_or(tty::LOG_LINES)
            .min(MOST_LOG_LINES);
        let look = Look {
            colors,
            log_lines,
            title: format!("gateway:{}", env!("CARGO_PKG_VERSION")),
        };
        let options = Options {
            mode,
            look,
            summary: true,
            debug,
        };
        Ok((options, notes))
    }
}

/// The running display.
pub struct Display {
    progress: Progress,
    events: Sender<Event>,
    warnings: Arc<Mutex<Vec<VertexWarning>>>,
    thread: Option<JoinHandle<()>>,
}

enum Event {
    Status(Status),
    /// The build is over; what comes now is late.
    Over,
}

impl Display {
    pub fn start(options: Options) -> Display {
        let (events, receiver) = channel();
        let sender = events.clone();
        let warnings = Arc::<Mutex<Vec<VertexWarning>>>::default();
        let kept = warnings.clone();
        let progress = Progress::new(move |status| {
            if !status.warnings.is_empty() {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MOST_WARNINGS.saturating_sub(kept.len());
                kept.extend(status.warnings.iter().take(room).cloned());
            }
            // The receiver lives until `finish`; later events have no reader by intent.
            let _ = sender.send(Event::Status(status));
        });
        let thread = std::thread::Builder::new()
            .name("display".into())
            .spawn(move || run(options, &receiver))
            .ok();
        Display {
            progress,
            events,
            warnings,
            thread,
        }
    }

    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Writes what is left, after the events of tasks that are still ending. Gives the warnings that came.
    pub fn finish(self) -> Vec<VertexWarning> {
        let _ = self.events.send(Event::Over);
        drop((self.progress, self.events));
        if let Some(thread) = self.thread {
            // A panic of the display is on stderr already and no reason to lose the build's result.
            let _ = thread.join();
        }
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What makes bytes of events.
enum Renderer {
    Tty(Box<Tty>),
    Plain(Box<Plain>),
    Raw(Vec<u8>),
    /// Nothing, but what failed steps have said.
    Quiet(Box<Trace>),
}

impl Renderer {
    fn update(&mut self, status: Status, now: OffsetDateTime) {
        match self {
            Renderer::Tty(tty) => tty.update(status, now),
            Renderer::Plain(plain) => plain.update(status, now),
            Renderer::Quiet(trace) => trace.update(status, now),
            Renderer::Raw(out) => {
                if let Ok(line) = serde_json::to_vec(&status) {
                    out.extend_from_slice(&line);
                    out.push(b'\n');
                }
            }
        }
    }

    fn render(&mut self, now: OffsetDateTime) -> Vec<u8> {
        match self {
            Renderer::Tty(tty) => tty.render(now, terminal_size()),
            Renderer::Plain(plain) => plain.render(now),
            Renderer::Quiet(_) => Vec::new(),
            Renderer::Raw(out) => std::mem::take(out),
        }
    }

    fn finish(&mut self, now: OffsetDateTime) -> Vec<u8> {
        match self {
            Renderer::Tty(tty) => tty.finish(now, terminal_size()),
            Renderer::Plain(plain) => plain.finish(now),
            Renderer::Quiet(trace) => trace.error_blocks(),
            Renderer::Raw(out) => std::mem::take(out),
        }
    }

    fn trace(&self) -> Option<&Trace> {
        match self {
            Renderer::Tty(tty) => Some(tty.trace()),
            Renderer::Plain(plain) => Some(plain.trace()),
            Renderer::Raw(_) | Renderer::Quiet(_) => None,
        }
    }
}

fn run(options: Options, events: &Receiver<Event>) {
    let colors = match std::io::stderr().is_terminal() {
        true => options.look.colors.clone(),
        false => Colors::none(),
    };
    let mut renderer = match options.mode {
        Mode::Tty => Renderer::Tty(Box::new(Tty::new(options.look))),
        Mode::Plain2018 => Renderer::Plain(Box::new(Plain::new(Style::V2018))),
        Mode::Rawjson => Renderer::Raw(Vec::new()),
        Mode::Quiet | Mode::None => Renderer::Quiet(Box::new(Trace::new(Keep {
            lines: false,
            ..Keep::default()
        }))),
        Mode::Auto | Mode::Plain => Renderer::Plain(Box::new(Plain::new(Style::Current))),
    };
    let mut next = Instant::now() + TICK;
    let mut deadline = None;
    loop {
        let until = deadline.map_or(next, |deadline: Instant| deadline.min(next));
        match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Status(status)) => renderer.update(status, OffsetDateTime::now_utc()),
            Ok(Event::Over) => deadline = Some(Instant::now() + PATIENCE),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            break;
        }
        if next <= now {
            write_stderr(&renderer.render(OffsetDateTime::now_utc()));
            next = Instant::now() + TICK;
        }
    }
    let mut rest = renderer.finish(OffsetDateTime::now_utc());
    if let Some(trace) = renderer.trace().filter(|_| options.summary) {
        rest.extend_from_slice(summary::warnings(trace, &colors, options.debug).as_bytes());
    }
    write_stderr(&rest);
}

fn terminal_size() -> Size {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Size {
            columns: size.ws_col,
            rows: size.ws_row,
        },
        _ => Size::default(),
    }
}

fn write_stderr(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    // A closed stderr must not end the build.
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(bytes).and_then(|()| stderr.flush());
}
