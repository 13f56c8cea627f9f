//! One request to one host: login when asked, redirects by hand, repeats where they help.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue,
    LOCATION, RANGE, RETRY_AFTER, WARNING, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, Url};
use serde::Deserialize;

use super::Inner;
use super::challenge::{self, Challenge};
use super::encoding::{self, Decoder};
use super::error::{Attempt, AuthError, HostError, Kind, StatusError, TransportError};
use super::hosts::{Endpoint, HostClient, redacted};
use super::quirks::Quirk;
use super::tls::{Probe, classify};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// Logins tried for one request: one with what is known, one with a fresh token.
const MAX_LOGINS: usize = 2;
/// Requests that were answered "too many" and are sent again.
const MAX_PAUSES: u32 = 4;
/// Repeats after a passing failure of server or network.
const MAX_REPEATS: u32 = 2;
/// Largest error body that is read.
const MAX_ERROR_BODY: u64 = 64 << 10;

/// What is sent.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) accept: &'a [&'a str],
    /// First byte wanted, when not the first of all.
    pub(crate) from: u64,
    /// The scope a token must have.
    pub(crate) scope: String,
    /// A second one, of another repository.
    pub(crate) further_scope: Option<String>,
    /// Media type and body.
    pub(crate) body: Option<(&'a str, Bytes)>,
}

impl<'a> Request<'a> {
    pub(crate) fn get(url: Url, scope: String) -> Self {
        Request {
            method: Method::GET,
            url,
            accept: &[],
            from: 0,
            scope,
            further_scope: None,
            body: None,
        }
    }
}

/// A success, and where it came from after redirects.
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) url: Url,
}

impl Endpoint {
    pub(crate) fn attempt(&self, verb: &'static str, url: &Url, error: HostError) -> Attempt {
        Attempt {
            proxy: self.client.proxy(url).map(str::to_owned),
            ..self.attempt_at(verb, redacted(url), error)
        }
    }

    /// The same for what was not sent.
    pub(crate) fn attempt_at(&self, verb: &'static str, url: String, error: HostError) -> Attempt {
        Attempt {
            host: self.client.host.clone(),
            mirror: self.is_mirror(),
            place: self.mirror,
            proxy: None,
            verb,
            url,
            error,
        }
    }
}

/// The verb as Go's errors write it.
pub(crate) fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "HEAD" => "Head",
        "POST" => "Post",
        "PUT" => "Put",
        "PATCH" => "Patch",
        _ => "Get",
    }
}

impl Inner {
    /// Sends until there is a success or a reason to give up on this host.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
    ) -> Result<Answer, HostError> {
        let client = &endpoint.client;
        let mut request = request.clone();
        let mut scopes = BTreeSet::from([request.scope.clone()]);
        // A login alone is for no repository.
        scopes.remove("");
        scopes.extend(request.further_scope.clone());
        let (mut logins, mut pauses, mut repeats) = (0, 0, 0);
        let mut hidden = None;
        loop {
            let authorization = self.authorization(client, &scopes).await?;
            let answer = match self.follow(client, &request, authorization.as_ref()).await {
                Ok(answer) => answer,
                Err(HostError::Transport(error)) => {
                    if may_be_plain(client, &error) && client.fall_back_to_plain() {
                        self.quirk(client, Quirk::Plain);
                        // The URL can only take a scheme of the same sort, which http and https are.
                        let _ = request.url.set_scheme("http");
                        continue;
                    }
                    // A HEAD that nobody answers has been waited for long enough: its GET is the repeat.
                    let waited =
                        request.method == Method::HEAD && error.kind == Kind::ResponseTimeout;
                    if error.kind.is_passing() && !waited && repeats < MAX_REPEATS {
                        self.pause(repeats).await;
                        repeats += 1;
                        continue;
                    }
                    return Err(HostError::Transport(error));
                }
                Err(error) => return Err(error),
            };
            let status = answer.response.status().as_u16();
            self.warnings(client, answer.response.headers());
            if answer.response.status().is_success() {
                if logins == MAX_LOGINS {
                    self.quirk(client, Quirk::TokenTooNew);
                }
                if let Some(hidden) = hidden {
                    self.quirk(client, hidden);
                }
                if let Some(coding) = encoding::name(answer.response.headers()) {
                    self.quirk(client, Quirk::Encoded(coding));
                }
                return Ok(answer);
            }
            let headers = answer.response.headers().clone();
            let elsewhere = answer.url.host_str() != request.url.host_str()
                || answer.url.port() != request.url.port();
            if elsewhere && status == 401 {
                return Err(HostError::Redirect(format!(
                    "redirected to {}, which asks for credentials of its own; use that host's name in the reference, \
                     or configure it",
                    answer.url.host_str().unwrap_or_default()
                )));
            }
            let body = read_limited(answer.response, MAX_ERROR_BODY)
                .await
                .unwrap_or_default();
            let said = registry_error(&body);
            let failure = StatusError {
                status,
                code: said.0,
                message: said.1,
                head_status: None,
                redirected_to: elsewhere.then(|| redacted(&answer.url)),
            };
            let wants_login = status == 401
                || (matches!(status, 400 | 403) && failure.code.as_deref() == Some("UNAUTHORIZED"));
            if wants_login {
                if logins < MAX_LOGINS
                    && self
                        .learn(client, &answer.url, &headers, &mut scopes, &mut logins)
                        .await
                {
                    if let Some(refused) = &authorization {
                        self.forget_token(client, refused).await;
                    }
                    continue;
                }
                return Err(self.denied(client, &scopes, failure).await);
            }
            if matches!(status, 400 | 403 | 404)
                && authorization.is_none()
                && !elsewhere
                && !client.pinged.swap(true, Ordering::Relaxed)
            {
                if self.ping(client).await {
                    hidden = Some(Quirk::LoginAtRootOnly(status));
                    logins += 1;
                    continue;
                }
                if status != 404 && self.log_in_unasked(client, &scopes).await {
                    hidden = Some(Quirk::LoginUnasked(status));
                    logins += 1;
                    continue;
                }
            }
            match status {
                408 | 429 if pauses < MAX_PAUSES => {
                    let asked = headers
                        .get(RETRY_AFTER)
                        .and_then(|v| v.to_str().ok())
                        .and_then(retry_after);
                    match asked {
                        Some(pause) => {
                            tokio::time::sleep(pause.min(self.config.limits.longest_pause)).await
                        }
                        None => self.pause(pauses).await,
                    }
                    pauses += 1;
                }
                // A HEAD is only an optimisation: its GET is the repeat.
                500 | 502 | 503 | 504
                    if repeats < MAX_REPEATS && request.method != Method::HEAD =>
                {
                    self.pause(repeats).await;
                    repeats += 1;
                }
                403 if !elsewhere => return Err(self.denied(client, &scopes, failure).await),
                _ => return Err(HostError::Status(failure)),
            }
        }
    }

    /// One request and its redirects. The login goes to the registry's own host, port and scheme only:
    /// signed storage URLs fail when they see one, and other hosts must not have it.
    async fn follow(
        &self,
        client: &HostClient,
        request: &Request<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, HostError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let at_home = url.origin() == request.url.origin();
            let other = match at_home {
                true => None,
                false => Some(self.hosts.client_for_url(&self.config, &url, client)?),
            };
            let via = other.as_deref().unwrap_or(client);
            let mut headers = HeaderMap::new();
            for accept in request.accept {
                if let Ok(value) = HeaderValue::from_str(accept) {
                    headers.append(ACCEPT, value);
                }
            }
            if request.from > 0
                && let Ok(value) = HeaderValue::from_str(&format!("bytes={}-", request.from))
            {
                headers.insert(RANGE, value);
            }
            // A body that is encoded on the way has another length and digest.
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if let Some(value) = authorization.filter(|_| at_home) {
                headers.insert(AUTHORIZATION, value.clone());
            }
            let mut builder = via.http.request(request.method.clone(), url.clone());
            if let Some((media_type, body)) = &request.body {
                if let Ok(value) = HeaderValue::from_str(media_type) {
                    headers.insert(CONTENT_TYPE, value);
                }
                headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
                builder = builder.body(body.clone());
            }
            let response = match builder.headers(headers).send().await {
                Ok(response) => response,
                Err(error) => {
                    let mut error = named(&error, &url, via).await;
                    error.url = (!at_home).then(|| redacted(&url));
                    return Err(HostError::Transport(error));
                }
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, url });
            }
            if !matches!(request.method, Method::GET | Method::HEAD) {
                return Err(HostError::Redirect(format!(
                    "an upload was redirected ({})",
                    response.status().as_u16()
                )));
            }
            let next = response
                .headers()
                .get(LOCATION)
                .and_then(|v| v.to_str().ok())
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| {
                    HostError::Redirect("redirected without a usable Location".into())
                })?;
            if !matches!(next.scheme(), "http" | "https") {
                return Err(HostError::Redirect(format!(
                    "redirected to {}: not followed",
                    redacted(&next)
                )));
            }
            if url.scheme() == "https"
                && next.scheme() == "http"
                && client.config.insecure != Some(true)
            {
                return Err(HostError::Redirect(format!(
                    "redirected from https to plain http ({}): not followed",
                    redacted(&next)
                )));
            }
            url = next;
        }
        Err(HostError::Redirect(format!(
            "more than {MAX_REDIRECTS} redirects"
        )))
    }

    /// Takes the challenge of a 401. False when there is nothing to try.
    async fn learn(
        &self,
        client: &HostClient,
        url: &Url,
        headers: &HeaderMap,
        scopes: &mut BTreeSet<String>,
        logins: &mut usize,
    ) -> bool {
        *logins += 1;
        let Some(challenge) = best_challenge(headers, url) else {
            client.pinged.store(true, Ordering::Relaxed);
            if self.ping(client).await || self.log_in_unasked(client, scopes).await {
                self.quirk(client, Quirk::LoginAtRootOnly(401));
                return true;
            }
            return false;
        };
        if challenge.get("error") == Some("insufficient_scope") && *logins > 1 {
            return false;
        }
        if *logins > 1 {
            // A token that was just issued and is refused may be too new for the clock of the registry.
            self.pause(1).await;
        }
        // A scope for the same repository is ours to choose; another is added.
        if let Some(scope) = challenge.get("scope") {
            let resource = |scope: &str| scope.rsplit_once(':').map(|(r, _)| r.to_owned());
            for scope in scope.split_ascii_whitespace().take(8) {
                if !scopes.iter().any(|held| resource(held) == resource(scope)) {
                    scopes.insert(scope.to_owned());
                }
            }
        }
        *client.challenge.lock().unwrap_or_else(|e| e.into_inner()) = Some(challenge);
        true
    }

    /// Some registries refuse without asking for a login. True when there is one to send; it goes nowhere but to this
    /// host.
    async fn log_in_unasked(&self, client: &HostClient, scopes: &BTreeSet<String>) -> bool {
        if !self.has_password(client, scopes).await {
            return false;
        }
        *client.challenge.lock().unwrap_or_else(|e| e.into_inner()) = Some(Challenge {
            scheme: "basic".into(),
            parameters: Default::default(),
        });
        true
    }

    /// What the registry wants its users to hear (`Warning: 299 - "text"`).
    fn warnings(&self, client: &HostClient, headers: &HeaderMap) {
        const MOST: usize = 8;
        for value in headers.get_all(WARNING).iter().take(MOST) {
            let text = value.to_str().ok().and_then(|v| v.strip_prefix("299 "));
            let quoted = text.and_then(|text| Some(text.split_once('"')?.1.rsplit_once('"')?.0));
            if let Some(text) = quoted.and_then(cleaned) {
                self.notices.add(format!("{} warns: {text}", client.host));
            }
        }
    }

    /// Asks `/v2/` how to log in, for registries that say so only there. True when they did.
    pub(super) async fn ping(&self, client: &HostClient) -> bool {
        let Ok(url) = Url::parse(&format!("{}/v2/", client.base())) else {
            return false;
        };
        let Ok(response) = client.http.get(url).send().await else {
            return false;
        };
        if response.status().as_u16() != 401 {
            return false;
        }
        let url = response.url().clone();
        let challenge = best_challenge(response.headers(), &url).unwrap_or_else(|| Challenge {
            scheme: "basic".into(),
            parameters: Default::default(),
        });
        *client.challenge.lock().unwrap_or_else(|e| e.into_inner()) = Some(challenge);
        true
    }

    async fn denied(
        &self,
        client: &HostClient,
        scopes: &BTreeSet<String>,
        failure: StatusError,
    ) -> HostError {
        let message = match (failure.code, failure.message) {
            (Some(code), Some(message)) => Some(format!("{code}: {message}")),
            (one, other) => one.or(other),
        };
        HostError::Auth(AuthError {
            action: "pull",
            credentials: self.credentials_shown(client, scopes).await,
            status: Some(failure.status),
            by: client.host.clone(),
            message,
            transport: None,
        })
    }

    /// Twice as long each time, and up to half more by chance, so that many clients do not come back at once.
    pub(super) async fn pause(&self, round: u32) {
        let base = self.config.limits.backoff.saturating_mul(1 << round.min(6));
        let chance = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish()
            % 512;
        let jitter = base.saturating_mul(chance as u32) / 1024;
        tokio::time::sleep((base + jitter).min(self.config.limits.longest_pause)).await;
    }
}

/// Names a request's failure by the host that it really went to.
pub(super) async fn named(error: &reqwest::Error, url: &Url, via: &HostClient) -> TransportError {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(443);
    let tls = (url.scheme() == "https").then_some(&via.tls);
    let proxy = via.proxy(url);
    let probe = Probe {
        host,
        port,
        tls,
        proxy,
    };
    classify(error, probe).await
}

fn may_be_plain(client: &HostClient, error: &TransportError) -> bool {
    match error.kind {
        Kind::PlainHttp | Kind::HandshakeTimeout => true,
        Kind::TcpRefused | Kind::TcpTimeout => !client.has_port(),
        _ => false,
    }
}

/// Bearer before Basic; others are not spoken.
pub(super) fn best_challenge(headers: &HeaderMap, url: &Url) -> Option<Challenge> {
    let mut all: Vec<Challenge> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .take(8)
        .filter_map(|v| std::str::from_utf8(v.as_bytes()).ok())
        .flat_map(challenge::parse)
        .collect();
    // A realm may be relative to what was asked for.
    for challenge in all.iter_mut().filter(|c| c.scheme == "bearer") {
        if let Some(realm) = challenge
            .get("realm")
            .and_then(|realm| url.join(realm).ok())
        {
            challenge.parameters.insert("realm".into(), realm.into());
        }
    }
    let of = |scheme: &str| all.iter().find(|c| c.scheme == scheme).cloned();
    of("bearer").or_else(|| of("basic"))
}

/// Seconds, or a date.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let when =
        time::OffsetDateTime::parse(value, &time::format_description::well_known::Rfc2822).ok()?;
    let left = when - time::OffsetDateTime::now_utc();
    Some(Duration::from_secs(
        left.whole_seconds().max(0).unsigned_abs(),
    ))
}

/// A body that went past its limit, or broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    #[error("{0}")]
    Broken(String),
}

/// Reads a body while counting; what the header announces is not believed.
pub(crate) async fn read_limited(mut response: Response, limit: u64) -> Result<Bytes, ReadError> {
    let mut decoder = Decoder::of(response.headers());
    let mut body = Vec::new();
    loop {
        let left = limit - body.len() as u64;
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => match &mut decoder {
                Some(decoder) => decoder.feed(&chunk, left),
                None => Ok(chunk),
            },
            Ok(None) => match decoder.take() {
                Some(decoder) => decoder.finish(left),
                None => return Ok(body.into()),
            },
            Err(error) => return Err(ReadError::Broken(error.without_url().to_string())),
        };
        let chunk = chunk.map_err(|error| match error {
            Some(problem) => ReadError::Broken(problem),
            None => ReadError::TooLarge(limit),
        })?;
        if chunk.len() as u64 > left {
            return Err(ReadError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
    #[serde(default)]
    error: Option<serde_json::Value>,
    #[serde(default)]
    details: Option<serde_json::Value>,
    #[serde(default)]
    message: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: serde_json::Value,
    #[serde(default)]
    message: serde_json::Value,
}

/// Code and message of an error body, as far as there are any. Unknown codes are fine; HTML is never shown.
pub(crate) fn registry_error(body: &[u8]) -> (Option<String>, Option<String>) {
    if body.trim_ascii_start().starts_with(b"<") {
        return (
            None,
            Some(format!("an HTML page{}", crate::media::html_title(body))),
        );
    }
    let Ok(parsed) = serde_json::from_slice::<ErrorBody>(body) else {
        return (None, std::str::from_utf8(body).ok().and_then(cleaned));
    };
    let text = |v: &serde_json::Value| v.as_str().and_then(cleaned);
    match parsed.errors.first() {
        Some(first) => (text(&first.code), text(&first.message)),
        None => {
            let loose = [parsed.error, parsed.details, parsed.message];
            (None, loose.iter().flatten().find_map(text))
        }
    }
}

/// What a token service said, in one line.
pub(crate) fn service_message(body: &[u8]) -> Option<String> {
    match registry_error(body) {
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (one, other) => one.or(other),
    }
}

fn cleaned(text: &str) -> Option<String> {
    const LONGEST: usize = 300;
    let text: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::ZERO)
        );
        assert!(retry_after("Fri, 06 Nov 2893 08:49:37 GMT").unwrap() > Duration::from_secs(60));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn error_bodies_of_all_sorts_are_read() {
        let both = (Some("DENIED".to_owned()), Some("no".to_owned()));
        assert_eq!(
            registry_error(br#"{"errors":[{"code":"DENIED","message":"no","detail":{}}]}"#),
            both
        );
        assert_eq!(
            registry_error(br#"{"errors":[{"code":7}],"x":1}"#),
            (None, None)
        );
        assert_eq!(
            registry_error(br#"{"details":"wrong password"}"#)
                .1
                .as_deref(),
            Some("wrong password")
        );
        assert_eq!(
            registry_error(b"<html><title>Log in</title>").1.as_deref(),
            Some("an HTML page titled \"Log in\"")
        );
        assert_eq!(registry_error(b"a\x1b[31mb").1.as_deref(), Some("a [31mb"));
    }

    proptest::proptest! {
        #[test]
        fn any_error_body_is_read(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = registry_error(&body);
        }
    }
}
