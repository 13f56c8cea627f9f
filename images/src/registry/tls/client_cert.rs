//! The client certificates, the choice between them, and the memory of having been asked for one.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use super::certificate::{self, MAX_DESCRIBED};

/// Remembers that the server asked for a client certificate: in TLS 1.3 nothing else tells.
pub(crate) struct AskedForCertificate {
    keys: Vec<Arc<CertifiedKey>>,
    asked: AtomicBool,
    authorities: Mutex<Vec<String>>,
}

impl fmt::Debug for AskedForCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskedForCertificate")
    }
}

impl AskedForCertificate {
    pub(crate) fn new(keys: Vec<Arc<CertifiedKey>>) -> Self {
        AskedForCertificate {
            keys,
            asked: AtomicBool::new(false),
            authorities: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn asked(&self) -> Option<Vec<String>> {
        self.asked.load(Ordering::Relaxed).then(|| {
            self.authorities
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .clone()
        })
    }

    pub(crate) fn has_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Of several, the one whose issuer the server named; without such a one the first, because the names that servers
    /// send are hints only.
    fn choose(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || {
            self.keys
                .iter()
                .filter(|key| key.key.choose_scheme(schemes).is_some())
        };
        usable()
            .find(|key| key.cert.iter().any(|der| is_issued_by(der, hints)))
            .or_else(|| usable().next())
            .cloned()
    }
}

fn is_issued_by(der: &CertificateDer<'_>, issuers: &[&[u8]]) -> bool {
    certificate::parsed(der).is_some_and(|c| issuers.contains(&c.issuer().as_raw()))
}

impl ResolvesClientCert for AskedForCertificate {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        use x509_parser::prelude::{FromDer, X509Name};
        let names = hints
            .iter()
            .take(MAX_DESCRIBED)
            .filter_map(|der| {
                X509Name::from_der(der)
                    .ok()
                    .map(|(_, name)| name.to_string())
            })
            .collect();
        *self.authorities.lock().unwrap_or_else(|e| e.into_inner()) = names;
        self.asked.store(true, Ordering::Relaxed);
        self.choose(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        !self.keys.is_empty()
    }
}
