//! The same image in Docker's media types, for registries that refuse OCI's.

use std::collections::BTreeMap;

use super::plan::Planned;
use crate::archive::{Family, convert_layer_type, make_index};
use crate::config::to_json_indented;
use crate::digest::Digest;
use crate::media::{
    DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, Manifest, OCI_CONFIG, OCI_LAYER_ZSTD,
    ParsedManifest, RawManifest, is_layer,
};

/// `None` when something in the plan has no counterpart: zstd layers, artifacts. Attestations, which Docker's lists do
/// not know, are left out.
pub(super) fn to_docker(plan: &[Planned]) -> Option<Vec<Planned>> {
    let mut converted: Vec<Planned> = Vec::new();
    // By the digest that it had.
    let mut known: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    for planned in plan {
        let before = &planned.manifest.descriptor;
        let manifest = match &planned.manifest.parsed {
            ParsedManifest::Image(_) if is_attestation(plan, &before.digest) => continue,
            ParsedManifest::Image(image) => docker_image(image)?,
            ParsedManifest::Index(index) => {
                let mut entries = Vec::new();
                for entry in index
                    .manifests
                    .iter()
                    .filter(|entry| !entry.is_attestation())
                {
                    let now = known.get(&entry.digest)?;
                    let mut moved =
                        Descriptor::new(now.media_type.clone(), now.digest.clone(), now.size);
                    moved.platform = entry.platform.clone();
                    entries.push(moved);
                }
                make_index(entries, Family::Docker, BTreeMap::new()).ok()?
            }
        };
        known.insert(before.digest.clone(), manifest.descriptor.clone());
        converted.push(Planned {
            manifest,
            blobs: planned.blobs.clone(),
        });
    }
    Some(converted)
}

fn is_attestation(plan: &[Planned], digest: &Digest) -> bool {
    plan.iter()
        .filter_map(|planned| planned.manifest.index())
        .flat_map(|index| &index.manifests)
        .any(|entry| entry.digest == *digest && entry.is_attestation())
}

fn docker_image(image: &Manifest) -> Option<RawManifest> {
    let ours = matches!(image.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG);
    let legal =
        |layer: &Descriptor| is_layer(&layer.media_type) && layer.media_type != OCI_LAYER_ZSTD;
    if !ours || image.subject.is_some() || !image.layers.iter().all(legal) {
        return None;
    }
    let layers = image.layers.iter().map(|layer| {
        let media_type = convert_layer_type(&layer.media_type, Family::Docker);
        let mut moved = Descriptor::new(media_type, layer.digest.clone(), layer.size);
        moved.urls = layer.urls.clone();
        moved
    });
    let config = &image.config;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(DOCKER_MANIFEST.into()),
        artifact_type: None,
        config: Descriptor::new(DOCKER_CONFIG, config.digest.clone(), config.size),
        layers: layers.collect(),
        subject: None,
        annotations: BTreeMap::new(),
    };
    let bytes = to_json_indented(&manifest).ok()?;
    RawManifest::parse(bytes, Some(DOCKER_MANIFEST)).ok()
}
