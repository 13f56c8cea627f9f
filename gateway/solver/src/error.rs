//! Why a store cannot be opened or used: failures of the machine, not of a build.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum SolverError {
    #[error("store {root}: {source}")]
    Io {
        root: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "store {root}: its metadata has schema {found}, this program knows up to {known}; use a newer program or another store"
    )]
    NewerSchema {
        root: PathBuf,
        found: i64,
        known: i64,
    },
    #[error(
        "store {root}: its files carry the ids of another user (uid map {theirs}; here {ours}); use another store"
    )]
    OtherIds {
        root: PathBuf,
        theirs: String,
        ours: String,
    },
    #[error("store {root}: metadata: {source}")]
    Metadata {
        root: PathBuf,
        source: rusqlite::Error,
    },
    #[error("store {root}: {message}")]
    Other { root: PathBuf, message: String },
}
