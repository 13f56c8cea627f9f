//! Dockerfile text to a tree: pure functions of bytes, in time linear to their length.
//!
//! The order of work is that of the file format: lines and continuations (`lines`), the split of an instruction into
//! keyword, flags and arguments (`split`), heredocs ([`heredoc`]), then typed instructions (`instruction`).
//! Expansion of words ([`expand`]) is done by the conversion, which knows the values.

pub mod ast;
mod device;
mod duration;
pub mod error;
pub mod expand;
mod flags;
pub mod heredoc;
mod instruction;
mod lines;
pub mod mount;
mod node;
pub mod pattern;
pub use gateway_llb::quote;
mod split;
pub mod suggest;
pub mod syntax;

pub use ast::*;
pub use error::ParseError;
pub use syntax::{Syntax, detect_syntax};

use std::sync::Arc;

use instruction::Typed;

/// What could be read of a file, and what stopped it.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// All that precedes the error.
    pub dockerfile: Dockerfile,
    /// The first error, `None` when the whole file was read.
    pub error: Option<ParseError>,
    /// The FROM or MAINTAINER that the error is about.
    pub failed: Option<Failed>,
}

/// An instruction that could not be used: what checks still want to know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// As written.
    pub keyword: String,
    /// What follows, in words.
    pub words: Vec<String>,
    /// Comment lines above.
    pub comments: Vec<String>,
    /// Its lines.
    pub location: LineRange,
}

/// The mistake of a file that has only global ARGs.
pub const NO_STAGES: &str = "dockerfile contains no stages to build";

/// The mistake of a file without a byte.
pub const EMPTY: &str = "the Dockerfile cannot be empty";

/// The mistake of a file that has only comments and blank lines.
pub const NO_INSTRUCTIONS: &str = "file with no instructions";

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
pub fn parse_lenient(bytes: &[u8]) -> Parsed {
    if bytes.is_empty() {
        return Parsed {
            error: Some(ParseError::whole_file(EMPTY)),
            ..Parsed::default()
        };
    }
    let lines = lines::read(bytes);
    let mut dockerfile = Dockerfile {
        escape: lines.escape,
        directives: lines.directives,
        empty_continuations: lines.empty_continuations,
        ..Dockerfile::default()
    };
    if lines.error.is_some() {
        return Parsed {
            dockerfile,
            error: lines.error,
            failed: None,
        };
    }
    for node in lines.nodes {
        let failed = node.remains();
        if let Err(err) = add_node(node, &mut dockerfile) {
            return Parsed {
                dockerfile,
                error: Some(err),
                failed,
            };
        }
    }
    let error = dockerfile
        .stages
        .is_empty()
        .then(|| ParseError::whole_file(NO_STAGES));
    Parsed {
        dockerfile,
        error,
        failed: None,
    }
}

fn add_node(node: node::Node, dockerfile: &mut Dockerfile) -> Result<(), ParseError> {
    let location = node.location;
    let typed = instruction::typed(node).map_err(|e| {
        let line = location.start;
        ParseError::at(
            format!("dockerfile parse error on line {line}: {e}"),
            location,
        )
    });
    match (typed?, dockerfile.stages.last_mut()) {
        (Typed::From(stage), _) => dockerfile.stages.push(*stage),
        (Typed::Instruction(instruction), Some(stage)) => {
            stage.instructions.push(Arc::from(instruction));
        }
        (Typed::Instruction(instruction), None) => match instruction.kind {
            Kind::Arg(_) => dockerfile.meta_args.push(*instruction),
            _ => {
                return Err(ParseError::at(
                    "no build stage in current context",
                    location,
                ));
            }
        },
    }
    Ok(())
}

/// Parse a trigger of ONBUILD; `location` is the FROM line it belongs to.
///
/// A trigger is a file of its own: no directive of the Dockerfile applies to it.
///
/// # Errors
/// Those of an instruction, and more or less than one instruction.
pub fn parse_onbuild_trigger(
    expression: &str,
    location: LineRange,
) -> Result<Instruction, ParseError> {
    let lines = lines::read(expression.as_bytes());
    if let Some(err) = lines.error {
        return Err(ParseError::at(err.message, location));
    }
    let single = || ParseError::at("onbuild trigger should be a single expression", location);
    let [node] = <[node::Node; 1]>::try_from(lines.nodes).map_err(|_| single())?;
    match instruction::typed(node) {
        Ok(Typed::Instruction(instruction)) => Ok(Instruction {
            location,
            ..*instruction
        }),
        Ok(Typed::From(_)) => Err(single()),
        Err(message) => Err(ParseError::at(message, location)),
    }
}

#[cfg(test)]
mod tests;
