use super::*;

#[tokio::test]
async fn a_dead_mirror_is_dialled_once() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = Server::plain(good).await;
    let mirrors = vec![format!("localhost:{port}").into()];
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
    let mirrors = vec![mirror.host().into()];
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
            mirrors: vec![format!("http://{}/proxy", mirror.host()).into()],
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
                mirrors: vec![mirror.host().into()],
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
