//! Blobs as streams: counted, hashed while they move, resumed where they broke off, from the next host if need be.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::stream::{self, Stream};
use reqwest::header::CONTENT_RANGE;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncRead;
use tokio::sync::OwnedSemaphorePermit;

use super::error::{Attempt, HostError, RegistryError};
use super::hosts::Endpoint;
use super::transport::Request;
use super::{Inner, Registries};
use crate::digest::Digest;
use crate::media::Descriptor;
use crate::reference::Reference;

/// Resumes without a new byte before the next host is asked.
const MAX_IDLE_RESUMES: u32 = 4;

/// The bytes of a blob. The last piece comes only when size and digest are right, so a stream that ended well is the blob.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, RegistryError>> + Send>>;

impl Registries {
    /// Opens a blob; errors before the first byte come from here. Waits while too many blobs of the host are open.
    pub async fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<BlobStream, RegistryError> {
        self.blob_from(reference, descriptor, 0, Sha256::new())
            .await
    }

    /// The same from `offset`, where `hasher` has seen all bytes before it.
    pub async fn blob_from(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
        hasher: Sha256,
    ) -> Result<BlobStream, RegistryError> {
        if offset == 0
            && let Some(bytes) = descriptor.embedded()
        {
            return Ok(Box::pin(stream::iter([Ok(bytes)])));
        }
        let blob = self
            .0
            .open_blob(reference, descriptor, offset, Some(hasher))
            .await?;
        Ok(Box::pin(stream::try_unfold(blob, |mut blob| async move {
            Ok(blob.next().await?.map(|chunk| (chunk, blob)))
        })))
    }
}

impl Inner {
    /// Opens a blob at `offset`. Without a hasher the caller checks the digest, and tells `bad` when it is wrong.
    pub(super) async fn open_blob(
        self: &Arc<Self>,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
        hasher: Option<Sha256>,
    ) -> Result<BlobRead, RegistryError> {
        if descriptor.size == 0 {
            return Err(RegistryError::ZeroSize {
                reference: reference.to_string(),
                digest: descriptor.digest.clone(),
            });
        }
        self.online(reference)?;
        let (endpoints, attempts) = self.usable(reference, false);
        let mut blob = BlobRead {
            inner: self.clone(),
            reference: reference.clone(),
            descriptor: descriptor.clone(),
            waiting: endpoints.into(),
            open: None,
            done: offset.min(descriptor.size),
            skip: 0,
            hasher,
            idle_resumes: 0,
            attempts,
        };
        blob.open().await?;
        Ok(blob)
    }
}

/// A blob stream as a reader; a `RegistryError` is inside the `io::Error`.
pub fn blob_reader(stream: BlobStream) -> impl AsyncRead + Send + Unpin {
    use futures_util::TryStreamExt;
    tokio_util::io::StreamReader::new(stream.map_err(std::io::Error::other))
}

struct Open {
    endpoint: Endpoint,
    response: reqwest::Response,
    _permit: Option<OwnedSemaphorePermit>,
}

pub(super) struct BlobRead {
    inner: Arc<Inner>,
    reference: Reference,
    descriptor: Descriptor,
    /// Hosts to ask; the first is the one in use.
    waiting: VecDeque<Endpoint>,
    open: Option<Open>,
    /// Bytes handed out, all of which `hasher` has seen.
    done: u64,
    /// Bytes of the open body that were handed out before.
    skip: u64,
    /// `None` when the caller hashes.
    hasher: Option<Sha256>,
    idle_resumes: u32,
    attempts: Vec<Attempt>,
}

impl BlobRead {
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        while self.done < self.descriptor.size {
            let Some(open) = self.open.as_mut() else {
                self.open().await?;
                continue;
            };
            match open.response.chunk().await {
                Ok(Some(mut chunk)) => {
                    let skipped = self.skip.min(chunk.len() as u64);
                    self.skip -= skipped;
                    chunk.advance(skipped as usize);
                    if chunk.is_empty() {
                        continue;
                    }
                    if let Some(chunk) = self.take(chunk)? {
                        return Ok(Some(chunk));
                    }
                }
                Ok(None) => self.broke_off("the body ended early".into()).await?,
                Err(error) => self.broke_off(error.without_url().to_string()).await?,
            }
        }
        Ok(None)
    }

    /// Counts and hashes a piece. The piece that completes the blob is held back until the digest is right.
    fn take(&mut self, chunk: Bytes) -> Result<Option<Bytes>, RegistryError> {
        let size = self.descriptor.size;
        let after = self.done + chunk.len() as u64;
        if after > size {
            return Err(self.bad(HostError::Size {
                expected: size,
                found: after,
            }));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
        }
        self.done = after;
        self.idle_resumes = 0;
        if after == size
            && let Some(hasher) = self.hasher.take()
        {
            let found = Digest::from_hasher(hasher);
            if found != self.descriptor.digest {
                let expected = self.descriptor.digest.clone();
                return Err(self.bad(HostError::Digest { expected, found }));
            }
            self.open = None;
        }
        Ok(Some(chunk))
    }

    /// The host gave wrong bytes: it is not asked for this blob again, so that another try goes elsewhere.
    pub(super) fn bad(&mut self, error: HostError) -> RegistryError {
        if let Some(open) = self.open.take() {
            let mut bad = self
                .inner
                .bad_blobs
                .lock()
                .unwrap_or_else(|e| e.into_inner());
            bad.insert((
                open.endpoint.client.host.clone(),
                self.descriptor.digest.clone(),
            ));
            drop(bad);
            self.failed(&open.endpoint, error);
        }
        self.give_up()
    }

    /// No other host is left to ask.
    pub(super) fn is_on_last_host(&self) -> bool {
        self.waiting.len() <= 1
    }

    async fn broke_off(&mut self, why: String) -> Result<(), RegistryError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.idle_resumes += 1;
        if self.idle_resumes > MAX_IDLE_RESUMES {
            self.failed(&open.endpoint, HostError::Body(why));
            self.waiting.pop_front();
            self.idle_resumes = 0;
        } else if self.idle_resumes > 1 {
            self.inner.pause(self.idle_resumes - 2).await;
        }
        Ok(())
    }

    /// Opens the body at `done` on the first host that serves it.
    async fn open(&mut self) -> Result<(), RegistryError> {
        // Always from the registry's own URL: signed storage URLs expire.
        while let Some(endpoint) = self.waiting.front().cloned() {
            match self.open_on(&endpoint).await {
                Ok(open) => {
                    self.open = Some(open);
                    return Ok(());
                }
                Err(error) => {
                    self.inner.note_failure(&endpoint, &error);
                    self.failed(&endpoint, error);
                    self.waiting.pop_front();
                }
            }
        }
        Err(self.give_up())
    }

    async fn open_on(&mut self, endpoint: &Endpoint) -> Result<Open, HostError> {
        let known_bad = {
            let bad = self
                .inner
                .bad_blobs
                .lock()
                .unwrap_or_else(|e| e.into_inner());
            bad.contains(&(endpoint.client.host.clone(), self.descriptor.digest.clone()))
        };
        if known_bad && self.waiting.len() > 1 {
            return Err(HostError::Body(
                "this host served wrong bytes for this digest before".into(),
            ));
        }
        let permit = endpoint.client.blobs.clone().acquire_owned().await.ok();
        let url = endpoint.url(
            &self.reference,
            &format!("blobs/{}", self.descriptor.digest),
        )?;
        let mut request = Request::get(
            url,
            format!("repository:{}:pull", endpoint.repository(&self.reference)),
        );
        request.from = self.done;
        let mut answer = match self.inner.send(endpoint, &request).await {
            Err(HostError::Status(status)) if status.status == 416 && request.from > 0 => {
                request.from = 0;
                self.inner.send(endpoint, &request).await?
            }
            other => other?,
        };
        if answer.response.status().as_u16() == 206
            && range_start(&answer.response) != Some(request.from)
        {
            request.from = 0;
            answer = self.inner.send(endpoint, &request).await?;
        }
        let response = answer.response;
        let start = if response.status().as_u16() == 206 {
            request.from
        } else {
            0
        };
        self.skip = self.done - start;
        let encoded = response
            .headers()
            .contains_key(reqwest::header::CONTENT_ENCODING);
        let expected = self.descriptor.size - start;
        if let Some(length) = response
            .content_length()
            .filter(|length| *length != expected && !encoded)
        {
            return Err(HostError::Size {
                expected: self.descriptor.size,
                found: start + length,
            });
        }
        Ok(Open {
            endpoint: endpoint.clone(),
            response,
            _permit: permit,
        })
    }

    fn failed(&mut self, endpoint: &Endpoint, error: HostError) {
        let attempt = match endpoint.url(
            &self.reference,
            &format!("blobs/{}", self.descriptor.digest),
        ) {
            Ok(url) => endpoint.attempt("Get", &url, error),
            Err(_) => return,
        };
        self.attempts.push(attempt);
    }

    fn give_up(&mut self) -> RegistryError {
        self.waiting.clear();
        RegistryError::AllHostsFailed {
            reference: self.reference.to_string(),
            attempts: std::mem::take(&mut self.attempts),
        }
    }
}

/// The first byte that a partial answer says it holds.
fn range_start(response: &reqwest::Response) -> Option<u64> {
    let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let range = value.trim().strip_prefix("bytes")?.trim();
    range.split('-').next()?.trim().parse().ok()
}
