//! Lazy results: a definition whose work is done on first use.

use std::path::PathBuf;
use std::sync::Arc;

use gateway_llb::pb;

/// A lazy result. Cheap to clone; none of its work is done until first use.
#[derive(Clone)]
pub struct ResultRef(pub(crate) Arc<RefInner>);

pub(crate) struct RefInner {
    pub(crate) definition: pb::Definition,
}

impl ResultRef {
    /// The definition it came from, so that it can be an input of new LLB.
    pub fn definition(&self) -> &pb::Definition {
        &self.0.definition
    }
}

/// The root file system of a result: directories to stack with an overlay.
#[derive(Clone, Debug)]
pub struct RootFs {
    /// Topmost first; never empty (scratch is one empty directory). Read-only: others use them too.
    pub lowers: Vec<PathBuf>,
}

/// A pair of directories for an overlay, on the store's file system; deleted when dropped.
#[derive(Debug)]
pub struct ScratchDir {
    pub upper: PathBuf,
    pub work: PathBuf,
    pub(crate) _dir: tempfile::TempDir,
}
