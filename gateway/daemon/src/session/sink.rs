//! Results for the client, sent over its session.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use gateway_api::Error;
use gateway_solver::{ClientSink, ClientStream, ClientTree};
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::channel::insert;
use super::frames::{Frames, Gone};
use super::send::Listing;
use super::{Handle, Sessions, client_error};
use crate::peer::Peer;
use crate::proto::session::{BytesMessage, Packet};

const DIFF_COPY: &str = "/moby.filesync.v1.FileSend/DiffCopy";

/// Bytes of one message: clients take 4 MiB.
const PIECE: usize = 1 << 20;
/// Messages, or pieces of many, that wait for the client.
const PIECES: usize = 4;
/// What a client says beside its requests for files: an end, an error.
const BESIDE: usize = 16;

/// The output of one exporter.
pub struct ClientOutput {
    pub sessions: Sessions,
    pub peer: Peer,
    pub session: String,
    /// The exporter's place in the request.
    pub exporter: usize,
    /// What runs the transfer: exporters block.
    pub runtime: runtime::Handle,
}

impl ClientOutput {
    fn handle(&self) -> Result<Arc<Handle>, Error> {
        let handle = self.sessions.find(&self.peer, &self.session);
        let handle = self.runtime.block_on(handle)?;
        if !handle.has(DIFF_COPY) {
            return Err(Error::unknown(
                "method /moby.filesync.v1.FileSend/diffcopy not supported by the client",
            ));
        }
        Ok(handle)
    }

    fn metadata(&self) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        let id = self.exporter.to_string();
        insert(&mut metadata, "buildkit-attachable-exporter-id", &[id]);
        metadata
    }
}

impl ClientSink for ClientOutput {
    fn stream(&self, described: &BTreeMap<String, String>) -> Result<Box<dyn ClientStream>, Error> {
        let handle = self.handle()?;
        let mut metadata = self.metadata();
        for (key, value) in described {
            let key = format!("exporter-md-{key}");
            if let (Ok(key), Ok(value)) = (
                tonic::metadata::AsciiMetadataKey::from_bytes(key.as_bytes()),
                value.parse(),
            ) {
                metadata.insert(key, value);
            }
        }
        let (send, sent) = mpsc::channel(PIECES);
        let answer = self.runtime.spawn(async move {
            let carried = async {
                let channel = handle.channel();
                let sent = ReceiverStream::new(sent);
                let mut answers = channel
                    .streams::<BytesMessage, BytesMessage>(DIFF_COPY, metadata, sent)
                    .await?;
                while answers.message().await?.is_some() {}
                Ok(())
            };
            handle
                .until_closed(carried)
                .await
                .and_then(std::convert::identity)
        });
        Ok(Box::new(Stream {
            send: Some(send),
            answer: Some(answer),
            runtime: self.runtime.clone(),
        }))
    }

    fn files(&self, trees: Vec<ClientTree>, combined: bool) -> Result<u64, Error> {
        let handle = self.handle()?;
        let mut metadata = self.metadata();
        if combined {
            insert(
                &mut metadata,
                "buildkit-exporter-multi-platform",
                &["1".to_owned()],
            );
        }
        let listing = Listing::of(&trees).map_err(Error::unknown)?;
        let (send, sent) = mpsc::channel::<Bytes>(PIECES);
        // Each file can be asked for once; requests must not wait while the list is sent.
        let most = listing.len();
        let (heard, mut asked) = mpsc::unbounded_channel::<Packet>();
        let carried: JoinHandle<Result<(), Status>> = self.runtime.spawn(async move {
            let carried = async {
                let channel = handle.channel();
                let sent = ReceiverStream::new(sent);
                let mut answers = channel.pieces::<Packet>(DIFF_COPY, metadata, sent).await?;
                let mut count = 0;
                while let Some(packet) = answers.message().await? {
                    count += 1;
                    if count > most + BESIDE {
                        return Err(Status::unknown(
                            "the client asks for more files than there are",
                        ));
                    }
                    // Behind the sender's end only the status counts.
                    let _ = heard.send(packet);
                }
                Ok(())
            };
            handle
                .until_closed(carried)
                .await
                .and_then(std::convert::identity)
        });
        let mut frames = Frames::new(move |piece| send.blocking_send(piece).map_err(|_| Gone));
        let sent = listing.send(&mut frames, &mut asked);
        drop((frames, asked));
        let carried = self.runtime.block_on(carried);
        let carried = carried.map_err(|_| Error::unknown("sending files failed here"))?;
        match (sent, carried) {
            (Ok(bytes), Ok(())) => Ok(bytes),
            // The client's own words say more.
            (_, Err(status)) => Err(client_error(&status).context("error from receiver")),
            (Err(problem), Ok(())) => Err(Error::unknown(problem)),
        }
    }
}

/// An archive on its way.
struct Stream {
    send: Option<mpsc::Sender<BytesMessage>>,
    answer: Option<JoinHandle<Result<(), Status>>>,
    runtime: runtime::Handle,
}

impl Stream {
    /// What the client said, when it takes no more.
    fn refusal(&mut self) -> Error {
        let Some(answer) = self.answer.take() else {
            return Error::unknown("the client takes no more");
        };
        match self.runtime.block_on(answer) {
            Ok(Err(status)) => client_error(&status),
            _ => Error::unknown("the client takes no more"),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..PIECE).unwrap_or(bytes);
        let message = BytesMessage {
            data: piece.to_vec(),
        };
        let sent = match &self.send {
            Some(send) => send.blocking_send(message).is_ok(),
            None => false,
        };
        match sent {
            true => Ok(piece.len()),
            false => Err(io::Error::other(self.refusal().message)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ClientStream for Stream {
    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.send = None;
        let Some(answer) = self.answer.take() else {
            return Err(Error::unknown("the client takes no more"));
        };
        match self.runtime.block_on(answer) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => Err(client_error(&status)),
            Err(_) => Err(Error::unknown("sending the archive failed here")),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Not all was written: the client must not take it for whole.
        if let Some(answer) = &self.answer {
            answer.abort();
        }
    }
}
