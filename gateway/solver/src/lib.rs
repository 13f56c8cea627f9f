//! The solver: graph scheduling, cache keys, ops, snapshots, mounts, sources, exporters.
//!
//! A [`Solver`] is one store on disk; a [`Job`] is one build on it; a [`ResultRef`] is a lazy result.
//!
//! What may not enter: frontends, command lines, terminals; the environment and `$HOME`.

mod attestation_chain;
mod container;
mod content;
mod error;
mod export;
pub mod fs;
mod import;
mod job;
mod key;
mod live;
mod ops;
pub mod pins;
pub mod policy;
pub mod provenance;
mod read;
mod remote;
mod report;
mod result;
mod shared;
pub mod signature;
mod solve;
mod solver;
mod source_meta;
mod steps;
mod store;
mod turn;
pub mod usage;
mod view;
mod warnings;

pub use container::{ContainerMounts, MountSource};
pub use error::SolverError;
pub use export::{
    AttestationContent, CacheDestination, CacheExport, Client, ClientSink, ClientStream,
    ClientTree, ExportResponse, Exporter, OutputTarget, Predicate, SolvedAttestation, SolvedRefs,
    SolvedResult, StepLayers, StoredImage, write_to,
};
pub use import::CacheImport;
pub use job::{Job, JobOptions};
pub use remote::RemoteCache;
pub use result::{ResultRef, RootFs, ScratchDir};
pub use solver::{Solver, SolverOptions};
pub use steps::StepOptions;
pub use store::DiskSpace;
pub use store::gc::{
    PruneOptions, RecordType, StoredBlob, UsageRecord, default_policies, percent,
    policies_with_limits, time_text,
};
pub use store::verify::{Damage, VerifyReport};
