//! The Dockerfile frontend: Dockerfile to LLB and image config.
//!
//! [`build`] is the whole of it: a function over the `Gateway` trait that runs alike in the
//! engine's process and in a container. [`parse`] reads the file, [`lint`] checks it, [`convert`]
//! makes the graph; options, contexts and image configs come by `gateway_frontend::conventions`.
//!
//! What may not enter: where it runs, and how graphs are solved.

pub mod convert;
mod frontend;
pub mod lint;
pub mod parse;
mod subrequest;
mod warn;

pub use frontend::build;
