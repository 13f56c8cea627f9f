//! A certificate authority for one test, and server certificates signed by it.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Paths of PEM files.
pub struct ServerFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names to check");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("generating a key");
        let certificate = params.self_signed(&key).expect("signing the authority");
        Authority {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub fn write_ca(&self, path: &Path) {
        std::fs::write(path, &self.pem).expect("writing the authority's certificate");
    }

    /// A certificate for `names` (host names or IP addresses), written into `dir`.
    pub fn server(&self, dir: &Path, names: &[&str]) -> ServerFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("good names");
        params
            .distinguished_name
            .push(DnType::CommonName, "registry of a test");
        let key = KeyPair::generate().expect("generating a key");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("signing the server's certificate");
        let files = ServerFiles {
            certificate: dir.join("server.crt"),
            key: dir.join("server.key"),
        };
        std::fs::write(&files.certificate, certificate.pem()).expect("writing the certificate");
        std::fs::write(&files.key, key.serialize_pem()).expect("writing the key");
        files
    }
}
