//! The Dockerfile frontend: Dockerfile to LLB and image config.

pub mod client;
pub mod convert;
pub mod lint;
pub mod parse;
