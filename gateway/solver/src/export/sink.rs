//! Outputs that somebody else takes: a client on the other end of a wire.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use gateway_api::Error;

/// Takes what an exporter makes. All of it blocks.
pub trait ClientSink: Send + Sync {
    /// Opens a stream for an archive. `described` is what the exporter says of it
    /// (`containerimage.digest`).
    ///
    /// # Errors
    /// When the client takes none.
    fn stream(&self, described: &BTreeMap<String, String>) -> Result<Box<dyn ClientStream>, Error>;

    /// Takes the files of results. `combined`: as one tree, whose other files the client removes.
    /// Gives the bytes sent.
    ///
    /// # Errors
    /// When the client takes none, or stops to.
    fn files(&self, trees: Vec<ClientTree>, combined: bool) -> Result<u64, Error>;
}

/// A stream to the client.
pub trait ClientStream: Write + Send {
    /// All was written; returns when the client has it.
    ///
    /// # Errors
    /// What the client says.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// The files of one result.
pub struct ClientTree {
    /// What the transfer is called.
    pub name: String,
    /// Where the files are; valid during the call.
    pub path: PathBuf,
    /// The directory that they get; `None`: the top.
    pub dir: Option<String>,
    /// More files, by name at their top.
    pub more: Vec<(String, Vec<u8>)>,
    /// The time of all files in seconds, if they do not keep their own.
    pub time: Option<i64>,
}

/// A sink as a value.
#[derive(Clone)]
pub struct Client(pub Arc<dyn ClientSink>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Client {}
