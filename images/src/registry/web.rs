//! Downloads of any URL over the connections of the registry client: its trusted certificates, its settings for the
//! host, its proxy and time limits. Redirects are followed by hand, because a login is for its own host only.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use reqwest::{Method, Response, Url};

use super::Registries;
use super::error::HostError;
use super::hosts::redacted;
use super::transport::named;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// Tries of a request that got no answer for a passing reason.
const MAX_TRIES: u32 = 3;
/// How long a call with a body may take: the megabytes of one piece over a line of 15 KB/s.
const CALL_TIMEOUT: Duration = Duration::from_secs(600);

/// A request without a body.
#[derive(Clone, Debug, Default)]
pub struct WebRequest {
    /// Only what a GET would answer, without its body.
    pub head: bool,
    pub url: String,
    /// Sent to every host on the way. `User-Agent` replaces that of the configuration.
    pub headers: Vec<(String, String)>,
    /// The login: sent to the URL's own scheme, host and port only, never shown.
    pub authorization: Option<WebLogin>,
}

/// A request with a body, sent once and to one host: no redirect is followed, because its signature is for that URL.
#[derive(Clone)]
pub struct WebCall {
    pub method: &'static str,
    /// Its query may hold a signature; no error shows it.
    pub url: String,
    /// Never shown: logins are among them.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl std::fmt::Debug for WebCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = Url::parse(&self.url).map(|url| redacted(&url));
        f.debug_struct("WebCall")
            .field("method", &self.method)
            .field("url", &url.unwrap_or_default())
            .field("body", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// The value of an `Authorization` header. Never printed.
#[derive(Clone)]
pub struct WebLogin(HeaderValue);

impl WebLogin {
    /// `None` when the bytes cannot stand in a header.
    pub fn new(value: &[u8]) -> Option<Self> {
        let mut value = HeaderValue::from_bytes(value).ok()?;
        value.set_sensitive(true);
        Some(WebLogin(value))
    }
}

impl std::fmt::Debug for WebLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebLogin(..)")
    }
}

/// An answer of any status.
#[derive(Debug)]
pub struct WebResponse(Response);

impl WebResponse {
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    /// The first header of this name; `None` also when it is no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers().get(name)?.to_str().ok()
    }

    /// The body's length, when the server says it.
    pub fn length(&self) -> Option<u64> {
        self.0.content_length()
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HostError> {
        self.0
            .chunk()
            .await
            .map_err(|error| HostError::Body(error.without_url().to_string()))
    }
}

/// A URL that may be shown: without user and password.
pub fn shown_url(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else {
        return url.to_owned();
    };
    if parsed.username().is_empty() && parsed.password().is_none() {
        // As it was written.
        return url.to_owned();
    }
    // These fail only for URLs without a host, which have nothing to hide.
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    parsed.to_string()
}

fn query_free(url: &str) -> String {
    Url::parse(url).map_or_else(|_| "the URL".to_owned(), |url| redacted(&url))
}

impl Registries {
    /// Sends the request and follows redirects; any status is an answer.
    ///
    /// # Errors
    /// When there is no answer, or none may be asked for (offline).
    pub async fn web(&self, request: &WebRequest) -> Result<WebResponse, HostError> {
        let config = &self.0.config;
        let bad = |text: String| HostError::Config(format!("{}: {text}", shown_url(&request.url)));
        let first = Url::parse(&request.url).map_err(|error| bad(error.to_string()))?;
        if !matches!(first.scheme(), "http" | "https") {
            return Err(bad(format!("{} is no scheme of the web", first.scheme())));
        }
        if config.offline {
            return Err(HostError::Config(format!(
                "{}: not asked for, because the build is offline",
                redacted(&first)
            )));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|e| bad(e.to_string()))?;
            let value = HeaderValue::try_from(value.as_str()).map_err(|e| bad(e.to_string()))?;
            headers.insert(name, value);
        }
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_str(&config.user_agent).map_err(|e| bad(e.to_string()))?);
        let method = if request.head {
            Method::HEAD
        } else {
            Method::GET
        };
        let mut url = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = headers.clone();
            if let Some(WebLogin(value)) = &request.authorization
                && url.origin() == first.origin()
            {
                headers.insert(AUTHORIZATION, value.clone());
            }
            let response = self.web_once(&method, &url, &headers).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(WebResponse(response));
            }
            let next = response
                .headers()
                .get(LOCATION)
                .and_then(|v| v.to_str().ok())
                .and_then(|location| url.join(location).ok())
                .filter(|next| matches!(next.scheme(), "http" | "https"))
                .ok_or_else(|| {
                    HostError::Redirect("redirected without a usable Location".into())
                })?;
            url = next;
        }
        Err(HostError::Redirect(format!(
            "more than {MAX_REDIRECTS} redirects"
        )))
    }

    /// Sends a call once; any status is an answer.
    ///
    /// # Errors
    /// When there is no answer, or none may be asked for (offline).
    pub async fn call(&self, call: &WebCall) -> Result<WebResponse, HostError> {
        let config = &self.0.config;
        let bad = |text: String| HostError::Config(format!("{}: {text}", query_free(&call.url)));
        let url = Url::parse(&call.url).map_err(|error| bad(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad(format!("{} is no scheme of the web", url.scheme())));
        }
        if config.offline {
            return Err(bad("not asked for, because the build is offline".into()));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &call.headers {
            // The value may be a secret, and so is not told.
            let wrong = || bad(format!("{name}: not a header line"));
            let known = HeaderName::try_from(name.as_str()).map_err(|_| wrong())?;
            let mut value = HeaderValue::try_from(value.as_str()).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(known, value);
        }
        let method = Method::from_bytes(call.method.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let via = self.0.hosts.web_client(config, &url)?;
        // A body that goes out slowly is no silence of the other side.
        let client = match call.body.is_empty() {
            true => &via.http,
            false => &via.upload,
        };
        let mut request = client.request(method, url.clone()).headers(headers);
        if !call.body.is_empty() {
            request = request.body(call.body.clone()).timeout(CALL_TIMEOUT);
        } else if matches!(call.method, "PUT" | "POST") {
            // Said even when it is nothing: services ask for it.
            request = request.header(reqwest::header::CONTENT_LENGTH, 0);
        }
        match request.send().await {
            Ok(response) => Ok(WebResponse(response)),
            Err(error) => Err(HostError::Transport(named(&error, &url, &via).await)),
        }
    }

    /// The pause before the repeat of this number, from 0 on.
    pub async fn pause_before_repeat(&self, round: u32) {
        self.0.pause(round).await;
    }

    async fn web_once(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, HostError> {
        let via = self.0.hosts.web_client(&self.0.config, url)?;
        let mut tries = 1;
        loop {
            let sent = via.http.request(method.clone(), url.clone());
            let error = match sent.headers(headers.clone()).send().await {
                Ok(response) => return Ok(response),
                Err(error) => named(&error, url, &via).await,
            };
            if !error.kind.is_passing() || tries >= MAX_TRIES {
                return Err(HostError::Transport(error));
            }
            tokio::time::sleep(backoff(self.0.config.limits.backoff, tries)).await;
            tries += 1;
        }
    }
}

fn backoff(first: Duration, tries: u32) -> Duration {
    first.saturating_mul(1 << tries.min(4).saturating_sub(1))
}
