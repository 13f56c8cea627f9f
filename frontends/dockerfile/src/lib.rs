//! The Dockerfile frontend: Dockerfile to LLB and image config.

pub mod lint;
pub mod parse;
