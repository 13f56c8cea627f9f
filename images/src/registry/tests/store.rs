use super::*;

#[tokio::test]
async fn a_blob_comes_into_the_store_although_the_mirror_served_wrong_bytes() {
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

/// A layer that is large enough to be gone on with.
fn large() -> Vec<u8> {
    (0..1_300_000u32).flat_map(|n| n.to_le_bytes()).collect()
}

/// Serves `large()` from where it is asked.
fn ranges(seen: &Seen) -> Reply {
    let layer = large();
    let from = seen.header("range").map(|range| {
        let digits = range.trim_start_matches("bytes=").trim_end_matches('-');
        digits.parse::<usize>().unwrap()
    });
    match from {
        None => reply(200, layer),
        Some(from) => {
            let end = layer.len() - 1;
            let range = format!("bytes {from}-{end}/{}", layer.len());
            reply(206, layer[from..].to_vec()).with("content-range", range)
        }
    }
}

#[tokio::test]
async fn check_34_a_transfer_that_ended_in_the_middle_is_gone_on_with_by_the_next() {
    let up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = up.clone();
    let server = Server::plain(move |seen| match switch.load(Ordering::Relaxed) {
        true => ranges(seen),
        false if seen.header("range").is_some() => reply(404, ""),
        false => reply(200, large()).cut(3_000_000),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::BlobStore::open(folder.path()).unwrap();
    let (reference, layer) = (image(&server.host()), large());
    let descriptor = Descriptor::of(OCI_LAYER_GZIP, &layer);
    let fetch = async |progress: &(dyn Fn(u64) + Send + Sync)| {
        let registries = Registries::new(config());
        registries
            .fetch(&reference, &descriptor, &store, progress)
            .await
    };
    fetch(&|_| {}).await.unwrap_err();
    assert!(
        !store.contains(&descriptor.digest),
        "nothing half is visible"
    );
    up.store(true, Ordering::Relaxed);
    let before = server.seen().len();
    let least = std::sync::atomic::AtomicU64::new(u64::MAX);
    let first = |bytes| {
        least.fetch_min(bytes, Ordering::Relaxed);
    };
    fetch(&first).await.unwrap();
    let asked = server.seen().split_off(before);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("range"), Some("bytes=3000000-"));
    assert!(least.load(Ordering::Relaxed) > 3_000_000);
    assert_eq!(store.read(&descriptor.digest, u64::MAX).unwrap(), layer);

    // A beginning of other bytes is found out at the end, and no host is blamed for it.
    store.remove(&descriptor.digest).unwrap();
    let mut wrong = store.resume(&descriptor.digest, descriptor.size).unwrap();
    wrong.write_all(&[7; 1000]).unwrap();
    wrong.leave();
    let before = server.seen().len();
    fetch(&|_| {}).await.unwrap();
    let asked = server.seen().split_off(before);
    let ranges: Vec<_> = asked.iter().map(|seen| seen.header("range")).collect();
    assert_eq!(ranges, [Some("bytes=1000-"), None]);

    // One that is whole needs nobody.
    store.remove(&descriptor.digest).unwrap();
    let mut whole = store.resume(&descriptor.digest, descriptor.size).unwrap();
    whole.write_all(&layer).unwrap();
    whole.leave();
    let before = server.seen().len();
    fetch(&|_| {}).await.unwrap();
    assert_eq!(server.seen().len(), before);
}
