//! Points of the client's list (docs/registry-client.md) that are about nothing else in these tests.

use super::*;
use crate::registry::RegistryError;
use std::sync::atomic::AtomicBool;

fn basic(host: &str) -> RegistriesConfig {
    let login = Credential::Basic {
        username: "u".into(),
        password: "p".into(),
    };
    RegistriesConfig {
        credentials: Arc::new(FixedCredentials(BTreeMap::from([(host.to_owned(), login)]))),
        ..config()
    }
}

fn index_of(entries: Vec<Descriptor>) -> Vec<u8> {
    serde_json::to_vec(&Index {
        schema_version: 2,
        media_type: Some(OCI_INDEX.into()),
        artifact_type: None,
        manifests: entries,
        subject: None,
        annotations: BTreeMap::new(),
    })
    .unwrap()
}

#[tokio::test]
async fn check_10_a_registry_on_this_machine_is_plain_unless_the_settings_say_otherwise() {
    let plain = Server::plain(good).await;
    for host in [plain.host(), format!("127.0.0.1:{}", plain.port)] {
        let registries = Registries::new(config());
        registries.resolve(&image(&host)).await.unwrap();
    }
    let made = issued(&["localhost"], |_| {});
    let tls = Server::tls(made.server, good).await;
    let settings = trusting(&made.trust);
    assert_eq!(settings.http, Some(false));
    with_host(&tls.host(), settings)
        .resolve(&image(&tls.host()))
        .await
        .unwrap();
}

#[tokio::test]
async fn check_31_and_158_indexes_inside_indexes_are_followed_to_a_limit() {
    // Each index holds the next; the innermost holds the image.
    let mut documents = vec![sample().index];
    for _ in 0..6 {
        let inner = documents.last().unwrap();
        let mut entry = Descriptor::of(OCI_INDEX, inner);
        entry.platform = Some(amd64());
        documents.push(index_of(vec![entry]));
    }
    let served = documents.clone();
    let server = Server::plain(move |seen| {
        let named = seen.path.rsplit('/').next().unwrap_or_default();
        let found = match named.strip_prefix("depth-") {
            Some(depth) => Some(&served[depth.parse::<usize>().unwrap()]),
            None => served.iter().find(|bytes| digest(bytes) == named),
        };
        match found {
            Some(bytes) => reply(200, bytes.clone()).with("content-type", OCI_INDEX),
            None => good(seen),
        }
    })
    .await;
    let registries = Registries::new(config());
    let at = |depth: usize| {
        let tag = format!("depth-{depth}");
        image(&server.host()).with_tag(&tag).unwrap()
    };
    let found = registries.image(&at(2), &amd64()).await.unwrap();
    assert_eq!(found.manifest.bytes, sample().manifest);
    let error = registries.image(&at(6), &amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooDeep { .. }), "{error}");
}

#[tokio::test]
async fn check_158_an_index_of_more_entries_than_anybody_needs_is_refused() {
    let entry = Descriptor::of(OCI_MANIFEST, &sample().manifest);
    let many = index_of(vec![entry; crate::media::MAX_MANIFEST_ENTRIES + 1]);
    assert!((many.len() as u64) < MAX_MANIFEST_BYTES);
    let error = crate::media::RawManifest::parse(many, Some(OCI_INDEX)).unwrap_err();
    assert!(error.to_string().contains("10000"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn check_33_four_blobs_of_a_host_come_at_once_and_documents_do_not_wait_for_them() {
    let now = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(AtomicBool::new(false));
    let (at, top, document) = (now.clone(), most.clone(), asked.clone());
    let server = Server::plain(move |seen| {
        if seen.path.contains("/manifests/") {
            document.store(true, Ordering::SeqCst);
            return good(seen);
        }
        let here = at.fetch_add(1, Ordering::SeqCst) + 1;
        top.fetch_max(here, Ordering::SeqCst);
        // Held until a document was asked for.
        for _ in 0..2000 {
            if document.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        at.fetch_sub(1, Ordering::SeqCst);
        reply(200, sample().layer)
    })
    .await;
    let (registries, reference) = (Registries::new(config()), image(&server.host()));
    let blobs: Vec<_> = (0..10)
        .map(|_| {
            let (registries, reference) = (registries.clone(), reference.clone());
            tokio::spawn(async move { read(&registries, &reference, &sample().layer).await })
        })
        .collect();
    while most.load(Ordering::SeqCst) < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    registries.resolve(&reference).await.unwrap();
    for blob in blobs {
        assert_eq!(blob.await.unwrap().unwrap(), sample().layer);
    }
    assert!(asked.load(Ordering::SeqCst));
    assert_eq!(most.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn check_37_a_login_stays_with_its_host_name_also_where_the_machine_is_the_same() {
    let server = Server::plain(|seen| {
        let local = seen
            .header("host")
            .is_some_and(|h| h.starts_with("localhost"));
        match (local, seen.header("authorization")) {
            (true, None) => reply(401, "").with("www-authenticate", "Basic realm=\"r\""),
            (true, Some(_)) => {
                let port = seen.header("host").unwrap().rsplit(':').next().unwrap();
                reply(307, "").with("location", format!("http://127.0.0.1:{port}{}", seen.path))
            }
            (false, Some(_)) => reply(400, "a login came along"),
            (false, None) => reply(200, sample().layer),
        }
    })
    .await;
    let registries = Registries::new(basic(&server.host()));
    let layer = sample().layer;
    let got = read(&registries, &image(&server.host()), &layer).await;
    assert_eq!(got.unwrap(), layer);
}

#[tokio::test]
async fn check_40_and_51_a_pull_asks_for_what_it_needs_and_says_no_more() {
    let server = Server::plain(good).await;
    let (registries, reference) = (Registries::new(config()), image(&server.host()));
    registries.image(&reference, &amd64()).await.unwrap();
    read(&registries, &reference, &sample().layer)
        .await
        .unwrap();
    let seen = server.seen();
    let paths: Vec<&str> = seen.iter().map(|seen| seen.path.as_str()).collect();
    let s = sample();
    let expected = [
        "/v2/r/manifests/latest".to_owned(),
        format!("/v2/r/manifests/{}", digest(&s.manifest)),
        format!("/v2/r/blobs/{}", digest(&s.config)),
        format!("/v2/r/blobs/{}", digest(&s.layer)),
    ];
    assert_eq!(paths, expected, "no ping");
    for seen in &seen {
        for absent in ["referer", "expect", "authorization", "cookie"] {
            assert_eq!(seen.header(absent), None, "{absent}");
        }
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        let agent = seen.header("user-agent").unwrap();
        assert!(agent.starts_with("gateway/") && agent.ends_with("(buildkit-compatible)"));
    }
}

#[tokio::test]
async fn check_44_a_body_that_stands_still_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            use std::io::Read as _;
            let _ = stream.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n0123456789",
                sample().layer.len()
            );
            let _ = stream.write_all(head.as_bytes());
            held.push(stream);
        }
    });
    let registries = Registries::new(RegistriesConfig {
        limits: Limits {
            stall: Duration::from_millis(100),
            ..config().limits
        },
        ..config()
    });
    let error = read(&registries, &image(&host), &sample().layer)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the body broke off"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn check_14_a_head_that_nobody_answers_is_waited_for_once() {
    let server = Server::plain(|seen| {
        if seen.method == "HEAD" {
            std::thread::sleep(Duration::from_millis(900));
        }
        good(seen)
    })
    .await;
    let registries = Registries::new(RegistriesConfig {
        limits: Limits {
            stall: Duration::from_millis(300),
            ..config().limits
        },
        ..config()
    });
    let stale = Digest::of(b"stale");
    let found = registries
        .resolve_changed(&image(&server.host()), &stale)
        .await
        .unwrap();
    assert_eq!(found.unwrap().root.bytes, sample().index);
    assert_eq!(server.count("HEAD", "/v2/r/manifests/latest"), 1);
}

#[tokio::test]
async fn check_45_a_date_in_retry_after_is_waited_for() {
    let times = AtomicUsize::new(0);
    let server = Server::plain(move |seen| match times.fetch_add(1, Ordering::Relaxed) {
        0 => {
            let when = time::OffsetDateTime::now_utc() + time::Duration::seconds(3);
            let format = time::macros::format_description!(
                "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
            );
            reply(429, "").with("retry-after", when.format(&format).unwrap())
        }
        _ => good(seen),
    })
    .await;
    let start = std::time::Instant::now();
    let registries = Registries::new(config());
    registries.resolve(&image(&server.host())).await.unwrap();
    // The date has whole seconds.
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn check_46_a_host_out_of_service_is_asked_three_times_and_then_the_next() {
    for status in [500, 502, 503, 504] {
        let mirror = Server::plain(move |_| reply(status, "")).await;
        let server = Server::plain(good).await;
        let settings = HostConfig {
            mirrors: vec![mirror.host().into()],
            ..HostConfig::default()
        };
        let registries = with_host(&server.host(), settings);
        registries.resolve(&image(&server.host())).await.unwrap();
        assert_eq!((mirror.seen().len(), server.seen().len()), (3, 1));
    }
    // What will not change is not asked again.
    let server = Server::plain(|_| reply(501, "")).await;
    let registries = Registries::new(config());
    let error = registries.resolve(&image(&server.host())).await;
    assert!(error.is_err());
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn check_07_and_48_both_families_of_addresses_are_tried() {
    // `localhost` is ::1 first where there is IPv6; this server has 127.0.0.1 alone.
    let four = Server::plain(good).await;
    let registries = Registries::new(config());
    registries.resolve(&image(&four.host())).await.unwrap();
    let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
        return; // no IPv6 here
    };
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            use std::io::Read as _;
            let _ = stream.read(&mut [0; 4096]);
            let body = sample().index;
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: {OCI_INDEX}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    let literal = image(&format!("[::1]:{port}"));
    let found = registries.resolve(&literal).await.unwrap();
    assert_eq!(found.root.bytes, sample().index);
}

/// A registry with a token service at `/token` that answers `token`; what it accepts is `tok`.
fn behind_tokens(
    token: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Reply {
    move |seen| {
        if seen.path.starts_with("/token") {
            return token(seen);
        }
        match seen.header("authorization") {
            Some("Bearer tok") => good(seen),
            _ => reply(401, "").with("www-authenticate", "Bearer realm=\"/token\",service=\"s\""),
        }
    }
}

#[tokio::test]
async fn check_54_either_verb_of_a_token_service_leads_to_the_other() {
    for refused in ["GET", "POST"] {
        for status in [400, 401, 403, 404, 405, 501] {
            let server = Server::plain(behind_tokens(move |seen| match seen.method == refused {
                true => reply(status, ""),
                false => reply(200, r#"{"token":"tok"}"#),
            }))
            .await;
            let login = match refused {
                // A password is sent by GET first, an identity token by POST.
                "GET" => Credential::Basic {
                    username: "u".into(),
                    password: "p".into(),
                },
                _ => Credential::IdentityToken("i".into()),
            };
            let logins = FixedCredentials(BTreeMap::from([(server.host(), login)]));
            let registries = Registries::new(RegistriesConfig {
                credentials: Arc::new(logins),
                ..config()
            });
            let found = registries.resolve(&image(&server.host())).await;
            assert!(found.is_ok(), "{refused} {status}: {found:?}");
        }
    }
}

#[tokio::test]
async fn check_55_to_57_every_form_of_a_token_answer_is_read() {
    // The body, and whether the token is good for long.
    for (body, lasts) in [
        (r#"{"token":"tok","expires_in":300}"#, true),
        (r#"{"access_token":"tok","expires_in":"300"}"#, true),
        (
            r#"{"token":"","access_token":"tok","expires_in":300}"#,
            true,
        ),
        (
            r#"{"token":"tok","access_token":"","expires_in":300}"#,
            true,
        ),
        (r#"{"token":"tok","access_token":"tok"}"#, true),
        (
            r#"{"token":"tok","expires_in":0,"refresh_token":"r"}"#,
            true,
        ),
        (r#"{"token":"tok","expires_in":null,"x":[]}"#, true),
        // Clocks that differ by years.
        (
            r#"{"token":"tok","expires_in":300,"issued_at":"2001-01-01T00:00:00Z"}"#,
            true,
        ),
        (
            r#"{"token":"tok","expires_in":300,"issued_at":"2999-01-01T00:00:00Z"}"#,
            true,
        ),
        (r#"{"token":"tok","expires_in":300,"issued_at":"?"}"#, true),
        (r#"{"token":"tok","expires_in":1}"#, false),
    ] {
        let server = Server::plain(behind_tokens(move |_| reply(200, body))).await;
        let (registries, reference) = (Registries::new(config()), image(&server.host()));
        registries.resolve(&reference).await.unwrap();
        if !lasts {
            tokio::time::sleep(Duration::from_millis(800)).await;
        }
        registries.resolve(&reference).await.unwrap();
        let asked = server.count("GET", "/token");
        assert_eq!(asked, if lasts { 1 } else { 2 }, "{body}");
    }
    for body in ["{}", r#"{"token":"","access_token":""}"#, "<html>", ""] {
        let server = Server::plain(behind_tokens(move |_| reply(200, body))).await;
        let registries = Registries::new(config());
        let error = registries.resolve(&image(&server.host())).await;
        let text = error.unwrap_err().to_string();
        let words = "authorization server did not include a token in the response";
        assert!(text.contains(words), "{body}: {text}");
    }
}

#[tokio::test]
async fn check_58_a_token_that_is_refused_later_is_renewed_once_and_not_for_ever() {
    let issued_so_far = Arc::new(AtomicUsize::new(0));
    let revoked = Arc::new(AtomicUsize::new(0));
    let (counter, below) = (issued_so_far.clone(), revoked.clone());
    let server = Server::plain(move |seen| {
        if seen.path.starts_with("/token") {
            let number = counter.fetch_add(1, Ordering::SeqCst);
            let body = format!(r#"{{"token":"tok-{number}","expires_in":300}}"#);
            return reply(200, body);
        }
        let number = seen
            .header("authorization")
            .and_then(|header| header.strip_prefix("Bearer tok-")?.parse::<usize>().ok());
        match number {
            Some(number) if number >= below.load(Ordering::SeqCst) => good(seen),
            Some(_) => reply(401, "").with(
                "www-authenticate",
                "Bearer realm=\"/token\",error=\"invalid_token\"",
            ),
            None => reply(401, "").with("www-authenticate", "Bearer realm=\"/token\""),
        }
    })
    .await;
    let (registries, reference) = (Registries::new(config()), image(&server.host()));
    registries.resolve(&reference).await.unwrap();
    revoked.store(1, Ordering::SeqCst);
    registries.resolve(&reference).await.unwrap();
    assert_eq!(issued_so_far.load(Ordering::SeqCst), 2);
    revoked.store(usize::MAX, Ordering::SeqCst);
    let before = server.seen().len();
    registries.resolve(&reference).await.unwrap_err();
    assert!(server.seen().len() - before <= 6, "no endless renewal");
}

#[tokio::test]
async fn check_66_a_token_for_pushing_is_one_logins_own_and_not_used_for_pulling() {
    let server = Server::plain(|seen| {
        if seen.path.starts_with("/token") {
            let who = seen.header("authorization").unwrap_or("nobody").to_owned();
            let right = if seen.path.contains("push") {
                "push"
            } else {
                "pull"
            };
            let name = who.replace(' ', "-");
            return reply(
                200,
                format!(r#"{{"token":"{name}-{right}","expires_in":300}}"#),
            );
        }
        match (seen.header("authorization"), seen.method.as_str()) {
            (None, _) => {
                reply(401, "").with("www-authenticate", "Bearer realm=\"/token\",service=\"s\"")
            }
            (Some(_), "HEAD") => reply(200, ""),
            (Some(_), "PUT") => reply(201, ""),
            _ => good(seen),
        }
    })
    .await;
    let as_user = |name: &str| {
        let login = Credential::Basic {
            username: name.into(),
            password: name.into(),
        };
        Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)])))
    };
    let s = sample();
    let source: BTreeMap<Digest, bytes::Bytes> = [s.config, s.layer, s.manifest.clone()]
        .into_iter()
        .map(|bytes| (Digest::of(&bytes), bytes.into()))
        .collect();
    let root = Descriptor::of(OCI_MANIFEST, &s.manifest);
    let first = Registries::new(RegistriesConfig {
        credentials: as_user("a"),
        ..config()
    });
    let second = first.with_credentials(as_user("b"));
    let reference = image(&server.host());
    let used = |from: usize| {
        let seen = server.seen().split_off(from);
        let mut used: Vec<String> = seen
            .iter()
            .filter(|seen| !seen.path.starts_with("/token"))
            .filter_map(|seen| seen.header("authorization").map(str::to_owned))
            .collect();
        used.dedup();
        used
    };
    first.push(&reference, &root, &source).await.unwrap();
    assert_eq!(used(0), ["Bearer Basic-YTph-push"]);
    let before = server.seen().len();
    first.resolve(&reference).await.unwrap();
    assert_eq!(used(before), ["Bearer Basic-YTph-pull"]);
    let before = server.seen().len();
    second.push(&reference, &root, &source).await.unwrap();
    assert_eq!(used(before), ["Bearer Basic-Yjpi-push"]);
}

#[tokio::test]
async fn check_73_a_mirror_is_told_its_namespace_beside_all_else_that_is_asked() {
    let mirror = Server::plain(|seen| match seen.method.as_str() {
        "HEAD" => reply(404, ""),
        "POST" => reply(202, "").with("location", "/up/1?_state=s"),
        "PUT" => reply(201, ""),
        _ => good(seen),
    })
    .await;
    let server = Server::plain(good).await;
    let settings = HostConfig {
        mirrors: vec![Mirror {
            push: true,
            ..Mirror::new(&mirror.host())
        }],
        ..HostConfig::default()
    };
    let registries = with_host(&server.host(), settings);
    let reference = image(&server.host());
    let s = sample();
    let source: BTreeMap<Digest, bytes::Bytes> = [s.config, s.layer, s.manifest.clone()]
        .into_iter()
        .map(|bytes| (Digest::of(&bytes), bytes.into()))
        .collect();
    struct Elsewhere(BTreeMap<Digest, bytes::Bytes>, Reference);
    impl BlobSource for Elsewhere {
        fn open<'a>(&'a self, descriptor: &'a Descriptor) -> SourceFuture<'a> {
            self.0.open(descriptor)
        }
        fn origins(&self, _: &Descriptor) -> Vec<Reference> {
            vec![self.1.clone()]
        }
    }
    let base = Reference::parse(&format!("{}/base", server.host())).unwrap();
    let root = Descriptor::of(OCI_MANIFEST, &s.manifest);
    registries
        .push(&reference, &root, &Elsewhere(source, base))
        .await
        .unwrap();
    assert!(server.seen().is_empty());
    let ns = format!("ns=localhost%3A{}", server.port);
    let seen = mirror.seen();
    let api = seen.iter().filter(|seen| seen.path.starts_with("/v2/r/"));
    for seen in api {
        assert!(seen.path.contains(&ns), "{} {}", seen.method, seen.path);
    }
    let mounts = seen.iter().filter(|seen| seen.path.contains("mount="));
    assert!(mounts.count() > 0);
    let uploads = seen.iter().filter(|seen| seen.path.starts_with("/up/1"));
    for seen in uploads {
        assert!(
            seen.path.contains("_state=s") && seen.path.contains("digest="),
            "{}",
            seen.path
        );
    }
}

#[tokio::test]
async fn check_76_and_78_a_mirror_with_a_bad_certificate_is_told_once_and_tried_once() {
    let made = issued(&["localhost"], |_| {});
    let mirror = Server::tls(made.server, good).await;
    let server = Server::plain(good).await;
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
    let reference = image(&server.host());
    let first = registries.resolve(&reference).await.unwrap().notices;
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(
        first[0].contains(&mirror.host())
            && first[0].contains("x509: certificate signed by unknown authority"),
        "{first:?}"
    );
    let again = registries.image(&reference, &amd64()).await.unwrap();
    assert!(again.notices.is_empty(), "{:?}", again.notices);
}

#[tokio::test]
async fn check_81_insecure_with_plain_http_tries_tls_first_and_remembers() {
    let made = issued(&["elsewhere.test"], |_| {});
    let both = HostConfig {
        http: Some(true),
        insecure: Some(true),
        ..HostConfig::default()
    };
    let tls = Server::tls(made.server, good).await;
    let registries = with_host(&tls.host(), both.clone());
    let found = registries.resolve(&image(&tls.host())).await.unwrap();
    assert!(
        found.notices[0].contains("marked insecure"),
        "{:?}",
        found.notices
    );
    let plain = Server::plain(good).await;
    let registries = with_host(&plain.host(), both);
    let found = registries.resolve(&image(&plain.host())).await.unwrap();
    assert!(
        found.notices.iter().any(|line| line.contains("plain HTTP")),
        "{:?}",
        found.notices
    );
    let before = plain.seen().len();
    registries.resolve(&image(&plain.host())).await.unwrap();
    assert_eq!(plain.seen().len(), before + 1);
}

#[tokio::test]
async fn check_113_a_push_by_digest_names_no_tag() {
    let server = Server::plain(|seen| match seen.method.as_str() {
        "HEAD" => reply(200, ""),
        _ => reply(201, ""),
    })
    .await;
    let s = sample();
    let source: BTreeMap<Digest, bytes::Bytes> = [s.config, s.layer, s.manifest.clone(), s.index]
        .into_iter()
        .map(|bytes| (Digest::of(&bytes), bytes.into()))
        .collect();
    let root = Descriptor::of(OCI_INDEX, &sample().index);
    let name = format!("{}/r@{}", server.host(), root.digest);
    let reference = Reference::parse(&name).unwrap();
    let registries = Registries::new(config());
    registries.push(&reference, &root, &source).await.unwrap();
    let puts: Vec<String> = server
        .seen()
        .into_iter()
        .filter(|seen| seen.method == "PUT")
        .map(|seen| seen.path)
        .collect();
    let expected =
        [&s.manifest, &sample().index].map(|bytes| format!("/v2/r/manifests/{}", digest(bytes)));
    assert_eq!(puts, expected);
    // Another digest than that of what is pushed is a mistake.
    let other = reference.with_digest(Digest::of(b"other"));
    assert!(registries.push(&other, &root, &source).await.is_err());
}

#[tokio::test]
async fn check_116_layers_that_may_not_be_handed_on_are_not_sent() {
    let server = Server::plain(|seen| match seen.method.as_str() {
        "HEAD" => reply(404, ""),
        "POST" => reply(202, "").with("location", "/up/1"),
        _ => reply(201, ""),
    })
    .await;
    let s = sample();
    let mut layer = Descriptor::of(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        &s.layer,
    );
    layer.urls = vec!["https://elsewhere.example/x".into()];
    let manifest = serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.into()),
        artifact_type: None,
        config: Descriptor::of(OCI_CONFIG, &s.config),
        layers: vec![layer],
        subject: None,
        annotations: BTreeMap::new(),
    })
    .unwrap();
    // The source does not have the layer.
    let source: BTreeMap<Digest, bytes::Bytes> = [s.config, manifest.clone()]
        .into_iter()
        .map(|bytes| (Digest::of(&bytes), bytes.into()))
        .collect();
    let root = Descriptor::of(OCI_MANIFEST, &manifest);
    let pushed = Registries::new(config())
        .push(&image(&server.host()), &root, &source)
        .await
        .unwrap();
    assert_eq!(pushed.uploaded, 1);
}

#[tokio::test]
async fn check_118_refusals_of_every_form_end_in_one_line() {
    for (body, words) in [
        (
            r#"{"errors":[{"code":"MADE_UP","message":"why not"}]}"#,
            "MADE_UP: why not",
        ),
        ("<html><title>Busy</title>", "HTML page titled \"Busy\""),
        ("", "400 Bad Request"),
        ("plain words", "plain words"),
        (r#"{"errors":null}"#, "400 Bad Request"),
    ] {
        let server = Server::plain(move |seen| match seen.method.as_str() {
            "HEAD" => reply(404, ""),
            _ => reply(400, body),
        })
        .await;
        let s = sample();
        let source: BTreeMap<Digest, bytes::Bytes> = [s.config, s.layer, s.manifest.clone()]
            .into_iter()
            .map(|bytes| (Digest::of(&bytes), bytes.into()))
            .collect();
        let root = Descriptor::of(OCI_MANIFEST, &s.manifest);
        let error = Registries::new(config())
            .push(&image(&server.host()), &root, &source)
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words), "{body}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[tokio::test]
async fn check_147_a_blob_of_another_size_than_announced_is_refused_though_its_digest_is_right() {
    let server = Server::plain(good).await;
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::BlobStore::open(folder.path()).unwrap();
    for size in [
        sample().layer.len() as u64 - 1,
        sample().layer.len() as u64 + 1,
    ] {
        let mut descriptor = Descriptor::of(OCI_LAYER_GZIP, &sample().layer);
        descriptor.size = size;
        let registries = Registries::new(config());
        let outcome = registries
            .fetch(&image(&server.host()), &descriptor, &store, &|_| {})
            .await;
        assert!(outcome.is_err(), "{size}");
        assert_eq!(store.list().unwrap(), []);
    }
}
