//! Images outside registries: OCI layouts as directories and as tars, and Docker's archives.
//!
//! Written in the form of BuildKit's exporters. Read as what they are: files from anywhere, so every name is checked,
//! every blob is hashed into the store before anything in it is believed, and every count has a limit.

mod attestation;
mod image;
mod layout;
mod read;
mod write;

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::digest::Digest;
use crate::layer::TarError;
use crate::media::ManifestError;
use crate::store::StoreError;

pub use attestation::{
    ANNOTATION_PREDICATE_TYPE, ANNOTATION_REFERENCE_DIGEST, ANNOTATION_REFERENCE_TYPE, IN_TOTO,
    attestation_manifest, statement_descriptor,
};
pub use image::{Family, Image, convert_layer_type, make_index, random_image};
pub use layout::{Layout, NEVER, Stop, blobs_below, write_index, write_layout, write_layout_as};
pub use read::{ArchiveLimits, Loaded, read_archive};
pub use write::{Variant, write_archive};

use crate::media::Descriptor;
use crate::reference::Reference;

/// The full name of the image, as containerd finds it.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";
/// The tag: all that OCI has for a name.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
pub const ANNOTATION_CREATED: &str = "org.opencontainers.image.created";

pub(crate) const LAYOUT_FILE: &str = "oci-layout";
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
pub(crate) const INDEX_FILE: &str = "index.json";
pub(crate) const DOCKER_MANIFEST_FILE: &str = "manifest.json";
/// Indexes in indexes, at most. Real ones have one level.
pub(crate) const MAX_INDEX_DEPTH: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("write archive: {0}")]
    Write(#[source] io::Error),
    #[error("invalid JSON in {file}: {source}")]
    Json {
        file: &'static str,
        source: serde_json::Error,
    },
    #[error("docker exporter does not currently support exporting manifest lists")]
    DockerIndex,
    #[error("{0} is neither a manifest nor an index")]
    NoManifest(Digest),
    #[error("no OCI layout and no Docker archive: neither index.json nor manifest.json found")]
    NotAnArchive,
    #[error("archive entry {name:?}: {problem}")]
    Entry { name: String, problem: &'static str },
    #[error("archive is larger than the limit of {0} bytes")]
    TooManyBytes(u64),
    #[error("archive has more than the limit of {0} entries")]
    TooManyEntries(u64),
    #[error("indexes nested deeper than {MAX_INDEX_DEPTH}")]
    TooDeep,
    #[error("{0}: not found in the archive")]
    Missing(String),
    #[error("blob {digest} has {actual} bytes, its descriptor says {expected}")]
    Size {
        digest: Digest,
        expected: u64,
        actual: u64,
    },
}

/// One entry of `index.json` for each name, or one without a name.
pub(crate) fn named(top: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![top.clone()];
    }
    let entry = |name: &Reference| {
        let mut entry = top.clone();
        let annotations = &mut entry.annotations;
        annotations.insert(ANNOTATION_IMAGE_NAME.into(), name.to_string());
        annotations.insert(ANNOTATION_REF_NAME.into(), ref_name(name));
        entry
    };
    names.iter().map(entry).collect()
}

/// The part of a name behind the repository: `tag`, `tag@digest` or `@digest`, as containerd's exporter cuts it.
fn ref_name(name: &Reference) -> String {
    let tag = name.tag().unwrap_or_default();
    match name.digest() {
        Some(digest) => format!("{tag}@{digest}"),
        None => tag.to_owned(),
    }
}
