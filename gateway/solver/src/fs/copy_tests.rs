//! Each rule of the copier, on real trees.

use super::*;
use crate::fs::meta::XattrsOf;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// A source and a destination root.
struct Roots {
    from: tempfile::TempDir,
    to: tempfile::TempDir,
}

impl Roots {
    /// `path` is a file with its own path as content, `path/` a directory, `a->b` a link.
    fn new(from: &[&str], to: &[&str]) -> Self {
        let roots = Self {
            from: tempfile::tempdir().expect("a directory"),
            to: tempfile::tempdir().expect("a directory"),
        };
        make(roots.from.path(), from);
        make(roots.to.path(), to);
        roots
    }

    fn copy(
        &self,
        source: &str,
        dest: &str,
        options: &CopyOptions<'_>,
    ) -> Result<CopyStats, String> {
        let from = Root::open(self.from.path()).expect("opens");
        let to = Root::open(self.to.path()).expect("opens");
        copy(&from, source.as_bytes(), &to, dest.as_bytes(), options).map_err(|e| e.to_string())
    }

    fn to(&self, path: &str) -> std::path::PathBuf {
        self.to.path().join(path)
    }

    fn mode(&self, path: &str) -> u32 {
        std::fs::symlink_metadata(self.to(path)).expect(path).mode() & 0o7777
    }

    fn mtime(&self, path: &str) -> i64 {
        std::fs::symlink_metadata(self.to(path))
            .expect(path)
            .mtime()
    }

    /// All paths below the destination.
    fn list(&self) -> Vec<String> {
        let mut out = Vec::new();
        list(self.to.path(), "", &mut out);
        out
    }
}

fn make(root: &Path, paths: &[&str]) {
    for path in paths {
        if let Some((link, target)) = path.split_once("->") {
            symlink(target, root.join(link)).expect("linked");
            continue;
        }
        if path.ends_with('/') {
            std::fs::create_dir_all(root.join(path)).expect("made");
            continue;
        }
        let file = root.join(path);
        std::fs::create_dir_all(file.parent().expect("has one")).expect("made");
        std::fs::write(file, path).expect("written");
    }
    for path in paths.iter().filter(|p| !p.contains("->")) {
        set_time(&root.join(path), 1_600_000_000);
    }
}

fn set_time(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let file = std::fs::File::open(path).expect("opens");
    file.set_modified(time).expect("set");
}

fn list(dir: &Path, prefix: &str, out: &mut Vec<String>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .expect("reads")
        .map(|e| e.expect("an entry"))
        .collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("a type").is_dir() {
            out.push(format!("{name}/"));
            list(&entry.path(), &format!("{name}/"), out);
        } else {
            out.push(name);
        }
    }
}

/// Whether files can be given to others here: as root, with more than one id.
fn can_give_away() -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::chown(dir.path(), Some(7), Some(8)).is_ok()
}

/// As the Dockerfile's COPY asks.
fn dockerfile() -> CopyOptions<'static> {
    CopyOptions {
        follow: true,
        contents: true,
        ..CopyOptions::default()
    }
}

#[test]
fn a_file_takes_the_destination_s_name_or_goes_into_a_directory() {
    let roots = Roots::new(&["a.txt"], &["d/"]);
    for dest in ["/", "/renamed", "/new/", "/deep/er/x", "/d"] {
        roots.copy("/a.txt", dest, &dockerfile()).expect(dest);
    }
    let want = [
        "a.txt",
        "d/",
        "d/a.txt",
        "deep/",
        "deep/er/",
        "deep/er/x",
        "new/",
        "new/a.txt",
        "renamed",
    ];
    assert_eq!(roots.list(), want);
    assert_eq!(roots.mtime("d/a.txt"), 1_600_000_000);
}

#[test]
fn a_directory_means_its_contents_or_itself() {
    let roots = Roots::new(&["dir/b.txt", "dir/sub/c.txt"], &["there/"]);
    roots.copy("/dir", "/d1", &dockerfile()).expect("copied");
    roots
        .copy("/dir", "/there", &CopyOptions::default())
        .expect("copied");
    roots
        .copy("/dir", "/d2", &CopyOptions::default())
        .expect("copied");
    let want = [
        "d1/",
        "d1/b.txt",
        "d1/sub/",
        "d1/sub/c.txt",
        "d2/",
        "d2/b.txt",
        "d2/sub/",
        "d2/sub/c.txt",
        "there/",
        "there/dir/",
        "there/dir/b.txt",
        "there/dir/sub/",
        "there/dir/sub/c.txt",
    ];
    assert_eq!(roots.list(), want);
}

#[test]
fn the_new_top_directory_has_a_mode_of_its_own() {
    let roots = Roots::new(&["dir/sub/f"], &["kept/sub/"]);
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(roots.from.path().join("dir"), private.clone()).expect("set");
    std::fs::set_permissions(roots.from.path().join("dir/sub"), private).expect("set");
    let shared = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(roots.to("kept"), shared).expect("set");
    roots.copy("/dir", "/new", &dockerfile()).expect("copied");
    roots.copy("/dir", "/kept", &dockerfile()).expect("copied");
    assert_eq!((roots.mode("new"), roots.mode("new/sub")), (0o755, 0o700));
    assert_eq!((roots.mode("kept"), roots.mode("kept/sub")), (0o711, 0o700));
    assert_eq!(
        roots.mtime("kept"),
        roots
            .from
            .path()
            .join("dir")
            .metadata()
            .expect("stat")
            .mtime()
    );
}

#[test]
fn links_are_kept_but_a_source_that_is_a_link_is_followed() {
    let roots = Roots::new(
        &[
            "a.txt",
            "link->a.txt",
            "dir/f",
            "dir/l->f",
            "dir/abs->/etc/passwd",
            "dlink->dir",
        ],
        &[],
    );
    roots.copy("/dir", "/dir", &dockerfile()).expect("copied");
    roots
        .copy("/link", "/as-file", &dockerfile())
        .expect("copied");
    roots
        .copy("/dlink", "/as-dir", &dockerfile())
        .expect("copied");
    roots
        .copy("/link", "/as-link", &CopyOptions::default())
        .expect("copied");
    let target = |path: &str| std::fs::read_link(roots.to(path)).ok();
    assert_eq!(target("dir/abs"), Some("/etc/passwd".into()));
    assert_eq!(target("as-dir/l"), Some("f".into()));
    assert_eq!(target("as-link"), Some("a.txt".into()));
    assert_eq!(target("as-file"), None);
    assert_eq!(std::fs::read(roots.to("as-file")).expect("reads"), b"a.txt");
}

#[test]
fn a_destination_goes_through_links_of_the_image_and_never_leaves_it() {
    let roots = Roots::new(
        &["a.txt"],
        &["real/", "linked->real", "abs->/real", "out->../../../.."],
    );
    roots
        .copy("/a.txt", "/linked/one", &dockerfile())
        .expect("copied");
    roots
        .copy("/a.txt", "/abs/", &dockerfile())
        .expect("copied");
    roots
        .copy("/a.txt", "/out/two", &dockerfile())
        .expect("copied");
    let want = [
        "abs",
        "linked",
        "out",
        "real/",
        "real/a.txt",
        "real/one",
        "two",
    ];
    assert_eq!(roots.list(), want);
}

#[test]
fn what_is_in_the_way_is_replaced_or_named() {
    let roots = Roots::new(
        &["f", "dir/x/y", "dir2/x"],
        &["f", "lnk->f", "x/", "a/x", "b/x/keep"],
    );
    roots
        .copy("/f", "/lnk", &dockerfile())
        .expect("follows the link to a file");
    assert!(std::fs::read_link(roots.to("lnk")).is_ok());
    let error = roots
        .copy("/dir", "/a", &dockerfile())
        .expect_err("a file in the way");
    assert_eq!(error, "cannot copy to non-directory: /a/x");
    let error = roots
        .copy("/dir2", "/b", &dockerfile())
        .expect_err("a directory in the way");
    assert_eq!(error, "cannot replace to directory /b/x with file");
    let replace = CopyOptions {
        replace: true,
        ..dockerfile()
    };
    roots.copy("/dir", "/a", &replace).expect("replaced");
    roots.copy("/dir2", "/b", &replace).expect("replaced");
    assert!(roots.to("a/x/y").is_file());
    assert!(roots.to("b/x").is_file());
}

#[test]
fn directories_merge() {
    let roots = Roots::new(&["dir/f", "dir/keep/n"], &["d/f", "d/keep/s"]);
    roots.copy("/dir", "/d", &dockerfile()).expect("copied");
    assert_eq!(
        roots.list(),
        ["d/", "d/f", "d/keep/", "d/keep/n", "d/keep/s"]
    );
    assert_eq!(std::fs::read(roots.to("d/f")).expect("reads"), b"dir/f");
}

#[test]
fn a_missing_source_is_named_by_its_path_in_the_root() {
    let roots = Roots::new(&[], &[]);
    let error = roots
        .copy("/nofile", "/x", &dockerfile())
        .expect_err("missing");
    assert_eq!(error, "lstat /nofile: no such file or directory");
}

#[test]
fn modes_times_and_owners_can_be_given() {
    let roots = Roots::new(&["dir/f", "dir/sub/x"], &[]);
    let options = CopyOptions {
        mode: Some(0o4711),
        time: Some(0),
        owner: can_give_away().then_some(Owner { uid: 7, gid: 8 }),
        ..dockerfile()
    };
    roots.copy("/dir", "/a/b/", &options).expect("copied");
    assert_eq!(roots.mode("a"), 0o711, "implied parents get the plain bits");
    for path in ["a/b/f", "a/b/sub", "a/b/sub/x"] {
        assert_eq!(roots.mode(path), 0o4711, "{path}");
    }
    for path in ["a", "a/b", "a/b/f", "a/b/sub", "a/b/sub/x"] {
        assert_eq!(roots.mtime(path), 0, "{path}");
        if options.owner.is_some() {
            let meta = std::fs::metadata(roots.to(path)).expect(path);
            assert_eq!((meta.uid(), meta.gid()), (7, 8), "{path}");
        }
    }
    let options = CopyOptions {
        mode_change: Some(ModeChange::parse("u=rwX,go=").expect("a mode")),
        mode: Some(0o777),
        ..dockerfile()
    };
    roots.copy("/dir", "/c", &options).expect("copied");
    assert_eq!((roots.mode("c/f"), roots.mode("c/sub")), (0o600, 0o700));
}

#[test]
fn hard_links_stay_links_within_one_copy() {
    let roots = Roots::new(&["dir/a", "dir/sub/"], &[]);
    std::fs::hard_link(
        roots.from.path().join("dir/a"),
        roots.from.path().join("dir/sub/b"),
    )
    .expect("linked");
    roots.copy("/dir", "/d", &dockerfile()).expect("copied");
    let ino = |path: &str| std::fs::metadata(roots.to(path)).expect(path).ino();
    assert_eq!(ino("d/a"), ino("d/sub/b"));
}

#[test]
fn patterns_choose_and_make_only_the_directories_they_need() {
    let roots = Roots::new(
        &[
            "x/a.txt",
            "y/deep/b.txt",
            "y/deep/c.md",
            "z/c.md",
            "y/other/q.md",
        ],
        &[],
    );
    let include = ["**/*.txt".to_owned()];
    let options = CopyOptions {
        include: &include,
        ..dockerfile()
    };
    roots.copy("/", "/r/", &options).expect("copied");
    assert_eq!(
        roots.list(),
        [
            "r/",
            "r/x/",
            "r/x/a.txt",
            "r/y/",
            "r/y/deep/",
            "r/y/deep/b.txt"
        ]
    );
}

#[test]
fn excluded_files_are_left_out_and_can_be_taken_back() {
    let roots = Roots::new(
        &[
            "dir/a.txt",
            "dir/a.md",
            "dir/sub/secret.txt",
            "dir/sub/keep.txt",
            "dir/off/x",
            "dir/off/on",
        ],
        &[],
    );
    let exclude = ["*.md", "sub/secret.txt", "off", "!off/on"].map(str::to_owned);
    let options = CopyOptions {
        exclude: &exclude,
        ..dockerfile()
    };
    roots.copy("/dir", "/d", &options).expect("copied");
    assert_eq!(
        roots.list(),
        [
            "d/",
            "d/a.txt",
            "d/off/",
            "d/off/on",
            "d/sub/",
            "d/sub/keep.txt"
        ]
    );
    let bad = ["a[".to_owned()];
    let options = CopyOptions {
        exclude: &bad,
        ..dockerfile()
    };
    let error = roots
        .copy("/dir", "/e", &options)
        .expect_err("a bad pattern");
    assert_eq!(
        error,
        "invalid excludepatterns: [a[]: syntax error in pattern"
    );
}

#[test]
fn pipes_and_sockets_do_not_hang_a_copy() {
    let roots = Roots::new(&["dir/f"], &[]);
    let root = Root::open(roots.from.path()).expect("opens");
    for (name, kind) in [("dir/pipe", FileType::Fifo), ("dir/sock", FileType::Socket)] {
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(root.fd(), name, kind, mode, 0).expect("made");
    }
    let stats = roots.copy("/dir", "/d", &dockerfile()).expect("copied");
    assert_eq!(stats, CopyStats { files: 3, bytes: 5 });
    let kind = |path: &str| {
        FileType::from_raw_mode(
            std::fs::symlink_metadata(roots.to(path))
                .expect(path)
                .mode(),
        )
    };
    assert_eq!(
        (kind("d/pipe"), kind("d/sock")),
        (FileType::Fifo, FileType::RegularFile)
    );
}

#[test]
fn extended_attributes_are_kept() {
    let roots = Roots::new(&["dir/f"], &[]);
    let source = roots.from.path().join("dir/f");
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&source, "user.note", b"kept", flags).is_err() {
        return;
    }
    roots.copy("/dir", "/d", &dockerfile()).expect("copied");
    let copied = XattrsOf::Path(&roots.to("d/f")).read().expect("reads");
    assert_eq!(copied.get(b"user.note".as_slice()), Some(&b"kept".to_vec()));
}

#[test]
fn a_copy_stops_when_asked() {
    let roots = Roots::new(&["dir/f"], &[]);
    let cancel = AtomicBool::new(true);
    let options = CopyOptions {
        cancel: Some(&cancel),
        ..dockerfile()
    };
    let error = roots.copy("/dir", "/d", &options).expect_err("cancelled");
    assert_eq!(error, "context canceled");
}

#[test]
fn a_source_that_changed_since_it_was_hashed_is_refused_by_name() {
    use crate::fs::hash::{ChecksumOptions, ContentHasher, HashOptions};
    use crate::fs::walk::Filter;
    let from = tempfile::tempdir().expect("a directory");
    let path = from.path().join("f");
    let root = || Root::open(from.path()).expect("opens");
    let copied = |visible: &Visible| {
        let to = tempfile::tempdir().expect("a directory");
        let to = Root::open(to.path()).expect("opens");
        let options = CopyOptions {
            contents: true,
            ..CopyOptions::default()
        };
        copy_seeing(&root(), b"/", &to, b"/", &options, Some(visible))
            .map(|stats| stats.files)
            .map_err(|error| (error.is_changed(), error.to_string()))
    };
    let refused = |visible: &Visible| {
        let (changed, text) = copied(visible).expect_err("changed");
        assert!(changed, "{text}");
        text
    };
    let walked = || {
        std::fs::write(&path, "as hashed").expect("written");
        let hasher = ContentHasher::local(root(), &Filter::default(), HashOptions::default());
        let hasher = hasher.expect("walks");
        hasher
            .checksum("/", &ChecksumOptions::default())
            .expect("hashes");
        hasher.visible()
    };
    assert_eq!(copied(&walked()), Ok(1));

    let visible = walked();
    std::thread::sleep(std::time::Duration::from_millis(20));
    std::fs::write(&path, "as edited").expect("written");
    assert_eq!(refused(&visible), "/f changed while it was read");

    // Of what is gone the directory tells.
    let visible = walked();
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(refused(&visible), "/ changed while it was read");

    // Written again in the same tick: the stat is the same, the content is not.
    std::fs::write(&path, "as edited").expect("written");
    let entries = crate::fs::walk::entries(&root(), &Filter::default()).expect("walks");
    let other = std::sync::Arc::new(|_: &[u8]| {
        Some(crate::fs::hash::ContentDigest::of(b"of the content before"))
    });
    let young = entries[0].meta.ctime;
    let settled = crate::fs::walk::settled_at(young, entries[0].meta.mtime);
    let visible = Visible::of(&entries).unchanged_since(young, other.clone());
    assert_eq!(refused(&visible), "/f changed while it was read");
    let visible = Visible::of(&entries).unchanged_since(settled, other);
    assert_eq!(copied(&visible), Ok(1));
}
