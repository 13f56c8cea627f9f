//! Registries that are odd in the known ways: each works, and what was done about it is told once.

use super::*;
use crate::registry::Quirk;

const SCHEMA1: &str = r#"{"schemaVersion":1,"fsLayers":[]}"#;

fn told(registries: &Registries, words: &str) -> usize {
    let lines = registries.take_notices();
    lines.iter().filter(|line| line.contains(words)).count()
}

#[tokio::test]
async fn sentence_2_row_1_a_failed_head_is_asked_again_with_get_and_told_once() {
    let server = Server::plain(|seen| match seen.method.as_str() {
        "HEAD" => reply(404, ""),
        _ => good(seen),
    })
    .await;
    let registries = Registries::new(config());
    let (reference, stale) = (image(&server.host()), Digest::of(b"stale"));
    let found = registries
        .resolve_changed(&reference, &stale)
        .await
        .unwrap()
        .unwrap();
    let words = "answers HEAD of a manifest with 404: GET is used instead";
    assert!(found.notices[0].contains(words), "{:?}", found.notices);
    let again = registries
        .resolve_changed(&reference, &stale)
        .await
        .unwrap()
        .unwrap();
    assert!(again.notices.is_empty(), "{:?}", again.notices);
    // Check 16: the host is remembered.
    assert_eq!(server.count("HEAD", "/v2/r/manifests/latest"), 1);
    assert_eq!(
        registries.quirks_of(&server.host()),
        [Quirk::HeadFails(404)]
    );
}

#[tokio::test]
async fn check_15_when_head_and_get_fail_both_statuses_are_told_and_head_is_trusted_on() {
    let server = Server::plain(
        |seen| match (seen.method.as_str(), seen.path.contains("gone")) {
            ("HEAD", true) => reply(400, ""),
            ("HEAD", false) => reply(200, "").with("docker-content-digest", digest(b"same")),
            _ => reply(404, ""),
        },
    )
    .await;
    let registries = Registries::new(config());
    let gone = image(&server.host()).with_tag("gone").unwrap();
    let error = registries
        .resolve_changed(&gone, &Digest::of(b"x"))
        .await
        .unwrap_err();
    let RegistryError::AllHostsFailed { attempts, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        attempts[0].error.to_string(),
        "404 Not Found (HEAD before it: 400)"
    );
    let (reference, same) = (image(&server.host()), Digest::of(b"same"));
    assert!(
        registries
            .resolve_changed(&reference, &same)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(server.count("HEAD", "/v2/r/manifests/latest"), 1);
}

#[tokio::test]
async fn check_18_and_19_accept_is_sent_in_the_form_that_the_server_understands() {
    let one_line = Server::plain(|seen| {
        let accepts: Vec<_> = seen.headers.iter().filter(|(n, _)| n == "accept").collect();
        match accepts.len() == 1 && accepts[0].1.contains(", ") {
            true => good(seen),
            false => reply(200, SCHEMA1),
        }
    })
    .await;
    let json_only = Server::plain(|seen| {
        let json = |(name, value): &(String, String)| {
            name == "accept" && value.contains("application/json")
        };
        match seen.headers.iter().any(json) {
            true => good(seen),
            false => reply(406, ""),
        }
    })
    .await;
    for server in [one_line, json_only] {
        let registries = Registries::new(config());
        let found = registries.resolve(&image(&server.host())).await.unwrap();
        assert!(
            found.notices[0].contains("does not understand several Accept lines"),
            "{:?}",
            found.notices
        );
    }
}

#[tokio::test]
async fn check_20_schema_1_has_the_known_text_and_says_what_to_do() {
    let server = Server::plain(|_| reply(200, SCHEMA1)).await;
    let error = Registries::new(config())
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    let text = "support Docker Image manifest version 2, schema 1 has been removed. More information at https://docs.docker.com/go/deprecated-image-specs/";
    assert!(error.to_string().ends_with(text), "{error}");
    assert!(
        error_page(&error).contains("push it again"),
        "{}",
        error_page(&error)
    );
}

#[tokio::test]
async fn check_21_and_23_what_the_headers_say_wrongly_is_told_once_and_passed_over() {
    let server = Server::plain(|seen| match seen.path.as_str() {
        "/v2/r/manifests/latest" => reply(200, sample().index)
            .with("content-type", "application/octet-stream")
            .with("docker-content-digest", "notadigest"),
        _ => good(seen),
    })
    .await;
    let registries = Registries::new(config());
    let found = registries.resolve(&image(&server.host())).await.unwrap();
    assert_eq!(found.notices.len(), 2, "{:?}", found.notices);
    assert!(found.notices[0].contains("serves a manifest as \"application/octet-stream\""));
    assert!(found.notices[1].contains("that is no digest: the digest is computed"));
    assert!(
        registries
            .resolve(&image(&server.host()))
            .await
            .unwrap()
            .notices
            .is_empty()
    );
}

#[tokio::test]
async fn check_22_and_44_ambiguous_documents_and_web_pages_are_refused_with_the_reason() {
    let both = format!(
        r#"{{"schemaVersion":2,"manifests":[],"config":{{"digest":"{}","size":2}},"layers":[]}}"#,
        digest(b"{}")
    );
    let server = Server::plain(move |seen| match seen.path.contains("html") {
        true => reply(200, "<html><title>Sign in</title>").with("content-type", "text/html"),
        false => reply(200, both.clone()),
    })
    .await;
    let registries = Registries::new(config());
    let error = registries
        .resolve(&image(&server.host()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("ambiguous manifest"), "{error}");
    let page = image(&server.host()).with_tag("html").unwrap();
    let error = registries.resolve(&page).await.unwrap_err();
    assert!(
        error.to_string().contains("HTML page titled \"Sign in\""),
        "{error}"
    );
    assert!(
        error_page(&error).contains("override_path"),
        "{}",
        error_page(&error)
    );
}

#[tokio::test]
async fn check_26_and_27_empty_descriptors_are_refused_and_embedded_content_is_used() {
    let server = Server::plain(good).await;
    let registries = Registries::new(config());
    let mut empty = Descriptor::of(OCI_LAYER_GZIP, b"");
    let refused = registries.blob(&image(&server.host()), &empty).await;
    assert!(matches!(
        refused.err(),
        Some(RegistryError::ZeroSize { .. })
    ));
    empty = Descriptor::of(OCI_LAYER_GZIP, b"{}");
    empty.data = Some("e30=".into());
    let stream = registries
        .blob(&image(&server.host()), &empty)
        .await
        .unwrap();
    let bytes: Vec<_> = stream.try_collect().await.unwrap();
    assert_eq!(bytes.concat(), b"{}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn check_32_an_image_of_another_platform_than_asked_for_is_refused() {
    let server = Server::plain(|seen| match seen.path.as_str() {
        "/v2/r/manifests/latest" => {
            reply(200, sample().manifest).with("content-type", OCI_MANIFEST)
        }
        _ => good(seen),
    })
    .await;
    let wanted = Platform::new("linux", "arm64", "");
    let outcome = Registries::new(config())
        .image(&image(&server.host()), &wanted)
        .await;
    let error = outcome.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("linux/arm64 is not offered, only linux/amd64"),
        "{error}"
    );
}

#[tokio::test]
async fn row_15_a_missing_child_of_an_index_is_named() {
    let child = digest(&sample().manifest);
    let server = Server::plain(|seen| match seen.path.as_str() {
        "/v2/r/manifests/latest" => good(seen),
        _ => reply(404, ""),
    })
    .await;
    let outcome = Registries::new(config())
        .image(&image(&server.host()), &amd64())
        .await;
    let error = outcome.unwrap_err();
    assert!(error.is_not_found());
    let words = format!("its linux/amd64 manifest {child}: not found");
    assert!(error.to_string().contains(&words), "{error}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn check_41_encoded_bodies_that_nobody_asked_for_are_decoded_and_verified() {
    let server = Server::plain(|seen| {
        let s = sample();
        let body = match seen.path.as_str() {
            "/v2/r/manifests/latest" => s.index,
            path if path.contains("/manifests/") => s.manifest,
            path if path.ends_with(&digest(&s.config)) => s.config,
            _ => s.layer,
        };
        reply(200, gzip(&body))
            .with("content-encoding", "gzip")
            .with("content-type", "application/json")
    })
    .await;
    let registries = Registries::new(config());
    let found = registries
        .image(&image(&server.host()), &amd64())
        .await
        .unwrap();
    assert_eq!(found.config_bytes, sample().config);
    let layer = sample().layer;
    assert_eq!(
        read(&registries, &image(&server.host()), &layer)
            .await
            .unwrap(),
        layer
    );
    let quirks = registries.quirks_of(&server.host());
    assert!(
        quirks.contains(&Quirk::Encoded("gzip".into())),
        "{quirks:?}"
    );
}

#[tokio::test]
async fn check_42_a_body_cut_without_an_announced_length_is_resumed() {
    let server = Server::plain(|seen| {
        let layer = sample().layer;
        match seen.header("range") {
            None => reply(200, layer).cut(150_000).unannounced(),
            Some(_) => reply(206, layer[150_000..].to_vec())
                .with("content-range", "bytes 150000-399999/400000"),
        }
    })
    .await;
    let layer = sample().layer;
    let registries = Registries::new(config());
    assert_eq!(
        read(&registries, &image(&server.host()), &layer)
            .await
            .unwrap(),
        layer
    );
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn check_35_and_36_wrong_parts_and_refused_ranges_are_read_again_from_the_start() {
    for refused in [true, false] {
        let times = AtomicUsize::new(0);
        let server = Server::plain(move |seen| {
            let layer = sample().layer;
            match (times.fetch_add(1, Ordering::Relaxed), seen.header("range")) {
                (0, _) => reply(200, layer).cut(150_000),
                (_, None) => reply(200, layer),
                (_, Some(_)) if refused => reply(416, ""),
                (_, Some(_)) => reply(206, layer).with("content-range", "bytes 0-399999/400000"),
            }
        })
        .await;
        let registries = Registries::new(config());
        let layer = sample().layer;
        assert_eq!(
            read(&registries, &image(&server.host()), &layer)
                .await
                .unwrap(),
            layer
        );
        assert_eq!(told(&registries, "does not serve the rest of a blob"), 1);
    }
}

#[tokio::test]
async fn check_44_a_silent_server_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("localhost:{}", listener.local_addr().unwrap().port());
    let held = std::thread::spawn(move || {
        let streams: Vec<_> = listener.incoming().take(3).flatten().collect();
        std::thread::sleep(Duration::from_secs(2));
        drop(streams);
    });
    let registries = Registries::new(RegistriesConfig {
        limits: Limits {
            stall: Duration::from_millis(200),
            ..config().limits
        },
        ..config()
    });
    let error = registries.resolve(&image(&host)).await.unwrap_err();
    assert_eq!(kind(&error), Kind::ResponseTimeout, "{error}");
    drop(held);
}

#[tokio::test]
async fn check_49_a_foreign_layer_comes_from_its_address_without_a_login() {
    let elsewhere = Server::plain(|_| reply(200, sample().layer)).await;
    let wrong = Server::plain(|_| reply(200, vec![1; sample().layer.len()])).await;
    let server = Server::plain(good).await;
    let login = Credential::Basic {
        username: "u".into(),
        password: "p".into(),
    };
    let hosts = [server.host(), elsewhere.host()].map(|host| (host, login.clone()));
    let registries = Registries::new(RegistriesConfig {
        credentials: Arc::new(FixedCredentials(BTreeMap::from(hosts))),
        ..config()
    });
    let mut layer = Descriptor::of(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        &sample().layer,
    );
    layer.urls = vec![format!("http://{}/gone", elsewhere.host())];
    let (folder, reference) = (tempfile::tempdir().unwrap(), image(&server.host()));
    let store = crate::store::BlobStore::open(folder.path()).unwrap();
    assert!(
        registries
            .fetch(&reference, &layer, &store, &|_| {})
            .await
            .unwrap()
    );
    assert!(server.seen().is_empty(), "the registry need not be asked");
    assert_eq!(elsewhere.seen()[0].header("authorization"), None);
    // Wrong bytes are refused, and the registry is asked.
    store.remove(&layer.digest).unwrap();
    layer.urls = vec![format!("http://{}/x", wrong.host())];
    assert!(
        registries
            .fetch(&reference, &layer, &store, &|_| {})
            .await
            .unwrap()
    );
    assert_eq!((wrong.seen().len() <= 2, server.seen().len()), (true, 1));
}

#[tokio::test]
async fn check_119_a_warning_of_the_registry_is_told_once() {
    let server =
        Server::plain(|seen| good(seen).with("warning", "299 - \"this tag goes away\"")).await;
    let registries = Registries::new(config());
    let found = registries
        .image(&image(&server.host()), &amd64())
        .await
        .unwrap();
    let warned: Vec<_> = found
        .notices
        .iter()
        .filter(|n| n.contains("this tag goes away"))
        .collect();
    assert_eq!(warned.len(), 1, "{:?}", found.notices);
}

#[tokio::test]
async fn sentence_7_a_whole_image_is_fetched_and_an_interrupted_fetch_is_taken_up() {
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let switch = broken.clone();
    let server = Server::plain(
        move |seen| match seen.path.ends_with(&digest(&sample().layer)) {
            true if switch.load(Ordering::Relaxed) => reply(403, ""),
            _ => good(seen),
        },
    )
    .await;
    let (folder, reference) = (tempfile::tempdir().unwrap(), image(&server.host()));
    let store = crate::store::BlobStore::open(folder.path()).unwrap();
    let registries = Registries::new(config());
    let root = registries.resolve(&reference).await.unwrap().root;
    let none = |_: &Digest, _| {};
    registries
        .fetch_whole(&reference, &root, None, &store, &none)
        .await
        .unwrap_err();
    assert!(
        !store.contains(&root.descriptor.digest),
        "no manifest without its blobs"
    );
    broken.store(false, Ordering::Relaxed);
    let top = registries
        .fetch_whole(&reference, &root, None, &store, &none)
        .await
        .unwrap();
    assert_eq!(top.digest, root.descriptor.digest);
    assert_eq!(store.list().unwrap().len(), 4);
    let config_path = format!("/v2/r/blobs/{}", digest(&sample().config));
    assert_eq!(
        server.count("GET", &config_path),
        1,
        "what was there is not fetched again"
    );
}

#[tokio::test]
async fn the_size_of_a_blob_is_had_by_get_where_head_is_refused_or_says_nothing() {
    for status in [405, 200] {
        let server = Server::plain(move |seen| match seen.method.as_str() {
            "HEAD" => reply(status, ""),
            _ => good(seen),
        })
        .await;
        let registries = Registries::new(config());
        let layer = sample().layer;
        let digest: Digest = digest(&layer).parse().unwrap();
        let found = registries.measure(&image(&server.host()), &digest).await;
        assert_eq!(found.unwrap().size, layer.len() as u64, "{status}");
        let missing = Digest::of(b"missing");
        let error = registries.measure(&image(&server.host()), &missing).await;
        let error = error.unwrap_err();
        assert!(error.is_not_found(), "{error}");
    }
}
