//! The one error of the bridge: a gRPC code, a message and typed details, as they travel between
//! frontends, engine and clients. Details that we do not know are kept and forwarded.

use gateway_llb::pb;

/// gRPC status codes by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The code for a number from the wire; unknown numbers are `Unknown`.
    pub fn from_number(number: i32) -> Code {
        use Code::*;
        const ALL: [Code; 17] = [
            Ok,
            Canceled,
            Unknown,
            InvalidArgument,
            DeadlineExceeded,
            NotFound,
            AlreadyExists,
            PermissionDenied,
            ResourceExhausted,
            FailedPrecondition,
            Aborted,
            OutOfRange,
            Unimplemented,
            Internal,
            Unavailable,
            DataLoss,
            Unauthenticated,
        ];
        usize::try_from(number)
            .ok()
            .and_then(|index| ALL.get(index).copied())
            .unwrap_or(Unknown)
    }
}

/// Where in a build file an error lies. Lines count from 1, characters from 0.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceLocation {
    pub info: pb::SourceInfo,
    pub ranges: Vec<pb::Range>,
}

/// One typed detail. On the wire each is JSON text inside a protobuf `Any`.
#[derive(Debug, Clone, PartialEq)]
pub enum Detail {
    /// A stack trace, as its JSON text; optional, dropped first when details grow too large.
    Stack(String),
    /// The digest of the failing vertex.
    Vertex {
        digest: String,
    },
    Source(SourceLocation),
    /// One per nested frontend that the error passed.
    Frontend {
        name: String,
        source: String,
    },
    /// A capability that the caller requires and the frontend lacks.
    FrontendCap {
        name: String,
    },
    /// A request id that the frontend does not know.
    Subrequest {
        name: String,
    },
    /// The failed operation, for interactive debugging.
    Solve(SolveDetail),
    /// The exit code of a process.
    Exit {
        code: u32,
    },
    /// Anything else, forwarded untouched.
    Other {
        type_url: String,
        value: Vec<u8>,
    },
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct SolveDetail {
    pub input_ids: Vec<String>,
    pub mount_ids: Vec<String>,
    pub op: Option<Box<pb::Op>>,
    /// Index of the failing action of a file op.
    pub file_index: Option<i64>,
    /// Index of the result whose content could not be digested. Never beside `file_index`.
    pub cache_index: Option<i64>,
    pub description: std::collections::BTreeMap<String, String>,
}

/// Type of the detail that carries an explanation for the user: plain text of several lines. Other
/// readers keep it as an unknown detail.
pub const HELP_TYPE: &str = "gateway.error.Help+text";

/// Type of the detail that says who is at fault, where it is not the build: one word.
pub const CAUSE_TYPE: &str = "gateway.error.Cause+text";

/// Who is at fault for an error, where it is not the build itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A registry could not be reached, did not let us in, or has no such image.
    Registry,
    /// A rule of the user or the operator forbids it.
    Policy,
}

impl Cause {
    fn word(self) -> &'static str {
        match self {
            Cause::Registry => "registry",
            Cause::Policy => "policy",
        }
    }
}

/// An error of a build, a frontend or the engine.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: Code,
    pub message: String,
    /// Outermost first; the reader wraps from first to last.
    pub details: Vec<Detail>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error {
            code,
            message: message.into(),
            details: Vec::new(),
        }
    }

    /// The usual code of build failures, 2.
    pub fn unknown(message: impl Into<String>) -> Self {
        Error::new(Code::Unknown, message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(Code::InvalidArgument, message)
    }

    pub fn canceled() -> Self {
        Error::new(Code::Canceled, "context canceled")
    }

    #[must_use]
    pub fn with(mut self, detail: Detail) -> Self {
        self.details.push(detail);
        self
    }

    /// The same error with `prefix: ` before its message.
    #[must_use]
    pub fn context(mut self, prefix: impl std::fmt::Display) -> Self {
        self.message = format!("{prefix}: {}", self.message);
        self
    }

    /// Adds what a user should know beside the message: who was asked, why it failed, what to do.
    #[must_use]
    pub fn with_help(self, text: impl Into<String>) -> Self {
        self.with(Detail::Other {
            type_url: HELP_TYPE.to_owned(),
            value: text.into().into_bytes(),
        })
    }

    /// The explanations that the error carries.
    pub fn help(&self) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
        self.details.iter().filter_map(|detail| match detail {
            Detail::Other { type_url, value } if type_url == HELP_TYPE => {
                Some(String::from_utf8_lossy(value))
            }
            _ => None,
        })
    }

    /// Says who is at fault.
    #[must_use]
    pub fn caused_by(self, cause: Cause) -> Self {
        self.with(Detail::Other {
            type_url: CAUSE_TYPE.to_owned(),
            value: cause.word().as_bytes().to_vec(),
        })
    }

    /// Who is at fault, if that was said.
    pub fn cause(&self) -> Option<Cause> {
        self.details.iter().find_map(|detail| match detail {
            Detail::Other { type_url, value } if type_url == CAUSE_TYPE => {
                let known = [Cause::Registry, Cause::Policy];
                known
                    .into_iter()
                    .find(|cause| cause.word().as_bytes() == value)
            }
            _ => None,
        })
    }

    pub fn sources(&self) -> impl Iterator<Item = &SourceLocation> {
        self.details.iter().filter_map(|detail| match detail {
            Detail::Source(location) => Some(location),
            _ => None,
        })
    }

    pub fn vertex(&self) -> Option<&str> {
        self.details.iter().find_map(|detail| match detail {
            Detail::Vertex { digest } => Some(digest.as_str()),
            _ => None,
        })
    }

    pub fn exit_code(&self) -> Option<u32> {
        self.details.iter().find_map(|detail| match detail {
            Detail::Exit { code } => Some(*code),
            _ => None,
        })
    }
}
