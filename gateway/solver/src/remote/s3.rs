//! Caches in a bucket of S3, or of anything that speaks its API.
//!
//! Objects `<prefix><blobs_prefix><digest>` and `<prefix><manifests_prefix><name>`. A blob that is there already is
//! touched when it is old, for buckets whose lifecycle removes by age.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use gateway_images::digest::Digest;
use gateway_images::media::Descriptor;
use gateway_images::registry::{SourceReader, WebCall, WebResponse};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::Url;

use super::attrs::{Attrs, Hidden, duration};
use super::net::{Net, RemoteError, TRIES, body, http_date, piece, shown};
use super::sign::{AwsLogin, aws, encoded};
use super::{MAX_CONFIG_BYTES, xml};

pub const KEYS: [&str; 16] = [
    "access_key_id",
    "blobs_prefix",
    "bucket",
    "disable_accept_encoding",
    "endpoint_url",
    "manifests_prefix",
    "name",
    "prefix",
    "region",
    "retry_max_attempts",
    "retry_mode",
    "secret_access_key",
    "session_token",
    "touch_refresh",
    "upload_parallelism",
    "use_path_style",
];

/// Larger objects are sent in parts of at least this size.
const PART: u64 = 8 << 20;
/// The service takes no more parts of one object.
const MAX_PARTS: u64 = 10_000;
/// Parts of one object that are on their way at one time.
const PARTS_AT_ONCE: usize = 4;
/// The service copies no larger object at once.
const MAX_COPY: u64 = 5 << 30;
/// Answers to calls are a few lines of XML.
const MAX_ANSWER: u64 = 1 << 20;
/// How old a blob is before it is touched, unless something else is said.
const TOUCH_REFRESH: Duration = Duration::from_secs(24 * 3600);

/// A bucket, and how to write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    bucket: String,
    region: String,
    prefix: String,
    manifests_prefix: String,
    blobs_prefix: String,
    names: Vec<String>,
    touch_refresh: Duration,
    /// Scheme, host, and path of the bucket, without a slash at its end.
    base: String,
    login: Option<Login>,
    pub parallelism: usize,
    pub tries: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Login {
    key_id: String,
    secret: Hidden,
    token: Option<Hidden>,
}

impl S3 {
    pub fn parse(attrs: &Attrs) -> Result<S3, String> {
        let needed = |key: &str, variable: &str| {
            attrs.or_variable(key, variable).ok_or_else(|| {
                format!("needs {key}=..., or the variable {variable} of the environment")
            })
        };
        let bucket = needed("bucket", "AWS_BUCKET")?;
        let region = needed("region", "AWS_REGION")?;
        let login = match (
            attrs.get("access_key_id"),
            attrs.hidden("secret_access_key"),
        ) {
            (Some(key_id), Some(secret)) => Some(Login {
                key_id: key_id.to_owned(),
                secret,
                token: attrs.hidden("session_token"),
            }),
            (None, None) => {
                let key_id = attrs.variable("AWS_ACCESS_KEY_ID");
                let secret = attrs.variable("AWS_SECRET_ACCESS_KEY");
                key_id.zip(secret).map(|(key_id, secret)| Login {
                    key_id,
                    secret: Hidden::new(secret),
                    token: attrs.variable("AWS_SESSION_TOKEN").map(Hidden::new),
                })
            }
            _ => return Err("access_key_id and secret_access_key need each other".into()),
        };
        if let Some(mode) = attrs.get("retry_mode")
            && !["standard", "adaptive"].contains(&mode)
        {
            return Err(format!("retry_mode is standard or adaptive, not {mode:?}"));
        }
        let tries = attrs.positive("retry_max_attempts")?;
        let refresh = attrs.get("touch_refresh").and_then(duration);
        let path_style = attrs.boolean("use_path_style").unwrap_or_default();
        Ok(S3 {
            base: base(attrs.get("endpoint_url"), &bucket, &region, path_style)?,
            prefix: attrs.given("prefix").unwrap_or_default().to_owned(),
            manifests_prefix: attrs
                .given("manifests_prefix")
                .unwrap_or("manifests/")
                .to_owned(),
            blobs_prefix: attrs.given("blobs_prefix").unwrap_or("blobs/").to_owned(),
            names: attrs.names(),
            touch_refresh: refresh.unwrap_or(TOUCH_REFRESH),
            login,
            parallelism: attrs.positive("upload_parallelism")?.unwrap_or(4).min(64),
            tries: tries.map_or(TRIES, |tries| u32::try_from(tries).unwrap_or(TRIES)),
            bucket,
            region,
        })
    }

    pub fn identity(&self) -> String {
        format!(
            "s3\0{}\0{}\0{}\0{}\0{}",
            self.base,
            self.prefix,
            self.manifests_prefix,
            self.blobs_prefix,
            self.names.join(";")
        )
    }

    pub fn blob_key(&self, blob: &Digest) -> String {
        format!("{}{}{blob}", self.prefix, self.blobs_prefix)
    }

    fn manifest_key(&self, name: &str) -> String {
        format!("{}{}{name}", self.prefix, self.manifests_prefix)
    }

    /// A signed call.
    fn call(
        &self,
        method: &'static str,
        (key, query): (&str, &str),
        mut headers: Vec<(String, String)>,
        body: Bytes,
    ) -> Result<WebCall, RemoteError> {
        let login = self.login.as_ref().ok_or_else(|| {
            RemoteError::Answer(format!(
                "no login for the bucket {}: give access_key_id=... and secret_access_key=..., or set \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                self.bucket
            ))
        })?;
        let text = format!("{}/{}{query}", self.base, encoded(key, true));
        let url = Url::parse(&text)
            .map_err(|error| RemoteError::Answer(format!("{}: {error}", self.base)))?;
        let login = AwsLogin {
            key_id: &login.key_id,
            secret: login.secret.expose(),
            token: login.token.as_ref().map(Hidden::expose),
            region: &self.region,
        };
        let now = OffsetDateTime::now_utc();
        aws(&login, method, &url, &mut headers, &body, now);
        Ok(WebCall {
            method,
            url: url.into(),
            headers,
            body,
        })
    }

    async fn send(
        &self,
        net: &Net,
        method: &'static str,
        place: (&str, &str),
        headers: &[(&str, String)],
        body: Bytes,
    ) -> Result<WebResponse, RemoteError> {
        let headers = || headers.iter().map(|(n, v)| ((*n).to_owned(), v.clone()));
        let make = || self.call(method, place, headers().collect(), body.clone());
        net.send(make).await.map_err(|error| self.hinted(error))
    }

    /// Says what to do, where that is known.
    fn hinted(&self, error: RemoteError) -> RemoteError {
        let RemoteError::Refused(mut refusal) = error else {
            return error;
        };
        let elsewhere = refusal.region.as_deref().filter(|r| **r != self.region);
        refusal.hint = match (refusal.status, refusal.code.as_str(), elsewhere) {
            (301 | 307 | 400, _, Some(region)) => {
                format!("the bucket is in another region: write region={region}")
            }
            (_, "NoSuchBucket", _) => format!("there is no bucket {:?}", self.bucket),
            (_, "RequestTimeTooSkewed", _) => "the clock of this machine is wrong".to_owned(),
            (401 | 403, _, _) => format!(
                "the key {} may not do this, or its secret is another one",
                self.login.as_ref().map_or("", |login| &login.key_id)
            ),
            (301 | 307, _, _) => "is region=... or endpoint_url=... another one?".to_owned(),
            _ => String::new(),
        };
        RemoteError::Refused(refusal)
    }

    /// Only the first name is read, as BuildKit does.
    pub async fn configs(&self, net: &Net) -> Result<Vec<Bytes>, RemoteError> {
        let name = self.names.first().map_or("", String::as_str);
        match self.get(net, &self.manifest_key(name), 0).await {
            Ok(response) => Ok(vec![body(response, MAX_CONFIG_BYTES).await?]),
            Err(error) if error.has_status(404) && !error.has_code("NoSuchBucket") => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    pub async fn get(&self, net: &Net, key: &str, from: u64) -> Result<WebResponse, RemoteError> {
        let range = ("range", format!("bytes={from}-"));
        let headers: &[_] = if from > 0 { &[range] } else { &[] };
        self.send(net, "GET", (key, ""), headers, Bytes::new())
            .await
    }

    /// When the blob was written, and its size; `None` when it is not there.
    async fn head(
        &self,
        net: &Net,
        blob: &Digest,
    ) -> Result<Option<(Option<OffsetDateTime>, u64)>, RemoteError> {
        let key = self.blob_key(blob);
        match self.send(net, "HEAD", (&key, ""), &[], Bytes::new()).await {
            Ok(response) => {
                let when = response.header("last-modified").and_then(http_date);
                let size = response.header("content-length");
                let size = size.and_then(|size| size.parse().ok()).unwrap_or_default();
                Ok(Some((when, size)))
            }
            Err(error) if error.has_status(404) => Ok(None),
            // An answer to HEAD has no body that says why; one to GET does.
            Err(error) if error.has_code("") => match self.get(net, &key, 0).await {
                Err(told) if told.refusal().is_some() && !told.has_code("NoSuchKey") => Err(told),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    pub async fn has(&self, net: &Net, blob: &Digest) -> Result<bool, RemoteError> {
        Ok(self.head(net, blob).await?.is_some())
    }

    /// Whether it is there; one that is old is made new.
    pub async fn keep(&self, net: &Net, blob: &Digest) -> Result<bool, RemoteError> {
        let Some((when, size)) = self.head(net, blob).await? else {
            return Ok(false);
        };
        let age = when.map(|when| OffsetDateTime::now_utc() - when);
        if age.is_some_and(|age| age > self.touch_refresh) {
            self.touch(net, &self.blob_key(blob), size).await?;
        }
        Ok(true)
    }

    /// Copies an object onto itself.
    async fn touch(&self, net: &Net, key: &str, size: u64) -> Result<(), RemoteError> {
        let source = format!("{}/{}", encoded(&self.bucket, false), encoded(key, true));
        if size >= MAX_COPY {
            return self.touch_in_parts(net, key, &source, size).await;
        }
        let now = OffsetDateTime::now_utc().format(&Rfc3339);
        let headers = [
            ("x-amz-copy-source", source),
            ("x-amz-metadata-directive", "REPLACE".to_owned()),
            ("x-amz-meta-updated-at", now.unwrap_or_default()),
        ];
        let sent = self.send(net, "PUT", (key, ""), &headers, Bytes::new());
        self.said_done(&sent.await?.into_body().await?)
    }

    async fn touch_in_parts(
        &self,
        net: &Net,
        key: &str,
        source: &str,
        size: u64,
    ) -> Result<(), RemoteError> {
        let upload = self.begin(net, key).await?;
        let copied = async {
            let mut parts = Vec::new();
            let mut from = 0;
            while from < size {
                let end = (from + MAX_COPY).min(size);
                let query = part_query(&upload, parts.len() + 1);
                let headers = [
                    ("x-amz-copy-source", source.to_owned()),
                    (
                        "x-amz-copy-source-range",
                        format!("bytes={from}-{}", end - 1),
                    ),
                ];
                let sent = self.send(net, "PUT", (key, &query), &headers, Bytes::new());
                let answer = sent.await?.into_body().await?;
                let tag = xml::element(&answer, "ETag").ok_or_else(|| strange(&answer))?;
                parts.push((parts.len() + 1, tag));
                from = end;
            }
            self.complete(net, key, &upload, parts).await
        };
        let done = copied.await;
        self.ended(net, key, &upload, done).await
    }

    pub async fn put_config(&self, net: &Net, config: &Bytes) -> Result<(), RemoteError> {
        for name in &self.names {
            let size = config.len() as u64;
            let source: SourceReader = Box::new(std::io::Cursor::new(config.clone()));
            self.put(net, &self.manifest_key(name), size, source)
                .await?;
        }
        Ok(())
    }

    pub async fn put_blob(
        &self,
        net: &Net,
        blob: &Descriptor,
        source: SourceReader,
    ) -> Result<(), RemoteError> {
        self.put(net, &self.blob_key(&blob.digest), blob.size, source)
            .await
    }

    async fn put(
        &self,
        net: &Net,
        key: &str,
        size: u64,
        mut source: SourceReader,
    ) -> Result<(), RemoteError> {
        if size <= PART {
            let body = piece(&mut source, size).await?;
            self.send(net, "PUT", (key, ""), &[], body).await?;
            return Ok(());
        }
        let upload = self.begin(net, key).await?;
        let done = self.put_parts(net, key, &upload, size, source).await;
        self.ended(net, key, &upload, done).await
    }

    async fn put_parts(
        &self,
        net: &Net,
        key: &str,
        upload: &str,
        size: u64,
        mut source: SourceReader,
    ) -> Result<(), RemoteError> {
        let part = PART.max(size.div_ceil(MAX_PARTS));
        let mut running = FuturesUnordered::new();
        let mut parts = Vec::new();
        let (mut sent, mut number) = (0, 0);
        while sent < size || !running.is_empty() {
            if sent < size && running.len() < PARTS_AT_ONCE {
                let body = piece(&mut source, part.min(size - sent)).await?;
                sent += body.len() as u64;
                number += 1;
                let query = part_query(upload, number);
                running.push(async move {
                    let response = self.send(net, "PUT", (key, &query), &[], body).await?;
                    let tag = response.header("etag").map(str::to_owned);
                    let tag = tag.ok_or_else(|| strange("a part without an ETag"))?;
                    Ok::<_, RemoteError>((number, tag))
                });
                continue;
            }
            if let Some(done) = running.next().await {
                parts.push(done?);
            }
        }
        self.complete(net, key, upload, parts).await
    }

    /// The id of an upload in parts.
    async fn begin(&self, net: &Net, key: &str) -> Result<String, RemoteError> {
        let sent = self.send(net, "POST", (key, "?uploads="), &[], Bytes::new());
        let answer = sent.await?.into_body().await?;
        xml::element(&answer, "UploadId").ok_or_else(|| strange(&answer))
    }

    async fn complete(
        &self,
        net: &Net,
        key: &str,
        upload: &str,
        mut parts: Vec<(usize, String)>,
    ) -> Result<(), RemoteError> {
        parts.sort();
        let list: String = parts
            .iter()
            .map(|(number, tag)| {
                let tag = xml::escaped(tag);
                format!("<Part><ETag>{tag}</ETag><PartNumber>{number}</PartNumber></Part>")
            })
            .collect();
        let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        let query = format!("?uploadId={}", encoded(upload, false));
        let sent = self.send(net, "POST", (key, &query), &[], body.into());
        self.said_done(&sent.await?.into_body().await?)
    }

    /// An upload that failed leaves no parts that are paid for.
    async fn ended(
        &self,
        net: &Net,
        key: &str,
        upload: &str,
        done: Result<(), RemoteError>,
    ) -> Result<(), RemoteError> {
        if done.is_err() {
            let query = format!("?uploadId={}", encoded(upload, false));
            let once = Net {
                registries: net.registries.clone(),
                tries: 1,
            };
            // The first failure is the one to tell.
            let _ = self
                .send(&once, "DELETE", (key, &query), &[], Bytes::new())
                .await;
        }
        done
    }

    /// Some calls are answered by 200 and an error.
    fn said_done(&self, answer: &str) -> Result<(), RemoteError> {
        match answer.contains("<Error>") {
            true => Err(strange(answer)),
            false => Ok(()),
        }
    }
}

fn part_query(upload: &str, number: usize) -> String {
    let upload = encoded(upload, false);
    format!("?partNumber={number}&uploadId={upload}")
}

fn strange(answer: &str) -> RemoteError {
    let said = ["Code", "Message"].map(|name| xml::element(answer, name));
    let said: Vec<String> = said.into_iter().flatten().collect();
    RemoteError::Answer(match said.is_empty() {
        true => "the service did not say that it was done".to_owned(),
        false => format!("the service failed: {}", said.join(": ")),
    })
}

/// Reads a short answer as text.
trait IntoBody {
    async fn into_body(self) -> Result<String, RemoteError>;
}

impl IntoBody for WebResponse {
    async fn into_body(self) -> Result<String, RemoteError> {
        let bytes = body(self, MAX_ANSWER).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The URL of the bucket: by its name before the service's where that can be, else behind it.
fn base(
    endpoint: Option<&str>,
    bucket: &str,
    region: &str,
    path_style: bool,
) -> Result<String, String> {
    let part = encoded(bucket, false);
    let Some(endpoint) = endpoint else {
        let domain = match region {
            _ if region.starts_with("cn-") => "amazonaws.com.cn",
            _ => "amazonaws.com",
        };
        return Ok(match is_label(bucket) {
            true => format!("https://{bucket}.s3.{region}.{domain}"),
            false => format!("https://s3.{region}.{domain}/{part}"),
        });
    };
    let wrong = |problem: &str| {
        let endpoint = shown(endpoint);
        format!("endpoint_url={endpoint}: {problem}")
    };
    let mut url = Url::parse(endpoint).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it must begin with https:// or http://"));
    }
    if url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a query or a login has no place in it"));
    }
    let host = match url.host() {
        Some(url::Host::Domain(name)) => Some(name.to_owned()),
        _ => None,
    };
    let mut behind = format!("/{part}");
    if let Some(host) = host.filter(|_| !path_style && is_label(bucket)) {
        let named = format!("{bucket}.{host}");
        url.set_host(Some(&named))
            .map_err(|error| wrong(&error.to_string()))?;
        behind.clear();
    }
    Ok(format!("{}{behind}", url.as_str().trim_end_matches('/')))
}

/// Whether a bucket's name can be a label of a host's name.
fn is_label(bucket: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (3..=63).contains(&bucket.len())
        && bucket.bytes().all(inner)
        && !bucket.starts_with('-')
        && !bucket.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_before_the_host_or_behind_it() {
        let at = |endpoint, bucket, path_style| base(endpoint, bucket, "eu-1", path_style).unwrap();
        assert_eq!(
            at(None, "my-bucket", false),
            "https://my-bucket.s3.eu-1.amazonaws.com"
        );
        assert_eq!(
            at(None, "my.bucket", false),
            "https://s3.eu-1.amazonaws.com/my.bucket"
        );
        let minio = Some("https://minio.example:9000/");
        assert_eq!(
            at(minio, "bucket", false),
            "https://bucket.minio.example:9000"
        );
        assert_eq!(
            at(minio, "bucket", true),
            "https://minio.example:9000/bucket"
        );
        let address = Some("http://127.0.0.1:9000");
        assert_eq!(at(address, "bucket", false), "http://127.0.0.1:9000/bucket");
        assert_eq!(
            base(None, "bucket", "cn-north-1", false).unwrap(),
            "https://bucket.s3.cn-north-1.amazonaws.com.cn"
        );
        for wrong in [
            "minio.example",
            "ftp://a.example",
            "https://a.example/?x",
            "https://u:p@a",
        ] {
            let problem = base(Some(wrong), "bucket", "r", false).unwrap_err();
            assert!(problem.starts_with("endpoint_url="), "{problem}");
            assert!(!problem.contains("u:p"), "{problem}");
        }
    }
}
