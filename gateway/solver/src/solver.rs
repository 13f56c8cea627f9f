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
use crate::store::Store;

/// Configuration, as values.
pub struct SolverOptions {
    /// The store; created if absent. Several processes may share it.
    pub root: PathBuf,
    pub registries: Registries,
    pub launcher: LauncherOptions,
    /// Steps that run at once; 0 for the usual number. Waiting for the network does not count.
    pub max_parallelism: usize,
    /// The host's platform: what an op without one runs on.
    pub default_platform: pb::Platform,
}

/// The reference sets no limit: many steps wait (for a network, a lock, a sleep) more than they
/// compute, and the kernel shares the cores out. This one only keeps a graph of thousands of ready
/// steps from starting them all.
const USUAL_PARALLELISM: usize = 256;

/// One open store. Cheap to clone.
#[derive(Clone)]
pub struct Solver(pub(crate) Arc<SolverInner>);

pub(crate) struct SolverInner {
    pub(crate) options: SolverOptions,
    pub(crate) store: Store,
    pub(crate) permits: Arc<Semaphore>,
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
            launcher: OnceCell::new(),
        })))
    }

    /// A new build.
    pub fn job(&self, options: JobOptions) -> Job {
        Job::new(self.clone(), options)
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

    pub fn registries(&self) -> &Registries {
        &self.0.options.registries
    }

    /// What an op without a platform runs on.
    pub fn default_platform(&self) -> &pb::Platform {
        &self.0.options.default_platform
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }
}

impl std::fmt::Debug for Solver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Solver({})", self.0.options.root.display())
    }
}
