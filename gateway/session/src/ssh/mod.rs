//! SSH agents that a build may use. Steps never reach the user's own agent: they talk to a listener
//! of ours that lists keys and signs with them, and refuses everything else (adding, removing,
//! locking, extensions). Keys given as files are served the same way, without any agent.

mod keys;
mod pem;
mod serve;
mod short;
mod wire;

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

pub use keys::{KeyError, Keys};

/// One `--ssh` value.
#[derive(Debug)]
pub struct Agent {
    pub id: String,
    pub source: AgentSource,
}

/// Who signs. Printing one never shows a key.
#[derive(Debug)]
pub enum AgentSource {
    /// A running agent's socket.
    Socket(PathBuf),
    /// Any socket, its bytes handed on as they are.
    Raw(PathBuf),
    Keys(Keys),
}

/// An agent with the listener that serves it, started when first asked for.
pub(crate) struct Running {
    id: String,
    source: std::sync::Arc<AgentSource>,
    listener: OnceCell<Listener>,
}

struct Listener {
    socket: PathBuf,
    task: JoinHandle<()>,
    /// Holds the socket; goes with it.
    _dir: TempDir,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    pub fn new(agent: Agent) -> Self {
        Running {
            id: agent.id,
            source: std::sync::Arc::new(agent.source),
            listener: OnceCell::new(),
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The socket to connect to.
    pub async fn socket(&self) -> std::io::Result<&Path> {
        if let AgentSource::Raw(path) = &*self.source {
            return Ok(path);
        }
        let listener = self
            .listener
            .get_or_try_init(async || {
                let dir = tempfile::Builder::new().prefix("gateway-ssh-").tempdir()?;
                let socket = dir.path().join("agent");
                let listener = UnixListener::bind(&socket)?;
                let task = tokio::spawn(serve::serve(listener, self.source.clone()));
                Ok::<_, std::io::Error>(Listener {
                    socket,
                    task,
                    _dir: dir,
                })
            })
            .await?;
        Ok(&listener.socket)
    }
}
