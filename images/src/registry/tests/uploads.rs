//! Pushing to registries that are odd in the known ways.

use super::*;
use crate::registry::{PushOptions, Quirk};

type Blobs = std::sync::Mutex<BTreeMap<String, Vec<u8>>>;

/// What a test registry kept, and how far each upload is.
#[derive(Default)]
struct Kept {
    blobs: Blobs,
    uploads: Blobs,
    manifests: Blobs,
}

fn body_is_whole(seen: &Seen) -> bool {
    seen.header("content-length").is_some() && seen.header("content-range").is_none()
}

impl Kept {
    fn query(seen: &Seen, name: &str) -> Option<String> {
        let (_, query) = seen.path.split_once('?')?;
        let pair = query
            .split('&')
            .find_map(|p| p.strip_prefix(&format!("{name}=")))?;
        Some(pair.replace("%3A", ":"))
    }

    /// A registry that behaves; tests change what they are about.
    fn answer(&self, seen: &Seen) -> Reply {
        let path = seen.path.split('?').next().unwrap_or_default();
        let known = |name: &str| self.blobs.lock().unwrap().contains_key(name);
        match (seen.method.as_str(), path.rsplit_once('/')) {
            ("POST", _) => reply(202, "").with("location", "/up/1"),
            ("PATCH", Some((_, id))) => {
                let mut uploads = self.uploads.lock().unwrap();
                uploads
                    .entry(id.to_owned())
                    .or_default()
                    .extend_from_slice(&seen.body);
                reply(202, "").with("location", seen.path.clone())
            }
            ("PUT", Some((dir, name))) if dir.ends_with("/manifests") => {
                self.manifests
                    .lock()
                    .unwrap()
                    .insert(name.to_owned(), seen.body.clone());
                reply(201, "")
            }
            ("PUT", Some((_, id))) => {
                let mut bytes = self.uploads.lock().unwrap().remove(id).unwrap_or_default();
                bytes.extend_from_slice(&seen.body);
                let wanted = Self::query(seen, "digest").unwrap_or_default();
                if digest(&bytes) != wanted {
                    return reply(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                self.blobs.lock().unwrap().insert(wanted, bytes);
                reply(201, "")
            }
            ("HEAD", Some((_, name))) => reply(if known(name) { 200 } else { 404 }, ""),
            ("DELETE", _) => reply(204, ""),
            _ => reply(404, ""),
        }
    }

    fn has_layer(&self) -> bool {
        self.blobs.lock().unwrap().get(&digest(&sample().layer)) == Some(&sample().layer)
    }
}

fn source() -> BTreeMap<Digest, bytes::Bytes> {
    let s = sample();
    [s.config, s.layer, s.manifest, s.index]
        .into_iter()
        .map(|b| (Digest::of(&b), b.into()))
        .collect()
}

fn root() -> Descriptor {
    Descriptor::of(OCI_MANIFEST, &sample().manifest)
}

async fn server(
    change: impl Fn(&Seen, &Kept) -> Option<Reply> + Send + Sync + 'static,
) -> (Server, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let answering = kept.clone();
    let server = Server::plain(move |seen| {
        change(seen, &answering).unwrap_or_else(|| answering.answer(seen))
    })
    .await;
    (server, kept)
}

fn quick() -> RegistriesConfig {
    RegistriesConfig {
        limits: Limits {
            upload_chunk: 100_000,
            ..config().limits
        },
        ..config()
    }
}

#[tokio::test]
async fn check_102_and_103_every_form_of_an_upload_address_is_followed_with_its_query() {
    for form in [
        "HOST/up/1?_state=a%3Db",
        "/up/1?_state=a%3Db",
        "../../../../up/1?_state=a%3Db",
        "http://HOST/up/1?_state=a%3Db",
    ] {
        let host = Arc::new(std::sync::OnceLock::<String>::new());
        let known = host.clone();
        let (server, kept) = server(move |seen, _| {
            if seen.method == "PUT" && seen.path.starts_with("/up/") {
                assert!(
                    seen.path.starts_with("/up/1?_state=a%3Db&digest=sha256%3A"),
                    "{}",
                    seen.path
                );
                // Check 106.
                assert!(body_is_whole(seen));
            }
            let location = form.replace("HOST", known.get().unwrap());
            (seen.method == "POST").then(|| reply(202, "").with("location", location))
        })
        .await;
        host.set(server.host()).unwrap();
        Registries::new(config())
            .push(&image(&server.host()), &root(), &source())
            .await
            .unwrap();
        assert!(kept.has_layer(), "{form}");
    }
}

#[tokio::test]
async fn row_28_an_upload_address_in_plain_http_is_taken_as_https_on_the_same_host() {
    let made = issued(&["localhost"], |_| {});
    let kept = Arc::new(Kept::default());
    let answering = kept.clone();
    let server = Server::tls(made.server, move |seen| match seen.method.as_str() {
        "POST" => reply(202, "").with("location", "http://localhost/up/1"),
        _ => answering.answer(seen),
    })
    .await;
    let registries = with_host(&server.host(), trusting(&made.trust));
    let pushed = registries
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap();
    assert!(kept.has_layer());
    assert!(
        pushed
            .notices
            .iter()
            .any(|n| n.contains("X-Forwarded-Proto")),
        "{:?}",
        pushed.notices
    );
}

#[tokio::test]
async fn check_104_a_foreign_upload_address_gets_no_login() {
    let kept = Arc::new(Kept::default());
    let answering = kept.clone();
    let storage = Server::plain(move |seen| answering.answer(seen)).await;
    let address = format!("http://{}/up/1?sig=x", storage.host());
    let (server, _) =
        server(
            move |seen, _| match (seen.header("authorization"), seen.method.as_str()) {
                (None, _) => Some(reply(401, "").with("www-authenticate", "Basic realm=\"r\"")),
                (Some(_), "POST") => Some(reply(202, "").with("location", address.clone())),
                _ => None,
            },
        )
        .await;
    let login = Credential::Basic {
        username: "u".into(),
        password: "p".into(),
    };
    let registries = Registries::new(RegistriesConfig {
        credentials: Arc::new(FixedCredentials(BTreeMap::from([(server.host(), login)]))),
        ..config()
    });
    registries
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap();
    assert!(kept.has_layer());
    assert!(
        storage
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn check_105_every_status_of_success_is_taken_and_accepted_is_asked_after() {
    for status in [200, 201, 202, 204] {
        let (server, _) = server(move |seen, kept| {
            (seen.method == "PUT" && seen.path.starts_with("/up/")).then(|| {
                kept.answer(seen);
                reply(status, "")
            })
        })
        .await;
        let registries = Registries::new(config());
        registries
            .push(&image(&server.host()), &root(), &source())
            .await
            .unwrap();
        let asked = registries
            .quirks_of(&server.host())
            .contains(&Quirk::UploadAccepted);
        assert_eq!(asked, status == 202);
    }
    // Accepted and not stored is a failure.
    let (server, _) = server(|seen, _| (seen.method == "PUT").then(|| reply(202, ""))).await;
    let error = Registries::new(config())
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("accepted the upload and does not have it"),
        "{error}"
    );
}

#[tokio::test]
async fn check_107_a_blob_refused_by_its_size_goes_in_pieces() {
    let (server, kept) = server(|seen, _| match (seen.method.as_str(), seen.body.len()) {
        ("POST", _) => Some(
            reply(202, "")
                .with("location", "/up/1")
                .with("oci-chunk-min-length", "120000"),
        ),
        ("PUT", length) if length > 200_000 => {
            Some(reply(413, "<html><title>413 Too Large</title>"))
        }
        ("PATCH", length) => {
            assert!(length <= 120_000, "{length}");
            let range = seen.header("content-range").unwrap();
            assert!(!range.contains("bytes"), "{range}");
            None
        }
        _ => None,
    })
    .await;
    let registries = Registries::new(quick());
    let pushed = registries
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap();
    assert!(kept.has_layer());
    assert!(
        pushed
            .notices
            .iter()
            .any(|n| n.contains("client_max_body_size")),
        "{:?}",
        pushed.notices
    );
    let patches = server.seen().iter().filter(|s| s.method == "PATCH").count();
    assert_eq!(patches, 4, "400,000 bytes in pieces of 120,000");
}

#[tokio::test]
async fn check_107_pieces_that_are_still_too_large_are_made_smaller() {
    let (server, kept) = server(|seen, kept| match (seen.method.as_str(), seen.body.len()) {
        ("POST", _) => {
            kept.uploads.lock().unwrap().clear();
            None
        }
        ("PUT" | "PATCH", length) if length > 70_000 => Some(reply(413, "")),
        _ => None,
    })
    .await;
    let registries = Registries::new(RegistriesConfig {
        limits: Limits {
            upload_chunk: 280_000,
            ..config().limits
        },
        ..config()
    });
    registries
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap();
    assert!(kept.has_layer());
    assert!(
        server.seen().iter().any(|s| s.method == "DELETE"),
        "the first upload is given up"
    );
}

#[tokio::test]
async fn check_108_a_range_that_stands_still_is_not_believed() {
    let (server, kept) = server(|seen, kept| match (seen.method.as_str(), seen.body.len()) {
        ("PUT", length) if length > 200_000 => Some(reply(413, "")),
        ("PATCH", _) => {
            kept.answer(seen);
            Some(reply(201, "").with("range", "0-99999"))
        }
        _ => None,
    })
    .await;
    Registries::new(quick())
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap();
    assert!(kept.has_layer());
    assert_eq!(
        server.seen().iter().filter(|s| s.method == "PATCH").count(),
        4
    );
}

#[tokio::test]
async fn check_108_after_416_the_registry_is_asked_how_far_it_is() {
    let times = AtomicUsize::new(0);
    let (server, kept) = server(
        move |seen, kept| match (seen.method.as_str(), seen.body.len()) {
            ("PUT", length) if length > 200_000 => Some(reply(413, "")),
            // The second piece is kept in half and refused.
            ("PATCH", _) if times.fetch_add(1, Ordering::Relaxed) == 1 => {
                let half = Seen {
                    body: seen.body[..50_000].to_vec(),
                    ..seen.clone()
                };
                kept.answer(&half);
                Some(reply(416, ""))
            }
            ("GET", _) => Some(
                reply(204, "")
                    .with("range", "0-149999")
                    .with("location", "/up/1"),
            ),
            _ => None,
        },
    )
    .await;
    Registries::new(quick())
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap();
    assert!(kept.has_layer());
}

#[tokio::test]
async fn check_109_a_lost_session_is_opened_again() {
    let times = AtomicUsize::new(0);
    let (server, kept) = server(move |seen, _| {
        let first = seen.method == "PUT"
            && seen.path.starts_with("/up/")
            && times.fetch_add(1, Ordering::Relaxed) < 2;
        first.then(|| {
            reply(
                404,
                r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"gone"}]}"#,
            )
        })
    })
    .await;
    let registries = Registries::new(config());
    registries
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap();
    assert!(kept.has_layer());
}

#[tokio::test]
async fn row_56_a_digest_with_its_colon_is_sent_where_the_encoded_one_is_not_understood() {
    let (server, kept) = server(|seen, _| {
        (seen.method == "PUT" && seen.path.contains("%3A")).then(|| reply(400, "bad digest"))
    })
    .await;
    let registries = Registries::new(config());
    registries
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap();
    assert!(kept.has_layer());
    assert_eq!(registries.quirks_of(&server.host()), [Quirk::DigestColon]);
}

#[tokio::test]
async fn check_101_a_blob_that_this_process_saw_in_another_repository_is_mounted() {
    let (server, _) = server(|seen, _| {
        seen.path.contains("mount=").then(|| {
            assert!(seen.path.contains("from=r"), "{}", seen.path);
            reply(201, "")
        })
    })
    .await;
    let registries = Registries::new(config());
    registries
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap();
    let other = Reference::parse(&format!("{}/other:1", server.host())).unwrap();
    // The test registry has one place for the blobs of all repositories, so it is asked only for mounts here.
    let outcome = registries.push(&other, &root(), &source()).await.unwrap();
    assert_eq!(outcome.uploaded, 0);
}

#[tokio::test]
async fn check_101_a_refused_mount_ends_in_an_upload() {
    for status in [401, 403, 404, 405] {
        let (server, kept) =
            server(move |seen, _| seen.path.contains("mount=").then(|| reply(status, ""))).await;
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
        let pushed = Registries::new(config())
            .push(&image(&server.host()), &root(), &Elsewhere(source(), base))
            .await;
        assert_eq!(pushed.unwrap().uploaded, 2, "{status}");
        assert!(kept.has_layer());
    }
}

fn refuses_oci(status: u16) -> impl Fn(&Seen, &Kept) -> Option<Reply> + Send + Sync + 'static {
    move |seen, _| {
        let oci = seen
            .header("content-type")
            .is_some_and(|t| t.contains("vnd.oci"));
        (seen.method == "PUT" && oci).then(|| {
            reply(
                status,
                r#"{"errors":[{"code":"MANIFEST_INVALID","message":"unknown media type"}]}"#,
            )
        })
    }
}

#[tokio::test]
async fn check_111_refused_oci_types_are_explained_or_on_wish_replaced() {
    for status in [400, 405, 415] {
        let (server, kept) = server(refuses_oci(status)).await;
        let registries = Registries::new(config());
        let index = Descriptor::of(OCI_INDEX, &sample().index);
        let error = registries
            .push(&image(&server.host()), &index, &source())
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("oci-mediatypes=false"),
            "{error}"
        );
        assert!(error.to_string().contains("unknown media type"), "{error}");
        let options = PushOptions {
            docker_if_oci_refused: true,
        };
        let pushed = registries
            .push_with(&image(&server.host()), &index, &source(), options)
            .await
            .unwrap();
        let digest = pushed.reference.digest().unwrap().clone();
        assert_ne!(digest, index.digest);
        assert!(
            pushed
                .notices
                .iter()
                .any(|n| n.contains(&digest.to_string()) && n.contains(&index.digest.to_string())),
            "{:?}",
            pushed.notices
        );
        let kept = kept.manifests.lock().unwrap();
        let list: serde_json::Value = serde_json::from_slice(&kept["latest"]).unwrap();
        assert_eq!(list["mediaType"], crate::media::DOCKER_INDEX);
        let child = list["manifests"][0]["digest"].as_str().unwrap();
        let child: serde_json::Value = serde_json::from_slice(&kept[child]).unwrap();
        assert_eq!(child["mediaType"], DOCKER_MANIFEST);
        assert_eq!(child["config"]["mediaType"], crate::media::DOCKER_CONFIG);
        assert_eq!(
            child["layers"][0]["mediaType"],
            crate::media::DOCKER_LAYER_GZIP
        );
    }
}

#[tokio::test]
async fn check_111_an_image_named_by_digest_is_never_changed() {
    let (server, _) = server(refuses_oci(415)).await;
    let options = PushOptions {
        docker_if_oci_refused: true,
    };
    let pinned = image(&server.host()).with_digest(root().digest);
    let outcome = Registries::new(config())
        .push_with(&pinned, &root(), &source(), options)
        .await;
    assert!(
        outcome
            .unwrap_err()
            .to_string()
            .contains("oci-mediatypes=false")
    );
}

#[tokio::test]
async fn check_112_a_tag_that_may_not_move_is_success_only_where_it_already_is() {
    for (status, body) in [
        (
            400,
            r#"{"errors":[{"code":"TAG_INVALID","message":"immutable"}]}"#,
        ),
        (412, r#"{"errors":[{"code":"PRECONDITION"}]}"#),
        (409, ""),
    ] {
        for same in [true, false] {
            let (server, _) =
                server(
                    move |seen, _| match (seen.method.as_str(), seen.path.as_str()) {
                        ("PUT", "/v2/r/manifests/latest") => Some(reply(status, body)),
                        ("HEAD", "/v2/r/manifests/latest") => {
                            let named = if same {
                                root().digest
                            } else {
                                Digest::of(b"other")
                            };
                            Some(reply(200, "").with("docker-content-digest", named.to_string()))
                        }
                        _ => None,
                    },
                )
                .await;
            let outcome = Registries::new(config())
                .push(&image(&server.host()), &root(), &source())
                .await;
            match (same, outcome) {
                (true, outcome) => assert!(outcome.is_ok(), "{status}: {outcome:?}"),
                (false, Err(error)) => assert!(
                    error.to_string().contains("the tag is immutable or locked"),
                    "{error}"
                ),
                (false, Ok(_)) => panic!("{status} is no success"),
            }
        }
    }
}

#[tokio::test]
async fn row_41_a_repository_that_must_exist_first_is_told_so() {
    let (server, _) = server(|seen, _| {
        (seen.method == "POST").then(|| reply(404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"The repository with name 'r' does not exist"}]}"#))
    })
    .await;
    let error = Registries::new(config())
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("does not exist")
            && error.to_string().contains("create it first"),
        "{error}"
    );
}

#[tokio::test]
async fn sentence_5_a_push_to_an_untrusted_host_has_the_same_page_as_a_pull() {
    let made = issued(&["localhost"], |_| {});
    let server = Server::tls(made.server, good).await;
    let (other, _) = ca();
    let trust = file(&other.pem());
    let registries = with_host(&server.host(), trusting(&trust));
    let error = registries
        .push(&image(&server.host()), &root(), &source())
        .await
        .unwrap_err();
    let header = format!(
        "failed to do request: Head https://{}/v2/r/blobs/sha256:",
        server.host()
    );
    let text = error.to_string();
    assert!(text.starts_with(&header), "{text}");
    assert!(
        text.ends_with(": x509: certificate signed by unknown authority"),
        "{text}"
    );
    assert!(
        error_page(&error).contains("issuer  CN=Acme Root CA"),
        "{}",
        error_page(&error)
    );
}

#[tokio::test]
async fn check_115_a_referrer_is_listed_by_a_tag_where_the_registry_has_no_list() {
    let subject = Descriptor::of(OCI_MANIFEST, &sample().manifest);
    let artifact = serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.into()),
        artifact_type: Some("application/x.signature".into()),
        config: Descriptor::of(crate::media::OCI_EMPTY, b"{}"),
        layers: Vec::new(),
        subject: Some(subject.clone()),
        annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
    })
    .unwrap();
    let mut blobs = source();
    for bytes in [artifact.clone(), b"{}".to_vec()] {
        blobs.insert(Digest::of(&bytes), bytes.into());
    }
    let (server, kept) = server(|seen, kept| {
        let name = seen.path.strip_prefix("/v2/r/manifests/")?;
        let kept = kept.manifests.lock().unwrap();
        let found = kept.get(name).filter(|_| seen.method == "GET")?;
        Some(reply(200, found.clone()).with("content-type", OCI_INDEX))
    })
    .await;
    let registries = Registries::new(config());
    let (reference, top) = (
        image(&server.host()),
        Descriptor::of(OCI_MANIFEST, &artifact),
    );
    for _ in 0..2 {
        registries.push(&reference, &top, &blobs).await.unwrap();
    }
    let tag = format!("sha256-{}", subject.digest.hex());
    assert!(kept.manifests.lock().unwrap().contains_key(&tag));
    let found = registries
        .referrers(&reference, &subject.digest, None)
        .await
        .unwrap();
    assert_eq!(found.len(), 1, "a second push adds nothing");
    assert_eq!(found[0].digest, top.digest);
    assert_eq!(
        found[0].artifact_type.as_deref(),
        Some("application/x.signature")
    );
    let other = registries
        .referrers(&reference, &subject.digest, Some("application/other"))
        .await;
    assert!(other.unwrap().is_empty());
}

#[tokio::test]
async fn check_115_a_list_of_referrers_is_read_page_by_page() {
    let entry = |n: u8| {
        let mut entry = Descriptor::of(OCI_MANIFEST, &[n]);
        entry.artifact_type = Some("t".into());
        serde_json::to_vec(&Index {
            schema_version: 2,
            media_type: Some(OCI_INDEX.into()),
            artifact_type: None,
            manifests: vec![entry],
            subject: None,
            annotations: BTreeMap::new(),
        })
        .unwrap()
    };
    let server = Server::plain(move |seen| match seen.path.contains("page=2") {
        false => reply(200, entry(1)).with("link", "</v2/r/referrers/x?page=2>; rel=\"next\""),
        true => reply(200, entry(2)),
    })
    .await;
    let found = Registries::new(config())
        .referrers(&image(&server.host()), &Digest::of(b""), None)
        .await;
    assert_eq!(found.unwrap().len(), 2);
}
