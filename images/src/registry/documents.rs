//! Manifests and small blobs from whichever host serves them: the hosts in order, each with its own reason when it fails.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::Inner;
use super::error::{Attempt, HostError, RegistryError};
use super::hosts::{Candidate, Endpoint, Purpose};
use super::quirks::Quirk;
use super::transport::{Answer, ReadError, Request, read_limited};
use crate::digest::Digest;
use crate::media::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MAX_MANIFEST_BYTES, ManifestError, OCI_INDEX,
    OCI_MANIFEST, RawManifest,
};
use crate::reference::Reference;

/// Each type on a line of its own: some registries do not split a list.
pub(super) const ACCEPT: &[&str] = &[
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
        purpose: Purpose,
    ) -> (Vec<Endpoint>, Vec<Attempt>) {
        let mut attempts = Vec::new();
        let mut usable = Vec::new();
        for candidate in self.hosts.endpoints(&self.config, reference, purpose) {
            let Candidate {
                host,
                mirror,
                endpoint,
            } = candidate;
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
                mirror: mirror.is_some(),
                place: mirror,
                proxy: None,
                verb: "Get",
                url: format!("https://{host}/v2/"),
                error,
            });
        }
        // With every host struck off, striking off serves nobody.
        if usable.is_empty() {
            let candidates = self.hosts.endpoints(&self.config, reference, purpose);
            usable = candidates
                .into_iter()
                .filter_map(|candidate| candidate.endpoint.ok())
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

    /// What the user should hear after a success: hosts that were passed over, certificates that were let through.
    pub(super) fn tell(&self, reference: &Reference, endpoint: &Endpoint, attempts: &[Attempt]) {
        for attempt in attempts {
            if matches!(attempt.error, HostError::Skipped(_)) {
                continue;
            }
            let role = if attempt.mirror { "mirror" } else { "registry" };
            self.notices.add(format!(
                "{role} {} of {} was passed over: {}",
                attempt.host,
                reference.domain(),
                attempt.error
            ));
        }
        if let Some(refused) = endpoint.client.tls.tolerated() {
            self.notices.add(format!(
                "{}: the certificate was accepted only because the host is marked insecure: {}",
                endpoint.client.host, refused.phrase
            ));
        }
    }

    pub(super) async fn manifest_from_hosts(
        &self,
        reference: &Reference,
        digest: Option<&Digest>,
        descriptor: Option<&Descriptor>,
        head: Head,
    ) -> Result<(RawManifest, Endpoint, Vec<String>), RegistryError> {
        let object = digest.map_or_else(|| reference.object(), ToString::to_string);
        let purpose = match (descriptor, digest) {
            (None, None) => Purpose::Resolve,
            _ => Purpose::Fetch,
        };
        let (endpoints, mut attempts) = self.usable(reference, purpose);
        for (at, endpoint) in endpoints.into_iter().enumerate() {
            let url = match endpoint.url(reference, &format!("manifests/{object}")) {
                Ok(url) => url,
                Err(error) => {
                    attempts.push(Attempt {
                        host: endpoint.client.host.clone(),
                        mirror: endpoint.is_mirror(),
                        place: endpoint.mirror,
                        proxy: None,
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
                    // Only now it is known that the HEAD was wrong.
                    if let (0, Head::Failed(status)) = (at, head) {
                        let client = &endpoint.client;
                        client.head_unreliable.store(true, Ordering::Relaxed);
                        self.quirk(client, Quirk::HeadFails(status));
                    }
                    self.tell(reference, &endpoint, &attempts);
                    return Ok((raw, endpoint, self.notices.take()));
                }
                Err(mut error) => {
                    self.note_failure(&endpoint, &error);
                    if let (0, Head::Failed(status), HostError::Status(failure)) =
                        (at, head, &mut error)
                    {
                        failure.head_status = Some(status);
                    }
                    // Nothing was sent when the connection failed. Resolving is a Head in the words of BuildKit, and
                    // what people search for is `failed to do request: Head`.
                    let verb = match (&error, head) {
                        (HostError::Transport(_), Head::None) => "Get",
                        (HostError::Transport(_), _) => "Head",
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

    pub(super) async fn manifest_from(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        url: &reqwest::Url,
        digest: Option<&Digest>,
        descriptor: Option<&Descriptor>,
    ) -> Result<RawManifest, HostError> {
        let mut first = None;
        for (at, accept) in std::iter::once(&ACCEPT).chain(ACCEPT_OTHERWISE).enumerate() {
            let scope = format!("repository:{}:pull", endpoint.repository(reference));
            let mut request = Request::get(url.clone(), scope);
            request.accept = accept;
            let error = match self.send(endpoint, &request).await {
                Ok(answer) => {
                    let quirks = header_quirks(&answer);
                    match read_manifest(answer, digest, descriptor).await {
                        Ok(raw) => {
                            let told = raw.notices.iter().cloned().map(Quirk::MediaType);
                            let accept = match at {
                                0 => None,
                                1 => Some(Quirk::AcceptInOneLine),
                                _ => Some(Quirk::AcceptOneType),
                            };
                            for quirk in quirks.into_iter().chain(told).chain(accept) {
                                self.quirk(&endpoint.client, quirk);
                            }
                            return Ok(raw);
                        }
                        Err(error) => error,
                    }
                }
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
    pub(super) async fn head_says(&self, reference: &Reference) -> Result<Digest, Head> {
        let (endpoints, _) = self.usable(reference, Purpose::Resolve);
        let endpoint = endpoints.first().ok_or(Head::Unasked)?;
        if endpoint.client.head_unreliable.load(Ordering::Relaxed) {
            return Err(Head::Unasked);
        }
        let url = endpoint
            .url(reference, &format!("manifests/{}", reference.object()))
            .map_err(|_| Head::Unasked)?;
        let mut request = Request::get(
            url,
            format!("repository:{}:pull", endpoint.repository(reference)),
        );
        request.method = Method::HEAD;
        request.accept = ACCEPT;
        match self.send(endpoint, &request).await {
            Ok(answer) => stated_digest(&answer).ok_or_else(|| {
                self.quirk(&endpoint.client, Quirk::HeadSaysNothing);
                Head::Unasked
            }),
            Err(HostError::Status(status)) => Err(Head::Failed(status.status)),
            Err(HostError::Auth(auth)) => Err(auth.status.map_or(Head::Unasked, Head::Failed)),
            Err(_) => Err(Head::Unasked),
        }
    }

    pub(super) async fn small_blob_from_hosts(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Bytes, RegistryError> {
        let (endpoints, mut attempts) = self.usable(reference, Purpose::Fetch);
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
                Ok(bytes) => {
                    self.tell(reference, &endpoint, &attempts);
                    return Ok(bytes);
                }
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

/// What a HEAD told before the GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The request is no resolution of a name.
    None,
    /// No HEAD was sent, or it said nothing of use.
    Unasked,
    Failed(u16),
}

/// What of the answer's headers is passed over in favour of the body.
fn header_quirks(answer: &Answer) -> Vec<Quirk> {
    let headers = answer.response.headers();
    let mut quirks = Vec::new();
    let said = headers.get(CONTENT_TYPE).map(|v| v.as_bytes());
    let said = String::from_utf8_lossy(said.unwrap_or_default());
    if crate::media::says_nothing(&crate::media::essence(&said)) {
        let shown = said.chars().filter(|c| !c.is_control()).take(100).collect();
        quirks.push(Quirk::ContentType(shown));
    }
    let digest = headers.get("docker-content-digest");
    if digest.is_some_and(|v| v.to_str().map_or(true, |v| is_no_digest(v.trim()))) {
        quirks.push(Quirk::DigestHeader);
    }
    quirks
}

/// Digests of other algorithms are digests.
fn is_no_digest(text: &str) -> bool {
    use crate::digest::DigestError;
    !matches!(text.parse::<Digest>(), Ok(_) | Err(DigestError::Algorithm))
}

/// The digest that the answer announces, if it is one that we know.
pub(super) fn stated_digest(answer: &Answer) -> Option<Digest> {
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
