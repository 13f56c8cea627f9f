use super::*;

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
async fn a_manifest_that_the_registry_misread_is_put_again_and_not_for_ever() {
    for refusals in [1, usize::MAX] {
        let kept = Arc::new(Kept::default());
        let (answering, left) = (kept.clone(), Arc::new(AtomicUsize::new(refusals)));
        let server = Server::plain(move |seen| {
            let manifest = seen.path.starts_with("/v2/r/manifests/") && seen.method == "PUT";
            let refused = |n: usize| n.checked_sub(1);
            if manifest
                && left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, refused)
                    .is_ok()
            {
                return reply(
                    400,
                    r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}"#,
                );
            }
            answering.answer(seen)
        })
        .await;
        let root = Descriptor::of(OCI_MANIFEST, &sample().manifest);
        let registries = Registries::new(config());
        let pushed = registries
            .push(&image(&server.host()), &root, &source())
            .await;
        let quirks = registries.quirks_of(&server.host());
        match refusals {
            1 => {
                pushed.unwrap();
                assert!(quirks.contains(&Quirk::ManifestMisread), "{quirks:?}");
            }
            _ => {
                let error = pushed.unwrap_err().to_string();
                assert!(error.contains("DIGEST_INVALID"), "{error}");
                assert!(!quirks.contains(&Quirk::ManifestMisread), "{quirks:?}");
            }
        }
    }
}

/// Blobs that another repository of the same registry has.
struct Elsewhere(BTreeMap<Digest, bytes::Bytes>, Reference);

impl crate::registry::BlobSource for Elsewhere {
    fn open<'a>(&'a self, descriptor: &'a Descriptor) -> crate::registry::SourceFuture<'a> {
        self.0.open(descriptor)
    }

    fn origins(&self, descriptor: &Descriptor) -> Vec<Reference> {
        let layer = crate::media::is_layer(&descriptor.media_type);
        layer.then(|| self.1.clone()).into_iter().collect()
    }
}

#[tokio::test]
async fn a_layer_of_another_repository_is_mounted_or_sent() {
    for mounts in [true, false] {
        let kept = Arc::new(Kept::default());
        let answering = kept.clone();
        let server = Server::plain(move |seen| {
            let wish = format!("mount={}&from=base", digest(&sample().layer)).replace(':', "%3A");
            match seen.path.split_once('?') {
                Some((path, query)) if seen.method == "POST" => {
                    assert_eq!((path, query), ("/v2/r/blobs/uploads/", wish.as_str()));
                    match mounts {
                        true => reply(201, ""),
                        false => reply(202, "").with("location", "session-1?_state=a%3Db"),
                    }
                }
                _ => answering.answer(seen),
            }
        })
        .await;
        let root = Descriptor::of(OCI_MANIFEST, &sample().manifest);
        let base = Reference::parse(&format!("{}/base", server.host())).unwrap();
        let pushed = Registries::new(config())
            .push(&image(&server.host()), &root, &Elsewhere(source(), base))
            .await
            .unwrap();
        let sent = kept
            .blobs
            .lock()
            .unwrap()
            .contains_key(&digest(&sample().layer));
        assert_eq!(sent, !mounts);
        assert_eq!(pushed.uploaded, if mounts { 1 } else { 2 });
    }
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
