//! One connection in stages that are told apart: name, TCP, proxy, TLS. For the doctor and for error pages; requests go
//! over the HTTP client, which gives no stages.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustls::ClientConnection;
use rustls_pki_types::ServerName;

use super::HTTP2;
use super::diagnose::{tls_failure, transport};
use super::{HostTls, describe, socks};
use crate::registry::error::{Kind, PeerCertificate, TransportError};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Largest answer of a proxy to `CONNECT` that is read.
const MAX_PROXY_ANSWER: usize = 8 << 10;

/// Where to connect to, and how.
pub(crate) struct Target {
    host: String,
    port: u16,
    tls: Option<HostTls>,
    /// The proxy's URL, which may hold a login.
    proxy: Option<String>,
    /// For each stage.
    limit: Duration,
}

impl Target {
    pub(crate) fn new(
        host: &str,
        port: u16,
        tls: Option<&HostTls>,
        proxy: Option<&str>,
        limit: Duration,
    ) -> Self {
        Target {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            tls: tls.cloned(),
            proxy: proxy.map(str::to_owned),
            limit,
        }
    }
}

/// One stage: what came of it and how long it took.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) took: Duration,
    pub(crate) outcome: Result<String, TransportError>,
}

/// What was reached.
#[derive(Default)]
pub(crate) struct Connected {
    pub(crate) stages: Vec<Stage>,
    address: Option<SocketAddr>,
    version: Option<&'static str>,
    pub(crate) chain: Vec<PeerCertificate>,
}

impl Connected {
    /// `10.1.2.3, TLS 1.3`.
    pub(crate) fn summary(&self) -> Option<String> {
        let address = self.address?.ip();
        Some(match self.version {
            Some(version) => format!("{address}, {version}"),
            None => address.to_string(),
        })
    }

    fn stage<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut Self) -> Result<(T, String), TransportError>,
    ) -> Option<T> {
        let start = Instant::now();
        let (value, outcome) = match work(self) {
            Ok((value, text)) => (Some(value), Ok(text)),
            Err(error) => (None, Err(error)),
        };
        self.stages.push(Stage {
            name,
            took: start.elapsed(),
            outcome,
        });
        value
    }
}

/// Connects and hangs up. Blocks.
pub(crate) fn connect(target: &Target) -> Connected {
    let mut connected = Connected::default();
    // What is not said about the peer in the stages below is said here.
    let done = stages(target, &mut connected);
    if done.is_none()
        && let Some(Stage {
            outcome: Err(error),
            ..
        }) = connected.stages.last_mut()
    {
        error.peer = format!("{}:{}", target.host, target.port);
        error.proxy = target.proxy.as_deref().map(crate::registry::proxy::shown);
    }
    connected
}

fn stages(target: &Target, connected: &mut Connected) -> Option<()> {
    let through = target.proxy.as_deref().map(crate::registry::proxy::shown);
    let (host, port) = match through.as_deref().and_then(|proxy| proxy.rsplit_once(':')) {
        Some((host, port)) => (host.trim_matches(['[', ']']), port.parse().ok()?),
        None => (target.host.as_str(), target.port),
    };
    let addresses = connected.stage("dns", |_| resolve(host, port))?;
    let mut stream = connected.stage("tcp", |connected| {
        let stream = dial(&addresses, host, port, target.limit)?;
        // Only the registry's own address is told.
        connected.address = stream.peer_addr().ok().filter(|_| target.proxy.is_none());
        let peer = stream
            .peer_addr()
            .map_or_else(|_| String::new(), |a| a.to_string());
        Ok((stream, format!("connected to {peer}")))
    })?;
    if let Some(proxy) = &target.proxy
        && (target.tls.is_some() || socks::is_socks(proxy))
    {
        connected.stage("proxy", |_| tunnel(&mut stream, target, proxy))?;
    }
    let tls = target.tls.as_ref()?;
    connected.stage("tls", |connected| handshake(stream, target, tls, connected))
}

fn resolve(host: &str, port: u16) -> Result<(Vec<SocketAddr>, String), TransportError> {
    let failed = || transport(Kind::Dns, format!("dial tcp: lookup {host}: no such host"));
    let found = (host, port).to_socket_addrs().map_err(|_| failed())?;
    let addresses: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(failed());
    }
    let mut shown: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
    shown.dedup();
    let text = format!("{host} is {}", shown.join(", "));
    Ok((addresses, text))
}

fn dial(
    addresses: &[SocketAddr],
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<TcpStream, TransportError> {
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(address, limit) {
            Ok(stream) => {
                // Without these limits a silent peer would hold the thread.
                let set = stream
                    .set_read_timeout(Some(limit))
                    .and_then(|()| stream.set_write_timeout(Some(limit)));
                match set {
                    Ok(()) => return Ok(stream),
                    Err(error) => last = Some(error),
                }
            }
            Err(error) => last = Some(error),
        }
    }
    let (kind, why) = match last.as_ref().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => (Kind::TcpRefused, "connect: connection refused"),
        Some(io::ErrorKind::NetworkUnreachable) => {
            (Kind::TcpTimeout, "connect: network is unreachable")
        }
        Some(io::ErrorKind::HostUnreachable) => (Kind::TcpTimeout, "connect: no route to host"),
        _ => (Kind::TcpTimeout, "i/o timeout"),
    };
    Err(transport(kind, format!("dial tcp {host}:{port}: {why}")))
}

fn tunnel(
    stream: &mut TcpStream,
    target: &Target,
    proxy: &str,
) -> Result<((), String), TransportError> {
    let refused = |why: String| transport(Kind::ProxyRefused, format!("proxyconnect tcp: {why}"));
    let shown = crate::registry::proxy::shown(proxy);
    let login_wanted = || {
        transport(
            Kind::ProxyAuth,
            "proxyconnect tcp: Proxy Authentication Required".into(),
        )
    };
    let opened = || Ok(((), format!("{shown} opened a tunnel")));
    if socks::is_socks(proxy) {
        return match socks::open(stream, proxy, (&target.host, target.port)) {
            Ok(()) => opened(),
            Err(socks::Refusal::Login) => Err(login_wanted()),
            Err(socks::Refusal::Other(why)) => Err(refused(why)),
        };
    }
    let authority = match target.host.contains(':') {
        true => format!("[{}]:{}", target.host, target.port),
        false => format!("{}:{}", target.host, target.port),
    };
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Ok(url) = reqwest::Url::parse(proxy)
        && !url.username().is_empty()
    {
        let mut pair = socks::decoded(url.username());
        pair.push(b':');
        pair.extend(socks::decoded(url.password().unwrap_or_default()));
        let login = base64::engine::general_purpose::STANDARD.encode(pair);
        request.push_str(&format!("Proxy-Authorization: Basic {login}\r\n"));
    }
    request.push_str("\r\n");
    let io = |error: io::Error| refused(error.to_string());
    stream.write_all(request.as_bytes()).map_err(io)?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() > MAX_PROXY_ANSWER || stream.read(&mut byte).map_err(io)? == 0 {
            return Err(refused("the proxy's answer breaks off".into()));
        }
        answer.extend_from_slice(&byte);
    }
    let line = String::from_utf8_lossy(&answer);
    let status = line.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => opened(),
        "407" => Err(login_wanted()),
        other => Err(refused(format!("the proxy answered {other}"))),
    }
}

fn handshake(
    mut stream: TcpStream,
    target: &Target,
    tls: &HostTls,
    connected: &mut Connected,
) -> Result<((), String), TransportError> {
    let bad = |text: String| transport(Kind::Other, text);
    let name = ServerName::try_from(target.host.clone()).map_err(|_| {
        bad(format!(
            "{:?} cannot be the name of a TLS server",
            target.host
        ))
    })?;
    let mut connection = ClientConnection::new(Arc::new(tls.config.clone()), name)
        .map_err(|error| bad(error.to_string()))?;
    while connection.is_handshaking() {
        let outcome = connection.complete_io(&mut stream);
        connected.version = connection
            .protocol_version()
            .and_then(|v| v.as_str())
            .map(shown_version);
        if let Err(error) = outcome {
            return Err(failed(&error, target, tls));
        }
    }
    // In TLS 1.3 a missing client certificate is told only after the handshake.
    if tls.asked().is_some()
        && connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3)
    {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
        if let Err(error) = connection.complete_io(&mut stream)
            && error
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>())
        {
            return Err(failed(&error, target, tls));
        }
    }
    let chain = connection.peer_certificates().unwrap_or_default();
    connected.chain = chain.iter().take(8).map(describe).collect();
    let cipher = connection
        .negotiated_cipher_suite()
        .map_or_else(String::new, |suite| format!(", {:?}", suite.suite()));
    let version = connected.version.unwrap_or("TLS");
    let subject = connected.chain.first().map_or_else(String::new, |leaf| {
        format!(", certificate {} of {}", leaf.subject, leaf.issuer)
    });
    let http2 = match connection.alpn_protocol() {
        Some(HTTP2) => ", HTTP/2",
        _ => "",
    };
    Ok(((), format!("{version}{cipher}{http2}{subject}")))
}

fn shown_version(name: &'static str) -> &'static str {
    match name {
        "TLSv1_3" => "TLS 1.3",
        "TLSv1_2" => "TLS 1.2",
        other => other,
    }
}

fn failed(error: &io::Error, target: &Target, tls: &HostTls) -> TransportError {
    if let Some(inner) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        let banner = match inner {
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
                banner(target)
            }
            _ => None,
        };
        return tls_failure(inner, Some(tls), &target.host, banner);
    }
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => transport(
            Kind::HandshakeTimeout,
            "net/http: TLS handshake timeout".into(),
        ),
        io::ErrorKind::ConnectionReset => transport(
            Kind::ClosedInHandshake,
            "read: connection reset by peer".into(),
        ),
        _ => transport(Kind::ClosedInHandshake, "EOF".into()),
    }
}

/// What the port says to a plain HTTP request: its first printable bytes.
fn banner(target: &Target) -> Option<String> {
    if target.proxy.is_some() {
        return None;
    }
    let (addresses, _) = resolve(&target.host, target.port).ok()?;
    let mut stream = dial(&addresses, &target.host, target.port, target.limit).ok()?;
    let request = format!("HEAD / HTTP/1.0\r\nHost: {}\r\n\r\n", target.host);
    stream.write_all(request.as_bytes()).ok()?;
    let mut first = [0; 64];
    let read = stream.read(&mut first).ok()?;
    let text = String::from_utf8_lossy(first.get(..read)?).into_owned();
    let shown: String = text.chars().take_while(|c| !c.is_control()).collect();
    (!shown.is_empty()).then_some(shown)
}
