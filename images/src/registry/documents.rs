//! Manifests and small blobs from whichever host serves them: the hosts in order, each with its own reason when it fails.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::Inner;
use super::error::{Attempt, HostError, RegistryError};
use super::hosts::Endpoint;
use super::transport::{Answer, ReadError, Request, read_limited};
use crate::digest::Digest;
use crate::media::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MAX_MANIFEST_BYTES, ManifestError, OCI_INDEX,
    OCI_MANIFEST, RawManifest,
};
use crate::reference::Reference;

/// Each type on a line of its own: some registries do not split a list.
const ACCEPT: &[&str] = &[
    DOCKER_MANIFEST,
    DOCKER_INDEX,
    OCI_MANIFEST,
    OCI_INDEX,
    "*/*",
];
/// Tried in order when the answer shows that the types above were not understood.
const ACCEPT_OTHERWISE: &[&[&str]] = &[
    &[
        "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/json, */*",
    ],
    &[DOCKER_MANIFEST],
];
impl Inner {
    pub(super) fn online(&self, reference: &Reference) -> Result<(), RegistryError> {
        match self.config.offline {
            true => Err(RegistryError::Offline {
                reference: reference.to_string(),
            }),
            false => Ok(()),
        }
    }

    /// The hosts to ask. What can't be asked is already an attempt.
    pub(super) fn usable(
        &self,
        reference: &Reference,
        push: bool,
    ) -> (Vec<Endpoint>, Vec<Attempt>) {
        let mut attempts = Vec::new();
        let mut usable = Vec::new();
        for (host, mirror, endpoint) in self.hosts.endpoints(&self.config, reference, push) {
            let error = match endpoint {
                Ok(endpoint) => match endpoint.client.recent_failure(&self.config) {
                    None => {
                        usable.push(endpoint);
                        continue;
                    }
                    Some(failure) => HostError::Skipped(Box::new(failure)),
                },
                Err(error) => error,
            };
            attempts.push(Attempt {
                host: host.clone(),
                mirror,
                verb: "Get",
                url: format!("https://{host}/v2/"),
                error,
            });
        }
        // With every host struck off, striking off serves nobody.
        if usable.is_empty() {
            let endpoints = self.hosts.endpoints(&self.config, reference, push);
            usable = endpoints
                .into_iter()
                .filter_map(|(_, _, endpoint)| endpoint.ok())
                .collect();
            attempts.retain(|a| !matches!(a.error, HostError::Skipped(_)));
        }
        (usable, attempts)
    }

    /// A host that can't be reached is left alone for a while.
    pub(super) fn note_failure(&self, endpoint: &Endpoint, error: &HostError) {
        if matches!(error, HostError::Transport(_)) {
            endpoint.client.remember_failure(error);
        }
    }

    /// What the user should hear after a success.
    pub(super) fn notices(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        attempts: &[Attempt],
    ) -> Vec<String> {
        let skipped = attempts
            .iter()
            .filter(|a| !matches!(a.error, HostError::Skipped(_)))
            .map(|a| {
                let role = if a.mirror { "mirror" } else { "registry" };
                format!(
                    "{role} {} of {} was passed over: {}",
                    a.host,
                    reference.domain(),
                    a.error
                )
            });
        let insecure = endpoint.client.tls.tolerated().map(|refused| {
            format!(
                "{}: the certificate was accepted only because the host is marked insecure: {}",
                endpoint.client.host, refused.phrase
            )
        });
        skipped.chain(insecure).collect()
    }

    pub(super) async fn manifest_from_hosts(
        &self,
        reference: &Reference,
        digest: Option<&Digest>,
        descriptor: Option<&Descriptor>,
        resolving: bool,
    ) -> Result<(RawManifest, Endpoint, Vec<String>), RegistryError> {
        let object = digest.map_or_else(|| reference.object(), ToString::to_string);
        let (endpoints, mut attempts) = self.usable(reference, false);
        for endpoint in endpoints {
            let url = match endpoint.url(reference, &format!("manifests/{object}")) {
                Ok(url) => url,
                Err(error) => {
                    attempts.push(Attempt {
                        host: endpoint.client.host.clone(),
                        mirror: endpoint.is_mirror(),
                        verb: "Get",
                        url: String::new(),
                        error,
                    });
                    continue;
                }
            };
            match self
                .manifest_from(&endpoint, reference, &url, digest, descriptor)
                .await
            {
                Ok(raw) => {
                    let mut notices = self.notices(reference, &endpoint, &attempts);
                    notices.extend(raw.notices.iter().cloned());
                    return Ok((raw, endpoint, notices));
                }
                Err(error) => {
                    self.note_failure(&endpoint, &error);
                    // Nothing was sent when the connection failed. Resolving is a Head in the words of BuildKit, and
                    // what people search for is `failed to do request: Head`.
                    let verb = match (&error, resolving) {
                        (HostError::Transport(_), true) => "Head",
                        _ => "Get",
                    };
                    attempts.push(endpoint.attempt(verb, &url, error));
                }
            }
        }
        Err(RegistryError::AllHostsFailed {
            reference: reference.to_string(),
            attempts,
        })
    }

    async fn manifest_from(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        url: &reqwest::Url,
        digest: Option<&Digest>,
        descriptor: Option<&Descriptor>,
    ) -> Result<RawManifest, HostError> {
        let mut first = None;
        for accept in std::iter::once(&ACCEPT).chain(ACCEPT_OTHERWISE) {
            let scope = format!("repository:{}:pull", endpoint.repository(reference));
            let mut request = Request::get(url.clone(), scope);
            request.accept = accept;
            let error = match self.send(endpoint, &request).await {
                Ok(answer) => match read_manifest(answer, digest, descriptor).await {
                    Ok(raw) => return Ok(raw),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let misunderstood = match &error {
                HostError::Manifest(ManifestError::Schema1) => true,
                HostError::Status(status) => {
                    let says_accept = status
                        .message
                        .as_ref()
                        .is_some_and(|m| m.to_ascii_lowercase().contains("accept header"));
                    status.status == 406 || (status.status == 404 && says_accept)
                }
                _ => false,
            };
            let shown = first.get_or_insert(error).clone();
            if !misunderstood {
                return Err(shown);
            }
        }
        Err(first.unwrap_or_else(|| HostError::Body("no answer".into())))
    }

    /// The digest of a tag from a HEAD; anything odd is no answer.
    pub(super) async fn head_says(&self, reference: &Reference) -> Option<Digest> {
        let (endpoints, _) = self.usable(reference, false);
        let endpoint = endpoints.first()?;
        if endpoint.client.head_unreliable.load(Ordering::Relaxed) {
            return None;
        }
        let url = endpoint
            .url(reference, &format!("manifests/{}", reference.object()))
            .ok()?;
        let mut request = Request::get(
            url,
            format!("repository:{}:pull", endpoint.repository(reference)),
        );
        request.method = Method::HEAD;
        request.accept = ACCEPT;
        match self.send(endpoint, &request).await {
            Ok(answer) => stated_digest(&answer),
            Err(HostError::Status(_) | HostError::Auth(_)) => {
                endpoint
                    .client
                    .head_unreliable
                    .store(true, Ordering::Relaxed);
                None
            }
            Err(_) => None,
        }
    }

    pub(super) async fn small_blob_from_hosts(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Bytes, RegistryError> {
        let (endpoints, mut attempts) = self.usable(reference, false);
        for endpoint in endpoints {
            let Ok(url) = endpoint.url(reference, &format!("blobs/{}", descriptor.digest)) else {
                continue;
            };
            let request = Request::get(
                url.clone(),
                format!("repository:{}:pull", endpoint.repository(reference)),
            );
            let outcome = match self.send(&endpoint, &request).await {
                Ok(answer) => read_exact(answer, descriptor).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(bytes) => return Ok(bytes),
                Err(error) => {
                    self.note_failure(&endpoint, &error);
                    attempts.push(endpoint.attempt("Get", &url, error));
                }
            }
        }
        Err(RegistryError::AllHostsFailed {
            reference: reference.to_string(),
            attempts,
        })
    }
}

/// The digest that the answer announces, if it is one that we know.
fn stated_digest(answer: &Answer) -> Option<Digest> {
    answer
        .response
        .headers()
        .get("docker-content-digest")?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

async fn read_manifest(
    answer: Answer,
    digest: Option<&Digest>,
    descriptor: Option<&Descriptor>,
) -> Result<RawManifest, HostError> {
    let stated = stated_digest(&answer);
    let announced = answer
        .response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    let bytes = read_limited(answer.response, MAX_MANIFEST_BYTES)
        .await
        .map_err(read_error)?;
    let found = Digest::of(&bytes);
    // HTML under a digest is better called HTML than a mismatch.
    if bytes.trim_ascii_start().starts_with(b"<") {
        RawManifest::parse(bytes.clone(), announced.as_deref()).map_err(HostError::Manifest)?;
    }
    if let Some(expected) = digest.or(stated.as_ref())
        && *expected != found
    {
        return Err(HostError::Digest {
            expected: expected.clone(),
            found,
        });
    }
    if let Some(expected) = descriptor
        .map(|d| d.size)
        .filter(|size| *size != bytes.len() as u64)
    {
        return Err(HostError::Size {
            expected,
            found: bytes.len() as u64,
        });
    }
    RawManifest::parse(bytes, announced.as_deref()).map_err(HostError::Manifest)
}

async fn read_exact(answer: Answer, descriptor: &Descriptor) -> Result<Bytes, HostError> {
    let bytes = match read_limited(answer.response, descriptor.size).await {
        Ok(bytes) => bytes,
        Err(ReadError::TooLarge(limit)) => {
            return Err(HostError::Size {
                expected: limit,
                found: limit + 1,
            });
        }
        Err(error) => return Err(read_error(error)),
    };
    if bytes.len() as u64 != descriptor.size {
        return Err(HostError::Size {
            expected: descriptor.size,
            found: bytes.len() as u64,
        });
    }
    let found = Digest::of(&bytes);
    if found != descriptor.digest {
        return Err(HostError::Digest {
            expected: descriptor.digest.clone(),
            found,
        });
    }
    Ok(bytes)
}

fn read_error(error: ReadError) -> HostError {
    match error {
        ReadError::TooLarge(limit) => HostError::TooLarge { limit },
        ReadError::Broken(why) => HostError::Body(why),
    }
}
