//! What a push consists of: every manifest below the root, children first, each with its own blobs.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::AsyncReadExt;

use super::BlobSource;
use crate::digest::Digest;
use crate::media::{
    Descriptor, MAX_MANIFEST_BYTES, ParsedManifest, RawManifest, is_index, is_manifest,
    is_nondistributable,
};
use crate::reference::Reference;
use crate::registry::error::RegistryError;

/// Indexes inside indexes that are pushed.
const MAX_DEPTH: usize = 4;

/// A manifest to push and the blobs that it names itself.
pub(super) struct Planned {
    pub(super) manifest: RawManifest,
    pub(super) blobs: Vec<Descriptor>,
}

/// Collects manifests, children before parents.
pub(super) fn plan_of<'a>(
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
