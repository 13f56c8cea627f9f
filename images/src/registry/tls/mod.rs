//! TLS towards registries: which certificates are trusted, a verifier that keeps what it saw, and a resolver that
//! notices when a client certificate is asked for.
//!
//! The stock pieces refuse a self-signed `CA:TRUE` certificate even when the user trusts it, and throw away the peer's
//! chain; an error page needs both.

mod certificate;
mod client_cert;
mod connect;
mod diagnose;
pub(crate) mod socks;
mod trust;
mod verifier;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::config::{HostConfig, KeyPair, SystemTrust};
use super::error::{HostError, TransportError};

pub(crate) use certificate::describe;
use client_cert::AskedForCertificate;
pub(crate) use connect::{Stage, Target, connect};
pub(crate) use diagnose::{Probe, classify};
pub(crate) use trust::TrustStore;
use verifier::Verifier;

/// The name of HTTP/2 in the handshake.
pub(crate) const HTTP2: &[u8] = b"h2";

/// The TLS side of one host: the configuration that its connections use and what they recorded.
#[derive(Clone)]
pub(crate) struct HostTls {
    pub(crate) config: ClientConfig,
    asked: Arc<AskedForCertificate>,
    verifier: Arc<Verifier>,
}

impl HostTls {
    /// Reads the host's CA and key files now (their problems are the user's to fix); the system store is read when
    /// the first certificate is verified.
    pub(crate) fn new(
        host: &HostConfig,
        system: &Arc<TrustStore>,
        insecure: bool,
        certs_dir: Option<PathBuf>,
    ) -> Result<Self, HostError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let own = trust::read_ca_files(&host.ca).map_err(HostError::Config)?;
        let verifier = Arc::new(Verifier::new(
            system.clone(),
            own,
            insecure,
            certs_dir,
            provider.clone(),
        ));
        let keys = host
            .keypair
            .iter()
            .map(|pair| trust::read_keypair(pair, &provider))
            .collect::<Result<Vec<_>, _>>()
            .map_err(HostError::Config)?;
        let asked = Arc::new(AskedForCertificate::new(keys));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| HostError::Config(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(asked.clone() as Arc<dyn ResolvesClientCert>);
        if host.http2 == Some(true) {
            config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        }
        Ok(HostTls {
            config,
            asked,
            verifier,
        })
    }

    pub(crate) fn offers_http2(&self) -> bool {
        !self.config.alpn_protocols.is_empty()
    }

    /// What would have been refused, had verification not been switched off.
    pub(crate) fn tolerated(&self) -> Option<TransportError> {
        self.verifier.tolerated()
    }

    /// The authorities whose client certificates the server asked for, if it asked at all.
    pub(crate) fn asked(&self) -> Option<Vec<String>> {
        self.asked.asked()
    }

    /// Where certificates for this host are looked for.
    pub(crate) fn certs_dir(&self) -> Option<PathBuf> {
        self.verifier.certs_dir()
    }

    pub(crate) fn has_client_cert(&self) -> bool {
        self.asked.has_key()
    }
}

/// TLS towards a host that is no registry, with the checks that registries get: trusting `ca` alone, or the system
/// where there is none, and proving who we are where a key is given. `protocols` are offered.
///
/// # Errors
/// In words, when a file cannot be used.
pub fn client_config(
    ca: Option<PathBuf>,
    system: &SystemTrust,
    keypair: Option<KeyPair>,
    protocols: &[&[u8]],
) -> Result<ClientConfig, String> {
    let system = match &ca {
        Some(_) => &SystemTrust::None,
        None => system,
    };
    let host = HostConfig {
        ca: ca.into_iter().collect(),
        keypair: keypair.into_iter().collect(),
        ..HostConfig::default()
    };
    let tls = HostTls::new(&host, &TrustStore::shared(system), false, None);
    let mut config = tls.map_err(|error| error.to_string())?.config;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// What is said of a chain that is refused when its last certificate is trusted: for the fuzz targets.
pub(crate) fn said_of(chain: &[CertificateDer<'_>], name: &str) -> Vec<String> {
    let (Some((leaf, sent)), Ok(name)) = (chain.split_first(), ServerName::try_from(name)) else {
        return Vec::new();
    };
    let own = trust::Loaded {
        certificates: sent
            .last()
            .map(|der| der.clone().into_owned())
            .into_iter()
            .collect(),
        ..Default::default()
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let system = TrustStore::shared(&SystemTrust::None);
    // What is refused is kept by those who are told to take all.
    let verifier = Verifier::new(system, own, true, None, provider);
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
    let _ = verifier.verify_server_cert(leaf, sent, &name, &[], now);
    let Some(refused) = verifier.tolerated() else {
        return Vec::new();
    };
    let mut said = vec![refused.phrase];
    if let Some(report) = refused.report {
        said.extend(report.note.clone());
        for peer in &report.chain {
            said.extend(
                [&peer.subject, &peer.issuer, &peer.key, &peer.not_before].map(String::clone),
            );
            said.extend([&peer.not_after, &peer.left, &peer.sha256].map(String::clone));
            said.extend(peer.names.iter().cloned());
        }
    }
    said
}

impl TrustStore {
    pub(crate) fn shared(system: &SystemTrust) -> Arc<Self> {
        Arc::new(TrustStore::new(system.clone()))
    }
}
