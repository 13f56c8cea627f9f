//! Media types, descriptors, manifests and indexes: the JSON of images, parsed leniently and kept with its raw bytes.
//!
//! A digest names bytes, and parse-then-serialise does not give the bytes back, so `RawManifest` carries both.
//! The media type names come from oci-distribution; its structs drop fields that we must see (`data`, `artifactType`, `os.version`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::platform::Platform;

pub use oci_distribution::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE as OCI_CONFIG, IMAGE_DOCKER_CONFIG_MEDIA_TYPE as DOCKER_CONFIG,
    IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE as DOCKER_LAYER_GZIP,
    IMAGE_DOCKER_LAYER_TAR_MEDIA_TYPE as DOCKER_LAYER_TAR,
    IMAGE_LAYER_GZIP_MEDIA_TYPE as OCI_LAYER_GZIP, IMAGE_LAYER_MEDIA_TYPE as OCI_LAYER_TAR,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE as DOCKER_INDEX, IMAGE_MANIFEST_MEDIA_TYPE as DOCKER_MANIFEST,
    OCI_IMAGE_INDEX_MEDIA_TYPE as OCI_INDEX, OCI_IMAGE_MEDIA_TYPE as OCI_MANIFEST,
};

pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Not in any specification; BuildKit writes it when zstd is asked without OCI types.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// An index entry with this annotation describes another entry and is never an image to run.
pub const ATTESTATION_REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Largest manifest or index that is read: registries must take at least 4 MB, and containerd's own limit is this number.
pub const MAX_MANIFEST_BYTES: u64 = 4_393_216;
/// Largest image config that is read. Real ones hold some kilobytes; a long history reaches a few hundred.
pub const MAX_CONFIG_BYTES: u64 = 32 << 20;
/// Most entries of one index or layers of one manifest that are looked at.
pub const MAX_MANIFEST_ENTRIES: usize = 10_000;

pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// True for every layer type of either family, the non-distributable ones included.
pub fn is_layer(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

/// Layers that a registry may not hold ("foreign"): fetched from their `urls`, skipped on push.
pub fn is_nondistributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// Non-distributable layer types and what the same bytes are called where everybody may have them.
const DISTRIBUTABLE: [(&str, &str); 2] = [
    (
        "application/vnd.oci.image.layer.nondistributable.v1.",
        "application/vnd.oci.image.layer.v1.",
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.",
        "application/vnd.docker.image.rootfs.diff.",
    ),
];

/// The type of a layer that a registry may hold; other types stay.
pub fn distributable(media_type: &str) -> String {
    let found = DISTRIBUTABLE
        .iter()
        .find_map(|(from, to)| Some(format!("{to}{}", media_type.strip_prefix(from)?)));
    found.unwrap_or_else(|| media_type.to_owned())
}

fn is_schema1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// Names a blob or manifest: what it is, its digest, its size in bytes.
/// Fields are written in the order of the published Go types, so documents that we write have a familiar form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, base64, when it was small enough to embed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// The descriptor of `bytes`.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// True for the attestation entries of an index, which must never be chosen as an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations
            .get(ATTESTATION_REFERENCE_TYPE)
            .is_some_and(|v| v == "attestation-manifest")
            || self
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }

    /// The embedded content, if it is there and is what the descriptor says.
    pub fn embedded(&self) -> Option<Bytes> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(self.data.as_deref()?)
            .ok()?;
        (bytes.len() as u64 == self.size && Digest::of(&bytes) == self.digest).then(|| bytes.into())
    }
}

/// An image manifest: one config, the layers from the lowest up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// An index (manifest list): one manifest for each platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// Few exist at a time, so their size matters less than plain access.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedManifest {
    Image(Manifest),
    Index(Index),
}

/// A manifest or index: the bytes as served, their descriptor, and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawManifest {
    /// Media type (of the body, or as announced when the body names none), digest and size of `bytes`.
    pub descriptor: Descriptor,
    pub bytes: Bytes,
    pub parsed: ParsedManifest,
    /// What was odd but tolerated.
    pub notices: Vec<String>,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    #[error("the manifest is {size} bytes; at most {MAX_MANIFEST_BYTES} are read")]
    TooLarge { size: u64 },
    #[error(
        "the answer is an HTML page{title}, not a manifest: this is not a registry API, check host, port and path"
    )]
    Html { title: String },
    #[error("the manifest is not valid JSON: {0}")]
    Json(String),
    #[error(
        "support Docker Image manifest version 2, schema 1 has been removed. More information at https://docs.docker.com/go/deprecated-image-specs/"
    )]
    Schema1,
    #[error("ambiguous manifest: it holds both `manifests` and `config` or `layers`")]
    Ambiguous,
    #[error("media-type: expected {expected} but found {found}")]
    KindMismatch { expected: String, found: String },
    #[error("encountered unknown type {0}; children may not be fetched")]
    UnknownType(String),
    #[error("the manifest lists {0} entries; at most {MAX_MANIFEST_ENTRIES} are taken")]
    TooManyEntries(usize),
}

/// The fields that tell the kinds apart, whatever else is in the document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl RawManifest {
    /// Parses what a registry or layout gave. `announced` is the Content-Type or the descriptor's media type;
    /// types that say nothing (empty, JSON, text, octet-stream) are ignored and the body decides.
    pub fn parse(bytes: impl Into<Bytes>, announced: Option<&str>) -> Result<Self, ManifestError> {
        let bytes = bytes.into();
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge {
                size: bytes.len() as u64,
            });
        }
        let announced = announced.map(essence).filter(|t| !says_nothing(t));
        if announced.as_deref() == Some("text/html") || bytes.trim_ascii_start().starts_with(b"<") {
            return Err(ManifestError::Html {
                title: html_title(&bytes),
            });
        }
        let shape: Shape = serde_json::from_slice(&bytes).map_err(json_error)?;
        let body_type = shape.media_type.clone().filter(|t| !t.is_empty());
        let schema1 = shape.schema_version == Some(1)
            || shape.fs_layers.is_some()
            || [&body_type, &announced]
                .into_iter()
                .flatten()
                .any(|t| is_schema1(t));
        if schema1 {
            return Err(ManifestError::Schema1);
        }
        let (has_list, has_image) = (
            shape.manifests.is_some(),
            shape.config.is_some() || shape.layers.is_some(),
        );
        if has_list && has_image {
            return Err(ManifestError::Ambiguous);
        }
        let mut notices = Vec::new();
        for stated in [&body_type, &announced].into_iter().flatten() {
            let right = if has_list {
                is_index(stated)
            } else {
                is_manifest(stated)
            };
            if !right && (is_index(stated) || is_manifest(stated)) {
                let (expected, found) = if has_list {
                    ("manifest", "index")
                } else {
                    ("index", "manifest")
                };
                return Err(ManifestError::KindMismatch {
                    expected: expected.into(),
                    found: format!("{found} ({stated})"),
                });
            }
        }
        if let (Some(body), Some(said)) = (&body_type, &announced)
            && body != said
        {
            notices.push(format!(
                "the manifest is served as {said} but says it is {body}"
            ));
        }
        let stated = body_type.or(announced);
        if !has_list && !has_image {
            return Err(ManifestError::UnknownType(stated.unwrap_or_default()));
        }
        let (parsed, entries, default_type) = if has_list {
            let index: Index = serde_json::from_slice(&bytes).map_err(json_error)?;
            let entries = index.manifests.len();
            (ParsedManifest::Index(index), entries, OCI_INDEX)
        } else {
            let manifest: Manifest = serde_json::from_slice(&bytes).map_err(json_error)?;
            let entries = manifest.layers.len();
            let docker = manifest.config.media_type == DOCKER_CONFIG;
            (
                ParsedManifest::Image(manifest),
                entries,
                if docker {
                    DOCKER_MANIFEST
                } else {
                    OCI_MANIFEST
                },
            )
        };
        if entries > MAX_MANIFEST_ENTRIES {
            return Err(ManifestError::TooManyEntries(entries));
        }
        let media_type = match stated {
            Some(t) if is_index(&t) || is_manifest(&t) => t,
            Some(t) => return Err(ManifestError::UnknownType(t)),
            None => default_type.to_owned(),
        };
        let descriptor = Descriptor::of(media_type, &bytes);
        Ok(RawManifest {
            descriptor,
            bytes,
            parsed,
            notices,
        })
    }

    pub fn index(&self) -> Option<&Index> {
        match &self.parsed {
            ParsedManifest::Index(index) => Some(index),
            ParsedManifest::Image(_) => None,
        }
    }

    pub fn image(&self) -> Option<&Manifest> {
        match &self.parsed {
            ParsedManifest::Image(manifest) => Some(manifest),
            ParsedManifest::Index(_) => None,
        }
    }
}

/// A Content-Type without parameters, in lower case.
pub fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// A Content-Type that tells nothing about a manifest.
pub(crate) fn says_nothing(media_type: &str) -> bool {
    matches!(
        media_type,
        "" | "application/json"
            | "application/octet-stream"
            | "text/plain"
            | "binary/octet-stream"
            | "text/json"
    )
}

/// ` titled "…"` for an HTML page with a title: the page itself is never shown.
pub(crate) fn html_title(bytes: &[u8]) -> String {
    const LONGEST_TITLE: usize = 120;
    let text = String::from_utf8_lossy(bytes.get(..bytes.len().min(64 << 10)).unwrap_or_default());
    let lower = text.to_ascii_lowercase();
    let title = lower.find("<title>").and_then(|start| {
        let end = lower.get(start..)?.find("</title>")? + start;
        text.get(start + "<title>".len()..end)
    });
    match title {
        Some(title) => {
            let title: String = title
                .trim()
                .chars()
                .filter(|c| !c.is_control())
                .take(LONGEST_TITLE)
                .collect();
            format!(" titled {title:?}")
        }
        None => String::new(),
    }
}

fn json_error(error: serde_json::Error) -> ManifestError {
    ManifestError::Json(error.to_string())
}

/// Go writes an empty list or map as `null`.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest_json() -> Vec<u8> {
        let config = Descriptor::of(OCI_CONFIG, b"{}");
        let manifest = Manifest {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            config,
            layers: vec![Descriptor::of(OCI_LAYER_GZIP, b"layer")],
            subject: None,
            annotations: BTreeMap::new(),
        };
        serde_json::to_vec(&manifest).unwrap()
    }

    #[test]
    fn types_that_say_nothing_leave_the_choice_to_the_body() {
        for announced in [
            None,
            Some(""),
            Some("application/json; charset=utf-8"),
            Some("text/plain"),
        ] {
            let raw = RawManifest::parse(manifest_json(), announced).unwrap();
            assert_eq!(raw.descriptor.media_type, OCI_MANIFEST, "{announced:?}");
            assert_eq!(raw.image().unwrap().layers.len(), 1);
        }
    }

    #[test]
    fn what_we_write_is_read_by_the_published_types() {
        let published: oci_distribution::manifest::OciImageManifest =
            serde_json::from_slice(&manifest_json()).unwrap();
        assert_eq!(published.layers.len(), 1);
        let spec: oci_spec::image::ImageManifest =
            serde_json::from_slice(&manifest_json()).unwrap();
        assert_eq!(spec.layers()[0].size(), 5);
    }

    #[test]
    fn layers_that_may_not_be_handed_on_have_another_name_where_they_may() {
        for (kept, free) in [
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                OCI_LAYER_ZSTD,
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                DOCKER_LAYER_GZIP,
            ),
        ] {
            assert!(is_nondistributable(kept) && !is_nondistributable(free));
            assert_eq!(distributable(kept), free);
            assert_eq!(distributable(free), free);
        }
    }

    #[test]
    fn an_image_announced_as_an_index_is_refused() {
        let error = RawManifest::parse(manifest_json(), Some(OCI_INDEX)).unwrap_err();
        assert!(
            matches!(error, ManifestError::KindMismatch { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_document_that_is_both_is_refused() {
        let error = RawManifest::parse(r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, None)
            .unwrap_err();
        assert_eq!(error, ManifestError::Ambiguous);
    }

    #[test]
    fn schema_one_and_html_have_their_own_words() {
        let error = RawManifest::parse(
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            Some("application/json"),
        );
        assert_eq!(error, Err(ManifestError::Schema1));
        let error = RawManifest::parse("<html><title> Log in </title></html>", Some("text/html"))
            .unwrap_err();
        assert!(error.to_string().contains("titled \"Log in\""), "{error}");
    }

    #[test]
    fn null_lists_are_empty_lists() {
        let raw = RawManifest::parse(r#"{"schemaVersion":2,"manifests":[]}"#, Some(DOCKER_INDEX))
            .unwrap();
        assert_eq!(raw.index().unwrap().manifests, []);
        let text = String::from_utf8(manifest_json()).unwrap();
        let layers = text.find("\"layers\":").unwrap();
        let nulled = format!("{}\"layers\":null}}", &text[..layers]);
        assert_eq!(
            RawManifest::parse(nulled, None)
                .unwrap()
                .image()
                .unwrap()
                .layers,
            []
        );
    }

    #[test]
    fn embedded_data_counts_only_when_it_is_the_content() {
        let mut descriptor = Descriptor::of(OCI_EMPTY, b"{}");
        descriptor.data = Some("e30=".into());
        assert_eq!(descriptor.embedded().as_deref(), Some(&b"{}"[..]));
        descriptor.data = Some("e31=".into());
        assert_eq!(descriptor.embedded(), None);
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = RawManifest::parse(bytes, None);
        }
    }
}
