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
    #[error(
        "store {root}: Read-only file system; builds and their cache need one that can be written: name another place with --root or GATEWAY_ROOT"
    )]
    ReadOnly { root: PathBuf },
    #[error(
        "store {root}: it is on a network file system ({kind}), where processes cannot share it safely; name a place on a local disk with --root or GATEWAY_ROOT"
    )]
    NetworkFileSystem { root: PathBuf, kind: &'static str },
    #[error("filter {filter:?}: {problem}")]
    Filter { filter: String, problem: String },
    #[error("store {root}: metadata: {source}")]
    Metadata {
        root: PathBuf,
        source: rusqlite::Error,
    },
    #[error("store {root}: {message}")]
    Other { root: PathBuf, message: String },
}
