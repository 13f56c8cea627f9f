//! The client against registries that misbehave in the known ways.

mod asking;
mod certificates;
mod login;
mod mirrors;
mod odd;
mod places;
mod points;
mod pull;
mod push;
mod store;
mod tls;
mod uploads;
mod ways;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair as RcKeyPair};
use tempfile::NamedTempFile;

use super::testing::{Reply, Seen, Server, reply};
use super::*;
use crate::media::{
    DOCKER_MANIFEST, Descriptor, Index, MAX_MANIFEST_BYTES, Manifest, ManifestError, OCI_CONFIG,
    OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST,
};
use crate::platform::Platform;
use crate::reference::Reference;

/// An image of one layer, as documents.
struct Sample {
    config: Vec<u8>,
    layer: Vec<u8>,
    manifest: Vec<u8>,
    index: Vec<u8>,
}

fn sample() -> Sample {
    let config = br#"{"architecture":"amd64","os":"linux","config":{}}"#.to_vec();
    let layer: Vec<u8> = (0..100_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let manifest = serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.into()),
        artifact_type: None,
        config: Descriptor::of(OCI_CONFIG, &config),
        layers: vec![Descriptor::of(OCI_LAYER_GZIP, &layer)],
        subject: None,
        annotations: BTreeMap::new(),
    })
    .unwrap();
    let mut entry = Descriptor::of(OCI_MANIFEST, &manifest);
    entry.platform = Some(Platform::new("linux", "amd64", ""));
    let index = serde_json::to_vec(&Index {
        schema_version: 2,
        media_type: Some(OCI_INDEX.into()),
        artifact_type: None,
        manifests: vec![entry],
        subject: None,
        annotations: BTreeMap::new(),
    })
    .unwrap();
    Sample {
        config,
        layer,
        manifest,
        index,
    }
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// A registry that behaves, for the paths that a test does not care about.
fn good(seen: &Seen) -> Reply {
    let s = sample();
    let path = seen.path.split('?').next().unwrap_or_default();
    if path == "/v2/r/manifests/latest" {
        return reply(200, s.index).with("content-type", OCI_INDEX);
    }
    for (kind, bytes, media_type) in [
        ("manifests", s.manifest, OCI_MANIFEST),
        ("blobs", s.config, "application/octet-stream"),
        ("blobs", s.layer, "application/octet-stream"),
    ] {
        if path == format!("/v2/r/{kind}/{}", digest(&bytes)) {
            return reply(200, bytes).with("content-type", media_type);
        }
    }
    reply(
        404,
        r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
    )
}

fn config() -> RegistriesConfig {
    RegistriesConfig {
        limits: Limits {
            backoff: Duration::from_millis(1),
            connect: Duration::from_secs(5),
            ..Limits::default()
        },
        system_trust: SystemTrust::None,
        ..RegistriesConfig::default()
    }
}

fn with_host(host: &str, settings: HostConfig) -> Registries {
    Registries::new(RegistriesConfig {
        hosts: BTreeMap::from([(host.to_owned(), settings)]),
        ..config()
    })
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn image(host: &str) -> Reference {
    Reference::parse(&format!("{host}/r:latest")).unwrap()
}

async fn read(
    registries: &Registries,
    reference: &Reference,
    layer: &[u8],
) -> Result<Vec<u8>, RegistryError> {
    let stream = registries
        .blob(reference, &Descriptor::of(OCI_LAYER_GZIP, layer))
        .await?;
    let chunks: Vec<_> = stream.try_collect().await?;
    Ok(chunks.concat())
}

struct Made {
    server: rustls::ServerConfig,
    /// What the client must hold to trust the server.
    trust: NamedTempFile,
}

fn file(pem: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    file
}

/// Takes every chain: what is wrong with it is for the client to find.
fn server_config(chain: Vec<rcgen::Certificate>, key: &RcKeyPair) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = chain.into_iter().map(|c| c.der().clone()).collect();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = provider.key_provider.load_private_key(key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain, key);
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
}

fn ca() -> (rcgen::Certificate, Issuer<'static, RcKeyPair>) {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Acme Root CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = RcKeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate, Issuer::new(params, key))
}

/// A certificate for `names` from a CA; `change` alters it before it is signed.
fn issued(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Made {
    let (root, issuer) = ca();
    let mut params =
        CertificateParams::new(names.iter().map(|n| n.to_string()).collect::<Vec<_>>()).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "leaf");
    change(&mut params);
    let key = RcKeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    Made {
        server: server_config(vec![leaf], &key),
        trust: file(&root.pem()),
    }
}

/// What `openssl req -x509` makes: self-signed and a CA.
fn self_signed_ca_leaf() -> Made {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = RcKeyPair::generate().unwrap();
    let leaf = params.self_signed(&key).unwrap();
    let trust = file(&leaf.pem());
    Made {
        server: server_config(vec![leaf], &key),
        trust,
    }
}

fn trusting(trust: &NamedTempFile) -> HostConfig {
    HostConfig {
        http: Some(false),
        ca: vec![trust.path().to_owned()],
        ..HostConfig::default()
    }
}

fn kind(error: &RegistryError) -> Kind {
    match &error.primary().unwrap().error {
        HostError::Transport(t) => t.kind,
        other => panic!("not a transport error: {other}"),
    }
}
