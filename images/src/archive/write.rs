//! Writes an image as a tar: an OCI layout, or one that Docker loads too.
//!
//! The form is that of BuildKit's exporters (observed): entries sorted by name, owner 0, all times the epoch.

use std::io::{self, BufReader, Read, Write};

use serde::Serialize;

use super::layout::blobs_below;
use super::{ArchiveError, DOCKER_MANIFEST_FILE, INDEX_FILE, LAYOUT, LAYOUT_FILE, named};
use crate::config::to_json;
use crate::layer::{END, Header, Kind, padding};
use crate::media::{Descriptor, Index, MAX_MANIFEST_BYTES, OCI_INDEX, RawManifest, is_index};
use crate::reference::Reference;
use crate::store::{BlobStore, PIECE};

/// Which exporter's tar it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `type=oci`
    Oci,
    /// `type=docker`: with a `manifest.json` for `docker load`; one platform only.
    Docker,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes `top` (a manifest or an index in `store`, with the annotations and the platform it is to be listed with) and
/// all it refers to. One entry of `index.json` for each name.
pub fn write_archive(
    store: &BlobStore,
    top: &Descriptor,
    names: &[Reference],
    variant: Variant,
    mut out: impl Write,
) -> Result<(), ArchiveError> {
    if variant == Variant::Docker && is_index(&top.media_type) {
        return Err(ArchiveError::DockerIndex);
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(OCI_INDEX.to_owned()),
        artifact_type: None,
        manifests: named(top, names),
        subject: None,
        annotations: Default::default(),
    };
    let json = |source| ArchiveError::Json {
        file: INDEX_FILE,
        source,
    };
    let blobs = blobs_below(store, top)?;
    directory(&mut out, "blobs/")?;
    directory(&mut out, "blobs/sha256/")?;
    for blob in &blobs {
        copy_blob(store, blob, &mut out)?;
    }
    file(&mut out, INDEX_FILE, 0o644, &to_json(&index).map_err(json)?)?;
    if variant == Variant::Docker {
        let manifest = docker_manifest(store, top, names)?;
        let manifest = to_json(&[manifest]).map_err(json)?;
        file(&mut out, DOCKER_MANIFEST_FILE, 0o644, &manifest)?;
    }
    file(&mut out, LAYOUT_FILE, 0o444, LAYOUT)?;
    out.write_all(&END).map_err(ArchiveError::Write)?;
    out.flush().map_err(ArchiveError::Write)
}

fn docker_manifest(
    store: &BlobStore,
    top: &Descriptor,
    names: &[Reference],
) -> Result<DockerManifest, ArchiveError> {
    let bytes = store.read(&top.digest, MAX_MANIFEST_BYTES)?;
    let manifest = RawManifest::parse(bytes, Some(&top.media_type))?;
    let image = manifest
        .image()
        .ok_or_else(|| ArchiveError::NoManifest(top.digest.clone()))?;
    Ok(DockerManifest {
        config: blob_name(&image.config),
        repo_tags: (!names.is_empty()).then(|| names.iter().map(Reference::familiar).collect()),
        layers: image.layers.iter().map(blob_name).collect(),
    })
}

fn blob_name(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest.hex())
}

fn directory(out: &mut impl Write, name: &str) -> Result<(), ArchiveError> {
    let mut header = Header::new(Kind::Directory, name);
    header.mode = 0o755;
    out.write_all(&header.encode()).map_err(ArchiveError::Write)
}

fn file(out: &mut impl Write, name: &str, mode: u32, bytes: &[u8]) -> Result<(), ArchiveError> {
    let mut header = Header::new(Kind::File, name);
    header.mode = mode;
    header.size = bytes.len() as u64;
    for part in [&header.encode(), bytes, padding(header.size)] {
        out.write_all(part).map_err(ArchiveError::Write)?;
    }
    Ok(())
}

fn copy_blob(
    store: &BlobStore,
    blob: &Descriptor,
    out: &mut impl Write,
) -> Result<(), ArchiveError> {
    if let Some(bytes) = blob.embedded() {
        return file(out, &blob_name(blob), 0o444, &bytes);
    }
    let mut header = Header::new(Kind::File, blob_name(blob));
    header.mode = 0o444;
    header.size = blob.size;
    out.write_all(&header.encode())
        .map_err(ArchiveError::Write)?;
    let source = store.reader(&blob.digest)?;
    let mut source = BufReader::with_capacity(PIECE, source.take(blob.size));
    let copied = io::copy(&mut source, out).map_err(ArchiveError::Write)?;
    let actual = store.size(&blob.digest)?.unwrap_or(copied);
    if copied != blob.size || actual != blob.size {
        return Err(ArchiveError::Size {
            digest: blob.digest.clone(),
            expected: blob.size,
            actual,
        });
    }
    out.write_all(padding(blob.size))
        .map_err(ArchiveError::Write)
}
