//! An agent's socket for one step: a listener of our own with the owner and mode that the op asks
//! for, each connection handed on to the client's agent.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// Ends with the step.
pub struct Forward {
    pub socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn forward(
    dir: &Path,
    agent: PathBuf,
    uid: u32,
    gid: u32,
    mode: u32,
) -> std::io::Result<Forward> {
    let socket = dir.join("s");
    let listener = UnixListener::bind(&socket)?;
    std::os::unix::fs::chown(&socket, Some(uid), Some(gid))?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(mode & 0o777))?;
    let task = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let agent = agent.clone();
            tokio::spawn(async move {
                if let Ok(mut far) = UnixStream::connect(&agent).await {
                    // Either side may hang up at any time; that is no error.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    Ok(Forward { socket, task })
}
