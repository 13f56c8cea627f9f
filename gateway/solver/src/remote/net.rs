//! Calls to services: repeated where that helps, with errors that say what to do and show no signature.

use std::time::Duration;

use bytes::Bytes;
use gateway_images::registry::{HostError, Registries, SourceReader, WebCall, WebResponse};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::AsyncReadExt as _;
use url::Url;

use super::xml;

/// Times that a call is made before it is given up, where nothing else is said.
pub const TRIES: u32 = 5;
/// Longest `Retry-After` that is waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Error bodies are a few lines.
const MAX_ERROR_BYTES: u64 = 64 << 10;
/// Longest text of an error that is shown.
const MAX_SHOWN: usize = 300;

/// Why a service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("{method} {url}: {why}")]
    Unreached {
        method: &'static str,
        url: String,
        why: Box<HostError>,
    },
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// An answer that cannot be used.
    #[error("{0}")]
    Answer(String),
    /// This machine's files.
    #[error("{0}")]
    Local(String),
}

/// An answer that is no success.
#[derive(Debug)]
pub struct Refusal {
    pub method: &'static str,
    /// Without its query.
    pub url: String,
    pub status: u16,
    /// The service's name of the error; empty when it says none.
    pub code: String,
    pub message: String,
    /// Where the bucket is, when a service of S3 says that it is elsewhere.
    pub region: Option<String>,
    /// What to do, where it is known.
    pub hint: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: status {}", self.method, self.url, self.status)?;
        for text in [&self.code, &self.message] {
            if !text.is_empty() {
                write!(f, ": {text}")?;
            }
        }
        match self.hint.is_empty() {
            true => Ok(()),
            false => write!(f, "; {}", self.hint),
        }
    }
}

impl RemoteError {
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            RemoteError::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    pub fn has_status(&self, status: u16) -> bool {
        self.refusal().is_some_and(|r| r.status == status)
    }

    pub fn has_code(&self, code: &str) -> bool {
        self.refusal().is_some_and(|r| r.code == code)
    }
}

/// How services are reached.
#[derive(Debug)]
pub struct Net {
    pub registries: Registries,
    pub tries: u32,
}

impl Net {
    /// Makes a call until it succeeds or no repeat helps. `make` is asked each time: a signature has a time.
    pub async fn send(
        &self,
        make: impl Fn() -> Result<WebCall, RemoteError>,
    ) -> Result<WebResponse, RemoteError> {
        let mut round = 0;
        loop {
            let call = make()?;
            let url = shown(&call.url);
            let method = call.method;
            let last = round + 1 >= self.tries;
            let response = match self.registries.call(&call).await {
                Ok(response) => response,
                Err(why) => {
                    let passing = matches!(&why, HostError::Transport(e) if e.kind.is_passing());
                    if passing && !last {
                        self.registries.pause_before_repeat(round).await;
                        round += 1;
                        continue;
                    }
                    return Err(RemoteError::Unreached {
                        method,
                        url,
                        why: Box::new(why),
                    });
                }
            };
            let status = response.status();
            if (200..300).contains(&status) {
                return Ok(response);
            }
            if matches!(status, 408 | 429 | 500 | 502 | 503 | 504) && !last {
                match response.header("retry-after").and_then(pause) {
                    Some(pause) => tokio::time::sleep(pause.min(LONGEST_PAUSE)).await,
                    None => self.registries.pause_before_repeat(round).await,
                }
                round += 1;
                continue;
            }
            return Err(refusal(method, url, response).await);
        }
    }
}

/// Seconds, or a date.
fn pause(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let when = http_date(text)?;
    (when - OffsetDateTime::now_utc()).try_into().ok()
}

/// A date as HTTP writes it.
pub fn http_date(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text.trim(), &Rfc2822).ok()
}

/// A URL without what may be secret.
pub fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else {
        return String::new();
    };
    url.set_query(None);
    // These fail only for URLs without a host, which have nothing to hide.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonError {
    code: serde_json::Value,
    msg: Option<String>,
    message: Option<String>,
    #[serde(rename = "typeKey")]
    type_key: Option<String>,
}

async fn refusal(method: &'static str, url: String, response: WebResponse) -> RemoteError {
    let header = |name| response.header(name).map(str::to_owned);
    let coded = header("x-ms-error-code");
    let bucket_region = header("x-amz-bucket-region");
    let status = response.status();
    let body = body(response, MAX_ERROR_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let json: JsonError = serde_json::from_slice(&body).unwrap_or_default();
    let code = coded
        .or_else(|| xml::element(&text, "Code"))
        .or(json.type_key)
        .or_else(|| json.code.as_str().map(str::to_owned));
    let message = xml::element(&text, "Message").or(json.msg).or(json.message);
    RemoteError::Refused(Box::new(Refusal {
        method,
        url,
        status,
        code: cleaned(code),
        message: cleaned(message),
        region: bucket_region
            .or_else(|| xml::element(&text, "Region"))
            .map(|region| cleaned(Some(region))),
        hint: String::new(),
    }))
}

/// What a service says, fit to be shown: one line, not too long.
fn cleaned(text: Option<String>) -> String {
    let text = text.unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.chars()
        .filter(|c| !c.is_control())
        .take(MAX_SHOWN)
        .collect()
}

/// A whole body of at most `limit` bytes.
pub async fn body(mut response: WebResponse, limit: u64) -> Result<Bytes, RemoteError> {
    let mut all = Vec::new();
    loop {
        let chunk = response.chunk().await;
        match chunk.map_err(|error| RemoteError::Answer(error.to_string()))? {
            Some(chunk) if (all.len() + chunk.len()) as u64 > limit => {
                return Err(RemoteError::Answer(format!(
                    "an answer of more than {limit} bytes"
                )));
            }
            Some(chunk) => all.extend_from_slice(&chunk),
            None => return Ok(all.into()),
        }
    }
}

/// The next `size` bytes of a source.
pub async fn piece(source: &mut SourceReader, size: u64) -> Result<Bytes, RemoteError> {
    let size = usize::try_from(size).map_err(|e| RemoteError::Local(e.to_string()))?;
    let mut piece = vec![0; size];
    let read = source.read_exact(&mut piece).await;
    read.map_err(|error| RemoteError::Local(format!("read the blob: {error}")))?;
    Ok(piece.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_has_no_signature_and_no_login() {
        let url = "https://user:pass@a.example/b/c?sv=1&sig=secret";
        assert_eq!(shown(url), "https://a.example/b/c");
    }

    #[test]
    fn a_pause_is_seconds_or_a_date() {
        assert_eq!(pause(" 7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT"), None);
        assert!(pause("Fri, 06 Nov 2893 08:49:37 GMT").is_some());
        assert_eq!(pause("soon"), None);
    }

    #[test]
    fn what_a_service_says_is_one_line() {
        let said = cleaned(Some("no\u{1b}[31m way\nRequestId: 1".into()));
        assert_eq!(said, "no[31m way");
    }
}
