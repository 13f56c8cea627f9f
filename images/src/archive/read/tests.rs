use super::*;
use crate::archive::{
    Layout, NEVER, Variant, make_index, random_image, write_archive, write_layout,
};
use crate::digest::Digest;
use crate::layer::{END, Header, padding};
use crate::platform::Platform;
use crate::reference::Reference;

struct Room {
    _dir: tempfile::TempDir,
    store: BlobStore,
}

fn room() -> Room {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path().join("store")).unwrap();
    Room { _dir: dir, store }
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn names(list: &[&str]) -> Vec<Reference> {
    list.iter().map(|n| Reference::parse(n).unwrap()).collect()
}

fn entries(tar: &[u8]) -> Vec<(String, u32, u64)> {
    let mut reader = TarReader::new(tar);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        assert_eq!((entry.uid, entry.gid, entry.mtime), (0, 0, (0, 0)));
        entries.push((
            String::from_utf8(entry.name).unwrap(),
            entry.mode,
            entry.size,
        ));
    }
    entries
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        let mut header = Header::new(Kind::File, *name);
        header.size = bytes.len() as u64;
        out.extend(header.encode());
        out.extend_from_slice(bytes);
        out.extend_from_slice(padding(header.size));
    }
    out.extend(END);
    out
}

#[test]
fn an_oci_archive_has_sorted_entries_and_is_read_back() {
    let from = room();
    let image = random_image(&from.store, 1, 2, &amd64()).unwrap();
    let mut out = Vec::new();
    let top = image.descriptor();
    let tags = names(&["example.com/app:1", "app"]);
    write_archive(&from.store, top, &tags, Variant::Oci, &mut out).unwrap();

    let listed = entries(&out);
    let mut sorted = listed.clone();
    sorted.sort();
    assert_eq!(listed, sorted);
    assert_eq!(listed.len(), 2 + 4 + 2);
    assert_eq!(listed[0], ("blobs/".into(), 0o755, 0));
    assert!(listed.iter().all(|(name, _, _)| name != "manifest.json"));

    let to = room();
    let loaded = read_archive(&to.store, &out[..], &ArchiveLimits::default()).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(
        loaded[0].names,
        ["example.com/app:1", "docker.io/library/app:latest"]
    );
    let back = Image::load(&to.store, &loaded[0].descriptor).unwrap();
    assert_eq!(back.manifest.bytes, image.manifest.bytes);
    assert!(back.layers().iter().all(|l| to.store.contains(&l.digest)));
}

fn file_of(archive: &[u8], name: &str) -> String {
    let mut reader = TarReader::new(archive);
    let mut text = String::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        if entry.name == name.as_bytes() {
            reader.read_to_string(&mut text).unwrap();
        }
    }
    text
}

#[test]
fn the_index_lists_the_image_under_its_full_name_and_its_tag() {
    let room = room();
    let image = random_image(&room.store, 1, 0, &amd64()).unwrap();
    let mut top = image.descriptor().clone();
    top.platform = Some(amd64());
    let created = "org.opencontainers.image.created".to_owned();
    top.annotations
        .insert(created, "2020-09-13T12:26:40Z".into());
    let mut out = Vec::new();
    write_archive(
        &room.store,
        &top,
        &names(&["app:1"]),
        Variant::Oci,
        &mut out,
    )
    .unwrap();
    insta::assert_snapshot!(file_of(&out, "index.json"), @r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:8cda223c64e6c893df02a795de90bd3e68da6d01a4b2c24b6148975903b515d6","size":286,"annotations":{"io.containerd.image.name":"docker.io/library/app:1","org.opencontainers.image.created":"2020-09-13T12:26:40Z","org.opencontainers.image.ref.name":"1"},"platform":{"architecture":"amd64","os":"linux"}}]}"#);
    assert_eq!(
        file_of(&out, "oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#
    );
}

#[test]
fn equal_images_make_equal_archives() {
    let write = || {
        let room = room();
        let image = random_image(&room.store, 7, 3, &amd64()).unwrap();
        let mut out = Vec::new();
        write_archive(&room.store, image.descriptor(), &[], Variant::Oci, &mut out).unwrap();
        out
    };
    assert!(write() == write());
}

#[test]
fn a_docker_archive_lists_config_tags_and_layers() {
    let room = room();
    let image = random_image(&room.store, 1, 1, &amd64()).unwrap();
    let mut out = Vec::new();
    let tags = names(&["app:v1"]);
    write_archive(
        &room.store,
        image.descriptor(),
        &tags,
        Variant::Docker,
        &mut out,
    )
    .unwrap();
    assert_eq!(
        file_of(&out, "manifest.json"),
        format!(
            r#"[{{"Config":"blobs/sha256/{}","RepoTags":["app:v1"],"Layers":["blobs/sha256/{}"]}}]"#,
            image.config_descriptor().unwrap().digest.hex(),
            image.layers()[0].digest.hex()
        )
    );
}

#[test]
fn several_platforms_go_into_an_oci_archive_and_not_into_dockers() {
    let room = room();
    let mut manifests = Vec::new();
    for arch in ["amd64", "arm64"] {
        let platform = Platform::new("linux", arch, "");
        let image = random_image(&room.store, 1, 1, &platform).unwrap();
        let mut descriptor = image.descriptor().clone();
        descriptor.platform = Some(platform);
        manifests.push(descriptor);
    }
    let index = make_index(manifests, Family::Oci, BTreeMap::new()).unwrap();
    room.store.put(&index.bytes).unwrap();
    let mut out = Vec::new();
    write_archive(&room.store, &index.descriptor, &[], Variant::Oci, &mut out).unwrap();
    // The two images share their layer.
    assert_eq!(entries(&out).len(), 2 + 6 + 2);
    let result = write_archive(
        &room.store,
        &index.descriptor,
        &[],
        Variant::Docker,
        io::sink(),
    );
    assert!(matches!(result, Err(ArchiveError::DockerIndex)));
}

#[test]
fn a_layout_directory_keeps_other_names_and_replaces_its_own() {
    let room = room();
    let dir = tempfile::tempdir().unwrap();
    let one = random_image(&room.store, 1, 1, &amd64()).unwrap();
    let two = random_image(&room.store, 2, 1, &amd64()).unwrap();
    let write = |image: &Image, tag: &str| {
        write_layout(
            &room.store,
            image.descriptor(),
            &names(&[tag]),
            dir.path(),
            NEVER,
        )
        .unwrap();
    };
    write(&one, "app:a");
    write(&one, "app:b");
    write(&two, "app:a");
    let layout = Layout::open(dir.path()).unwrap();
    assert_eq!(layout.index().unwrap().manifests.len(), 2);
    let found = layout.find(Some("docker.io/library/app:a")).unwrap();
    assert_eq!(found.unwrap().digest, two.descriptor().digest);
    let found = layout.find(Some("b")).unwrap().unwrap();
    assert_eq!(found.digest, one.descriptor().digest);
    assert!(layout.find(None).unwrap().is_none());

    let to = self::room();
    layout.copy_all(&to.store, &found, NEVER).unwrap();
    Image::load(&to.store, &found).unwrap();
}

#[test]
fn a_layout_with_a_changed_blob_is_refused() {
    let room = room();
    let dir = tempfile::tempdir().unwrap();
    let image = random_image(&room.store, 1, 1, &amd64()).unwrap();
    write_layout(&room.store, image.descriptor(), &[], dir.path(), NEVER).unwrap();
    let layer = &image.layers()[0];
    let path = dir.path().join("blobs/sha256").join(layer.digest.hex());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let to = self::room();
    let layout = Layout::open(dir.path()).unwrap();
    let top = layout.find(Some("latest")).unwrap().unwrap();
    let result = layout.copy_all(&to.store, &top, NEVER);
    assert!(matches!(result, Err(ArchiveError::Store(_))));
    assert!(!to.store.contains(&layer.digest));
}

#[test]
fn an_old_docker_archive_gets_a_manifest() {
    let layer = tar(&[("hello", b"world")]);
    let config = br#"{"os":"linux","architecture":"amd64"}"#;
    let list = br#"[{"Config":"abc.json","RepoTags":["app:1"],"Layers":["id/layer.tar"]}]"#;
    let archive = tar(&[
        ("id/layer.tar", &layer),
        ("./abc.json", config),
        ("manifest.json", list),
    ]);
    let room = room();
    let loaded = read_archive(&room.store, &archive[..], &ArchiveLimits::default()).unwrap();
    assert_eq!(loaded[0].names, ["app:1"]);
    let image = Image::load(&room.store, &loaded[0].descriptor).unwrap();
    assert_eq!(image.config, &config[..]);
    assert_eq!(image.layers()[0].digest, Digest::of(&layer));
    assert_eq!(image.layers()[0].media_type, DOCKER_LAYER_TAR);
}

#[test]
fn archives_that_lie_are_refused() {
    let room = room();
    let read = |archive: &[u8], limits: &ArchiveLimits| {
        read_archive(&room.store, archive, limits)
            .unwrap_err()
            .to_string()
    };
    let limits = ArchiveLimits::default();
    let wrong = format!("blobs/sha256/{}", "0".repeat(64));
    let archive = tar(&[(&wrong, b"x")]);
    assert!(read(&archive, &limits).starts_with("unexpected commit digest"));
    assert!(read(&tar(&[("blobs/sha256/..%2f", b"x")]), &limits).contains("not a digest"));
    assert!(read(&tar(&[("a", b"x")]), &limits).contains("neither index.json nor manifest.json"));
    let missing = br#"[{"Config":"../../etc/passwd","Layers":null}]"#;
    let archive = tar(&[("manifest.json", missing)]);
    assert_eq!(
        read(&archive, &limits),
        "../../etc/passwd: not found in the archive"
    );
    let small = ArchiveLimits {
        bytes: 10,
        entries: 1,
    };
    assert!(read(&tar(&[("a", &[0; 11])]), &small).contains("limit of 10 bytes"));
    assert!(read(&tar(&[("a", b""), ("b", b"")]), &small).contains("limit of 1 entries"));
}

#[test]
fn blobs_by_links_are_found_and_links_lead_nowhere_else() {
    let layer = tar(&[("hello", b"world")]);
    let config = br#"{"os":"linux","architecture":"amd64"}"#;
    let list = br#"[{"Config":"c.json","RepoTags":null,"Layers":["a/layer.tar","b/layer.tar"]}]"#;
    let link = |name: &str, target: &str| {
        let mut header = Header::new(Kind::Symlink, name);
        header.link = target.into();
        header.encode()
    };
    let files = tar(&[
        ("a/layer.tar", &layer),
        ("c.json", config),
        ("manifest.json", list),
    ]);
    let files = &files[..files.len() - END.len()];
    let read = |target: &str| {
        let room = room();
        let archive = [files, &link("b/layer.tar", target), &END].concat();
        let loaded = read_archive(&room.store, &archive[..], &ArchiveLimits::default())?;
        let image = Image::load(&room.store, &loaded[0].descriptor)?;
        Ok::<_, ArchiveError>(image.layers().to_vec())
    };
    for target in ["../a/layer.tar", "/a/layer.tar", "../../../a/layer.tar"] {
        let layers = read(target).unwrap();
        assert_eq!(layers.len(), 2);
        assert_eq!(layers[0].digest, layers[1].digest);
    }
    for target in ["/etc/passwd", "layer.tar", "../b/layer.tar", ""] {
        let error = read(target).unwrap_err().to_string();
        assert!(
            error.contains("not found in the archive"),
            "{target}: {error}"
        );
    }
}

#[test]
fn of_several_files_of_one_name_the_last_counts() {
    let config = br#"{"os":"linux","architecture":"amd64"}"#;
    let list = |tag: &str| format!(r#"[{{"Config":"c.json","RepoTags":["{tag}"],"Layers":[]}}]"#);
    let archive = tar(&[
        ("manifest.json", list("first").as_bytes()),
        ("c.json", b"{}"),
        ("./c.json", config),
        ("x/../manifest.json", list("second").as_bytes()),
    ]);
    let room = room();
    let loaded = read_archive(&room.store, &archive[..], &ArchiveLimits::default()).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].names, ["second"]);
    let image = Image::load(&room.store, &loaded[0].descriptor).unwrap();
    assert_eq!(image.config, &config[..]);
}

#[test]
fn a_sparse_blob_is_refused_before_a_byte_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("index.json")).unwrap();
    file.set_len(1 << 30).unwrap();
    for format in ["gnu", "posix"] {
        let output = std::process::Command::new("tar")
            .args(["--sparse", "-cf", "-", "--format", format, "-C"])
            .arg(dir.path())
            .arg("index.json")
            .output()
            .expect("tar, which every Debian has");
        let room = room();
        let error = read_archive(&room.store, &output.stdout[..], &ArchiveLimits::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("a sparse file"), "{error}");
    }
}

#[test]
fn a_pipe_in_the_place_of_a_blob_is_not_waited_for() {
    let room = room();
    let dir = tempfile::tempdir().unwrap();
    let image = random_image(&room.store, 1, 1, &amd64()).unwrap();
    write_layout(&room.store, image.descriptor(), &[], dir.path(), NEVER).unwrap();
    let path = dir.path().join("blobs/sha256");
    let path = path.join(image.layers()[0].digest.hex());
    std::fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let (at, kind) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(at, &path, kind, mode, 0).unwrap();
    let to = self::room();
    let layout = Layout::open(dir.path()).unwrap();
    let error = layout
        .copy_all(&to.store, image.descriptor(), NEVER)
        .unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
}
