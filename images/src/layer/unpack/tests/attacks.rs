//! Layers made to hurt, by the numbers of the project's list of unpack attacks (`u01` to `u40`); what has no number here
//! is tested beside what it attacks.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::layer::entry::TarError;

/// A PAX header with these records.
fn pax(kind: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|n| n - n.to_string().len() == rest);
        data.extend(format!("{} {key}=", length.unwrap()).bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    extension(kind, &data)
}

/// An extension header of any kind with its data.
fn extension(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut header = Header::new(Kind::File, "extension");
    header.size = data.len() as u64;
    let mut block = header.encode();
    set(&mut block, 156, &[kind]);
    block.extend_from_slice(data);
    block.extend_from_slice(padding(data.len() as u64));
    block
}

/// Sets bytes of a header block and its checksum.
fn set(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block[..512].iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl Layer {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

#[test]
fn u08_a_link_into_a_lower_layer_brings_content_and_metadata() {
    let mut header = Header::new(Kind::File, "f");
    (header.mode, header.mtime, header.size) = (0o640, 1_400_000_000, 5);
    if privileged() {
        (header.uid, header.gid) = (11, 12);
        header.xattrs.insert(b"user.a".to_vec(), b"b".to_vec());
    }
    let bottom = unpacked(Layer::default().add(header, b"below").symlink("l", "f"));
    let layer = Layer::default().hard("one", "f").hard("two", "l").end();
    let done = try_unpack(&layer, Some(&[bottom.root()])).unwrap();
    assert_eq!(done.text("one"), "below");
    let (copy, from) = (
        fs::metadata(done.path("one")).unwrap(),
        fs::metadata(bottom.path("f")).unwrap(),
    );
    let facts = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime());
    assert_eq!(facts(&copy), facts(&from));
    assert_eq!(
        get_xattr(&done.path("one"), "user.a").unwrap(),
        get_xattr(&bottom.path("f"), "user.a").unwrap()
    );
    assert_eq!(fs::read_link(done.path("two")).unwrap(), Path::new("f"));
}

#[test]
fn u11_an_entry_for_the_root_changes_nothing() {
    for name in [".", "./", "/", "a/.."] {
        let mut header = Header::new(Kind::Directory, name);
        (header.mode, header.uid) = (0o700, 55);
        let done = unpacked(Layer::default().add(header, b"").file("f", ""));
        let stat = fs::metadata(done.root()).unwrap();
        assert_ne!((stat.mode() & 0o7777, stat.uid()), (0o700, 55), "{name}");
        assert!(done.exists("f"));
    }
}

#[test]
fn u13_whiteouts_in_directories_that_are_nowhere_make_them() {
    let done = unpacked(
        Layer::default()
            .file("a/b/.wh.c", "")
            .file("d/e/.wh..wh..opq", ""),
    );
    assert!(done.is_whiteout("a/b/c"));
    assert!(is_opaque(&done.path("d/e")).unwrap());
}

#[test]
fn u14_of_the_bookkeeping_of_aufs_only_files_of_several_names_matter() {
    let done = unpacked(
        Layer::default()
            .file(".wh..wh.aufs", "x")
            .dir(".wh..wh.plnk", 0o700)
            .file(".wh..wh.plnk/1.2", "linked")
            .file(".wh..wh.plnk/3.4", "unused")
            .symlink(".wh..wh.plnk/5.6", "/")
            .dir("d", 0o755)
            .file("d/.wh..wh.orph", "")
            .hard("one", ".wh..wh.plnk/1.2")
            .hard("d/two", ".wh..wh.plnk/1.2"),
    );
    assert_eq!(done.text("one"), "linked");
    let inode = |name| fs::metadata(done.path(name)).unwrap().ino();
    assert_eq!(inode("one"), inode("d/two"));
    assert_eq!(fs::metadata(done.path("one")).unwrap().nlink(), 2);
    assert_eq!(fs::read_dir(done.root()).unwrap().count(), 2);
    assert_eq!(fs::read_dir(done.path("d")).unwrap().count(), 1);
    let text = refused(Layer::default().hard("x", ".wh..wh.plnk/7.8"));
    assert!(text.contains("does not exist"), "{text}");
    // Nothing else goes in there, by no way.
    let by_link = Layer::default()
        .file(".wh..wh.plnk/1.2", "")
        .symlink("l", ".wh..wh.plnk")
        .file("l/x", "1");
    assert_eq!(fs::read_dir(unpacked(by_link).root()).unwrap().count(), 1);
}

#[test]
fn u17_modes_keep_twelve_bits() {
    let mut block = Header::new(Kind::File, "f").encode();
    set(&mut block, 100, b"0177755\0");
    let mut sticky = Header::new(Kind::Directory, "d/");
    sticky.mode = 0o3775;
    let done = unpacked(
        Layer::default()
            .raw(&block)
            .add(sticky, b"")
            .file("d/inside", ""),
    );
    let mode = |name| fs::metadata(done.path(name)).unwrap().mode();
    assert_eq!(mode("f"), 0o100_000 | 0o7755);
    assert_eq!(mode("d") & 0o7777, 0o3775);
    // The group comes from the archive, not from the directory that is set-group-id.
    let gid = |name: &str| fs::metadata(done.path(name)).unwrap().gid();
    assert_eq!(gid("d/inside"), gid("f"));
}

#[test]
fn u17_every_mode_is_exact_whatever_the_umask_of_the_process() {
    let mut layer = Layer::default();
    for mode in [0, 0o400, 0o444, 0o600, 0o644, 0o666, 0o755, 0o777, 0o1777] {
        let mut file = Header::new(Kind::File, format!("f{mode:o}"));
        let mut dir = Header::new(Kind::Directory, format!("d{mode:o}/"));
        (file.mode, dir.mode) = (mode, mode);
        layer = layer.add(file, b"").add(dir, b"");
    }
    let done = unpacked(layer);
    for entry in fs::read_dir(done.root()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let mode = entry.metadata().unwrap().mode() & 0o7777;
        assert_eq!(format!("{mode:o}"), name[1..], "{name}");
    }
}

#[test]
fn u18_owners_past_what_ids_can_be_are_refused() {
    let with = |at: usize, field: &[u8]| {
        let mut block = Header::new(Kind::File, "f").encode();
        set(&mut block, at, field);
        refused(Layer::default().raw(&block))
    };
    // -1, 2^32 - 1 (which says "leave it" to chown), and 2^56.
    for field in [
        [0xff; 8],
        [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        [0x81, 0, 0, 0, 0, 0, 0, 0],
    ] {
        for at in [108, 116] {
            assert!(with(at, &field).contains("id out of range"));
        }
    }
    let text = refused(
        Layer::default()
            .raw(&pax(b'x', &[("uid", b"-7")]))
            .file("f", ""),
    );
    assert!(text.contains("malformed PAX number"), "{text}");
}

#[test]
fn u18_ids_past_two_million_and_past_two_to_the_31_are_kept() {
    if !privileged() {
        return;
    }
    let done = unpacked(
        Layer::default()
            .raw(&pax(b'x', &[("uid", b"2097152"), ("gid", b"4294967294")]))
            .file("f", ""),
    );
    let stat = fs::metadata(done.path("f")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (2_097_152, 4_294_967_294));
}

#[test]
fn u18_an_owner_that_is_not_mapped_is_told_with_a_way_out() {
    let error = UnpackError::Entry {
        name: "f".into(),
        action: "change owner",
        source: rustix::io::Errno::INVAL.into(),
    };
    assert!(error.to_string().contains("/etc/subuid"));
}

#[test]
fn u19_access_lists_and_capabilities_arrive_and_overlays_own_attributes_do_not() {
    if !privileged() {
        return;
    }
    // Version 2; user::rw-, user:1000:rw-, group::r--, mask::rw-, other::r--.
    let list = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255,
        255, 255, 16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
    ];
    let mut header = Header::new(Kind::File, "f");
    header.mode = 0o664;
    for name in ["trusted.overlay.metacopy", "user.overlay.whiteout"] {
        header.xattrs.insert(name.into(), b"".to_vec());
    }
    header
        .xattrs
        .insert(b"system.posix_acl_access".to_vec(), list.to_vec());
    let done = unpacked(Layer::default().add(header, b""));
    let xattr = |name| get_xattr(&done.path("f"), name).unwrap();
    match xattr("system.posix_acl_access") {
        Some(value) => assert_eq!(value, list),
        None => assert!(done.report.notes.iter().any(|n| n.contains("not kept"))),
    }
    assert_eq!(fs::metadata(done.path("f")).unwrap().mode() & 0o777, 0o664);
    assert_eq!(xattr("trusted.overlay.metacopy"), None);
    assert_eq!(xattr("user.overlay.whiteout"), None);
}

#[test]
fn u20_names_too_long_or_with_zeros_are_refused_and_not_cut() {
    let long = vec![b'n'; 64 << 10];
    let deep = [b"d/".repeat(40_000), b"f".to_vec()].concat();
    for name in [&long, &deep] {
        for key in ["path", "linkpath"] {
            let layer = Layer::default().raw(&pax(b'x', &[(key, name)]));
            let text = refused(layer.link(Kind::Symlink, "l", "t"));
            assert!(text.contains("too long or too deep"), "{text}");
        }
    }
    for key in ["path", "linkpath"] {
        let layer = Layer::default().raw(&pax(b'x', &[(key, b"a\0b")]));
        assert!(refused(layer.symlink("l", "t")).contains("NUL"));
    }
}

#[test]
fn u21_the_last_of_several_long_names_counts() {
    let long = format!("{}/{}", "a".repeat(200), "b".repeat(200));
    let done = unpacked(
        Layer::default()
            .dir(&"a".repeat(200), 0o755)
            .raw(&extension(b'L', b"first\0"))
            .raw(&extension(b'L', format!("{long}\0").as_bytes()))
            .raw(&extension(b'K', b"target\0 and what follows"))
            .symlink("cut", "cut"),
    );
    assert_eq!(
        fs::read_link(done.path(&long)).unwrap(),
        Path::new("target")
    );
    assert!(!done.exists("first"));
}

#[test]
fn u22_the_size_of_a_pax_record_decides_where_the_next_entry_is() {
    let mut inner = Layer::default().file("smuggled", "").0;
    inner.resize(1024, 0);
    // The header says 0 bytes, so a reader that believes it finds an entry in the content.
    let done = unpacked(
        Layer::default()
            .raw(&pax(b'x', &[("size", b"1024")]))
            .file("f", "")
            .raw(&inner)
            .file("g", ""),
    );
    assert_eq!(fs::read(done.path("f")).unwrap(), inner);
    assert!(done.exists("g") && !done.exists("smuggled"));
}

/// A file with data at the start of every second block of 64 KiB, and a hole at its end.
fn holey(path: &Path, runs: u64) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    for run in 0..runs {
        file.write_all_at(&[b'a' + (run % 20) as u8; 4096], run << 17)
            .unwrap();
    }
    file.set_len((runs << 17) + 100).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn u23_every_sparse_form_of_gnu_tar_is_expanded_into_files_with_holes() {
    for form in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        // One block of a GNU header has room for 4 runs, the next for 21.
        for runs in [0, 1, 4, 5, 60] {
            let dir = tempfile::tempdir().unwrap();
            let content = holey(&dir.path().join("sparse"), runs);
            fs::write(dir.path().join("after"), "whole").unwrap();
            let output = Command::new("tar")
                .args(["--sparse", "--owner=0", "--group=0", "-cf", "-"])
                .args(form)
                .arg("-C")
                .arg(dir.path())
                .args(["sparse", "after"])
                .output()
                .expect("tar, which every Debian has");
            assert!(output.status.success());
            assert!(output.stdout.len() < content.len().max(10_241));
            let done = try_unpack(&output.stdout, Some(&[])).unwrap();
            assert!(
                fs::read(done.path("sparse")).unwrap() == content,
                "{form:?} with {runs} runs"
            );
            assert_eq!(done.text("after"), "whole");
            let blocks = fs::metadata(done.path("sparse")).unwrap().blocks();
            assert!(
                blocks * 512 <= (runs + 1) * 8192,
                "{form:?}: {blocks} blocks"
            );
        }
    }
}

#[test]
fn u23_maps_that_lie_are_refused() {
    let file = |map: &str, count: &str, size: &str| {
        Layer::default()
            .raw(&pax(
                b'x',
                &[
                    ("GNU.sparse.size", size.as_bytes()),
                    ("GNU.sparse.numblocks", count.as_bytes()),
                    ("GNU.sparse.map", map.as_bytes()),
                ],
            ))
            .file("f", "12345")
    };
    let good = unpacked(file("2,5", "1", "10"));
    assert_eq!(good.text("f"), "\0\x0012345\0\0\0");
    for (map, count, size) in [
        ("2,5", "2", "10"),                    // fewer runs than announced
        ("2,5,9", "1", "10"),                  // half a run
        ("2,5", "1", "6"),                     // past the end
        ("2,4", "1", "10"),                    // less than is stored
        ("2,6", "1", "10"),                    // more than is stored
        ("4,3,2,2", "2", "10"),                // out of order
        ("0,3,2,2", "2", "10"),                // overlapping
        ("18446744073709551615,5", "1", "10"), // past all numbers
        ("-1,5", "1", "10"),
        ("2,5", "99999999999999999999", "10"),
        ("2,5", "1", "x"),
    ] {
        let text = refused(file(map, count, size));
        assert!(text.contains("malformed"), "{map} {count} {size}: {text}");
    }
    // The map of the last form, cut in its first block, and with a number without end.
    for map in ["1\n2\n", &"9".repeat(400)] {
        let layer = Layer::default().raw(&pax(
            b'x',
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"10"),
            ],
        ));
        refused(layer.file("f", map));
    }
}

#[test]
fn u24_what_a_header_claims_past_the_limit_is_refused_before_it_is_read() {
    let mut huge = Header::new(Kind::File, "f");
    huge.size = i64::MAX as u64 - 511;
    let text = refused(Layer::default().add(huge, b""));
    assert!(text.contains("limit"), "{text}");
    // A terabyte of nothing in a kilobyte of archive.
    let sparse = pax(
        b'x',
        &[
            ("GNU.sparse.size", b"1099511627776"),
            ("GNU.sparse.numblocks", b"0"),
            ("GNU.sparse.map", b""),
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
        ],
    );
    let text = refused(Layer::default().raw(&sparse).file("f", ""));
    assert!(text.contains("limit"), "{text}");
}

#[test]
fn u25_bombs_of_members_frames_and_windows_stop_at_limits() {
    let member = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    };
    // Past the end of the archive, where no header claims anything.
    let start = Layer::default().file("f", "").end();
    let zeros = vec![0; 1 << 20];
    let frame = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    for pack in [&member as &dyn Fn(&[u8]) -> Vec<u8>, &frame] {
        let bomb = [pack(&start), pack(&zeros).repeat(64)].concat();
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
    }
    // A frame header that asks for a window of 2 GiB (exponent 21 over 10), with one empty last block.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0, 0];
    let Err(error) = try_unpack(&window, Some(&[])) else {
        panic!("took a window of 2 GiB");
    };
    assert!(error.to_string().contains("memory"), "{error}");
}

#[test]
fn u30_who_moves_directories_meanwhile_leads_nothing_outside() {
    let room = tempfile::tempdir().unwrap();
    let outside = room.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let root = room.path().join("fs");
    let mut layer = Layer::default().dir("a", 0o777).dir("a/b", 0o777);
    for n in 0..500 {
        layer = layer
            .file(&format!("a/b/../b/f{n}"), "1")
            .file(&format!("a/g{n}"), "1")
            .dir("a/b", 0o777)
            .symlink("a/l", "b")
            .file("a/l/h", "1");
    }
    let layer = layer.end();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Moves the directory out of the root and a link to the outside into its place, and back.
            let (b, away) = (root.join("a/b"), outside.join("b"));
            while !stop.load(Ordering::Relaxed) {
                if fs::rename(&b, &away).is_ok() {
                    let _ = std::os::unix::fs::symlink(&outside, &b);
                    let _ = fs::remove_file(&b);
                    let _ = fs::remove_dir_all(&b);
                    let _ = fs::rename(&away, &b);
                }
            }
        });
        // It may fail, since what it made is taken away.
        let _ = unpack(&layer[..], &root, &options(Some(&[])));
        stop.store(true, Ordering::Relaxed);
    });
    // Whatever is outside came there inside the moved directory, not by a path of the layer.
    for entry in fs::read_dir(&outside).unwrap() {
        assert_eq!(entry.unwrap().file_name(), "b");
    }
    let names: Vec<_> = fs::read_dir(room.path()).unwrap().collect();
    assert_eq!(names.len(), 2);
}

#[test]
fn u31_names_that_differ_in_case_are_two_files() {
    let done = unpacked(Layer::default().file("Name", "1").file("name", "2"));
    assert_eq!(
        (done.text("Name"), done.text("name")),
        ("1".into(), "2".into())
    );
}

#[test]
fn u32_times_are_kept_to_the_nanosecond_and_past_2106() {
    let done = unpacked(
        Layer::default()
            .raw(&pax(b'x', &[("mtime", b"1600000000.123456789123")]))
            .file("fine", "")
            .raw(&pax(b'x', &[("mtime", b"7258118400")]))
            .file("late", "")
            .raw(&pax(b'x', &[("mtime", b"-1.5")]))
            .file("early", "")
            .raw(&pax(b'x', &[("mtime", b"99999999999999")]))
            .file("never", ""),
    );
    let time = |name| {
        let stat = fs::metadata(done.path(name)).unwrap();
        (stat.mtime(), stat.mtime_nsec())
    };
    assert_eq!(time("fine"), (1_600_000_000, 123_456_789));
    assert_eq!(time("late").0, 7_258_118_400);
    assert_eq!((time("early"), time("never")), ((0, 0), (0, 0)));
}

#[test]
fn u33_links_to_nothing_and_to_more_than_a_path_are_errors() {
    refused(Layer::default().symlink("l", ""));
    refused(Layer::default().hard("l", ""));
    refused(Layer::default().symlink("l", &"t".repeat(5000)));
}

#[test]
fn u34_global_records_are_ignored_and_unknown_kinds_refused() {
    let done = unpacked(
        Layer::default()
            .raw(&pax(b'g', &[("path", b"other"), ("mtime", b"5")]))
            .file("f", ""),
    );
    assert!(done.exists("f") && !done.exists("other"));
    for kind in [b'V', b'M', b'D', b'N', b'9'] {
        let mut block = Header::new(Kind::File, "f").encode();
        set(&mut block, 156, &[kind]);
        let Err(error) = try_unpack(&Layer::default().raw(&block).end(), Some(&[])) else {
            panic!("took {kind}");
        };
        assert!(matches!(error, UnpackError::Tar(TarError::UnknownType(k)) if k == kind));
    }
}

#[test]
fn u35_directories_without_end_and_trees_deeper_than_a_stack_end_in_errors_or_well() {
    // Each step is a legal path, but every link starts where the one before ended.
    let mut layer = Layer::default();
    let step = "d/".repeat(200);
    for n in 0..20 {
        let start = match n {
            0 => String::new(),
            n => format!("l{}/", n - 1),
        };
        layer = layer.dir(&format!("{start}{step}e"), 0o755);
        layer = layer.symlink(&format!("l{n}"), &format!("{start}{step}e"));
    }
    // Unpacked or refused, and removed again; not a crash.
    let _ = try_unpack(&layer.file("d", "replaced").end(), Some(&[]));

    let mut many = Layer::default();
    let long = format!("{}/", "x".repeat(250)).repeat(15);
    for n in 0..40 {
        many = many.dir(&format!("{long}{n}"), 0o755);
    }
    unpacked(many);
}

#[test]
fn u35_paths_to_remember_have_a_limit() {
    let room = tempfile::tempdir().unwrap();
    let options = options(Some(&[]));
    let mut applier = apply::Applier::new(room.path(), &options).unwrap();
    let path = vec![b'x'; 4000];
    let most = MAX_REMEMBERED_BYTES / 4000;
    for _ in 0..most {
        applier.remember(&path).unwrap();
    }
    assert!(matches!(
        applier.remember(&path),
        Err(UnpackError::TooManyPaths)
    ));
}

#[test]
fn u16_who_may_not_make_devices_gets_the_rest_and_a_note() {
    // Without privileges the calls fail as they do in a user namespace.
    let mut device = Header::new(Kind::BlockDevice, "disk");
    (device.mode, device.device) = (0o660, (8, 0));
    let done = unpacked(Layer::default().add(device, b"").file("f", "1"));
    assert_eq!(done.text("f"), "1");
    let noted = done.report.notes.iter().any(|n| n.contains("disk"));
    assert_ne!(done.exists("disk"), noted);
    if done.exists("disk") {
        let mode = fs::symlink_metadata(done.path("disk"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o7777, 0o660);
    }
}

#[test]
fn u36_flags_of_other_systems_and_verity_records_change_nothing() {
    let records: [(&str, &[u8]); 3] = [
        ("SCHILY.fflags", b"uchg,nodump"),
        ("LIBARCHIVE.xattr.x", b"eA"),
        ("COM.APPLE.fsverity", b"1"),
    ];
    let layer = Layer::default().raw(&pax(b'x', &records)).file("f", "text");
    let done = unpacked(layer);
    assert_eq!(done.text("f"), "text");
    fs::write(done.path("f"), "it can be written").unwrap();
    fs::remove_file(done.path("f")).unwrap();
}

#[test]
fn u37_the_bytes_tell_how_a_layer_is_packed() {
    let tar = Layer::default().file("f", "text").end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    for packed in [
        tar.clone(),
        gzip.finish().unwrap(),
        zstd::bulk::compress(&tar, 1).unwrap(),
    ] {
        let done = try_unpack(&packed, Some(&[])).unwrap();
        assert_eq!(done.text("f"), "text");
        assert_eq!(done.report.diff_id, Digest::of(&tar));
    }
}
