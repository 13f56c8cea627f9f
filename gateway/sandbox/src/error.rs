//! What can go wrong: with the launcher itself, or at a named stage of a start.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure to start a sandbox or to learn how it ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The launcher process could not be started.
    #[error("cannot start the sandbox launcher {program}: {source}")]
    LauncherStart {
        program: String,
        #[source]
        source: io::Error,
    },
    /// The launcher process said at its start why it cannot work.
    #[error("the sandbox launcher cannot work here: {0}")]
    LauncherSetup(SetupError),
    /// The launcher process ended; all of its sandboxes ended with it.
    #[error("the sandbox launcher is gone")]
    LauncherGone,
    /// Talking to the launcher failed.
    #[error("cannot talk to the sandbox launcher: {0}")]
    Io(#[from] io::Error),
    /// The specification cannot be run anywhere.
    #[error("invalid sandbox: {0}")]
    InvalidSpec(String),
    /// A stage of the start failed; the payload never ran.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

impl Error {
    /// The exit code that a step whose payload could not be started shows:
    /// 1, as observed with BuildKit for a missing program. `None` for errors
    /// that are not the step's.
    pub fn step_exit_code(&self) -> Option<i32> {
        match self {
            Error::Setup(error) if error.stage == Stage::Exec => Some(1),
            _ => None,
        }
    }

    /// Why the user of the specification is nobody there. `None` for other errors.
    pub fn unknown_user(&self) -> Option<&str> {
        match self {
            Error::Setup(error) if error.stage == Stage::User && error.errno == 0 => {
                Some(&error.detail)
            }
            _ => None,
        }
    }
}

/// A failed stage of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupError {
    pub stage: Stage,
    /// 0 when no system call failed.
    pub errno: i32,
    /// What was being done, with the paths as the payload would see them.
    pub detail: String,
}

impl SetupError {
    pub(crate) fn new(stage: Stage, errno: impl Into<Errno>, detail: impl Into<String>) -> Self {
        SetupError {
            stage,
            errno: errno.into().0,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The detail of a failed exec is a whole sentence.
        if self.stage == Stage::Exec {
            return write!(f, "unable to start the process: {}", self.detail);
        }
        write!(f, "sandbox setup failed at {}: {}", self.stage, self.detail)?;
        if self.errno != 0 {
            let reason = io::Error::from_raw_os_error(self.errno).to_string();
            let reason = reason
                .split_once(" (os error")
                .map_or(reason.as_str(), |(text, _)| text);
            write!(f, ": {}", lowercase_first(reason))?;
        }
        Ok(())
    }
}

impl std::error::Error for SetupError {}

/// "No such file or directory" reads better in lower case after a colon.
pub(crate) fn lowercase_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// The stages of a start in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    Launcher,
    Cgroup,
    Namespaces,
    RootFs,
    MountSource,
    Pivot,
    User,
    SystemMounts,
    Mount,
    Cwd,
    Network,
    Limits,
    Privileges,
    /// Another runtime's part.
    Runtime,
    Exec,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Launcher => "starting the launcher",
            Stage::Cgroup => "the control group",
            Stage::Namespaces => "the namespaces",
            Stage::RootFs => "the root file system",
            Stage::MountSource => "opening a mount's source",
            Stage::Pivot => "entering the root file system",
            Stage::User => "looking up the user",
            Stage::SystemMounts => "the system mounts",
            Stage::Mount => "mounting",
            Stage::Cwd => "the working directory",
            Stage::Network => "the network",
            Stage::Limits => "the resource limits",
            Stage::Privileges => "dropping privileges",
            Stage::Runtime => "the OCI runtime",
            Stage::Exec => "executing the program",
        })
    }
}

/// An error number from wherever it came; lets the constructors take rustix's,
/// std's and raw ones alike.
pub(crate) struct Errno(pub i32);

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Errno(errno.raw_os_error())
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<i32> for Errno {
    fn from(errno: i32) -> Self {
        Errno(errno)
    }
}

/// Adds the stage and what was being done to a failed system call.
pub(crate) trait At<T> {
    fn at(self, stage: Stage, detail: impl FnOnce() -> String) -> Result<T, SetupError>;
}

impl<T, E: Into<Errno>> At<T> for Result<T, E> {
    fn at(self, stage: Stage, detail: impl FnOnce() -> String) -> Result<T, SetupError> {
        self.map_err(|errno| SetupError::new(stage, errno, detail()))
    }
}
