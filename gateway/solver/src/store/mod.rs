//! The store on disk: layers, blobs, metadata. Several processes may use one at once.
//!
//! ```text
//! blobs/ ingest/      content-addressed blobs (gateway-images)
//! layers/<id>/        file system changes, one directory each, immutable once there
//! cache/<id>/         cache mounts
//! git/<id>/           copies of remote git repositories
//! locks/work          one byte for each piece of work that only one process should do
//! logs/               what work under way prints, for those who wait for it elsewhere
//! leases              one byte for each thing that somebody may be using
//! hashes/<directory>   digests of a client directory's files by their stat
//! copies/<key>        what large copies of client directories were made of
//! tmp/<process>/      unfinished work, one directory per process, locked while it lives
//! quarantine/         damaged blobs that a check set aside
//! uses                what builds used, until it is counted
//! empty/              the file system of scratch
//! metadata.db         what is known of all of these
//! ```
//!
//! A layer appears by one rename of a finished directory. What a killed process left behind is in
//! its own directory below `tmp/`, whose lock the kernel freed: the next process to open the store
//! removes it. Garbage is collected (`gc`) while builds run: what they use they hold.

mod copies;
mod db;
mod durability;
mod file_hashes;
pub mod gc;
mod id_map;
mod lock;
mod place;
mod schema;
mod snapshot;
mod uses;
pub mod verify;
mod work_log;
mod workspace;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gateway_images::fail_point::fail_point;
use gateway_images::store::{BlobStore, Lease};

pub use copies::{CopiedEntries, CopiedEntry, Copies, CopyRecord};
pub use db::{Candidate, Db, ImageRecord, LayerRecord, VariantRecord};
pub use file_hashes::FileHashes;
pub use lock::WorkLock;
pub use place::DiskSpace;
pub use snapshot::{Hold, Layer, LazyBlob, LocalCopy, LocalFiles, Snapshot};
pub use work_log::{Follower, Frame, WorkLog};
pub use workspace::WorkDir;

use crate::error::SolverError;
use workspace::Workspace;

/// One open store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<StoreInner>,
    /// Holds what it touches when somebody uses the store.
    blobs: BlobStore,
    user: Option<Arc<User>>,
}

struct StoreInner {
    root: PathBuf,
    db: Arc<Db>,
    workspace: Workspace,
    /// Something was added that no sync has covered.
    unsynced: AtomicBool,
    /// Something was added since the last look for garbage of this process.
    grown: AtomicBool,
}

/// What one user of the store, a build for one, holds and has used.
struct User {
    lease: Arc<Lease>,
    used: Mutex<BTreeSet<String>>,
    /// Layers that were seen in place since they are held: they stay. Long chains of layers ask
    /// for each of them at every step.
    here: Mutex<HashSet<String>>,
}

/// Held by every user: whatever may look for results.
const USER_NAME: &str = "user";

fn layer_lease(id: &str) -> String {
    format!("layer {id}")
}

fn cache_lease(dir: &str) -> String {
    format!("cache {dir}")
}

fn git_lease(id: &str) -> String {
    format!("git {id}")
}

/// The directory of a layer; ids of layers of images are digests.
fn layer_name(id: &str) -> String {
    id.replace(':', "-")
}

/// The layer of a directory.
fn layer_id(name: &str) -> String {
    match name.strip_prefix("sha256-") {
        Some(hex) => format!("sha256:{hex}"),
        None => name.to_owned(),
    }
}

impl Store {
    /// Opens the store at `root`, making it when it is missing.
    ///
    /// # Errors
    /// When the directory cannot be used or was written by a newer program.
    pub fn open(root: &Path) -> Result<Store, SolverError> {
        let io = |source: std::io::Error| match source.raw_os_error() {
            Some(code) if code == rustix::io::Errno::ROFS.raw_os_error() => SolverError::ReadOnly {
                root: root.to_owned(),
            },
            _ => SolverError::Io {
                root: root.to_owned(),
                source,
            },
        };
        for dir in [
            "layers", "cache", "git", "tmp", "empty", "locks", "logs", "hashes", "copies",
        ] {
            std::fs::create_dir_all(root.join(dir)).map_err(io)?;
        }
        place::check(root)?;
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
        durability::recover(&root, &db, &blobs, boot.trim())?;
        let unsynced = durability::is_behind(&db)?;
        let workspace = Workspace::open(&root.join("tmp"));
        let unfinished = blobs.clone();
        // What is not removed now is found again by the next start.
        let (logs, locks) = (root.join("logs"), root.join("locks").join("work"));
        std::thread::spawn(move || {
            work_log::sweep(&logs, &locks);
            unfinished.sweep()
        });
        let store = Store {
            inner: Arc::new(StoreInner {
                root,
                db: Arc::new(db),
                workspace,
                unsynced: AtomicBool::new(unsynced),
                grown: AtomicBool::new(false),
            }),
            blobs,
            user: None,
        };
        store.sync_in_background();
        Ok(store)
    }

    /// The same store for one user: what it touches stays until the last clone of this is dropped.
    pub fn for_user(&self) -> Store {
        let lease = Arc::new(Lease::new(&self.inner.root));
        // Where nothing can be held nothing counts as here either, and no result gets lost.
        let _ = lease.hold(USER_NAME);
        Store {
            inner: self.inner.clone(),
            blobs: self.blobs.leased(lease.clone()),
            user: Some(Arc::new(User {
                lease,
                used: Mutex::default(),
                here: Mutex::default(),
            })),
        }
    }

    /// Keeps what has this name, here already or not; false when it cannot be kept.
    fn hold(&self, name: &str) -> bool {
        match &self.user {
            Some(user) => user.lease.hold(name).is_ok(),
            None => true,
        }
    }

    fn used(&self, name: String) {
        if let Some(user) = &self.user {
            let mut used = user.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.insert(name);
        }
    }

    /// Writes down what was used so far. Called once, when a build ends.
    pub fn note_uses(&self) {
        let Some(user) = &self.user else { return };
        let mut used = user.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used = std::mem::take(&mut *used);
        let now = gc::now();
        uses::note(
            &self.inner.root,
            self.db(),
            used.iter().map(String::as_str),
            now,
        );
    }

    /// Whether something was added since the last call.
    fn take_grown(&self) -> bool {
        self.inner.grown.swap(false, Ordering::Relaxed)
    }

    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    pub fn db(&self) -> &Db {
        &self.inner.db
    }

    /// Where the changes of a layer are.
    pub fn layer_dir(&self, id: &str) -> PathBuf {
        self.inner.root.join("layers").join(layer_name(id))
    }

    /// Where everything of a layer is, topmost first: one directory, or for one that was derived
    /// from another the changes and the other one.
    pub fn layer_dirs(&self, id: &str) -> Vec<PathBuf> {
        let mut dirs = vec![self.layer_dir(id)];
        if let Some(whole) = derived_from(id) {
            dirs.push(self.layer_dir(whole));
        }
        dirs
    }

    /// Records of large copies.
    pub fn copies(&self) -> Copies {
        Copies::in_dir(self.inner.root.join("copies"))
    }

    pub fn cache_dir(&self, id: &str) -> PathBuf {
        self.inner.root.join("cache").join(id)
    }

    /// Keeps a cache mount's directory while this lives.
    pub fn hold_cache(&self, dir: &str) -> std::io::Result<Lease> {
        let lease = Lease::new(&self.inner.root);
        lease.hold(&cache_lease(dir))?;
        self.used(cache_lease(dir));
        self.inner.grown.store(true, Ordering::Relaxed);
        Ok(lease)
    }

    /// Removes the directory of a forgotten cache mount, unless a step still has it mounted: then it
    /// is garbage for later.
    pub fn remove_cache_dir(&self, dir: &str) {
        let Ok(collector) = gateway_images::store::Collector::open(&self.inner.root) else {
            return;
        };
        if let Ok(Some(_claim)) = collector.claim(&cache_lease(dir)) {
            let _ = std::fs::remove_dir_all(self.cache_dir(dir));
        }
    }

    /// Our copy of a remote git repository.
    ///
    /// # Errors
    /// When it cannot be kept from being collected.
    pub fn git_dir(&self, id: &str) -> std::io::Result<PathBuf> {
        if let Some(user) = &self.user {
            user.lease.hold(&git_lease(id))?;
        }
        self.used(git_lease(id));
        self.inner.grown.store(true, Ordering::Relaxed);
        Ok(self.inner.root.join("git").join(id))
    }

    /// The file that keeps digests of the files of a directory of the client.
    pub fn hashes_of(&self, dir: &Path) -> PathBuf {
        let digest = gateway_images::digest::Digest::of(dir.as_os_str().as_encoded_bytes());
        self.inner.root.join("hashes").join(digest.hex())
    }

    fn work_locks(&self) -> PathBuf {
        self.inner.root.join("locks").join("work")
    }

    /// Waits until no other process does the work that `key` names.
    pub async fn lock(&self, key: &str) -> std::io::Result<WorkLock> {
        self.lock_watching(key, || {}).await
    }

    /// The same; `waiting` is called now and then while another has it.
    pub async fn lock_watching(
        &self,
        key: &str,
        waiting: impl FnMut(),
    ) -> std::io::Result<WorkLock> {
        WorkLock::acquire(&self.work_locks(), key, waiting).await
    }

    /// Where the work of `key` prints, for who has its lock.
    pub fn work_log(&self, key: &str) -> WorkLog {
        WorkLog::new(&self.inner.root.join("logs"), &self.work_locks(), key)
    }

    /// Reads what whoever does the work of `key` prints.
    pub fn follow(&self, key: &str) -> Follower {
        Follower::new(&self.inner.root.join("logs"), &self.work_locks(), key)
    }

    /// The same, or `None` at once when another process or step does it.
    pub fn try_lock(&self, key: &str) -> std::io::Result<Option<WorkLock>> {
        WorkLock::try_acquire(&self.work_locks(), key)
    }

    /// Brings new layers to the disk, on a thread of its own: nobody waits for it, and when the
    /// process ends before, a power cut costs their making.
    pub fn sync_in_background(&self) {
        if !self.inner.unsynced.swap(false, Ordering::Relaxed) {
            return;
        }
        // Not the store itself: nothing of it may wait for the disk.
        let (root, db) = (self.inner.root.clone(), self.inner.db.clone());
        std::thread::spawn(move || {
            // A handle without leases: it only looks.
            let blobs = BlobStore::open(&root).ok();
            blobs.map(|blobs| durability::sync(&root, &db, &blobs))
        });
    }

    /// Marks a layer that hides everything below it: the kernel knows no opaque root.
    pub fn mark_opaque_root(&self, id: &str) -> std::io::Result<()> {
        std::fs::write(self.layer_dir(id).with_extension("opaque"), "")
    }

    /// Where the layers of a snapshot are, topmost first; never empty. All must be here.
    pub fn lowers(&self, snapshot: &Snapshot) -> Vec<PathBuf> {
        let mut lowers = self.dirs(snapshot);
        // A directory alone is shown as it is. Of one that was made on others, and is without them the result of a
        // diff, that would show the marks of what it removes: below an overlay's root they are not seen.
        let alone = match (lowers.as_slice(), snapshot.layers.first()) {
            ([_], Some(layer)) if layer.local.is_none() => self.was_made_on_others(&layer.id),
            _ => false,
        };
        if lowers.is_empty() || alone {
            lowers.push(self.empty_dir());
        }
        lowers
    }

    /// Where a layer is by itself, topmost first, for whoever reads overlays' marks.
    pub fn own_dirs(&self, layer: &Layer) -> Vec<PathBuf> {
        self.dirs(&Snapshot::new(vec![layer.clone()]))
    }

    fn dirs(&self, snapshot: &Snapshot) -> Vec<PathBuf> {
        let mut lowers = Vec::with_capacity(snapshot.layers.len());
        for layer in snapshot.layers.iter().rev() {
            match &layer.local {
                Some(files) => match files.copy.get() {
                    Some(copy) => lowers.push(copy.work.path().join("fs")),
                    None => continue,
                },
                None => lowers.extend(self.layer_dirs(&layer.id)),
            }
            if self.layer_dir(&layer.id).with_extension("opaque").exists() {
                break;
            }
        }
        lowers
    }

    fn was_made_on_others(&self, id: &str) -> bool {
        let record = self.db().layer(id);
        record.is_ok_and(|record| record.is_some_and(|record| !record.base.is_empty()))
    }

    /// An empty directory: the lower of scratch.
    pub fn empty_dir(&self) -> PathBuf {
        self.inner.root.join("empty")
    }

    /// A new directory for unfinished work, deleted when dropped.
    pub fn work_dir(&self) -> std::io::Result<WorkDir> {
        self.inner.workspace.dir()
    }

    /// Writes down what a layer is, before it gets its place.
    ///
    /// # Errors
    /// When the metadata cannot be written, or the layer not be kept from being collected.
    pub fn add_layer(&self, layer: &LayerRecord) -> Result<(), SolverError> {
        if !self.hold(&layer_lease(&layer.id)) {
            return Err(SolverError::Other {
                root: self.inner.root.clone(),
                message: format!("layer {} cannot be kept: no lock on leases", layer.id),
            });
        }
        fail_point("layer-unrecorded");
        self.db().add_layer(layer)?;
        fail_point("layer-recorded");
        Ok(())
    }

    /// Moves a finished directory into place as the layer `id`. Another process may have been
    /// faster with equal content: then its layer stays.
    pub fn commit_layer(&self, from: &Path, id: &str) -> std::io::Result<()> {
        let to = self.layer_dir(id);
        self.hold(&layer_lease(id));
        self.used(layer_lease(id));
        self.inner.unsynced.store(true, Ordering::Relaxed);
        self.inner.grown.store(true, Ordering::Relaxed);
        let renamed = std::fs::rename(from, &to);
        fail_point("layer-in-place");
        match renamed {
            Ok(()) => Ok(()),
            Err(_) if to.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Keeps a layer that is not here and may be fetched.
    pub fn hold_layer(&self, id: &str) {
        self.hold(&layer_lease(id));
    }

    /// Whether the layer is here, with the one it changes if it was derived; from then on they stay
    /// as long as their user.
    pub fn has_layer(&self, id: &str) -> bool {
        let known = self.user.as_ref().map(|user| {
            let here = &user.here;
            here.lock().unwrap_or_else(PoisonError::into_inner)
        });
        if known.is_some_and(|known| known.contains(id)) {
            return true;
        }
        let names: Vec<String> = [Some(id), derived_from(id)]
            .into_iter()
            .flatten()
            .map(layer_lease)
            .collect();
        let held = names.iter().all(|name| self.hold(name));
        let here = held && self.layer_dirs(id).iter().all(|dir| dir.is_dir());
        if here {
            names.into_iter().for_each(|name| self.used(name));
            if let Some(user) = &self.user {
                let mut known = user.here.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(id.to_owned());
            }
        }
        here
    }
}

/// In the id of a derived layer, between its own part and the id of the layer that it changes.
const DERIVED: char = '+';

/// The id of a new layer that is the layer `whole` with changes. Depth is one: `whole` is derived
/// from nothing.
pub fn derived_id(whole: &str) -> String {
    format!("{}{DERIVED}{whole}", new_id())
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

/// The layer that a derived one changes.
pub fn derived_from(id: &str) -> Option<&str> {
    id.split_once(DERIVED).map(|(_, whole)| whole)
}
