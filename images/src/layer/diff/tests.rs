use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::layer::entry::TarReader;
use rustix::fs::{CWD, Mode, Timespec, Timestamps, XattrFlags};

struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Tree(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn dir(&self, name: &str) -> &Self {
        fs::create_dir_all(self.path(name)).unwrap();
        self.mode(name, 0o755)
    }
    fn mode(&self, name: &str, mode: u32) -> &Self {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        self
    }
    fn file(&self, name: &str, text: &str) -> &Self {
        fs::write(self.path(name), text).unwrap();
        self.mode(name, 0o644).time(name, 1000, 0)
    }
    fn time(&self, name: &str, tv_sec: i64, tv_nsec: i64) -> &Self {
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, self.path(name), &times, nofollow).unwrap();
        self
    }
    fn link(&self, old: &str, new: &str) -> &Self {
        fs::hard_link(self.path(old), self.path(new)).unwrap();
        self
    }
    fn whiteout(&self, name: &str) -> &Self {
        let device = FileType::CharacterDevice;
        rustix::fs::mknodat(CWD, self.path(name), device, Mode::empty(), 0).unwrap();
        self
    }
    fn opaque(&self, name: &str) -> &Self {
        let flags = XattrFlags::empty();
        // `user` where the test runs without privileges.
        rustix::fs::setxattr(self.path(name), "trusted.overlay.opaque", b"y", flags)
            .or_else(|_| rustix::fs::setxattr(self.path(name), "user.overlay.opaque", b"y", flags))
            .unwrap();
        self
    }
    fn parent(&self) -> Vec<PathBuf> {
        vec![self.0.path().to_owned()]
    }
    fn diff(&self, parents: &[PathBuf]) -> Vec<String> {
        let mut out = Vec::new();
        let report = diff(self.0.path(), parents, &DiffOptions::default(), &mut out).unwrap();
        assert_eq!(report.size, out.len() as u64);
        let mut tar = TarReader::new(&out[..]);
        let mut names = Vec::new();
        while let Some(entry) = tar.next_entry().unwrap() {
            let mut text = String::from_utf8(entry.name).unwrap();
            if !entry.link.is_empty() {
                text += &format!(" -> {}", String::from_utf8(entry.link).unwrap());
            }
            names.push(text);
        }
        assert_eq!(report.entries, names.len() as u64);
        names
    }
}

#[test]
fn a_tree_without_parents_is_written_in_walk_order() {
    let tree = Tree::new();
    tree.dir("b").dir("a/c").file("a/c/x", "1").file("a-b", "2");
    symlink("../x", tree.path("a/s")).unwrap();
    assert_eq!(
        tree.diff(&[]),
        ["a/", "a/c/", "a/c/x", "a/s -> ../x", "a-b", "b/"]
    );
}

#[test]
fn an_empty_directory_gives_the_empty_tar() {
    let tree = Tree::new();
    let mut out = Vec::new();
    let report = diff(tree.0.path(), &[], &DiffOptions::default(), &mut out).unwrap();
    assert_eq!(out, [0; 1024]);
    assert_eq!(report.entries, 0);
    // The well-known diffID of an empty layer.
    assert_eq!(
        crate::digest::Digest::of(&out).to_string(),
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    );
}

#[test]
fn what_was_copied_up_without_a_change_is_left_out() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.dir("d").file("d/same", "abc").file("d/other", "abc");
    upper.dir("d").file("d/same", "abc");
    assert!(upper.diff(&lower.parent()).is_empty());
    // An equal second says nothing about contents.
    upper.file("d/other", "abd");
    assert_eq!(upper.diff(&lower.parent()), ["d/", "d/other"]);
    upper.file("d/other", "abc").mode("d", 0o700);
    assert_eq!(upper.diff(&lower.parent()), ["d/"]);
}

#[test]
fn equal_times_with_nanoseconds_mean_equal_contents() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.file("f", "abc").time("f", 1000, 5);
    upper.file("f", "abd").time("f", 1000, 5);
    assert!(upper.diff(&lower.parent()).is_empty());
    upper.time("f", 1000, 6);
    assert_eq!(upper.diff(&lower.parent()), ["f"]);
}

#[test]
fn removals_are_written_only_where_something_was() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.dir("d").file("d/gone", "1");
    upper.dir("d").whiteout("d/gone").whiteout("d/never");
    assert_eq!(upper.diff(&lower.parent()), ["d/", "d/.wh.gone"]);
    assert!(upper.diff(&[]).contains(&"d/".to_owned()));

    let top = Tree::new();
    top.dir("d").whiteout("d/gone");
    let parents = [top.parent(), lower.parent()].concat();
    assert!(upper.diff(&parents).is_empty());
}

#[test]
fn a_whiteout_has_no_mode_owner_or_time() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.file("gone", "1");
    upper.whiteout("gone");
    let mut out = Vec::new();
    diff(
        upper.0.path(),
        &lower.parent(),
        &DiffOptions::default(),
        &mut out,
    )
    .unwrap();
    let entry = TarReader::new(&out[..]).next_entry().unwrap().unwrap();
    assert_eq!(
        (entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime),
        (Kind::File, 0, 0, 0, (0, 0))
    );
}

#[test]
fn an_opaque_directory_becomes_one_removal_a_name() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower
        .dir("d/sub/deep")
        .file("d/sub/f", "1")
        .file("d/kept", "1")
        .file("d/gone", "1")
        .dir("d/zdir")
        .file("d/zdir/x", "1");
    upper
        .dir("d")
        .opaque("d")
        .file("d/kept", "2")
        .dir("d/sub")
        .file("d/new", "3");
    assert_eq!(
        upper.diff(&lower.parent()),
        [
            "d/",
            "d/.wh.gone",
            "d/kept",
            "d/new",
            "d/sub/",
            "d/sub/.wh.deep",
            "d/sub/.wh.f",
            "d/.wh.zdir"
        ]
    );
    // Opaque above nothing means nothing.
    assert_eq!(upper.diff(&[]), ["d/", "d/kept", "d/new", "d/sub/"]);
}

#[test]
fn lower_layers_are_seen_merged() {
    let (bottom, middle, upper) = (Tree::new(), Tree::new(), Tree::new());
    bottom
        .dir("d")
        .file("d/a", "1")
        .dir("e")
        .file("e/hidden", "1");
    middle
        .dir("d")
        .file("d/b", "1")
        .dir("e")
        .opaque("e")
        .file("e/c", "1");
    let parents = [middle.parent(), bottom.parent()].concat();
    upper.dir("d").whiteout("d/a").whiteout("d/b");
    upper.dir("e").whiteout("e/hidden").whiteout("e/c");
    assert_eq!(
        upper.diff(&parents),
        ["d/", "d/.wh.a", "d/.wh.b", "e/", "e/.wh.c"]
    );
}

#[test]
fn further_names_of_a_file_are_links_to_the_first() {
    let tree = Tree::new();
    tree.dir("z").file("b", "1").link("b", "z/c").link("b", "a");
    assert_eq!(tree.diff(&[]), ["a", "b -> a", "z/", "z/c -> a"]);
}

#[test]
fn a_file_takes_its_unchanged_names_along_in_an_opaque_directory() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.dir("d").file("d/a", "1");
    upper
        .dir("d")
        .opaque("d")
        .file("d/a", "1")
        .link("d/a", "d/b");
    assert_eq!(
        upper.diff(&lower.parent()),
        ["d/b", "d/a -> d/b"].map(|s| s.to_owned()).iter().fold(
            vec!["d/".to_owned()],
            |mut all, s| {
                all.push(s.clone());
                all
            }
        )
    );
}

#[test]
fn times_are_cut_to_seconds_and_clamped_when_asked() {
    let tree = Tree::new();
    tree.file("old", "").time("old", 500, 999_999_999);
    tree.file("young", "").time("young", 5000, 1);
    let times = |latest_mtime| {
        let mut out = Vec::new();
        diff(tree.0.path(), &[], &DiffOptions { latest_mtime }, &mut out).unwrap();
        let mut tar = TarReader::new(&out[..]);
        let mut times = Vec::new();
        while let Some(entry) = tar.next_entry().unwrap() {
            times.push(entry.mtime);
        }
        times
    };
    assert_eq!(times(None), [(500, 0), (5000, 0)]);
    assert_eq!(times(Some(1000)), [(500, 0), (1000, 0)]);
}

#[test]
fn sockets_are_left_out_and_pipes_are_not() {
    let tree = Tree::new();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("s")).unwrap();
    rustix::fs::mknodat(
        CWD,
        tree.path("p"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(tree.diff(&[]), ["p"]);
}

#[test]
fn a_redirect_is_refused() {
    let tree = Tree::new();
    tree.dir("d");
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(tree.path("d"), "user.overlay.redirect", b"/x", flags).unwrap();
    let result = diff(tree.0.path(), &[], &DiffOptions::default(), io::sink());
    assert!(matches!(result, Err(DiffError::Redirect(_))));
}

#[test]
fn a_file_without_data_of_its_own_is_refused() {
    let tree = Tree::new();
    File::create(tree.path("f")).unwrap().set_len(10).unwrap();
    assert_eq!(tree.diff(&[]), ["f"]);
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(tree.path("f"), "user.overlay.metacopy", b"", flags).unwrap();
    let result = diff(tree.0.path(), &[], &DiffOptions::default(), io::sink());
    // Where attributes take a block of their own the file does not look empty.
    if fs::metadata(tree.path("f")).is_ok_and(|m| std::os::unix::fs::MetadataExt::blocks(&m) == 0) {
        assert!(matches!(result, Err(DiffError::Metacopy(_))));
    }
}
