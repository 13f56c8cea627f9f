//! Reads an image tar from anywhere into a store: an OCI layout, what `docker save` writes now, or what it once wrote.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::Deserialize;

use super::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, ArchiveError, DOCKER_MANIFEST_FILE, Family,
    INDEX_FILE, Image,
};
use crate::layer::{Compression, Entry, Kind, TarReader, clean_path};
use crate::media::{
    DOCKER_LAYER_GZIP, DOCKER_LAYER_TAR, DOCKER_LAYER_ZSTD, Descriptor, Index, MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES, MAX_MANIFEST_ENTRIES, OCI_INDEX, RawManifest,
};
use crate::store::{Blob, BlobStore};

/// Bounds on an archive that is read.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveLimits {
    /// Bytes of all files together.
    pub bytes: u64,
    pub entries: u64,
}

impl Default for ArchiveLimits {
    /// 256 GiB, as for one layer, and a hundred thousand files: an image has three for each layer at most.
    fn default() -> Self {
        ArchiveLimits {
            bytes: 256 << 30,
            entries: 100_000,
        }
    }
}

/// An image found in an archive; its blobs are in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Of the manifest or index.
    pub descriptor: Descriptor,
    /// As the archive says; not checked to be references.
    pub names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Puts every file of the archive into `store` under its digest and gives the images that it names.
///
/// Blobs whose name is a digest must have it. Nothing is unpacked to a path from the archive.
pub fn read_archive(
    store: &BlobStore,
    archive: impl Read,
    limits: &ArchiveLimits,
) -> Result<Vec<Loaded>, ArchiveError> {
    let mut files = Files::default();
    let mut tar = TarReader::new(archive);
    let mut left = limits.bytes;
    let mut entries = 0;
    while let Some(entry) = tar.next_entry()? {
        entries += 1;
        if entries > limits.entries {
            return Err(ArchiveError::TooManyEntries(limits.entries));
        }
        left = left
            .checked_sub(entry.size)
            .ok_or(ArchiveError::TooManyBytes(limits.bytes))?;
        files.take(store, &entry, &mut tar)?;
    }
    if let Some(blob) = files.find(INDEX_FILE) {
        let bytes = store.read(&blob.digest, MAX_MANIFEST_BYTES)?;
        let index = RawManifest::parse(bytes, Some(OCI_INDEX))?;
        let index = index.index().ok_or(ArchiveError::NotAnArchive)?;
        return Ok(from_index(index));
    }
    match files.find(DOCKER_MANIFEST_FILE) {
        Some(blob) => {
            let bytes = store.read(&blob.digest, MAX_MANIFEST_BYTES)?;
            from_docker(store, &files, &bytes)
        }
        None => Err(ArchiveError::NotAnArchive),
    }
}

/// What was read, by cleaned name.
#[derive(Default)]
struct Files {
    blobs: BTreeMap<Vec<u8>, Blob>,
    links: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Files {
    fn take(
        &mut self,
        store: &BlobStore,
        entry: &Entry,
        content: &mut impl Read,
    ) -> Result<(), ArchiveError> {
        let parts = clean_path(&entry.name);
        let name = parts.join(&b'/');
        let problem = |problem| ArchiveError::Entry {
            name: String::from_utf8_lossy(&entry.name).into_owned(),
            problem,
        };
        match entry.kind {
            Kind::Directory => Ok(()),
            // Nothing writes them, and a small archive could fill the disk with zeros.
            Kind::File if entry.sparse => Err(problem("a sparse file")),
            Kind::File => {
                let mut writer = store.writer()?;
                io::copy(content, &mut writer).map_err(|source| ArchiveError::Io {
                    action: "read",
                    path: String::from_utf8_lossy(&name).into_owned().into(),
                    source,
                })?;
                let blob = if let [b"blobs", b"sha256", hex] = parts[..] {
                    let digest = std::str::from_utf8(hex)
                        .ok()
                        .and_then(|hex| format!("sha256:{hex}").parse().ok())
                        .ok_or_else(|| problem("the name is not a digest"))?;
                    writer.commit_as(&digest, entry.size)?
                } else {
                    writer.commit()?
                };
                self.blobs.insert(name, blob);
                Ok(())
            }
            // Old archives write a layer once and link to it from elsewhere.
            Kind::Symlink | Kind::HardLink => {
                let mut target = entry.link.clone();
                if entry.kind == Kind::Symlink && !target.starts_with(b"/") {
                    let dir = parts.split_last().map_or(&[][..], |(_, dir)| dir);
                    target = [&dir.join(&b'/')[..], b"/", &target].concat();
                }
                self.links.insert(name, clean_path(&target).join(&b'/'));
                Ok(())
            }
            _ => Err(problem("neither a file nor a directory")),
        }
    }

    fn find(&self, name: &str) -> Option<&Blob> {
        let mut name = clean_path(name.as_bytes()).join(&b'/');
        // A link to a link is not written by anything; a loop would be.
        if let Some(target) = self.links.get(&name) {
            name = target.clone();
        }
        self.blobs.get(&name)
    }

    fn need(&self, name: &str) -> Result<&Blob, ArchiveError> {
        self.find(name)
            .ok_or_else(|| ArchiveError::Missing(name.to_owned()))
    }
}

/// Entries of one manifest under several names become one image.
fn from_index(index: &Index) -> Vec<Loaded> {
    let mut images: Vec<Loaded> = Vec::new();
    for entry in &index.manifests {
        let annotation = |key| entry.annotations.get(key).cloned();
        let name = annotation(ANNOTATION_IMAGE_NAME).or_else(|| annotation(ANNOTATION_REF_NAME));
        match images
            .iter_mut()
            .find(|image| image.descriptor.digest == entry.digest)
        {
            Some(image) => image.names.extend(name),
            None => images.push(Loaded {
                descriptor: entry.clone(),
                names: name.into_iter().collect(),
            }),
        }
    }
    images
}

/// An archive with Docker's list only: manifests are made for its images.
fn from_docker(
    store: &BlobStore,
    files: &Files,
    manifest: &[u8],
) -> Result<Vec<Loaded>, ArchiveError> {
    let list: Vec<DockerManifest> =
        serde_json::from_slice(manifest).map_err(|source| ArchiveError::Json {
            file: DOCKER_MANIFEST_FILE,
            source,
        })?;
    let mut images = Vec::new();
    for item in list {
        let config = files.need(&item.config)?;
        let config = store.read(&config.digest, MAX_CONFIG_BYTES)?;
        let names = item.layers.unwrap_or_default();
        if names.len() > MAX_MANIFEST_ENTRIES {
            return Err(crate::media::ManifestError::TooManyEntries(names.len()).into());
        }
        let mut layers = Vec::new();
        for name in &names {
            layers.push(layer_descriptor(store, files.need(name)?)?);
        }
        let image = Image::assemble(config, &layers, Family::Docker, BTreeMap::new())?;
        image.save(store)?;
        images.push(Loaded {
            descriptor: image.descriptor().clone(),
            names: item.repo_tags.unwrap_or_default(),
        });
    }
    Ok(images)
}

/// The type by the first bytes: the list does not say it.
fn layer_descriptor(store: &BlobStore, blob: &Blob) -> Result<Descriptor, ArchiveError> {
    let mut start = Vec::new();
    store
        .reader(&blob.digest)?
        .take(4)
        .read_to_end(&mut start)
        .map_err(|source| ArchiveError::Io {
            action: "read",
            path: store.path(&blob.digest),
            source,
        })?;
    let media_type = match Compression::sniff(&start) {
        Compression::None => DOCKER_LAYER_TAR,
        Compression::Gzip => DOCKER_LAYER_GZIP,
        Compression::Zstd => DOCKER_LAYER_ZSTD,
    };
    Ok(Descriptor::new(media_type, blob.digest.clone(), blob.size))
}

#[cfg(test)]
mod tests;
