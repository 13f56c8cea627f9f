//! The manifest that hangs statements on an image of an index, in the form of BuildKit's exporter
//! (`control-session.md` 6.2).

use std::collections::BTreeMap;

use super::{ArchiveError, Family, Image};
use crate::config::{ConfigError, to_json, to_json_indented};
use crate::media::{Descriptor, Manifest, OCI_EMPTY, OCI_MANIFEST, RawManifest};
use crate::platform::Platform;

/// Media type of a statement's blob.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Which predicate a statement's blob holds, on its descriptor.
pub const ANNOTATION_PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// What an entry of an index is there for, and for which other entry.
pub const ANNOTATION_REFERENCE_TYPE: &str = "vnd.docker.reference.type";
pub const ANNOTATION_REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

const REFERENCE_TYPE: &str = "attestation-manifest";
const ARTIFACT_TYPE: &str = "application/vnd.docker.attestation.manifest.v1+json";

/// A statement's descriptor; its bytes are the caller's to store.
pub fn statement_descriptor(bytes: &[u8], predicate_type: &str) -> Descriptor {
    let mut descriptor = Descriptor::of(IN_TOTO, bytes);
    descriptor.annotations.insert(
        ANNOTATION_PREDICATE_TYPE.to_owned(),
        predicate_type.to_owned(),
    );
    descriptor
}

/// The manifest over statements about the manifest `of`, and its entry in the index. `artifact`:
/// as an OCI artifact with a subject; else it looks like an image, for old registries.
///
/// # Errors
/// Never for descriptors of this process's own making.
pub fn attestation_manifest(
    statements: Vec<Descriptor>,
    of: &Descriptor,
    artifact: bool,
) -> Result<(Image, Descriptor), ArchiveError> {
    let unknown = Platform::new("unknown", "unknown", "");
    let (image, bytes) = match artifact {
        true => {
            let mut config = Descriptor::of(OCI_EMPTY, b"{}");
            config.data = Some("e30=".to_owned());
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(OCI_MANIFEST.to_owned()),
                artifact_type: Some(ARTIFACT_TYPE.to_owned()),
                config,
                layers: statements,
                subject: Some(Descriptor::new(
                    of.media_type.clone(),
                    of.digest.clone(),
                    of.size,
                )),
                annotations: BTreeMap::new(),
            };
            let bytes = to_json_indented(&manifest).map_err(ConfigError::Json)?;
            (bytes, b"{}".to_vec())
        }
        false => {
            let diff_ids: Vec<String> = statements.iter().map(|s| s.digest.to_string()).collect();
            let config = serde_json::json!({
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            });
            let config = to_json(&config).map_err(ConfigError::Json)?;
            let made = Image::assemble(config.clone(), &statements, Family::Oci, BTreeMap::new())?;
            (made.manifest.bytes.to_vec(), config)
        }
    };
    let image = Image {
        manifest: RawManifest::parse(image, Some(OCI_MANIFEST))?,
        config: bytes.into(),
    };
    let mut entry = image.descriptor().clone();
    entry.artifact_type = None;
    entry.platform = Some(unknown);
    entry.annotations = BTreeMap::from([
        (
            ANNOTATION_REFERENCE_DIGEST.to_owned(),
            of.digest.to_string(),
        ),
        (
            ANNOTATION_REFERENCE_TYPE.to_owned(),
            REFERENCE_TYPE.to_owned(),
        ),
    ]);
    Ok((image, entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::OCI_CONFIG;

    #[test]
    fn statements_hang_on_a_manifest_in_both_styles() {
        let of = Descriptor::of(OCI_MANIFEST, b"manifest");
        let statement = statement_descriptor(b"{}", "https://spdx.dev/Document");
        let (image, entry) = attestation_manifest(vec![statement.clone()], &of, true).unwrap();
        let manifest = image.manifest.image().unwrap();
        assert_eq!(manifest.artifact_type.as_deref(), Some(ARTIFACT_TYPE));
        assert_eq!(manifest.config.embedded().as_deref(), Some(&b"{}"[..]));
        assert_eq!(manifest.subject.as_ref().unwrap().digest, of.digest);
        assert_eq!(manifest.layers, std::slice::from_ref(&statement));
        assert_eq!(entry.platform.unwrap().to_string(), "unknown/unknown");
        assert_eq!(
            entry.annotations[ANNOTATION_REFERENCE_DIGEST],
            of.digest.to_string()
        );

        let (image, _) = attestation_manifest(vec![statement.clone()], &of, false).unwrap();
        let manifest = image.manifest.image().unwrap();
        assert_eq!(manifest.subject, None);
        assert_eq!(manifest.config.media_type, OCI_CONFIG);
        let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            statement.digest.to_string()
        );
        assert_eq!(manifest.layers, [statement]);
    }
}
