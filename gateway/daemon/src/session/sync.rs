//! A directory of a client, brought here by the file sync protocol.
//!
//! Nothing here may wait for two things at once. The list and the files come on one stream, and a client
//! stops reading our requests while it cannot send; so requests never wait for room, and what comes is
//! taken off the stream as long as the disk keeps up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use gateway_proto::fsutil::types::Stat;
use gateway_session::LocalRequest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::Handle;
use super::channel::{Encoding, insert_as};
use super::frames::{Frames, Gone};
use super::locals::Held;
use super::receive::{Limits, Receiver};
use crate::proto::session::Packet;
use crate::proto::session::packet::PacketType;

pub const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// Packets that are handed to the disk at once.
const BATCH: usize = 1024;
/// Bytes of those, about.
const BATCH_BYTES: usize = 2 << 20;
/// Batches on their way to the disk. The rest waits with the client.
const BATCHES: usize = 4;
/// A client that sends nothing at all for so long has stopped: it reads files.
pub const SILENCE: Duration = Duration::from_secs(15 * 60);
/// What a client may take to end a transfer of which all is said.
const GOODBYE: Duration = Duration::from_secs(10);

/// What came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transferred {
    pub bytes: u64,
    pub entries: u32,
}

/// Why nothing came.
#[derive(Debug)]
pub enum SyncError {
    /// The client left, or said why not.
    Client(Status),
    /// What it sent cannot be taken. What is here of it is of no use.
    Refused(String),
}

/// What we say.
enum Say {
    Want(u32),
    Done,
    Refuse(String),
}

impl From<Say> for Packet {
    fn from(say: Say) -> Packet {
        let (kind, id, data) = match say {
            Say::Want(id) => (PacketType::Req, id, Vec::new()),
            Say::Done => (PacketType::Fin, 0, Vec::new()),
            Say::Refuse(problem) => (PacketType::Err, 0, problem.into_bytes()),
        };
        Packet {
            r#type: kind as i32,
            id,
            data,
            stat: None,
        }
    }
}

/// Makes the directory that is held what the client has of it. It is held until nothing is written into
/// it any more, also when nobody waits for that.
///
/// # Errors
/// Of the client, of its list, or of files here.
pub async fn sync(
    handle: &Handle,
    encoding: Encoding,
    request: &LocalRequest,
    held: Arc<Held>,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Transferred, SyncError> {
    let mut metadata = MetadataMap::new();
    for (key, values) in [
        ("dir-name", std::slice::from_ref(&request.name)),
        ("include-patterns", &request.include),
        ("exclude-patterns", &request.exclude),
        ("followpaths", &request.follow),
    ] {
        insert_as(&mut metadata, encoding, key, values);
    }
    // As many as there are files: each is asked for once.
    let (ask, asked) = mpsc::unbounded_channel();
    let requests = UnboundedReceiverStream::new(asked);
    let packets = handle
        .channel()
        .pieces::<Packet>(DIFF_COPY, metadata, requests);
    let packets = packets.await.map_err(SyncError::Client)?;
    let (batches, to_disk) = mpsc::channel(BATCHES);
    let (told, mut heard) = watch::channel(0);
    let (ended, mut end) = oneshot::channel();
    let fresh = request.fresh;
    // A thread of its own: transfers wait for clients, and threads that everybody shares must not.
    std::thread::Builder::new()
        .name("transfer".to_owned())
        .spawn(move || {
            let mut ask = Frames::new(move |piece| ask.send(piece).map_err(|_| Gone));
            let wrote = write(&held.path(), fresh, to_disk, &mut ask, &told);
            drop(ask);
            drop(held);
            // Whoever waited may be gone.
            let _ = ended.send(wrote);
        })
        .map_err(|error| SyncError::Refused(format!("no thread for a transfer: {error}")))?;
    let reading = read(packets, batches);
    tokio::pin!(reading);
    let mut read = None;
    let wrote = loop {
        tokio::select! {
            done = &mut reading, if read.is_none() => read = Some(done),
            wrote = &mut end => break wrote,
            Ok(()) = heard.changed() => progress(*heard.borrow_and_update()),
        }
    };
    if read.is_none() {
        // All is said: the client ends the call by itself, or is left.
        read = tokio::time::timeout(GOODBYE, reading).await.ok();
    }
    match (read, wrote) {
        (_, Ok(Ok(transferred))) => Ok(transferred),
        // The client's own reason, if it gave one.
        (Some(Err(status)), Ok(Err(Ended::Early))) => Err(SyncError::Client(status)),
        (_, Ok(Err(Ended::Early))) => Err(SyncError::Client(Status::unknown(
            "the client ended the transfer early",
        ))),
        (_, Ok(Err(Ended::Refused(problem)))) => Err(SyncError::Refused(problem)),
        (_, Err(_)) => Err(SyncError::Refused("receiving files failed here".to_owned())),
    }
}

/// What such a client is told.
pub fn silent() -> String {
    let minutes = SILENCE.as_secs() / 60;
    format!("the client sent nothing for {minutes} minutes")
}

/// Takes packets off the wire as they come.
async fn read(
    mut packets: impl Stream<Item = Result<Packet, Status>> + Unpin,
    batches: mpsc::Sender<Vec<Packet>>,
) -> Result<(), Status> {
    loop {
        let first = tokio::time::timeout(SILENCE, packets.next()).await;
        let Some(first) = first.map_err(|_| Status::deadline_exceeded(silent()))? else {
            return Ok(());
        };
        let mut next = Some(first);
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut failed = None;
        // And all that is there already.
        while let Some(packet) = next.take() {
            match packet {
                Ok(packet) if packet.r#type() == PacketType::Err => {
                    let text = String::from_utf8_lossy(&packet.data).into_owned();
                    failed = Some(Status::unknown(text));
                }
                Ok(packet) => {
                    bytes += packet.data.len() + packet.stat.as_ref().map_or(0, weight);
                    batch.push(packet);
                    if batch.len() < BATCH && bytes < BATCH_BYTES {
                        next = futures_util::FutureExt::now_or_never(packets.next()).flatten();
                    }
                }
                Err(status) => failed = Some(status),
            }
        }
        if batches.send(batch).await.is_err() {
            // The writer is done, one way or the other.
            return failed.map_or(Ok(()), Err);
        }
        if let Some(status) = failed {
            return Err(status);
        }
    }
}

/// Bytes of an entry that a client can make many.
fn weight(stat: &Stat) -> usize {
    let attributes = stat
        .xattrs
        .iter()
        .map(|(name, value)| name.len() + value.len());
    stat.path.len() + stat.linkname.len() + attributes.sum::<usize>()
}

/// Why the writer has not all of it.
pub(super) enum Ended {
    Early,
    Refused(String),
}

/// The receiver's side of the protocol, on a thread that may block.
fn write<S: FnMut(Bytes) -> Result<(), Gone>>(
    to: &Path,
    fresh: bool,
    batches: mpsc::Receiver<Vec<Packet>>,
    ask: &mut Frames<S>,
    told: &watch::Sender<u64>,
) -> Result<Transferred, Ended> {
    let outcome = follow(to, fresh, batches, ask, told);
    if let Err(Ended::Refused(problem)) = &outcome {
        // A client that is gone need not be told.
        let told = ask.put(&Say::Refuse(problem.clone()).into());
        let _ = told.and_then(|()| ask.flush());
    }
    outcome
}

pub(super) fn follow<S: FnMut(Bytes) -> Result<(), Gone>>(
    to: &Path,
    fresh: bool,
    mut batches: mpsc::Receiver<Vec<Packet>>,
    ask: &mut Frames<S>,
    told: &watch::Sender<u64>,
) -> Result<Transferred, Ended> {
    let refused = |error: super::receive::ReceiveError| Ended::Refused(error.to_string());
    let mut receiver = Receiver::new(to, fresh, Limits::default()).map_err(refused)?;
    let gone = |Gone| Ended::Early;
    let mut overhead = 0_u64;
    let mut said_done = false;
    while let Some(batch) = batches.blocking_recv() {
        for packet in batch {
            match packet.r#type() {
                PacketType::Stat => match packet.stat {
                    Some(stat) => {
                        overhead += prost::Message::encoded_len(&stat) as u64;
                        if let Some(id) = receiver.entry(stat).map_err(refused)? {
                            ask.put(&Say::Want(id).into()).map_err(gone)?;
                        }
                    }
                    None => receiver.end_of_list().map_err(refused)?,
                },
                PacketType::Data => receiver.data(packet.id, &packet.data).map_err(refused)?,
                PacketType::Fin => {
                    if !said_done {
                        return Err(Ended::Refused(
                            "the client ended the transfer before all was there".to_owned(),
                        ));
                    }
                    let transferred = Transferred {
                        bytes: receiver.bytes() + overhead,
                        entries: receiver.entries(),
                    };
                    receiver.finish().map_err(refused)?;
                    return Ok(transferred);
                }
                PacketType::Req | PacketType::Err => {
                    return Err(Ended::Refused(
                        "the client sent what only a receiver sends".to_owned(),
                    ));
                }
            }
        }
        told.send_replace(receiver.bytes() + overhead);
        if receiver.is_complete() && !said_done {
            said_done = true;
            ask.put(&Say::Done.into()).map_err(gone)?;
        }
        // The client sends what it was asked for while the next batch is looked at.
        ask.flush().map_err(gone)?;
    }
    Err(Ended::Early)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn p24_a_client_that_says_nothing_for_a_quarter_of_an_hour_is_left_and_a_slow_one_is_not()
    {
        let (batches, mut taken) = mpsc::channel(BATCHES);
        let begun = Instant::now();
        // A word just in time, and then none.
        let words = stream::once(Box::pin(async {
            tokio::time::sleep(SILENCE - Duration::from_secs(1)).await;
            Ok(Packet::default())
        }));
        let left = read(words.chain(stream::pending()), batches).await;
        let left = left.unwrap_err();
        assert_eq!(left.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(left.message(), "the client sent nothing for 15 minutes");
        assert_eq!(begun.elapsed().as_secs(), 2 * SILENCE.as_secs() - 1);
        assert_eq!(taken.recv().await.map(|batch| batch.len()), Some(1));
    }
}
