//! The solver as a whole: one store, any number of builds.

use std::path::PathBuf;
use std::sync::Arc;

use gateway_llb::pb;

use crate::error::SolverError;
use crate::job::{Job, JobOptions};

/// Configuration, as values.
pub struct SolverOptions {
    /// The store; created if absent. Several processes may share it.
    pub root: PathBuf,
    /// Steps that run at once; 0 is the number of cores, but at least 4. Waiting for the network does not count.
    pub max_parallelism: usize,
    /// The host's platform: what an op without one runs on.
    pub default_platform: pb::Platform,
}

/// One open store. Cheap to clone.
#[derive(Clone)]
pub struct Solver(pub(crate) Arc<SolverInner>);

pub(crate) struct SolverInner {
    pub(crate) options: SolverOptions,
}

impl Solver {
    pub async fn open(options: SolverOptions) -> Result<Solver, SolverError> {
        Ok(Solver(Arc::new(SolverInner { options })))
    }

    /// A new build.
    pub fn job(&self, options: JobOptions) -> Job {
        Job::new(self.clone(), options)
    }
}
