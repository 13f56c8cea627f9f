//! Files of the web as sources: keyed by their content, kept with what the server said of them, so
//! that the next build only asks whether they changed.

mod date;
mod fetch;
pub mod name;

use std::sync::Arc;

use gateway_api::{Error, HttpChecksumRequest, HttpMeta};
use gateway_images::digest::Digest;
use gateway_images::registry::shown_url;
use gateway_llb::pb;

use crate::job::JobInner;
use crate::key::{HttpKey, digest_of, http_key, source_digest};
use crate::live::{LiveVertex, VertexKey};
use crate::pins::FilePin;
use crate::shared::{Outcome, blocking, spawn_shared};
use crate::signature::{Policy, verify_detached};
use crate::solve::internal;
use crate::store::{Layer, Snapshot};
use name::file_name;

/// Headers that a build may set; others say nothing about the content.
const HEADERS: [(&str, &str); 2] = [("accept", "Accept"), ("user-agent", "User-Agent")];
/// Longest suffix of a checksum request.
const MAX_CHECKSUM_SUFFIX: usize = 4096;
/// The host that stands for an upload of the client.
const SESSION_HOST: &str = "buildkit-session";

/// A source, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    url: String,
    /// The digest that the file must have.
    checksum: Option<String>,
    filename: String,
    perm: i64,
    uid: i64,
    gid: i64,
    auth_secret: String,
    /// Sorted by name.
    headers: Vec<(String, String)>,
    /// Whose signature the file must have.
    signed: Option<Signed>,
}

/// An armored signature of the file, and the armored keys of those who may sign it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Signed {
    keys: String,
    signature: String,
}

/// A file that was fetched, or found unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub checksum: String,
    pub filename: String,
    /// As HTTP writes dates.
    pub last_modified: Option<String>,
    /// The layer with the file.
    pub layer: String,
}

impl Http {
    /// # Errors
    /// When an attribute has a value that it cannot have.
    pub fn of(op: &pb::SourceOp) -> Outcome<Http> {
        let mut http = Http {
            url: op.identifier.clone(),
            checksum: None,
            filename: String::new(),
            perm: 0,
            uid: 0,
            gid: 0,
            auth_secret: String::new(),
            headers: Vec::new(),
            signed: None,
        };
        let number = |name: &str, text: &str| {
            go_int(text).ok_or_else(|| {
                Error::unknown(format!("{name}: {text:?} is not a number: invalid syntax"))
            })
        };
        for (name, value) in &op.attrs {
            match name.as_str() {
                "http.checksum" => {
                    value
                        .parse::<Digest>()
                        .map_err(|error| Error::unknown(error.to_string()))?;
                    http.checksum = Some(value.clone());
                }
                "http.filename" => http.filename = value.clone(),
                "http.perm" => http.perm = number(name, value)?,
                "http.uid" => http.uid = number(name, value)?,
                "http.gid" => http.gid = number(name, value)?,
                "http.authheadersecret" => http.auth_secret = value.clone(),
                "http.sig.pubkey" => {
                    http.signed.get_or_insert_default().keys = value.clone();
                }
                "http.sig.signature" => {
                    http.signed.get_or_insert_default().signature = value.clone();
                }
                name => {
                    let header = name
                        .strip_prefix("http.header.")
                        .and_then(|name| HEADERS.iter().find(|h| h.0.eq_ignore_ascii_case(name)));
                    if let Some((_, name)) = header {
                        http.headers.push(((*name).to_owned(), value.clone()));
                    }
                }
            }
        }
        http.headers.sort();
        // Whoever names one of them wants a verified file: an empty value is no way around it.
        let incomplete = |signed: &Signed| signed.keys.is_empty() || signed.signature.is_empty();
        if http.signed.as_ref().is_some_and(incomplete) {
            return Err(Error::unknown(
                "http signature verification requires both pubkey and signature",
            ));
        }
        Ok(http)
    }

    /// The source with what the build's pins know of it.
    ///
    /// # Errors
    /// As for [`Http::of`]; or the pins do not know it, and nobody may be asked.
    fn pinned_by(job: &JobInner, op: &pb::SourceOp) -> Outcome<Http> {
        let mut http = Http::of(op)?;
        let Some(pins) = job
            .options
            .pins
            .as_ref()
            .filter(|_| http.upload().is_none())
        else {
            return Ok(http);
        };
        let known = pins.file(&http.url)?;
        match (&http.checksum, known) {
            (Some(written), Some(pin)) if *written != pin.checksum => {
                let error = http.check(&pin.checksum).err();
                return Err(error.map_or_else(
                    || Error::unknown("the pin is another one"),
                    |error| pins.drifted(error, &http.shown(), &pin.checksum),
                ));
            }
            (None, Some(pin)) => http.checksum = Some(pin.checksum.clone()),
            _ => {}
        }
        if let Some(checksum) = &http.checksum {
            let pin = known.cloned().unwrap_or_else(|| FilePin {
                checksum: checksum.clone(),
                ..FilePin::default()
            });
            pins.took_file(&http.url, pin);
        }
        Ok(http)
    }

    /// The id of the client's upload that this address stands for.
    fn upload(&self) -> Option<&str> {
        let (host, id) = self.url.split_once("://")?.1.split_once('/')?;
        (host == SESSION_HOST).then_some(id)
    }

    /// The URL without a password.
    fn shown(&self) -> String {
        shown_url(&self.url)
    }

    /// What must be equal for an earlier download to be this file.
    fn identity(&self) -> String {
        let parts = (
            &self.url,
            &self.filename,
            (self.perm, self.uid, self.gid),
            &self.auth_secret,
            &self.headers,
        );
        digest_of(format!("{parts:?}").as_bytes())
    }

    fn key(&self, filename: &str, checksum: &str, last_modified: Option<&str>) -> String {
        http_key(&HttpKey {
            filename,
            perm: self.perm,
            uid: self.uid,
            gid: self.gid,
            checksum,
            last_modified,
            auth_header_secret: &self.auth_secret,
            headers: &self.headers,
        })
    }

    /// The key when the content is known without asking anybody.
    fn pinned(&self) -> Option<String> {
        let checksum = self.checksum.as_deref()?;
        let filename = file_name(&self.url, &self.filename, None);
        Some(self.key(&filename, checksum, None))
    }

    fn check(&self, found: &str) -> Outcome<()> {
        match &self.checksum {
            Some(wanted) if wanted != found => Err(Error::unknown(format!(
                "digest mismatch for {}: {found} (expected: {wanted})",
                self.shown()
            ))),
            _ => Ok(()),
        }
    }
}

/// A number as Go reads it with base 0: `0644` and `0o644` are octal, `0x1a4` is hexadecimal.
pub fn go_int(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let value = if let Some(hex) = lower.strip_prefix("0x") {
        i64::from_str_radix(hex, 16)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        i64::from_str_radix(binary, 2)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        i64::from_str_radix(octal, 8)
    } else if lower.len() > 1 && lower.starts_with('0') {
        i64::from_str_radix(&lower, 8)
    } else {
        lower.parse()
    };
    let signed = digits.starts_with(['+', '-']);
    value
        .ok()
        .filter(|_| !signed)
        .map(|v| if negative { -v } else { v })
}

/// The file, once per build. `shown` is the vertex that shows the transfer.
async fn found(job: &Arc<JobInner>, http: &Http, shown: &str) -> Outcome<Arc<Found>> {
    let identity = format!("{} {:?}", http.identity(), http.checksum);
    let work = {
        let mut found = job.http_files();
        match found.get(&identity) {
            Some(work) => work.clone(),
            None => {
                let (inner, http, shown) = (job.clone(), http.clone(), shown.to_owned());
                let work = spawn_shared(async move {
                    let found = inner
                        .until_cancelled(fetch::find(&inner, &http, &shown))
                        .await;
                    let Some(pins) = &inner.options.pins else {
                        return found.map(Arc::new);
                    };
                    let pinned = http.checksum.clone().unwrap_or_default();
                    let found =
                        found.map_err(|error| pins.drifted(error, &http.shown(), &pinned))?;
                    if http.upload().is_none() {
                        pins.took_file(
                            &http.url,
                            FilePin {
                                checksum: found.checksum.clone(),
                                filename: Some(found.filename.clone()),
                                last_modified: found.last_modified.clone(),
                            },
                        );
                    }
                    Ok(Arc::new(found))
                });
                found.insert(identity, work.clone());
                work
            }
        }
    };
    work.await
}

/// Nothing of a file is used, not even its key, before its signature was seen.
async fn verified(job: &Arc<JobInner>, http: &Http, shown: &str) -> Outcome<()> {
    let Some(signed) = http.signed.clone() else {
        return Ok(());
    };
    let found = found(job, http, shown).await?;
    let path = job.store().layer_dir(&found.layer).join(&found.filename);
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let checked = blocking(move || {
        let mut file = std::fs::File::open(&path).map_err(internal)?;
        let Signed { keys, signature } = signed;
        let policy = Policy::default();
        Ok(verify_detached(&mut file, &signature, &keys, policy, now))
    })
    .await?;
    checked.map_err(|error| {
        Error::unknown(format!(
            "{}: failed to verify pgp signature: {error}",
            http.shown()
        ))
    })
}

/// By content; asks the server unless the digest was given.
pub async fn keys(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
) -> Outcome<VertexKey> {
    let http = Http::pinned_by(job, op)?;
    let key = match http.pinned() {
        Some(key) => {
            if http.signed.is_some() {
                let running = job.reports.start(&vertex.digest);
                let verified = verified(job, &http, &vertex.digest).await;
                running.finish(&verified);
                verified?;
            }
            let _ = vertex.pin.set(http.checksum.clone().unwrap_or_default());
            key
        }
        None => {
            let running = job.reports.start(&vertex.digest);
            let found = async {
                verified(job, &http, &vertex.digest).await?;
                found(job, &http, &vertex.digest).await
            }
            .await;
            running.finish(&found);
            let found = found?;
            let _ = vertex.pin.set(found.checksum.clone());
            http.key(
                &found.filename,
                &found.checksum,
                found.last_modified.as_deref(),
            )
        }
    };
    Ok(VertexKey::Source(vec![source_digest(&key)]))
}

pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
) -> Outcome<Vec<Snapshot>> {
    let http = Http::pinned_by(job, op)?;
    if let Some(key) = http.pinned() {
        let layer = fetch::layer_id(&key);
        if job.store().has_layer(&layer) {
            job.reports.cached(&vertex.digest);
            return Ok(vec![Snapshot::new(vec![Layer::stored(layer)])]);
        }
    }
    let running = job.reports.start(&vertex.digest);
    let found = found(job, &http, &vertex.digest).await;
    running.finish(&found);
    let layer = Layer::stored(found?.layer.clone());
    Ok(vec![Snapshot::new(vec![layer])])
}

/// What is known of the file. `shown` is the vertex that shows the transfer.
pub async fn meta(
    job: &Arc<JobInner>,
    op: &pb::SourceOp,
    request: Option<&HttpChecksumRequest>,
    shown: &str,
) -> Outcome<HttpMeta> {
    let http = Http::pinned_by(job, op)?;
    if let Some(request) = request {
        check_request(request)?;
    }
    verified(job, &http, shown).await?;
    if let (Some(checksum), None) = (&http.checksum, request) {
        return Ok(HttpMeta {
            checksum: checksum.clone(),
            filename: file_name(&http.url, &http.filename, None),
            ..HttpMeta::default()
        });
    }
    let found = found(job, &http, shown).await?;
    let checksum_response = match request {
        Some(request) => {
            let path = job.store().layer_dir(&found.layer).join(&found.filename);
            let request = request.clone();
            let suffix = request.suffix.clone();
            let digest = blocking(move || fetch::checksum(&path, &request)).await?;
            Some((digest, suffix))
        }
        None => None,
    };
    Ok(HttpMeta {
        checksum: found.checksum.clone(),
        filename: found.filename.clone(),
        last_modified: found
            .last_modified
            .as_deref()
            .and_then(date::parse)
            .map(time::OffsetDateTime::unix_timestamp),
        checksum_response,
    })
}

/// A file that is here.
pub struct Content {
    pub pin: FilePin,
    pub path: std::path::PathBuf,
}

/// Brings the file here, to be saved elsewhere; none for what the client hands in itself.
pub async fn content(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
) -> Outcome<Option<Content>> {
    let http = Http::pinned_by(job, op)?;
    if http.upload().is_some() {
        return Ok(None);
    }
    let found = found(job, &http, &vertex.digest).await?;
    Ok(Some(Content {
        path: job.store().layer_dir(&found.layer).join(&found.filename),
        pin: FilePin {
            checksum: found.checksum.clone(),
            filename: Some(found.filename.clone()),
            last_modified: found.last_modified.clone(),
        },
    }))
}

fn check_request(request: &HttpChecksumRequest) -> Outcome<()> {
    if request.suffix.len() > MAX_CHECKSUM_SUFFIX {
        return Err(Error::unknown(format!(
            "http checksum request suffix exceeds max size {MAX_CHECKSUM_SUFFIX}"
        )));
    }
    match request.algorithm {
        0..=2 => Ok(()),
        other => Err(Error::unknown(format!(
            "unsupported checksum algorithm {other}"
        ))),
    }
}

fn io(http: &Http) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| internal(format!("{}: {error}", http.shown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(attrs: &[(&str, &str)]) -> pb::SourceOp {
        pb::SourceOp {
            identifier: "https://user:pw@example.com/a/b.tar?x=1".into(),
            attrs: attrs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, value) in [
            ("0644", Some(0o644)),
            ("0o644", Some(0o644)),
            ("420", Some(420)),
            ("0x1a4", Some(420)),
            ("-1", Some(-1)),
            ("0", Some(0)),
            ("", None),
            ("--1", None),
            ("09", None),
            ("7a", None),
        ] {
            assert_eq!(go_int(text), value, "{text}");
        }
    }

    #[test]
    fn the_key_has_the_name_and_not_the_url() {
        let checksum = format!("sha256:{}", "0".repeat(64));
        let one = Http::of(&op(&[("http.checksum", &checksum)])).unwrap();
        let mut two = one.clone();
        two.url = "http://elsewhere/b.tar".into();
        assert_eq!(one.pinned(), two.pinned());
        two.url = "http://elsewhere/c.tar".into();
        assert_ne!(one.pinned(), two.pinned());
        assert_ne!(one.identity(), two.identity());
    }

    #[test]
    fn only_headers_that_choose_content_are_kept_and_sorted() {
        let http = Http::of(&op(&[
            ("http.header.user-agent", "me"),
            ("http.header.accept", "text/html"),
            ("http.header.authorization", "Basic x"),
        ]))
        .unwrap();
        let names: Vec<&str> = http.headers.iter().map(|h| h.0.as_str()).collect();
        assert_eq!(names, ["Accept", "User-Agent"]);
    }

    #[test]
    fn a_mismatch_shows_no_password() {
        let checksum = format!("sha256:{}", "0".repeat(64));
        let http = Http::of(&op(&[("http.checksum", &checksum)])).unwrap();
        let error = http.check("sha256:1").unwrap_err().message;
        assert_eq!(
            error,
            format!(
                "digest mismatch for https://example.com/a/b.tar?x=1: sha256:1 (expected: {checksum})"
            )
        );
    }

    #[test]
    fn bad_attributes_are_errors() {
        for attrs in [
            &[("http.perm", "rw")][..],
            &[("http.checksum", "sha256:12")],
            &[("http.sig.pubkey", "k")],
            &[("http.sig.signature", "s")],
            &[("http.sig.pubkey", ""), ("http.sig.signature", "")],
        ] {
            assert!(Http::of(&op(attrs)).is_err(), "{attrs:?}");
        }
    }
}
