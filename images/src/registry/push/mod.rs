//! Pushing an image: blobs that are missing, then manifests from the leaves up, the tag last.

mod convert;
mod manifest;
mod pieces;
mod plan;
mod upload;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use reqwest::Url;
use tokio::io::AsyncRead;

use super::error::{Attempt, AuthError, HostError, RegistryError};
use super::hosts::{Endpoint, Purpose, redacted};
use super::{Inner, Registries};
use crate::digest::Digest;
use crate::media::Descriptor;
use crate::reference::Reference;
pub(super) use manifest::empty_index;
use plan::plan_of;

/// Uploads of one push at the same time.
const PARALLEL_UPLOADS: usize = 4;

pub type SourceReader = Box<dyn AsyncRead + Send + Unpin>;
pub type SourceFuture<'a> = Pin<Box<dyn Future<Output = io::Result<SourceReader>> + Send + 'a>>;

/// Where the bytes to push come from. A blob may be opened more than once.
pub trait BlobSource: Send + Sync {
    fn open<'a>(&'a self, descriptor: &'a Descriptor) -> SourceFuture<'a>;

    /// Images whose repositories have the blob: one on the same registry need not be sent it again.
    fn origins(&self, _descriptor: &Descriptor) -> Vec<Reference> {
        Vec::new()
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

/// How to push, where there is a choice.
#[derive(Clone, Copy, Debug, Default)]
pub struct PushOptions {
    /// A registry that refuses OCI media types is given Docker's. The image then has another digest, which a notice
    /// tells; without this, the refusal is the error.
    pub docker_if_oci_refused: bool,
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
    /// Blobs that were taken from another repository of the registry.
    pub mounted: usize,
    pub notices: Vec<String>,
}

/// What became of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Uploaded,
    Present,
    Mounted,
}

impl Registries {
    /// Pushes `root` (a manifest or index) with all that it names, and tags it. Goes to a mirror only where the
    /// configuration names one for pushes. With a digest in the reference, it must be that of `root`.
    pub async fn push(
        &self,
        reference: &Reference,
        root: &Descriptor,
        source: &dyn BlobSource,
    ) -> Result<Pushed, RegistryError> {
        self.push_with(reference, root, source, PushOptions::default())
            .await
    }

    /// The same with choices.
    pub async fn push_with(
        &self,
        reference: &Reference,
        root: &Descriptor,
        source: &dyn BlobSource,
        options: PushOptions,
    ) -> Result<Pushed, RegistryError> {
        self.0.online(reference)?;
        if let Some(named) = reference.digest()
            && *named != root.digest
        {
            return Err(RegistryError::Source {
                digest: root.digest.clone(),
                source: io::Error::other(format!("it cannot be pushed as {named}")),
            });
        }
        let mut plan = Vec::new();
        plan_of(reference, root, source, 0, &mut plan).await?;
        let mut blobs = BTreeMap::new();
        for blob in plan.iter().flat_map(|planned| &planned.blobs) {
            blobs.insert(blob.digest.clone(), blob.clone());
        }
        let (endpoints, mut attempts) = self.0.usable(reference, Purpose::Push);
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
        let outcomes: Vec<Sent> = stream::iter(blobs.values().cloned())
            .map(|blob| {
                let job = &job;
                async move { job.blob(&blob, true).await }
            })
            .buffer_unordered(PARALLEL_UPLOADS)
            .try_collect()
            .await
            .map_err(|trouble| job.failure(trouble))?;
        source.blobs_done();
        let mut digest = root.digest.clone();
        if let Err(trouble) = job.manifests(&plan).await {
            let refusal = match &trouble {
                Trouble::Host { error, .. } if options.docker_if_oci_refused => {
                    manifest::oci_refused(error, &plan)
                }
                _ => None,
            };
            let converted = match refusal {
                Some(_) if reference.digest().is_none() => convert::to_docker(&plan),
                _ => None,
            };
            let (Some(refusal), Some(converted)) = (refusal, converted) else {
                return Err(job.failure(trouble));
            };
            job.manifests(&converted)
                .await
                .map_err(|trouble| job.failure(trouble))?;
            if let Some(root) = converted.last() {
                digest = root.manifest.descriptor.digest.clone();
            }
            self.0.notices.add(format!(
                "{} refuses OCI media types ({refusal}): the image was pushed with Docker's, and so as {digest} \
                 instead of {}",
                endpoint.client.host, root.digest
            ));
        }
        let count = |what: Sent| outcomes.iter().filter(|sent| **sent == what).count();
        self.0.tell(reference, &endpoint, &attempts);
        Ok(Pushed {
            reference: reference.with_digest(digest),
            host: endpoint.client.host.clone(),
            uploaded: count(Sent::Uploaded),
            present: count(Sent::Present),
            mounted: count(Sent::Mounted),
            notices: self.take_notices(),
        })
    }
}

/// What ends an upload: the host, or our own side.
enum Trouble {
    Host {
        verb: &'static str,
        url: Url,
        error: Box<HostError>,
    },
    Source(Digest, io::Error),
}

struct Upload<'a> {
    inner: &'a Inner,
    endpoint: &'a Endpoint,
    reference: &'a Reference,
    source: &'a dyn BlobSource,
}

impl Upload<'_> {
    fn failure(&self, trouble: Trouble) -> RegistryError {
        let attempt = match trouble {
            Trouble::Source(digest, source) => return RegistryError::Source { digest, source },
            Trouble::Host { verb, url, error } => {
                self.inner.note_failure(self.endpoint, &error);
                Attempt {
                    url: redacted(&url),
                    ..self.endpoint.attempt(verb, &url, as_push(*error))
                }
            }
        };
        RegistryError::AllHostsFailed {
            reference: self.reference.to_string(),
            attempts: vec![attempt],
        }
    }

    fn scope(&self) -> String {
        format!(
            "repository:{}:pull,push",
            self.endpoint.repository(self.reference)
        )
    }

    fn url(&self, tail: &str) -> Result<Url, Trouble> {
        self.endpoint
            .url(self.reference, tail)
            .map_err(|error| Trouble::Source(Digest::of(b""), io::Error::other(error.to_string())))
    }
}

pub(super) fn as_push(error: HostError) -> HostError {
    match error {
        HostError::Auth(auth) => HostError::Auth(AuthError {
            action: "push",
            ..auth
        }),
        other => other,
    }
}
