//! Trusted certificates with their provenance.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::registry::config::{KeyPair, SystemTrust};

/// The system's certificates, read once, when a TLS connection first needs them.
pub(crate) struct TrustStore {
    from: SystemTrust,
    loaded: OnceLock<Loaded>,
}

#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) sources: Vec<(String, usize)>,
    pub(crate) problems: Vec<String>,
}

impl TrustStore {
    pub(crate) fn new(from: SystemTrust) -> Self {
        TrustStore {
            from,
            loaded: OnceLock::new(),
        }
    }

    pub(crate) fn loaded(&self) -> &Loaded {
        self.loaded.get_or_init(|| load(&self.from))
    }
}

fn load(from: &SystemTrust) -> Loaded {
    let mut loaded = Loaded::default();
    match from {
        SystemTrust::Native => {
            let native = rustls_native_certs::load_native_certs();
            loaded.problems = native.errors.iter().map(ToString::to_string).collect();
            loaded
                .sources
                .push((system_store_name(), native.certs.len()));
            loaded.certificates = native.certs;
        }
        SystemTrust::Files(files) => {
            for file in files {
                match read_certificates(file) {
                    Ok(certificates) => {
                        loaded
                            .sources
                            .push((file.display().to_string(), certificates.len()));
                        loaded.certificates.extend(certificates);
                    }
                    Err(problem) => loaded.problems.push(problem),
                }
            }
        }
        SystemTrust::None => {}
    }
    loaded
}

/// Where distributions keep the one file with all certificates; for error pages only.
fn system_store_name() -> String {
    const BUNDLES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    match BUNDLES.iter().find(|bundle| Path::new(bundle).is_file()) {
        Some(bundle) => format!("the system store ({bundle})"),
        None => "the system store".into(),
    }
}

/// The certificates of one host's own files.
pub(crate) fn read_ca_files(files: &[PathBuf]) -> Result<Loaded, String> {
    let mut own = Loaded::default();
    for file in files {
        let certificates = read_certificates(file)?;
        own.sources
            .push((file.display().to_string(), certificates.len()));
        own.certificates.extend(certificates);
    }
    Ok(own)
}

/// A file without any certificate is an error: silently trusting nothing is a riddle for the user.
fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes =
        std::fs::read(file).map_err(|e| format!("failed to read {}: {e}", file.display()))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("{}: not a PEM file of certificates: {e}", file.display()))?;
    if certificates.is_empty() {
        return Err(format!(
            "{}: holds no PEM certificate (BEGIN CERTIFICATE)",
            file.display()
        ));
    }
    Ok(certificates)
}

pub(crate) fn read_keypair(
    pair: &KeyPair,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, String> {
    let chain = read_certificates(&pair.cert)?;
    let named = |problem: String| format!("client key {}: {problem}", pair.key.display());
    let bytes = std::fs::read(&pair.key).map_err(|e| named(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| named("holds no PEM private key".into()))?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|e| {
        named(format!(
            "does not fit the certificate {}: {e}",
            pair.cert.display()
        ))
    })?;
    Ok(Arc::new(certified))
}
