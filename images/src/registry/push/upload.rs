//! One blob: asked for, taken from another repository, or sent in one piece.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
};
use reqwest::{Method, Response, Url};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::{Sent, SourceReader, Trouble, Upload};
use crate::digest::Digest;
use crate::media::Descriptor;
use crate::reference::Reference;
use crate::registry::error::{HostError, Kind, StatusError};
use crate::registry::hosts::HostClient;
use crate::registry::quirks::Quirk;
use crate::registry::transport::{Answer, Request, named, read_limited, registry_error, verb};

/// Tries of one upload; each starts over, because the registry's session may be gone.
const MAX_UPLOAD_TRIES: u32 = 4;
/// Repositories that are tried as the source of a blob.
const MAX_ORIGINS: usize = 3;
/// Larger pieces make fewer writes; smaller ones less memory.
const PIECE: usize = 256 << 10;
const MAX_ERROR_BODY: u64 = 64 << 10;
/// An upload slower than this is stuck.
const SLOWEST_UPLOAD: u64 = 16 << 10;

/// What became of the wish to take a blob from another repository.
enum Mounted {
    Yes,
    /// Refused, with an upload opened instead.
    Session(Url),
    No,
}

/// How the next try differs from the usual one.
#[derive(Clone, Copy, Default)]
struct Manner {
    in_pieces: Option<u16>,
    bare_colon: bool,
}

impl Upload<'_> {
    pub(super) async fn blob(&self, blob: &Descriptor, ask_first: bool) -> Result<Sent, Trouble> {
        if ask_first && self.is_there(blob).await? {
            self.remember(blob);
            return Ok(Sent::Present);
        }
        let mut session = None;
        if ask_first {
            for origin in self.origins(blob) {
                match self.mount(blob, &origin).await? {
                    Mounted::Yes => {
                        self.remember(blob);
                        return Ok(Sent::Mounted);
                    }
                    Mounted::Session(url) => {
                        session = Some(url);
                        break;
                    }
                    Mounted::No => {}
                }
            }
        }
        let mut manner = Manner::default();
        let mut tries = 0;
        loop {
            let sent = match manner.in_pieces {
                Some(_) => self.send_in_pieces(blob).await,
                None => self.send_whole(blob, session.take(), manner).await,
            };
            let Err(trouble) = sent else {
                if let Some(status) = manner.in_pieces {
                    self.quirk(Quirk::UploadInPieces(status));
                }
                if manner.bare_colon {
                    self.quirk(Quirk::DigestColon);
                }
                self.remember(blob);
                return Ok(Sent::Uploaded);
            };
            let Trouble::Host { error, .. } = &trouble else {
                return Err(trouble);
            };
            let again = match &**error {
                HostError::Transport(transport) => {
                    // A front end that refuses a body by its size may hang up instead of saying so.
                    if transport.kind == Kind::TcpReset && tries + 2 >= MAX_UPLOAD_TRIES {
                        manner.in_pieces = Some(413);
                    }
                    transport.kind.is_passing()
                }
                HostError::Status(status) => match status.status {
                    413 | 416 if manner.in_pieces.is_none() => {
                        manner.in_pieces = Some(status.status);
                        true
                    }
                    400 | 404 if !manner.bare_colon && tries == 0 => {
                        // The session may be lost, or the address not understood.
                        manner.bare_colon = status.code.as_deref() != Some("BLOB_UPLOAD_UNKNOWN");
                        true
                    }
                    401 | 404 | 408 | 429 | 500 | 502..=504 => true,
                    _ => false,
                },
                _ => false,
            };
            tries += 1;
            if !again || tries >= MAX_UPLOAD_TRIES {
                return Err(trouble);
            }
            self.inner.pause(tries - 1).await;
        }
    }

    fn quirk(&self, quirk: Quirk) {
        self.inner.quirk(&self.endpoint.client, quirk);
    }

    /// The registry has the blob in this repository from now on.
    fn remember(&self, blob: &Descriptor) {
        let repository = self.endpoint.repository(self.reference);
        let host = &self.endpoint.client.host;
        self.inner.hosts.seen_in(host, &repository, &blob.digest);
    }

    async fn is_there(&self, blob: &Descriptor) -> Result<bool, Trouble> {
        let url = self.url(&format!("blobs/{}", blob.digest))?;
        let mut request = Request::get(url.clone(), self.scope());
        request.method = Method::HEAD;
        let status = match self.inner.send(self.endpoint, &request).await {
            Ok(_) => return Ok(true),
            Err(HostError::Status(status)) => status.status,
            // Who may not push is told so by the upload, with the registry's reason.
            Err(HostError::Auth(auth)) if auth.status == Some(403) => 403,
            Err(error) => {
                return Err(Trouble::Host {
                    verb: "Head",
                    url,
                    error: Box::new(error),
                });
            }
        };
        // Registries without HEAD for blobs say all sorts of things; the upload will tell.
        if status != 404 {
            self.quirk(Quirk::BlobHead(status));
        }
        Ok(false)
    }

    /// Repositories of this registry that may have the blob, the nearest by name first.
    fn origins(&self, blob: &Descriptor) -> Vec<String> {
        let own = self.endpoint.repository(self.reference);
        let named = self.source.origins(blob);
        let here = |origin: &&Reference| origin.api_host() == self.reference.api_host();
        let mut origins: Vec<String> = named
            .iter()
            .filter(here)
            .map(|origin| self.endpoint.repository(origin))
            .collect();
        let seen = &self.inner.hosts;
        origins.extend(seen.repositories_with(&self.endpoint.client.host, &blob.digest));
        let shared = |name: &String| {
            let pairs = name.split('/').zip(own.split('/'));
            std::cmp::Reverse(pairs.take_while(|(a, b)| a == b).count())
        };
        origins.sort_by_key(shared);
        let mut unique = BTreeSet::new();
        origins.retain(|origin| *origin != own && unique.insert(origin.clone()));
        origins.truncate(MAX_ORIGINS);
        origins
    }

    /// Asks the registry to take the blob from another of its repositories. Whatever it says against
    /// that, the blob can still be sent.
    async fn mount(&self, blob: &Descriptor, from: &str) -> Result<Mounted, Trouble> {
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", &blob.digest.to_string())
            .append_pair("from", from);
        let mut request = Request::get(url, self.scope());
        request.method = Method::POST;
        request.body = Some(("application/octet-stream", Bytes::new()));
        request.further_scope = Some(format!("repository:{from}:pull"));
        match self.inner.send(self.endpoint, &request).await {
            Ok(answer) if answer.response.status().as_u16() == 201 => Ok(Mounted::Yes),
            Ok(answer) => Ok(self
                .upload_url(&answer)
                .map_or(Mounted::No, Mounted::Session)),
            Err(HostError::Status(status)) => {
                self.quirk(Quirk::Mount(status.status));
                Ok(Mounted::No)
            }
            Err(_) => Ok(Mounted::No),
        }
    }

    /// Opens an upload.
    pub(super) async fn start(&self) -> Result<(Url, HeaderMap), Trouble> {
        let url = self.url("blobs/uploads/")?;
        let mut request = Request::get(url.clone(), self.scope());
        request.method = Method::POST;
        request.body = Some(("application/octet-stream", Bytes::new()));
        let wrong = |error| Trouble::Host {
            verb: "Post",
            url: url.clone(),
            error: Box::new(explained(error)),
        };
        let answer = self
            .inner
            .send(self.endpoint, &request)
            .await
            .map_err(wrong)?;
        let target = self.upload_url(&answer).map_err(wrong)?;
        Ok((target, answer.response.headers().clone()))
    }

    pub(super) async fn open(&self, blob: &Descriptor) -> Result<SourceReader, Trouble> {
        match blob.embedded() {
            Some(bytes) => Ok(Box::new(io::Cursor::new(bytes)) as SourceReader),
            None => self
                .source
                .open(blob)
                .await
                .map_err(|e| Trouble::Source(blob.digest.clone(), e)),
        }
    }

    /// POST for a session unless one is open, then the whole blob in one PUT.
    async fn send_whole(
        &self,
        blob: &Descriptor,
        session: Option<Url>,
        manner: Manner,
    ) -> Result<(), Trouble> {
        let target = match session {
            Some(target) => target,
            None => self.start().await?.0,
        };
        let target = with_digest(target, &blob.digest, manner.bare_colon);
        let reader = self.open(blob).await?;
        let stream = ReaderStream::with_capacity(reader.take(blob.size), PIECE);
        let body = reqwest::Body::wrap_stream(stream);
        let response = self
            .put(Method::PUT, &target, blob.size, body, HeaderMap::new())
            .await?;
        self.finished(blob, &target, response).await
    }

    /// One request with a body of known length to an upload's address. The login goes to the registry itself only.
    pub(super) async fn put(
        &self,
        method: Method,
        target: &Url,
        length: u64,
        body: reqwest::Body,
        mut headers: HeaderMap,
    ) -> Result<Response, Trouble> {
        let wrong = |error| Trouble::Host {
            verb: verb(&method),
            url: target.clone(),
            error: Box::new(error),
        };
        let own = self.url("blobs/uploads/")?;
        let home = target.origin() == own.origin();
        let client: Arc<HostClient> = match home {
            true => self.endpoint.client.clone(),
            false => self
                .inner
                .hosts
                .client_for_url(&self.inner.config, target, &self.endpoint.client)
                .map_err(wrong)?,
        };
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        // Announced, because many front ends refuse a body of unknown length.
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        if home {
            let scopes = BTreeSet::from([self.scope()]);
            let login = self.inner.authorization(&client, &scopes).await;
            if let Some(value) = login.map_err(wrong)? {
                headers.insert(AUTHORIZATION, value);
            }
        }
        let sent = client
            .upload
            .request(method.clone(), target.clone())
            .timeout(longest_upload(length))
            .headers(headers)
            .body(body)
            .send()
            .await;
        match sent {
            Ok(response) => Ok(response),
            Err(error) => Err(wrong(HostError::Transport(
                named(&error, target, &client).await,
            ))),
        }
    }

    /// Judges the answer to the request that completes a blob.
    pub(super) async fn finished(
        &self,
        blob: &Descriptor,
        target: &Url,
        response: Response,
    ) -> Result<(), Trouble> {
        let status = response.status().as_u16();
        let wrong = |error| Trouble::Host {
            verb: "Put",
            url: target.clone(),
            error: Box::new(error),
        };
        if !matches!(status, 200 | 201 | 202 | 204) {
            return Err(wrong(explained(refusal(response).await)));
        }
        let stated = response.headers().get("docker-content-digest");
        if let Some(found) = stated
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.trim().parse::<Digest>().ok())
            && found != blob.digest
        {
            return Err(wrong(HostError::Digest {
                expected: blob.digest.clone(),
                found,
            }));
        }
        // Accepted is not stored.
        if status == 202 {
            self.quirk(Quirk::UploadAccepted);
            if !self.is_there(blob).await? {
                let words = "the registry accepted the upload and does not have it";
                return Err(wrong(HostError::Body(words.into())));
            }
        }
        Ok(())
    }

    /// The upload's address, in any of the forms that registries give; its own query is kept.
    pub(super) fn upload_url(&self, session: &Answer) -> Result<Url, HostError> {
        let location = session.response.headers().get(LOCATION);
        let location = location.and_then(|v| v.to_str().ok()).ok_or_else(|| {
            HostError::Redirect("the registry opened an upload without saying where".into())
        })?;
        self.location(&session.url, location)
    }

    /// Where a `Location` leads from `url`.
    pub(super) fn location(&self, url: &Url, location: &str) -> Result<Url, HostError> {
        let unreadable = || HostError::Redirect("the upload's Location can't be read".into());
        // `host/path` without a scheme is meant as an address when it begins with the registry's own host.
        let bare = location
            .strip_prefix(self.endpoint.client.host.as_str())
            .filter(|rest| rest.starts_with('/'));
        let mut target = match bare {
            Some(rest) => url.join(rest),
            None => url.join(location),
        }
        .map_err(|_| unreadable())?;
        if !matches!(target.scheme(), "http" | "https") {
            return Err(HostError::Redirect(
                "the upload's Location is not on http or https".into(),
            ));
        }
        if url.scheme() == "https" && target.scheme() == "http" {
            if target.host_str() != url.host_str() {
                return Err(HostError::Redirect(
                    "sent to plain http for the upload: not followed".into(),
                ));
            }
            // A proxy in front ends TLS and the registry does not know: the same host is meant.
            let port = url.port();
            if target.set_scheme("https").is_err() || target.set_port(port).is_err() {
                return Err(unreadable());
            }
            self.quirk(Quirk::UploadAddress);
        }
        Ok(target)
    }
}

/// The upload's address with the digest behind its own query.
pub(super) fn with_digest(mut target: Url, digest: &Digest, bare_colon: bool) -> Url {
    if bare_colon {
        let query = match target.query() {
            Some(query) if !query.is_empty() => format!("{query}&digest={digest}"),
            _ => format!("digest={digest}"),
        };
        target.set_query(Some(&query));
        return target;
    }
    target
        .query_pairs_mut()
        .append_pair("digest", &digest.to_string());
    target
}

fn longest_upload(size: u64) -> Duration {
    Duration::from_secs(60 + size / SLOWEST_UPLOAD)
}

/// An answer that is no success, read.
pub(super) async fn refusal(response: Response) -> HostError {
    let status = response.status().as_u16();
    let body = read_limited(response, MAX_ERROR_BODY)
        .await
        .unwrap_or_default();
    let (code, message) = registry_error(&body);
    HostError::Status(StatusError {
        status,
        code,
        message,
        head_status: None,
        redirected_to: None,
    })
}

/// Adds what to do where the registry's answer does not say it.
pub(super) fn explained(error: HostError) -> HostError {
    let HostError::Status(failure) = error else {
        return error;
    };
    let unknown = failure.code.as_deref() == Some("NAME_UNKNOWN");
    let hint = match failure.status {
        404 if unknown => {
            "the registry wants the repository (or project) to be there before a push: create it first"
        }
        507 => "the registry has no room left",
        _ => return HostError::Status(failure),
    };
    HostError::Refused {
        failure,
        hint: hint.into(),
    }
}
