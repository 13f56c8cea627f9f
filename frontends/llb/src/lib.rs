//! The LLB language: build a graph, marshal it, read it back, validate, digest and draw it.
//!
//! What may not enter: how anything is run.

/// The protobuf messages of LLB, generated from `proto/ops.proto`.
pub mod pb {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}
