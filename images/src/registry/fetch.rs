//! Blobs into the blob store: the network fills a queue, a thread hashes and writes, each byte once.

use std::io::Write as _;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Registries;
use super::error::{HostError, RegistryError};
use crate::media::Descriptor;
use crate::reference::Reference;
use crate::store::{BlobStore, BlobWriter, Follower, StoreError};

/// Pieces that wait for the writing thread: enough to keep it busy, little to hold.
const QUEUE: usize = 16;
/// The beginning of a blob from this size on is kept when its transfer breaks off or is killed, for the next to go on.
/// Smaller ones are fetched again in no time.
const RESUMABLE_BYTES: u64 = 4 << 20;

impl Registries {
    /// Brings a blob into the store; false when it was there. Wrong bytes of one host are refused and asked of the
    /// next. `progress` hears the bytes that have come, after each piece.
    pub async fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        store: &BlobStore,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<bool, RegistryError> {
        self.fetch_followed(reference, descriptor, store, progress, None)
            .await
    }

    /// The same, with a reader of the bytes on their way for `followed`: one for each host that is asked for all of
    /// them. None where the blob was here.
    pub async fn fetch_followed(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        store: &BlobStore,
        progress: &(dyn Fn(u64) + Send + Sync),
        followed: Option<&(dyn Fn(Follower) + Send + Sync)>,
    ) -> Result<bool, RegistryError> {
        let stored = |source: StoreError| RegistryError::Store {
            digest: descriptor.digest.clone(),
            source,
        };
        if store.size(&descriptor.digest).map_err(stored)? == Some(descriptor.size) {
            return Ok(false);
        }
        if let Some(bytes) = descriptor.embedded() {
            store.put(&bytes).map_err(stored)?;
            return Ok(true);
        }
        let mut resumable = descriptor.size >= RESUMABLE_BYTES;
        loop {
            let mut writer = match resumable {
                true => {
                    let (store, wanted) = (store.clone(), descriptor.clone());
                    let resumed = move || store.resume(&wanted.digest, wanted.size);
                    tokio::task::spawn_blocking(resumed)
                        .await
                        .map_err(|e| stored_panic(descriptor, e))?
                }
                false => store.writer(),
            }
            .map_err(stored)?;
            let resumed = writer.resumed();
            let opened = self.0.open_blob(reference, descriptor, resumed, None).await;
            let mut blob = match opened {
                Ok(blob) => blob,
                Err(error) => {
                    writer.leave();
                    return Err(error);
                }
            };
            let (queue, pieces) = mpsc::channel(QUEUE);
            if let Some(followed) = followed {
                followed(writer.follow().map_err(|source| RegistryError::Source {
                    digest: descriptor.digest.clone(),
                    source,
                })?);
            }
            let (target, wanted) = (store.clone(), descriptor.clone());
            let writing =
                tokio::task::spawn_blocking(move || write(writer, &target, &wanted, pieces));
            let mut come = resumed;
            let broken = loop {
                match blob.next().await {
                    Ok(Some(piece)) => {
                        come += piece.len() as u64;
                        progress(come);
                        // The thread is gone only when it failed, and then says why.
                        if queue.send(piece).await.is_err() {
                            break None;
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            drop(queue);
            let written = writing.await.map_err(|e| stored_panic(descriptor, e))?;
            if let Some(error) = broken {
                return Err(error);
            }
            match written {
                Ok(()) => return Ok(true),
                // It may be what was here that was wrong.
                Err(StoreError::DigestMismatch { .. }) if resumed > 0 => resumable = false,
                Err(StoreError::DigestMismatch { expected, actual }) => {
                    let last = blob.is_on_last_host();
                    let error = blob.bad(HostError::Digest {
                        expected,
                        found: actual,
                    });
                    if last {
                        return Err(error);
                    }
                }
                Err(error) => return Err(stored(error)),
            }
        }
    }
}

fn stored_panic(descriptor: &Descriptor, error: tokio::task::JoinError) -> RegistryError {
    let source = std::io::Error::other(error);
    RegistryError::Source {
        digest: descriptor.digest.clone(),
        source,
    }
}

fn write(
    mut writer: BlobWriter,
    store: &BlobStore,
    wanted: &Descriptor,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<(), StoreError> {
    while let Some(piece) = pieces.blocking_recv() {
        writer.write_all(&piece).map_err(|source| StoreError::Io {
            action: "write a blob in",
            path: store.root().to_owned(),
            source,
        })?;
    }
    if writer.written() < wanted.size {
        let actual = writer.written();
        writer.leave();
        return Err(StoreError::SizeMismatch {
            expected: wanted.size,
            actual,
        });
    }
    writer.commit_as(&wanted.digest, wanted.size).map(|_| ())
}
