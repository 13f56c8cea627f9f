//! Blobs as streams: counted, hashed while they move, resumed where they broke off, from the next host if need be.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::stream::{self, Stream};
use reqwest::Url;
use reqwest::header::CONTENT_RANGE;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncRead;
use tokio::sync::OwnedSemaphorePermit;

use super::encoding::{self, Decoder};
use super::error::{Attempt, HostError, RegistryError};
use super::foreign;
use super::hosts::{Endpoint, HostClient, Purpose, redacted};
use super::quirks::Quirk;
use super::transport::Request;
use super::{Inner, Registries};
use crate::digest::Digest;
use crate::media::Descriptor;
use crate::reference::Reference;

/// Resumes without a new byte before the next host is asked.
const MAX_IDLE_RESUMES: u32 = 4;

const KNOWN_BAD: &str = "this host served wrong bytes for this digest before";

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
        let (endpoints, attempts) = self.usable(reference, Purpose::Fetch);
        let mut blob = BlobRead {
            inner: self.clone(),
            reference: reference.clone(),
            descriptor: descriptor.clone(),
            foreign: foreign::addresses(reference, descriptor).into(),
            waiting: endpoints.into(),
            open: None,
            done: offset.min(descriptor.size),
            skip: 0,
            hasher,
            idle_resumes: 0,
            attempts,
        };
        // Nothing is left to ask for where all was here.
        if blob.done < blob.descriptor.size {
            blob.open().await?;
        }
        Ok(blob)
    }
}

/// A blob stream as a reader; a `RegistryError` is inside the `io::Error`.
pub fn blob_reader(stream: BlobStream) -> impl AsyncRead + Send + Unpin {
    use futures_util::TryStreamExt;
    tokio_util::io::StreamReader::new(stream.map_err(std::io::Error::other))
}

struct Open {
    client: Arc<HostClient>,
    url: Url,
    response: reqwest::Response,
    /// For a body that came encoded.
    decoder: Option<Decoder>,
    _permit: Option<OwnedSemaphorePermit>,
}

pub(super) struct BlobRead {
    inner: Arc<Inner>,
    reference: Reference,
    descriptor: Descriptor,
    /// Addresses outside the registry, asked before it.
    foreign: VecDeque<Url>,
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
            // More than this is too much, whatever it decodes to.
            let most = (self.descriptor.size - self.done + self.skip).saturating_add(1);
            let piece = match open.response.chunk().await {
                Ok(Some(piece)) => match &mut open.decoder {
                    None => Ok(Some(piece)),
                    Some(decoder) => decoder.feed(&piece, most).map(Some),
                },
                Ok(None) => match open.decoder.take() {
                    None => Ok(None),
                    Some(decoder) => decoder.finish(most).map(Some),
                },
                Err(error) => Err(Some(error.without_url().to_string())),
            };
            match piece {
                Ok(Some(mut piece)) => {
                    let skipped = self.skip.min(piece.len() as u64);
                    self.skip -= skipped;
                    piece.advance(skipped as usize);
                    if piece.is_empty() {
                        continue;
                    }
                    if let Some(piece) = self.take(piece)? {
                        return Ok(Some(piece));
                    }
                }
                Ok(None) => self.broke_off("the body ended early".into()).await?,
                Err(Some(why)) => self.broke_off(why).await?,
                Err(None) => {
                    let size = self.descriptor.size;
                    return Err(self.bad(HostError::Size {
                        expected: size,
                        found: size + 1,
                    }));
                }
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
            bad.insert((open.client.host.clone(), self.descriptor.digest.clone()));
            drop(bad);
            self.failed(&open.client, &open.url, error);
        }
        self.give_up()
    }

    /// No other host is left to ask.
    pub(super) fn is_on_last_host(&self) -> bool {
        self.foreign.is_empty() && self.waiting.len() <= 1
    }

    async fn broke_off(&mut self, why: String) -> Result<(), RegistryError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.idle_resumes += 1;
        if self.idle_resumes > MAX_IDLE_RESUMES {
            self.failed(&open.client, &open.url, HostError::Body(why));
            if self.foreign.pop_front().is_none() {
                self.waiting.pop_front();
            }
            self.idle_resumes = 0;
        } else if self.idle_resumes > 1 {
            self.inner.pause(self.idle_resumes - 2).await;
        }
        Ok(())
    }

    /// Opens the body at `done` on the first host that serves it.
    async fn open(&mut self) -> Result<(), RegistryError> {
        while let Some(url) = self.foreign.front().cloned() {
            match self.open_foreign(&url).await {
                Ok(open) => {
                    self.open = Some(open);
                    return Ok(());
                }
                Err(error) => {
                    self.attempts.push(Attempt {
                        host: url.host_str().unwrap_or_default().to_owned(),
                        mirror: false,
                        place: None,
                        proxy: None,
                        verb: "Get",
                        url: redacted(&url),
                        error,
                    });
                    self.foreign.pop_front();
                }
            }
        }
        // Always from the registry's own URL: signed storage URLs expire.
        while let Some(endpoint) = self.waiting.front().cloned() {
            match self.open_on(&endpoint).await {
                Ok(open) => {
                    self.inner.tell(&self.reference, &endpoint, &self.attempts);
                    self.open = Some(open);
                    return Ok(());
                }
                Err(error) => {
                    self.inner.note_failure(&endpoint, &error);
                    let tail = format!("blobs/{}", self.descriptor.digest);
                    if let Ok(url) = endpoint.url(&self.reference, &tail) {
                        self.attempts.push(endpoint.attempt("Get", &url, error));
                    }
                    self.waiting.pop_front();
                }
            }
        }
        Err(self.give_up())
    }

    fn is_known_bad(&self, host: &str) -> bool {
        let bad = self.inner.bad_blobs.lock();
        bad.unwrap_or_else(|e| e.into_inner())
            .contains(&(host.to_owned(), self.descriptor.digest.clone()))
    }

    async fn open_on(&mut self, endpoint: &Endpoint) -> Result<Open, HostError> {
        if self.waiting.len() > 1 && self.is_known_bad(&endpoint.client.host) {
            return Err(HostError::Body(KNOWN_BAD.into()));
        }
        let permit = endpoint.client.blobs.clone().acquire_owned().await.ok();
        let url = endpoint.url(
            &self.reference,
            &format!("blobs/{}", self.descriptor.digest),
        )?;
        let mut request = Request::get(
            url.clone(),
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
        // A part of an encoded body is a part of other bytes.
        if request.from > 0 && encoding::name(answer.response.headers()).is_some() {
            request.from = 0;
            answer = self.inner.send(endpoint, &request).await?;
        }
        if self.done > 0 && answer.response.status().as_u16() != 206 {
            self.inner.quirk(&endpoint.client, Quirk::Ranges);
        }
        let repository = endpoint.repository(&self.reference);
        let host = &endpoint.client.host;
        self.inner
            .hosts
            .seen_in(host, &repository, &self.descriptor.digest);
        self.opened(
            endpoint.client.clone(),
            url,
            answer.response,
            request.from,
            permit,
        )
    }

    async fn open_foreign(&mut self, url: &Url) -> Result<Open, HostError> {
        let (client, response) = self
            .inner
            .open_foreign(&self.reference, url, self.done)
            .await?;
        if self.is_known_bad(&client.host) {
            return Err(HostError::Body(KNOWN_BAD.into()));
        }
        self.opened(client, url.clone(), response, self.done, None)
    }

    /// Looks at how the body begins before any of it is taken.
    fn opened(
        &mut self,
        client: Arc<HostClient>,
        url: Url,
        response: reqwest::Response,
        from: u64,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Open, HostError> {
        let start = match response.status().as_u16() == 206 {
            true if range_start(&response) == Some(from) => from,
            true => {
                return Err(HostError::Body(
                    "another part than asked for was served".into(),
                ));
            }
            false => 0,
        };
        self.skip = self.done - start;
        let decoder = Decoder::of(response.headers());
        let expected = self.descriptor.size - start;
        if let Some(length) = response
            .content_length()
            .filter(|length| *length != expected && decoder.is_none())
        {
            return Err(HostError::Size {
                expected: self.descriptor.size,
                found: start + length,
            });
        }
        Ok(Open {
            client,
            url,
            response,
            decoder,
            _permit: permit,
        })
    }

    fn failed(&mut self, client: &HostClient, url: &Url, error: HostError) {
        let mirror = self.waiting.front().and_then(|endpoint| endpoint.mirror);
        self.attempts.push(Attempt {
            host: client.host.clone(),
            mirror: mirror.is_some(),
            place: mirror,
            proxy: client.proxy(url).map(str::to_owned),
            verb: "Get",
            url: redacted(url),
            error,
        });
    }

    fn give_up(&mut self) -> RegistryError {
        self.waiting.clear();
        self.foreign.clear();
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
