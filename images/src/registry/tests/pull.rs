use super::*;

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
            .all(|seen| seen.header("accept-encoding") == Some("identity"))
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
