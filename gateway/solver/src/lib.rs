//! The solver: graph scheduling, cache keys, ops, snapshots, mounts, sources, exporters.
//!
//! A [`Solver`] is one store on disk; a [`Job`] is one build on it; a [`ResultRef`] is a lazy result.
//!
//! What may not enter: frontends, command lines, terminals; the environment and `$HOME`.

mod error;
mod export;
pub mod fs;
mod job;
#[allow(dead_code)]
mod key;
#[allow(dead_code)]
mod report;
mod result;
#[allow(dead_code)]
mod shared;
mod solver;
#[allow(dead_code)]
mod store;
#[allow(dead_code)]
mod view;

pub use error::SolverError;
pub use export::{ExportResponse, Exporter, OutputTarget, SolvedRefs, SolvedResult};
pub use job::{Job, JobOptions};
pub use result::{ResultRef, RootFs, ScratchDir};
pub use solver::{Solver, SolverOptions};
