//! The solver as a whole: one store, any number of builds.

use std::path::PathBuf;
use std::sync::Arc;

use gateway_api::Error;
use gateway_images::registry::Registries;
use gateway_llb::pb;
use gateway_sandbox::{Launcher, LauncherOptions};
use tokio::sync::{OnceCell, Semaphore};

use crate::error::SolverError;
use crate::job::{Job, JobOptions};
use crate::steps::StepOptions;
use crate::store::gc::{self, PruneOptions, StoredBlob, UsageRecord};
use crate::store::verify::{self, VerifyReport};
use crate::store::{DiskSpace, Store};

/// Configuration, as values.
pub struct SolverOptions {
    /// The store; created if absent. Several processes may share it.
    pub root: PathBuf,
    pub registries: Registries,
    pub launcher: LauncherOptions,
    /// Steps that run at once; 0 for the usual number. Waiting for the network does not count.
    pub max_parallelism: usize,
    /// How their processes are run.
    pub steps: StepOptions,
    /// The host's platform: what an op without one runs on.
    pub default_platform: pb::Platform,
}

/// The reference sets no limit: many steps wait (for a network, a lock, a sleep) more than they
/// compute, and the kernel shares the cores out. This one only keeps a graph of thousands of ready
/// steps from starting them all.
const USUAL_PARALLELISM: usize = 256;

/// Layers that are compressed at once. One uses all cores by itself, with up to 32 MiB; the second is there for the
/// moments when the first waits for its last block.
const PACKED_AT_ONCE: usize = 2;

/// Layers that are unpacked at once, with about 3 MiB each. Some of them wait for the network, so more than cores; but
/// an image of a hundred layers must not take a hundred times the memory of one.
fn unpacked_at_once() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    (cores * 2).clamp(4, 8)
}

/// Bytes of what [`Solver::remember`] keeps: most are some kilobytes, so this is a thousand builds.
const MAX_KEPT: u64 = 16 << 20;

/// One open store. Cheap to clone.
#[derive(Clone)]
pub struct Solver(pub(crate) Arc<SolverInner>);

pub(crate) struct SolverInner {
    pub(crate) options: SolverOptions,
    pub(crate) store: Store,
    pub(crate) permits: Arc<Semaphore>,
    unpacking: Semaphore,
    packing: Semaphore,
    launcher: OnceCell<Launcher>,
}

impl Solver {
    /// Opens the store, making it when it is missing.
    ///
    /// # Errors
    /// When the store cannot be used, or a newer program wrote it.
    pub async fn open(options: SolverOptions) -> Result<Solver, SolverError> {
        let store = Store::open(&options.root)?;
        let parallelism = match options.max_parallelism {
            0 => USUAL_PARALLELISM,
            given => given,
        };
        Ok(Solver(Arc::new(SolverInner {
            options,
            store,
            permits: Arc::new(Semaphore::new(parallelism)),
            unpacking: Semaphore::new(unpacked_at_once()),
            packing: Semaphore::new(PACKED_AT_ONCE),
            launcher: OnceCell::new(),
        })))
    }

    /// A new build.
    pub fn job(&self, options: JobOptions) -> Job {
        Job::new(self.clone(), options)
    }

    /// How processes are run where nobody says.
    pub fn steps(&self) -> &StepOptions {
        &self.0.options.steps
    }

    /// The launcher of sandboxes; its process is started by the first call.
    pub async fn launcher(&self) -> Result<Launcher, Error> {
        let start = || async {
            Launcher::start(self.0.options.launcher.clone())
                .await
                .map_err(|error| Error::unknown(error.to_string()))
        };
        self.0.launcher.get_or_try_init(start).await.cloned()
    }

    /// The records of the store that match the filters (containerd's syntax), by id.
    ///
    /// # Errors
    /// When a filter or the metadata cannot be read.
    pub fn disk_usage(&self, filters: &[String]) -> Result<Vec<UsageRecord>, SolverError> {
        gc::disk_usage(self.store(), filters)
    }

    /// Removes what the options name, one set of them after the other; never what a running build of
    /// any process uses. Tells each record that is gone.
    ///
    /// # Errors
    /// When a filter or the metadata cannot be read, or something not be removed.
    pub fn prune(
        &self,
        policies: &[PruneOptions],
        removed: impl FnMut(&UsageRecord),
    ) -> Result<(), SolverError> {
        gc::prune(self.store(), policies, removed)
    }

    /// Removes only what nothing refers to: no build has to do anything again.
    ///
    /// # Errors
    /// As for [`Solver::prune`].
    pub fn prune_unreferenced(&self, removed: impl FnMut(&UsageRecord)) -> Result<(), SolverError> {
        gc::prune_unreferenced(self.store(), removed)
    }

    /// Brings the store below its limits if builds added something and the last time was a minute ago.
    /// Gives the number of records removed.
    ///
    /// # Errors
    /// As for [`Solver::prune`].
    pub fn collect_if_due(
        &self,
        policies: impl FnOnce(DiskSpace) -> Vec<PruneOptions>,
    ) -> Result<usize, SolverError> {
        gc::collect_if_due(self.store(), policies)
    }

    /// Of the file system that has the store.
    ///
    /// # Errors
    /// When the store is gone.
    pub fn disk_space(&self) -> std::io::Result<DiskSpace> {
        DiskSpace::of(self.store().root())
    }

    /// All blobs, and what needs them.
    ///
    /// # Errors
    /// When the metadata cannot be read.
    pub fn blobs(&self) -> Result<Vec<StoredBlob>, SolverError> {
        gc::list_blobs(self.store())
    }

    /// Reads and compares everything; sets aside what is damaged.
    ///
    /// # Errors
    /// When the metadata cannot be read at all.
    pub fn verify(&self) -> Result<VerifyReport, SolverError> {
        verify::verify(self.store())
    }

    /// The file of a blob, while it is there.
    pub fn blob_file(&self, digest: &str) -> Option<PathBuf> {
        let digest = digest.parse().ok()?;
        let blobs = self.store().blobs();
        blobs.contains(&digest).then(|| blobs.path(&digest))
    }

    pub fn registries(&self) -> &Registries {
        &self.0.options.registries
    }

    /// What an op without a platform runs on.
    pub fn default_platform(&self) -> &pb::Platform {
        &self.0.options.default_platform
    }

    /// What was kept under a key, by this or an earlier process. A store that fails has nothing.
    pub fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.store().db().answer(key).ok().flatten()
    }

    /// Keeps bytes under a key until many others were kept after them.
    pub fn remember(&self, key: &str, bytes: &[u8]) {
        let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        // Kept to save work later: a store that cannot keep it costs that work.
        let _ = self.store().db().keep_answer(key, bytes, now, MAX_KEPT);
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// A permit for each layer that is unpacked.
    pub(crate) fn unpacking(&self) -> &Semaphore {
        &self.0.unpacking
    }

    /// A permit for each layer that is compressed.
    pub(crate) fn packing(&self) -> &Semaphore {
        &self.0.packing
    }
}

impl std::fmt::Debug for Solver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Solver({})", self.0.options.root.display())
    }
}
