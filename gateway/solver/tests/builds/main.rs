//! Builds from hand-made LLB on a store of their own. They need root and a static busybox.

mod attributes;
mod bench;
mod cache;
mod context;
mod copy_helper;
mod definitions;
mod differences;
mod exec;
mod export;
mod graphs;
mod points;

pub use bench::Bench;
