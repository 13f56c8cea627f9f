//! The LLB language: build a graph, marshal it, read it back, validate, digest and draw it.
//!
//! What may not enter: how anything is run.
//!
//! Two directions meet here. Frontends **build**: a [`State`] is an immutable value, each step
//! gives a new one, and nothing is encoded until [`State::marshal`]. The engine **reads**:
//! [`graph::Graph::load`] takes the definition of any frontend, keeps the bytes of every op (its
//! digest is theirs) and refuses what cannot be a graph.

pub mod caps;
mod constraints;
mod digest;
pub mod draw;
mod env;
mod exec;
mod file;
mod foreign;
mod git;
pub mod graph;
pub mod json;
pub mod lint;
mod marshal;
mod mount;
mod names;
pub mod path;
pub mod platform;
pub mod quote;
mod source;
mod source_map;
mod state;

pub use constraints::Constraints;
pub use digest::{digest_of, encode_op};
pub use env::Env;
pub use exec::{Exec, ProxyEnv, Run};
pub use file::{Chmod, Copy, FileActions, Mkdir, Mkfile, Owner, Rm, Symlink, User};
pub use foreign::ForeignError;
pub use git::{GitRemote, GitRemoteError};
pub use graph::Graph;
pub use marshal::{MarshalError, MarshalOptions};
pub use mount::{CacheSharing, Mount, Secret, Ssh};
pub use names::vertex_name;
pub use source::{GitSource, HttpSource, ImageSource, LocalSource, OciLayoutSource, ResolveMode};
pub use source_map::SourceMap;
pub use state::{Slot, State};

/// The protobuf messages of LLB, generated from `proto/ops.proto`.
///
/// An [`pb::Op`] that is to be digested is encoded by [`encode_op`], never by its own `encode`:
/// the order of its fields differs.
pub mod pb {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}
