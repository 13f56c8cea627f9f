//! What a result is: layers, lowest first.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use gateway_images::media::Descriptor;

use super::{FileHashes, Store};
use crate::fs::{Filter, Visible};

/// A file system as a list of layers, lowest first; empty is scratch. Cheap to clone.
#[derive(Clone, Default, Debug)]
pub struct Snapshot {
    pub layers: Arc<Vec<Layer>>,
}

/// One layer of a snapshot.
#[derive(Clone, Debug)]
pub struct Layer {
    pub id: String,
    /// A layer of an image that may not be here yet.
    pub lazy: Option<Arc<LazyBlob>>,
    /// The files of a local source: for this build only.
    pub local: Option<Arc<LocalFiles>>,
}

/// What keeps a directory as it is.
pub struct Hold(
    #[expect(dead_code, reason = "held for what its drop does")]
    pub  Option<Arc<dyn std::any::Any + Send + Sync>>,
);

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hold")
    }
}

/// A directory of the client, and the filtered copy of it once something needs one.
#[derive(Debug)]
pub struct LocalFiles {
    pub dir: PathBuf,
    pub _hold: Hold,
    /// Its files are never written to (see [`gateway_session::LocalDir`]).
    pub still: bool,
    pub filter: Filter,
    /// Name of the source, and the vertex that shows its transfer.
    pub name: String,
    pub vertex: String,
    pub copy: tokio::sync::OnceCell<LocalCopy>,
    pub hashes: OnceLock<Arc<FileHashes>>,
    /// What the filter lets through, once a frontend has read a file.
    pub visible: OnceLock<Visible>,
}

/// A finished copy.
#[derive(Debug)]
pub struct LocalCopy {
    pub work: super::WorkDir,
    /// When its making began.
    pub started: Instant,
}

impl LocalFiles {
    /// Digests known of the files from earlier builds.
    pub fn hashes(&self, store: &Store) -> Arc<FileHashes> {
        self.hashes
            .get_or_init(|| Arc::new(FileHashes::open(store.hashes_of(&self.dir))))
            .clone()
    }
}

/// Where a layer that is not here can be had.
#[derive(Debug)]
pub struct LazyBlob {
    pub descriptor: Descriptor,
    pub diff_id: String,
    /// The layers of the image below it, lowest first.
    pub base: Vec<String>,
    /// The image it belongs to.
    pub reference: String,
    /// A file that has its bytes, for a blob that no registry has.
    pub file: Option<PathBuf>,
    /// The service that has them, for a layer of a cache that is one.
    pub remote: Option<crate::remote::SharedRemote>,
    /// The vertex that shows its transfer.
    pub vertex: String,
    /// What usage lists call its layer, where it is no ordinary one.
    pub kind: String,
}

impl Layer {
    pub fn stored(id: impl Into<String>) -> Layer {
        Layer {
            id: id.into(),
            lazy: None,
            local: None,
        }
    }
}

impl Snapshot {
    pub fn scratch() -> Self {
        Snapshot::default()
    }

    pub fn new(layers: Vec<Layer>) -> Self {
        Snapshot {
            layers: Arc::new(layers),
        }
    }

    pub fn ids(&self) -> Vec<String> {
        self.layers.iter().map(|layer| layer.id.clone()).collect()
    }

    /// The same with one more layer on top.
    pub fn with(&self, layer: Layer) -> Self {
        let mut layers = (*self.layers).clone();
        layers.push(layer);
        Snapshot::new(layers)
    }

    /// The local source that this is, if it is nothing else.
    pub fn only_local(&self) -> Option<Arc<LocalFiles>> {
        match self.layers.as_slice() {
            [layer] => layer.local.clone(),
            _ => None,
        }
    }

    pub fn is_local(&self) -> bool {
        self.layers.iter().any(|layer| layer.local.is_some())
    }
}
