//! The blobs of finished builds, for clients to read: logs and attestations. Nothing can be written.

use std::io::{Read, Seek, SeekFrom};
use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::content::content_server::Content;
use crate::proto::content::*;
use crate::state::Daemon;

/// Bytes of one message: clients take 4 MiB.
const PIECE: u64 = 1 << 20;

/// Manifests that are looked at to see whether a blob is named.
const MOST_LOOKED_AT: usize = 256;
/// Largest manifest that is looked at.
const MAX_MANIFEST: u64 = 4 << 20;

#[derive(Clone)]
pub struct ContentService(pub Daemon);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn read_only<T>() -> Result<T, Status> {
    Err(Status::unimplemented("read-only content store"))
}

impl ContentService {
    /// Of the store only what history names, and what vouches for that: other blobs may be layers of
    /// private images.
    fn is_told_of(&self, digest: &str) -> bool {
        let state = &self.0.0;
        let mut left = state.history.results();
        left.truncate(MOST_LOOKED_AT);
        if left.iter().any(|named| named == digest) {
            return true;
        }
        let mut looked_at = 0;
        while let Some(named) = left.pop() {
            looked_at += 1;
            let path = state.options.solver.blob_file(&named);
            let Some(manifest) = path.and_then(|path| manifest(&path)) else {
                continue;
            };
            let told = told_of(&manifest);
            if told.iter().any(|(named, _)| named == digest) {
                return true;
            }
            if looked_at < MOST_LOOKED_AT {
                let lists = told.into_iter().filter(|(_, is_manifest)| *is_manifest);
                left.extend(lists.map(|(digest, _)| digest));
            }
        }
        false
    }

    /// A blob of the history, else one that a build's record names.
    fn open(&self, digest: &str) -> Result<(std::fs::File, u64), Status> {
        let missing = || Status::not_found(format!("content {digest}: not found"));
        let failed = |error: std::io::Error| Status::internal(error.to_string());
        if let Some(blob) = self.0.0.history.blob(digest) {
            return Ok((std::fs::File::open(blob.path).map_err(failed)?, blob.size));
        }
        if !self.is_told_of(digest) {
            return Err(missing());
        }
        let path = self
            .0
            .0
            .options
            .solver
            .blob_file(digest)
            .ok_or_else(missing)?;
        let file = std::fs::File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        Ok((file, size))
    }
}

/// A manifest or a list of them.
fn manifest(path: &std::path::Path) -> Option<serde_json::Value> {
    let length = std::fs::metadata(path).ok()?.len();
    if length > MAX_MANIFEST {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// What a manifest names beside layers of files: digests, and whether they are of manifests.
pub(crate) fn told_of(manifest: &serde_json::Value) -> Vec<(String, bool)> {
    let digest = |value: &serde_json::Value| Some(value.get("digest")?.as_str()?.to_owned());
    let list = |key: &str| {
        let list = manifest.get(key).and_then(|list| list.as_array());
        list.map_or(&[][..], Vec::as_slice)
    };
    let vouches = |value: &&serde_json::Value| {
        let kind = value.get("mediaType").and_then(|kind| kind.as_str());
        kind.is_some_and(|kind| kind.starts_with("application/vnd.in-toto"))
    };
    let manifests = list("manifests").iter().filter_map(digest);
    let config = manifest.get("config").and_then(digest);
    let layers = list("layers").iter().filter(vouches).filter_map(digest);
    let others = config.into_iter().chain(layers);
    manifests
        .map(|digest| (digest, true))
        .chain(others.map(|digest| (digest, false)))
        .collect()
}

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl Content for ContentService {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let digest = request.into_inner().digest;
        let (_, length) = self.open(&digest)?;
        Ok(Response::new(InfoResponse {
            info: Some(Info {
                digest,
                size: size(length),
                ..Info::default()
            }),
        }))
    }

    type ReadStream = Answers<ReadContentResponse>;

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let (mut file, length) = self.open(&request.digest)?;
        let start = u64::try_from(request.offset).unwrap_or(0).min(length);
        let wanted = u64::try_from(request.size).unwrap_or(0);
        let end = match wanted {
            0 => length,
            wanted => start.saturating_add(wanted).min(length),
        };
        let (send, sent) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            let read = || -> std::io::Result<()> {
                file.seek(SeekFrom::Start(start))?;
                let mut at = start;
                while at < end {
                    let mut data = Vec::new();
                    let count = file
                        .by_ref()
                        .take(PIECE.min(end - at))
                        .read_to_end(&mut data)? as u64;
                    let piece = ReadContentResponse {
                        offset: size(at),
                        data,
                    };
                    at += count;
                    if count == 0 || send.blocking_send(Ok(piece)).is_err() {
                        return Ok(());
                    }
                }
                Ok(())
            };
            let mut read = read;
            if let Err(error) = read() {
                let _ = send.blocking_send(Err(Status::internal(error.to_string())));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(sent))))
    }

    type ListStream = Answers<ListContentResponse>;

    async fn list(
        &self,
        _: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Err(Status::unimplemented(
            "the daemon's content is read by digest: listing it is not supported",
        ))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        read_only()
    }

    async fn list_statuses(
        &self,
        _: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        read_only()
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        read_only()
    }

    async fn delete(&self, _: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        read_only()
    }

    type WriteStream = Answers<WriteContentResponse>;

    async fn write(
        &self,
        _: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        read_only()
    }

    async fn abort(&self, _: Request<AbortRequest>) -> Result<Response<()>, Status> {
        read_only()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p53_layers_of_files_are_not_told_of_and_attestations_are() {
        let manifest = serde_json::json!({
            "config": {"digest": "c"},
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "files"},
                {"mediaType": "application/vnd.in-toto+json", "digest": "statement"},
            ],
        });
        let told = |value| {
            told_of(value)
                .into_iter()
                .map(|(d, _)| d)
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&manifest), ["c", "statement"]);
        let index = serde_json::json!({"manifests": [{"digest": "m"}]});
        assert_eq!(told_of(&index), [("m".to_owned(), true)]);
        assert!(told_of(&serde_json::json!([1])).is_empty());
    }
}
