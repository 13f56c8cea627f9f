//! The doctor: every step on the way to an image, taken one by one on every host that would be asked, each with its own
//! time and verdict.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::LOCATION;
use reqwest::{Method, Url};

use super::documents::{ACCEPT, stated_digest};
use super::error::{Attempt, HostError, RegistryError, TransportError};
use super::hosts::{Candidate, Endpoint, Purpose, split_port};
use super::quirks::Quirk;
use super::tls::{Stage, Target, connect};
use super::transport::{Request, best_challenge};
use super::{Inner, Registries};
use crate::media::{Descriptor, ParsedManifest, RawManifest};
use crate::platform::Platform;
use crate::reference::Reference;

/// What to look at.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Ask whether a push would be allowed: an upload is opened and given up again.
    pub push: bool,
    pub platform: Platform,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// Odd, and there is a way around.
    Odd,
    Failed,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Good => "ok",
            Verdict::Odd => "odd",
            Verdict::Failed => "failed",
        }
    }
}

/// One step.
#[derive(Clone, Debug)]
pub struct CheckStep {
    /// The host that the step is about; empty for the steps before any host.
    pub host: String,
    /// `name`, `hosts`, `config`, `dns`, `tcp`, `proxy`, `tls`, `api`, `login`, `head`, `get`, `blob`, `push`.
    pub name: &'static str,
    pub took: Duration,
    pub verdict: Verdict,
    pub text: String,
    /// The stable name of the failure.
    pub kind: Option<&'static str>,
}

/// All steps, and what came of them.
#[derive(Clone, Debug)]
pub struct Check {
    pub steps: Vec<CheckStep>,
    /// By host, what it does otherwise than it should.
    pub quirks: Vec<(String, Quirk)>,
    /// The host that served the image.
    pub served_by: Option<String>,
    /// Whether a push would be allowed, when that was asked.
    pub may_push: Option<bool>,
    /// The failures, for an error page.
    pub attempts: Vec<Attempt>,
    pub reference: String,
}

impl Check {
    /// All that was asked for would work.
    pub fn is_good(&self) -> bool {
        self.served_by.is_some() && self.may_push != Some(false)
    }

    /// The failures as an error, for its page.
    pub fn error(&self) -> Option<RegistryError> {
        (!self.attempts.is_empty()).then(|| RegistryError::AllHostsFailed {
            reference: self.reference.clone(),
            attempts: self.attempts.clone(),
        })
    }
}

impl Registries {
    /// Takes every step; `tell` hears each when it is done.
    pub async fn check(
        &self,
        reference: &Reference,
        options: &CheckOptions,
        tell: &mut (dyn FnMut(&CheckStep) + Send),
    ) -> Check {
        let mut run = Run {
            inner: &self.0,
            reference,
            options,
            tell,
            check: Check {
                steps: Vec::new(),
                quirks: Vec::new(),
                served_by: None,
                may_push: None,
                attempts: Vec::new(),
                reference: reference.to_string(),
            },
        };
        run.all().await;
        let mut check = run.check;
        for client in self.0.hosts.used() {
            let quirks = client.quirks.all().into_iter();
            check
                .quirks
                .extend(quirks.map(|quirk| (client.host.clone(), quirk)));
        }
        check.quirks.sort();
        check.quirks.dedup();
        check
    }
}

struct Run<'a> {
    inner: &'a Inner,
    reference: &'a Reference,
    options: &'a CheckOptions,
    tell: &'a mut (dyn FnMut(&CheckStep) + Send),
    check: Check,
}

/// What a step found.
type Found = Result<(Verdict, String), (HostError, &'static str, Url)>;

impl Run<'_> {
    fn step(
        &mut self,
        host: &str,
        name: &'static str,
        took: Duration,
        verdict: Verdict,
        text: String,
        kind: Option<&'static str>,
    ) {
        let step = CheckStep {
            host: host.to_owned(),
            name,
            took,
            verdict,
            text,
            kind,
        };
        (self.tell)(&step);
        self.check.steps.push(step);
    }

    /// Records a step of a host. True when it went on.
    fn record(
        &mut self,
        endpoint: &Endpoint,
        name: &'static str,
        start: Instant,
        found: Found,
    ) -> bool {
        let host = endpoint.client.host.clone();
        match found {
            Ok((verdict, text)) => {
                self.step(&host, name, start.elapsed(), verdict, text, None);
                true
            }
            Err((error, verb, url)) => {
                let (text, kind) = (error.to_string(), error.kind());
                self.step(
                    &host,
                    name,
                    start.elapsed(),
                    Verdict::Failed,
                    text,
                    Some(kind),
                );
                self.check
                    .attempts
                    .push(endpoint.attempt(verb, &url, error));
                false
            }
        }
    }

    async fn all(&mut self) {
        let start = Instant::now();
        let name = format!("{} on {}", self.reference, self.reference.api_host());
        self.step("", "name", start.elapsed(), Verdict::Good, name, None);
        if self.inner.config.offline {
            let text = "registries may not be asked (offline)".to_owned();
            self.step(
                "",
                "hosts",
                start.elapsed(),
                Verdict::Failed,
                text,
                Some("offline"),
            );
            return;
        }
        let purpose = match self.reference.digest() {
            Some(_) => Purpose::Fetch,
            None => Purpose::Resolve,
        };
        let start = Instant::now();
        let candidates = self
            .inner
            .hosts
            .endpoints(&self.inner.config, self.reference, purpose);
        let shown: Vec<String> = candidates
            .iter()
            .map(|c| match c.mirror {
                Some((at, of)) => format!("{} (mirror {at}/{of})", c.host),
                None => c.host.clone(),
            })
            .collect();
        let verdict = if candidates.is_empty() {
            Verdict::Failed
        } else {
            Verdict::Good
        };
        let text = match shown.is_empty() {
            true => "no host may be asked".to_owned(),
            false => format!("asked in this order: {}", shown.join(", ")),
        };
        self.step("", "hosts", start.elapsed(), verdict, text, None);
        for candidate in candidates {
            self.host(candidate).await;
        }
        if self.options.push {
            self.push().await;
        }
    }

    async fn host(&mut self, candidate: Candidate) {
        let start = Instant::now();
        let endpoint = match candidate.endpoint {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let text = error.to_string();
                self.step(
                    &candidate.host,
                    "config",
                    start.elapsed(),
                    Verdict::Failed,
                    text,
                    Some(error.kind()),
                );
                return;
            }
        };
        if !self.connect(&endpoint).await {
            return;
        }
        if !self.api(&endpoint).await || !self.login(&endpoint).await {
            return;
        }
        let head = self.head(&endpoint).await;
        if let Some(raw) = self.get(&endpoint, head).await {
            if self.check.served_by.is_none() {
                self.check.served_by = Some(endpoint.client.host.clone());
            }
            self.blob(&endpoint, raw).await;
        }
    }

    async fn connect(&mut self, endpoint: &Endpoint) -> bool {
        let client = &endpoint.client;
        let (name, port) = split_port(&client.host);
        let usual = if client.is_plain() { 80 } else { 443 };
        let port = port.and_then(|port| port.parse().ok()).unwrap_or(usual);
        let tls = (!client.is_plain()).then_some(&client.tls);
        let limit = client
            .config
            .connect
            .unwrap_or(self.inner.config.limits.connect);
        let target = Target::new(name, port, tls, client.proxy_url(), limit);
        let Ok(connected) = tokio::task::spawn_blocking(move || connect(&target)).await else {
            return false;
        };
        for Stage {
            name,
            took,
            outcome,
        } in connected.stages
        {
            match outcome {
                Ok(text) => {
                    let refused = (name == "tls").then(|| client.tls.tolerated()).flatten();
                    let (verdict, text) = match refused {
                        Some(refused) => (
                            Verdict::Odd,
                            format!(
                                "{text}; accepted only because the host is marked insecure: {}",
                                refused.phrase
                            ),
                        ),
                        None => (Verdict::Good, text),
                    };
                    self.step(&client.host, name, took, verdict, text, None);
                }
                Err(error) if name == "tls" && client.fall_back_to_plain() => {
                    let text = format!("{}; plain HTTP is allowed and tried", error.phrase);
                    self.inner.quirk(client, Quirk::Plain);
                    self.step(
                        &client.host,
                        name,
                        took,
                        Verdict::Odd,
                        text,
                        Some(error.kind.as_str()),
                    );
                }
                Err(error) => {
                    self.unreachable(endpoint, name, took, error);
                    return false;
                }
            }
        }
        true
    }

    fn unreachable(
        &mut self,
        endpoint: &Endpoint,
        name: &'static str,
        took: Duration,
        error: TransportError,
    ) {
        let kind = error.kind.as_str();
        self.step(
            &endpoint.client.host,
            name,
            took,
            Verdict::Failed,
            error.phrase.clone(),
            Some(kind),
        );
        if let Ok(url) = endpoint.url(
            self.reference,
            &format!("manifests/{}", self.reference.object()),
        ) {
            let attempt = endpoint.attempt("Head", &url, HostError::Transport(error));
            self.check.attempts.push(attempt);
        }
    }

    /// `/v2/` without a login: is this a registry, and how does it want to be asked?
    async fn api(&mut self, endpoint: &Endpoint) -> bool {
        let start = Instant::now();
        let client = &endpoint.client;
        let root = format!("{}{}/", client.base(), endpoint.root);
        let Ok(url) = Url::parse(&root) else {
            return false;
        };
        let found = match client.http.get(url.clone()).send().await {
            Err(error) => Err((
                HostError::Transport(super::transport::named(&error, &url, client).await),
                "Get",
                url,
            )),
            Ok(response) => {
                let status = response.status().as_u16();
                let challenge = best_challenge(response.headers(), &url);
                let html = response
                    .headers()
                    .get("content-type")
                    .is_some_and(|v| v.as_bytes().starts_with(b"text/html"));
                let text = match (status, &challenge) {
                    (401, Some(c)) => match c.get("realm") {
                        Some(realm) if c.scheme == "bearer" => {
                            let shown = Url::parse(realm)
                                .map_or_else(|_| realm.to_owned(), |u| super::hosts::redacted(&u));
                            format!("{root} wants a token of {shown}")
                        }
                        _ => format!("{root} wants a {} login", c.scheme),
                    },
                    (401, None) => format!("{root} wants a login and does not say how"),
                    (status, _) => format!("{root} answers {status}"),
                };
                let verdict = match (status, &challenge) {
                    _ if html && status != 401 => Verdict::Odd,
                    (200, _) | (401, Some(_)) => Verdict::Good,
                    _ => Verdict::Odd,
                };
                if let (401, Some(challenge)) = (status, challenge) {
                    *client.challenge.lock().unwrap_or_else(|e| e.into_inner()) = Some(challenge);
                }
                Ok((verdict, text))
            }
        };
        self.record(endpoint, "api", start, found)
    }

    /// The login as far as it can be had before a request.
    async fn login(&mut self, endpoint: &Endpoint) -> bool {
        let start = Instant::now();
        let client = &endpoint.client;
        let scope = format!("repository:{}:pull", endpoint.repository(self.reference));
        let scopes = [scope].into();
        let who = self.inner.credentials_shown(client, &scopes).await;
        let who = match who.as_str() {
            "none" => "no login is known for this host".to_owned(),
            who => who.to_owned(),
        };
        let Ok(url) = Url::parse(&client.base()) else {
            return false;
        };
        let found = match self.inner.authorization(client, &scopes).await {
            Ok(Some(_)) => Ok((Verdict::Good, format!("a token or login was had ({who})"))),
            Ok(None) => Ok((Verdict::Good, format!("none is asked for ({who})"))),
            Err(error) => Err((error, "Get", url)),
        };
        self.record(endpoint, "login", start, found)
    }

    async fn head(&mut self, endpoint: &Endpoint) -> Option<u16> {
        let start = Instant::now();
        let tail = format!("manifests/{}", self.reference.object());
        let url = endpoint.url(self.reference, &tail).ok()?;
        let mut request = Request::get(
            url,
            format!("repository:{}:pull", endpoint.repository(self.reference)),
        );
        request.method = Method::HEAD;
        request.accept = ACCEPT;
        let (verdict, text, status) = match self.inner.send(endpoint, &request).await {
            Ok(answer) => match stated_digest(&answer) {
                Some(digest) => (Verdict::Good, digest.to_string(), None),
                None => (Verdict::Odd, "answered without a digest".to_owned(), None),
            },
            Err(error) => {
                let status = match &error {
                    HostError::Status(status) => Some(status.status),
                    HostError::Auth(auth) => auth.status,
                    _ => None,
                };
                (Verdict::Odd, format!("{error}; GET decides"), status)
            }
        };
        self.step(
            &endpoint.client.host,
            "head",
            start.elapsed(),
            verdict,
            text,
            None,
        );
        status
    }

    async fn get(&mut self, endpoint: &Endpoint, head: Option<u16>) -> Option<RawManifest> {
        let start = Instant::now();
        let tail = format!("manifests/{}", self.reference.object());
        let url = endpoint.url(self.reference, &tail).ok()?;
        let outcome = self
            .inner
            .manifest_from(
                endpoint,
                self.reference,
                &url,
                self.reference.digest(),
                None,
            )
            .await;
        match outcome {
            Ok(raw) => {
                if let Some(status) = head {
                    self.inner.quirk(&endpoint.client, Quirk::HeadFails(status));
                }
                let d = &raw.descriptor;
                let text = format!("{} ({}, {} bytes)", d.digest, d.media_type, d.size);
                self.record(endpoint, "get", start, Ok((Verdict::Good, text)));
                Some(raw)
            }
            Err(error) => {
                self.record(endpoint, "get", start, Err((error, "Get", url)));
                None
            }
        }
    }

    /// The last byte of a layer: are blobs there, where do they come from, is `Range` understood?
    async fn blob(&mut self, endpoint: &Endpoint, raw: RawManifest) {
        let start = Instant::now();
        let mut raw = raw;
        if let ParsedManifest::Index(index) = &raw.parsed {
            let Ok(chosen) = self.options.platform.choose(&index.manifests).cloned() else {
                let text = format!("the index offers nothing for {}", self.options.platform);
                return self.step(
                    &endpoint.client.host,
                    "blob",
                    start.elapsed(),
                    Verdict::Odd,
                    text,
                    None,
                );
            };
            let Ok(url) = endpoint.url(self.reference, &format!("manifests/{}", chosen.digest))
            else {
                return;
            };
            let child = self
                .inner
                .manifest_from(
                    endpoint,
                    self.reference,
                    &url,
                    Some(&chosen.digest),
                    Some(&chosen),
                )
                .await;
            raw = match child {
                Ok(raw) => raw,
                Err(error) => {
                    self.record(endpoint, "blob", start, Err((error, "Get", url)));
                    return;
                }
            };
        }
        let Some(blob) = raw
            .image()
            .and_then(|image| image.layers.last().or(Some(&image.config)))
            .cloned()
        else {
            return;
        };
        let Ok(url) = endpoint.url(self.reference, &format!("blobs/{}", blob.digest)) else {
            return;
        };
        let found = self.last_byte(endpoint, &blob, &url).await;
        self.record(
            endpoint,
            "blob",
            start,
            found.map_err(|error| (error, "Get", url)),
        );
    }

    async fn last_byte(
        &self,
        endpoint: &Endpoint,
        blob: &Descriptor,
        url: &Url,
    ) -> Result<(Verdict, String), HostError> {
        let scope = format!("repository:{}:pull", endpoint.repository(self.reference));
        let mut request = Request::get(url.clone(), scope);
        request.from = blob.size.saturating_sub(1);
        let answer = self.inner.send(endpoint, &request).await?;
        let from = match answer.url.origin() == url.origin() {
            true => String::new(),
            false => format!(", served by {}", super::hosts::redacted(&answer.url)),
        };
        Ok(match answer.response.status().as_u16() {
            206 => (
                Verdict::Good,
                format!("{} bytes, parts are served{from}", blob.size),
            ),
            _ => {
                self.inner.quirk(&endpoint.client, Quirk::Ranges);
                (
                    Verdict::Odd,
                    format!("{} bytes, parts are not served{from}", blob.size),
                )
            }
        })
    }

    /// Opens an upload and gives it up.
    async fn push(&mut self) {
        self.check.may_push = Some(false);
        let candidates =
            self.inner
                .hosts
                .endpoints(&self.inner.config, self.reference, Purpose::Push);
        let Some(Ok(endpoint)) = candidates.into_iter().next().map(|c| c.endpoint) else {
            return;
        };
        let start = Instant::now();
        let Ok(url) = endpoint.url(self.reference, "blobs/uploads/") else {
            return;
        };
        let scope = format!(
            "repository:{}:pull,push",
            endpoint.repository(self.reference)
        );
        let mut request = Request::get(url.clone(), scope);
        request.method = Method::POST;
        request.body = Some(("application/octet-stream", Bytes::new()));
        let found = match self.inner.send(&endpoint, &request).await {
            Ok(answer) => {
                let location = answer
                    .response
                    .headers()
                    .get(LOCATION)
                    .and_then(|v| v.to_str().ok());
                // What cannot be given up is thrown away by the registry after a while.
                if let Some(session) = location.and_then(|l| answer.url.join(l).ok())
                    && session.origin() == url.origin()
                {
                    let mut request = Request::get(session, request.scope.clone());
                    request.method = Method::DELETE;
                    let _ = self.inner.send(&endpoint, &request).await;
                }
                self.check.may_push = Some(true);
                Ok((Verdict::Good, "an upload may be opened".to_owned()))
            }
            Err(error) => Err((super::push::as_push(error), "Post", url)),
        };
        self.record(&endpoint, "push", start, found);
    }
}
