//! The Dockerfile frontend: Dockerfile to LLB and image config.

pub mod client;
pub mod convert;
mod frontend;
pub mod lint;
pub mod parse;
mod sbom;
mod subrequest;

pub use frontend::build;
