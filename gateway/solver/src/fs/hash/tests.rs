//! Digests of trees, checked against BuildKit's and against each other.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::AtomicUsize;

fn write(root: &Path, path: &str, text: &str) {
    let file = root.join(path);
    let mut dir = root.to_owned();
    for part in Path::new(path).parent().expect("has one").components() {
        dir.push(part);
        if !dir.exists() {
            std::fs::create_dir(&dir).expect("made");
            std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).expect("set");
        }
    }
    std::fs::write(&file, text).expect("written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("set");
}

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("set");
    for (path, text) in files {
        write(dir.path(), path, text);
    }
    dir
}

fn golden() -> tempfile::TempDir {
    tree(&[("a.txt", "hello\n"), ("sub/b.txt", "world\n")])
}

fn local(dir: &Path) -> ContentHasher {
    let root = Root::open(dir).expect("opens");
    ContentHasher::local(root, &Filter::default(), HashOptions::default()).expect("hashes")
}

fn plain(hasher: &ContentHasher, path: &str) -> String {
    let digest = hasher.checksum(path, &ChecksumOptions::default());
    digest.map_or_else(|e| e.to_string(), |d| hex::encode(d.0))
}

fn chosen(hasher: &ContentHasher, path: &str, options: ChecksumOptions) -> String {
    hasher
        .checksum(path, &options)
        .map_or_else(|e| e.to_string(), |d| hex::encode(d.0))
}

fn wildcard() -> ChecksumOptions {
    ChecksumOptions {
        wildcard: true,
        follow_links: true,
        ..ChecksumOptions::default()
    }
}

fn include(patterns: &[&str]) -> ChecksumOptions {
    ChecksumOptions {
        include: patterns.iter().map(|p| (*p).to_owned()).collect(),
        ..ChecksumOptions::default()
    }
}

/// Digests found in a cache that BuildKit has exported.
#[test]
fn a_local_tree_hashes_as_in_buildkit() {
    let dir = golden();
    let copy = ContentHasher::local_copy(
        Root::open(dir.path()).expect("opens"),
        HashOptions::default(),
    );
    for hasher in [local(dir.path()), copy.expect("hashes")] {
        assert_eq!(
            plain(&hasher, "/"),
            "4795071d4db288810f5729d29ad4b50d201655c4fb9b0101af6e8327e854848b"
        );
        assert_eq!(
            plain(&hasher, "sub"),
            "390f0afca7aba314551e5e0065a3f2f064cd7c6164480d6b3f093cfd40c4b321"
        );
        let all = hasher.checksum_all(&[]).expect("hashes");
        let record = ContentDigest::of(format!("{all}@-1").as_bytes());
        assert_eq!(
            hex::encode(record.0),
            "cc00f1188ed6175207fa735fae3b8fa5420e68409b9374f8b8235f80115aadbc"
        );
    }
}

#[test]
fn a_snapshot_s_root_counts_with_its_mode() {
    let dir = golden();
    let hash = || {
        let root = Root::open(dir.path()).expect("opens");
        let hasher = ContentHasher::snapshot(root, HashOptions::default()).expect("hashes");
        (plain(&hasher, "/"), plain(&hasher, "/a.txt"))
    };
    let before = hash();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).expect("set");
    let after = hash();
    assert_ne!(before.0, after.0);
    assert_eq!(before.1, after.1);
    assert_ne!(before.0, plain(&local(dir.path()), "/"));
}

#[test]
fn a_wildcard_gives_the_list_of_what_it_matches() {
    let dir = golden();
    let hasher = local(dir.path());
    let file = hasher
        .checksum("/a.txt", &ChecksumOptions::default())
        .expect("hashes");
    let list = ContentDigest::of(format!("\0a.txt{file}").as_bytes());
    assert_eq!(chosen(&hasher, "/*.txt", wildcard()), hex::encode(list.0));
    let nothing = hex::encode(ContentDigest::of(b"").0);
    assert_eq!(chosen(&hasher, "/*.none", wildcard()), nothing);
    assert_eq!(chosen(&hasher, "/nothing/*", wildcard()), nothing);
    let below = hasher
        .checksum("/sub/b.txt", &ChecksumOptions::default())
        .expect("hashes");
    let list = ContentDigest::of(format!("\0b.txt{below}").as_bytes());
    assert_eq!(chosen(&hasher, "/sub/b*", wildcard()), hex::encode(list.0));
    assert_eq!(
        chosen(&hasher, "/a[", wildcard()),
        "syntax error in pattern"
    );
}

#[test]
fn a_wildcard_that_matches_a_directory_takes_its_content() {
    let dir = golden();
    let before = chosen(&local(dir.path()), "/s*", wildcard());
    write(dir.path(), "other", "x");
    assert_eq!(chosen(&local(dir.path()), "/s*", wildcard()), before);
    write(dir.path(), "sub/b.txt", "changed");
    assert_ne!(chosen(&local(dir.path()), "/s*", wildcard()), before);
}

#[test]
fn patterns_choose_files_with_the_headers_of_their_parents() {
    let dir = golden();
    let hasher = local(dir.path());
    let file = hasher
        .checksum("/sub/b.txt", &ChecksumOptions::default())
        .expect("hashes");
    // The header of a directory 0755 of root.
    let header = "sha256:1a2805521573cb10d73bcd51d16bfa84c8f461d68599740e35484b90b2ab1bab";
    let list = ContentDigest::of(format!("\0sub{header}\0sub\0b.txt{file}").as_bytes());
    assert_eq!(
        chosen(&hasher, "/", include(&["**/b.txt"])),
        hex::encode(list.0)
    );
    let exclude = ChecksumOptions {
        exclude: vec!["a.txt".into()],
        ..ChecksumOptions::default()
    };
    assert_eq!(chosen(&hasher, "/", exclude), hex::encode(list.0));
    let own = ContentDigest::of(format!("\0{header}\0b.txt{file}").as_bytes());
    assert_eq!(
        chosen(&hasher, "/sub", include(&["*"])),
        hex::encode(ContentDigest::of(format!("\0{header}\0b.txt{file}").as_bytes()).0)
    );
    assert_eq!(
        chosen(&hasher, "/sub", include(&["b.txt"])),
        hex::encode(own.0)
    );
}

#[test]
fn required_paths_are_missed_by_name() {
    let dir = golden();
    let options = ChecksumOptions {
        required: vec!["/sub/nothing".into()],
        ..include(&["sub/nothing"])
    };
    let error = chosen(&local(dir.path()), "/", options);
    assert_eq!(error, "\"/sub/nothing\": not found");
    assert_eq!(
        plain(&local(dir.path()), "/nosuch"),
        "\"/nosuch\": not found"
    );
}

#[test]
fn links_count_as_themselves_until_they_are_followed() {
    let dir = golden();
    symlink("sub", dir.path().join("link")).expect("linked");
    symlink("/sub/../link/b.txt", dir.path().join("deep")).expect("linked");
    symlink("loop", dir.path().join("loop")).expect("linked");
    let hasher = local(dir.path());
    let follow = ChecksumOptions {
        follow_links: true,
        ..ChecksumOptions::default()
    };
    assert_ne!(plain(&hasher, "/link"), plain(&hasher, "/sub"));
    assert_eq!(
        chosen(&hasher, "/link", follow.clone()),
        plain(&hasher, "/sub")
    );
    assert_eq!(plain(&hasher, "/link/b.txt"), plain(&hasher, "/sub/b.txt"));
    assert_eq!(
        chosen(&hasher, "/deep", follow.clone()),
        plain(&hasher, "/sub/b.txt")
    );
    assert_eq!(chosen(&hasher, "/loop", follow), "too many links");
    let list =
        ContentDigest::of(format!("\0deepsha256:{}", plain(&hasher, "/sub/b.txt")).as_bytes());
    assert_eq!(chosen(&hasher, "/dee*", wildcard()), hex::encode(list.0));
}

#[test]
fn what_a_filter_leaves_out_does_not_count() {
    let dir = golden();
    let want = plain(&local(dir.path()), "/");
    write(dir.path(), "ignored/big", "x");
    let filter = Filter {
        exclude: vec!["ignored".into()],
        ..Filter::default()
    };
    let root = Root::open(dir.path()).expect("opens");
    let hasher = ContentHasher::local(root, &filter, HashOptions::default()).expect("hashes");
    assert_eq!(plain(&hasher, "/"), want);
    assert_eq!(
        plain(&hasher, "/ignored/big"),
        "\"/ignored/big\": not found"
    );
}

#[test]
fn any_number_of_threads_gives_the_same_digest() {
    let files: Vec<(String, String)> = (0..100)
        .map(|i| (format!("d{}/f{i}", i % 7), "x".repeat(i * 100)))
        .collect();
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(p, t)| (p.as_str(), t.as_str()))
        .collect();
    let dir = tree(&files);
    let hash = |threads| {
        let options = HashOptions {
            threads,
            ..HashOptions::default()
        };
        let hasher = ContentHasher::snapshot(Root::open(dir.path()).expect("opens"), options);
        plain(&hasher.expect("hashes"), "/")
    };
    assert_eq!(hash(1), hash(4));
}

#[derive(Default)]
struct Counting {
    known: Mutex<std::collections::HashMap<StatKey, ContentDigest>>,
    hits: AtomicUsize,
}

impl HashCache for Counting {
    fn get(&self, key: &StatKey) -> Option<ContentDigest> {
        let found = self.known.lock().expect("not poisoned").get(key).copied();
        if found.is_some() {
            self.hits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        found
    }

    fn put(&self, key: StatKey, digest: ContentDigest, _began: i128) {
        self.known.lock().expect("not poisoned").insert(key, digest);
    }
}

#[test]
fn a_cache_saves_reading_and_changes_no_digest() {
    let dir = golden();
    let cache = Arc::new(Counting::default());
    let hash = || {
        let options = HashOptions {
            cache: Some(cache.clone()),
            ..HashOptions::default()
        };
        let root = Root::open(dir.path()).expect("opens");
        plain(
            &ContentHasher::local(root, &Filter::default(), options).expect("hashes"),
            "/",
        )
    };
    let first = hash();
    assert_eq!(cache.hits.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(hash(), first);
    assert_eq!(cache.hits.load(std::sync::atomic::Ordering::Relaxed), 2);
    write(dir.path(), "a.txt", "other\n");
    assert_ne!(hash(), first);
}

#[test]
fn young_files_are_known_when_nobody_writes_to_them_and_only_then() {
    for still in [false, true] {
        let dir = golden();
        let kept = tempfile::tempdir().expect("a directory");
        let cache = Arc::new(crate::store::FileHashes::open(kept.path().join("h")));
        let options = HashOptions {
            cache: Some(cache.clone()),
            still,
            ..HashOptions::default()
        };
        let root = Root::open(dir.path()).expect("opens");
        let filter = Filter::default();
        // Its clock is ahead, so it stays young however long this takes.
        let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(1000);
        let file = std::fs::File::options()
            .write(true)
            .open(dir.path().join("a.txt"));
        file.expect("opens").set_modified(ahead).expect("set");
        let hasher = ContentHasher::local(root, &filter, options).expect("hashes");
        plain(&hasher, "/");
        let visible = hasher.visible();
        let meta = visible.meta(b"a.txt").expect("is there");
        let key = StatKey {
            uid: 0,
            gid: 0,
            ..StatKey::of(&meta)
        };
        assert_eq!(cache.get(&key).is_some(), still);
        let held_against = visible.digest_wanted(b"/a.txt", &meta).expect("is there");
        assert_eq!(held_against.is_none(), still);
        let changed = Meta { size: 1, ..meta };
        assert!(visible.check(b"/a.txt", &changed).is_err());
    }
}

#[test]
fn nothing_hashes_to_nothing() {
    let digest = checksum_all_of_nothing(&[]).expect("the whole of nothing");
    assert_eq!(digest, combine(&[ContentDigest::of(b"")]));
    let missing = Selector {
        path: "etc/passwd".into(),
        ..Selector::default()
    };
    let error = checksum_all_of_nothing(&[missing]).expect_err("no file there");
    assert_eq!(error.to_string(), "/etc/passwd: no such file or directory");
}
