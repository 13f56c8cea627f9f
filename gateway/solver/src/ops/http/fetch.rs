//! Asking a server for a file: has it changed, and if so, what is it now.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_api::{Error, HttpChecksumRequest};
use gateway_images::digest::Digest;
use gateway_images::registry::{WebLogin, WebRequest, WebResponse};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::name::{file_name, host};
use super::{Found, Http, date, io};
use crate::job::JobInner;
use crate::key::digest_of;
use crate::ops::single::SingleFile;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::WorkDir;

/// Largest file: an endless answer must not fill the disk unnoticed.
const MAX_BYTES: u64 = 64 << 30;
/// Versions of one URL that are remembered.
const MAX_SEEN: usize = 8;
/// As with the layers of images.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(150);

/// A version of a URL that was downloaded once.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seen {
    etag: String,
    checksum: String,
    last_modified: Option<String>,
    filename: String,
    layer: String,
}

/// The layer that holds the file of this key.
pub fn layer_id(key: &str) -> String {
    format!("http-{}", digest_of(key.as_bytes()).replace("sha256:", ""))
}

/// A tag without the mark of a weak one.
fn etag(response: &WebResponse) -> Option<&str> {
    let tag = response.header("etag")?;
    Some(tag.strip_prefix("W/").unwrap_or(tag)).filter(|tag| !tag.is_empty())
}

pub async fn find(job: &Arc<JobInner>, http: &Http, shown: &str) -> Outcome<Found> {
    if let Some(id) = http.upload() {
        return uploaded(job, http, id, shown).await;
    }
    let identity = http.identity();
    let name = format!("http:{identity}");
    let _lock = job.store().lock(&name).await.map_err(io(http))?;
    let seen: Vec<Seen> = job
        .store()
        .db()
        .state(&name)
        .map_err(internal)?
        .and_then(|json| serde_json::from_str(&json).ok())
        .unwrap_or_default();
    let mut seen: Vec<Seen> = seen
        .into_iter()
        .filter(|seen| job.store().has_layer(&seen.layer))
        .collect();
    let pinned = http
        .checksum
        .as_ref()
        .and_then(|wanted| seen.iter().find(|seen| seen.checksum == *wanted));
    if let Some(seen) = pinned {
        return Ok(of(seen));
    }
    if let Some(dir) = job.options.pins.as_ref().and_then(|pins| pins.layout()) {
        return vendored(job, http, dir, shown).await;
    }
    let mut request = request(job, http).await?;
    if http.checksum.is_none()
        && let Some(unchanged) = revalidate(job, &mut request, &seen).await
    {
        return Ok(unchanged);
    }
    let mut response = send(job, http, &request).await?;
    let status = response.status();
    if !(200..400).contains(&status) {
        return Err(Error::unknown(format!("invalid response status {status}")));
    }
    if status == 304 {
        return match same(&response, &seen) {
            Some(seen) => Ok(of(seen)),
            None => Err(Error::unknown(format!(
                "invalid not-modified ETag: {}",
                etag(&response).unwrap_or_default()
            ))),
        };
    }
    let tag = etag(&response).map(str::to_owned);
    let filename = file_name(
        &http.url,
        &http.filename,
        response.header("content-disposition"),
    );
    let last_modified = response.header("last-modified").and_then(date::normalize);
    let total = response.length().unwrap_or_default();
    let mut body = Body::Web(&mut response, total);
    let found = save(job, http, filename, last_modified, &mut body, shown).await?;
    if let Some(etag) = tag {
        seen.retain(|old| old.etag != etag);
        seen.insert(
            0,
            Seen {
                etag,
                checksum: found.checksum.clone(),
                last_modified: found.last_modified.clone(),
                filename: found.filename.clone(),
                layer: found.layer.clone(),
            },
        );
        seen.truncate(MAX_SEEN);
        let json = serde_json::to_string(&seen).map_err(internal)?;
        job.store().db().set_state(&name, &json).map_err(internal)?;
    }
    Ok(found)
}

/// An unchanged file. Its name is that in the layer, whatever a header says now.
fn of(seen: &Seen) -> Found {
    Found {
        checksum: seen.checksum.clone(),
        filename: seen.filename.clone(),
        last_modified: seen.last_modified.clone(),
        layer: seen.layer.clone(),
    }
}

/// The version that an answer is about.
fn same<'a>(response: &WebResponse, seen: &'a [Seen]) -> Option<&'a Seen> {
    match (etag(response), seen) {
        (Some(tag), seen) => seen.iter().find(|seen| seen.etag == tag),
        // Some servers leave out a tag that only one was asked about.
        (None, [only]) if response.status() == 304 => Some(only),
        _ => None,
    }
}

/// Asks by HEAD first: some servers answer a conditional GET wrongly. Leaves the conditions in the
/// request for the GET that follows.
async fn revalidate(job: &Arc<JobInner>, request: &mut WebRequest, seen: &[Seen]) -> Option<Found> {
    if seen.is_empty() {
        return None;
    }
    let tags: Vec<&str> = seen.iter().map(|seen| seen.etag.as_str()).collect();
    request
        .headers
        .push(("If-None-Match".into(), tags.join(", ")));
    request.head = true;
    let answer = job.solver().registries().web(request).await;
    request.head = false;
    // Servers without HEAD answer the GET.
    let response = answer.ok()?;
    if !matches!(response.status(), 200 | 304) {
        return None;
    }
    same(&response, seen).map(of)
}

async fn send(job: &Arc<JobInner>, http: &Http, request: &WebRequest) -> Outcome<WebResponse> {
    job.solver()
        .registries()
        .web(request)
        .await
        .map_err(|error| Error::unknown(format!("Get \"{}\": {error}", http.shown())))
}

async fn request(job: &Arc<JobInner>, http: &Http) -> Outcome<WebRequest> {
    Ok(WebRequest {
        head: false,
        url: http.url.clone(),
        headers: http.headers.clone(),
        authorization: authorization(job, http).await?,
    })
}

/// The named secret, which must be there; else those that the client keeps for the host.
async fn authorization(job: &Arc<JobInner>, http: &Http) -> Outcome<Option<WebLogin>> {
    let session = &job.options.session;
    if !http.auth_secret.is_empty() {
        let id = &http.auth_secret;
        let failed = |why: String| {
            Error::unknown(format!("failed to retrieve HTTP auth secret {id}: {why}"))
        };
        let secret = session
            .secret(id)
            .await
            .map_err(|error| failed(error.to_string()))?
            .ok_or_else(|| failed("not found".into()))?;
        let login = WebLogin::new(secret.expose().trim_ascii());
        return login
            .map(Some)
            .ok_or_else(|| failed("it has characters that cannot stand in a header".into()));
    }
    let host = host(&http.url);
    let mut login = None;
    for (prefix, scheme) in [("HTTP_AUTH_HEADER_", ""), ("HTTP_AUTH_TOKEN_", "Bearer ")] {
        if let Ok(Some(secret)) = session.secret(&format!("{prefix}{host}")).await {
            let mut value = scheme.as_bytes().to_vec();
            value.extend(secret.expose().trim_ascii());
            login = WebLogin::new(&value).or(login);
            value.fill(0);
        }
    }
    Ok(login)
}

/// What was saved in a layout: the blob with the pinned digest. It is checked like a download.
async fn vendored(job: &Arc<JobInner>, http: &Http, dir: &Path, shown: &str) -> Outcome<Found> {
    let checksum = http.checksum.as_deref().unwrap_or_default();
    let path = dir.join("blobs").join(checksum.replacen(':', "/", 1));
    let opened = tokio::fs::File::open(&path).await;
    let file = opened.map_err(|error| {
        Error::unknown(format!("{}: {}: {error}", http.shown(), path.display()))
    })?;
    let total = file.metadata().await.map_err(io(http))?.len();
    let pin = job.options.pins.as_ref().map(|pins| pins.file(&http.url));
    let pin = pin.transpose()?.flatten().cloned().unwrap_or_default();
    let filename = match (&pin.filename, http.filename.as_str()) {
        (Some(filename), "") => filename.clone(),
        _ => file_name(&http.url, &http.filename, None),
    };
    let mut body = Body::File(file, total);
    save(job, http, filename, pin.last_modified, &mut body, shown).await
}

/// What the client hands in itself. Nothing is remembered of the address, which is new each time;
/// the file is known again by its content.
async fn uploaded(job: &Arc<JobInner>, http: &Http, id: &str, shown: &str) -> Outcome<Found> {
    let found = job.options.session.upload(id).await;
    let path = found
        .map_err(|error| Error::unknown(format!("{}: {error}", http.url)))?
        .ok_or_else(|| Error::unknown(format!("{}: the client has no such upload", http.url)))?;
    let file = tokio::fs::File::open(&path).await.map_err(io(http))?;
    let total = file.metadata().await.map_err(io(http))?.len();
    let filename = file_name(&http.url, &http.filename, None);
    let mut body = Body::File(file, total);
    save(job, http, filename, None, &mut body, shown).await
}

/// Bytes of a file, and how many they are if that is known.
enum Body<'a> {
    Web(&'a mut WebResponse, u64),
    File(tokio::fs::File, u64),
}

impl Body<'_> {
    fn length(&self) -> u64 {
        match self {
            Body::Web(_, length) | Body::File(_, length) => *length,
        }
    }

    async fn chunk(&mut self, http: &Http) -> Outcome<Option<bytes::Bytes>> {
        match self {
            Body::Web(response, _) => response
                .chunk()
                .await
                .map_err(|error| Error::unknown(format!("{}: {error}", http.shown()))),
            Body::File(file, _) => {
                let mut buffer = bytes::BytesMut::with_capacity(1 << 18);
                let count = file.read_buf(&mut buffer).await.map_err(io(http))?;
                Ok((count > 0).then(|| buffer.freeze()))
            }
        }
    }
}

/// Writes the body into a layer of its own.
async fn save(
    job: &Arc<JobInner>,
    http: &Http,
    filename: String,
    last_modified: Option<String>,
    content: &mut Body<'_>,
    shown: &str,
) -> Outcome<Found> {
    let work = job.store().work_dir().map_err(io(http))?;
    let dir = work.sub("fs").map_err(io(http))?;
    let checksum = body(job, http, content, &dir.join(&filename), shown).await?;
    http.check(&checksum)?;
    let key = match &http.checksum {
        Some(_) => http.pinned().unwrap_or_default(),
        None => http.key(&filename, &checksum, last_modified.as_deref()),
    };
    let layer = layer_id(&key);
    let found = Found {
        checksum,
        filename,
        last_modified,
        layer,
    };
    let (job, http, result) = (job.clone(), http.clone(), found.clone());
    blocking(move || commit(&job, &http, &work, &found)).await?;
    Ok(result)
}

/// The digest of what came.
async fn body(
    job: &Arc<JobInner>,
    http: &Http,
    content: &mut Body<'_>,
    path: &Path,
    shown: &str,
) -> Outcome<String> {
    let total = content.length();
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut status =
        job.reports
            .status_of(shown, format!("downloading {name}"), "downloading", total);
    let mut shown_at = Instant::now();
    let file = tokio::fs::File::create_new(path).await.map_err(io(http))?;
    let mut file = tokio::io::BufWriter::with_capacity(1 << 18, file);
    let (mut hasher, mut written) = (Sha256::new(), 0_u64);
    while let Some(piece) = content.chunk(http).await? {
        written = written.saturating_add(piece.len() as u64);
        if written > MAX_BYTES {
            return Err(Error::unknown(format!(
                "{}: larger than {MAX_BYTES} bytes",
                http.shown()
            )));
        }
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(io(http))?;
        if shown_at.elapsed() >= PROGRESS_INTERVAL {
            status.update(written, total);
            shown_at = Instant::now();
        }
    }
    file.flush().await.map_err(io(http))?;
    status.update(written, total.max(written));
    status.done();
    Ok(Digest::from_hasher(hasher).to_string())
}

fn commit(job: &Arc<JobInner>, http: &Http, work: &WorkDir, found: &Found) -> Outcome<()> {
    let seconds = found
        .last_modified
        .as_deref()
        .and_then(date::parse)
        .and_then(|date| u64::try_from(date.unix_timestamp()).ok())
        .unwrap_or_default();
    let file = SingleFile {
        name: &found.filename,
        perm: http.perm,
        uid: http.uid,
        gid: http.gid,
        modified: Duration::from_secs(seconds),
        description: format!("http url {}", http.shown()),
        kind: "",
    };
    file.commit(job, &work.path().join("fs"), &found.layer)
}

/// The digest of a file followed by the request's suffix.
pub fn checksum(path: &Path, request: &HttpChecksumRequest) -> Outcome<String> {
    fn of<D: sha2::Digest>(path: &Path, suffix: &[u8]) -> std::io::Result<String> {
        let mut hasher = D::new();
        let mut file = std::fs::File::open(path)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
        hasher.update(suffix);
        Ok(hex::encode(hasher.finalize()))
    }
    let suffix = &request.suffix;
    let (name, digest) = match request.algorithm {
        1 => ("sha384", of::<Sha384>(path, suffix)),
        2 => ("sha512", of::<Sha512>(path, suffix)),
        _ => ("sha256", of::<Sha256>(path, suffix)),
    };
    digest
        .map(|digest| format!("{name}:{digest}"))
        .map_err(internal)
}
