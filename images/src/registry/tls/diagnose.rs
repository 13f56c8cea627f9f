//! From the HTTP client's nested errors to one named failure.
//!
//! The cause sits several `source()` levels down, and inside `io::Error` where plain walking skips it. What the error
//! does not tell (plain HTTP? a hanging handshake?) is found out by one short connection of our own.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, InvalidMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::HostTls;
use super::connect::{Target, connect};
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
    /// The proxy on the way, `host:port`.
    pub(crate) proxy: Option<&'a str>,
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

/// What the system said: the innermost kind, since what wraps it has none of its own.
fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut kind = None;
    let mut next = Some(error);
    for _ in 0..DEEPEST {
        let Some(link) = next else { break };
        let io = link.downcast_ref::<io::Error>();
        match io.map(io::Error::kind) {
            Some(io::ErrorKind::Other) if kind.is_some() => {}
            Some(found) => kind = Some(found),
            None => {}
        }
        next = match io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => link.source(),
        };
    }
    kind
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

/// hyper's words for a connection that ended between its making and its first request.
const CLOSED_BEFORE_USE: &str = "connection was not ready";

/// Names the failure of a request that got no answer.
pub(crate) async fn classify(error: &reqwest::Error, probe: Probe<'_>) -> TransportError {
    let mut failure = match find::<rustls::Error>(error) {
        Some(rustls_error) => {
            let banner = match rustls_error {
                rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                    banner(&probe).await
                }
                _ => None,
            };
            let mut failure = tls_failure(rustls_error, probe.tls, probe.host, banner);
            // A second look tells the address and what was agreed on.
            if let (Some(tls), Some(report), None) = (probe.tls, &failure.report, probe.proxy) {
                let target = Target::new(probe.host, probe.port, Some(tls), None, PROBE_TIME);
                if let Ok(connected) = tokio::task::spawn_blocking(move || connect(&target)).await {
                    let mut report = PeerReport::clone(report);
                    report.connection = connected.summary();
                    failure.report = Some(Arc::new(report));
                }
            }
            failure
        }
        None => {
            let authority = format!("{}:{}", probe.host, probe.port);
            let (kind, phrase) = plain_failure(error, &probe, &authority).await;
            let unproven = |tls: &&HostTls| tls.asked().is_some() && !tls.has_client_cert();
            match probe.tls.filter(unproven) {
                // In TLS 1.3 the refusal comes after the handshake: when the request is not yet on its way, the
                // connection's own task takes the alert, and only its end is seen here.
                Some(tls) if kind == Kind::Other && phrase.contains(CLOSED_BEFORE_USE) => {
                    let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
                    tls_failure(&alert, Some(tls), probe.host, None)
                }
                _ => transport(kind, phrase),
            }
        }
    };
    failure.peer = format!("{}:{}", probe.host, probe.port);
    failure.proxy = probe.proxy.map(str::to_owned);
    failure
}

pub(super) fn transport(kind: Kind, phrase: String) -> TransportError {
    TransportError {
        kind,
        phrase,
        peer: String::new(),
        url: None,
        proxy: None,
        report: None,
    }
}

/// Names a failed handshake. `banner` is what the port says to plain HTTP, where that was asked.
pub(super) fn tls_failure(
    error: &rustls::Error,
    tls: Option<&HostTls>,
    host: &str,
    banner: Option<String>,
) -> TransportError {
    if let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error
        && let Some(refused) = (&*other.0 as &(dyn StdError + 'static)).downcast_ref::<Refused>()
    {
        return refused.0.clone();
    }
    let asked = tls.and_then(HostTls::asked);
    let has_cert = tls.is_some_and(HostTls::has_client_cert);
    let (kind, phrase) = handshake_failure(error, asked.is_some(), has_cert, banner);
    let mut failure = transport(kind, phrase);
    let cipher = kind == Kind::NoSharedCipher;
    if asked.is_some() || cipher {
        let note = "ciphers with CBC and key exchange by RSA alone are not spoken; some old appliances have no others";
        failure.report = Some(Arc::new(PeerReport {
            server_name: host.to_owned(),
            client_cert_asked: asked,
            certs_dir: tls.and_then(HostTls::certs_dir),
            note: cipher.then(|| note.to_owned()),
            ..PeerReport::default()
        }));
    }
    failure
}

fn handshake_failure(
    error: &rustls::Error,
    asked: bool,
    has_cert: bool,
    banner: Option<String>,
) -> (Kind, String) {
    use AlertDescription as Alert;
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => match banner {
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
        },
        rustls::Error::AlertReceived(alert) => match alert {
            Alert::CertificateRequired => (
                Kind::ClientCertRequired,
                "remote error: tls: certificate required".into(),
            ),
            Alert::HandshakeFailure if asked && !has_cert => (
                Kind::ClientCertRequired,
                "remote error: tls: handshake failure".into(),
            ),
            Alert::BadCertificate if asked && !has_cert => (
                Kind::ClientCertRequired,
                "remote error: tls: bad certificate".into(),
            ),
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::HandshakeFailure
            | Alert::UnsupportedCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::DecryptError
            | Alert::AccessDenied
                if asked && has_cert =>
            {
                (
                    Kind::ClientCertRejected,
                    format!("remote error: tls: {}", words(*alert)),
                )
            }
            Alert::HandshakeFailure => (
                Kind::NoSharedCipher,
                "remote error: tls: handshake failure".into(),
            ),
            Alert::ProtocolVersion => (
                Kind::ProtocolVersion,
                "remote error: tls: protocol version not supported".into(),
            ),
            Alert::UnrecognisedName => (
                Kind::SniRefused,
                "remote error: tls: unrecognized name".into(),
            ),
            other => (Kind::Other, format!("remote error: tls: {}", words(*other))),
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

/// Go's words for an alert.
fn words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "unknown certificate authority".into(),
        AlertDescription::BadCertificate => "bad certificate".into(),
        AlertDescription::HandshakeFailure => "handshake failure".into(),
        AlertDescription::UnsupportedCertificate => "unsupported certificate".into(),
        AlertDescription::CertificateExpired => "expired certificate".into(),
        AlertDescription::CertificateRevoked => "revoked certificate".into(),
        AlertDescription::CertificateUnknown => "unknown certificate".into(),
        AlertDescription::DecryptError => "error decrypting message".into(),
        AlertDescription::AccessDenied => "access denied".into(),
        AlertDescription::InternalError => "internal error".into(),
        other => format!("{other:?}"),
    }
}

async fn plain_failure(
    error: &reqwest::Error,
    probe: &Probe<'_>,
    authority: &str,
) -> (Kind, String) {
    let text = innermost(error);
    let io_kind = io_kind(error);
    if let Some(proxy) = probe.proxy
        && error.is_connect()
    {
        return through_proxy(error, &text, io_kind, proxy);
    }
    if probe.tls.is_none() && (text.contains("invalid HTTP") || text.contains("HTTP/0.9")) {
        return (
            Kind::SpeaksTls,
            "net/http: HTTP/1.x transport connection broken: malformed HTTP response".into(),
        );
    }
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

/// The way to the proxy, or what it said to `CONNECT`.
fn through_proxy(
    error: &reqwest::Error,
    text: &str,
    io_kind: Option<io::ErrorKind>,
    proxy: &str,
) -> (Kind, String) {
    // The last two are what SOCKS proxies say: a login is missing, or wrong.
    let login = [
        "authorization required",
        "authentication required",
        "server does not support user/pass authentication",
        "credentials not accepted",
    ];
    let named = |words: &&str| text.contains(*words) || debug_chain_names(error, words);
    if login.iter().any(named) {
        return (
            Kind::ProxyAuth,
            "proxyconnect tcp: Proxy Authentication Required".into(),
        );
    }
    let why = if io_kind == Some(io::ErrorKind::ConnectionRefused) {
        format!("dial tcp {proxy}: connect: connection refused")
    } else if error.is_timeout() {
        format!("dial tcp {proxy}: i/o timeout")
    } else if debug_chain_names(error, "dns error") {
        let host = proxy.rsplit_once(':').map_or(proxy, |(host, _)| host);
        format!("dial tcp: lookup {host}: no such host")
    } else {
        text.to_owned()
    };
    (Kind::ProxyRefused, format!("proxyconnect tcp: {why}"))
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
