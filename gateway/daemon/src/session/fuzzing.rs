//! Doors for the fuzz targets into what is read of a client's session.

use std::path::Path;

use gateway_solver::ClientTree;
use prost::Message;
use tokio::sync::{mpsc, watch};

use super::frames::{Frames, Gone};
use super::send::Listing;
use super::{auth, frames, policy, store, sync};
use crate::proto::session::{CheckPolicyResponse, DecisionResponse, FetchTokenResponse, Packet};

/// Packets of one run at most.
const PACKETS: usize = 4096;

/// Packets one behind the other, each behind its length.
fn packets(mut bytes: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    while packets.len() < PACKETS
        && !bytes.is_empty()
        && let Ok(packet) = Packet::decode_length_delimited(&mut bytes)
    {
        packets.push(packet);
    }
    packets
}

/// A transfer from a client into the directory `to`: what was asked for, or why it failed.
///
/// # Errors
/// As a build would be told.
pub fn receive(bytes: &[u8], to: &Path, fresh: bool) -> Result<usize, String> {
    let (batches, to_disk) = mpsc::channel(PACKETS);
    for packet in packets(bytes) {
        let _ = batches.try_send(vec![packet]);
    }
    drop(batches);
    let (told, _heard) = watch::channel(0);
    let mut count = 0;
    let mut ask = Frames::new(|piece| {
        count += frames::packets(piece).ok_or(Gone)?.len();
        Ok(())
    });
    let followed = sync::follow(to, fresh, to_disk, &mut ask, &told);
    drop(ask);
    match followed {
        Ok(_) => Ok(count),
        Err(sync::Ended::Early) => Err("ended early".to_owned()),
        Err(sync::Ended::Refused(problem)) => Err(problem),
    }
}

/// A transfer of the directory `from` to a client that asks this: the packets that it got.
///
/// # Errors
/// As a build would be told.
pub fn send(bytes: &[u8], from: &Path) -> Result<usize, String> {
    let tree = ClientTree {
        name: "fuzz".to_owned(),
        path: from.to_owned(),
        dir: None,
        more: vec![("more".to_owned(), b"more".to_vec())],
        time: None,
    };
    let (heard, mut asked) = mpsc::unbounded_channel();
    for packet in packets(bytes) {
        let _ = heard.send(packet);
    }
    drop(heard);
    let mut count = 0;
    let mut frames = Frames::new(|piece| {
        count += frames::packets(piece).ok_or(Gone)?.len();
        Ok(())
    });
    Listing::of(std::slice::from_ref(&tree))?.send(&mut frames, &mut asked)?;
    drop(frames);
    Ok(count)
}

/// What a client answers that is asked about policies, tokens and blobs (the first byte chooses).
pub fn answer(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else {
        return;
    };
    match choice % 4 {
        0 => {
            if let Ok(answer) = CheckPolicyResponse::decode(body) {
                answer.encode_to_vec();
            }
        }
        1 => {
            if let Ok(decision) = DecisionResponse::decode(body) {
                let denied = policy::verdict("docker-image://x", decision);
                if let Err(error) = denied {
                    let _ = gateway_proto::error::to_status(&error);
                }
            }
        }
        2 => {
            let _ = FetchTokenResponse::decode(body);
            let signed = auth::is_signed(body, b"payload", &[7; 32]);
            assert!(!signed, "nobody has that key");
        }
        _ => {
            if let Ok(value) = serde_json::from_slice(body) {
                store::named(&value);
            }
        }
    }
}
