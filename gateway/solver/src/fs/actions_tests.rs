//! Every action, on real trees, with the texts that users know.

use super::*;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

struct Case {
    target: tempfile::TempDir,
    source: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        Self {
            target: tempfile::tempdir().expect("a directory"),
            source: tempfile::tempdir().expect("a directory"),
        }
    }

    fn apply(&self, action: Action) -> Result<CopyStats, String> {
        let target = Root::open(self.target.path()).expect("opens");
        let source = Root::open(self.source.path()).expect("opens");
        let inputs = ActionInputs {
            target: &target,
            source: Some(&source),
            users: Some(&target),
            groups: Some(&target),
            cancel: None,
        };
        let action = pb::FileAction {
            action: Some(action),
            ..pb::FileAction::default()
        };
        apply(&action, &inputs).map_err(|error| error.to_string())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.target.path().join(path)
    }

    fn mode(&self, path: &str) -> u32 {
        self.path(path).metadata().expect(path).mode() & 0o7777
    }
}

fn mkfile(path: &str, mode: i32) -> Action {
    Action::Mkfile(pb::FileActionMkFile {
        path: path.into(),
        mode,
        data: path.into(),
        timestamp: -1,
        ..pb::FileActionMkFile::default()
    })
}

fn mkdir(path: &str, make_parents: bool) -> Action {
    Action::Mkdir(pb::FileActionMkDir {
        path: path.into(),
        mode: 0o700,
        make_parents,
        timestamp: -1,
        ..pb::FileActionMkDir::default()
    })
}

fn rm(path: &str, allow_not_found: bool, allow_wildcard: bool) -> Action {
    Action::Rm(pb::FileActionRm {
        path: path.into(),
        allow_not_found,
        allow_wildcard,
    })
}

/// As the Dockerfile's ADD and COPY ask.
fn copy_of(src: &str, dest: &str) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: src.into(),
        dest: dest.into(),
        mode: -1,
        timestamp: -1,
        follow_symlink: true,
        dir_copy_contents: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..pb::FileActionCopy::default()
    }
}

#[test]
fn a_file_is_written_anew_but_keeps_the_mode_it_had() {
    let case = Case::new();
    case.apply(mkfile("/f", 0o640)).expect("made");
    assert_eq!(case.mode("f"), 0o640);
    case.apply(mkfile("/f", 0o777)).expect("written");
    assert_eq!(case.mode("f"), 0o640);
    symlink("/f", case.path("link")).expect("linked");
    case.apply(mkfile("/link", 0o600)).expect("written");
    assert_eq!(std::fs::read(case.path("f")).expect("reads"), b"/link");
    let error = case.apply(mkfile("/no/f", 0o600)).expect_err("no parent");
    assert_eq!(error, "open /no/f: no such file or directory");
}

#[test]
fn a_time_of_zero_is_the_epoch() {
    let case = Case::new();
    case.apply(Action::Mkfile(pb::FileActionMkFile {
        path: "f".into(),
        mode: 0o644,
        ..pb::FileActionMkFile::default()
    }))
    .expect("made");
    assert_eq!(case.path("f").metadata().expect("exists").mtime(), 0);
}

#[test]
fn directories_are_made_with_or_without_parents() {
    let case = Case::new();
    let error = case.apply(mkdir("/q/w/e", false)).expect_err("no parent");
    assert_eq!(error, "mkdir /q/w/e: no such file or directory");
    case.apply(mkdir("/q/w/e", true)).expect("made");
    assert_eq!((case.mode("q"), case.mode("q/w/e")), (0o700, 0o700));
    case.apply(mkdir("/q/w/e", false)).expect("nothing to do");
    case.apply(mkdir("/", true)).expect("nothing to do");
}

#[test]
fn a_link_never_replaces() {
    let case = Case::new();
    let link = || {
        Action::Symlink(pb::FileActionSymlink {
            oldpath: "target".into(),
            newpath: "/l".into(),
            timestamp: 0,
            ..pb::FileActionSymlink::default()
        })
    };
    case.apply(link()).expect("made");
    let meta = case.path("l").symlink_metadata().expect("exists");
    assert_eq!(meta.mtime(), 0);
    case.apply(mkfile("/target", 0o600)).expect("made");
    let error = case.apply(link()).expect_err("it exists");
    assert_eq!(error, "symlink target /target: file exists");
}

#[test]
fn removing_names_what_is_not_there() {
    let case = Case::new();
    case.apply(mkdir("/d/sub", true)).expect("made");
    case.apply(mkfile("/a.txt", 0o600)).expect("made");
    case.apply(mkfile("/b.txt", 0o600)).expect("made");
    symlink("/d", case.path("link")).expect("linked");
    case.apply(rm("/link", false, false))
        .expect("the link itself");
    assert!(case.path("d/sub").exists());
    case.apply(rm("/d", false, false)).expect("removed");
    case.apply(rm("/*.txt", false, true)).expect("removed");
    case.apply(rm("/*.txt", false, true))
        .expect("nothing matches");
    case.apply(rm("/nosuch", true, false)).expect("allowed");
    let error = case
        .apply(rm("/nosuch", false, false))
        .expect_err("missing");
    assert_eq!(error, "stat /nosuch: no such file or directory");
    let error = case.apply(rm("/", true, false)).expect_err("the root");
    assert_eq!(error, "rmPath: invalid empty path");
    assert_eq!(
        std::fs::read_dir(case.target.path())
            .expect("reads")
            .count(),
        0
    );
}

#[test]
fn copies_expand_wildcards_and_say_when_nothing_matches() {
    let case = Case::new();
    for name in ["a.txt", "b.txt", "c.log"] {
        std::fs::write(case.source.path().join(name), name).expect("written");
    }
    case.apply(Action::Copy(copy_of("/*.txt", "/t/")))
        .expect("copied");
    assert!(case.path("t/a.txt").exists() && case.path("t/b.txt").exists());
    case.apply(Action::Copy(copy_of("/*.none", "/none/")))
        .expect("nothing");
    assert!(!case.path("none").exists());
    let strict = pb::FileActionCopy {
        allow_empty_wildcard: false,
        ..copy_of("/*.none", "/")
    };
    let error = case.apply(Action::Copy(strict)).expect_err("no match");
    assert_eq!(error, "/*.none not found");
    let strict = pb::FileActionCopy {
        create_dest_path: false,
        ..copy_of("/a.txt", "/no/where")
    };
    let error = case.apply(Action::Copy(strict)).expect_err("no parent");
    assert_eq!(
        error,
        "failed to stat /no/where: lstat /no: no such file or directory"
    );
}

#[test]
fn a_symbolic_mode_wins_and_spares_implied_directories() {
    let case = Case::new();
    std::fs::write(case.source.path().join("f"), "").expect("written");
    let action = pb::FileActionCopy {
        mode: 0o777,
        mode_str: "u=rwX,go=".into(),
        ..copy_of("/f", "/new/f")
    };
    case.apply(Action::Copy(action)).expect("copied");
    assert_eq!((case.mode("new"), case.mode("new/f")), (0o755, 0o600));
    let action = pb::FileActionCopy {
        mode_str: "nonsense".into(),
        ..copy_of("/f", "/g")
    };
    let error = case.apply(Action::Copy(action)).expect_err("no mode");
    assert_eq!(error, "invalid syntax");
}

/// An archive with a directory, a file, both kinds of links and a name outside.
fn archive(evil: bool) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        let name = header.as_old_mut();
        name.name[..path.len()].copy_from_slice(path.as_bytes());
        name.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o750);
        // Ids that the tests may give, whoever runs them.
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_mtime(1_500_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).expect("appended");
    };
    add("d/", tar::EntryType::Directory, "", b"");
    add("d/f", tar::EntryType::Regular, "", b"data");
    add("implied/hard", tar::EntryType::Link, "d/f", b"");
    add("up", tar::EntryType::Symlink, "../../etc", b"");
    add("up/inside", tar::EntryType::Regular, "", b"x");
    if evil {
        add("../outside", tar::EntryType::Regular, "", b"x");
    }
    builder.into_inner().expect("finished")
}

#[test]
fn archives_are_unpacked_by_what_is_in_them() {
    use std::io::Write;
    let plain = archive(false);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("compressed");
    let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip.write_all(&plain).expect("compressed");
    let files = [
        ("plain", plain.clone()),
        ("gzip", gzip.finish().expect("finished")),
        ("bzip", bzip.finish().expect("finished")),
        (
            "zstd",
            zstd::encode_all(plain.as_slice(), 1).expect("compressed"),
        ),
    ];
    let case = Case::new();
    for (name, bytes) in files {
        std::fs::write(case.source.path().join(name), bytes).expect("written");
        let action = pb::FileActionCopy {
            attempt_unpack_docker_compatibility: true,
            ..copy_of(&format!("/{name}"), &format!("/{name}.d"))
        };
        case.apply(Action::Copy(action)).expect(name);
        let at = |path: &str| case.path(&format!("{name}.d/{path}"));
        assert_eq!(std::fs::read(at("d/f")).expect("reads"), b"data", "{name}");
        let meta = at("d").metadata().expect("exists");
        assert_eq!((meta.mode() & 0o777, meta.mtime()), (0o750, 1_500_000_000));
        let ino = |path: &str| at(path).metadata().expect("exists").ino();
        assert_eq!(ino("d/f"), ino("implied/hard"), "{name}");
        assert!(at("etc/inside").exists(), "{name}: links stay inside");
    }
}

#[test]
fn what_is_no_archive_is_copied() {
    let case = Case::new();
    for (name, bytes) in [
        ("text", b"hello".to_vec()),
        ("empty", Vec::new()),
        ("zeros", vec![0; 2048]),
    ] {
        std::fs::write(case.source.path().join(name), &bytes).expect("written");
        let action = pb::FileActionCopy {
            attempt_unpack_docker_compatibility: true,
            ..copy_of(&format!("/{name}"), "/out/")
        };
        case.apply(Action::Copy(action)).expect(name);
        assert_eq!(
            std::fs::read(case.path(&format!("out/{name}"))).expect("reads"),
            bytes
        );
    }
}

#[test]
fn an_archive_cannot_write_outside() {
    let case = Case::new();
    std::fs::write(case.source.path().join("evil"), archive(true)).expect("written");
    let action = pb::FileActionCopy {
        attempt_unpack_docker_compatibility: true,
        ..copy_of("/evil", "/in/side")
    };
    let error = case.apply(Action::Copy(action)).expect_err("it tries");
    assert_eq!(error, "\"../outside\" is outside of the destination");
    assert!(!case.path("in/outside").exists());
}

#[test]
fn a_context_in_place_shows_only_what_its_filter_lets_through() {
    let case = Case::new();
    for name in ["a.txt", "secret.txt", "dir/x", "dir/secret.txt"] {
        let path = case.source.path().join(name);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("made");
        std::fs::write(path, name).expect("written");
    }
    std::fs::write(case.source.path().join("secret.tar"), archive(false)).expect("written");
    let source = Root::open(case.source.path()).expect("opens");
    let target = Root::open(case.target.path()).expect("opens");
    let filter = super::super::walk::Filter {
        exclude: vec!["**/secret.*".into()],
        ..Default::default()
    };
    let entries = super::super::walk::entries(&source, &filter).expect("walks");
    let visible = Visible::of(&entries);
    let inputs = ActionInputs {
        target: &target,
        source: Some(&source),
        users: None,
        groups: None,
        cancel: None,
    };
    let apply = |src: &str, dest: &str| {
        let action = pb::FileAction {
            action: Some(Action::Copy(pb::FileActionCopy {
                attempt_unpack_docker_compatibility: true,
                ..copy_of(src, dest)
            })),
            ..pb::FileAction::default()
        };
        apply_seeing(&action, &inputs, Some(&visible)).map_err(|error| error.to_string())
    };
    assert_eq!(apply("/", "/all/").expect("copied").files, 2);
    assert_eq!(apply("/*.txt", "/txt/").expect("copied").files, 1);
    assert!(case.path("all/dir/x").exists() && case.path("txt/a.txt").exists());
    for hidden in ["/secret.txt", "/secret.tar", "/dir/secret.txt"] {
        let error = apply(hidden, "/hidden/").expect_err("not visible");
        assert_eq!(error, format!("lstat {hidden}: no such file or directory"));
    }
}
