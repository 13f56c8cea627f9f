//! What can go wrong with a registry, as data: which host, which request, why.
//!
//! The one-line forms keep the words of BuildKit and Go (`failed to do request: Head …: x509: …`), because people and scripts
//! search for them. `page` renders the long form.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::choose::NoMatch;
use crate::digest::Digest;
use crate::media::ManifestError;

/// A failure of a registry operation.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Every host that may serve the reference was asked; each attempt has its own reason.
    #[error("{}", all_failed(.reference, .attempts))]
    AllHostsFailed {
        reference: String,
        attempts: Vec<Attempt>,
    },
    /// The index holds nothing for the platform.
    #[error("{reference}: {source}")]
    NoMatch { reference: String, source: NoMatch },
    /// What was served by digest is right but is not what it should be.
    #[error("{reference}: {source}")]
    Manifest {
        reference: String,
        source: ManifestError,
    },
    #[error("{reference}: {digest} is {size} bytes, more than the {limit} that are read")]
    TooLarge {
        reference: String,
        digest: Digest,
        size: u64,
        limit: u64,
    },
    #[error("{reference}: indexes are nested more than {limit} deep")]
    TooDeep { reference: String, limit: usize },
    #[error(
        "{reference}: unable to fetch descriptor ({digest}) which reports content size of zero"
    )]
    ZeroSize { reference: String, digest: Digest },
    /// The caller asked that nothing be fetched.
    #[error("{reference}: not held locally, and registries may not be asked (offline)")]
    Offline { reference: String },
    /// The registry configuration can't be used: a CA file without certificates, a key that does not fit.
    #[error("registry configuration for {host}: {problem}")]
    Config { host: String, problem: String },
    /// The local store failed while a blob came in.
    #[error("store {digest}: {source}")]
    Store {
        digest: Digest,
        source: crate::store::StoreError,
    },
    /// The local side of a push could not be read.
    #[error("read {digest} for the push: {source}")]
    Source {
        digest: Digest,
        source: std::io::Error,
    },
}

impl RegistryError {
    /// The attempt to show first: the most actionable reason.
    pub fn primary(&self) -> Option<&Attempt> {
        match self {
            RegistryError::AllHostsFailed { attempts, .. } => primary(attempts),
            _ => None,
        }
    }

    /// True when no registry is at fault: this machine's store or files failed.
    pub fn is_local(&self) -> bool {
        matches!(
            self,
            RegistryError::Store { .. } | RegistryError::Source { .. }
        )
    }

    /// True when every host said that the object is not there.
    pub fn is_not_found(&self) -> bool {
        match self {
            RegistryError::AllHostsFailed { attempts, .. } => {
                !attempts.is_empty() && attempts.iter().all(|a| a.error.is_not_found())
            }
            _ => false,
        }
    }
}

/// One host that was asked, and what came of it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// `host[:port]` as configured.
    pub host: String,
    /// The host stood in as a mirror of another.
    pub mirror: bool,
    /// Which of how many mirrors.
    pub place: Option<(usize, usize)>,
    /// The proxy that the request went through, `host:port`.
    pub proxy: Option<String>,
    /// The request's verb as Go capitalises it: `Head`, `Get`, `Put`, `Post`.
    pub verb: &'static str,
    /// Without credentials and without query except `ns`.
    pub url: String,
    pub error: HostError,
}

/// Why one host did not serve a request.
#[derive(Debug, Clone)]
pub enum HostError {
    /// No HTTP answer: DNS, TCP, TLS.
    Transport(TransportError),
    /// An HTTP status that ends the matter.
    Status(StatusError),
    /// The same, with what to do about it.
    Refused {
        failure: StatusError,
        hint: String,
    },
    /// Login needed or refused.
    Auth(AuthError),
    Manifest(ManifestError),
    /// The content is not what its digest says.
    Digest {
        expected: Digest,
        found: Digest,
    },
    /// More or fewer bytes than the descriptor says.
    Size {
        expected: u64,
        found: u64,
    },
    TooLarge {
        limit: u64,
    },
    /// Sent elsewhere in a way that is not followed.
    Redirect(String),
    /// The body broke off and could not be resumed.
    Body(String),
    /// Not asked again, because it failed a moment ago.
    Skipped(Box<HostError>),
    /// Configuration of this host can't be used.
    Config(String),
}

impl HostError {
    pub fn is_not_found(&self) -> bool {
        match self {
            HostError::Status(status) => status.status == 404,
            _ => false,
        }
    }

    /// Lower is more actionable, and shown first.
    fn rank(&self) -> u8 {
        match self {
            HostError::Config(_) => 0,
            HostError::Transport(t) if t.kind.is_tls() => 1,
            HostError::Auth(_) => 3,
            HostError::Digest { .. } | HostError::Size { .. } | HostError::Manifest(_) => 4,
            HostError::TooLarge { .. } | HostError::Redirect(_) | HostError::Body(_) => 5,
            HostError::Status(status) if status.status == 404 => 7,
            HostError::Refused { .. } => 2,
            HostError::Status(_) => 6,
            // "Not there" of one host says more than the silence of another, as in BuildKit.
            HostError::Transport(_) => 8,
            HostError::Skipped(inner) => inner.rank(),
        }
    }
}

/// No answer came. `phrase` is Go's wording; `kind` is stable and for machines.
#[derive(Debug, Clone)]
pub struct TransportError {
    pub kind: Kind,
    pub phrase: String,
    /// `host:port` that was really dialled: a redirect or token service may be another host than the registry.
    pub peer: String,
    /// The URL, when it is not the one that was asked for first (after a redirect).
    pub url: Option<String>,
    /// The proxy on the way, `host:port`.
    pub proxy: Option<String>,
    /// What the peer presented, when it got that far.
    pub report: Option<Arc<PeerReport>>,
}

/// The stable names of transport failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    UnknownIssuer,
    SelfSigned,
    IncompleteChain,
    IssuerKeyMismatch,
    Expired,
    NotYetValid,
    NameMismatch,
    NoSan,
    IpSanMissing,
    WrongEku,
    WeakSignature,
    WeakKey,
    UnsupportedKey,
    BadSignature,
    NotACa,
    NameConstraint,
    CriticalExtension,
    CertVersion,
    Revoked,
    NoTrust,
    ClientCertRequired,
    ClientCertRejected,
    ProtocolVersion,
    NoSharedCipher,
    PlainHttp,
    SpeaksTls,
    NotTls,
    SniRefused,
    ClosedInHandshake,
    HandshakeTimeout,
    TcpRefused,
    TcpTimeout,
    TcpReset,
    Dns,
    ResponseTimeout,
    ProxyRefused,
    ProxyAuth,
    Other,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::UnknownIssuer => "unknown_issuer",
            Kind::SelfSigned => "self_signed",
            Kind::IncompleteChain => "incomplete_chain",
            Kind::IssuerKeyMismatch => "issuer_key_mismatch",
            Kind::Expired => "expired",
            Kind::NotYetValid => "not_yet_valid",
            Kind::NameMismatch => "name_mismatch",
            Kind::NoSan => "no_san",
            Kind::IpSanMissing => "ip_san_missing",
            Kind::WrongEku => "wrong_eku",
            Kind::WeakSignature => "weak_signature",
            Kind::WeakKey => "weak_key",
            Kind::UnsupportedKey => "unsupported_key",
            Kind::BadSignature => "bad_signature",
            Kind::NotACa => "not_a_ca",
            Kind::NameConstraint => "name_constraint",
            Kind::CriticalExtension => "critical_extension",
            Kind::CertVersion => "cert_version",
            Kind::Revoked => "revoked",
            Kind::NoTrust => "no_trust",
            Kind::ClientCertRequired => "client_cert_required",
            Kind::ClientCertRejected => "client_cert_rejected",
            Kind::ProtocolVersion => "protocol_version",
            Kind::NoSharedCipher => "no_shared_cipher",
            Kind::PlainHttp => "plain_http",
            Kind::SpeaksTls => "speaks_tls",
            Kind::NotTls => "not_tls",
            Kind::SniRefused => "sni_refused",
            Kind::ClosedInHandshake => "closed_in_handshake",
            Kind::HandshakeTimeout => "handshake_timeout",
            Kind::TcpRefused => "tcp_refused",
            Kind::TcpTimeout => "tcp_timeout",
            Kind::TcpReset => "tcp_reset",
            Kind::Dns => "dns",
            Kind::ResponseTimeout => "response_timeout",
            Kind::ProxyRefused => "proxy_refused",
            Kind::ProxyAuth => "proxy_auth",
            Kind::Other => "other",
        }
    }

    /// The certificate or the TLS handshake is the matter, not the way to the host.
    pub fn is_tls(self) -> bool {
        !matches!(
            self,
            Kind::TcpRefused
                | Kind::TcpTimeout
                | Kind::TcpReset
                | Kind::Dns
                | Kind::ResponseTimeout
                | Kind::ProxyRefused
                | Kind::ProxyAuth
                | Kind::Other
        )
    }

    /// Another try may help.
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Kind::TcpTimeout
                | Kind::TcpReset
                | Kind::ResponseTimeout
                | Kind::Other
                | Kind::ClosedInHandshake
                | Kind::HandshakeTimeout
        )
    }
}

/// What a TLS peer presented and what we trust.
#[derive(Debug, Clone, Default)]
pub struct PeerReport {
    /// The name that was asked for.
    pub server_name: String,
    /// As sent, the server's own first.
    pub chain: Vec<PeerCertificate>,
    /// Where the trusted certificates come from, with their number: `("system store", 142)`.
    pub trusted: Vec<(String, usize)>,
    /// Certificates or files of the trust store that could not be used.
    pub trust_problems: Vec<String>,
    /// The server asked for a client certificate; the authorities that it named.
    pub client_cert_asked: Option<Vec<String>>,
    /// One more sentence about the cause, if there is one.
    pub note: Option<String>,
    /// Where certificates for this host are looked for, if such a folder is configured.
    pub certs_dir: Option<PathBuf>,
    /// The address that was spoken to and what was agreed, as far as a second look could tell.
    pub connection: Option<String>,
}

/// One certificate, as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate {
    pub subject: String,
    pub issuer: String,
    /// `DNS:…`, `IP:…`.
    pub names: Vec<String>,
    /// RFC 3339, UTC.
    pub not_before: String,
    pub not_after: String,
    pub key: String,
    pub is_ca: bool,
    /// Upper-case hex pairs with colons.
    pub sha256: String,
    /// `43 days left`, `expired 3 days ago`: when it was looked at.
    pub left: String,
}

/// An answer that is not success.
#[derive(Debug, Clone)]
pub struct StatusError {
    pub status: u16,
    /// `MANIFEST_UNKNOWN` and the like, as far as the body named one.
    pub code: Option<String>,
    /// The registry's own words, cleaned and cut.
    pub message: Option<String>,
    /// The status of the HEAD that was tried before, when there was one.
    pub head_status: Option<u16>,
    /// Who answered so, when the registry sent us there.
    pub redirected_to: Option<String>,
}

#[derive(Debug, Clone)]
pub struct AuthError {
    /// `pull` or `push`.
    pub action: &'static str,
    /// Where the credentials came from, or that there were none; never the credentials.
    pub credentials: String,
    /// 401 or 403, or what the token service said.
    pub status: Option<u16>,
    /// Which service refused: the registry or `token service HOST`.
    pub by: String,
    pub message: Option<String>,
    /// Talking to the token service failed.
    pub transport: Option<Box<(String, TransportError)>>,
}

impl fmt::Display for Attempt {
    /// The line that BuildKit prints for the same failure, in its documented spelling.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            HostError::Transport(t) => {
                write!(
                    f,
                    "failed to do request: {} {}: {}",
                    self.verb,
                    t.url.as_deref().unwrap_or(&self.url),
                    t.phrase
                )
            }
            HostError::Status(s) if s.status == 404 => write!(f, "{}: not found", self.url),
            HostError::Status(s) => {
                write!(
                    f,
                    "unexpected status from {} request to {}: {s}",
                    self.verb.to_ascii_uppercase(),
                    self.url
                )
            }
            other => write!(f, "{}: {other}", self.url),
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostError::Transport(t) => f.write_str(&t.phrase),
            HostError::Status(s) => s.fmt(f),
            HostError::Refused { failure, hint } => write!(f, "{failure} ({hint})"),
            HostError::Auth(a) => a.fmt(f),
            HostError::Manifest(m) => m.fmt(f),
            HostError::Digest { expected, found } => {
                write!(f, "unexpected digest {found}, expected {expected}")
            }
            HostError::Size { expected, found } => {
                write!(f, "unexpected size {found}, expected {expected} bytes")
            }
            HostError::TooLarge { limit } => {
                write!(f, "the body is larger than the {limit} bytes that are read")
            }
            HostError::Redirect(why) => f.write_str(why),
            HostError::Body(why) => write!(f, "the body broke off: {why}"),
            HostError::Skipped(inner) => write!(f, "skipped, it failed a moment ago: {inner}"),
            HostError::Config(problem) => write!(f, "configuration: {problem}"),
        }
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(reason) = http_reason(self.status) {
            write!(f, " {reason}")?;
        }
        if let Some(head) = self.head_status {
            write!(f, " (HEAD before it: {head})")?;
        }
        if let Some(url) = &self.redirected_to {
            write!(f, " (after a redirect to {url})")?;
        }
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => write!(f, ": {code}: {message}"),
            (Some(text), None) | (None, Some(text)) => write!(f, ": {text}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(inner) = &self.transport {
            let sort = if self.credentials == "none" {
                "anonymous"
            } else {
                "oauth"
            };
            return write!(
                f,
                "failed to fetch {sort} token: {}: {}",
                inner.0, inner.1.phrase
            );
        }
        write!(
            f,
            "{} access denied, repository does not exist or may require authorization: authorization failed",
            self.action
        )?;
        write!(f, " ({} answered", self.by)?;
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        if let Some(message) = &self.message {
            write!(f, " {message}")?;
        }
        write!(f, "; credentials: {})", self.credentials)
    }
}

pub(crate) fn http_reason(status: u16) -> Option<&'static str> {
    reqwest::StatusCode::from_u16(status)
        .ok()?
        .canonical_reason()
}

fn primary(attempts: &[Attempt]) -> Option<&Attempt> {
    attempts.iter().min_by_key(|a| a.error.rank())
}

/// The primary attempt word for word as if it were the only one, then the other hosts.
fn all_failed(reference: &str, attempts: &[Attempt]) -> String {
    let Some(first) = primary(attempts) else {
        return format!("{reference}: no host to ask");
    };
    let mut text = match &first.error {
        HostError::Status(s) if s.status == 404 => format!("{reference}: not found"),
        HostError::Transport(_) => first.to_string(),
        HostError::Status(_) => format!("{reference}: {first}"),
        other => format!("{reference}: {other}"),
    };
    let others: Vec<String> = attempts
        .iter()
        .filter(|a| !std::ptr::eq(*a, first))
        .map(|a| {
            format!(
                "{}{}: {}",
                if a.mirror { "mirror " } else { "" },
                a.host,
                a.error
            )
        })
        .collect();
    if !others.is_empty() {
        text.push_str(&format!(" (also tried {})", others.join("; ")));
    }
    text
}

/// Why a registry configuration can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the registry configuration is not valid TOML: {0}")]
    Toml(String),
    #[error("registry.{host:?}.{key}: {problem}")]
    Value {
        host: String,
        key: String,
        problem: String,
    },
}

/// Why credentials could not be had. Never holds a secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialsError {
    #[error("read {}: {problem}", path.display())]
    Config { path: PathBuf, problem: String },
    #[error("error getting credentials - err: {helper}: {problem}")]
    Helper { helper: String, problem: String },
    #[error("{0}")]
    Client(String),
}
