//! The listener: two questions are answered, all others are refused.

use std::path::Path;
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};

use super::AgentSource;
use super::wire::{self, FAILURE, REQUEST_IDENTITIES, SIGN_REQUEST};

pub async fn serve(listener: UnixListener, source: Arc<AgentSource>) {
    while let Ok((stream, _)) = listener.accept().await {
        let source = source.clone();
        tokio::spawn(async move {
            // Either side may hang up at any time; that is no error.
            let _ = answer(stream, &source).await;
        });
    }
}

async fn answer(mut near: UnixStream, source: &AgentSource) -> std::io::Result<()> {
    let mut far = match source {
        AgentSource::Socket(path) | AgentSource::Raw(path) => Some(connect(path).await?),
        AgentSource::Keys(_) => None,
    };
    while let Some(message) = wire::read(&mut near).await? {
        let kind = message.first().copied().unwrap_or_default();
        let reply = match (kind, source, &mut far) {
            (REQUEST_IDENTITIES | SIGN_REQUEST, _, Some(far)) => {
                wire::write(far, &message).await?;
                wire::read(far).await?.unwrap_or_else(|| vec![FAILURE])
            }
            (REQUEST_IDENTITIES, AgentSource::Keys(keys), _) => keys.list(),
            (SIGN_REQUEST, AgentSource::Keys(keys), _) => {
                keys.sign(&message).unwrap_or_else(|| vec![FAILURE])
            }
            _ => vec![FAILURE],
        };
        wire::write(&mut near, &reply).await?;
    }
    Ok(())
}

async fn connect(path: &Path) -> std::io::Result<UnixStream> {
    UnixStream::connect(path).await
}
