//! One image as a value, with the exact bytes of its manifest and config.

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;

use super::ArchiveError;
use crate::config::{ConfigError, FinishOptions, LayerInfo, finish, to_json_indented};
use crate::layer::{CompressOptions, Compression, END, Header, Kind, padding, write_layer};
use crate::media::{
    DOCKER_CONFIG, DOCKER_INDEX, DOCKER_LAYER_GZIP, DOCKER_LAYER_TAR, DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST, Descriptor, Index, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, OCI_CONFIG,
    OCI_INDEX, OCI_LAYER_GZIP, OCI_LAYER_TAR, OCI_LAYER_ZSTD, OCI_MANIFEST, RawManifest,
};
use crate::platform::Platform;
use crate::store::{BlobStore, StoreError};

/// Whose media types a manifest is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Oci,
    Docker,
}

/// An image: manifest and config as bytes and parsed; layers by descriptor, their bytes in a store.
#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: RawManifest,
    pub config: Bytes,
}

impl Image {
    /// Makes an image of a finished config and its layers, lowest first.
    ///
    /// Layer types are turned into those of the family; annotations that builders keep for themselves are left out.
    pub fn assemble(
        config: impl Into<Bytes>,
        layers: &[Descriptor],
        family: Family,
        annotations: BTreeMap<String, String>,
    ) -> Result<Self, ArchiveError> {
        let config = config.into();
        let (manifest_type, config_type) = match family {
            Family::Oci => (OCI_MANIFEST, OCI_CONFIG),
            Family::Docker => (DOCKER_MANIFEST, DOCKER_CONFIG),
        };
        let layers = layers.iter().map(|layer| {
            let media_type = convert_layer_type(&layer.media_type, family);
            let mut out = Descriptor::new(media_type, layer.digest.clone(), layer.size);
            out.urls = layer.urls.clone();
            if family == Family::Oci {
                let keep = layer
                    .annotations
                    .iter()
                    .filter(|(key, _)| !is_internal(key));
                out.annotations = keep.map(|(k, v)| (k.clone(), v.clone())).collect();
            }
            out
        });
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(manifest_type.to_owned()),
            artifact_type: None,
            config: Descriptor::of(config_type, &config),
            layers: layers.collect(),
            subject: None,
            annotations,
        };
        let bytes = to_json_indented(&manifest).map_err(ConfigError::Json)?;
        Ok(Image {
            manifest: RawManifest::parse(bytes, Some(manifest_type))?,
            config,
        })
    }

    /// Media type, digest and size of the manifest.
    pub fn descriptor(&self) -> &Descriptor {
        &self.manifest.descriptor
    }

    pub fn config_descriptor(&self) -> Option<&Descriptor> {
        self.manifest.image().map(|manifest| &manifest.config)
    }

    /// Lowest first.
    pub fn layers(&self) -> &[Descriptor] {
        self.manifest
            .image()
            .map_or(&[][..], |manifest| &manifest.layers)
    }

    /// Puts manifest and config into the store that holds the layers.
    pub fn save(&self, store: &BlobStore) -> Result<(), StoreError> {
        store.put(&self.config)?;
        store.put(&self.manifest.bytes)?;
        Ok(())
    }

    /// Reads the image whose manifest `descriptor` names. The layers need not be there.
    pub fn load(store: &BlobStore, descriptor: &Descriptor) -> Result<Self, ArchiveError> {
        let bytes = store.read(&descriptor.digest, MAX_MANIFEST_BYTES)?;
        let manifest = RawManifest::parse(bytes, Some(&descriptor.media_type))?;
        let Some(image) = manifest.image() else {
            return Err(ArchiveError::NoManifest(descriptor.digest.clone()));
        };
        let config = store.read(&image.config.digest, MAX_CONFIG_BYTES)?.into();
        Ok(Image { manifest, config })
    }
}

/// Annotations by which builders remember things about a layer; no part of an image.
fn is_internal(key: &str) -> bool {
    matches!(key, "containerd.io/uncompressed" | "buildkit/createdat")
        || key.starts_with("containerd.io/distribution.source.")
}

/// The name of a layer's media type in a family. Types that have no counterpart stay.
pub fn convert_layer_type(media_type: &str, family: Family) -> String {
    const PAIRS: [(&str, &str); 5] = [
        (OCI_LAYER_TAR, DOCKER_LAYER_TAR),
        (OCI_LAYER_GZIP, DOCKER_LAYER_GZIP),
        (OCI_LAYER_ZSTD, DOCKER_LAYER_ZSTD),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ),
    ];
    let counterpart = PAIRS.iter().find_map(|&(oci, docker)| match family {
        Family::Oci if media_type == docker => Some(oci),
        Family::Docker if media_type == oci => Some(docker),
        _ => None,
    });
    counterpart.unwrap_or(media_type).to_owned()
}

/// An index over manifests whose descriptors carry their platforms.
pub fn make_index(
    manifests: Vec<Descriptor>,
    family: Family,
    annotations: BTreeMap<String, String>,
) -> Result<RawManifest, ArchiveError> {
    let media_type = match family {
        Family::Oci => OCI_INDEX,
        Family::Docker => DOCKER_INDEX,
    };
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type.to_owned()),
        artifact_type: None,
        manifests,
        subject: None,
        annotations,
    };
    let bytes = to_json_indented(&index).map_err(ConfigError::Json)?;
    Ok(RawManifest::parse(bytes, Some(media_type))?)
}

/// A small image of made-up files for tests: as many layers as asked for, different for each `seed`, saved in `store`.
pub fn random_image(
    store: &BlobStore,
    seed: u64,
    layers: usize,
    platform: &Platform,
) -> Result<Image, ArchiveError> {
    let options = CompressOptions::new(Compression::Gzip);
    let mut infos = Vec::new();
    let mut descriptors = Vec::new();
    for n in 0..layers {
        let text = format!("layer {n} of {seed}\n").into_bytes();
        let mut header = Header::new(Kind::File, format!("file-{seed}-{n}"));
        header.mode = 0o644;
        header.size = text.len() as u64;
        let (layer, ()) = write_layer(store, &options, |out| {
            for part in [&header.encode(), &text[..], padding(header.size), &END] {
                out.write_all(part)?;
            }
            Ok(())
        })
        .map_err(|e: crate::layer::CompressError<std::io::Error>| {
            ArchiveError::Write(std::io::Error::other(e))
        })?;
        infos.push(LayerInfo {
            diff_id: layer.diff_id,
            created: crate::config::Timestamp::from_unix(0),
            description: Some(format!("step {n}")),
        });
        descriptors.push(layer.descriptor);
    }
    let config = finish(None, &infos, platform, &FinishOptions::default())?;
    let image = Image::assemble(config, &descriptors, Family::Oci, BTreeMap::new())?;
    image.save(store)?;
    Ok(image)
}
