//! What the command line itself refuses, and how the end of a build is told.

use std::path::PathBuf;
use std::process::ExitCode;

use gateway_api::{Cause, Detail};

/// The build failed, or something it needs did.
pub const FAILED: u8 = 1;
/// The command line or a configuration file is wrong; nothing was started.
pub const USAGE: u8 = 2;
/// A registry could not be reached, did not let us in, or has no such image.
pub const REGISTRY: u8 = 3;
/// A rule of the user or of the operator forbids it: source policies, the list of allowed frontends, entitlements
/// that were not granted.
pub const REFUSED: u8 = 4;
/// Ended by Ctrl-C or SIGTERM, as shells count it (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// A flag that cannot be used as it was given.
#[derive(Debug, thiserror::Error)]
#[error("{flag}{}: {problem}", given(value))]
pub struct UsageError {
    flag: String,
    value: String,
    problem: String,
}

/// A switch has no value to show.
fn given(value: &str) -> String {
    match value {
        "" => String::new(),
        value => format!(" {value:?}"),
    }
}

impl UsageError {
    pub fn new(flag: impl Into<String>, value: impl Into<String>, problem: String) -> Self {
        let (flag, value) = (flag.into(), value.into());
        let problem = match (value.is_empty(), problem.as_str()) {
            // The words of whoever reads pairs for a text without any.
            (true, "EOF") => {
                "a value is missing: `gateway build --help` shows its forms".to_owned()
            }
            _ => problem,
        };
        UsageError {
            flag,
            value,
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
    #[error("cannot fetch the build file {url}: {problem}")]
    Fetch { url: String, problem: String },
    #[error("no place for the store: neither --root nor HOME is set")]
    NoHome,
    #[error("cannot write {path}: {source}")]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Store(#[from] gateway_solver::SolverError),
    #[error("cannot listen on {address}: {problem}")]
    Listen { address: String, problem: String },
    #[error("cannot reach a daemon at {address}: {source}")]
    Dial {
        address: String,
        source: std::io::Error,
    },
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    /// The build itself.
    #[error("{}", .0.message)]
    Build(Box<gateway_api::Error>),
    /// The same, with all that is known of it: for `--debug`.
    #[error(transparent)]
    Explained(Box<CliError>),
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
    /// A frontend image, or what makes it.
    #[error("{0}")]
    Frontend(String),
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
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            CliError::Explained(error) => error.code(),
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
            CliError::Registry(_) => REGISTRY,
            CliError::Build(error) | CliError::Image(error) => match error.cause() {
                Some(Cause::Registry) => REGISTRY,
                Some(Cause::Policy) => REFUSED,
                None => FAILED,
            },
            _ => FAILED,
        }
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
            CliError::Explained(error) => {
                let CliError::Build(inner) = error.as_ref() else {
                    return error.page();
                };
                error.page() + &chain(inner)
            }
            CliError::Image(error) => {
                let mut page = format!("error: {}\n", error.message);
                for help in error.help() {
                    page.push_str(&help);
                }
                page
            }
            CliError::Store(gateway_solver::SolverError::Io { source, .. })
                if is_of_place(source) =>
            {
                let fix = "a store must be a folder that can be made and written: name another place with --root or \
                           GATEWAY_ROOT";
                format!("error: {self}\n{fix}\n")
            }
            CliError::CheckFailed => String::new(),
            CliError::Told => String::new(),
            other => format!("error: {other}\n"),
        }
    }
}

/// A store cannot be where it was to be.
fn is_of_place(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotADirectory | NotFound | PermissionDenied)
}

/// What an error carries beside its message, the outermost first: which frontends it went through, which step it
/// is of, and where in programs it arose.
fn chain(error: &gateway_api::Error) -> String {
    let mut text = format!("\ndebug: code {} ({:?})\n", error.code as i32, error.code);
    for detail in &error.details {
        let line = match detail {
            Detail::Frontend { name, source } if source.is_empty() => {
                format!("through the frontend {name}")
            }
            Detail::Frontend { name, source } => format!("through the frontend {name} {source}"),
            Detail::Vertex { digest } => format!("of the step {digest}"),
            Detail::Exit { code } => format!("the process ended with {code}"),
            Detail::FrontendCap { name } => format!("needs the capability {name}"),
            Detail::Subrequest { name } => format!("asked for the request {name}"),
            Detail::Solve(solve) => {
                let of = |key: &str| solve.description.get(key);
                match of("llb.customname").or_else(|| of("com.docker.dockerfile.v1.command")) {
                    Some(name) => format!("while solving {name}"),
                    None => "while solving".to_owned(),
                }
            }
            Detail::Stack(json) => {
                text += &frames(json);
                continue;
            }
            // On the page already.
            Detail::Source(_) => continue,
            Detail::Other { type_url, .. }
                if [
                    gateway_api::error::HELP_TYPE,
                    gateway_api::error::CAUSE_TYPE,
                ]
                .contains(&type_url.as_str()) =>
            {
                continue;
            }
            Detail::Other { type_url, value } => format!("{type_url} ({} bytes)", value.len()),
        };
        text += &format!("debug: {}\n", crate::progress::tty::clean(&line));
    }
    text
}

/// Frames of a stack most that are shown: the innermost tell.
const MOST_FRAMES: usize = 20;

/// A stack as frontends send it.
fn frames(json: &str) -> String {
    let Ok(stack) = serde_json::from_str::<serde_json::Value>(json) else {
        return String::new();
    };
    let word = |value: &serde_json::Value, name: &str| {
        let text = value.get(name).map(|value| match value.as_str() {
            Some(text) => text.to_owned(),
            None => value.to_string(),
        });
        crate::progress::tty::clean(&text.unwrap_or_default())
    };
    let mut text = format!(
        "debug: stack of {} {}\n",
        word(&stack, "cmdline"),
        word(&stack, "version")
    );
    let frames = stack.get("frames").and_then(serde_json::Value::as_array);
    for frame in frames.into_iter().flatten().take(MOST_FRAMES) {
        text += &format!(
            "debug:   {}\n           {}:{}\n",
            word(frame, "Name"),
            word(frame, "File"),
            word(frame, "Line")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use gateway_api::Error;

    use super::*;

    fn build(error: Error) -> CliError {
        CliError::Build(Box::new(error))
    }

    #[test]
    fn exit_codes_tell_who_is_at_fault() {
        let failed = Error::unknown("x");
        for (error, code) in [
            (build(failed.clone()), 1),
            (build(failed.clone().caused_by(Cause::Registry)), 3),
            (build(failed.clone().caused_by(Cause::Policy)), 4),
            (CliError::Registry("no".into()), 3),
            (CliError::EmptyStdin, 2),
            (CliError::Interrupted, 130),
            (
                CliError::Explained(Box::new(build(failed.caused_by(Cause::Policy)))),
                4,
            ),
        ] {
            assert_eq!(error.code(), code, "{error:?}");
        }
    }

    #[test]
    fn debug_tells_the_way_of_an_error() {
        let stack = r#"{"frames":[{"Name":"main.x\u001b[2J","File":"/a.go","Line":7}],"version":"v1","cmdline":["f"]}"#;
        let error = Error::unknown("process \"x\" failed")
            .with(Detail::Stack(stack.to_owned()))
            .with(Detail::Frontend {
                name: "gateway.v0".into(),
                source: "docker/dockerfile:1".into(),
            })
            .with(Detail::Vertex {
                digest: "sha256:ab".into(),
            })
            .with(Detail::Exit { code: 3 })
            .with_help("more\n")
            .caused_by(Cause::Registry);
        let page = CliError::Explained(Box::new(build(error))).page();
        insta::assert_snapshot!(page, @r#"
        error: failed to solve: process "x" failed
        more

        debug: code 2 (Unknown)
        debug: stack of ["f"] v1
        debug:   main.x [2J
                   /a.go:7
        debug: through the frontend gateway.v0 docker/dockerfile:1
        debug: of the step sha256:ab
        debug: the process ended with 3
        "#);
    }
}
