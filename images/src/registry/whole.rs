//! Whole images: everything below what a reference names, into a blob store; and a registry as the source of a push.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::io::AsyncReadExt;

use super::error::RegistryError;
use super::push::{BlobSource, SourceFuture, SourceReader};
use super::{Registries, blob_reader};
use crate::digest::Digest;
use crate::media::{
    Descriptor, ParsedManifest, RawManifest, is_index, is_manifest, is_nondistributable,
};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::BlobStore;

/// Blobs of one image that are on their way at once; each host has its own limit besides.
const PARALLEL_BLOBS: usize = 8;
/// Indexes inside indexes that are followed.
const MAX_DEPTH: usize = 4;

impl Registries {
    /// Brings an image and all that it consists of into `store`: the image of one platform, or all that the root names.
    /// Gives what was asked for: the platform's manifest, or the root. Blobs that are there are not fetched, so that an
    /// interrupted call is taken up by the next. `progress` hears bytes as they come.
    pub async fn fetch_whole(
        &self,
        reference: &Reference,
        root: &RawManifest,
        platform: Option<&Platform>,
        store: &BlobStore,
        progress: &(dyn Fn(&Digest, u64) + Send + Sync),
    ) -> Result<Descriptor, RegistryError> {
        let put = |bytes: &[u8], digest: &Digest| {
            store
                .put(bytes)
                .map(drop)
                .map_err(|source| RegistryError::Store {
                    digest: digest.clone(),
                    source,
                })
        };
        let mut top = root.clone();
        let mut depth = 0;
        while let (Some(platform), ParsedManifest::Index(index)) = (platform, &top.parsed) {
            depth += 1;
            if depth > MAX_DEPTH {
                return Err(RegistryError::TooDeep {
                    reference: reference.to_string(),
                    limit: MAX_DEPTH,
                });
            }
            let chosen = platform.choose(&index.manifests).cloned();
            let chosen = chosen.map_err(|source| RegistryError::NoMatch {
                reference: reference.to_string(),
                source,
            })?;
            let mut child = self.manifest(reference, &chosen).await?;
            child.descriptor.platform = chosen.platform;
            top = child;
        }
        let mut blobs: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        let mut manifests = Vec::new();
        let mut waiting = vec![(top.clone(), 0)];
        while let Some((raw, depth)) = waiting.pop() {
            if depth > MAX_DEPTH {
                return Err(RegistryError::TooDeep {
                    reference: reference.to_string(),
                    limit: MAX_DEPTH,
                });
            }
            match &raw.parsed {
                ParsedManifest::Image(image) => {
                    for blob in std::iter::once(&image.config).chain(&image.layers) {
                        blobs.insert(blob.digest.clone(), blob.clone());
                    }
                }
                ParsedManifest::Index(index) => {
                    for child in &index.manifests {
                        if is_manifest(&child.media_type) || is_index(&child.media_type) {
                            waiting.push((self.manifest(reference, child).await?, depth + 1));
                        } else {
                            blobs.insert(child.digest.clone(), child.clone());
                        }
                    }
                }
            }
            manifests.push(raw);
        }
        // Layers that may not be distributed are left where they are.
        let wanted = blobs
            .into_values()
            .filter(|blob| !is_nondistributable(&blob.media_type));
        stream::iter(wanted)
            .map(|blob| async move {
                if blob.size == 0 {
                    return store
                        .put(&[])
                        .map(drop)
                        .map_err(|source| RegistryError::Store {
                            digest: blob.digest.clone(),
                            source,
                        });
                }
                let told = |bytes| progress(&blob.digest, bytes);
                self.fetch(reference, &blob, store, &told).await.map(drop)
            })
            .buffer_unordered(PARALLEL_BLOBS)
            .try_collect::<()>()
            .await?;
        // Manifests last: what names blobs is there only when they are.
        for raw in manifests {
            put(&raw.bytes, &raw.descriptor.digest)?;
        }
        Ok(top.descriptor)
    }
}

/// An image in a registry, to be pushed to another without a copy in between.
pub struct RegistrySource {
    registries: Registries,
    reference: Reference,
    /// What the registry served already.
    known: BTreeMap<Digest, bytes::Bytes>,
}

impl RegistrySource {
    pub fn new(registries: Registries, reference: Reference, root: &RawManifest) -> Self {
        let known = BTreeMap::from([(root.descriptor.digest.clone(), root.bytes.clone())]);
        RegistrySource {
            registries,
            reference,
            known,
        }
    }
}

impl BlobSource for RegistrySource {
    fn open<'a>(&'a self, descriptor: &'a Descriptor) -> SourceFuture<'a> {
        Box::pin(async move {
            if let Some(bytes) = self.known.get(&descriptor.digest) {
                return Ok(Box::new(std::io::Cursor::new(bytes.clone())) as SourceReader);
            }
            if is_manifest(&descriptor.media_type) || is_index(&descriptor.media_type) {
                let raw = self.registries.manifest(&self.reference, descriptor).await;
                let bytes = raw.map_err(std::io::Error::other)?.bytes;
                return Ok(Box::new(std::io::Cursor::new(bytes)) as SourceReader);
            }
            let stream = self.registries.blob(&self.reference, descriptor).await;
            let reader = blob_reader(stream.map_err(std::io::Error::other)?);
            Ok(Box::new(reader.take(u64::MAX)) as SourceReader)
        })
    }

    fn origins(&self, _descriptor: &Descriptor) -> Vec<Reference> {
        vec![self.reference.clone()]
    }
}
