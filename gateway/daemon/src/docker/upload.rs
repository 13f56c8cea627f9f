//! Contexts that are sent as archives: in the body of the build's own request, or in that of a second one
//! that names the build.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tokio::sync::{oneshot, watch};

use super::{Answer, problem, text};
use crate::peer::Peer;
use crate::session::{SILENCE, Space, silent};
use crate::state::Daemon;

/// How long a build and its context wait for each other.
const EARLY: Duration = Duration::from_secs(5);

/// Builds that wait for their contexts at once.
const MAX_WAITING: usize = 1024;

/// Where a build's context is.
pub enum Context {
    Body(Incoming),
    /// In the request that names this build.
    Upload(String),
}

/// A body on its way to a build, and where to say that it arrived.
type Sent = (Incoming, oneshot::Sender<()>);

/// Builds that wait for their contexts. A peer's are found by that peer alone.
pub struct Uploads {
    waiting: Mutex<HashMap<(String, String), oneshot::Sender<Sent>>>,
    changed: watch::Sender<()>,
}

impl Default for Uploads {
    fn default() -> Self {
        Uploads {
            waiting: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Uploads {
    fn locked(&self) -> MutexGuard<'_, HashMap<(String, String), oneshot::Sender<Sent>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request that brings a context: answered when all of it has arrived.
pub async fn send(daemon: &Daemon, peer: &Peer, id: &str, request: Request<Incoming>) -> Answer {
    let uploads = &daemon.0.uploads;
    let key = (peer.key(), id.to_owned());
    let mut changed = uploads.changed.subscribe();
    let waiting = async {
        loop {
            if let Some(waiting) = uploads.locked().remove(&key) {
                return waiting;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let Ok(waiting) = tokio::time::timeout(EARLY, waiting).await else {
        return problem(
            StatusCode::NOT_FOUND,
            "no build waits for this context (upload-request)",
        );
    };
    let (arrived, done) = oneshot::channel();
    let lost = || {
        problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the build ended before its context had arrived",
        )
    };
    if waiting.send((request.into_body(), arrived)).is_err() {
        return lost();
    }
    match done.await {
        Ok(()) => text(StatusCode::OK, "application/json", ""),
        Err(_) => lost(),
    }
}

/// A context as a file, which goes when dropped.
///
/// # Errors
/// When it does not come, or not whole.
pub async fn receive(
    daemon: &Daemon,
    peer: &Peer,
    context: Context,
) -> Result<NamedTempFile, String> {
    let (body, arrived) = match context {
        Context::Body(body) => (body, None),
        Context::Upload(id) => {
            let (body, arrived) = wait(&daemon.0.uploads, (peer.key(), id)).await?;
            (body, Some(arrived))
        }
    };
    let own = |error: std::io::Error| format!("the daemon's own files: {error}");
    let file = NamedTempFile::new_in(daemon.0.options.root.join("tmp")).map_err(own)?;
    let written = write(body, file.reopen().map_err(own)?).await?;
    if written == 0 {
        return Err(
            "the build has no context: neither a session's directory nor an archive".to_owned(),
        );
    }
    if let Some(arrived) = arrived {
        // The client need not wait for it.
        let _ = arrived.send(());
    }
    Ok(file)
}

async fn wait(uploads: &Uploads, key: (String, String)) -> Result<Sent, String> {
    let (send, sent) = oneshot::channel();
    {
        let mut waiting = uploads.locked();
        waiting.retain(|_, other| !other.is_closed());
        if waiting.len() >= MAX_WAITING {
            return Err(format!(
                "{MAX_WAITING} builds wait for their contexts already"
            ));
        }
        waiting.insert(key, send);
    }
    uploads.changed.send_replace(());
    match tokio::time::timeout(EARLY, sent).await {
        Ok(Ok(sent)) => Ok(sent),
        _ => Err("the context of the build was not sent (upload-request)".to_owned()),
    }
}

async fn write(mut body: Incoming, file: std::fs::File) -> Result<u64, String> {
    let own = |error: std::io::Error| format!("the daemon's own files: {error}");
    let disk = file.try_clone().map_err(own)?;
    let mut space = Space::of_archive();
    let mut file = tokio::fs::File::from_std(file);
    let mut size = 0_u64;
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await;
        let frame = frame.map_err(|_| silent())?;
        let Some(frame) = frame else {
            break;
        };
        let frame = frame.map_err(|error| format!("receiving the context: {error}"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        size += data.len() as u64;
        space.take(&disk, data.len() as u64)?;
        file.write_all(&data).await.map_err(own)?;
    }
    file.flush().await.map_err(own)?;
    Ok(size)
}
