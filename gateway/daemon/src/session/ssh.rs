//! An agent of the client as a socket here: every connection to it is a stream of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::MetadataMap;

use super::Handle;
use super::channel::insert;
use crate::proto::session::BytesMessage;

const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
/// One read of the socket; agents' messages are smaller.
const PIECE: usize = 32 << 10;
/// Pieces that wait for the client.
const PIECES: usize = 16;
/// Connections to one agent at once; more wait. A step that opens very many must leave calls to the
/// client for the rest of the build.
const CONNECTIONS: usize = 32;

/// A socket that leads to an agent of the client; gone when dropped.
pub struct Forward {
    path: PathBuf,
    _stop: DropGuard,
}

impl Forward {
    pub fn listen(handle: Arc<Handle>, id: &str, path: PathBuf) -> std::io::Result<Forward> {
        let listener = UnixListener::bind(&path)?;
        let stop = CancellationToken::new();
        let (id, stopped) = (id.to_owned(), stop.clone());
        tokio::spawn(async move {
            let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
            let accept = async {
                while let Ok(place) = places.clone().acquire_owned().await
                    && let Ok((stream, _)) = listener.accept().await
                {
                    let (handle, id, stopped) = (handle.clone(), id.clone(), stopped.clone());
                    tokio::spawn(async move {
                        let _place = place;
                        tokio::select! {
                            // The program in the step sees a closed connection, and says so.
                            _ = carry(&handle, &id, stream) => {}
                            () = stopped.cancelled() => {}
                            () = handle.closed().cancelled() => {}
                        }
                    });
                }
            };
            tokio::select! {
                () = accept => {}
                () = stopped.cancelled() => {}
            }
        });
        Ok(Forward {
            path,
            _stop: stop.drop_guard(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn carry(handle: &Handle, id: &str, stream: UnixStream) -> Result<(), tonic::Status> {
    let (mut from, mut to) = stream.into_split();
    let (send, sent) = mpsc::channel(PIECES);
    let mut metadata = MetadataMap::new();
    insert(&mut metadata, "buildkit.ssh.id", &[id.to_owned()]);
    let there = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = from.read(&mut buffer).await.unwrap_or(0);
            let data = buffer.get(..count).unwrap_or_default().to_vec();
            if data.is_empty() || send.send(BytesMessage { data }).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        let channel = handle.channel();
        let mut answers = channel
            .streams::<_, BytesMessage>(FORWARD_AGENT, metadata, ReceiverStream::new(sent))
            .await?;
        while let Some(answer) = answers.next().await {
            if to.write_all(&answer?.data).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let (_, done) = tokio::join!(there, back);
    done
}
