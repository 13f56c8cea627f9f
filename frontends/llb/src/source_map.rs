//! The build file behind a graph, for error excerpts.

use crate::pb;

/// One build file. Ops point into it by line ranges; the solver prints the lines of a failing op.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceMap {
    /// Its name as the user wrote it.
    pub filename: String,
    /// Language name, such as `Dockerfile`.
    pub language: String,
    /// The whole file.
    pub data: Vec<u8>,
    /// How the file itself was got.
    pub definition: Option<pb::Definition>,
}

impl SourceMap {
    /// The message that travels in definitions, warnings and error details.
    pub fn to_info(&self) -> pb::SourceInfo {
        pb::SourceInfo {
            filename: self.filename.clone(),
            data: self.data.clone(),
            definition: self.definition.clone(),
            language: self.language.clone(),
        }
    }
}
