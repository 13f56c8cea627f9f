//! What can be wrong with a layer or its destination, and where.

use std::io;
use std::path::PathBuf;

use super::MAX_REMEMBERED_BYTES;
use crate::digest::Digest;
use crate::layer::entry::TarError;

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("read layer: {0}")]
    Read(io::Error),
    #[error("unpack destination {0} is not empty")]
    NotEmpty(PathBuf),
    #[error("open unpack destination {path}: {source}")]
    Destination { path: PathBuf, source: io::Error },
    #[error("layer entry {name:?}: {action}: {source}{}", hint(source))]
    Entry {
        name: String,
        action: &'static str,
        source: io::Error,
    },
    #[error("layer entry {name:?}: invalid whiteout name")]
    InvalidWhiteout { name: String },
    #[error("layer entry {name:?}: hard link target {target:?} does not exist")]
    LinkTarget { name: String, target: String },
    #[error("layer entry {name:?}: path too long or too deep")]
    Path { name: String },
    /// Unpack again with the parents given.
    #[error("layer entry {name:?} refers to layers below")]
    NeedsParents { name: String },
    #[error("layer is larger than the limit of {0} bytes uncompressed")]
    TooManyBytes(u64),
    #[error("layer has more than the limit of {0} entries")]
    TooManyEntries(u64),
    /// Of directories and of links into lower layers, whose paths are kept until the end.
    #[error("layer names more directories than fit into {MAX_REMEMBERED_BYTES} bytes")]
    TooManyPaths,
    #[error("wrong diff id calculated on extraction {actual}, expected {expected}")]
    DiffId { expected: Digest, actual: Digest },
}

fn hint(e: &io::Error) -> &'static str {
    match rustix::io::Errno::from_io_error(e) {
        Some(rustix::io::Errno::INVAL) => {
            " (an owner outside the user namespace? try increasing the number of subordinate IDs in /etc/subuid and /etc/subgid)"
        }
        _ => "",
    }
}

pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Names the entry and what was done to it in an error.
pub(super) fn at<E: Into<io::Error>>(
    name: &[u8],
    action: &'static str,
) -> impl FnOnce(E) -> UnpackError {
    move |source| UnpackError::Entry {
        name: lossy(name),
        action,
        source: source.into(),
    }
}
