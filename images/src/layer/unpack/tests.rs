use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::*;
use crate::layer::header::{END, Header, Kind, padding};
use crate::layer::lower::{get_xattr, is_opaque, is_whiteout, lstat};
use crate::layer::{DiffOptions, diff};

mod attacks;
mod properties;
mod round_trip;

/// Builds a layer tar.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn add(mut self, header: Header, content: &[u8]) -> Self {
        self.0.extend(header.encode());
        self.0.extend_from_slice(content);
        self.0.extend_from_slice(padding(content.len() as u64));
        self
    }
    fn file(self, name: &str, content: &str) -> Self {
        let mut header = Header::new(Kind::File, name);
        header.mode = 0o644;
        header.size = content.len() as u64;
        self.add(header, content.as_bytes())
    }
    fn dir(self, name: &str, mode: u32) -> Self {
        let mut header = Header::new(Kind::Directory, format!("{name}/"));
        header.mode = mode;
        self.add(header, b"")
    }
    fn link(self, kind: Kind, name: &str, target: &str) -> Self {
        let mut header = Header::new(kind, name);
        header.link = target.into();
        header.mode = 0o777;
        self.add(header, b"")
    }
    fn symlink(self, name: &str, target: &str) -> Self {
        self.link(Kind::Symlink, name, target)
    }
    fn hard(self, name: &str, target: &str) -> Self {
        self.link(Kind::HardLink, name, target)
    }
    fn end(mut self) -> Vec<u8> {
        self.0.extend(END);
        self.0
    }
}

struct Unpacked {
    dir: tempfile::TempDir,
    report: UnpackReport,
}

impl Unpacked {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("fs").join(name)
    }
    fn root(&self) -> PathBuf {
        self.dir.path().join("fs")
    }
    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
    fn is_whiteout(&self, name: &str) -> bool {
        is_whiteout(&lstat(&self.path(name)).unwrap().unwrap())
    }
    fn exists(&self, name: &str) -> bool {
        lstat(&self.path(name)).unwrap().is_some()
    }
}

/// Root of the machine, and not of a user namespace.
fn privileged() -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::fsetxattr(&file, "trusted.test", b"1", flags).is_ok()
}

/// Without privileges owners and trusted attributes cannot be set; the rest is tested all the same.
fn options(parents: Option<&[PathBuf]>) -> UnpackOptions<'_> {
    let root = privileged();
    UnpackOptions {
        parents,
        owners: root,
        ..UnpackOptions::default()
    }
}

fn try_unpack(layer: &[u8], parents: Option<&[PathBuf]>) -> Result<Unpacked, UnpackError> {
    let dir = tempfile::tempdir().unwrap();
    let report = unpack(layer, &dir.path().join("fs"), &options(parents))?;
    Ok(Unpacked { dir, report })
}

fn unpacked(layer: Layer) -> Unpacked {
    try_unpack(&layer.end(), Some(&[])).unwrap()
}

fn refused(layer: Layer) -> String {
    let Err(error) = try_unpack(&layer.end(), Some(&[])) else {
        panic!("unpacked what should be refused");
    };
    error.to_string()
}

#[test]
fn names_that_climb_land_inside() {
    let done = unpacked(
        Layer::default()
            .file("../up", "1")
            .file("/../../top", "2")
            .file("a/../../x", "3")
            .file("/etc/abs", "4"),
    );
    for name in ["up", "top", "x", "etc/abs"] {
        assert!(done.exists(name), "{name}");
    }
    assert_eq!(fs::read_dir(done.dir.path()).unwrap().count(), 1);
}

#[test]
fn links_as_parents_are_followed_inside_only() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let done = unpacked(
        Layer::default()
            .symlink("abs", target)
            .file("abs/f", "1")
            .symlink("up", "../../..")
            .file("up/g", "2")
            .dir("real", 0o755)
            .symlink("alias", "real")
            .file("alias/h", "3"),
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(done.text(&format!("{}/f", &target[1..])), "1");
    assert_eq!(done.text("g"), "2");
    assert_eq!(done.text("real/h"), "3");
}

#[test]
fn a_loop_of_links_and_a_file_as_parent_are_errors() {
    let looped = Layer::default()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/f", "");
    assert!(refused(looped).contains("symbolic links"));
    let below_file = Layer::default().file("f", "").file("f/x", "");
    assert!(refused(below_file).contains("Not a directory"));
}

#[test]
fn hard_links_stay_inside_and_do_not_follow_links() {
    let refusal = refused(Layer::default().hard("x", "/etc/passwd"));
    assert!(refusal.contains("does not exist"), "{refusal}");
    refused(Layer::default().hard("x", "../../etc/passwd"));
    let done = unpacked(
        Layer::default()
            .symlink("link", "/etc/passwd")
            .hard("copy", "link")
            .file("f", "1")
            .hard("g", "./f")
            .hard("f", "f"),
    );
    assert_eq!(
        fs::read_link(done.path("copy")).unwrap(),
        Path::new("/etc/passwd")
    );
    let inode = |name| fs::symlink_metadata(done.path(name)).unwrap().ino();
    assert_eq!(inode("f"), inode("g"));
    assert_eq!(done.text("f"), "1");
}

#[test]
fn later_entries_replace_earlier_ones() {
    let done = unpacked(
        Layer::default()
            .file("a", "1")
            .file("a", "22")
            .dir("d", 0o755)
            .file("d/x", "1")
            .file("d", "now a file")
            .symlink("l", "/tmp")
            .dir("l", 0o700)
            .dir("kept", 0o755)
            .file("kept/x", "1")
            .dir("kept", 0o711),
    );
    assert_eq!(done.text("a"), "22");
    assert_eq!(done.text("d"), "now a file");
    assert!(fs::symlink_metadata(done.path("l")).unwrap().is_dir());
    assert_eq!(done.text("kept/x"), "1");
    assert_eq!(
        fs::metadata(done.path("kept")).unwrap().mode() & 0o7777,
        0o711
    );
}

#[test]
fn a_hard_link_that_is_replaced_does_not_change_its_other_name() {
    let done = unpacked(
        Layer::default()
            .file("a", "1")
            .hard("b", "a")
            .file("b", "2"),
    );
    assert_eq!((done.text("a"), done.text("b")), ("1".into(), "2".into()));
}

#[test]
fn removals_become_devices_and_opaque_attributes() {
    let done = unpacked(
        Layer::default()
            .dir("d", 0o755)
            .file("d/.wh.gone", "")
            .file("d/mine", "1")
            .file("d/.wh..wh..opq", "")
            .file("missing/.wh.x", "")
            .file(".wh..wh.aufs", "")
            .file(".wh..wh.plnk/12.34", ""),
    );
    assert!(done.is_whiteout("d/gone"));
    assert!(is_opaque(&done.path("d")).unwrap());
    assert_eq!(done.text("d/mine"), "1");
    assert!(done.is_whiteout("missing/x"));
    assert_eq!(fs::read_dir(done.root()).unwrap().count(), 2);
    assert!(!done.report.opaque_root);
    let root = unpacked(Layer::default().file(".wh..wh..opq", ""));
    assert!(root.report.opaque_root);
}

#[test]
fn a_removal_and_an_entry_of_one_name_apply_in_order() {
    let done = unpacked(
        Layer::default()
            .dir("a", 0o755)
            .file("a/x", "1")
            .file(".wh.a", "")
            .file(".wh.b", "")
            .dir("b", 0o755)
            .file(".wh.c", "")
            .file("c", "1"),
    );
    assert!(done.is_whiteout("a"));
    // What was below `b` was removed, so it must not show through.
    assert!(is_opaque(&done.path("b")).unwrap());
    assert_eq!(done.text("c"), "1");
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", "d/.wh..", ".wh...", ".wh.dir/file"] {
        assert!(
            refused(Layer::default().file(name, "")).contains("invalid whiteout"),
            "{name}"
        );
    }
}

#[test]
fn modes_owners_times_and_attributes_are_kept() {
    if !privileged() {
        return;
    }
    let mut header = Header::new(Kind::File, "f");
    (header.mode, header.uid, header.gid) = (0o6755, 1234, 3_000_000);
    header.mtime = 1_600_000_000;
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (name, value) in [
        ("user.note", &b"a\0b"[..]),
        ("security.capability", &capability),
        ("trusted.overlay.redirect", b"/etc"),
        ("user.overlay.opaque", b"y"),
    ] {
        header.xattrs.insert(name.into(), value.to_vec());
    }
    let mut dir = Header::new(Kind::Directory, "d/");
    (dir.mode, dir.mtime, dir.uid) = (0o1500, 1_500_000_000, 77);
    let mut old = Header::new(Kind::Symlink, "old");
    (old.mtime, old.link, old.gid) = (-5, b"x".to_vec(), 9);
    let done = unpacked(
        Layer::default()
            .add(header, b"")
            .add(dir, b"")
            .file("d/inside", "1")
            .add(old, b""),
    );
    let stat = fs::metadata(done.path("f")).unwrap();
    assert_eq!(
        (stat.mode() & 0o7777, stat.uid(), stat.gid()),
        (0o6755, 1234, 3_000_000)
    );
    assert_eq!(stat.mtime(), 1_600_000_000);
    let xattr = |name| get_xattr(&done.path("f"), name).unwrap();
    assert_eq!(xattr("user.note").unwrap(), b"a\0b");
    assert_eq!(xattr("security.capability").unwrap(), capability);
    assert_eq!(xattr("trusted.overlay.redirect"), None);
    assert_eq!(xattr("user.overlay.opaque"), None);
    assert_eq!(done.report.notes.len(), 2);
    let stat = fs::metadata(done.path("d")).unwrap();
    assert_eq!(
        (stat.mode() & 0o7777, stat.mtime(), stat.uid()),
        (0o1500, 1_500_000_000, 77)
    );
    let stat = fs::symlink_metadata(done.path("old")).unwrap();
    assert_eq!((stat.mtime(), stat.gid()), (0, 9));
}

#[test]
fn devices_are_made_and_a_device_0_0_is_a_removal_with_a_note() {
    let device = |name: &str, kind, device| {
        let mut header = Header::new(kind, name);
        (header.mode, header.device) = (0o620, device);
        header
    };
    let done = unpacked(
        Layer::default()
            .add(device("pipe", Kind::Fifo, (0, 0)), b"")
            .add(device("null", Kind::CharDevice, (1, 3)), b"")
            .add(device("gone", Kind::CharDevice, (0, 0)), b""),
    );
    assert!(
        fs::metadata(done.path("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert!(done.is_whiteout("gone"));
    assert!(done.report.notes.iter().any(|n| n.contains("gone")));
    match fs::metadata(done.path("null")) {
        Ok(stat) => assert_eq!(stat.rdev(), rustix::fs::makedev(1, 3)),
        Err(_) => assert!(done.report.notes.iter().any(|n| n.contains("null"))),
    }
}

#[test]
fn links_into_lower_layers_and_parents_without_header_take_from_the_parents() {
    let bottom = unpacked(
        Layer::default()
            .dir("home", 0o755)
            .dir("home/u", 0o700)
            .file("home/u/f", "below")
            .file("hidden", "x"),
    );
    let middle = unpacked(Layer::default().file(".wh.hidden", ""));
    let parents = [middle.root(), bottom.root()];
    let layer = Layer::default()
        .hard("one", "home/u/f")
        .hard("two", "/home/u/f")
        .file("home/u/new", "1")
        .end();
    assert!(matches!(
        try_unpack(&layer, None),
        Err(UnpackError::NeedsParents { .. })
    ));
    let done = try_unpack(&layer, Some(&parents)).unwrap();
    assert!(done.report.used_parents);
    assert_eq!(done.text("one"), "below");
    let inode = |name| fs::metadata(done.path(name)).unwrap().ino();
    assert_eq!(inode("one"), inode("two"));
    assert_eq!(
        fs::metadata(done.path("home/u")).unwrap().mode() & 0o7777,
        0o700
    );
    let hidden = Layer::default().hard("x", "hidden").end();
    assert!(matches!(
        try_unpack(&hidden, Some(&parents)),
        Err(UnpackError::LinkTarget { .. })
    ));
    let own = Layer::default()
        .dir("d", 0o755)
        .file("d/f", "1")
        .hard("g", "d/f")
        .end();
    assert!(!try_unpack(&own, None).unwrap().report.used_parents);
}

#[test]
fn odd_names_are_taken_literally() {
    let names: [&[u8]; 5] = [b"new\nline", b"back\\slash", b"-dash", b"end ", b"\xff\xfe"];
    let mut layer = Layer::default();
    for name in names {
        layer = layer.add(Header::new(Kind::File, name), b"");
    }
    let done = unpacked(layer);
    for name in names {
        assert!(done.root().join(OsStr::from_bytes(name)).exists());
    }
}

#[test]
fn what_is_over_the_limits_is_refused() {
    let deep = "d/".repeat(MAX_DEPTH) + "f";
    assert!(refused(Layer::default().file(&deep, "")).contains("too long or too deep"));
    let long = "x".repeat(300);
    assert!(refused(Layer::default().file(&long, "")).contains("too long or too deep"));
    let layer = Layer::default()
        .file("a", &"x".repeat(5000))
        .file("b", "")
        .end();
    let limited = |limits| {
        let dir = tempfile::tempdir().unwrap();
        let options = UnpackOptions {
            limits,
            ..options(Some(&[]))
        };
        unpack(&layer[..], &dir.path().join("fs"), &options).unwrap_err()
    };
    let all = Limits::default();
    assert!(matches!(
        limited(Limits { bytes: 4000, ..all }),
        UnpackError::TooManyBytes(4000)
    ));
    assert!(matches!(
        limited(Limits { entries: 1, ..all }),
        UnpackError::TooManyEntries(1)
    ));
}

#[test]
fn a_bomb_stops_at_the_limit() {
    use std::io::Write;
    let mut header = Header::new(Kind::File, "zeros");
    header.size = 4 << 20;
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&header.encode()).unwrap();
    for _ in 0..64 {
        bomb.write_all(&[0; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = UnpackOptions {
        limits: Limits {
            bytes: 4 << 20,
            entries: 10,
        },
        ..options(Some(&[]))
    };
    let result = unpack(&bomb[..], &dir.path().join("fs"), &options);
    assert!(matches!(result, Err(UnpackError::TooManyBytes(_))));
    assert!(fs::metadata(dir.path().join("fs/zeros")).unwrap().len() <= 4 << 20);
}

#[test]
fn cut_layers_and_wrong_digests_are_errors() {
    use std::io::Write;
    let tar = Layer::default().file("a", &"text ".repeat(200_000)).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let whole = try_unpack(&gzip, Some(&[])).unwrap();
    assert_eq!(whole.report.diff_id, Digest::of(&tar));
    assert_eq!(whole.report.size, tar.len() as u64);
    assert_eq!(whole.report.compression, Compression::Gzip);
    assert!(matches!(
        try_unpack(&gzip[..gzip.len() - 9], Some(&[])),
        Err(UnpackError::Read(_))
    ));
    assert!(try_unpack(&tar[..tar.len() / 2], Some(&[])).is_err());
    let dir = tempfile::tempdir().unwrap();
    let options = UnpackOptions {
        diff_id: Some(Digest::of(b"other")),
        ..options(Some(&[]))
    };
    assert!(matches!(
        unpack(&gzip[..], &dir.path().join("fs"), &options),
        Err(UnpackError::DiffId { .. })
    ));
    assert!(matches!(
        unpack(&gzip[..], dir.path(), &options),
        Err(UnpackError::NotEmpty(_))
    ));
}

#[test]
fn what_follows_the_end_of_the_archive_counts_for_the_digest_only() {
    for garbage in [100, 3 << 20] {
        let mut tar = Layer::default().file("a", "1").end();
        tar.resize(tar.len() + garbage, 7);
        let done = try_unpack(&tar, Some(&[])).unwrap();
        assert_eq!(done.report.diff_id, Digest::of(&tar));
        assert_eq!(done.report.entries, 1);
    }
}
