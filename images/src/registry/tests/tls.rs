use super::*;

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

/// What is wrong with a server's own certificate: its kind, and Go's words.
pub(super) fn faults() -> Vec<(Made, Kind, &'static str)> {
    let past = rcgen::date_time_ymd(2001, 1, 1);
    let future = rcgen::date_time_ymd(2999, 1, 1);
    vec![
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
    ]
}

#[tokio::test]
async fn each_certificate_fault_has_its_kind_and_gos_words() {
    for (made, expected, words) in faults() {
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
            .ends_with("not found (linux/s390x is not offered, only linux/amd64)"),
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
