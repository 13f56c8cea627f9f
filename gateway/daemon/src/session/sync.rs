//! A directory of a client, brought here by the file sync protocol.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use gateway_session::LocalRequest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

use super::Handle;
use super::channel::{Encoding, insert_as};
use super::receive::Receiver;
use crate::proto::session::Packet;
use crate::proto::session::packet::PacketType;

pub const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// Packets that are handed to the disk at once.
const BATCH: usize = 1024;
/// Batches on their way to the disk. The rest waits with the client.
const BATCHES: usize = 4;
/// Requests on their way to the client.
const REQUESTS: usize = 4096;
/// A client that sends nothing at all for so long has stopped: it reads files.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// What came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transferred {
    pub bytes: u64,
    pub entries: u32,
}

/// Makes the directory `to` what the client has of it.
///
/// # Errors
/// Of the client, of its list, or of files here.
pub async fn sync(
    handle: &Handle,
    encoding: Encoding,
    request: &LocalRequest,
    to: PathBuf,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Transferred, Status> {
    let mut metadata = MetadataMap::new();
    for (key, values) in [
        ("dir-name", std::slice::from_ref(&request.name)),
        ("include-patterns", &request.include),
        ("exclude-patterns", &request.exclude),
        ("followpaths", &request.follow),
    ] {
        insert_as(&mut metadata, encoding, key, values);
    }
    let (ask, asked) = mpsc::channel::<Packet>(REQUESTS);
    let packets =
        handle
            .channel()
            .streams::<Packet, Packet>(DIFF_COPY, metadata, ReceiverStream::new(asked));
    let packets = packets.await?;
    let (batches, to_disk) = mpsc::channel(BATCHES);
    let (told, mut heard) = tokio::sync::watch::channel(0);
    let fresh = request.fresh;
    let disk = tokio::task::spawn_blocking(move || write(&to, fresh, to_disk, &ask, &told));
    let network = async {
        let read = read(packets, batches).await;
        // The writer has all that came; what it says of it counts more than how the stream ended.
        let wrote = disk.await;
        (read, wrote)
    };
    let shown = async {
        while heard.changed().await.is_ok() {
            progress(*heard.borrow_and_update());
        }
        std::future::pending::<()>().await;
    };
    let (read, wrote) = tokio::select! {
        done = network => done,
        () = shown => return Err(Status::internal("unreachable")),
    };
    let wrote = wrote.map_err(|_| Status::internal("receiving files failed here"))?;
    match (read, wrote) {
        (_, Ok(transferred)) => Ok(transferred),
        // The client's own reason, if it gave one.
        (Err(status), _) => Err(status),
        (Ok(()), Err(problem)) => Err(Status::unknown(problem)),
    }
}

/// Takes packets off the wire as they come, whatever the disk does.
async fn read(
    packets: Streaming<Packet>,
    batches: mpsc::Sender<Vec<Packet>>,
) -> Result<(), Status> {
    let mut packets = packets.ready_chunks(BATCH);
    loop {
        let chunk = match tokio::time::timeout(SILENCE, packets.next()).await {
            Err(_) => {
                return Err(Status::deadline_exceeded(format!(
                    "the client sent nothing for {} minutes",
                    SILENCE.as_secs() / 60
                )));
            }
            Ok(None) => return Ok(()),
            Ok(Some(chunk)) => chunk,
        };
        let mut batch = Vec::with_capacity(chunk.len());
        let mut failed = None;
        for packet in chunk {
            match packet {
                Ok(packet) if packet.r#type() == PacketType::Err => {
                    let text = String::from_utf8_lossy(&packet.data).into_owned();
                    failed = Some(Status::unknown(text));
                    break;
                }
                Ok(packet) => batch.push(packet),
                Err(status) => {
                    failed = Some(status);
                    break;
                }
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

fn packet(kind: PacketType, id: u32, data: Vec<u8>) -> Packet {
    Packet {
        r#type: kind as i32,
        id,
        data,
        stat: None,
    }
}

/// The receiver's side of the protocol, on a thread that may block.
fn write(
    to: &std::path::Path,
    fresh: bool,
    mut batches: mpsc::Receiver<Vec<Packet>>,
    ask: &mpsc::Sender<Packet>,
    told: &tokio::sync::watch::Sender<u64>,
) -> Result<Transferred, String> {
    let outcome = follow(to, fresh, &mut batches, ask, told);
    if let Err(problem) = &outcome {
        let text = problem.clone().into_bytes();
        // A client that is gone need not be told.
        let _ = ask.blocking_send(packet(PacketType::Err, 0, text));
    }
    outcome
}

fn follow(
    to: &std::path::Path,
    fresh: bool,
    batches: &mut mpsc::Receiver<Vec<Packet>>,
    ask: &mpsc::Sender<Packet>,
    told: &tokio::sync::watch::Sender<u64>,
) -> Result<Transferred, String> {
    let mut receiver = Receiver::new(to, fresh).map_err(|error| error.to_string())?;
    let gone = || "the client ended the transfer early".to_owned();
    let send = |packet| ask.blocking_send(packet).map_err(|_| gone());
    let mut overhead = 0_u64;
    let mut said_done = false;
    while let Some(batch) = batches.blocking_recv() {
        for packet in batch {
            match packet.r#type() {
                PacketType::Stat => match packet.stat {
                    Some(stat) => {
                        overhead += prost::Message::encoded_len(&stat) as u64;
                        if let Some(id) = receiver.entry(stat).map_err(|e| e.to_string())? {
                            send(self::packet(PacketType::Req, id, Vec::new()))?;
                        }
                    }
                    None => receiver.end_of_list().map_err(|e| e.to_string())?,
                },
                PacketType::Data => receiver
                    .data(packet.id, &packet.data)
                    .map_err(|e| e.to_string())?,
                PacketType::Fin => {
                    if !said_done {
                        return Err(gone());
                    }
                    let transferred = Transferred {
                        bytes: receiver.bytes() + overhead,
                        entries: receiver.entries(),
                    };
                    receiver.finish().map_err(|e| e.to_string())?;
                    return Ok(transferred);
                }
                PacketType::Req | PacketType::Err => {
                    return Err("the client sent what only a receiver sends".to_owned());
                }
            }
        }
        told.send_replace(receiver.bytes() + overhead);
        if receiver.is_complete() && !said_done {
            said_done = true;
            send(self::packet(PacketType::Fin, 0, Vec::new()))?;
        }
    }
    Err(gone())
}
