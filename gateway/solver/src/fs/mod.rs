//! File-system work on plain directories: patterns, copies, file actions, content hashes.
//!
//! Everything takes the path of a directory as it should look (a merged view that the caller
//! has mounted, or a plain directory); whiteouts and layers are the caller's business. All
//! of it blocks, and nothing here knows of vertices, jobs or caches.

pub mod actions;
mod automaton;
pub mod chmod;
mod content;
pub mod copy;
mod digest;
pub mod error;
mod expression;
pub mod follow;
pub mod glob;
pub mod gopath;
pub mod hash;
pub mod local;
pub mod meta;
pub mod owner;
pub mod pattern;
pub mod read;
pub mod root;
pub mod syntax;
pub mod unpack;
mod visible;
pub mod walk;
pub mod wildcard;

pub use actions::{ActionInputs, apply, apply_seeing};
pub use copy::{CopyOptions, CopyStats, copy, copy_seeing};
pub use error::FsError;
pub use local::{SyncOptions, SyncStats, sync_entries, sync_into};
pub use root::{Owner, Root};
pub use visible::Visible;
pub use walk::{Entry, Filter};

#[cfg(test)]
mod oracle_tests;
