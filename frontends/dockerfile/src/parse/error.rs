//! Why a file does not parse.

use super::ast::LineRange;

/// A mistake in the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// The text as users know it, with `dockerfile parse error on line N: ` where instructions have it.
    pub message: String,
    /// The lines it is about; `None` when it is about the file.
    pub location: Option<LineRange>,
}

impl ParseError {
    /// A mistake about the file as a whole.
    pub fn whole_file(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            location: None,
        }
    }

    /// A mistake in some lines.
    pub fn at(message: impl Into<String>, location: LineRange) -> Self {
        Self {
            message: message.into(),
            location: Some(location),
        }
    }
}
