//! What the command line itself refuses, and how the end of a build is told.

use std::path::PathBuf;
use std::process::ExitCode;

/// The build failed, or something it needs did.
pub const FAILED: u8 = 1;
/// The command line or a configuration file is wrong; nothing was started.
pub const USAGE: u8 = 2;
/// Ended by Ctrl-C or SIGTERM, as shells count it (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// A flag that cannot be used as it was given.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {value:?}: {problem}")]
pub struct UsageError {
    flag: String,
    value: String,
    problem: String,
}

impl UsageError {
    pub fn new(flag: impl Into<String>, value: impl Into<String>, problem: String) -> Self {
        UsageError {
            flag: flag.into(),
            value: value.into(),
            problem,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error("cannot use the context {path}: {source}")]
    Context {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{path} is neither a directory nor an address; an archive goes in on stdin: gateway build - < {path}"
    )]
    ContextKind { path: PathBuf },
    #[error("cannot read stdin: {0}")]
    Stdin(std::io::Error),
    #[error("nothing came on stdin: give it a build file or an archive, or name a directory")]
    EmptyStdin,
    #[error("the build file on stdin is larger than {limit} bytes")]
    StdinTooLarge { limit: u64 },
    #[error("the frontend has no answer to {method}: it may be too old to be asked")]
    NoAnswer { method: String },
    /// The answer to a question is on stdout; only the exit code is left to tell.
    #[error("the build file has mistakes")]
    CheckFailed,
    #[error("cannot read {path}: {source}")]
    ReadFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("no graph to print: {0}")]
    NoGraph(String),
    #[error("OCI layout {path}: {problem}")]
    Layout { path: PathBuf, problem: String },
    #[error("cannot read the build file {path}: {source}")]
    BuildFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot read the configuration {path}: {source}")]
    ConfigFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("configuration {path}: {problem}")]
    Config { path: PathBuf, problem: String },
    #[error("cannot read the source policy {path}: {source}")]
    PolicyFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "source policy {path}: {source}\nA policy that is not understood guards nothing, so nothing was built."
    )]
    Policy {
        path: PathBuf,
        source: gateway_solver::policy::PolicyError,
    },
    #[error("credentials in {path}: {problem}")]
    Credentials { path: PathBuf, problem: String },
    #[error("no place for the store: neither --root nor HOME is set")]
    NoHome,
    #[error("cannot write {path}: {source}")]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Store(#[from] gateway_solver::SolverError),
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    /// The build itself.
    #[error("{}", .0.message)]
    Build(Box<gateway_api::Error>),
    /// Something with an image of the store.
    #[error("{}", .0.message)]
    Image(Box<gateway_api::Error>),
    #[error(
        "{0} damaged; what could be was set aside, and the next build fetches or makes it again"
    )]
    Damaged(String),
    #[error(
        "lock file {path}: {problem}\nNothing was built. If it was edited by hand or merged, `gateway lock --update` writes it anew and shows the difference."
    )]
    Lock { path: PathBuf, problem: String },
    #[error("there is no lock file {path}: `gateway lock` with the flags of this build writes it")]
    NoLock { path: PathBuf },
    /// `drift` is a report of several lines.
    #[error("{what}\n{drift}{help}")]
    Drift {
        what: String,
        drift: String,
        help: String,
    },
    #[error("nothing was removed")]
    Refused,
    /// A registry, with its whole page.
    #[error("{}", .0.trim_end())]
    Registry(String),
    #[error("{0}")]
    Copy(String),
    #[error("no place for logins: neither DOCKER_CONFIG nor HOME is set")]
    NoLoginFile,
    /// The command has said all itself.
    #[error("failed")]
    Told,
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            CliError::Usage(_)
            | CliError::Context { .. }
            | CliError::ContextKind { .. }
            | CliError::Stdin(_)
            | CliError::EmptyStdin
            | CliError::StdinTooLarge { .. }
            | CliError::Layout { .. }
            | CliError::BuildFile { .. }
            | CliError::ConfigFile { .. }
            | CliError::Config { .. }
            | CliError::PolicyFile { .. }
            | CliError::Policy { .. }
            | CliError::NoLoginFile
            | CliError::Lock { .. }
            | CliError::NoLock { .. }
            | CliError::NoHome => USAGE,
            CliError::Interrupted => INTERRUPTED,
            _ => FAILED,
        })
    }

    /// The text for the user, excerpt first.
    pub fn page(&self) -> String {
        match self {
            CliError::Build(error) => {
                let mut page = crate::excerpt::excerpts(error);
                page += &format!("error: failed to solve: {}\n", error.message);
                for help in error.help() {
                    page.push_str(&help);
                }
                page
            }
            CliError::Image(error) => {
                let mut page = format!("error: {}\n", error.message);
                for help in error.help() {
                    page.push_str(&help);
                }
                page
            }
            CliError::CheckFailed => String::new(),
            CliError::Told => String::new(),
            other => format!("error: {other}\n"),
        }
    }
}
