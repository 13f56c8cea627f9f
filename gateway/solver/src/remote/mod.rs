//! Caches that are services of others: a bucket of S3, the cache of GitHub Actions, a container of Azure.
//!
//! A service holds blobs by their digest, and cache configs by name, each layer with what a manifest would say of it.
//! Names and forms are BuildKit's, so that both share one cache (facts: llb-solver 5.6). What is here knows how to ask
//! each service; `import` and `export::cache` know what for.

mod attrs;
mod azblob;
mod azure;
mod gha;
mod net;
mod s3;
mod sign;
mod xml;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use gateway_images::digest::Digest;
use gateway_images::media::Descriptor;
use gateway_images::registry::{Registries, SourceReader, WebResponse};
use gateway_images::store::BlobStore;

use crate::key::digest_of;
use azblob::AzBlob;
use gha::Gha;
use net::Net;
pub(crate) use net::RemoteError;
use s3::S3;

/// A larger cache config is refused. BuildKit reads any size; this is a hundred times what a build of 10,000 steps writes.
pub(crate) const MAX_CONFIG_BYTES: u64 = 64 << 20;
/// Blobs whose presence is asked for when a cache is read; those of a larger cache are believed to be there.
const MAX_ASKED: usize = 512;
/// Questions at one time.
const ASKED_AT_ONCE: usize = 16;
/// Times that a download goes on where it broke off, without a byte in between.
const MAX_RESUMES: u32 = 4;

/// Where a cache is, with the login. Its `Debug` form has no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteCache(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    S3(Box<S3>),
    Gha(Box<Gha>),
    AzBlob(Box<AzBlob>),
}

/// What a variable of the environment is, for attributes that may be left out.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

impl RemoteCache {
    /// The types of such caches.
    pub const KINDS: [&'static str; 3] = ["s3", "gha", "azblob"];

    /// The attributes of a type, beside those of every cache.
    pub fn keys(kind: &str) -> &'static [&'static str] {
        match kind {
            "s3" => &s3::KEYS,
            "gha" => &gha::KEYS,
            "azblob" => &azblob::KEYS,
            _ => &[],
        }
    }

    /// Reads the attributes, as BuildKit takes them. Unknown ones are passed over.
    ///
    /// # Errors
    /// A sentence that names the attribute that is missing or wrong.
    pub fn parse(
        kind: &str,
        attrs: &BTreeMap<String, String>,
        variable: Variable,
    ) -> Result<RemoteCache, String> {
        let attrs = attrs::Attrs::new(attrs, variable);
        Ok(RemoteCache(match kind {
            "s3" => Place::S3(Box::new(S3::parse(&attrs)?)),
            "gha" => Place::Gha(Box::new(Gha::parse(&attrs)?)),
            "azblob" => Place::AzBlob(Box::new(AzBlob::parse(&attrs)?)),
            other => return Err(format!("unknown cache type {other:?}")),
        }))
    }

    /// The same cache, whoever logs in.
    pub fn is_same_place(&self, other: &RemoteCache) -> bool {
        self.identity() == other.identity()
    }

    /// All that says where it is, and no secret.
    fn identity(&self) -> String {
        match &self.0 {
            Place::S3(s3) => s3.identity(),
            Place::Gha(gha) => gha.identity(),
            Place::AzBlob(azblob) => azblob.identity(),
        }
    }

    /// As progress calls it.
    pub(crate) fn name(&self) -> String {
        let hash = digest_of(self.identity().as_bytes());
        let hash = hash.trim_start_matches("sha256:").get(..16).unwrap_or("0");
        let kind = match self.0 {
            Place::S3(_) => "s3",
            Place::Gha(_) => "gha",
            Place::AzBlob(_) => "azblob",
        };
        format!("{kind}:{hash}")
    }

    /// The name of the vertex that writes it.
    pub(crate) fn title(&self) -> &'static str {
        match self.0 {
            Place::S3(_) => "exporting cache to Amazon S3",
            Place::Gha(_) => "exporting to GitHub Actions Cache",
            Place::AzBlob(_) => "exporting cache to Azure Blob Storage",
        }
    }

    /// Blobs that are written at one time.
    pub(crate) fn parallelism(&self) -> usize {
        match &self.0 {
            Place::S3(s3) => s3.parallelism,
            Place::Gha(_) | Place::AzBlob(_) => 4,
        }
    }
}

/// A cache over connections.
#[derive(Debug)]
pub(crate) struct Remote {
    net: Net,
    cache: RemoteCache,
}

impl Remote {
    pub fn new(registries: Registries, cache: RemoteCache) -> Remote {
        let tries = match &cache.0 {
            Place::S3(s3) => s3.tries,
            Place::Gha(_) | Place::AzBlob(_) => net::TRIES,
        };
        Remote {
            net: Net { registries, tries },
            cache,
        }
    }

    pub fn cache(&self) -> &RemoteCache {
        &self.cache
    }

    /// Before anything else: what must be there is made, or found wanting.
    pub async fn open(&self) -> Result<(), RemoteError> {
        match &self.cache.0 {
            Place::S3(_) | Place::Gha(_) => Ok(()),
            Place::AzBlob(azblob) => azblob.open(&self.net).await,
        }
    }

    /// The cache configs under the names that are read; none where there is none yet.
    pub async fn configs(&self) -> Result<Vec<Bytes>, RemoteError> {
        match &self.cache.0 {
            Place::S3(s3) => s3.configs(&self.net).await,
            Place::Gha(gha) => gha.configs(&self.net).await,
            Place::AzBlob(azblob) => azblob.configs(&self.net).await,
        }
    }

    /// Whether a blob is there.
    pub async fn has(&self, blob: &Digest) -> Result<bool, RemoteError> {
        match &self.cache.0 {
            Place::S3(s3) => s3.has(&self.net, blob).await,
            Place::Gha(gha) => gha.has(&self.net, blob).await,
            Place::AzBlob(azblob) => azblob.has(&self.net, blob).await,
        }
    }

    /// Those of the blobs that are known to be gone; who cannot be asked counts as there.
    pub async fn gone(&self, blobs: &BTreeSet<Digest>) -> BTreeSet<Digest> {
        let asked: Vec<Digest> = blobs.iter().take(MAX_ASKED).cloned().collect();
        let answers: Vec<Option<Digest>> = futures_util::stream::iter(asked)
            .map(|blob| async move { matches!(self.has(&blob).await, Ok(false)).then_some(blob) })
            .buffer_unordered(ASKED_AT_ONCE)
            .collect()
            .await;
        answers.into_iter().flatten().collect()
    }

    /// A blob that is there stays for as long as one that was just written.
    pub async fn keep(&self, blob: &Digest) -> Result<bool, RemoteError> {
        match &self.cache.0 {
            Place::S3(s3) => s3.keep(&self.net, blob).await,
            Place::Gha(_) | Place::AzBlob(_) => self.has(blob).await,
        }
    }

    /// Writes a blob, of exactly the descriptor's size.
    pub async fn put(&self, blob: &Descriptor, source: SourceReader) -> Result<(), RemoteError> {
        match &self.cache.0 {
            Place::S3(s3) => s3.put_blob(&self.net, blob, source).await,
            Place::Gha(gha) => gha.put_blob(&self.net, blob, source).await,
            Place::AzBlob(azblob) => azblob.put_blob(&self.net, blob, source).await,
        }
    }

    /// Writes the cache config, after all its blobs.
    pub async fn put_config(&self, config: Bytes) -> Result<(), RemoteError> {
        match &self.cache.0 {
            Place::S3(s3) => s3.put_config(&self.net, &config).await,
            Place::Gha(gha) => gha.put_config(&self.net, config).await,
            Place::AzBlob(azblob) => azblob.put_config(&self.net, &config).await,
        }
    }

    /// Fetches a blob into the store, checked; `progress` gets the bytes that are here.
    pub async fn fetch(
        &self,
        blob: &Descriptor,
        blobs: &BlobStore,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RemoteError> {
        let failed = |error: &dyn std::fmt::Display| {
            RemoteError::Local(format!("store {}: {error}", blob.digest))
        };
        let mut writer = blobs.writer().map_err(|error| failed(&error))?;
        let mut resumes = 0;
        while writer.written() < blob.size {
            let before = writer.written();
            let mut response = self.get(&blob.digest, before).await?;
            if before > 0 && response.status() != 206 {
                return Err(RemoteError::Answer(format!(
                    "blob {}: the service does not send the rest of a blob",
                    blob.digest
                )));
            }
            let broken = loop {
                match response.chunk().await {
                    Ok(Some(bytes)) => {
                        if bytes.len() as u64 > blob.size - writer.written() {
                            return Err(RemoteError::Answer(format!(
                                "blob {}: more than its {} bytes came",
                                blob.digest, blob.size
                            )));
                        }
                        writer.write_all(&bytes).map_err(|error| failed(&error))?;
                        progress(writer.written());
                    }
                    Ok(None) => break "the connection ended".to_owned(),
                    Err(error) => break error.to_string(),
                }
            };
            if writer.written() > before {
                resumes = 0;
            } else if resumes == MAX_RESUMES {
                return Err(RemoteError::Answer(format!(
                    "blob {}: {broken} after {before} of {} bytes",
                    blob.digest, blob.size
                )));
            } else {
                self.net.registries.pause_before_repeat(resumes).await;
                resumes += 1;
            }
        }
        let done = writer.commit_as(&blob.digest, blob.size);
        done.map(drop).map_err(|error| failed(&error))
    }

    async fn get(&self, blob: &Digest, from: u64) -> Result<WebResponse, RemoteError> {
        match &self.cache.0 {
            Place::S3(s3) => s3.get(&self.net, &s3.blob_key(blob), from).await,
            Place::Gha(gha) => gha.get_blob(&self.net, blob, from).await,
            Place::AzBlob(azblob) => azblob.get_blob(&self.net, blob, from).await,
        }
    }
}

/// How a layer is reached later in a build.
pub(crate) type SharedRemote = Arc<Remote>;

#[cfg(test)]
mod tests;
