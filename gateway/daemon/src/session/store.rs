//! Blobs that a client keeps: OCI layouts and caches in its directories, read and written over its
//! session.

use std::path::Path;
use std::sync::Arc;

use gateway_api::{Code, Error};
use gateway_images::digest::Digest;
use sha2::Digest as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;

use super::channel::insert;
use super::space::{RESERVE, Space};
use super::{Handle, client_error};
use crate::proto::content::{
    InfoRequest, InfoResponse, ReadContentRequest, ReadContentResponse, WriteAction,
    WriteContentRequest, WriteContentResponse,
};

const INFO: &str = "/containerd.services.content.v1.Content/Info";
const READ: &str = "/containerd.services.content.v1.Content/Read";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";

/// Bytes of one message: clients take 4 MiB.
const PIECE: usize = 1 << 20;
/// Largest blob that is a manifest or a list of them.
const MAX_MANIFEST: u64 = 8 << 20;
/// Blobs of one image or cache with everything in it.
const MAX_BLOBS: usize = 100_000;

/// One of the client's stores.
pub struct ClientStore {
    handle: Arc<Handle>,
    id: String,
}

fn local(error: impl std::fmt::Display) -> Error {
    Error::unknown(error.to_string())
}

impl ClientStore {
    /// `id` as clients know it: `export`, `local:DIR`, `oci:NAME`.
    pub fn new(handle: Arc<Handle>, id: String) -> Self {
        ClientStore { handle, id }
    }

    fn metadata(&self) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        insert(
            &mut metadata,
            "buildkit-attachable-store-id",
            std::slice::from_ref(&self.id),
        );
        metadata
    }

    async fn call<T>(
        &self,
        work: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, Error> {
        let done = self.handle.until_closed(work).await;
        done.and_then(std::convert::identity)
            .map_err(|status| client_error(&status))
    }

    async fn has(&self, digest: &str) -> Result<Option<u64>, Error> {
        let request = InfoRequest {
            digest: digest.to_owned(),
        };
        let channel = self.handle.channel();
        let info = channel.unary_with::<_, InfoResponse>(INFO, self.metadata(), request);
        match self.call(info).await {
            Ok(answer) => {
                let size = answer.info.map_or(0, |info| info.size);
                Ok(Some(u64::try_from(size).unwrap_or(0)))
            }
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings the content of a digest, and of all that it names, into an OCI layout.
    ///
    /// # Errors
    /// When the client lacks some of it, or gives other bytes.
    pub async fn fetch_layout(&self, digest: &str, to: &Path) -> Result<(), Error> {
        let root = digest.parse::<Digest>().map_err(local)?;
        let blobs = to.join("blobs/sha256");
        tokio::fs::create_dir_all(&blobs).await.map_err(local)?;
        let mut media_type = String::new();
        let mut size = 0;
        let mut left = vec![(root.clone(), true)];
        let mut seen = std::collections::HashSet::new();
        while let Some((digest, must)) = left.pop() {
            if !seen.insert(digest.to_string()) {
                continue;
            }
            if seen.len() > MAX_BLOBS {
                return Err(local(format!("an image of more than {MAX_BLOBS} blobs")));
            }
            let Some(name) = digest
                .to_string()
                .strip_prefix("sha256:")
                .map(str::to_owned)
            else {
                return Err(local(format!("{digest}: only sha256 is known")));
            };
            let path = blobs.join(name);
            let fetched = self.fetch(&digest.to_string(), &path).await;
            let length = match fetched {
                Ok(length) => length,
                // Platforms that the client does not have are no loss.
                Err(error) if !must && error.code == Code::NotFound => continue,
                Err(error) => return Err(error),
            };
            if length > MAX_MANIFEST {
                continue;
            }
            let bytes = tokio::fs::read(&path).await.map_err(local)?;
            let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
                continue;
            };
            if digest == root {
                media_type = text(&value, "mediaType").to_owned();
                size = length;
            }
            left.extend(named(&value));
        }
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{"mediaType": media_type, "digest": root.to_string(), "size": size}],
        });
        tokio::fs::write(to.join("index.json"), index.to_string())
            .await
            .map_err(local)?;
        tokio::fs::write(to.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .await
            .map_err(local)
    }

    /// One blob into a file, held against its digest.
    async fn fetch(&self, digest: &str, to: &Path) -> Result<u64, Error> {
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            offset: 0,
            size: 0,
        };
        let one = tokio_stream::once(request);
        self.call(async {
            let channel = self.handle.channel();
            let mut pieces = channel
                .streams::<_, ReadContentResponse>(READ, self.metadata(), one)
                .await?;
            let io = |error: std::io::Error| tonic::Status::internal(error.to_string());
            let mut file = tokio::fs::File::create(to).await.map_err(io)?;
            let disk = std::fs::File::open(to.parent().unwrap_or(to)).map_err(io)?;
            let mut space = Space::new(RESERVE);
            let mut hash = sha2::Sha256::new();
            let mut size = 0;
            while let Some(piece) = pieces.message().await? {
                let full = |problem| tonic::Status::resource_exhausted(problem);
                space.take(&disk, piece.data.len() as u64).map_err(full)?;
                hash.update(&piece.data);
                size += piece.data.len() as u64;
                file.write_all(&piece.data).await.map_err(io)?;
            }
            file.flush().await.map_err(io)?;
            let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
            if digest.strip_prefix("sha256:") != Some(&found) {
                let _ = tokio::fs::remove_file(to).await;
                return Err(tonic::Status::data_loss(format!(
                    "the client sent sha256:{found} for {digest}"
                )));
            }
            Ok(size)
        })
        .await
    }

    /// Writes every blob of a layout that the client does not have.
    ///
    /// # Errors
    /// Of the client.
    pub async fn push_layout(&self, from: &Path) -> Result<(), Error> {
        let mut blobs = tokio::fs::read_dir(from.join("blobs/sha256"))
            .await
            .map_err(local)?;
        while let Some(entry) = blobs.next_entry().await.map_err(local)? {
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            self.push(&digest, &entry.path()).await?;
        }
        Ok(())
    }

    async fn push(&self, digest: &str, from: &Path) -> Result<(), Error> {
        if self.has(digest).await?.is_some() {
            return Ok(());
        }
        let mut file = tokio::fs::File::open(from).await.map_err(local)?;
        let total = file.metadata().await.map_err(local)?.len();
        let total = i64::try_from(total).unwrap_or(i64::MAX);
        let (send, sent) = mpsc::channel(2);
        let (digest, reference) = (digest.to_owned(), format!("gateway-{digest}"));
        let writer = async move {
            let mut offset = 0;
            while offset < total {
                let mut data = vec![0; PIECE];
                let count = file.read(&mut data).await.map_err(local)?;
                if count == 0 {
                    return Err(local(format!("{digest} became shorter")));
                }
                data.truncate(count);
                let request = WriteContentRequest {
                    action: WriteAction::Write as i32,
                    r#ref: reference.clone(),
                    total,
                    expected: digest.clone(),
                    offset,
                    data,
                    ..WriteContentRequest::default()
                };
                offset += i64::try_from(count).unwrap_or(0);
                if send.send(request).await.is_err() {
                    // Why is in the answers.
                    return Ok(());
                }
            }
            let commit = WriteContentRequest {
                action: WriteAction::Commit as i32,
                r#ref: reference,
                total,
                expected: digest,
                offset,
                ..WriteContentRequest::default()
            };
            let _ = send.send(commit).await;
            Ok::<(), Error>(())
        };
        let answers = self.call(async {
            let mut answers = self
                .handle
                .channel()
                .streams::<_, WriteContentResponse>(
                    WRITE,
                    self.metadata(),
                    ReceiverStream::new(sent),
                )
                .await?;
            while let Some(answer) = answers.message().await? {
                if answer.action() == WriteAction::Commit {
                    return Ok(());
                }
            }
            Ok(())
        });
        let (written, answered) = tokio::join!(writer, answers);
        written?;
        match answered {
            Err(error) if error.code == Code::AlreadyExists => Ok(()),
            answered => answered,
        }
    }
}

fn text<'a>(value: &'a serde_json::Value, key: &str) -> &'a str {
    value.get(key).and_then(|v| v.as_str()).unwrap_or_default()
}

/// What a manifest or an index names: digests, and whether they must be there.
pub(super) fn named(value: &serde_json::Value) -> Vec<(Digest, bool)> {
    let digest = |value: &serde_json::Value| text(value, "digest").parse::<Digest>().ok();
    let list = |key: &str| {
        let list = value.get(key).and_then(|list| list.as_array());
        list.map_or(&[][..], Vec::as_slice)
    };
    let mut named = Vec::new();
    named.extend(value.get("config").and_then(digest).map(|d| (d, true)));
    named.extend(list("layers").iter().filter_map(digest).map(|d| (d, true)));
    // The cache format lists its layers like an index lists its images.
    named.extend(
        list("manifests")
            .iter()
            .filter_map(digest)
            .map(|d| (d, false)),
    );
    named
}
