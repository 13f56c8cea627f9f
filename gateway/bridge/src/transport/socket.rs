//! Serves LLBBridge on a Unix socket to clients that are the frontends of their own builds. One
//! connection may speak for several builds (see [`Builds`]).

use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::serve::connection;
use crate::host::FrontendLimits;
use crate::service::Builds;

/// Connections at once: clients open one each, and hold it while they build.
const MAX_CONNECTIONS: usize = 1024;

/// A refused `accept` (no descriptors left) is tried again after this.
const ACCEPT_RETRY: std::time::Duration = std::time::Duration::from_millis(100);

/// Accepts connections until cancelled; those open then are closed.
pub async fn serve_socket(
    listener: UnixListener,
    builds: Builds,
    limits: FrontendLimits,
    cancel: CancellationToken,
) {
    let limits = Arc::new(limits);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
            () = cancel.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let (builds, limits) = (builds.clone(), limits.clone());
        connections.spawn(async move {
            // How a client leaves is its own affair: what it asked for has been answered or dropped.
            let _ = connection(stream, builds, &limits).await;
        });
    }
}
