//! SSH agents that a build may use: today an agent's own socket, handed on as a path.

use std::path::PathBuf;

/// One `--ssh` value: `ID[=SOCKET]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub id: String,
    pub socket: PathBuf,
}
