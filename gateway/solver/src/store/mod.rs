//! The store on disk: layers, blobs, metadata. Several processes may use one at once.
//!
//! ```text
//! blobs/ ingest/      content-addressed blobs (gateway-images)
//! layers/<id>/        file system changes, one directory each, immutable once there
//! cache/<id>/         cache mounts
//! git/<id>/           copies of remote git repositories
//! locks/              one file for each piece of work that only one process should do
//! hashes/<directory>   digests of a client directory's files by their stat
//! tmp/<process>/      unfinished work, one directory per process, locked while it lives
//! empty/              the file system of scratch
//! metadata.db         what is known of all of these
//! ```
//!
//! A layer appears by one rename of a finished directory. What a killed process left behind is in
//! its own directory below `tmp/`, whose lock the kernel freed: the next process to open the store
//! removes it.

mod db;
mod durability;
mod file_hashes;
mod id_map;
mod lock;
mod schema;
mod snapshot;
mod workspace;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway_images::store::BlobStore;

pub use db::{Candidate, Db, ImageRecord, LayerRecord, VariantRecord};
pub use file_hashes::FileHashes;
pub use lock::WorkLock;
pub use snapshot::{Layer, LazyBlob, LocalCopy, LocalFiles, Snapshot};
pub use workspace::WorkDir;

use crate::error::SolverError;
use workspace::Workspace;

/// One open store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<StoreInner>);

struct StoreInner {
    root: PathBuf,
    blobs: BlobStore,
    db: Arc<Db>,
    workspace: Workspace,
    /// Something was added that no sync has covered.
    unsynced: AtomicBool,
}

impl Store {
    /// Opens the store at `root`, making it when it is missing.
    ///
    /// # Errors
    /// When the directory cannot be used or was written by a newer program.
    pub fn open(root: &Path) -> Result<Store, SolverError> {
        let io = |source| SolverError::Io {
            root: root.to_owned(),
            source,
        };
        for dir in ["layers", "cache", "git", "tmp", "empty", "locks", "hashes"] {
            std::fs::create_dir_all(root.join(dir)).map_err(io)?;
        }
        // In the system's words, which are clearer here than those of the database.
        rustix::fs::access(root, rustix::fs::Access::WRITE_OK).map_err(|errno| io(errno.into()))?;
        // The overlay options and mounts need paths that mean the same in every namespace.
        let root = root.canonicalize().map_err(io)?;
        let blobs = BlobStore::open(&root).map_err(|error| SolverError::Other {
            root: root.clone(),
            message: error.to_string(),
        })?;
        let db = Db::open(&root)?;
        let uid_map = std::fs::read_to_string("/proc/self/uid_map").map_err(io)?;
        id_map::check(&root, &db, &uid_map)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(io)?;
        durability::recover(&root, &db, boot.trim())?;
        let unsynced = durability::is_behind(&db)?;
        let workspace = Workspace::open(&root.join("tmp"));
        let unfinished = blobs.clone();
        // What is not removed now is found again by the next start.
        std::thread::spawn(move || unfinished.sweep());
        let store = Store(Arc::new(StoreInner {
            root,
            blobs,
            db: Arc::new(db),
            workspace,
            unsynced: AtomicBool::new(unsynced),
        }));
        store.sync_in_background();
        Ok(store)
    }

    pub fn blobs(&self) -> &BlobStore {
        &self.0.blobs
    }

    pub fn db(&self) -> &Db {
        &self.0.db
    }

    /// Where the changes of a layer are.
    pub fn layer_dir(&self, id: &str) -> PathBuf {
        self.0.root.join("layers").join(id.replace(':', "-"))
    }

    pub fn cache_dir(&self, id: &str) -> PathBuf {
        self.0.root.join("cache").join(id)
    }

    /// Our copy of a remote git repository.
    pub fn git_dir(&self, id: &str) -> PathBuf {
        self.0.root.join("git").join(id)
    }

    /// The file that keeps digests of the files of a directory of the client.
    pub fn hashes_of(&self, dir: &Path) -> PathBuf {
        let digest = gateway_images::digest::Digest::of(dir.as_os_str().as_encoded_bytes());
        self.0.root.join("hashes").join(digest.hex())
    }

    /// Waits until no other process does the work that `key` names.
    pub async fn lock(&self, key: &str) -> std::io::Result<WorkLock> {
        WorkLock::acquire(&self.0.root.join("locks"), key).await
    }

    /// The same, or `None` at once when another process or step does it.
    pub fn try_lock(&self, key: &str) -> std::io::Result<Option<WorkLock>> {
        WorkLock::try_acquire(&self.0.root.join("locks"), key)
    }

    /// Brings new layers to the disk, on a thread of its own: nobody waits for it, and when the
    /// process ends before, a power cut costs their making.
    pub fn sync_in_background(&self) {
        if !self.0.unsynced.swap(false, Ordering::Relaxed) {
            return;
        }
        // Not the store itself: nothing of it may wait for the disk.
        let (root, db) = (self.0.root.clone(), self.0.db.clone());
        std::thread::spawn(move || durability::sync(&root, &db));
    }

    /// Marks a layer that hides everything below it: the kernel knows no opaque root.
    pub fn mark_opaque_root(&self, id: &str) -> std::io::Result<()> {
        std::fs::write(self.layer_dir(id).with_extension("opaque"), "")
    }

    /// Where the layers of a snapshot are, topmost first; never empty. All must be here.
    pub fn lowers(&self, snapshot: &Snapshot) -> Vec<PathBuf> {
        let mut lowers = Vec::with_capacity(snapshot.layers.len());
        for layer in snapshot.layers.iter().rev() {
            match &layer.local {
                Some(files) => match files.copy.get() {
                    Some(copy) => lowers.push(copy.work.path().join("fs")),
                    None => continue,
                },
                None => lowers.push(self.layer_dir(&layer.id)),
            }
            if self.layer_dir(&layer.id).with_extension("opaque").exists() {
                break;
            }
        }
        if lowers.is_empty() {
            lowers.push(self.empty_dir());
        }
        lowers
    }

    /// An empty directory: the lower of scratch.
    pub fn empty_dir(&self) -> PathBuf {
        self.0.root.join("empty")
    }

    /// A new directory for unfinished work, deleted when dropped.
    pub fn work_dir(&self) -> std::io::Result<WorkDir> {
        self.0.workspace.dir()
    }

    /// Moves a finished directory into place as the layer `id`. Another process may have been
    /// faster with equal content: then its layer stays.
    pub fn commit_layer(&self, from: &Path, id: &str) -> std::io::Result<()> {
        let to = self.layer_dir(id);
        self.0.unsynced.store(true, Ordering::Relaxed);
        match std::fs::rename(from, &to) {
            Ok(()) => Ok(()),
            Err(_) if to.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub fn has_layer(&self, id: &str) -> bool {
        self.layer_dir(id).is_dir()
    }
}

/// An id that no other layer has or will have.
pub fn new_id() -> String {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // The call cannot fail otherwise on a kernel that runs containers.
            Err(_) => break,
        }
    }
    hex::encode(bytes)
}
