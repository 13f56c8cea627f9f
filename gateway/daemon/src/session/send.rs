//! Sends directories to a client by the file sync protocol.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bytes::Bytes;
use gateway_proto::fsutil::types::Stat;
use gateway_solver::ClientTree;
use gateway_solver::fs::{Filter, Root, walk};
use tokio::sync::mpsc;

use super::frames::{Frames, Gone};
use super::receive::order;
use crate::proto::session::Packet;
use crate::proto::session::packet::PacketType;

/// Bytes of one packet: clients take 4 MiB.
const PIECE: usize = 128 << 10;

const DIR: u32 = 1 << 31;

/// Where the bytes of a file are.
enum Content {
    None,
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// Everything that is to be sent, in the order of the protocol.
pub struct Listing {
    entries: Vec<(Stat, Content)>,
}

fn directory(path: &str, time: i64) -> Stat {
    Stat {
        path: path.to_owned(),
        mode: DIR | 0o755,
        mod_time: time,
        ..Stat::default()
    }
}

impl Listing {
    /// # Errors
    /// When files cannot be read.
    pub fn of(trees: &[ClientTree]) -> Result<Listing, String> {
        let mut entries = Vec::new();
        for tree in trees {
            let time = tree
                .time
                .map(|seconds| seconds.saturating_mul(1_000_000_000));
            let prefix = match &tree.dir {
                Some(dir) => {
                    entries.push((directory(dir, time.unwrap_or(0)), Content::None));
                    format!("{dir}/")
                }
                None => String::new(),
            };
            let root = Root::open(&tree.path).map_err(|error| error.to_string())?;
            let found = walk::entries(&root, &Filter::default()).map_err(|e| e.to_string())?;
            for entry in found {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                let meta = entry.meta;
                let (devmajor, devminor) = match meta.rdev {
                    0 => (0, 0),
                    _ => meta.device(),
                };
                let linked = entry.hard_link.as_deref();
                let mut stat = Stat {
                    path: format!("{prefix}{path}"),
                    mode: meta.go_mode(),
                    uid: meta.uid,
                    gid: meta.gid,
                    mod_time: time.unwrap_or_else(|| i64::try_from(meta.mtime).unwrap_or(0)),
                    devmajor: i64::from(devmajor),
                    devminor: i64::from(devminor),
                    ..Stat::default()
                };
                let mut content = Content::None;
                if let Some(first) = linked {
                    stat.linkname = format!("{prefix}{}", String::from_utf8_lossy(first));
                } else if let Some(target) = &entry.target {
                    stat.linkname = String::from_utf8_lossy(target).into_owned();
                    stat.size = i64::try_from(meta.size).unwrap_or(0);
                } else if meta.is_file() {
                    stat.size = i64::try_from(meta.size).unwrap_or(0);
                    content = Content::File(tree.path.join(OsStr::from_bytes(&entry.path)));
                }
                entries.push((stat, content));
            }
            for (name, bytes) in &tree.more {
                let now = || i64::try_from(time::OffsetDateTime::now_utc().unix_timestamp_nanos());
                let stat = Stat {
                    path: format!("{prefix}{name}"),
                    mode: 0o600,
                    size: i64::try_from(bytes.len()).unwrap_or(0),
                    mod_time: time.unwrap_or_else(|| now().unwrap_or(0)),
                    ..Stat::default()
                };
                entries.push((stat, Content::Bytes(bytes.clone())));
            }
        }
        entries.sort_by(|(a, _), (b, _)| order(a.path.as_bytes(), b.path.as_bytes()));
        // What several results have, a directory, is there once.
        entries.dedup_by(|(later, _), (first, _)| later.path == first.path);
        Ok(Listing { entries })
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Speaks the sender's side: `asked` are the client's packets, `send` takes ours. Blocks. Gives the
    /// bytes sent.
    ///
    /// # Errors
    /// What the client says, or what it may not say.
    pub fn send<S: FnMut(Bytes) -> Result<(), Gone>>(
        mut self,
        frames: &mut Frames<S>,
        asked: &mut mpsc::UnboundedReceiver<Packet>,
    ) -> Result<u64, String> {
        let mut contents = HashMap::new();
        for (id, (stat, content)) in self.entries.drain(..).enumerate() {
            if !matches!(content, Content::None) {
                contents.insert(u32::try_from(id).unwrap_or(u32::MAX), content);
            }
            let entry = Packet {
                r#type: PacketType::Stat as i32,
                stat: Some(stat),
                ..Packet::default()
            };
            frames.put(&entry).map_err(gone)?;
        }
        frames.put(&Packet::default()).map_err(gone)?;
        let mut bytes = 0;
        let mut piece = Packet {
            r#type: PacketType::Data as i32,
            ..Packet::default()
        };
        loop {
            let packet = match asked.try_recv() {
                Ok(packet) => packet,
                Err(_) => {
                    // The client waits for what it asked for.
                    frames.flush().map_err(gone)?;
                    asked.blocking_recv().ok_or_else(|| gone(Gone))?
                }
            };
            match packet.r#type() {
                PacketType::Req => {
                    let content = contents
                        .remove(&packet.id)
                        .ok_or_else(|| format!("invalid file id {}", packet.id))?;
                    piece.id = packet.id;
                    bytes += send_content(content, &mut piece, frames)?;
                }
                PacketType::Fin => {
                    let end = Packet {
                        r#type: PacketType::Fin as i32,
                        ..Packet::default()
                    };
                    frames
                        .put(&end)
                        .and_then(|()| frames.flush())
                        .map_err(gone)?;
                    return Ok(bytes);
                }
                PacketType::Err => return Err(String::from_utf8_lossy(&packet.data).into_owned()),
                PacketType::Stat | PacketType::Data => {
                    return Err("the client sent what only a sender sends".to_owned());
                }
            }
        }
    }
}

fn gone(Gone: Gone) -> String {
    "the client ended the transfer early".to_owned()
}

/// Sends a file in packets like `piece`.
fn send_content<S: FnMut(Bytes) -> Result<(), Gone>>(
    content: Content,
    piece: &mut Packet,
    frames: &mut Frames<S>,
) -> Result<u64, String> {
    let mut sent = 0;
    match content {
        Content::None => {}
        Content::Bytes(bytes) => {
            for part in bytes.chunks(PIECE) {
                sent += part.len() as u64;
                piece.data.clear();
                piece.data.extend_from_slice(part);
                frames.put(piece).map_err(gone)?;
            }
        }
        Content::File(path) => {
            let failed = |error: std::io::Error| format!("{}: {error}", path.display());
            let mut file = File::open(&path).map_err(failed)?;
            loop {
                piece.data.clear();
                let count = file
                    .by_ref()
                    .take(PIECE as u64)
                    .read_to_end(&mut piece.data)
                    .map_err(failed)?;
                if count == 0 {
                    break;
                }
                sent += count as u64;
                frames.put(piece).map_err(gone)?;
            }
        }
    }
    piece.data.clear();
    frames.put(piece).map_err(gone)?;
    Ok(sent)
}
