//! What builds give to their clients and take from them, each way that there is, with a client that keeps what
//! it gets: several outputs at once, directories of several platforms, images and caches as blobs; and the
//! options that steps notice.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use gateway_tests::client::build::{built, logs, map};
use gateway_tests::client::content::{Stores, digest};
use gateway_tests::client::files::Received;
use gateway_tests::client::session::Settings;
use gateway_tests::client::wire::{CacheEntry, Caches, Exporter, Nothing, Progress, SolveRequest};
use gateway_tests::client::{Client, Content, Offers, Session, Tree, files, new_id};
use gateway_tests::rig::Rig;
use gateway_tests::services::{KEY_ID, SECRET, Services};

fn exporter(kind: &str, attrs: &[(&str, &str)]) -> Exporter {
    Exporter {
        kind: kind.to_owned(),
        attrs: map(attrs),
    }
}

fn cache(kind: &str, attrs: &[(&str, &str)]) -> CacheEntry {
    CacheEntry {
        kind: kind.to_owned(),
        attrs: map(attrs),
    }
}

fn text_file(name: &str, text: &str) -> (gateway_tests::client::wire::Stat, Content) {
    let content = Bytes::copy_from_slice(text.as_bytes());
    (files::file(name, text.len(), 1), Content::Bytes(content))
}

/// A context of this build file and a file `a`.
fn context(dockerfile: &str) -> Offers {
    Offers::context(Tree::new(vec![
        Tree::dockerfile(dockerfile),
        text_file("a", "content of a"),
    ]))
}

fn request(session: &Session, options: &[(&str, &str)], exporters: Vec<Exporter>) -> SolveRequest {
    SolveRequest {
        name: new_id(),
        session: session.id.clone(),
        frontend: "dockerfile.v0".to_owned(),
        options: map(options),
        exporters,
        ..SolveRequest::default()
    }
}

fn is_cached(said: &Progress, step: &str) -> bool {
    said.vertexes
        .iter()
        .any(|vertex| vertex.name.contains(step) && vertex.cached)
}

async fn prune(client: &Client) {
    #[derive(Clone, PartialEq, prost::Message)]
    struct All {
        #[prost(bool, tag = "2")]
        all: bool,
    }
    let mut pruned = client.stream("/moby.buildkit.v1.Control/Prune", &[]).await;
    pruned.send(&All { all: true }).await;
    pruned.finish();
    while pruned.next::<Nothing>().await.expect("pruned").is_some() {}
}

fn entries(archive: &[u8]) -> BTreeSet<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("a tar archive");
    entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            entry.path().expect("a path").display().to_string()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_p33_outputs_of_every_kind_at_once_arrive_each_in_its_place() {
    let rig = Rig::new();
    let client = rig.client().await;
    let received = Arc::new(Received::default());
    let offers = Offers {
        received: Some(received.clone()),
        streams: HashSet::from(["1", "2", "3"].map(str::to_owned)),
        ..context("FROM scratch\nCOPY a /dir/\n")
    };
    let session = Session::open(&client, offers).await;
    let request = request(
        &session,
        &[],
        vec![
            exporter("local", &[]),
            exporter("tar", &[]),
            exporter("oci", &[("name", "app:oci")]),
            exporter("docker", &[("name", "app:docker")]),
            exporter("image", &[("name", "app:stored")]),
        ],
    );
    let response = client.solve(&request).await.unwrap();
    assert!(response.exporter.contains_key("containerimage.digest"));
    // One answer of all: the last one's word counts.
    let names = &response.exporter["image.name"];
    assert!(names.contains("app:stored"), "{names}");
    assert_eq!(*received.paths.lock().unwrap(), ["dir", "dir/a"]);
    assert_eq!(session.offers.calls_of("FileSend/DiffCopy"), 4);
    let archives = session.offers.archives.lock().unwrap();
    assert!(entries(&archives["1"]).contains("dir/a"));
    let (oci, docker) = (entries(&archives["2"]), entries(&archives["3"]));
    for known in ["oci-layout", "index.json"] {
        assert!(oci.contains(known) && docker.contains(known), "{known}");
    }
    assert!(!oci.contains("manifest.json") && docker.contains("manifest.json"));
}

/// The content of a file in an archive.
fn entry(archive: &[u8], name: &str) -> serde_json::Value {
    let mut archive = tar::Archive::new(archive);
    let found = archive.entries().expect("a tar archive").find_map(|entry| {
        let entry = entry.expect("an entry");
        let is_it = entry.path().expect("a path").display().to_string() == name;
        is_it.then(|| serde_json::from_reader(entry).expect("JSON"))
    });
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn p45_annotations_are_put_where_each_belongs() {
    let rig = Rig::new();
    let client = rig.client().await;
    let offers = Offers {
        streams: HashSet::from(["0".to_owned()]),
        ..context("FROM scratch\nCOPY a /\n")
    };
    let session = Session::open(&client, offers).await;
    let to = exporter(
        "oci",
        &[
            ("name", "app"),
            ("annotation.all", "manifests"),
            ("annotation-manifest[linux/arm64].one", "manifest"),
            ("annotation-index.index", "itself"),
            ("annotation-manifest-descriptor.named", "in the index"),
            ("annotation-index-descriptor.top", "in the layout"),
        ],
    );
    let options = [("platform", "linux/amd64,linux/arm64")];
    client
        .solve(&request(&session, &options, vec![to]))
        .await
        .unwrap();
    let archives = session.offers.archives.lock().unwrap();
    let archive = &archives["0"];
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
        entry(archive, &format!("blobs/{digest}"))
    };
    let top = entry(archive, "index.json");
    let top = &top["manifests"][0];
    assert_eq!(top["annotations"]["top"], "in the layout");
    let index = blob(top);
    assert_eq!(index["annotations"]["index"], "itself");
    for (number, one) in [(0, None), (1, Some("manifest"))] {
        let descriptor = &index["manifests"][number];
        assert_eq!(descriptor["annotations"]["named"], "in the index");
        let manifest = blob(descriptor);
        assert_eq!(manifest["annotations"]["all"], "manifests");
        assert_eq!(manifest["annotations"]["one"].as_str(), one);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p34_a_directory_of_several_platforms_has_one_for_each() {
    let rig = Rig::new();
    let client = rig.client().await;
    let options = [("platform", "linux/amd64,linux/arm64")];
    for (mode, calls) in [("copy", 2), ("delete", 1)] {
        let received = Arc::new(Received::default());
        let offers = Offers {
            received: Some(received.clone()),
            ..context("FROM scratch\nCOPY a /\n")
        };
        let session = Session::open(&client, offers).await;
        let to = exporter("local", &[("mode", mode)]);
        let request = request(&session, &options, vec![to]);
        client.solve(&request).await.unwrap();
        let mut paths = received.paths.lock().unwrap().clone();
        paths.sort();
        let all = [
            "linux_amd64",
            "linux_amd64/a",
            "linux_arm64",
            "linux_arm64/a",
        ];
        assert_eq!(paths, all, "{mode}");
        // One stream for each, or one that says whatever else is there goes.
        assert_eq!(
            session.offers.calls_of("FileSend/DiffCopy"),
            calls,
            "{mode}"
        );
    }
}

/// What a manifest or an index among the blobs names, itself included, that is missing.
fn missing(blobs: &BTreeMap<String, Bytes>, top: &str) -> Vec<String> {
    let mut left = vec![top.to_owned()];
    let mut missing = Vec::new();
    while let Some(digest) = left.pop() {
        let Some(blob) = blobs.get(&digest) else {
            missing.push(digest);
            continue;
        };
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(blob) else {
            continue;
        };
        for list in ["manifests", "layers"] {
            let named = json[list].as_array().into_iter().flatten();
            left.extend(named.filter_map(|one| one["digest"].as_str().map(str::to_owned)));
        }
        left.extend(json["config"]["digest"].as_str().map(str::to_owned));
    }
    missing
}

#[tokio::test(flavor = "multi_thread")]
async fn p35_p40_an_image_goes_into_a_store_of_the_client_and_is_a_base_from_there() {
    let rig = Rig::new();
    let client = rig.client().await;
    let offers = Offers {
        stores: Stores::with("export", BTreeMap::new()),
        ..context("FROM scratch\nCOPY a /from-layout\n")
    };
    let session = Session::open(&client, offers).await;
    let to = exporter("oci", &[("tar", "false"), ("name", "app")]);
    let response = client.solve(&request(&session, &[], vec![to])).await;
    let top = response.unwrap().exporter["containerimage.digest"].clone();
    let blobs = session.offers.stores.blobs("export");
    assert_eq!(missing(&blobs, &top), Vec::<String>::new());
    assert!(blobs.iter().all(|(name, blob)| digest(blob) == *name));
    drop(session);

    // A named context that is such a layout, in a daemon that has never seen it.
    let other = Rig::new();
    let client = other.client().await;
    let received = Arc::new(Received::default());
    let offers = Offers {
        received: Some(received.clone()),
        stores: Stores::with("oci:mine", blobs.clone()),
        ..context("FROM base\n")
    };
    let session = Session::open(&client, offers).await;
    let base = format!("oci-layout://mine@{top}");
    let options = [("context:base", base.as_str())];
    let to = vec![exporter("local", &[])];
    client
        .solve(&request(&session, &options, to))
        .await
        .unwrap();
    assert_eq!(*received.paths.lock().unwrap(), ["from-layout"]);
    drop(session);

    // One whose bytes are others is told.
    let mut lying = blobs;
    for blob in lying.values_mut() {
        if !blob.starts_with(b"{") {
            *blob = Bytes::from_static(b"something else");
        }
    }
    prune(&client).await;
    let offers = Offers {
        received: Some(Arc::new(Received::default())),
        stores: Stores::with("oci:mine", lying),
        ..context("FROM base\n")
    };
    let session = Session::open(&client, offers).await;
    let to = vec![exporter("local", &[])];
    let error = client.solve(&request(&session, &options, to)).await;
    let error = error.unwrap_err();
    assert!(
        error.message.contains("the client sent sha256:"),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p35_p36_a_cache_goes_into_a_store_of_the_client_and_is_found_there_again() {
    let rig = Rig::new();
    let client = rig.client().await;
    let text = "FROM busybox\nCOPY a /\nRUN echo slow > /slow\n";
    let store = "local:/of/the/client";
    let offers = Offers {
        stores: Stores::with(store, BTreeMap::new()),
        ..context(text)
    };
    let session = Session::open(&client, offers).await;
    let mut first = request(&session, &[], Vec::new());
    first.cache = Some(Caches {
        exports: vec![cache(
            "local",
            &[("dest", "/of/the/client"), ("mode", "max")],
        )],
        ..Caches::default()
    });
    let response = client.solve(&first).await.unwrap();
    let manifest: serde_json::Value =
        serde_json::from_str(&response.exporter["cache.manifest"]).unwrap();
    let top = manifest["digest"].as_str().unwrap().to_owned();
    let blobs = session.offers.stores.blobs(store);
    assert_eq!(missing(&blobs, &top), Vec::<String>::new());
    drop(session);

    let other = Rig::new();
    let client = other.client().await;
    let offers = Offers {
        stores: Stores::with(store, blobs),
        ..context(text)
    };
    let session = Session::open(&client, offers).await;
    let mut second = request(&session, &[], Vec::new());
    second.cache = Some(Caches {
        imports: vec![cache(
            "local",
            &[("src", "/of/the/client"), ("digest", &top)],
        )],
        ..Caches::default()
    });
    let (outcome, said) = built(&client, &second).await;
    outcome.unwrap();
    assert!(is_cached(&said, "echo slow"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p35_p36_a_cache_in_a_service_is_reached_with_the_login_of_the_client() {
    let services = Services::start();
    let url = services.url();
    let attrs = [
        ("bucket", "team"),
        ("region", "eu-1"),
        ("endpoint_url", url.as_str()),
        ("use_path_style", "true"),
        ("access_key_id", KEY_ID),
        ("secret_access_key", SECRET),
    ];
    let rig = Rig::new();
    let client = rig.client().await;
    let text = "FROM busybox\nCOPY a /\nRUN echo slow > /slow\n";
    let session = Session::open(&client, context(text)).await;
    let mut first = request(&session, &[], Vec::new());
    first.cache = Some(Caches {
        exports: vec![cache("s3", &[&attrs[..], &[("mode", "max")]].concat())],
        ..Caches::default()
    });
    client.solve(&first).await.unwrap();
    let config = services.object("team/manifests/buildkit");
    assert!(config.is_some(), "{:?}", services.objects());
    prune(&client).await;
    // Clients tell the frontend of it too, which names it in its own requests.
    let named = serde_json::json!([{"Type": "s3", "Attrs": map(&attrs)}]).to_string();
    let mut again = request(&session, &[("cache-imports", &named)], Vec::new());
    again.cache = Some(Caches {
        imports: vec![cache("s3", &attrs)],
        ..Caches::default()
    });
    let (outcome, said) = built(&client, &again).await;
    outcome.unwrap();
    assert!(is_cached(&said, "echo slow"), "{said:?}");
    assert!(!format!("{said:?}").contains(SECRET));
    // With nothing but what the frontend is told, nobody is asked.
    prune(&client).await;
    services.take_asked();
    again.name = new_id();
    again.cache = None;
    let (outcome, said) = built(&client, &again).await;
    outcome.unwrap();
    assert!(!is_cached(&said, "echo slow"), "{said:?}");
    assert_eq!(services.take_asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p36_a_cache_inside_of_an_image_is_found_again_where_the_image_is() {
    let rig = Rig::new();
    let client = rig.client().await;
    let text = "FROM busybox\nCOPY a /\nRUN echo slow > /slow\n";
    let reference = format!("{}/with-cache/app:1", rig.registry.address);
    let session = Session::open(&client, context(text)).await;
    let to = exporter("image", &[("name", &reference), ("push", "true")]);
    let mut first = request(&session, &[], vec![to]);
    first.cache = Some(Caches {
        exports: vec![cache("inline", &[])],
        ..Caches::default()
    });
    client.solve(&first).await.unwrap();
    prune(&client).await;
    let mut again = request(&session, &[], Vec::new());
    let (outcome, said) = built(&client, &again).await;
    outcome.unwrap();
    assert!(!is_cached(&said, "echo slow"), "pruned: {said:?}");
    prune(&client).await;
    again.name = new_id();
    again.cache = Some(Caches {
        imports: vec![cache("registry", &[("ref", &reference)])],
        ..Caches::default()
    });
    let (outcome, said) = built(&client, &again).await;
    outcome.unwrap();
    assert!(is_cached(&said, "echo slow"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p37_options_of_a_build_reach_its_steps() {
    let rig = Rig::new();
    let client = rig.client().await;
    let text = "FROM busybox AS wanted
RUN echo hosts $(grep -c '10.9.8.7.*far.example' /etc/hosts)
RUN echo shm $(df -k /dev/shm | tail -n 1 | awk '{print $2}')
RUN echo files $(ulimit -n)
RUN echo links $(ls /sys/class/net)
FROM busybox AS unwanted
RUN exit 1
";
    let session = Session::open(&client, context(text)).await;
    let options = [
        ("target", "wanted"),
        ("add-hosts", "far.example=10.9.8.7"),
        ("shm-size", "8388608"),
        ("ulimit", "nofile=123:456"),
        ("force-network-mode", "none"),
        ("label:made.by", "a test"),
        ("image-resolve-mode", "pull"),
    ];
    let (outcome, said) = built(&client, &request(&session, &options, Vec::new())).await;
    let said = logs(&said);
    outcome.unwrap_or_else(|error| panic!("{error:?}: {said}"));
    for line in ["hosts 1\n", "shm 8192\n", "files 123\n", "links lo\n"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // Again: what is cached is not run, but the stage that is named.
    let (outcome, said) = built(&client, &request(&session, &options, Vec::new())).await;
    outcome.unwrap();
    assert_eq!(logs(&said), "");
    let options: Vec<_> = options
        .into_iter()
        .chain([("no-cache", "wanted")])
        .collect();
    let (outcome, said) = built(&client, &request(&session, &options, Vec::new())).await;
    outcome.unwrap();
    assert!(logs(&said).contains("files 123\n"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p40_contexts_are_directories_images_and_files_of_another_session() {
    let rig = Rig::new();
    let client = rig.client().await;
    let text = "FROM base\nCOPY --from=other b /of-other\nCOPY a /of-context\nRUN cat /of-other /of-context /etc/os-release 2>/dev/null || true\n";
    // The session of the build has the build file and one context; the files are another's.
    let mut offers = Offers::default();
    let dockerfile = Tree::new(vec![Tree::dockerfile(text)]);
    offers.trees.insert("dockerfile".to_owned(), dockerfile);
    let other = Tree::of(&[("b", "from the other directory\n")]);
    offers.trees.insert("other".to_owned(), other);
    let session = Session::open(&client, offers).await;
    let mut shared = Offers::default();
    let files = Tree::of(&[("a", "from another session\n")]);
    shared.trees.insert("context".to_owned(), files);
    let settings = Settings {
        shared_key: "shared".to_owned(),
        ..Settings::default()
    };
    let shared = Session::with(&client, shared, settings).await;
    let options = [
        ("context:base", "docker-image://busybox:latest"),
        ("context:other", "local:other"),
        ("local-sessionid:context", shared.id.as_str()),
    ];
    let (outcome, said) = built(&client, &request(&session, &options, Vec::new())).await;
    let said = logs(&said);
    outcome.unwrap_or_else(|error| panic!("{error:?}: {said}"));
    assert!(said.contains("from the other directory"), "{said}");
    assert!(said.contains("from another session"), "{said}");
}
