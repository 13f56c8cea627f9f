//! Manifests: put children first, the tag last; what a registry has against one, explained; the stand-in for the list of
//! referrers.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Method, Url};

use super::plan::Planned;
use super::{Trouble, Upload};
use crate::config::to_json;
use crate::digest::Digest;
use crate::media::{
    DOCKER_INDEX, DOCKER_LAYER_ZSTD, DOCKER_MANIFEST, Descriptor, Index, OCI_INDEX, OCI_LAYER_ZSTD,
    OCI_MANIFEST, ParsedManifest, RawManifest,
};
use crate::registry::error::{HostError, StatusError};
use crate::registry::quirks::Quirk;
use crate::registry::referrers::fallback_tag;
use crate::registry::transport::Request;

impl Upload<'_> {
    /// Puts all manifests: children by digest; the root by its tag, when there is one.
    pub(super) async fn manifests(&self, plan: &[Planned]) -> Result<(), Trouble> {
        let last = plan.len().saturating_sub(1);
        for (at, planned) in plan.iter().enumerate() {
            let object = match self.reference.tag().filter(|_| at == last) {
                Some(tag) => tag.to_owned(),
                None => planned.manifest.descriptor.digest.to_string(),
            };
            self.manifest(planned, &object).await?;
            self.refer(planned).await?;
        }
        Ok(())
    }

    async fn manifest(&self, planned: &Planned, object: &str) -> Result<(), Trouble> {
        let url = self.url(&format!("manifests/{object}"))?;
        let wrong = |error| Trouble::Host {
            verb: "Put",
            url: url.clone(),
            error: Box::new(error),
        };
        let descriptor = &planned.manifest.descriptor;
        let mut request = Request::get(url.clone(), self.scope());
        request.method = Method::PUT;
        request.body = Some((&descriptor.media_type, planned.manifest.bytes.clone()));
        let mut outcome = self.inner.send(self.endpoint, &request).await;
        if let Err(HostError::Status(status)) = &outcome
            && misses_a_blob(status)
        {
            // The registry knew the blob from another repository and does not let this one use it: send it after all.
            for blob in &planned.blobs {
                self.blob(blob, false).await?;
            }
            outcome = self.inner.send(self.endpoint, &request).await;
        }
        for pause in MISREAD_PAUSES {
            match &outcome {
                Err(HostError::Status(status)) if is_misread(status) => {}
                _ => break,
            }
            tokio::time::sleep(pause).await;
            outcome = self.inner.send(self.endpoint, &request).await;
            if outcome.is_ok() {
                let client = &self.endpoint.client;
                self.inner.quirk(client, Quirk::ManifestMisread);
            }
        }
        let answer = match outcome {
            Ok(answer) => answer,
            Err(HostError::Status(status)) if is_fixed(&status) => {
                // A tag that may not move and already is where it should be, is.
                return match self.tag_is(&url, &descriptor.digest).await {
                    true => Ok(()),
                    false => Err(wrong(HostError::Refused {
                        failure: status,
                        hint: "the tag is immutable or locked, and names another image".into(),
                    })),
                };
            }
            Err(error) => return Err(wrong(explained(error, planned))),
        };
        let stated = answer.response.headers().get("docker-content-digest");
        let stated = stated.and_then(|v| v.to_str().ok());
        if let Some(found) = stated.and_then(|v| v.trim().parse::<Digest>().ok())
            && found != descriptor.digest
        {
            return Err(wrong(HostError::Digest {
                expected: descriptor.digest.clone(),
                found,
            }));
        }
        Ok(())
    }

    async fn tag_is(&self, url: &Url, digest: &Digest) -> bool {
        let mut request = Request::get(url.clone(), self.scope());
        request.method = Method::HEAD;
        request.accept = &[
            DOCKER_MANIFEST,
            DOCKER_INDEX,
            OCI_MANIFEST,
            OCI_INDEX,
            "*/*",
        ];
        let Ok(answer) = self.inner.send(self.endpoint, &request).await else {
            return false;
        };
        let stated = answer.response.headers().get("docker-content-digest");
        stated
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.trim().parse::<Digest>().ok())
            .is_some_and(|found| found == *digest)
    }

    /// Makes a manifest with a subject known as its referrer, where the registry does not do that itself.
    async fn refer(&self, planned: &Planned) -> Result<(), Trouble> {
        let (subject, artifact_type, annotations) = match &planned.manifest.parsed {
            ParsedManifest::Image(image) => (
                &image.subject,
                image
                    .artifact_type
                    .clone()
                    .unwrap_or_else(|| image.config.media_type.clone()),
                &image.annotations,
            ),
            ParsedManifest::Index(index) => (
                &index.subject,
                index.artifact_type.clone().unwrap_or_default(),
                &index.annotations,
            ),
        };
        let Some(subject) = subject else {
            return Ok(());
        };
        let url = self.url(&format!("referrers/{}", subject.digest))?;
        match self
            .inner
            .send(self.endpoint, &Request::get(url.clone(), self.scope()))
            .await
        {
            Ok(_) => return Ok(()),
            Err(HostError::Status(status)) if status.status == 404 => {}
            Err(error) => {
                return Err(Trouble::Host {
                    verb: "Get",
                    url,
                    error: Box::new(error),
                });
            }
        }
        self.inner.quirk(&self.endpoint.client, Quirk::Referrers);
        let url = self.url(&format!("manifests/{}", fallback_tag(&subject.digest)))?;
        let wrong = |error| Trouble::Host {
            verb: "Put",
            url: url.clone(),
            error: Box::new(error),
        };
        let mut index = match self
            .inner
            .read_index(self.endpoint, &url, self.scope())
            .await
        {
            Ok(found) => found,
            Err(error) => return Err(wrong(error)),
        };
        let own = &planned.manifest.descriptor;
        if index
            .manifests
            .iter()
            .any(|entry| entry.digest == own.digest)
        {
            return Ok(());
        }
        let mut entry = Descriptor::new(own.media_type.clone(), own.digest.clone(), own.size);
        entry.artifact_type = Some(artifact_type).filter(|t| !t.is_empty());
        entry.annotations = annotations.clone();
        index.manifests.push(entry);
        let bytes = to_json(&index).map_err(|e| wrong(HostError::Body(e.to_string())))?;
        let mut request = Request::get(url.clone(), self.scope());
        request.method = Method::PUT;
        request.body = Some((OCI_INDEX, bytes.into()));
        self.inner
            .send(self.endpoint, &request)
            .await
            .map(drop)
            .map_err(wrong)
    }
}

/// An index without entries, for the stand-in of a list of referrers.
pub(crate) fn empty_index() -> Index {
    Index {
        schema_version: 2,
        media_type: Some(OCI_INDEX.into()),
        artifact_type: None,
        manifests: Vec::new(),
        subject: None,
        annotations: BTreeMap::new(),
    }
}

/// Before a manifest is put once more that was misread.
const MISREAD_PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// docker-registry reads the links of a repository's blobs while another push writes them, takes an empty one for a
/// digest, and says that of the manifest. Its digest was computed of these bytes and cannot be wrong.
fn is_misread(status: &StatusError) -> bool {
    status.status == 400 && status.code.as_deref() == Some("DIGEST_INVALID")
}

fn misses_a_blob(status: &StatusError) -> bool {
    matches!(
        status.code.as_deref(),
        Some("MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN")
    )
}

/// The answers of registries whose tags do not move: ECR, Harbor, Quay, ACR.
fn is_fixed(status: &StatusError) -> bool {
    let code = status.code.as_deref().unwrap_or_default();
    let said = status
        .message
        .as_deref()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let named =
        said.contains("immutable") || said.contains("locked") || said.contains("already exists");
    matches!(status.status, 409 | 412)
        || (status.status == 400
            && (matches!(code, "TAG_INVALID" | "ImageTagAlreadyExistsException") || named))
        || (status.status == 405 && named)
}

/// Adds what to do about a refused manifest.
fn explained(error: HostError, planned: &Planned) -> HostError {
    let HostError::Status(failure) = error else {
        return error;
    };
    let hint = match refused_for(&failure, &planned.manifest) {
        Some(For::Zstd) => {
            "the registry probably takes no zstd layers: build with compression=gzip,force-compression=true"
        }
        Some(For::Oci) => {
            "the registry probably takes no OCI media types: build with oci-mediatypes=false"
        }
        Some(For::Docker) => {
            "the registry probably takes OCI media types only: build with oci-mediatypes=true"
        }
        None => return super::upload::explained(HostError::Status(failure)),
    };
    HostError::Refused {
        failure,
        hint: hint.into(),
    }
}

/// What of a manifest is probably refused.
#[derive(PartialEq, Eq)]
enum For {
    Oci,
    Docker,
    Zstd,
}

fn refused_for(failure: &StatusError, manifest: &RawManifest) -> Option<For> {
    let code = failure.code.as_deref().unwrap_or_default();
    let by_type = match failure.status {
        415 | 405 => true,
        400 => matches!(code, "" | "MANIFEST_INVALID" | "UNSUPPORTED" | "UNKNOWN"),
        // Old Nexus.
        500 => code.is_empty(),
        _ => false,
    };
    let zstd = |layer: &Descriptor| {
        matches!(
            layer.media_type.as_str(),
            OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD
        )
    };
    match manifest.descriptor.media_type.as_str() {
        _ if !by_type => None,
        OCI_MANIFEST | DOCKER_MANIFEST
            if manifest
                .image()
                .is_some_and(|image| image.layers.iter().any(zstd)) =>
        {
            Some(For::Zstd)
        }
        OCI_MANIFEST | OCI_INDEX => Some(For::Oci),
        // Only this says that it is the type.
        _ if failure.status == 415 => Some(For::Docker),
        _ => None,
    }
}

/// The registry's words, when a push failed because of OCI media types and nothing else can be the matter.
pub(super) fn oci_refused(error: &HostError, plan: &[Planned]) -> Option<String> {
    let HostError::Refused { failure, .. } = error else {
        return None;
    };
    let refused = |planned: &Planned| refused_for(failure, &planned.manifest) == Some(For::Oci);
    plan.iter().any(refused).then(|| failure.to_string())
}
