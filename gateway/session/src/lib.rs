//! What the client side gives a build: local directories, secrets and ssh agents. One trait: in
//! process for the embedded engine (files are read where they lie), over a wire for remote clients.
//!
//! What may not enter: who asks, and what for; the environment and `$HOME` (the caller resolves
//! those and hands values in).

mod local;
mod secret;
pub mod ssh;

use std::path::PathBuf;

use async_trait::async_trait;

pub use local::{LocalSession, SecretSource};
pub use secret::Secret;

/// Largest secret: the limit of the reference's clients, so that what is accepted here is accepted
/// there too.
pub const MAX_SECRET_BYTES: u64 = 500 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("secret {id}: cannot read {path}: {source}")]
    SecretUnreadable {
        id: String,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("invalid secret size {size}: secret {id} is larger than {MAX_SECRET_BYTES} bytes")]
    SecretTooLarge { id: String, size: u64 },
    #[error("secret {id}: environment variable {name} is not set")]
    SecretVariableMissing { id: String, name: String },
    #[error("SSH agent {id}: cannot listen for the build: {source}")]
    Agent { id: String, source: std::io::Error },
}

/// The client side of one build.
#[async_trait]
pub trait Session: Send + Sync {
    /// Goes verbatim into `local.session` attributes.
    fn id(&self) -> &str;

    /// The directory behind a local source (`context`, `dockerfile`, or a named one).
    fn local_dir(&self, name: &str) -> Option<PathBuf>;

    /// The directory of an OCI layout that the client offers under this id.
    fn oci_store(&self, _id: &str) -> Option<PathBuf> {
        None
    }

    /// The file behind `http://buildkit-session/ID`: what the client hands in as one archive.
    fn upload(&self, _id: &str) -> Option<PathBuf> {
        None
    }

    /// `None`: the client has no such secret.
    async fn secret(&self, id: &str) -> Result<Option<Secret>, SessionError>;

    /// Path of a listening agent socket; `None`: no such agent was forwarded.
    async fn ssh_socket(&self, id: &str) -> Result<Option<PathBuf>, SessionError>;
}
