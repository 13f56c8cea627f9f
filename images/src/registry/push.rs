//! Pushing an image: blobs that are missing, then manifests from the leaves up, the tag last.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
};
use reqwest::{Method, Url};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::ReaderStream;

use super::error::{HostError, RegistryError, StatusError};
use super::hosts::Endpoint;
use super::transport::{Answer, Request, read_limited, registry_error};
use super::{Inner, Registries};
use crate::digest::Digest;
use crate::media::{
    Descriptor, MAX_MANIFEST_BYTES, ParsedManifest, RawManifest, is_index, is_manifest,
    is_nondistributable,
};
use crate::reference::Reference;

/// Uploads of one push at the same time.
const PARALLEL_UPLOADS: usize = 4;
/// Tries of one upload; each starts over, because the registry's session may be gone.
const MAX_UPLOAD_TRIES: u32 = 3;
/// Indexes inside indexes that are pushed.
const MAX_DEPTH: usize = 4;
/// Larger pieces make fewer writes; smaller ones less memory.
const PIECE: usize = 256 << 10;
const MAX_ERROR_BODY: u64 = 64 << 10;

pub type SourceReader = Box<dyn AsyncRead + Send + Unpin>;
pub type SourceFuture<'a> = Pin<Box<dyn Future<Output = io::Result<SourceReader>> + Send + 'a>>;

/// Where the bytes to push come from. A blob may be opened more than once.
pub trait BlobSource: Send + Sync {
    fn open<'a>(&'a self, descriptor: &'a Descriptor) -> SourceFuture<'a>;

    /// An image whose repository has the blob: one on the same registry need not be sent it again.
    fn origin(&self, _descriptor: &Descriptor) -> Option<Reference> {
        None
    }

    /// All blobs are there; manifests follow.
    fn blobs_done(&self) {}
}

/// Blobs in memory.
impl BlobSource for BTreeMap<Digest, Bytes> {
    fn open<'a>(&'a self, descriptor: &'a Descriptor) -> SourceFuture<'a> {
        let found = self.get(&descriptor.digest).cloned();
        Box::pin(async move {
            let bytes = found.ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(io::Cursor::new(bytes)) as SourceReader)
        })
    }
}

impl BlobSource for crate::store::BlobStore {
    fn open<'a>(&'a self, descriptor: &'a Descriptor) -> SourceFuture<'a> {
        Box::pin(async move {
            let file = self.reader(&descriptor.digest).map_err(io::Error::other)?;
            Ok(Box::new(tokio::fs::File::from_std(file)) as SourceReader)
        })
    }
}

/// What a push did.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// By tag and digest, what the registry now holds.
    pub reference: Reference,
    pub host: String,
    pub uploaded: usize,
    /// Blobs that were there already.
    pub present: usize,
    pub notices: Vec<String>,
}

/// A manifest to push and the blobs that it names itself.
struct Planned {
    manifest: RawManifest,
    blobs: Vec<Descriptor>,
}

impl Registries {
    /// Pushes `root` (a manifest or index) with all that it names, and tags it. Never goes to a mirror.
    /// With a digest in the reference, it must be that of `root`.
    pub async fn push(
        &self,
        reference: &Reference,
        root: &Descriptor,
        source: &dyn BlobSource,
    ) -> Result<Pushed, RegistryError> {
        self.0.online(reference)?;
        let mut plan = Vec::new();
        plan_of(reference, root, source, 0, &mut plan).await?;
        let mut blobs = BTreeMap::new();
        for blob in plan.iter().flat_map(|planned| &planned.blobs) {
            blobs.insert(blob.digest.clone(), blob.clone());
        }
        let (endpoints, mut attempts) = self.0.usable(reference, true);
        let Some(endpoint) = endpoints.into_iter().next() else {
            attempts.truncate(1);
            return Err(RegistryError::AllHostsFailed {
                reference: reference.to_string(),
                attempts,
            });
        };
        let job = Upload {
            inner: &self.0,
            endpoint: &endpoint,
            reference,
            source,
        };
        let outcomes: Vec<bool> = stream::iter(blobs.values().cloned())
            .map(|blob| {
                let job = &job;
                async move { job.blob(&blob, true).await.map_err(|e| (blob, e)) }
            })
            .buffer_unordered(PARALLEL_UPLOADS)
            .try_collect()
            .await
            .map_err(|(blob, error)| job.failure(error, &format!("blobs/{}", blob.digest)))?;
        source.blobs_done();
        let last = plan.len().saturating_sub(1);
        for (at, planned) in plan.iter().enumerate() {
            // Children by digest; the root by its tag, when there is one.
            let object = match reference.tag().filter(|_| at == last) {
                Some(tag) => tag.to_owned(),
                None => planned.manifest.descriptor.digest.to_string(),
            };
            job.manifest(planned, &object)
                .await
                .map_err(|error| job.failure(error, &format!("manifests/{object}")))?;
        }
        Ok(Pushed {
            reference: reference.with_digest(root.digest.clone()),
            host: endpoint.client.host.clone(),
            uploaded: outcomes.iter().filter(|uploaded| **uploaded).count(),
            present: outcomes.iter().filter(|uploaded| !**uploaded).count(),
            notices: self.0.notices(reference, &endpoint, &attempts),
        })
    }
}

/// Collects manifests, children before parents.
fn plan_of<'a>(
    reference: &'a Reference,
    descriptor: &'a Descriptor,
    source: &'a dyn BlobSource,
    depth: usize,
    plan: &'a mut Vec<Planned>,
) -> Pin<Box<dyn Future<Output = Result<(), RegistryError>> + Send + 'a>> {
    Box::pin(async move {
        if depth > MAX_DEPTH {
            return Err(RegistryError::TooDeep {
                reference: reference.to_string(),
                limit: MAX_DEPTH,
            });
        }
        if plan
            .iter()
            .any(|planned| planned.manifest.descriptor.digest == descriptor.digest)
        {
            return Ok(());
        }
        let wrong = |source| RegistryError::Source {
            digest: descriptor.digest.clone(),
            source,
        };
        let reader = source.open(descriptor).await.map_err(wrong)?;
        let mut bytes = Vec::new();
        reader
            .take(MAX_MANIFEST_BYTES + 1)
            .read_to_end(&mut bytes)
            .await
            .map_err(wrong)?;
        if Digest::of(&bytes) != descriptor.digest {
            return Err(wrong(io::Error::other("the bytes do not have this digest")));
        }
        let manifest =
            RawManifest::parse(bytes, Some(&descriptor.media_type)).map_err(|source| {
                RegistryError::Manifest {
                    reference: reference.to_string(),
                    source,
                }
            })?;
        let mut blobs = Vec::new();
        match &manifest.parsed {
            ParsedManifest::Image(image) => {
                let all = std::iter::once(&image.config).chain(&image.layers);
                blobs.extend(all.filter(|d| !is_nondistributable(&d.media_type)).cloned());
            }
            ParsedManifest::Index(index) => {
                for child in &index.manifests {
                    if is_manifest(&child.media_type) || is_index(&child.media_type) {
                        plan_of(reference, child, source, depth + 1, plan).await?;
                    } else {
                        blobs.push(child.clone());
                    }
                }
            }
        }
        plan.push(Planned { manifest, blobs });
        Ok(())
    })
}

/// What ends an upload: the host, or our own side.
enum Trouble {
    Host(HostError),
    Source(Digest, io::Error),
}

impl From<HostError> for Trouble {
    fn from(error: HostError) -> Self {
        Trouble::Host(error)
    }
}

/// What became of the wish to take a blob from another repository.
enum Mounted {
    Yes,
    /// Refused, with an upload opened instead.
    Session(Url),
    No,
}

struct Upload<'a> {
    inner: &'a Inner,
    endpoint: &'a Endpoint,
    reference: &'a Reference,
    source: &'a dyn BlobSource,
}

impl Upload<'_> {
    fn failure(&self, trouble: Trouble, tail: &str) -> RegistryError {
        let error = match trouble {
            Trouble::Source(digest, source) => return RegistryError::Source { digest, source },
            Trouble::Host(error) => as_push(error),
        };
        let attempts = match self.endpoint.url(self.reference, tail) {
            Ok(url) => vec![self.endpoint.attempt("Put", &url, error)],
            // Such a URL was refused before anything was sent.
            Err(_) => Vec::new(),
        };
        RegistryError::AllHostsFailed {
            reference: self.reference.to_string(),
            attempts,
        }
    }

    fn scope(&self) -> String {
        format!(
            "repository:{}:pull,push",
            self.endpoint.repository(self.reference)
        )
    }

    /// True when the blob was sent, false when it was there.
    async fn blob(&self, blob: &Descriptor, ask_first: bool) -> Result<bool, Trouble> {
        if ask_first {
            let url = self
                .endpoint
                .url(self.reference, &format!("blobs/{}", blob.digest))?;
            let mut request = Request::get(url, self.scope());
            request.method = Method::HEAD;
            match self.inner.send(self.endpoint, &request).await {
                Ok(_) => return Ok(false),
                // Registries without HEAD for blobs say all sorts of things; the upload will tell.
                Err(HostError::Status(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut session = None;
        if ask_first && let Some(origin) = self.source.origin(blob) {
            match self.mount(blob, &origin).await? {
                Mounted::Yes => return Ok(false),
                Mounted::Session(url) => session = Some(url),
                Mounted::No => {}
            }
        }
        let mut tries = 0;
        loop {
            let error = match self.send_blob(blob, session.take()).await {
                Ok(()) => return Ok(true),
                Err(Trouble::Host(error)) => error,
                Err(trouble) => return Err(trouble),
            };
            let again = match &error {
                HostError::Transport(transport) => transport.kind.is_passing(),
                HostError::Status(status) => {
                    matches!(status.status, 401 | 404 | 408 | 416 | 429 | 500 | 502..=504)
                }
                _ => false,
            };
            tries += 1;
            if !again || tries >= MAX_UPLOAD_TRIES {
                return Err(error.into());
            }
            self.inner.pause(tries - 1).await;
        }
    }

    /// Asks the registry to take the blob from another of its repositories. Whatever it says against
    /// that, the blob can still be sent.
    async fn mount(&self, blob: &Descriptor, origin: &Reference) -> Result<Mounted, Trouble> {
        let from = self.endpoint.repository(origin);
        if origin.api_host() != self.reference.api_host() || origin.path() == self.reference.path()
        {
            return Ok(Mounted::No);
        }
        let mut url = self.endpoint.url(self.reference, "blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", &blob.digest.to_string())
            .append_pair("from", &from);
        let mut request = Request::get(url, self.scope());
        request.method = Method::POST;
        request.body = Some(("application/octet-stream", Bytes::new()));
        request.further_scope = Some(format!("repository:{from}:pull"));
        match self.inner.send(self.endpoint, &request).await {
            Ok(answer) if answer.response.status().as_u16() == 201 => Ok(Mounted::Yes),
            Ok(answer) => Ok(upload_url(&answer).map_or(Mounted::No, Mounted::Session)),
            Err(_) => Ok(Mounted::No),
        }
    }

    /// POST for a session unless one is open, then the whole blob in one PUT.
    async fn send_blob(&self, blob: &Descriptor, session: Option<Url>) -> Result<(), Trouble> {
        let url = self.endpoint.url(self.reference, "blobs/uploads/")?;
        let mut request = Request::get(url, self.scope());
        let mut target = match session {
            Some(target) => target,
            None => {
                request.method = Method::POST;
                request.body = Some(("application/octet-stream", Bytes::new()));
                upload_url(&self.inner.send(self.endpoint, &request).await?)?
            }
        };
        target
            .query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());

        let home = target.origin() == request.url.origin();
        let client = match home {
            true => self.endpoint.client.clone(),
            false => self.inner.hosts.client_for_url(
                &self.inner.config,
                &target,
                &self.endpoint.client,
            )?,
        };
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        // Announced, because many front ends refuse a body of unknown length.
        headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size));
        if home {
            let scopes = BTreeSet::from([self.scope()]);
            if let Some(value) = self.inner.authorization(&client, &scopes).await? {
                headers.insert(AUTHORIZATION, value);
            }
        }
        let reader = match blob.embedded() {
            Some(bytes) => Box::new(io::Cursor::new(bytes)) as SourceReader,
            None => self
                .source
                .open(blob)
                .await
                .map_err(|e| Trouble::Source(blob.digest.clone(), e))?,
        };
        let body =
            reqwest::Body::wrap_stream(ReaderStream::with_capacity(reader.take(blob.size), PIECE));
        let sent = client
            .upload
            .put(target.clone())
            .timeout(longest_upload(blob.size))
            .headers(headers)
            .body(body)
            .send()
            .await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                return Err(HostError::Transport(
                    super::transport::named(&error, &target, &client).await,
                )
                .into());
            }
        };
        let status = response.status().as_u16();
        if matches!(status, 200 | 201 | 202 | 204) {
            return Ok(());
        }
        let body = read_limited(response, MAX_ERROR_BODY)
            .await
            .unwrap_or_default();
        let (code, message) = registry_error(&body);
        Err(HostError::Status(StatusError {
            status,
            code,
            message,
            head_status: None,
        })
        .into())
    }

    async fn manifest(&self, planned: &Planned, object: &str) -> Result<(), Trouble> {
        let url = self
            .endpoint
            .url(self.reference, &format!("manifests/{object}"))?;
        let descriptor = &planned.manifest.descriptor;
        let mut request = Request::get(url, self.scope());
        request.method = Method::PUT;
        request.body = Some((&descriptor.media_type, planned.manifest.bytes.clone()));
        let answer = match self.inner.send(self.endpoint, &request).await {
            // The registry knew the blob from another repository and does not let this one use it: send it after all.
            Err(HostError::Status(status)) if misses_a_blob(&status) => {
                for blob in &planned.blobs {
                    self.blob(blob, false).await?;
                }
                self.inner.send(self.endpoint, &request).await?
            }
            other => other?,
        };
        let stated = answer
            .response
            .headers()
            .get("docker-content-digest")
            .and_then(|v| v.to_str().ok());
        if let Some(found) = stated.and_then(|v| v.trim().parse::<Digest>().ok())
            && found != descriptor.digest
        {
            return Err(HostError::Digest {
                expected: descriptor.digest.clone(),
                found,
            }
            .into());
        }
        Ok(())
    }
}

/// An upload slower than this is stuck.
const SLOWEST_UPLOAD: u64 = 16 << 10;

fn longest_upload(size: u64) -> Duration {
    Duration::from_secs(60 + size / SLOWEST_UPLOAD)
}

fn misses_a_blob(status: &StatusError) -> bool {
    matches!(
        status.code.as_deref(),
        Some("MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN")
    )
}

/// The upload's address, in any of the forms that registries give; its own query is kept.
fn upload_url(session: &Answer) -> Result<Url, HostError> {
    let location = session
        .response
        .headers()
        .get(LOCATION)
        .and_then(|v| v.to_str().ok())
        .ok_or_else(|| {
            HostError::Redirect("the registry opened an upload without saying where".into())
        })?;
    let mut target = session
        .url
        .join(location)
        .map_err(|_| HostError::Redirect("the upload's Location can't be read".into()))?;
    if !matches!(target.scheme(), "http" | "https") {
        return Err(HostError::Redirect(
            "the upload's Location is not on http or https".into(),
        ));
    }
    if session.url.scheme() == "https" && target.scheme() == "http" {
        if target.host_str() != session.url.host_str() {
            return Err(HostError::Redirect(
                "sent to plain http for the upload: not followed".into(),
            ));
        }
        // A proxy in front ends TLS and the registry does not know: the same host is meant.
        let port = session.url.port();
        if target.set_scheme("https").is_err() || target.set_port(port).is_err() {
            return Err(HostError::Redirect(
                "the upload's Location can't be read".into(),
            ));
        }
    }
    Ok(target)
}

fn as_push(error: HostError) -> HostError {
    match error {
        HostError::Auth(auth) => HostError::Auth(super::error::AuthError {
            action: "push",
            ..auth
        }),
        other => other,
    }
}
