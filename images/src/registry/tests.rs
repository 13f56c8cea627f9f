//! The client against registries that misbehave in the known ways.

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

// ---- certificates

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

fn server_config(chain: Vec<rcgen::Certificate>, key: &RcKeyPair) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = chain.into_iter().map(|c| c.der().clone()).collect();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
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

// ---- pulling

#[tokio::test]
async fn an_image_is_pulled_over_tls_with_one_get_and_no_head() {
    let made = issued(&["localhost"], |_| {});
    let server = Server::tls(made.server, good).await;
    let registries = with_host(&server.host(), trusting(&made.trust));
    let reference = image(&server.host());
    let found = registries.image(&reference, &amd64()).await.unwrap();
    let s = sample();
    assert_eq!(found.root.bytes, s.index);
    assert_eq!(found.manifest.bytes, s.manifest);
    assert_eq!(found.config_bytes, s.config);
    assert_eq!(found.platform, amd64());
    assert_eq!(
        read(&registries, &reference, &s.layer).await.unwrap(),
        s.layer
    );
    assert_eq!(server.count("GET", "/v2/r/manifests/latest"), 1);
    assert!(server.seen().iter().all(|seen| seen.method == "GET"));
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.header("accept-encoding").is_none())
    );
    let accepts = server.seen()[0]
        .headers
        .iter()
        .filter(|(n, _)| n == "accept")
        .count();
    assert_eq!(accepts, 5, "each type on a line of its own");
}

#[tokio::test]
async fn a_head_that_lies_is_followed_by_a_get() {
    for status in [404, 405, 400, 403, 500, 501] {
        let server = Server::plain(move |seen| match seen.method.as_str() {
            "HEAD" => reply(status, ""),
            _ => good(seen),
        })
        .await;
        let registries = Registries::new(config());
        let stale = Digest::of(b"stale");
        let reference = image(&server.host());
        let found = registries
            .resolve_changed(&reference, &stale)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.root.bytes, sample().index, "HEAD {status}");
        registries
            .resolve_changed(&reference, &stale)
            .await
            .unwrap();
        assert_eq!(
            server.count("HEAD", "/v2/r/manifests/latest"),
            1,
            "HEAD {status} is not tried again"
        );
    }
}

#[tokio::test]
async fn an_unchanged_tag_costs_one_head() {
    let server =
        Server::plain(|_| reply(200, "").with("docker-content-digest", digest(b"same"))).await;
    let registries = Registries::new(config());
    let found = registries
        .resolve_changed(&image(&server.host()), &Digest::of(b"same"))
        .await
        .unwrap();
    assert!(found.is_none());
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn content_types_that_say_nothing_are_sniffed_and_odd_digest_headers_ignored() {
    for content_type in ["application/json", "text/plain; charset=utf-8", ""] {
        let server = Server::plain(move |_| {
            reply(200, sample().index)
                .with("content-type", content_type)
                .with("docker-content-digest", "notadigest")
        })
        .await;
        let found = Registries::new(config())
            .resolve(&image(&server.host()))
            .await
            .unwrap();
        assert_eq!(
            found.root.descriptor.media_type, OCI_INDEX,
            "{content_type:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_does_not_split_accept_gets_a_single_type() {
    let server = Server::plain(|seen| {
        let accepts: Vec<_> = seen.headers.iter().filter(|(n, _)| n == "accept").collect();
        if accepts.len() == 1 && accepts[0].1 == DOCKER_MANIFEST {
            let body = sample().manifest;
            return reply(200, body).with("content-type", "application/json");
        }
        reply(200, r#"{"schemaVersion":1,"fsLayers":[]}"#)
    })
    .await;
    let registries = Registries::new(config());
    assert!(
        registries
            .resolve(&image(&server.host()))
            .await
            .unwrap()
            .root
            .image()
            .is_some()
    );
    let always = Server::plain(|_| reply(200, r#"{"schemaVersion":1,"fsLayers":[]}"#)).await;
    let error = registries
        .resolve(&image(&always.host()))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error.primary().unwrap().error,
            HostError::Manifest(ManifestError::Schema1)
        ),
        "{error}"
    );
}

#[tokio::test]
async fn wrong_digests_and_oversize_bodies_are_refused() {
    let server = Server::plain(|seen| match seen.path.as_str() {
        "/v2/r/manifests/latest" => {
            reply(200, sample().index).with("docker-content-digest", digest(b"other"))
        }
        "/v2/r/manifests/huge" => {
            reply(200, vec![b' '; MAX_MANIFEST_BYTES as usize + 1]).unannounced()
        }
        path if path.starts_with("/v2/r/blobs/") => {
            let mut layer = sample().layer;
            layer[70_000] ^= 1;
            reply(200, layer)
        }
        _ => good(seen),
    })
    .await;
    let registries = Registries::new(config());
    let reference = image(&server.host());
    let error = registries.resolve(&reference).await.unwrap_err();
    assert!(
        matches!(error.primary().unwrap().error, HostError::Digest { .. }),
        "{error}"
    );
    let error = registries
        .resolve(&reference.with_tag("huge").unwrap())
        .await
        .unwrap_err();
    assert!(
        matches!(error.primary().unwrap().error, HostError::TooLarge { .. }),
        "{error}"
    );
    let error = read(&registries, &reference, &sample().layer)
        .await
        .unwrap_err();
    assert!(
        matches!(error.primary().unwrap().error, HostError::Digest { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn surplus_bytes_of_a_blob_are_refused() {
    let server = Server::plain(|_| {
        let mut layer = sample().layer;
        layer.extend_from_slice(b"more");
        reply(200, layer).unannounced()
    })
    .await;
    let error = read(
        &Registries::new(config()),
        &image(&server.host()),
        &sample().layer,
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error.primary().unwrap().error, HostError::Size { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_body_is_resumed_where_it_broke() {
    let server = Server::plain(|seen| {
        let layer = sample().layer;
        match seen.header("range") {
            None => reply(200, layer).cut(150_000),
            Some(range) => {
                let from: usize = range
                    .trim_start_matches("bytes=")
                    .trim_end_matches('-')
                    .parse()
                    .unwrap();
                let rest = layer[from..].to_vec();
                reply(206, rest).with("content-range", format!("bytes {from}-399999/400000"))
            }
        }
    })
    .await;
    let layer = sample().layer;
    assert_eq!(
        read(&Registries::new(config()), &image(&server.host()), &layer)
            .await
            .unwrap(),
        layer
    );
    let ranges: Vec<_> = server
        .seen()
        .iter()
        .map(|s| s.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges.len(), 2);
    assert!(ranges[1].is_some());
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again_from_the_start() {
    let times = AtomicUsize::new(0);
    let server = Server::plain(move |_| match times.fetch_add(1, Ordering::Relaxed) {
        0 => reply(200, sample().layer).cut(150_000),
        _ => reply(200, sample().layer),
    })
    .await;
    let layer = sample().layer;
    assert_eq!(
        read(&Registries::new(config()), &image(&server.host()), &layer)
            .await
            .unwrap(),
        layer
    );
}

#[tokio::test]
async fn too_many_requests_waits_as_told() {
    let times = AtomicUsize::new(0);
    let server = Server::plain(move |seen| match times.fetch_add(1, Ordering::Relaxed) {
        0 => reply(429, "").with("retry-after", "1"),
        1 => reply(503, ""),
        _ => good(seen),
    })
    .await;
    let start = std::time::Instant::now();
    Registries::new(config())
        .resolve(&image(&server.host()))
        .await
        .unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_redirect_gets_no_login() {
    let storage = Server::plain(|seen| match seen.header("authorization") {
        Some(_) => reply(400, "signed URLs take no Authorization"),
        None => reply(200, sample().layer),
    })
    .await;
    let target = format!("http://{}/store?sig=secret", storage.host());
    let server = Server::plain(move |seen| match seen.header("authorization") {
        None => reply(401, "").with("www-authenticate", "BASIC realm=\"r\""),
        Some(_) => reply(307, "").with("location", target.clone()),
    })
    .await;
    let login = Credential::Basic {
        username: "u".into(),
        password: "p".into(),
    };
    let credentials = Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)])));
    let registries = Registries::new(RegistriesConfig {
        credentials,
        ..config()
    });
    let layer = sample().layer;
    assert_eq!(
        read(&registries, &image(&server.host()), &layer)
            .await
            .unwrap(),
        layer
    );
    assert_eq!(
        server.seen().last().unwrap().header("authorization"),
        Some("Basic dTpw")
    );
    assert_eq!(storage.seen()[0].header("authorization"), None);
    assert_eq!(storage.seen()[0].header("referer"), None);
}

// ---- logins

#[tokio::test]
async fn one_token_serves_many_requests_and_is_asked_with_the_scope() {
    let server = Server::plain(|seen| {
        if seen.path.starts_with("/token") {
            return reply(
                200,
                r#"{"token":"","access_token":"tok","expires_in":"300"}"#,
            );
        }
        match seen.header("authorization") {
            Some("Bearer tok") => good(seen),
            _ => reply(401, "").with("www-authenticate", "Bearer realm=\"/token\",service=\"s\""),
        }
    })
    .await;
    let registries = Registries::new(config());
    let reference = image(&server.host());
    registries.image(&reference, &amd64()).await.unwrap();
    read(&registries, &reference, &sample().layer)
        .await
        .unwrap();
    let asked: Vec<_> = server
        .seen()
        .into_iter()
        .filter(|s| s.path.starts_with("/token"))
        .collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].path,
        "/token?service=s&scope=repository%3Ar%3Apull"
    );
}

#[tokio::test]
async fn a_token_service_that_wants_the_other_verb_gets_it() {
    let server = Server::plain(
        |seen| match (seen.method.as_str(), seen.path.split('?').next()) {
            ("POST", Some("/token")) => reply(400, ""),
            ("GET", Some("/token")) => match seen.header("authorization") {
                Some(_) => reply(200, r#"{"token":"tok"}"#),
                None => reply(401, ""),
            },
            _ => match seen.header("authorization") {
                Some("Bearer tok") => good(seen),
                _ => {
                    reply(401, "").with("www-authenticate", "Bearer realm=\"/token\",service=\"s\"")
                }
            },
        },
    )
    .await;
    let login = Credential::IdentityToken("refresh".into());
    let credentials = Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)])));
    let registries = Registries::new(RegistriesConfig {
        credentials,
        ..config()
    });
    registries.resolve(&image(&server.host())).await.unwrap();
    let post = server
        .seen()
        .into_iter()
        .find(|s| s.method == "POST")
        .unwrap();
    assert!(
        String::from_utf8(post.body)
            .unwrap()
            .contains("grant_type=refresh_token")
    );
}

#[tokio::test]
async fn a_refused_login_says_whose_it_was_and_never_the_secret() {
    let server = Server::plain(|_| {
        reply(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#,
        )
        .with("www-authenticate", "Basic realm=\"r\"")
    })
    .await;
    let login = Credential::Basic {
        username: "alice".into(),
        password: "hunter2".into(),
    };
    let credentials = Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)])));
    let registries = Registries::new(RegistriesConfig {
        credentials,
        ..config()
    });
    let error = registries
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    let text = format!("{error}\n{error:?}\n{}", error_page(&error));
    assert!(
        text.contains("pull access denied") && text.contains("alice"),
        "{text}"
    );
    assert!(
        !text.contains("hunter2") && !text.contains("aHVudGVyM"),
        "{text}"
    );
    assert!(server.seen().len() <= 3, "no endless login");
}

#[tokio::test]
async fn a_registry_that_hides_behind_404_is_pinged_for_its_challenge() {
    let server = Server::plain(|seen| {
        let challenge = || reply(401, "").with("www-authenticate", "Basic realm=\"r\"");
        match (seen.path.as_str(), seen.header("authorization")) {
            ("/v2/", _) => challenge(),
            (_, None) => reply(404, ""),
            (_, Some(_)) => good(seen),
        }
    })
    .await;
    let login = Credential::Basic {
        username: "u".into(),
        password: "p".into(),
    };
    let credentials = Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)])));
    let registries = Registries::new(RegistriesConfig {
        credentials,
        ..config()
    });
    registries.resolve(&image(&server.host())).await.unwrap();
}

#[tokio::test]
async fn a_token_is_not_used_for_another_login() {
    let server = Server::plain(|seen| {
        let who = seen.header("authorization").unwrap_or("none").to_owned();
        if seen.path.starts_with("/token") {
            let token = if who == "Basic YTph" {
                "for-a"
            } else {
                "for-b"
            };
            return reply(200, format!(r#"{{"token":"{token}","expires_in":300}}"#));
        }
        match who.as_str() {
            "none" => {
                reply(401, "").with("www-authenticate", "Bearer realm=\"/token\",service=\"s\"")
            }
            _ => good(seen),
        }
    })
    .await;
    let login = |name: &str| {
        let login = Credential::Basic {
            username: name.into(),
            password: name.into(),
        };
        Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)])))
    };
    let first = Registries::new(RegistriesConfig {
        credentials: login("a"),
        ..config()
    });
    first.resolve(&image(&server.host())).await.unwrap();
    assert_eq!(
        server.seen().last().unwrap().header("authorization"),
        Some("Bearer for-a")
    );
    first
        .with_credentials(login("b"))
        .resolve(&image(&server.host()))
        .await
        .unwrap();
    assert_eq!(
        server.seen().last().unwrap().header("authorization"),
        Some("Bearer for-b")
    );
}

// ---- mirrors

#[tokio::test]
async fn a_dead_mirror_is_dialled_once() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = Server::plain(good).await;
    let mirrors = vec![format!("localhost:{port}")];
    let registries = with_host(
        &server.host(),
        HostConfig {
            mirrors,
            ..HostConfig::default()
        },
    );
    let reference = image(&server.host());
    assert_eq!(
        registries.resolve(&reference).await.unwrap().notices.len(),
        1
    );
    assert_eq!(
        registries.resolve(&reference).await.unwrap().notices.len(),
        0
    );
}

#[tokio::test]
async fn a_mirror_that_served_wrong_bytes_is_not_asked_for_them_again() {
    let mirror = Server::plain(|_| reply(200, vec![7; sample().layer.len()])).await;
    let server = Server::plain(good).await;
    let mirrors = vec![mirror.host()];
    let registries = with_host(
        &server.host(),
        HostConfig {
            mirrors,
            ..HostConfig::default()
        },
    );
    let (reference, layer) = (image(&server.host()), sample().layer);
    let error = read(&registries, &reference, &layer).await.unwrap_err();
    assert!(
        matches!(error.primary().unwrap().error, HostError::Digest { .. }),
        "{error}"
    );
    assert_eq!(read(&registries, &reference, &layer).await.unwrap(), layer);
}

#[tokio::test]
async fn a_failing_mirror_is_passed_over_with_a_notice() {
    let mirror = Server::plain(|_| reply(500, "")).await;
    let server = Server::plain(good).await;
    let registries = with_host(
        &server.host(),
        HostConfig {
            mirrors: vec![format!("http://{}/proxy", mirror.host())],
            ..HostConfig::default()
        },
    );
    let found = registries.resolve(&image(&server.host())).await.unwrap();
    assert_eq!(found.host, server.host());
    assert!(
        found.notices[0].contains("was passed over: 500"),
        "{:?}",
        found.notices
    );
    let asked = &mirror.seen()[0].path;
    assert_eq!(
        *asked,
        format!(
            "/v2/proxy/r/manifests/latest?ns=localhost%3A{}",
            server.port
        )
    );
    assert!(server.seen().iter().all(|s| !s.path.contains("ns=")));
}

#[tokio::test]
async fn when_all_hosts_fail_each_is_reported_with_its_reason() {
    let made = issued(&["localhost"], |_| {});
    let mirror = Server::tls(made.server, good).await;
    let server = Server::plain(|_| reply(404, "")).await;
    let hosts = BTreeMap::from([
        (
            server.host(),
            HostConfig {
                mirrors: vec![mirror.host()],
                ..HostConfig::default()
            },
        ),
        (
            mirror.host(),
            HostConfig {
                http: Some(false),
                ..HostConfig::default()
            },
        ),
    ]);
    let registries = Registries::new(RegistriesConfig { hosts, ..config() });
    let error = registries
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    let RegistryError::AllHostsFailed { attempts, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(attempts.len(), 2);
    assert!(attempts[0].mirror && !attempts[1].mirror);
    let text = error.to_string();
    assert!(
        text.contains("x509: certificate signed by unknown authority"),
        "{text}"
    );
    assert!(
        text.contains(&format!("also tried {}: 404", server.host())),
        "{text}"
    );
    assert!(!error.is_not_found());
}

// ---- TLS

#[tokio::test]
async fn an_unknown_authority_has_the_documented_header_and_the_certificate() {
    let made = issued(&["localhost"], |_| {});
    let server = Server::tls(made.server, good).await;
    let (other, _) = ca();
    let trust = file(&other.pem());
    let registries = with_host(&server.host(), trusting(&trust));
    let error = registries
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "failed to do request: Head https://{}/v2/r/manifests/latest: x509: certificate signed by unknown authority",
            server.host()
        )
    );
    let page = error_page(&error);
    assert!(page.contains("issuer  CN=Acme Root CA"), "{page}");
    assert!(
        page.contains(&format!("[registry.\"{}\"] ca =", server.host())),
        "{page}"
    );
}

#[tokio::test]
async fn each_certificate_fault_has_its_kind_and_gos_words() {
    let past = rcgen::date_time_ymd(2001, 1, 1);
    let future = rcgen::date_time_ymd(2999, 1, 1);
    let cases = [
        (
            issued(&["localhost"], |p| p.not_after = past),
            Kind::Expired,
            "x509: certificate has expired or is not yet valid: current time",
        ),
        (
            issued(&["localhost"], |p| p.not_before = future),
            Kind::NotYetValid,
            "is before 2999-01-01T00:00:00Z",
        ),
        (
            issued(&["a.test", "b.test"], |_| {}),
            Kind::NameMismatch,
            "x509: certificate is valid for a.test, b.test, not localhost",
        ),
        (
            issued(&[], |_| {}),
            Kind::NoSan,
            "x509: certificate relies on legacy Common Name field",
        ),
        (
            issued(&["localhost"], |p| {
                p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]
            }),
            Kind::WrongEku,
            "x509: certificate specifies an incompatible key usage",
        ),
    ];
    for (made, expected, words) in cases {
        let server = Server::tls(made.server, good).await;
        let registries = with_host(&server.host(), trusting(&made.trust));
        let error = registries
            .resolve(&image(&server.host()))
            .await
            .unwrap_err();
        assert_eq!(kind(&error), expected, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_self_signed_ca_certificate_is_accepted_when_the_host_lists_it() {
    let made = self_signed_ca_leaf();
    let server = Server::tls(made.server, good).await;
    let reference = image(&server.host());
    with_host(&server.host(), trusting(&made.trust))
        .resolve(&reference)
        .await
        .unwrap();

    // In the system store alone it is still refused, with the reason.
    let registries = Registries::new(RegistriesConfig {
        system_trust: SystemTrust::Files(vec![made.trust.path().to_owned()]),
        hosts: BTreeMap::from([(
            server.host(),
            HostConfig {
                http: Some(false),
                ..HostConfig::default()
            },
        )]),
        ..config()
    });
    let error = registries.resolve(&reference).await.unwrap_err();
    assert_eq!(kind(&error), Kind::SelfSigned);
    assert!(
        error_page(&error).contains("CA files"),
        "{}",
        error_page(&error)
    );
}

#[tokio::test]
async fn an_insecure_host_is_used_with_a_notice() {
    let made = issued(&["elsewhere.test"], |_| {});
    let server = Server::tls(made.server, good).await;
    let settings = HostConfig {
        http: Some(false),
        insecure: Some(true),
        ..HostConfig::default()
    };
    let found = with_host(&server.host(), settings)
        .resolve(&image(&server.host()))
        .await
        .unwrap();
    assert!(
        found.notices[0].contains("marked insecure"),
        "{:?}",
        found.notices
    );
}

#[tokio::test]
async fn plain_http_where_tls_is_expected_is_named() {
    let server = Server::plain(good).await;
    let registries = with_host(
        &server.host(),
        HostConfig {
            http: Some(false),
            ..HostConfig::default()
        },
    );
    let error = registries
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    assert_eq!(kind(&error), Kind::PlainHttp);
    assert!(
        error
            .to_string()
            .ends_with("http: server gave HTTP response to HTTPS client"),
        "{error}"
    );

    // Insecure and http together: TLS first, then plain.
    let settings = HostConfig {
        http: Some(true),
        insecure: Some(true),
        ..HostConfig::default()
    };
    with_host(&server.host(), settings)
        .resolve(&image(&server.host()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_wanted_client_certificate_is_named_and_given() {
    let (client_root, client_issuer) = ca();
    let made = issued(&["localhost"], |_| {});
    // The server's own certificate again, now with client authentication.
    let (root, issuer) = ca();
    let key = RcKeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    drop(made);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(client_root.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    )
    .build()
    .unwrap();
    let server_config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![leaf.der().clone()],
            rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let server = Server::tls(server_config, good).await;
    let trust = file(&root.pem());
    let error = with_host(&server.host(), trusting(&trust))
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    assert_eq!(kind(&error), Kind::ClientCertRequired, "{error}");
    assert!(
        error_page(&error).contains("a client certificate of CN=Acme Root CA"),
        "{}",
        error_page(&error)
    );

    let client_key = RcKeyPair::generate().unwrap();
    let client = CertificateParams::new(vec!["me".to_owned()])
        .unwrap()
        .signed_by(&client_key, &client_issuer)
        .unwrap();
    let (cert, key) = (file(&client.pem()), file(&client_key.serialize_pem()));
    let pair = KeyPair {
        key: key.path().to_owned(),
        cert: cert.path().to_owned(),
    };
    let settings = HostConfig {
        keypair: vec![pair],
        ..trusting(&trust)
    };
    with_host(&server.host(), settings)
        .resolve(&image(&server.host()))
        .await
        .unwrap();
}

#[tokio::test]
async fn refused_connections_and_unknown_hosts_are_named() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let registries = Registries::new(config());
    let error = registries
        .resolve(&image(&format!("localhost:{port}")))
        .await
        .unwrap_err();
    assert_eq!(kind(&error), Kind::TcpRefused);
    let words = format!(
        "http://localhost:{port}/v2/r/manifests/latest: dial tcp localhost:{port}: connect: connection refused"
    );
    assert!(error.to_string().contains(&words), "{error}");
    let error = registries
        .resolve(&image("no-such-host.invalid"))
        .await
        .unwrap_err();
    assert_eq!(kind(&error), Kind::Dns, "{error}");
}

#[tokio::test]
async fn a_ca_file_without_certificates_is_an_error_that_names_it() {
    let empty = file("nothing here\n");
    let registries = with_host("h.example", trusting(&empty));
    let error = registries.resolve(&image("h.example")).await.unwrap_err();
    assert!(
        error.to_string().contains("holds no PEM certificate"),
        "{error}"
    );
}

#[tokio::test]
async fn failures_have_stable_names_for_programs() {
    let made = issued(&["localhost"], |_| {});
    let server = Server::tls(made.server, good).await;
    let registries = with_host(
        &server.host(),
        HostConfig {
            http: Some(false),
            ..HostConfig::default()
        },
    );
    let error = registries
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    let value = error_json(&error);
    assert_eq!(value["attempts"][0]["kind"], "no_trust");
    assert_eq!(
        value["attempts"][0]["chain"][0]["issuer"],
        "CN=Acme Root CA"
    );
}

#[tokio::test]
async fn redirects_to_plain_http_and_in_circles_are_not_followed() {
    let made = issued(&["localhost"], |_| {});
    let server = Server::tls(made.server, |_| {
        reply(307, "").with("location", "http://localhost:1/x")
    })
    .await;
    let registries = with_host(&server.host(), trusting(&made.trust));
    let error = registries
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("from https to plain http"),
        "{error}"
    );
    let circle = Server::plain(|seen| reply(302, "").with("location", seen.path.clone())).await;
    let error = registries
        .resolve(&image(&circle.host()))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("more than 10 redirects"),
        "{error}"
    );
    assert_eq!(circle.seen().len(), 11);
}

#[tokio::test]
async fn a_missing_platform_lists_what_is_offered() {
    let server = Server::plain(good).await;
    let wanted = Platform::new("linux", "s390x", "");
    let error = Registries::new(config())
        .image(&image(&server.host()), &wanted)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("linux/s390x is not offered, only linux/amd64"),
        "{error}"
    );
}

#[tokio::test]
async fn offline_asks_nobody() {
    let registries = Registries::new(RegistriesConfig {
        offline: true,
        ..config()
    });
    let error = registries.resolve(&image("h.example")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Offline { .. }), "{error}");
}

// ---- into the store

#[tokio::test]
async fn a_blob_comes_into_the_store_although_the_mirror_served_wrong_bytes() {
    let mirror = Server::plain(|_| reply(200, vec![7; sample().layer.len()])).await;
    let server = Server::plain(good).await;
    let mirrors = vec![mirror.host()];
    let registries = with_host(
        &server.host(),
        HostConfig {
            mirrors,
            ..HostConfig::default()
        },
    );
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::BlobStore::open(folder.path()).unwrap();
    let (reference, layer) = (image(&server.host()), sample().layer);
    let descriptor = Descriptor::of(OCI_LAYER_GZIP, &layer);
    let heard = std::sync::atomic::AtomicU64::new(0);
    let progress = |bytes| heard.store(bytes, Ordering::Relaxed);
    assert!(
        registries
            .fetch(&reference, &descriptor, &store, &progress)
            .await
            .unwrap()
    );
    assert_eq!(heard.load(Ordering::Relaxed), descriptor.size);
    assert_eq!(
        store.read(&descriptor.digest, descriptor.size).unwrap(),
        layer
    );
    assert!(
        !registries
            .fetch(&reference, &descriptor, &store, &progress)
            .await
            .unwrap()
    );
    assert_eq!((mirror.seen().len(), server.seen().len()), (1, 1));
}

#[tokio::test]
async fn wrong_bytes_of_the_only_host_never_enter_the_store() {
    let server = Server::plain(|_| reply(200, vec![7; sample().layer.len()])).await;
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::BlobStore::open(folder.path()).unwrap();
    let descriptor = Descriptor::of(OCI_LAYER_GZIP, &sample().layer);
    let registries = Registries::new(config());
    let error = registries
        .fetch(&image(&server.host()), &descriptor, &store, &|_| {})
        .await
        .unwrap_err();
    assert!(
        matches!(error.primary().unwrap().error, HostError::Digest { .. }),
        "{error}"
    );
    assert_eq!(store.list().unwrap(), []);
}

// ---- pushing

/// A registry that keeps what it is given.
#[derive(Default)]
struct Kept {
    blobs: std::sync::Mutex<BTreeMap<String, Vec<u8>>>,
    manifests: std::sync::Mutex<Vec<(String, Vec<u8>)>>,
}

impl Kept {
    fn answer(&self, seen: &Seen) -> Reply {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        match (seen.method.as_str(), path) {
            ("POST", "/v2/r/blobs/uploads/") => {
                reply(202, "").with("location", "session-1?_state=a%3Db")
            }
            ("PUT", "/v2/r/blobs/uploads/session-1") => {
                let wanted = format!(
                    "_state=a%3Db&digest=sha256%3A{}",
                    Digest::of(&seen.body).hex()
                );
                assert_eq!(query, wanted);
                assert!(seen.header("content-range").is_none());
                self.blobs
                    .lock()
                    .unwrap()
                    .insert(digest(&seen.body), seen.body.clone());
                reply(201, "")
            }
            ("HEAD", path) if path.starts_with("/v2/r/blobs/") => {
                let known = self
                    .blobs
                    .lock()
                    .unwrap()
                    .contains_key(path.trim_start_matches("/v2/r/blobs/"));
                reply(if known { 200 } else { 404 }, "")
            }
            ("PUT", path) if path.starts_with("/v2/r/manifests/") => {
                let name = path.trim_start_matches("/v2/r/manifests/").to_owned();
                self.manifests
                    .lock()
                    .unwrap()
                    .push((name, seen.body.clone()));
                reply(201, "").with("docker-content-digest", digest(&seen.body))
            }
            _ => reply(500, ""),
        }
    }
}

fn source() -> BTreeMap<Digest, bytes::Bytes> {
    let s = sample();
    [s.config, s.layer, s.manifest, s.index]
        .into_iter()
        .map(|b| (Digest::of(&b), b.into()))
        .collect()
}

#[tokio::test]
async fn a_push_sends_missing_blobs_once_and_the_tag_last() {
    let kept = Arc::new(Kept::default());
    let (answering, s) = (kept.clone(), sample());
    let server = Server::plain(move |seen| answering.answer(seen)).await;
    let (registries, reference) = (Registries::new(config()), image(&server.host()));
    let root = Descriptor::of(OCI_INDEX, &s.index);
    let pushed = registries.push(&reference, &root, &source()).await.unwrap();
    assert_eq!((pushed.uploaded, pushed.present), (2, 0));
    assert_eq!(kept.blobs.lock().unwrap()[&digest(&s.layer)], s.layer);
    let expected = vec![
        (digest(&s.manifest), s.manifest),
        ("latest".to_owned(), s.index),
    ];
    assert_eq!(*kept.manifests.lock().unwrap(), expected);
    let again = registries.push(&reference, &root, &source()).await.unwrap();
    assert_eq!((again.uploaded, again.present), (0, 2));
}

#[tokio::test]
async fn a_blob_that_the_registry_only_claimed_to_have_is_sent_after_all() {
    let kept = Arc::new(Kept::default());
    let answering = kept.clone();
    let server = Server::plain(move |seen| {
        if seen.method == "HEAD" {
            return reply(200, "");
        }
        if seen.path.starts_with("/v2/r/manifests/") && answering.blobs.lock().unwrap().is_empty() {
            return reply(
                404,
                r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"}]}"#,
            );
        }
        answering.answer(seen)
    })
    .await;
    let root = Descriptor::of(OCI_MANIFEST, &sample().manifest);
    let registries = Registries::new(config());
    registries
        .push(&image(&server.host()), &root, &source())
        .await
        .unwrap();
    assert_eq!(kept.blobs.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_push_without_the_right_speaks_of_push() {
    let server =
        Server::plain(|_| reply(403, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#)).await;
    let root = Descriptor::of(OCI_MANIFEST, &sample().manifest);
    let error = Registries::new(config())
        .push(&image(&server.host()), &root, &source())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("push access denied"), "{error}");
}

#[test]
fn every_call_can_run_on_another_thread() {
    fn sendable<T: Send>(_: &T) {}
    let registries = Registries::new(config());
    let (reference, platform) = (image("h.example"), amd64());
    let descriptor = Descriptor::of(OCI_MANIFEST, b"{}");
    let source = source();
    sendable(&registries.image(&reference, &platform));
    sendable(&registries.blob(&reference, &descriptor));
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::BlobStore::open(folder.path()).unwrap();
    sendable(&registries.fetch(&reference, &descriptor, &store, &|_| {}));
    sendable(&registries.push(&reference, &descriptor, &source));
}
