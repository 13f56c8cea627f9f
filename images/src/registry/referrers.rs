//! What refers to an image: signatures, attestations, lists of parts. Asked of the registry's list, or of the tag that
//! stands in for it.

use reqwest::Url;
use reqwest::header::LINK;

use super::error::{Attempt, HostError, RegistryError};
use super::hosts::{Endpoint, Purpose};
use super::push::empty_index;
use super::quirks::Quirk;
use super::transport::{Request, read_limited};
use super::{Inner, Registries};
use crate::digest::Digest;
use crate::media::{Descriptor, Index, MAX_MANIFEST_BYTES, OCI_INDEX, RawManifest};
use crate::reference::Reference;

/// Pages of one list that are read.
const MAX_PAGES: usize = 100;
/// Entries of one list that are kept.
const MAX_ENTRIES: usize = 10_000;

/// The tag under which registries without a list of referrers keep one.
pub(crate) fn fallback_tag(subject: &Digest) -> String {
    subject.to_string().replace(':', "-")
}

impl Registries {
    /// What refers to the manifest that the reference names by digest, only of `artifact_type` when that is given.
    /// Of an unknown digest nothing does.
    pub async fn referrers(
        &self,
        reference: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        self.0.online(reference)?;
        let (endpoints, mut attempts) = self.0.usable(reference, Purpose::Fetch);
        for endpoint in endpoints {
            match self
                .0
                .referrers_from(&endpoint, reference, subject, artifact_type)
                .await
            {
                Ok(mut found) => {
                    self.0.tell(reference, &endpoint, &attempts);
                    // Registries may leave the choice to the client.
                    found.retain(|entry| {
                        artifact_type.is_none_or(|t| entry.artifact_type.as_deref() == Some(t))
                    });
                    return Ok(found);
                }
                Err(attempt) => {
                    self.0.note_failure(&endpoint, &attempt.error);
                    attempts.push(*attempt);
                }
            }
        }
        Err(RegistryError::AllHostsFailed {
            reference: reference.to_string(),
            attempts,
        })
    }
}

impl Inner {
    async fn referrers_from(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Box<Attempt>> {
        let scope = format!("repository:{}:pull", endpoint.repository(reference));
        let url_of = |tail: &str| endpoint.url(reference, tail);
        let nowhere = |error| Box::new(endpoint.attempt_at("Get", String::new(), error));
        let mut url = url_of(&format!("referrers/{subject}")).map_err(nowhere)?;
        if let Some(artifact_type) = artifact_type {
            url.query_pairs_mut()
                .append_pair("artifactType", artifact_type);
        }
        let mut found: Vec<Descriptor> = Vec::new();
        for page in 0..MAX_PAGES {
            let wrong = |error| Box::new(endpoint.attempt("Get", &url, error));
            let mut request = Request::get(url.clone(), scope.clone());
            request.accept = &[OCI_INDEX];
            let answer = match self.send(endpoint, &request).await {
                Ok(answer) => answer,
                Err(HostError::Status(status)) if status.status == 404 && page == 0 => {
                    self.quirk(&endpoint.client, Quirk::Referrers);
                    let tag =
                        url_of(&format!("manifests/{}", fallback_tag(subject))).map_err(nowhere)?;
                    let index = self.read_index(endpoint, &tag, scope).await;
                    return Ok(index.map_err(wrong)?.manifests);
                }
                Err(error) => return Err(wrong(error)),
            };
            let next = answer
                .response
                .headers()
                .get(LINK)
                .and_then(|v| v.to_str().ok())
                .and_then(next_link)
                .and_then(|link| answer.url.join(link).ok())
                // The login is for this host.
                .filter(|next| next.origin() == url.origin());
            let bytes = read_limited(answer.response, MAX_MANIFEST_BYTES)
                .await
                .map_err(|e| wrong(HostError::Body(e.to_string())))?;
            let raw = RawManifest::parse(bytes, Some(OCI_INDEX))
                .map_err(|e| wrong(HostError::Manifest(e)))?;
            found.extend(
                raw.index()
                    .into_iter()
                    .flat_map(|index| index.manifests.iter().cloned()),
            );
            match next {
                Some(next) if found.len() < MAX_ENTRIES => url = next,
                _ => break,
            }
        }
        found.truncate(MAX_ENTRIES);
        Ok(found)
    }

    /// The index at a URL; an empty one when there is none.
    pub(super) async fn read_index(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        scope: String,
    ) -> Result<Index, HostError> {
        let mut request = Request::get(url.clone(), scope);
        request.accept = &[OCI_INDEX];
        let answer = match self.send(endpoint, &request).await {
            Ok(answer) => answer,
            Err(HostError::Status(status)) if status.status == 404 => return Ok(empty_index()),
            Err(error) => return Err(error),
        };
        let bytes = read_limited(answer.response, MAX_MANIFEST_BYTES)
            .await
            .map_err(|e| HostError::Body(e.to_string()))?;
        let raw = RawManifest::parse(bytes, Some(OCI_INDEX)).map_err(HostError::Manifest)?;
        Ok(raw.index().cloned().unwrap_or_else(empty_index))
    }
}

/// The URL of `<URL>; rel="next"`.
pub(super) fn next_link(value: &str) -> Option<&str> {
    value.split(',').find_map(|link| {
        let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters
            .split(';')
            .any(|p| matches!(p.trim(), "rel=next" | "rel=\"next\""));
        next.then_some(url)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_115_the_next_page_is_named_by_its_link() {
        let value = "</v2/r/referrers/x?n=1>; rel=\"first\", </v2/r/referrers/x?n=2>; rel=next";
        assert_eq!(next_link(value), Some("/v2/r/referrers/x?n=2"));
        assert_eq!(next_link("</a>; rel=\"prev\""), None);
        let digest = Digest::of(b"");
        assert_eq!(fallback_tag(&digest), format!("sha256-{}", digest.hex()));
    }
}
