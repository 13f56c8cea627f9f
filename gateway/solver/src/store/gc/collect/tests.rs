use std::time::Duration;

use super::super::disk_usage;
use super::*;
use crate::store::{ImageRecord, LayerRecord, Snapshot, VariantRecord};

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    Bench { _dir: dir, store }
}

impl Bench {
    /// A layer with a compressed form; the blob's digest.
    fn layer(&self, store: &Store, id: &str, base: &[&str]) -> Digest {
        let work = store.work_dir().unwrap();
        let fs = work.sub("fs").unwrap();
        std::fs::write(fs.join("f"), vec![7; 10_000]).unwrap();
        store
            .add_layer(&LayerRecord {
                id: id.into(),
                base: base.iter().map(|id| (*id).to_owned()).collect(),
                description: format!("made {id}"),
                created_at: 1_700_000_000,
                ..LayerRecord::default()
            })
            .unwrap();
        store.commit_layer(&fs, id).unwrap();
        let digest = store.blobs().put(format!("layer {id}").as_bytes()).unwrap();
        let variant = VariantRecord {
            digest: digest.to_string(),
            size: 1,
            media_type: String::new(),
            diff_id: String::new(),
        };
        store.db().add_variant(id, "gzip", &variant).unwrap();
        digest
    }

    /// A named image of these layers; its manifest.
    fn image(&self, name: &str, layers: &[&Digest]) -> Digest {
        let blobs = self.store.blobs();
        let config = blobs.put(format!("{{\"n\":{name:?}}}").as_bytes()).unwrap();
        let entry = |digest: &Digest| {
            serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest.to_string(), "size": 1})
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.to_string(), "size": 1},
            "layers": layers.iter().map(|digest| entry(digest)).collect::<Vec<_>>(),
        });
        let digest = blobs.put(manifest.to_string().as_bytes()).unwrap();
        let record = ImageRecord {
            digest: digest.to_string(),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            size: 1,
        };
        self.store.db().set_image(name, &record, 5).unwrap();
        digest
    }

    fn prune(&self, options: &PruneOptions) -> Vec<String> {
        let mut ids = Vec::new();
        prune(&self.store, std::slice::from_ref(options), |record| {
            ids.push(record.id.clone());
        })
        .unwrap();
        ids
    }

    fn use_at(&self, name: &str, days_ago: i64, times: usize) {
        let now = super::super::now() - days_ago * 86_400_000_000_000;
        for _ in 0..times {
            uses::note(self.store.root(), self.store.db(), [name].into_iter(), now);
        }
    }

    fn layers(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.store.root().join("layers"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn all() -> PruneOptions {
    PruneOptions {
        all: true,
        ..PruneOptions::default()
    }
}

#[test]
fn pruning_everything_leaves_an_empty_store() {
    let bench = bench();
    bench.layer(&bench.store, "a", &[]);
    bench.layer(&bench.store, "b", &["a"]);
    bench.layer(&bench.store, "c", &["a", "b"]);
    bench.store.mark_opaque_root("c").unwrap();
    bench
        .store
        .db()
        .save("op@0", &[], "key", Some((&["a".into(), "b".into()], 1)))
        .unwrap();
    std::fs::create_dir(bench.store.cache_dir("unknown")).unwrap();
    let removed = bench.prune(&PruneOptions::default());
    // What is built upon goes after what is built upon it.
    let place = |id: &str| removed.iter().position(|r| r == id).unwrap();
    assert!(place("c") < place("b") && place("b") < place("a"));
    assert_eq!(removed.len(), 4);
    assert!(bench.layers().is_empty());
    assert!(bench.store.blobs().list().unwrap().is_empty());
    assert!(
        bench
            .store
            .db()
            .results(&["key".into()])
            .unwrap()
            .is_empty()
    );
    assert!(bench.store.db().all_layers().unwrap().is_empty());
    assert!(bench.store.db().uses().unwrap().is_empty());
    assert!(bench.prune(&all()).is_empty());
}

#[test]
fn what_is_remembered_of_directories_and_frontends_is_counted_and_goes_with_all() {
    let bench = bench();
    std::fs::write(bench.store.root().join("copies/sha256-a"), [1; 5000]).unwrap();
    std::fs::write(bench.store.root().join("hashes/b"), [1; 5000]).unwrap();
    bench.store.db().keep_answer("q", b"a", 1, 100).unwrap();
    assert!(bench.prune(&PruneOptions::default()).is_empty());
    let records = disk_usage(&bench.store, &[]).unwrap();
    let record = records.iter().find(|r| r.id == "file-digests").unwrap();
    assert!(record.size >= 10_000, "{}", record.size);
    assert_eq!(bench.prune(&all()), ["file-digests"]);
    assert_eq!(bench.store.db().answer("q").unwrap(), None);
    for dir in ["copies", "hashes"] {
        let mut left = std::fs::read_dir(bench.store.root().join(dir)).unwrap();
        assert!(left.next().is_none(), "{dir}");
    }
}

#[test]
fn what_a_user_holds_stays_until_he_ends() {
    let bench = bench();
    bench.layer(&bench.store, "a", &[]);
    bench.layer(&bench.store, "b", &["a"]);
    let user = bench.store.for_user();
    assert!(user.has_layer("a"));
    let made = bench.layer(&user, "c", &["a"]);
    let cache = user.hold_cache("cache1").unwrap();
    std::fs::create_dir(user.cache_dir("cache1")).unwrap();
    assert_eq!(bench.prune(&all()), ["b"]);
    assert_eq!(bench.layers(), ["a", "c"]);
    assert!(bench.store.blobs().contains(&made));
    let in_use = |store: &Store| {
        let records = disk_usage(store, &["inuse,type!=internal".to_owned()]).unwrap();
        records.into_iter().map(|r| r.id).collect::<Vec<_>>()
    };
    assert_eq!(in_use(&bench.store), ["a", "c", "cache1"]);
    drop(cache);
    assert_eq!(in_use(&bench.store), ["a", "c"]);
    drop(user);
    assert_eq!(bench.prune(&all()).len(), 3);
}

#[test]
fn blobs_of_named_images_stay_and_their_layers_count_as_shared() {
    let bench = bench();
    let base = bench.layer(&bench.store, "a", &[]);
    let top = bench.layer(&bench.store, "b", &["a"]);
    let other = bench.layer(&bench.store, "x", &[]);
    let manifest = bench.image("docker.io/library/app:1", &[&base, &top]);
    let loose = bench.store.blobs().put(b"{\"config\":1}").unwrap();
    let shared = disk_usage(&bench.store, &["shared".to_owned()]).unwrap();
    let ids: Vec<&str> = shared.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "image docker.io/library/app:1"]);
    assert_eq!(bench.prune(&PruneOptions::default()), ["x"]);
    let mut removed = bench.prune(&all());
    removed.sort();
    assert_eq!(removed, ["a", "b", &format!("blob {loose}")]);
    for blob in [&base, &top, &manifest] {
        assert!(bench.store.blobs().contains(blob));
    }
    assert!(!bench.store.blobs().contains(&other));
    assert!(
        bench
            .store
            .db()
            .drop_image("docker.io/library/app:1")
            .unwrap()
    );
    bench.prune(&all());
    assert!(bench.store.blobs().list().unwrap().is_empty());
}

#[test]
fn an_image_named_while_its_blob_is_being_claimed_keeps_it() {
    let bench = bench();
    let blob = bench.layer(&bench.store, "a", &[]);
    let mut collection = Collection::new(&bench.store).unwrap();
    // After the look at everything and before the removal.
    let manifest = bench.image("docker.io/library/app:1", &[&blob]);
    let spares_shared = |item: &Item| !item.record.shared;
    assert!(collection.remove("a", spares_shared).unwrap().is_none());
    bench.layer(&bench.store, "child", &["b"]);
    bench.layer(&bench.store, "b", &[]);
    let mut collection = Collection::new(&bench.store).unwrap();
    bench.layer(&bench.store, "late", &["b", "child"]);
    assert!(
        collection
            .remove("child", |item| item.children == 0)
            .unwrap()
            .is_none()
    );
    assert!(bench.store.blobs().contains(&manifest));
}

#[test]
fn young_records_are_spared_and_times_in_the_future_grow_old() {
    let bench = bench();
    for id in ["old", "young", "future"] {
        bench.layer(&bench.store, id, &[]);
    }
    bench.use_at("layer old", 3, 1);
    bench.use_at("layer young", 0, 1);
    bench.use_at("layer future", -400, 1);
    let day = PruneOptions {
        keep_duration: Duration::from_secs(86_400),
        ..PruneOptions::default()
    };
    assert_eq!(bench.prune(&day), ["old"]);
    let now = super::super::now();
    let used = bench.store.db().uses().unwrap()["layer future"];
    assert!(used.last <= now);
}

#[test]
fn space_limits_remove_only_what_is_above_and_the_least_used_first() {
    let bench = bench();
    for (id, days, times) in [
        ("often", 9, 9),
        ("once", 9, 1),
        ("new", 0, 3),
        ("kept", 0, 9),
    ] {
        bench.layer(&bench.store, id, &[]);
        bench.use_at(&format!("layer {id}"), days, times);
    }
    let records = disk_usage(&bench.store, &["type==regular".to_owned()]).unwrap();
    assert!(records.iter().all(|record| record.size >= 10_000));
    let every = disk_usage(&bench.store, &[]).unwrap();
    let total: u64 = every.iter().filter(|r| !r.shared).map(|r| r.size).sum();
    let limits = |max_used_space| PruneOptions {
        max_used_space,
        ..PruneOptions::default()
    };
    assert!(bench.prune(&limits(total + 1_000_000)).is_empty());
    assert_eq!(bench.prune(&limits(total - 1)), ["once"]);
    let reserved = PruneOptions {
        reserved_space: total,
        ..limits(1)
    };
    assert!(bench.prune(&reserved).is_empty());
    let filtered = PruneOptions {
        filters: vec!["id==kept".to_owned()],
        ..limits(1)
    };
    assert_eq!(bench.prune(&filtered), ["kept"]);
}

#[test]
fn unreferenced_things_go_without_costing_a_result() {
    let bench = bench();
    bench.layer(&bench.store, "a", &[]);
    let result = Some((&["a".to_owned()][..], 1));
    bench.store.db().save("op@0", &[], "key", result).unwrap();
    std::fs::create_dir(bench.store.layer_dir("stray")).unwrap();
    std::fs::create_dir(bench.store.cache_dir("straycache")).unwrap();
    let loose = bench.store.blobs().put(b"loose").unwrap();
    std::fs::create_dir(bench.store.root().join("quarantine")).unwrap();
    std::fs::write(bench.store.root().join("quarantine/x"), "").unwrap();
    bench
        .store
        .db()
        .add_layer(&LayerRecord {
            id: "row without files".into(),
            ..LayerRecord::default()
        })
        .unwrap();
    let mut removed = Vec::new();
    prune_unreferenced(&bench.store, |record| removed.push(record.id.clone())).unwrap();
    removed.sort();
    assert_eq!(removed.len(), 4, "{removed:?}");
    assert_eq!(bench.layers(), ["a"]);
    assert!(!bench.store.blobs().contains(&loose));
    assert!(!bench.store.root().join("quarantine").exists());
    let results = bench.store.db().results(&["key".into()]).unwrap();
    let layers: Vec<_> = results.iter().map(|result| &result.layers).collect();
    assert_eq!(layers, [&["a"]]);
    assert_eq!(bench.store.db().all_layers().unwrap().len(), 1);
}

#[test]
fn links_stay_while_they_lead_to_a_result_and_no_longer() {
    let bench = bench();
    let db = bench.store.db();
    let candidate = |key: &str| {
        vec![vec![crate::store::Candidate {
            key: key.into(),
            selector: String::new(),
        }]]
    };
    bench.layer(&bench.store, "a", &[]);
    bench.layer(&bench.store, "b", &[]);
    // root -> mid -> end, where only the end has a result; and a branch of its own.
    db.save("op1", &candidate("root"), "mid", None).unwrap();
    let result = |id: &str| [id.to_owned()];
    db.save("op2", &candidate("mid"), "end", Some((&result("a"), 1)))
        .unwrap();
    db.save("op3", &candidate("root"), "other", Some((&result("b"), 1)))
        .unwrap();
    let only_b = PruneOptions {
        filters: vec!["id==b".to_owned()],
        ..PruneOptions::default()
    };
    let user = bench.store.for_user();
    bench.prune(&only_b);
    // A running build may be about to use them.
    assert_eq!(db.targets("op3", &candidate("root")).unwrap(), ["other"]);
    drop(user);
    bench.layer(&bench.store, "b", &[]);
    bench.prune(&only_b);
    assert!(db.targets("op3", &candidate("root")).unwrap().is_empty());
    assert_eq!(db.targets("op1", &candidate("root")).unwrap(), ["mid"]);
    assert_eq!(db.targets("op2", &candidate("mid")).unwrap(), ["end"]);
}

#[test]
fn builds_that_add_nothing_collect_nothing_and_others_once_a_minute() {
    let bench = bench();
    let everything = |_| vec![PruneOptions::default()];
    assert_eq!(collect_if_due(&bench.store, everything).unwrap(), 0);
    assert!(!bench.store.root().join(STAMP).exists());
    bench.layer(&bench.store, "a", &[]);
    assert_eq!(collect_if_due(&bench.store, everything).unwrap(), 1);
    bench.layer(&bench.store, "b", &[]);
    assert_eq!(collect_if_due(&bench.store, everything).unwrap(), 0);
    // A clock that was ahead when it ran does not stop it for long.
    let future = SystemTime::now() + Duration::from_secs(86_400);
    let stamp = std::fs::File::options()
        .write(true)
        .open(bench.store.root().join(STAMP))
        .unwrap();
    stamp.set_modified(future).unwrap();
    bench.layer(&bench.store, "c", &[]);
    assert_eq!(collect_if_due(&bench.store, everything).unwrap(), 2);
}

#[test]
fn users_and_collectors_at_once_never_lose_what_was_seen() {
    let bench = bench();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    prune(&bench.store, &[all()], |_| {}).unwrap();
                }
            });
        }
        let users: Vec<_> = (0..3)
            .map(|number| {
                let bench = &bench;
                scope.spawn(move || {
                    for round in 0..60 {
                        let user = bench.store.for_user();
                        let id = format!("layer{}", (round + number) % 5);
                        if !user.has_layer(&id) {
                            bench.layer(&user, &id, &[]);
                        }
                        let lowers =
                            user.lowers(&Snapshot::new(vec![crate::store::Layer::stored(
                                id.clone(),
                            )]));
                        for _ in 0..20 {
                            assert!(lowers[0].join("f").exists(), "{id} in round {round}");
                        }
                        assert!(bench.store.db().layer(&id).unwrap().is_some());
                    }
                })
            })
            .collect();
        let failed = users.into_iter().any(|user| user.join().is_err());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(!failed);
    });
}

#[test]
fn the_layer_that_a_derived_one_changes_stays_with_it() {
    let bench = bench();
    let derived = crate::store::derived_id("whole");
    bench.layer(&bench.store, "whole", &[]);
    bench.layer(&bench.store, &derived, &[]);
    let user = bench.store.for_user();
    assert!(user.has_layer(&derived));
    assert_eq!(bench.prune(&all()), [""; 0]);
    drop(user);
    assert_eq!(bench.prune(&all()), [derived, "whole".to_owned()]);
}
