//! One test for each way in which a certificate or a handshake fails: its kind, Go's words, what the page shows.

use rcgen::{CustomExtension, GeneralSubtree, NameConstraints};

use super::*;

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params
}

pub(super) fn authority(
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> (rcgen::Certificate, CertificateParams, RcKeyPair) {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = RcKeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), params, key)
}

/// A chain root -> intermediate -> leaf; what is sent is told by `sent`.
fn chained(change: impl FnOnce(&mut CertificateParams), aia: bool, sent: bool) -> Made {
    let (root, params, key) = authority("Acme Root CA", |_| {});
    let root_issuer = Issuer::new(params, key);
    let mut middle = CertificateParams::default();
    middle
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Acme Issuing CA 2");
    middle.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut middle);
    let middle_key = RcKeyPair::generate().unwrap();
    let middle_certificate = middle.signed_by(&middle_key, &root_issuer).unwrap();
    let issuer = Issuer::new(middle, middle_key);
    let mut leaf = named("leaf");
    if aia {
        // AuthorityInfoAccess with caIssuers http://ca/x.
        let oid = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02];
        let url = b"http://ca/x";
        let mut access = oid.to_vec();
        access.extend([0x86, url.len() as u8]);
        access.extend_from_slice(url);
        let mut der = vec![0x30, (access.len() + 2) as u8, 0x30, access.len() as u8];
        der.extend(access);
        let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], der);
        leaf.custom_extensions.push(extension);
    }
    let key = RcKeyPair::generate().unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    let chain = match sent {
        true => vec![certificate, middle_certificate],
        false => vec![certificate],
    };
    Made {
        server: server_config(chain, &key),
        trust: file(&root.pem()),
    }
}

pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) made: Made,
    pub(super) kind: Kind,
    /// In the one line.
    pub(super) words: &'static str,
    /// In the page.
    shown: &'static str,
}

const UNKNOWN: &str = "x509: certificate signed by unknown authority";

pub(super) fn rows() -> Vec<Row> {
    let past = rcgen::date_time_ymd(2001, 1, 1);
    let row = |name, made, kind, words, shown| Row {
        name,
        made,
        kind,
        words,
        shown,
    };
    let mut other_root = issued(&["localhost"], |_| {});
    other_root.trust = file(&authority("Another Root", |_| {}).0.pem());
    let mut rotated = issued(&["localhost"], |_| {});
    rotated.trust = file(&authority("Acme Root CA", |_| {}).0.pem());
    let mut self_signed = self_signed_ca_leaf();
    self_signed.trust = file(&authority("Another Root", |_| {}).0.pem());
    let mut plain_self_signed = {
        let key = RcKeyPair::generate().unwrap();
        let leaf = named("self").self_signed(&key).unwrap();
        Made {
            server: server_config(vec![leaf], &key),
            trust: file(""),
        }
    };
    plain_self_signed.trust = file(&authority("Another Root", |_| {}).0.pem());
    let not_a_ca = {
        let (root, params, key) = authority("Acme Root CA", |_| {});
        let root_issuer = Issuer::new(params, key);
        let middle = named("no authority");
        let middle_key = RcKeyPair::generate().unwrap();
        let middle_certificate = middle.signed_by(&middle_key, &root_issuer).unwrap();
        let key = RcKeyPair::generate().unwrap();
        let leaf = named("leaf")
            .signed_by(&key, &Issuer::new(middle, middle_key))
            .unwrap();
        Made {
            server: server_config(vec![leaf, middle_certificate], &key),
            trust: file(&root.pem()),
        }
    };
    vec![
        row(
            "another root",
            other_root,
            Kind::UnknownIssuer,
            UNKNOWN,
            "issuer  CN=Acme Root CA",
        ),
        row(
            "self-signed CA",
            self_signed,
            Kind::SelfSigned,
            UNKNOWN,
            "self-signed",
        ),
        row(
            "self-signed leaf",
            plain_self_signed,
            Kind::SelfSigned,
            UNKNOWN,
            "self-signed",
        ),
        row(
            "no intermediate",
            chained(|_| {}, true, false),
            Kind::IncompleteChain,
            UNKNOWN,
            "without the intermediate \"CN=Acme Issuing CA 2\"",
        ),
        row(
            "rotated root",
            rotated,
            Kind::IssuerKeyMismatch,
            UNKNOWN,
            "the CA's key was probably replaced",
        ),
        row(
            "expired intermediate",
            chained(|p| p.not_after = past, false, true),
            Kind::Expired,
            "x509: certificate has expired or is not yet valid: current time",
            "certificate [1] of the chain expired",
        ),
        row(
            "not an authority",
            not_a_ca,
            Kind::NotACa,
            UNKNOWN,
            "may not issue any",
        ),
        row(
            "name constraint",
            chained(
                |p| {
                    p.name_constraints = Some(NameConstraints {
                        permitted_subtrees: vec![GeneralSubtree::DnsName("inside.example".into())],
                        excluded_subtrees: Vec::new(),
                    })
                },
                false,
                true,
            ),
            Kind::NameConstraint,
            "x509: a root or intermediate certificate is not authorized to sign for this name",
            "may not issue certificates for this name",
        ),
        row(
            "critical extension",
            issued(&["localhost"], |p| {
                let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                extension.set_criticality(true);
                p.custom_extensions.push(extension);
            }),
            Kind::CriticalExtension,
            "x509: unhandled critical extension",
            "1.2.3.4",
        ),
    ]
}

#[tokio::test]
async fn check_82_and_84_each_fault_of_a_chain_has_its_kind_words_and_page() {
    for row in rows() {
        let server = Server::tls(row.made.server, good).await;
        let registries = with_host(&server.host(), trusting(&row.made.trust));
        let error = registries
            .resolve(&image(&server.host()))
            .await
            .unwrap_err();
        let (text, page) = (error.to_string(), error_page(&error));
        assert_eq!(kind(&error), row.kind, "{}: {text}", row.name);
        assert!(text.contains(row.words), "{}: {text}", row.name);
        assert!(page.contains(row.shown), "{}: {page}", row.name);
        // Checks 84, 85, 94.
        for part in [
            "subject ",
            "issuer  ",
            "valid   ",
            "sha256 ",
            "trusted    1 from /",
            "127.0.0.1, TLS 1.3",
        ] {
            assert!(page.contains(part), "{}: {part:?} in {page}", row.name);
        }
        assert!(text.len() < 400, "{}: {text}", row.name);
        // Check 97.
        let json = error_json(&error);
        assert_eq!(
            json["attempts"][0]["kind"],
            row.kind.as_str(),
            "{}",
            row.name
        );
        assert_eq!(json["attempts"][0]["trusted"][0]["certificates"], 1);
    }
}

#[tokio::test]
async fn check_87_and_88_a_pinned_certificate_is_taken_unless_expired_or_of_another_name() {
    let past = rcgen::date_time_ymd(2001, 1, 1);
    let cases: [(&[&str], Option<_>, Option<Kind>); 3] = [
        (&["localhost"], None, None),
        (&["localhost"], Some(past), Some(Kind::Expired)),
        (&["other.test"], None, Some(Kind::NameMismatch)),
    ];
    for (names, not_after, expected) in cases {
        // A leaf that another authority issued, listed itself.
        let (_, issuer) = ca();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        if let Some(past) = not_after {
            params.not_after = past;
        }
        let key = RcKeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let trust = file(&leaf.pem());
        let server = Server::tls(server_config(vec![leaf], &key), good).await;
        let outcome = with_host(&server.host(), trusting(&trust))
            .resolve(&image(&server.host()))
            .await;
        match (expected, outcome) {
            (None, outcome) => assert!(outcome.is_ok(), "{outcome:?}"),
            (Some(expected), outcome) => assert_eq!(kind(&outcome.unwrap_err()), expected),
        }
    }
}

#[tokio::test]
async fn check_86_the_way_out_names_the_folder_of_the_host_with_its_port() {
    let made = issued(&["localhost"], |_| {});
    let server = Server::tls(made.server, good).await;
    let dir = tempfile::tempdir().unwrap();
    let (other, _) = ca();
    let registries = Registries::new(RegistriesConfig {
        hosts: BTreeMap::from([(server.host(), trusting(&file(&other.pem())))]),
        certs_dirs: vec![dir.path().to_owned()],
        ..config()
    });
    // The file is gone: that is told before anything is asked.
    let error = registries
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("failed to read"), "{error}");
    let registries = Registries::new(RegistriesConfig {
        hosts: BTreeMap::from([(
            server.host(),
            HostConfig {
                http: Some(false),
                ..HostConfig::default()
            },
        )]),
        certs_dirs: vec![dir.path().to_owned()],
        ..config()
    });
    let page = error_page(
        &registries
            .resolve(&image(&server.host()))
            .await
            .unwrap_err(),
    );
    let folder = dir.path().join(server.host());
    assert!(
        page.contains(&format!("save it as {}/ca.crt", folder.display())),
        "{page}"
    );
    assert!(
        page.contains(&format!("0 from {} (absent)", folder.display())),
        "{page}"
    );
}

#[tokio::test]
async fn check_95_a_bad_certificate_behind_a_redirect_names_that_host() {
    let made = issued(&["localhost"], |_| {});
    let storage = Server::tls(made.server, good).await;
    let target = format!("https://{}/blob?sig=secret", storage.host());
    let server = Server::plain(move |_| reply(307, "").with("location", target.clone())).await;
    let error = read(
        &Registries::new(config()),
        &image(&server.host()),
        &sample().layer,
    )
    .await
    .unwrap_err();
    let header = format!(
        "failed to do request: Get https://{}/blob: x509: certificate signed by unknown authority",
        storage.host()
    );
    assert_eq!(error.to_string(), header);
    let page = error_page(&error);
    assert!(
        page.contains(&format!("peer       {}", storage.host())),
        "{page}"
    );
}

/// A port that answers each connection in one way.
pub(super) fn port(answer: impl Fn(std::net::TcpStream) + Send + 'static) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    host
}

async fn failure(host: &str) -> RegistryError {
    let registries = Registries::new(RegistriesConfig {
        hosts: BTreeMap::from([(
            host.to_owned(),
            HostConfig {
                http: Some(false),
                ..HostConfig::default()
            },
        )]),
        limits: Limits {
            connect: Duration::from_millis(700),
            ..config().limits
        },
        ..config()
    });
    registries.resolve(&image(host)).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_82_ports_that_speak_something_else_close_or_are_silent_are_told_apart() {
    use std::io::{Read as _, Write as _};
    let banner = port(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        let _ = stream.read(&mut [0; 512]);
    });
    let closing = port(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    // The alerts of a server that has nothing under the name, and of one that speaks only old versions.
    let alert = |description: u8| {
        port(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&[0x15, 0x03, 0x03, 0, 2, 2, description]);
        })
    };
    let silent = port(|stream| {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(20));
            drop(stream);
        });
    });
    for (host, expected, words) in [
        (
            banner,
            Kind::NotTls,
            "tls: first record does not look like a TLS handshake (it says \"SSH-2.0-OpenSSH_9.2\")",
        ),
        (closing, Kind::ClosedInHandshake, "EOF"),
        (
            alert(112),
            Kind::SniRefused,
            "remote error: tls: unrecognized name",
        ),
        (
            alert(70),
            Kind::ProtocolVersion,
            "remote error: tls: protocol version not supported",
        ),
        (
            alert(40),
            Kind::NoSharedCipher,
            "remote error: tls: handshake failure",
        ),
        (
            silent,
            Kind::HandshakeTimeout,
            "net/http: TLS handshake timeout",
        ),
    ] {
        let error = failure(&host).await;
        assert_eq!(kind(&error), expected, "{error}");
        assert!(error.to_string().ends_with(words), "{error}");
        assert!(
            error_page(&error).contains("problem    "),
            "{}",
            error_page(&error)
        );
    }
}

#[tokio::test]
async fn check_81_a_tls_port_asked_in_plain_http_is_named() {
    let made = issued(&["localhost"], |_| {});
    let server = Server::tls(made.server, good).await;
    let error = Registries::new(config())
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    assert_eq!(kind(&error), Kind::SpeaksTls, "{error}");
    let page = error_page(&error);
    assert!(
        page.contains(&format!("[registry.\"{}\"] http = false", server.host())),
        "{page}"
    );
}

pub(super) fn wants_client(
    roots: &[&rcgen::Certificate],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (rustls::ServerConfig, NamedTempFile) {
    let (root, issuer) = ca();
    let key = RcKeyPair::generate().unwrap();
    let leaf = named("server").signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut store = rustls::RootCertStore::empty();
    for root in roots {
        store.add(root.der().clone()).unwrap();
    }
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(store),
        provider.clone(),
    )
    .build()
    .unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![leaf.der().clone()],
            rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    (server, file(&root.pem()))
}

fn client_of(issuer: &Issuer<'static, RcKeyPair>) -> (NamedTempFile, NamedTempFile) {
    let key = RcKeyPair::generate().unwrap();
    let certificate = named("me").signed_by(&key, issuer).unwrap();
    (file(&certificate.pem()), file(&key.serialize_pem()))
}

#[tokio::test]
async fn check_92_client_certificates_in_both_versions_missing_wrong_and_the_right_one_of_several()
{
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (root_a, params, key) = authority("Clients A", |_| {});
        let issuer_a = Issuer::new(params, key);
        let (_, params, key) = authority("Clients B", |_| {});
        let issuer_b = Issuer::new(params, key);
        let (server, trust) = wants_client(&[&root_a], &[version]);
        let server = Server::tls(server, good).await;
        let error = with_host(&server.host(), trusting(&trust))
            .resolve(&image(&server.host()))
            .await
            .unwrap_err();
        assert_eq!(kind(&error), Kind::ClientCertRequired, "{error}");
        let page = error_page(&error);
        assert!(
            page.contains("a client certificate of CN=Clients A"),
            "{page}"
        );
        assert!(page.contains("keypair = "), "{page}");

        let (a, b) = (client_of(&issuer_a), client_of(&issuer_b));
        let pair = |files: &(NamedTempFile, NamedTempFile)| KeyPair {
            cert: files.0.path().to_owned(),
            key: files.1.path().to_owned(),
        };
        let with = |keypair: Vec<KeyPair>| {
            with_host(
                &server.host(),
                HostConfig {
                    keypair,
                    ..trusting(&trust)
                },
            )
        };
        let error = with(vec![pair(&b)])
            .resolve(&image(&server.host()))
            .await
            .unwrap_err();
        assert_eq!(kind(&error), Kind::ClientCertRejected, "{error}");
        // Of two, the one whose issuer the server named.
        with(vec![pair(&b), pair(&a)])
            .resolve(&image(&server.host()))
            .await
            .unwrap();
        let mixed = KeyPair {
            key: b.1.path().to_owned(),
            ..pair(&a)
        };
        let error = with(vec![mixed])
            .resolve(&image(&server.host()))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("does not fit the certificate"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn check_82_an_address_without_its_own_name_in_the_certificate_is_told() {
    let made = issued(&["localhost"], |_| {});
    let server = Server::tls(made.server, good).await;
    let host = format!("127.0.0.1:{}", server.port);
    let error = with_host(&host, trusting(&made.trust))
        .resolve(&image(&host))
        .await
        .unwrap_err();
    assert_eq!(kind(&error), Kind::IpSanMissing, "{error}");
    let words =
        "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs";
    assert!(error.to_string().ends_with(words), "{error}");
}

#[tokio::test]
async fn check_82_a_chain_in_another_order_with_strangers_in_it_is_good() {
    let (root, params, key) = authority("Acme Root CA", |_| {});
    let root_issuer = Issuer::new(params, key);
    let mut middle = CertificateParams::default();
    middle.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    middle
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Acme Issuing CA 2");
    let middle_key = RcKeyPair::generate().unwrap();
    let between = middle.signed_by(&middle_key, &root_issuer).unwrap();
    let key = RcKeyPair::generate().unwrap();
    let leaf = named("leaf")
        .signed_by(&key, &Issuer::new(middle, middle_key))
        .unwrap();
    let (stranger, ..) = authority("Stranger", |_| {});
    let trust = file(&root.pem());
    let chain = vec![leaf, stranger, root, between];
    let server = Server::tls(server_config(chain, &key), good).await;
    with_host(&server.host(), trusting(&trust))
        .resolve(&image(&server.host()))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_82_a_connection_that_is_reset_in_the_handshake_is_told() {
    let host = port(|stream| {
        use std::io::Read as _;
        let mut stream = stream;
        let _ = stream.read(&mut [0; 1]);
        // What was sent and is not read makes the close a reset.
        drop(stream);
    });
    let error = failure(&host).await;
    assert_eq!(kind(&error), Kind::ClosedInHandshake, "{error}");
    let text = error.to_string();
    assert!(
        text.ends_with("read: connection reset by peer") || text.ends_with("EOF"),
        "{text}"
    );
}

#[tokio::test]
async fn check_96_and_98_no_trust_at_all_and_a_wrong_clock_have_their_way_out() {
    let made = issued(&["localhost"], |_| {});
    let server = Server::tls(made.server, good).await;
    let settings = HostConfig {
        http: Some(false),
        ..HostConfig::default()
    };
    let error = with_host(&server.host(), settings)
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    assert_eq!(kind(&error), Kind::NoTrust);
    let page = error_page(&error);
    assert!(page.contains("ca-certificates"), "{page}");

    let future = rcgen::date_time_ymd(2999, 1, 1);
    let made = issued(&["localhost"], |p| p.not_before = future);
    let server = Server::tls(made.server, good).await;
    let error = with_host(&server.host(), trusting(&made.trust))
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    let page = error_page(&error);
    assert!(page.contains("clock"), "{page}");
}
