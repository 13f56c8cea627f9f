//! The certificate verifier: Go's order of checks and Go's words, and the peer's chain kept for the error page.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use time::OffsetDateTime;

use super::certificate::{self, MAX_DESCRIBED};
use super::trust::{Loaded, TrustStore};
use crate::registry::error::{Kind, PeerReport, TransportError};

/// A refused peer, carried through rustls and the HTTP client inside `CertificateError::Other`.
pub(crate) struct Refused(pub(crate) TransportError);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.phrase)
    }
}

/// rustls prints this form, so it is as short as the other.
impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Refused {}

pub(crate) struct Verifier {
    system: Arc<TrustStore>,
    /// The host's own CA files: also the pinned certificates.
    own: Loaded,
    insecure: bool,
    certs_dir: Option<PathBuf>,
    provider: Arc<CryptoProvider>,
    /// Of the host's own certificates alone.
    by_own: OnceLock<Option<Arc<WebPkiServerVerifier>>>,
    webpki: OnceLock<Result<Arc<WebPkiServerVerifier>, String>>,
    tolerated: Mutex<Option<TransportError>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    pub(crate) fn new(
        system: Arc<TrustStore>,
        own: Loaded,
        insecure: bool,
        certs_dir: Option<PathBuf>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Verifier {
            system,
            own,
            insecure,
            certs_dir,
            provider,
            by_own: OnceLock::new(),
            webpki: OnceLock::new(),
            tolerated: Mutex::new(None),
        }
    }

    pub(crate) fn tolerated(&self) -> Option<TransportError> {
        self.tolerated
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone()
    }

    pub(crate) fn certs_dir(&self) -> Option<PathBuf> {
        self.certs_dir.clone()
    }

    /// Trusts the host's own certificates and these.
    fn trusting(
        &self,
        more: &[CertificateDer<'static>],
    ) -> Result<Arc<WebPkiServerVerifier>, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.own.certificates.iter().chain(more).cloned());
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| e.to_string())
    }

    /// Whether the host's own certificates alone vouch for it. The system's, a hundred and more, are then not
    /// even read, which is a twentieth of what an unchanged build costs.
    fn trusts_own(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> bool {
        let by_own = self.by_own.get_or_init(|| self.trusting(&[]).ok());
        by_own.as_ref().is_some_and(|verifier| {
            verifier
                .verify_server_cert(leaf, intermediates, name, ocsp, now)
                .is_ok()
        })
    }

    fn webpki(&self) -> Result<Arc<WebPkiServerVerifier>, String> {
        self.webpki
            .get_or_init(|| self.trusting(&self.system.loaded().certificates))
            .clone()
    }

    /// Go's order: the leaf's dates, its name, then the chain.
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), (Kind, String, Option<String>)> {
        let clock = OffsetDateTime::from_unix_timestamp(now.as_secs() as i64)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        check_dates(leaf, clock, "the server's certificate")?;
        check_name(leaf, name)?;
        if self
            .own
            .certificates
            .iter()
            .any(|pinned| pinned.as_ref() == leaf.as_ref())
        {
            return Ok(());
        }
        if self.trusts_own(leaf, intermediates, name, ocsp, now) {
            return Ok(());
        }
        let webpki = self.webpki().map_err(|problem| {
            (
                Kind::NoTrust,
                UNKNOWN_AUTHORITY.to_owned(),
                Some(format!("no usable trusted certificate: {problem}")),
            )
        })?;
        let Err(error) = webpki.verify_server_cert(leaf, intermediates, name, ocsp, now) else {
            return Ok(());
        };
        for (at, der) in intermediates.iter().enumerate() {
            check_dates(
                der,
                clock,
                &format!("certificate [{}] of the chain", at + 1),
            )?;
        }
        Err(self.explain(&error, leaf, intermediates))
    }

    fn explain(
        &self,
        error: &rustls::Error,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> (Kind, String, Option<String>) {
        let unknown = UNKNOWN_AUTHORITY.to_owned();
        let rustls::Error::InvalidCertificate(error) = error else {
            return (Kind::Other, format!("tls: {error}"), None);
        };
        let parsed = certificate::parsed(leaf);
        let self_issued = parsed.as_ref().is_some_and(|c| c.subject() == c.issuer());
        // webpki's own errors come wrapped; only their names are of use.
        let inner = match error {
            CertificateError::Other(other) => format!("{:?}", other.0),
            _ => String::new(),
        };
        match error {
            CertificateError::UnknownIssuer if self_issued => (Kind::SelfSigned, unknown, None),
            CertificateError::Other(_) if inner.contains("CaUsedAsEndEntity") => (
                if self_issued { Kind::SelfSigned } else { Kind::UnknownIssuer },
                unknown,
                Some(
                    "the server presents a CA certificate as its own; it is accepted only when listed in this \
                     host's CA files, the system store is not enough"
                        .into(),
                ),
            ),
            CertificateError::UnknownIssuer => {
                let alone = intermediates.is_empty()
                    && parsed.as_ref().is_some_and(certificate::names_its_issuers_address);
                match alone {
                    true => {
                        let issuer = parsed.map(|c| c.issuer().to_string()).unwrap_or_default();
                        let note = format!(
                            "the server sends its certificate without the intermediate {issuer:?} that issued it; its \
                             operator should append that to the server's certificate file"
                        );
                        (Kind::IncompleteChain, unknown, Some(note))
                    }
                    false => (Kind::UnknownIssuer, unknown, None),
                }
            }
            CertificateError::BadSignature => {
                let issuer = parsed.map(|c| c.issuer().to_string()).unwrap_or_default();
                let note = format!(
                    "a trusted certificate named {issuer:?} exists but did not sign this one: the CA's key was \
                     probably replaced"
                );
                (Kind::IssuerKeyMismatch, unknown, Some(note))
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                (Kind::WrongEku, "x509: certificate specifies an incompatible key usage".into(), None)
            }
            CertificateError::Revoked => (Kind::Revoked, "x509: certificate is revoked".into(), None),
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                let chain = std::iter::once(leaf).chain(intermediates);
                let weak = chain.filter_map(certificate::weak_signature).next();
                match weak {
                    Some(name) => (
                        Kind::WeakSignature,
                        unknown,
                        Some(format!("a certificate is signed with {name}, which is no longer accepted")),
                    ),
                    None => (
                        Kind::UnsupportedKey,
                        unknown,
                        Some("a certificate's key or signature is of a kind that is not supported".into()),
                    ),
                }
            }
            CertificateError::UnhandledCriticalExtension => critical(leaf, intermediates),
            _ if inner.contains("UnsupportedCriticalExtension") => critical(leaf, intermediates),
            _ if inner.contains("NameConstraintViolation") => (
                Kind::NameConstraint,
                "x509: a root or intermediate certificate is not authorized to sign for this name".into(),
                None,
            ),
            _ if inner.contains("EndEntityUsedAsCa") => {
                (Kind::NotACa, unknown, Some("the issuer's certificate is not a CA certificate".into()))
            }
            _ if inner.contains("UnsupportedCertVersion") => (
                Kind::CertVersion,
                "x509: certificate relies on legacy Common Name field, use SANs instead".into(),
                Some("an X.509 version 1 certificate".into()),
            ),
            other => {
                let text: String = other.to_string().chars().take(200).collect();
                (Kind::Other, format!("x509: {text}"), None)
            }
        }
    }

    fn refusal(
        &self,
        (kind, phrase, note): (Kind, String, Option<String>),
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> TransportError {
        let system = self.system.loaded();
        let mut trusted: Vec<(String, usize)> = system
            .sources
            .iter()
            .chain(&self.own.sources)
            .cloned()
            .collect();
        if let Some(dir) = &self.certs_dir
            && !trusted
                .iter()
                .any(|(from, _)| std::path::Path::new(from).starts_with(dir))
        {
            let state = if dir.is_dir() {
                "no .crt file"
            } else {
                "absent"
            };
            trusted.push((format!("{} ({state})", dir.display()), 0));
        }
        let report = PeerReport {
            server_name: name.to_str().into_owned(),
            chain: std::iter::once(leaf)
                .chain(intermediates)
                .take(MAX_DESCRIBED)
                .map(certificate::describe)
                .collect(),
            trusted,
            trust_problems: system.problems.clone(),
            client_cert_asked: None,
            note,
            certs_dir: self.certs_dir.clone(),
            connection: None,
        };
        TransportError {
            kind,
            phrase,
            peer: String::new(),
            url: None,
            proxy: None,
            report: Some(Arc::new(report)),
        }
    }

    /// A signature that fails only because the key is too small says so.
    fn signature(
        &self,
        result: Result<HandshakeSignatureValid, rustls::Error>,
        leaf: &CertificateDer<'_>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        const SMALLEST_RSA: usize = 2048;
        let error = match result {
            Ok(valid) => return Ok(valid),
            Err(error) => error,
        };
        let bits = certificate::parsed(leaf)
            .as_ref()
            .and_then(certificate::rsa_bits);
        let failure = match bits {
            Some(bits) if bits < SMALLEST_RSA => (
                Kind::WeakKey,
                format!(
                    "tls: the server's RSA key has {bits} bits, at least {SMALLEST_RSA} are needed"
                ),
                None,
            ),
            _ => (
                Kind::BadSignature,
                format!("tls: invalid signature by the server certificate: {error}"),
                None,
            ),
        };
        let name = ServerName::try_from("unknown").map_err(|_| error)?;
        Err(wrap(self.refusal(failure, leaf, &[], &name)))
    }
}

fn critical(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> (Kind, String, Option<String>) {
    let chain = std::iter::once(leaf).chain(intermediates);
    let oid = chain.filter_map(certificate::unknown_critical).next();
    (
        Kind::CriticalExtension,
        "x509: unhandled critical extension".into(),
        oid.map(|oid| format!("a certificate demands that the extension {oid} be understood")),
    )
}

const UNKNOWN_AUTHORITY: &str = "x509: certificate signed by unknown authority";

fn wrap(refused: TransportError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(
        refused,
    )))))
}

fn check_dates(
    der: &CertificateDer<'_>,
    clock: OffsetDateTime,
    which: &str,
) -> Result<(), (Kind, String, Option<String>)> {
    let Some(certificate) = certificate::parsed(der) else {
        return Ok(());
    };
    let (from, until) = (
        certificate.validity().not_before.to_datetime(),
        certificate.validity().not_after.to_datetime(),
    );
    let phrase = |relation: &str, bound| {
        format!(
            "x509: certificate has expired or is not yet valid: current time {} is {relation} {}",
            certificate::date(clock),
            certificate::date(bound)
        )
    };
    if clock > until {
        let note = format!("{which} expired {} ago", certificate::span(clock - until));
        return Err((Kind::Expired, phrase("after", until), Some(note)));
    }
    if clock < from {
        let note = format!(
            "{which} is valid in {}; is this machine's clock right?",
            certificate::span(from - clock)
        );
        return Err((Kind::NotYetValid, phrase("before", from), Some(note)));
    }
    Ok(())
}

fn check_name(
    leaf: &CertificateDer<'_>,
    name: &ServerName<'_>,
) -> Result<(), (Kind, String, Option<String>)> {
    // A leaf that can't be parsed here gets its own error from the chain check.
    let Ok(parsed) = ParsedCertificate::try_from(leaf) else {
        return Ok(());
    };
    if verify_server_name(&parsed, name).is_ok() {
        return Ok(());
    }
    let names = certificate::parsed(leaf)
        .map(|c| certificate::names(&c))
        .unwrap_or_default();
    let of = |prefix: &str| {
        names
            .iter()
            .filter_map(|n| n.strip_prefix(prefix))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let asked = name.to_str();
    Err(match name {
        ServerName::IpAddress(_) if of("IP:").is_empty() => (
            Kind::IpSanMissing,
            format!(
                "x509: cannot validate certificate for {asked} because it doesn't contain any IP SANs"
            ),
            None,
        ),
        ServerName::IpAddress(_) => (
            Kind::NameMismatch,
            format!("x509: certificate is valid for {}, not {asked}", of("IP:")),
            None,
        ),
        _ if names.is_empty() => (
            Kind::NoSan,
            "x509: certificate relies on legacy Common Name field, use SANs instead".into(),
            Some(
                "the certificate names its host only in the subject (CN), which is ignored".into(),
            ),
        ),
        _ => (
            Kind::NameMismatch,
            format!("x509: certificate is valid for {}, not {asked}", of("DNS:")),
            None,
        ),
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.check(leaf, intermediates, name, ocsp, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(failure) => {
                let refused = self.refusal(failure, leaf, intermediates, name);
                if !self.insecure {
                    return Err(wrap(refused));
                }
                *self.tolerated.lock().unwrap_or_else(|e| e.into_inner()) = Some(refused);
                Ok(ServerCertVerified::assertion())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.signature(
            rustls::crypto::verify_tls12_signature(message, leaf, dss, algorithms),
            leaf,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.signature(
            rustls::crypto::verify_tls13_signature(message, leaf, dss, algorithms),
            leaf,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
