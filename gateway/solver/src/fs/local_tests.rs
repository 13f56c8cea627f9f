//! A context is copied once, and then only brought up to date.

use super::*;
use crate::fs::Visible;
use crate::fs::copy::{CopyOptions, copy_seeing};
use crate::fs::hash::{ChecksumOptions, ContentHasher, HashOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

struct Context {
    from: tempfile::TempDir,
    to: tempfile::TempDir,
}

impl Context {
    fn new(files: &[&str]) -> Self {
        let context = Self {
            from: tempfile::tempdir().expect("a directory"),
            to: tempfile::tempdir().expect("a directory"),
        };
        for path in files {
            context.write(path, path);
        }
        context
    }

    fn write(&self, path: &str, text: &str) {
        let file = self.from.path().join(path);
        std::fs::create_dir_all(file.parent().expect("has one")).expect("made");
        std::fs::write(file, text).expect("written");
    }

    fn sync(&self, exclude: &[&str]) -> SyncStats {
        let from = Root::open(self.from.path()).expect("opens");
        let to = Root::open(self.to.path()).expect("opens");
        let filter = Filter {
            exclude: exclude.iter().map(|p| (*p).to_owned()).collect(),
            ..Filter::default()
        };
        sync_into(&from, &filter, &to, &SyncOptions::default()).expect("syncs")
    }

    fn from(&self, path: &str) -> PathBuf {
        self.from.path().join(path)
    }

    fn to(&self, path: &str) -> PathBuf {
        self.to.path().join(path)
    }

    /// Asserts that the copy and the source walk alike.
    fn assert_same(&self) {
        let walk = |dir: &std::path::Path| -> Vec<_> {
            let root = Root::open(dir).expect("opens");
            let entries = walk::entries(&root, &Filter::default()).expect("walks");
            let describe = |e: Entry| {
                let size = if e.meta.is_dir() { 0 } else { e.meta.size };
                (
                    e.path,
                    e.meta.mode,
                    e.meta.mtime,
                    size,
                    e.target,
                    e.hard_link,
                )
            };
            entries.into_iter().map(describe).collect()
        };
        assert_eq!(walk(self.to.path()), walk(self.from.path()));
    }
}

#[test]
fn a_second_sync_writes_nothing() {
    let context = Context::new(&["a", "d/b", "d/e/c"]);
    symlink("a", context.from("l")).expect("linked");
    std::fs::hard_link(context.from("a"), context.from("d/hard")).expect("linked");
    let first = context.sync(&[]);
    assert_eq!((first.entries, first.written, first.bytes), (7, 7, 9));
    context.assert_same();
    let second = context.sync(&[]);
    assert_eq!((second.entries, second.written, second.removed), (7, 0, 0));
    context.assert_same();
}

#[test]
fn only_what_changed_is_written() {
    let context = Context::new(&["a", "b", "d/c", "gone/x", "swap"]);
    context.sync(&[]);
    context.write("a", "longer");
    let secret = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(context.from("b"), secret).expect("set");
    std::fs::remove_dir_all(context.from("gone")).expect("removed");
    std::fs::remove_file(context.from("swap")).expect("removed");
    context.write("swap/new", "n");
    let before = std::fs::metadata(context.to("d/c")).expect("stat").ino();
    let stats = context.sync(&[]);
    assert_eq!((stats.written, stats.bytes, stats.removed), (4, 8, 1));
    assert_eq!(
        std::fs::metadata(context.to("d/c")).expect("stat").ino(),
        before
    );
    context.assert_same();
}

#[test]
fn a_change_within_the_same_size_is_seen_by_its_time() {
    let context = Context::new(&["a"]);
    context.sync(&[]);
    context.write("a", "b");
    let time = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let file = std::fs::File::options()
        .write(true)
        .open(context.from("a"))
        .expect("opens");
    file.set_modified(time).expect("set");
    assert_eq!(context.sync(&[]).written, 1);
    assert_eq!(std::fs::read(context.to("a")).expect("reads"), b"b");
}

#[test]
fn what_becomes_excluded_goes() {
    let context = Context::new(&["a", "secret/key"]);
    context.sync(&[]);
    let stats = context.sync(&["secret"]);
    assert_eq!((stats.entries, stats.written, stats.removed), (1, 0, 1));
    assert!(!context.to("secret").exists());
}

#[test]
fn links_that_come_apart_come_apart_in_the_copy() {
    let context = Context::new(&["a"]);
    std::fs::hard_link(context.from("a"), context.from("b")).expect("linked");
    context.sync(&[]);
    let ino = |path: &str| std::fs::metadata(context.to(path)).expect("stat").ino();
    assert_eq!(ino("a"), ino("b"));
    std::fs::remove_file(context.from("b")).expect("removed");
    context.write("b", "own");
    context.sync(&[]);
    assert_ne!(ino("a"), ino("b"));
    context.assert_same();
}

#[test]
fn copies_belong_to_root() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let context = Context::new(&["a", "d/b"]);
    for path in ["a", "d", "d/b"] {
        if std::os::unix::fs::chown(context.from(path), Some(1000), Some(1000)).is_err() {
            // Root of a single id.
            return;
        }
    }
    context.sync(&[]);
    for path in ["a", "d", "d/b"] {
        let meta = std::fs::metadata(context.to(path)).expect("stat");
        assert_eq!((meta.uid(), meta.gid()), (0, 0), "{path}");
    }
    assert_eq!(context.sync(&[]).written, 0);
}

#[test]
fn progress_is_told_in_bytes() {
    let context = Context::new(&["one", "three"]);
    let seen = std::cell::RefCell::new(Vec::new());
    let progress = |bytes| seen.borrow_mut().push(bytes);
    let options = SyncOptions {
        progress: Some(&progress),
        ..SyncOptions::default()
    };
    let from = Root::open(context.from.path()).expect("opens");
    let to = Root::open(context.to.path()).expect("opens");
    sync_into(&from, &Filter::default(), &to, &options).expect("syncs");
    assert_eq!(*seen.borrow(), [3, 8]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::default()
    })]

    /// Three ways to a filtered source, one content: hashed in place, copied and hashed,
    /// copied straight into a result.
    #[test]
    fn every_way_through_a_filter_sees_the_same(
        files in proptest::collection::btree_set("[ab]{1,2}(/[ab]{1,2}){0,2}\\.[tm]", 1..12),
        exclude in proptest::collection::vec("!?(\\*\\*/)?[ab*]{1,2}(/[ab*]{1,2})?(\\.[tm*])?", 0..4),
        include in proptest::collection::vec("(\\*\\*/)?[ab*]{1,2}(\\.[tm*])?", 0..3),
    ) {
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let context = Context::new(&files);
        let filter = Filter { include, exclude, follow: Vec::new() };
        let from = || Root::open(context.from.path()).expect("opens");
        let to = || Root::open(context.to.path()).expect("opens");
        sync_into(&from(), &filter, &to(), &SyncOptions::default()).expect("syncs");
        let again = sync_into(&from(), &filter, &to(), &SyncOptions::default()).expect("syncs");
        proptest::prop_assert_eq!((again.written, again.removed), (0, 0));

        let whole = |hasher: ContentHasher| {
            hasher.checksum("/", &ChecksumOptions::default()).expect("hashes")
        };
        let options = HashOptions::default;
        let place = ContentHasher::local(from(), &filter, options()).expect("hashes");
        let copied = ContentHasher::local_copy(to(), options()).expect("hashes");
        let want = whole(place);
        proptest::prop_assert_eq!(whole(copied), want);

        let result = tempfile::tempdir().expect("a directory");
        let root = || Root::open(result.path()).expect("opens");
        let visible = Visible::of(&walk::entries(&from(), &filter).expect("walks"));
        let options_of_copy = CopyOptions { contents: true, ..CopyOptions::default() };
        copy_seeing(&from(), b"/", &root(), b"/", &options_of_copy, Some(&visible)).expect("copies");
        proptest::prop_assert_eq!(whole(ContentHasher::local_copy(root(), options()).expect("hashes")), want);
    }
}
