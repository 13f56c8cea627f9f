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
