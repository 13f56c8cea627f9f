//! What several fuzz targets share: a place for file-system work that tells when something around
//! it was touched, and tar streams made from generated entries.
//!
//! What may not enter: knowledge of one parser; that belongs into its target.

mod arena;
mod tarball;

pub use arena::Arena;
pub use tarball::{Archive, Packing};
