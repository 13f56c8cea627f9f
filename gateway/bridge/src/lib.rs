//! Hosts frontends: resolves and runs a frontend's image, serves LLBBridge over its stdio, forwards
//! between frontends, and drives a build from request to exported result.
//!
//! What may not enter: how ops are solved or processes confined (asks the solver and the sandbox);
//! command lines, terminals, the environment.

mod container;
pub mod engine;
pub mod host;
pub mod service;
pub mod transport;

pub use engine::{
    BuildRequest, BuildResponse, Collect, Engine, EngineOptions, FrontendPolicy, LateExporters,
    Observed, Observer, Provenance, SourceJudge, Verdict, WantedProvenance, capabilities,
    read_source_policies,
};
pub use host::FrontendLimits;
pub use host::conduct::{Conduct, Forms, Manners, ReturnForm};
pub use host::process::OWN_IMAGE_PATH;
