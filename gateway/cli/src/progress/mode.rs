//! The ways to show progress, and which of them fits.

use std::io::IsTerminal as _;

use clap::ValueEnum;

use crate::environment::Environment;
use crate::error::UsageError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// On a terminal the display that repaints itself, else plain text.
    Auto,
    /// One line a step, repainted in place; needs a terminal.
    Tty,
    /// Lines of text, one step at a time.
    Plain,
    /// Plain text in the form of Docker 18.09, for scripts that read it.
    #[value(name = "plain=2018", alias = "plain-v1")]
    Plain2018,
    /// One JSON object per event, as buildctl prints them.
    Rawjson,
    /// Nothing but the image's id, and what failed.
    Quiet,
    /// Nothing but what failed.
    None,
}

impl Mode {
    /// The mode to use: one that was asked for, else what fits stderr.
    ///
    /// # Errors
    /// When a terminal is needed and there is none.
    pub fn resolve(self, env: &Environment) -> Result<Mode, UsageError> {
        let terminal = std::io::stderr().is_terminal();
        let dumb = env.get("TERM").is_some_and(|term| term == "dumb");
        match self {
            Mode::Auto if terminal && !dumb => Ok(Mode::Tty),
            Mode::Auto => Ok(Mode::Plain),
            Mode::Tty if !terminal => Err(UsageError::new(
                "--progress",
                "tty",
                "stderr is no terminal: use --progress=plain, or auto to choose by itself".into(),
            )),
            mode => Ok(mode),
        }
    }
}
