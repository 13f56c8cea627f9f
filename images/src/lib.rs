//! Images and registries: references, platforms, manifests, registry transfer (TLS, auth, mirrors,
//! odd registries), the blob store, layers (unpack, diff, compress), OCI layouts and archives.
//!
//! What may not enter: builds, LLB, frontends; the terminal, `$HOME`, the environment.

pub mod archive;
pub mod choose;
pub mod config;
pub mod digest;
pub mod fail_point;
pub mod layer;
pub mod media;
pub mod platform;
pub mod purl;
pub mod reference;
pub mod registry;
pub mod store;
mod write_back;
