//! Blobs that the client keeps, by digest, as the other side reads and writes them: OCI layouts and caches in
//! its directories.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use hyper::body::Frame;
use sha2::{Digest, Sha256};

use super::session::{end, one};
use super::{Answers, Frames, framed};

pub const INFO: &str = "/containerd.services.content.v1.Content/Info";
pub const READ: &str = "/containerd.services.content.v1.Content/Read";
pub const WRITE: &str = "/containerd.services.content.v1.Content/Write";

const COMMIT: i32 = 2;
const PIECE: usize = 100_000;

#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(string, tag = "1")]
    digest: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Info {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(message, optional, tag = "1")]
    info: Option<Info>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Piece {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Write {
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(string, tag = "4")]
    expected: String,
    #[prost(int64, tag = "5")]
    offset: i64,
    #[prost(bytes = "bytes", tag = "6")]
    data: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Written {
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(int64, tag = "4")]
    offset: i64,
    #[prost(string, tag = "6")]
    digest: String,
}

/// Stores by their ids, as clients call them: `export`, `local:DIR`, `oci:NAME`.
#[derive(Debug, Default)]
pub struct Stores(Mutex<BTreeMap<String, BTreeMap<String, Bytes>>>);

/// What blobs are called.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Stores {
    /// With one store of this id, that has these blobs.
    pub fn with(id: &str, blobs: BTreeMap<String, Bytes>) -> Stores {
        Stores(Mutex::new(BTreeMap::from([(id.to_owned(), blobs)])))
    }

    /// The blobs of a store.
    pub fn blobs(&self, id: &str) -> BTreeMap<String, Bytes> {
        let stores = self.0.lock().expect("the stores");
        stores.get(id).cloned().unwrap_or_default()
    }

    fn find(&self, id: &str, digest: &str) -> Option<Bytes> {
        let stores = self.0.lock().expect("the stores");
        stores.get(id)?.get(digest).cloned()
    }

    /// Answers one call of the service.
    pub(super) async fn answer(&self, path: &str, id: &str, mut asked: Answers, frames: &Frames) {
        if !self.0.lock().expect("the stores").contains_key(id) {
            return end(frames, 5, "no such store").await;
        }
        if path == WRITE {
            return self.write(id, asked, frames).await;
        }
        let wanted = asked.next::<Asked>().await.ok().flatten();
        let wanted = wanted.unwrap_or_default().digest;
        let Some(blob) = self.find(id, &wanted) else {
            return end(frames, 5, "not found").await;
        };
        if path == INFO {
            let info = Info {
                digest: wanted,
                size: i64::try_from(blob.len()).expect("a size"),
            };
            return one(frames, &Told { info: Some(info) }).await;
        }
        for (number, data) in blob.chunks(PIECE).enumerate() {
            let piece = Piece {
                offset: i64::try_from(number * PIECE).expect("an offset"),
                data: blob.slice_ref(data),
            };
            if frames.send(Ok(Frame::data(framed(&piece)))).await.is_err() {
                return;
            }
        }
        end(frames, 0, "").await;
    }

    async fn write(&self, id: &str, mut asked: Answers, frames: &Frames) {
        let mut blob = Vec::new();
        while let Ok(Some(piece)) = asked.next::<Write>().await {
            assert_eq!(usize::try_from(piece.offset), Ok(blob.len()), "in order");
            blob.extend_from_slice(&piece.data);
            let found = digest(&blob);
            if piece.action == COMMIT {
                if found != piece.expected {
                    return end(frames, 9, "unexpected digest").await;
                }
                let mut stores = self.0.lock().expect("the stores");
                if let Some(store) = stores.get_mut(id) {
                    store.insert(found.clone(), Bytes::from(blob.clone()));
                }
            }
            let written = Written {
                action: piece.action,
                offset: i64::try_from(blob.len()).expect("an offset"),
                digest: found,
            };
            if frames
                .send(Ok(Frame::data(framed(&written))))
                .await
                .is_err()
            {
                return;
            }
        }
        end(frames, 0, "").await;
    }
}
