//! From a reference to manifests and the config: root, platform, children.

use bytes::Bytes;
use serde::Deserialize;

use super::Registries;
use super::documents::Head;
use super::error::RegistryError;
use super::hosts::Endpoint;
use crate::choose::NoMatch;
use crate::digest::Digest;
use crate::media::{Descriptor, MAX_CONFIG_BYTES, ParsedManifest, RawManifest};
use crate::platform::Platform;
use crate::reference::Reference;

/// Indexes inside indexes that are followed. Real ones have one level.
const MAX_INDEX_DEPTH: usize = 4;

/// What a reference names now.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// As asked.
    pub reference: Reference,
    /// The index or manifest that the reference names.
    pub root: RawManifest,
    /// The host that served it.
    pub host: String,
    /// For the user: skipped mirrors, tolerated oddities.
    pub notices: Vec<String>,
}

impl Resolved {
    /// The reference pinned to what was found.
    pub fn pinned(&self) -> Reference {
        self.reference
            .with_digest(self.root.descriptor.digest.clone())
    }
}

/// All about one platform's image but the layers' bytes.
#[derive(Clone, Debug)]
pub struct PulledImageMeta {
    pub reference: Reference,
    /// What the reference names: an index, or the manifest itself.
    pub root: RawManifest,
    /// The image manifest of the platform.
    pub manifest: RawManifest,
    pub config: Descriptor,
    /// The config as served; its digest is verified.
    pub config_bytes: Bytes,
    /// From the lowest layer up.
    pub layers: Vec<Descriptor>,
    /// The platform that the config names.
    pub platform: Platform,
    pub host: String,
    pub notices: Vec<String>,
}

impl Registries {
    /// Asks what a reference names. One GET when the registry is willing.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, RegistryError> {
        self.0.online(reference)?;
        let (root, endpoint, notices) = self
            .0
            .manifest_from_hosts(reference, reference.digest(), None, Head::Unasked)
            .await?;
        Ok(resolved(reference, root, &endpoint, notices))
    }

    /// Asks whether a tag still names `known`: `None` when it does. Costs one HEAD where HEAD works, which Docker Hub
    /// does not count.
    pub async fn resolve_changed(
        &self,
        reference: &Reference,
        known: &Digest,
    ) -> Result<Option<Resolved>, RegistryError> {
        self.0.online(reference)?;
        if reference.digest() == Some(known) {
            return Ok(None);
        }
        let head = match self.0.head_says(reference).await {
            Ok(digest) if digest == *known => return Ok(None),
            Ok(_) => Head::Unasked,
            Err(head) => head,
        };
        let (root, endpoint, notices) = self
            .0
            .manifest_from_hosts(reference, reference.digest(), None, head)
            .await?;
        if root.descriptor.digest == *known {
            // What is to be told comes with the next answer.
            notices
                .into_iter()
                .for_each(|line| self.0.notices.put_back(line));
            return Ok(None);
        }
        Ok(Some(resolved(reference, root, &endpoint, notices)))
    }

    /// Fetches a manifest or index by digest.
    pub async fn manifest(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<RawManifest, RegistryError> {
        if let Some(bytes) = descriptor.embedded() {
            return RawManifest::parse(bytes, Some(&descriptor.media_type)).map_err(|source| {
                RegistryError::Manifest {
                    reference: reference.to_string(),
                    source,
                }
            });
        }
        self.0.online(reference)?;
        let found = self
            .0
            .manifest_from_hosts(
                reference,
                Some(&descriptor.digest),
                Some(descriptor),
                Head::None,
            )
            .await?;
        Ok(found.0)
    }

    /// Fetches a small blob whole: a config, an attestation. More than `limit` bytes are refused unread.
    pub async fn small_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, RegistryError> {
        if let Some(bytes) = descriptor.embedded() {
            return Ok(bytes);
        }
        self.0.online(reference)?;
        if descriptor.size > limit {
            return Err(RegistryError::TooLarge {
                reference: reference.to_string(),
                digest: descriptor.digest.clone(),
                size: descriptor.size,
                limit,
            });
        }
        self.0.small_blob_from_hosts(reference, descriptor).await
    }

    /// Resolves, chooses the platform, and fetches manifest and config.
    pub async fn image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<PulledImageMeta, RegistryError> {
        let resolved = self.resolve(reference).await?;
        self.image_of(resolved, platform).await
    }

    /// The same from what `resolve` gave.
    pub async fn image_of(
        &self,
        resolved: Resolved,
        platform: &Platform,
    ) -> Result<PulledImageMeta, RegistryError> {
        let Resolved {
            reference,
            root,
            host,
            mut notices,
        } = resolved;
        let mut current = root.clone();
        for _ in 0..=MAX_INDEX_DEPTH {
            let index = match &current.parsed {
                ParsedManifest::Image(_) => break,
                ParsedManifest::Index(index) => index,
            };
            let chosen = platform
                .choose(&index.manifests)
                .map_err(|source| RegistryError::NoMatch {
                    reference: reference.to_string(),
                    source,
                })?
                .clone();
            let child = self.manifest(&reference, &chosen).await;
            current = child.map_err(|error| of_child(error, &chosen))?;
        }
        let Some(manifest) = current.image() else {
            return Err(RegistryError::TooDeep {
                reference: reference.to_string(),
                limit: MAX_INDEX_DEPTH,
            });
        };
        let (config, layers) = (manifest.config.clone(), manifest.layers.clone());
        let config_bytes = self
            .small_blob(&reference, &config, MAX_CONFIG_BYTES)
            .await?;
        let found = config_platform(&config_bytes);
        // Converting registries answer a manifest of one platform whatever was asked; artifacts name none.
        if !found.os.is_empty() && platform.rank(&found).is_none() {
            return Err(RegistryError::NoMatch {
                reference: reference.to_string(),
                source: NoMatch {
                    wanted: Box::new(platform.clone()),
                    offered: vec![found],
                },
            });
        }
        notices.extend(self.take_notices());
        Ok(PulledImageMeta {
            reference,
            root,
            manifest: current,
            config,
            config_bytes,
            layers,
            platform: found,
            host,
            notices,
        })
    }
}

fn resolved(
    reference: &Reference,
    root: RawManifest,
    endpoint: &Endpoint,
    notices: Vec<String>,
) -> Resolved {
    Resolved {
        reference: reference.clone(),
        root,
        host: endpoint.client.host.clone(),
        notices,
    }
}

/// The reference alone would say that the image is not there, when it is only what its index names.
fn of_child(error: RegistryError, child: &Descriptor) -> RegistryError {
    match error {
        RegistryError::AllHostsFailed {
            reference,
            attempts,
        } => {
            let platform = child.platform.as_ref().map(ToString::to_string);
            let platform = platform.unwrap_or_else(|| "unnamed".into());
            RegistryError::AllHostsFailed {
                reference: format!("{reference}: its {platform} manifest {}", child.digest),
                attempts,
            }
        }
        other => other,
    }
}

/// The platform fields of an image config; empty when it is something else.
fn config_platform(config: &[u8]) -> Platform {
    #[derive(Deserialize, Default)]
    struct Fields {
        #[serde(flatten)]
        platform: Platform,
    }
    serde_json::from_slice::<Fields>(config)
        .unwrap_or_default()
        .platform
        .normalized()
}
