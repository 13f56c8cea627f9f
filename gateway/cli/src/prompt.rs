//! Questions on the terminal: Ctrl-C while one waits ends the command, with the terminal as it was before.

use std::io::{BufRead, IsTerminal, Read};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::CliError;

/// Longest answer that is read; tokens are some kilobytes.
pub const MAX_ANSWER: u64 = 64 << 10;

/// Whether there is somebody to ask.
pub fn is_possible() -> bool {
    std::io::stdin().is_terminal()
}

/// The line that is typed, without its end. `shown`: what is typed can be seen.
///
/// # Errors
/// The terminal cannot be read, or the answer was Ctrl-C.
pub fn ask(question: &str, shown: bool) -> Result<String, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let silence = (!shown).then(Silence::begin).flatten();
    let answer = runtime.block_on(async {
        // Before the question: whoever sees it may press Ctrl-C.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Runtime)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Runtime)?;
        eprint!("{question}");
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            let read = std::io::stdin()
                .lock()
                .take(MAX_ANSWER)
                .read_line(&mut line);
            read.map(|_| line)
        });
        tokio::select! {
            biased;
            _ = interrupt.recv() => Err(CliError::Interrupted),
            _ = terminate.recv() => Err(CliError::Interrupted),
            line = line => {
                let line = line.unwrap_or_else(|error| Err(std::io::Error::other(error)));
                line.map_err(|source| CliError::Write {
                    path: "the terminal".into(),
                    source,
                })
            }
        }
    });
    let was_silent = silence.is_some();
    drop(silence);
    if was_silent || answer.is_err() {
        // The end of the line was not shown.
        eprintln!();
    }
    // The thread that reads cannot be ended, and is not waited for.
    runtime.shutdown_background();
    Ok(answer?.trim_end_matches(['\r', '\n']).to_owned())
}

/// What is typed is not shown as long as this lives.
struct Silence(Termios);

impl Silence {
    fn begin() -> Option<Silence> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &silent).ok()?;
        Some(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
