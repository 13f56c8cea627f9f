//! The Dockerfile frontend: Dockerfile to LLB and image config.
//!
//! [`build`] is the whole of it: a function over the `Gateway` trait that runs alike in the
//! engine's process and in a container. [`parse`] reads the file, [`lint`] checks it, [`client`]
//! asks the caller for options, contexts and image configs, [`convert`] makes the graph.
//!
//! What may not enter: where it runs, and how graphs are solved.

pub mod client;
pub mod convert;
mod frontend;
pub mod lint;
pub mod parse;
mod sbom;
mod subrequest;

pub use frontend::build;
