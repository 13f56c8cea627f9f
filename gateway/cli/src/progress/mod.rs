//! Progress on the terminal: one task takes the engine's events and writes what a renderer makes of
//! them to stderr. Renderers are pure: events in, bytes out.

pub mod bytes;
mod plain;
mod trace;

use std::io::Write;
use std::time::Duration;

use clap::ValueEnum;
use gateway_api::progress::{Progress, Status};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pause between two prints: short enough to feel live, long enough to group events.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Plain text.
    Auto,
    /// Lines of text, one step at a time.
    Plain,
    /// One JSON object per event, as buildctl prints them.
    Rawjson,
    /// Nothing but the result.
    Quiet,
}

/// The running renderer.
pub struct Display {
    progress: Progress,
    task: JoinHandle<()>,
}

impl Display {
    /// Must be called inside the runtime.
    pub fn start(mode: Mode) -> Display {
        let (sender, receiver) = mpsc::unbounded_channel();
        let progress = Progress::new(move |status| {
            // The receiver lives until `finish`; later events have no reader by intent.
            let _ = sender.send(status);
        });
        let task = match mode {
            Mode::Auto | Mode::Plain => tokio::spawn(run_plain(receiver)),
            Mode::Rawjson => tokio::spawn(run_rawjson(receiver)),
            Mode::Quiet => tokio::spawn(async move {
                let mut receiver = receiver;
                while receiver.recv().await.is_some() {}
            }),
        };
        Display { progress, task }
    }

    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Writes what is left. All other handles to the progress must be gone, else this waits for
    /// them for a moment only.
    pub async fn finish(self) {
        drop(self.progress);
        let mut task = self.task;
        // A task of a cancelled build may hold its handle a little longer; its events are not worth
        // more waiting than this.
        let _ = tokio::time::timeout(Duration::from_millis(500), &mut task).await;
    }
}

async fn run_plain(mut events: mpsc::UnboundedReceiver<Status>) {
    let mut plain = plain::Plain::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(status) => plain.update(status, OffsetDateTime::now_utc()),
                None => break,
            },
            _ = tick.tick() => write_stderr(&plain.render(OffsetDateTime::now_utc())),
        }
    }
    write_stderr(&plain.finish(OffsetDateTime::now_utc()));
}

async fn run_rawjson(mut events: mpsc::UnboundedReceiver<Status>) {
    while let Some(status) = events.recv().await {
        if let Ok(mut line) = serde_json::to_vec(&status) {
            line.push(b'\n');
            write_stderr(&line);
        }
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
