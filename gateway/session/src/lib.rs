//! What the client side gives a build: local directories, secrets and ssh agents. One trait: in
//! process for the embedded engine (files are read where they lie), over a wire for remote clients.
//!
//! What may not enter: who asks, and what for; the environment and `$HOME` (the caller resolves
//! those and hands values in).

mod local;
mod secret;
pub mod ssh;

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

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
    #[error("SSH agent {id}: cannot listen for the build: {source}")]
    Agent { id: String, source: std::io::Error },
    /// What the client answered over the wire, or why it did not.
    #[error("{0}")]
    Client(String),
}

/// The part of a client's directory that a build asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalRequest {
    pub name: String,
    /// The session that the graph names; empty for the build's own.
    pub session: String,
    /// Only what matches, or lies below what matches.
    pub include: Vec<String>,
    /// Not what matches.
    pub exclude: Vec<String>,
    /// Include these paths and what their symbolic links lead to.
    pub follow: Vec<String>,
    /// Tells directories apart that have the same name.
    pub shared_key_hint: String,
    /// Take every file again, whatever its stat says.
    pub fresh: bool,
}

/// A directory of the client as it can be read here.
pub struct LocalDir {
    pub path: PathBuf,
    /// Bytes that came over the wire for it; `None` when it is read where it lies.
    pub transferred: Option<u64>,
    /// Nobody writes into its files: another content comes as another file, which by its stat is not the one
    /// from before.
    pub still: bool,
    /// Keeps it as it is until dropped.
    pub hold: Option<Arc<dyn Any + Send + Sync>>,
}

/// The client side of one build.
#[async_trait]
pub trait Session: Send + Sync {
    /// Goes verbatim into `local.session` attributes.
    fn id(&self) -> &str;

    /// The directory behind a local source (`context`, `dockerfile`, or a named one); `None` when the
    /// client offers none of this name. It may hold more than was asked for. `progress` is told the
    /// bytes transferred so far.
    async fn local(
        &self,
        request: &LocalRequest,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Option<LocalDir>, SessionError>;

    /// Tells the directory behind a name apart from others of that name, as far as that is known
    /// without asking the client.
    fn local_place(&self, _name: &str) -> Option<String> {
        None
    }

    /// A directory that is an OCI layout with the content of this digest, which the client offers
    /// under this id.
    async fn oci_store(&self, _id: &str, _digest: &str) -> Result<Option<LocalDir>, SessionError> {
        Ok(None)
    }

    /// The file behind `http://buildkit-session/ID`: what the client hands in as one archive.
    async fn upload(&self, _id: &str) -> Result<Option<PathBuf>, SessionError> {
        Ok(None)
    }

    /// `None`: the client has no such secret.
    async fn secret(&self, id: &str) -> Result<Option<Secret>, SessionError>;

    /// Path of a listening agent socket; `None`: no such agent was forwarded.
    async fn ssh_socket(&self, id: &str) -> Result<Option<PathBuf>, SessionError>;
}
