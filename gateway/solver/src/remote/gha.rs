//! The cache of GitHub Actions, in version 2 of its API: entries with a key, reserved and finished by calls, whose
//! bytes lie in Azure's storage behind URLs that are signed for one entry.
//!
//! Blobs have the key `buildkit-blob-1-<digest>`. The cache config has `index-<scope>-1-<hash of the git ref>#<number>`:
//! entries are never changed, so each build writes the next number, and a question for the key without it finds the
//! newest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use gateway_images::digest::Digest;
use gateway_images::media::Descriptor;
use gateway_images::registry::{SourceReader, WebCall, WebResponse};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use url::Url;

use super::MAX_CONFIG_BYTES;
use super::attrs::{Attrs, Hidden, duration};
use super::azure;
use super::net::{Net, RemoteError, body, shown};

pub const KEYS: [&str; 8] = [
    "ghtoken",
    "repository",
    "scope",
    "timeout",
    "token",
    "url",
    "url_v2",
    "version",
];

/// Of BuildKit's keys in the cache.
const KEY_VERSION: &str = "1";
/// What the service calls a version of an entry, and only gives to who names it: BuildKit's is one for all keys.
const ENTRY_VERSION: &[u8] = b"|go-actionscache-1.0";
/// Answers to calls are a few lines of JSON.
const MAX_ANSWER: u64 = 32 << 10;
/// How long a number that somebody reserved is waited for, before it counts as left behind.
const RESERVED_FOR: Duration = Duration::from_secs(15);
const RESERVED_PAUSE: Duration = Duration::from_secs(2);
/// Numbers tried one after another.
const MAX_NUMBERS: u32 = 64;
/// The host of version 2, by which clients that say no version are known.
const HOST_OF_2: &str = "results-receiver.actions.githubusercontent.com";

/// The cache of a repository, as a token opens it.
#[derive(Debug, Clone)]
pub struct Gha {
    url: String,
    token: Hidden,
    scope: String,
    timeout: Duration,
    /// The git refs whose entries may be read, and the one that is written.
    reads: Vec<String>,
    writes: Option<String>,
    /// URLs of blobs, each signed for a while.
    urls: Arc<Mutex<HashMap<String, Hidden>>>,
}

impl PartialEq for Gha {
    fn eq(&self, other: &Self) -> bool {
        (&self.url, &self.token, &self.scope) == (&other.url, &other.token, &other.scope)
    }
}

impl Eq for Gha {}

#[derive(Deserialize)]
struct Claims {
    ac: String,
    exp: f64,
    nbf: f64,
}

/// An access that a token gives. Go reads names of any case.
#[derive(Deserialize)]
struct Access {
    #[serde(alias = "scope")]
    #[serde(rename = "Scope")]
    scope: String,
    /// 1: read, 2: write.
    #[serde(alias = "permission")]
    #[serde(rename = "Permission")]
    permission: u32,
}

#[derive(Serialize)]
struct Wanted<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_keys: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    version: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    ok: bool,
    signed_upload_url: String,
    signed_download_url: String,
    matched_key: String,
}

impl Gha {
    pub fn parse(attrs: &Attrs) -> Result<Gha, String> {
        let token = attrs.hidden("token").ok_or(
            "needs token=..., or the variable ACTIONS_RUNTIME_TOKEN of the environment, which GitHub gives to actions",
        )?;
        let version = attrs.positive("version")?;
        let of_2 = attrs.get("url_v2").filter(|_| version != Some(1));
        let (url, version) = match (of_2, attrs.get("url")) {
            (Some(url), _) => (url, 2),
            (None, Some(url)) => {
                let guessed = if url.contains(HOST_OF_2) { 2 } else { 1 };
                (url, version.unwrap_or(guessed))
            }
            (None, None) => {
                return Err(
                    "needs url_v2=..., or the variable ACTIONS_RESULTS_URL of the environment"
                        .into(),
                );
            }
        };
        if version != 2 {
            return Err(format!(
                "version {version} of the service is not supported: only version 2 is, at url_v2=... \
                 (ACTIONS_RESULTS_URL, with ACTIONS_CACHE_SERVICE_V2=true)"
            ));
        }
        let wrong = |problem: &str| format!("url_v2={}: {problem}", shown(url));
        let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(wrong("it must begin with https:// or http://"));
        }
        let timeout = match attrs.get("timeout") {
            None => Duration::from_secs(600),
            Some(text) => duration(text)
                .ok_or_else(|| format!("timeout={text:?} is no duration such as 10m"))?,
        };
        let accesses = accesses(token.expose(), OffsetDateTime::now_utc())?;
        let may = |access: &&Access, what: u32| access.permission & what != 0;
        let written = accesses.iter().rfind(|access| may(access, 2));
        Ok(Gha {
            url: url.trim_end_matches('/').to_owned(),
            scope: attrs.given("scope").unwrap_or("buildkit").to_owned(),
            timeout,
            writes: written.map(|access| access.scope.clone()),
            reads: accesses.into_iter().map(|access| access.scope).collect(),
            token,
            urls: Arc::default(),
        })
    }

    pub fn identity(&self) -> String {
        format!("gha\0{}\0{}", self.url, self.scope)
    }

    /// The key of the cache config of a git ref.
    fn index_key(&self, git_ref: &str) -> String {
        let hash = hex::encode(Sha256::digest(git_ref));
        let hash = hash.get(..8).unwrap_or_default();
        format!("index-{}-{KEY_VERSION}-{hash}", self.scope)
    }

    async fn ask(
        &self,
        net: &Net,
        method: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Answer, RemoteError> {
        let failed = |error: serde_json::Error| {
            RemoteError::Answer(format!("{}: {method}: {error}", self.url))
        };
        let asked = Bytes::from(serde_json::to_vec(wanted).map_err(failed)?);
        let service = "twirp/github.actions.results.api.v1.CacheService";
        let make = || {
            let headers = [
                ("authorization", format!("Bearer {}", self.token.expose())),
                ("content-type", "application/json".to_owned()),
            ];
            Ok(WebCall {
                method: "POST",
                url: format!("{}/{service}/{method}", self.url),
                headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
                body: asked.clone(),
            })
        };
        let sent = tokio::time::timeout(self.timeout, net.send(make)).await;
        let response = sent
            .map_err(|_| {
                let seconds = self.timeout.as_secs();
                RemoteError::Answer(format!("{}: {method}: no answer in {seconds} s", self.url))
            })?
            .map_err(hinted)?;
        serde_json::from_slice(&body(response, MAX_ANSWER).await?).map_err(failed)
    }

    /// The newest entry whose key begins so: its key, and the URL of its bytes.
    async fn find(&self, net: &Net, key: &str) -> Result<Option<(String, Hidden)>, RemoteError> {
        let wanted = Wanted {
            key,
            restore_keys: Some([key]),
            size_bytes: None,
            version: entry_version(),
        };
        match self.ask(net, "GetCacheEntryDownloadURL", &wanted).await {
            Ok(answer) if answer.ok => Ok(Some((
                answer.matched_key,
                Hidden::new(answer.signed_download_url),
            ))),
            Ok(_) => Ok(None),
            Err(error) if error.has_code("not_found") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Those of all git refs that the token may read.
    pub async fn configs(&self, net: &Net) -> Result<Vec<Bytes>, RemoteError> {
        let mut configs = Vec::new();
        for git_ref in &self.reads {
            let Some((_, url)) = self.find(net, &self.index_key(git_ref)).await? else {
                continue;
            };
            let response = azure::get(net, None, url.expose(), 0).await?;
            configs.push(body(response, MAX_CONFIG_BYTES).await?);
        }
        Ok(configs)
    }

    pub async fn has(&self, net: &Net, blob: &Digest) -> Result<bool, RemoteError> {
        let key = blob_key(blob);
        let found = self
            .find(net, &key)
            .await?
            .filter(|(found, _)| *found == key);
        let Some((_, url)) = found else {
            return Ok(false);
        };
        self.urls().insert(key, url);
        Ok(true)
    }

    fn urls(&self) -> std::sync::MutexGuard<'_, HashMap<String, Hidden>> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn get_blob(
        &self,
        net: &Net,
        blob: &Digest,
        from: u64,
    ) -> Result<WebResponse, RemoteError> {
        let key = blob_key(blob);
        let known = self.urls().get(&key).cloned();
        if let Some(url) = known {
            match azure::get(net, None, url.expose(), from).await {
                // Its time is over.
                Err(error) if error.has_status(401) || error.has_status(403) => {}
                got => return got,
            }
        }
        if !self.has(net, blob).await? {
            return Err(RemoteError::Answer(format!(
                "the cache of GitHub Actions has no entry {key} any more"
            )));
        }
        let url = self.urls().get(&key).cloned();
        let url = url.map_or_else(String::new, |url| url.expose().to_owned());
        azure::get(net, None, &url, from).await
    }

    pub async fn put_blob(
        &self,
        net: &Net,
        blob: &Descriptor,
        source: SourceReader,
    ) -> Result<(), RemoteError> {
        match self
            .save(net, &blob_key(&blob.digest), blob.size, source)
            .await
        {
            // Another build wrote the same bytes, or is about to.
            Err(error) if is_taken(&error) => Ok(()),
            done => done,
        }
    }

    async fn save(
        &self,
        net: &Net,
        key: &str,
        size: u64,
        source: SourceReader,
    ) -> Result<(), RemoteError> {
        let mut wanted = Wanted {
            key,
            restore_keys: None,
            size_bytes: None,
            version: entry_version(),
        };
        let failed = |what: &str| RemoteError::Answer(format!("{}: {key}: {what}", self.url));
        let reserved = self.ask(net, "CreateCacheEntry", &wanted).await?;
        if !reserved.ok {
            return Err(failed("failed to reserve cache"));
        }
        azure::put(net, None, &reserved.signed_upload_url, size, source, false).await?;
        wanted.size_bytes = Some(size);
        let done = self.ask(net, "FinalizeCacheEntryUpload", &wanted).await?;
        match done.ok {
            true => Ok(()),
            false => Err(failed("failed to commit cache")),
        }
    }

    /// Under the next number of this git ref.
    pub async fn put_config(&self, net: &Net, config: Bytes) -> Result<(), RemoteError> {
        let git_ref = self.writes.as_deref().ok_or_else(|| {
            RemoteError::Answer(
                "the token may only read the cache of GitHub Actions: a build of a fork's pull request may not write"
                    .into(),
            )
        })?;
        let key = format!("{}#", self.index_key(git_ref));
        let mut waited = Duration::ZERO;
        let mut passed = 0;
        loop {
            let newest = match self.find(net, &key).await? {
                None => 0,
                Some((found, _)) => {
                    let number = found.strip_prefix(&key).and_then(|n| n.parse::<u64>().ok());
                    number.ok_or_else(|| {
                        RemoteError::Answer(format!("{}: {found:?} has no number", self.url))
                    })?
                }
            };
            let number = newest + 1 + u64::from(passed);
            let source: SourceReader = Box::new(std::io::Cursor::new(config.clone()));
            let size = config.len() as u64;
            match self
                .save(net, &format!("{key}{number}"), size, source)
                .await
            {
                Err(error) if is_taken(&error) && passed < MAX_NUMBERS => {
                    // Somebody writes it now, or broke off and left it behind.
                    if waited <= RESERVED_FOR {
                        tokio::time::sleep(RESERVED_PAUSE).await;
                        waited += RESERVED_PAUSE;
                    } else {
                        passed += 1;
                    }
                }
                done => return done,
            }
        }
    }
}

fn blob_key(blob: &Digest) -> String {
    format!("buildkit-blob-{KEY_VERSION}-{blob}")
}

fn entry_version() -> String {
    hex::encode(Sha256::digest(ENTRY_VERSION))
}

fn is_taken(error: &RemoteError) -> bool {
    error.has_code("already_exists") || error.has_status(409)
}

fn hinted(error: RemoteError) -> RemoteError {
    let RemoteError::Refused(mut refusal) = error else {
        return error;
    };
    refusal.hint = match refusal.status {
        401 | 403 => "the token is not one of this job, or its time is over".to_owned(),
        429 => "too many calls of this repository: try again in a minute".to_owned(),
        _ => String::new(),
    };
    RemoteError::Refused(refusal)
}

/// What a token opens. Its signature is the service's to check.
fn accesses(token: &str, now: OffsetDateTime) -> Result<Vec<Access>, String> {
    let mut parts = token.split('.');
    let claims = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(_), Some(claims), Some(_), None) = claims else {
        return Err("token is no token of GitHub Actions: it has no three parts".into());
    };
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('='));
    let claims = claims.map_err(|_| "token is no token of GitHub Actions: no base64".to_owned())?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| {
        "token is no token of GitHub Actions: it says nothing of access (ac), or no times (exp, nbf)"
            .to_owned()
    })?;
    // Seconds of any size compare.
    let now = now.unix_timestamp() as f64;
    if now > claims.exp {
        return Err("the token's time is over: each job has a new one".into());
    }
    if now < claims.nbf {
        return Err("the token's time has not come: is the clock of this machine right?".into());
    }
    serde_json::from_str(&claims.ac)
        .map_err(|_| "the token's access (ac) cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn token(ac: &str, exp: i64) -> String {
        let claims = serde_json::json!({"ac": ac, "exp": exp, "nbf": 0}).to_string();
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
    }

    const FAR: i64 = 32_503_680_000;
    const BOTH: &str = r#"[{"Scope":"refs/heads/topic","Permission":3},{"Scope":"refs/heads/main","Permission":1}]"#;

    fn parsed(pairs: &[(&str, &str)]) -> Result<Gha, String> {
        let attrs = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let attrs: BTreeMap<String, String> = attrs.collect();
        Gha::parse(&Attrs::new(&attrs, &|_| None))
    }

    #[test]
    fn a_token_says_which_git_refs_are_read_and_written() {
        let token = token(BOTH, FAR);
        let gha = parsed(&[("token", &token), ("url_v2", "https://a.example/")]).unwrap();
        assert_eq!(gha.reads, ["refs/heads/topic", "refs/heads/main"]);
        assert_eq!(gha.writes.as_deref(), Some("refs/heads/topic"));
        let hash = hex::encode(Sha256::digest("refs/heads/main"));
        let key = gha.index_key("refs/heads/main");
        assert_eq!(key, format!("index-buildkit-1-{}", &hash[..8]));
        assert!(!format!("{gha:?}").contains(&token));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_reason() {
        let good = token(BOTH, FAR);
        let over = token(BOTH, 1);
        let strange = token("{}", FAR);
        let url = ("url_v2", "https://a.example");
        for (pairs, problem) in [
            (&[url][..], "needs token"),
            (&[("token", good.as_str())], "needs url_v2"),
            (
                &[("token", &good), ("url", "https://a.example")],
                "version 1",
            ),
            (&[("token", &good), url, ("version", "1")], "needs url_v2"),
            (
                &[("token", &good), url, ("version", "x")],
                "positive integer",
            ),
            (&[("token", &good), url, ("timeout", "soon")], "no duration"),
            (&[("token", &over), url], "time is over"),
            (&[("token", &strange), url], "cannot be read"),
            (&[("token", "a.b"), url], "three parts"),
            (&[("token", &good), ("url_v2", "a.example")], "url_v2="),
        ] {
            let said = parsed(pairs).unwrap_err();
            assert!(said.contains(problem), "{said}");
        }
        let guessed = format!("https://{HOST_OF_2}/x");
        assert!(parsed(&[("token", &good), ("url", &guessed)]).is_ok());
    }

    proptest! {
        #[test]
        fn any_token_is_read_or_refused(token in "\\PC{0,40}|[A-Za-z0-9_.=-]{0,60}") {
            let _ = accesses(&token, OffsetDateTime::UNIX_EPOCH);
        }
    }
}
