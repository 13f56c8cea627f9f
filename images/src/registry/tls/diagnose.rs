//! From the HTTP client's nested errors to one named failure.
//!
//! The cause sits several `source()` levels down, and inside `io::Error` where plain walking skips it. What the error
//! does not tell (plain HTTP? a hanging handshake?) is found out by one short connection of our own.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription, InvalidMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::HostTls;
use super::verifier::Refused;
use crate::registry::error::{Kind, PeerReport, TransportError};

/// A probe is for the error text only, so it is short.
const PROBE_TIME: Duration = Duration::from_secs(3);

const PLAIN_HTTP: &str = "http: server gave HTTP response to HTTPS client";

/// Where the failed request went.
pub(crate) struct Probe<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) tls: Option<&'a HostTls>,
}

/// Links of an error chain that are looked at.
const DEEPEST: usize = 16;

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    for _ in 0..DEEPEST {
        let link = next?;
        if let Some(found) = link.downcast_ref::<T>() {
            return Some(found);
        }
        next = match link
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => link.source(),
        };
    }
    None
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut link = error;
    for _ in 0..DEEPEST {
        let next: Option<&(dyn StdError + 'static)> = match link
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => link.source(),
        };
        match next {
            Some(next) => link = next,
            None => break,
        }
    }
    link.to_string()
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect()
}

/// Names the failure of a request that got no answer.
pub(crate) async fn classify(error: &reqwest::Error, probe: Probe<'_>) -> TransportError {
    let authority = format!("{}:{}", probe.host, probe.port);
    if let Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) =
        find::<rustls::Error>(error)
        && let Some(refused) = (&*other.0 as &(dyn StdError + 'static)).downcast_ref::<Refused>()
    {
        return TransportError {
            peer: authority,
            ..refused.0.clone()
        };
    }
    let mut report = None;
    let (kind, phrase) = match find::<rustls::Error>(error) {
        Some(tls_error) => {
            let asked = probe.tls.and_then(HostTls::asked);
            let found = tls_failure(tls_error, &probe, asked.is_some()).await;
            if asked.is_some() {
                report = Some(std::sync::Arc::new(PeerReport {
                    server_name: probe.host.to_owned(),
                    client_cert_asked: asked,
                    ..PeerReport::default()
                }));
            }
            found
        }
        None => plain_failure(error, &probe, &authority).await,
    };
    TransportError {
        kind,
        phrase,
        peer: authority,
        report,
    }
}

async fn tls_failure(error: &rustls::Error, probe: &Probe<'_>, asked: bool) -> (Kind, String) {
    let has_cert = probe.tls.is_some_and(HostTls::has_client_cert);
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            match banner(probe).await {
                Some(banner) if banner.starts_with("HTTP/") => (Kind::PlainHttp, PLAIN_HTTP.into()),
                Some(banner) => (
                    Kind::NotTls,
                    format!(
                        "tls: first record does not look like a TLS handshake (it says {banner:?})"
                    ),
                ),
                None => (
                    Kind::NotTls,
                    "tls: first record does not look like a TLS handshake".into(),
                ),
            }
        }
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => (
                Kind::ClientCertRequired,
                "remote error: tls: certificate required".into(),
            ),
            AlertDescription::HandshakeFailure if asked && !has_cert => (
                Kind::ClientCertRequired,
                "remote error: tls: handshake failure".into(),
            ),
            AlertDescription::HandshakeFailure => (
                Kind::NoSharedCipher,
                "remote error: tls: handshake failure".into(),
            ),
            AlertDescription::ProtocolVersion => (
                Kind::ProtocolVersion,
                "remote error: tls: protocol version not supported".into(),
            ),
            AlertDescription::UnrecognisedName => (
                Kind::SniRefused,
                "remote error: tls: unrecognized name".into(),
            ),
            AlertDescription::UnknownCA | AlertDescription::BadCertificate if asked && has_cert => {
                (
                    Kind::ClientCertRejected,
                    "remote error: tls: bad certificate".into(),
                )
            }
            AlertDescription::BadCertificate if asked => (
                Kind::ClientCertRequired,
                "remote error: tls: bad certificate".into(),
            ),
            other => (Kind::Other, format!("remote error: tls: {other:?}")),
        },
        rustls::Error::PeerIncompatible(_) => (
            Kind::ProtocolVersion,
            "remote error: tls: protocol version not supported".into(),
        ),
        other => (
            Kind::Other,
            format!(
                "tls: {}",
                other.to_string().chars().take(200).collect::<String>()
            ),
        ),
    }
}

async fn plain_failure(
    error: &reqwest::Error,
    probe: &Probe<'_>,
    authority: &str,
) -> (Kind, String) {
    let text = innermost(error);
    let io_kind = find::<io::Error>(error).map(io::Error::kind);
    if io_kind == Some(io::ErrorKind::ConnectionRefused) {
        return (
            Kind::TcpRefused,
            format!("dial tcp {authority}: connect: connection refused"),
        );
    }
    if text.contains("failed to lookup address") || debug_chain_names(error, "dns error") {
        return (
            Kind::Dns,
            format!("dial tcp: lookup {}: no such host", probe.host),
        );
    }
    let in_handshake = text.contains("tls handshake eof");
    if in_handshake {
        return (Kind::ClosedInHandshake, "EOF".into());
    }
    if io_kind == Some(io::ErrorKind::ConnectionReset) {
        let kind = if error.is_connect() {
            Kind::ClosedInHandshake
        } else {
            Kind::TcpReset
        };
        return (kind, "read: connection reset by peer".into());
    }
    if error.is_timeout() && error.is_connect() {
        // TCP that connects at once means that it was the handshake that hung.
        let dialled =
            tokio::time::timeout(PROBE_TIME, TcpStream::connect((probe.host, probe.port))).await;
        return match dialled {
            Ok(Ok(_)) if probe.tls.is_some() => match banner(probe).await {
                Some(banner) if banner.starts_with("HTTP/") => (Kind::PlainHttp, PLAIN_HTTP.into()),
                _ => (
                    Kind::HandshakeTimeout,
                    "net/http: TLS handshake timeout".into(),
                ),
            },
            _ => (
                Kind::TcpTimeout,
                format!("dial tcp {authority}: i/o timeout"),
            ),
        };
    }
    if error.is_timeout() {
        return (
            Kind::ResponseTimeout,
            "net/http: timeout awaiting response headers".into(),
        );
    }
    if text.contains("connection closed") {
        return (Kind::TcpReset, "EOF".into());
    }
    (Kind::Other, text)
}

fn debug_chain_names(error: &(dyn StdError + 'static), words: &str) -> bool {
    let mut next = Some(error);
    for _ in 0..DEEPEST {
        let Some(link) = next else { return false };
        if link.to_string().contains(words) {
            return true;
        }
        next = link.source();
    }
    false
}

/// What the port says to a plain HTTP request: its first printable bytes.
async fn banner(probe: &Probe<'_>) -> Option<String> {
    let ask = async {
        let mut stream = TcpStream::connect((probe.host, probe.port)).await.ok()?;
        let request = format!("HEAD / HTTP/1.0\r\nHost: {}\r\n\r\n", probe.host);
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut first = [0; 64];
        let read = stream.read(&mut first).await.ok()?;
        let text = String::from_utf8_lossy(first.get(..read)?).into_owned();
        Some(text.chars().take_while(|c| !c.is_control()).collect())
    };
    tokio::time::timeout(PROBE_TIME, ask)
        .await
        .ok()
        .flatten()
        .filter(|text: &String| !text.is_empty())
}
