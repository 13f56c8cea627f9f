//! Layers, the directories they become, and the layers made of those.

use super::*;

/// Everything about a tree that a layer carries, by path.
pub(super) fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    while let Some(dir) = todo.pop() {
        let mut entries: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        entries.sort();
        for path in entries {
            let stat = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let mut text = format!(
                "{:o} {}:{} {} rdev {}",
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.mtime(),
                stat.rdev()
            );
            if stat.is_dir() {
                text += if is_opaque(&path).unwrap() {
                    " opaque"
                } else {
                    ""
                };
                todo.push(path.clone());
            } else if stat.is_symlink() {
                text += &format!(" -> {:?}", fs::read_link(&path).unwrap());
            } else if stat.is_file() {
                text += &format!(" {:?}", Digest::of(&fs::read(&path).unwrap()));
            }
            if !stat.is_dir() && stat.nlink() > 1 {
                let first = inodes.entry(stat.ino()).or_insert(name.clone());
                text += &format!(" = {first:?}");
            }
            if let Some(value) = get_xattr(&path, "security.capability").unwrap() {
                text += &format!(" cap {value:?}");
            }
            all.insert(name, text);
        }
    }
    all
}

#[test]
fn a_layer_made_from_an_unpacked_one_unpacks_to_the_same() {
    let below = unpacked(
        Layer::default()
            .dir("etc", 0o755)
            .file("etc/gone", "1")
            .dir("opt", 0o755)
            .file("opt/old", "1"),
    );
    let long = format!("{}/{}", "l".repeat(120), "m".repeat(200));
    let mut special = Header::new(Kind::File, "special");
    (special.mode, special.mtime) = (0o4755, 99);
    if privileged() {
        (special.uid, special.gid) = (5_000_000, 7);
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        special
            .xattrs
            .insert("security.capability".into(), capability.to_vec());
    }
    let layer = Layer::default()
        .dir("etc", 0o755)
        .file("etc/.wh.gone", "")
        .file("etc/näme \n", "2")
        .hard("etc/other", "etc/näme \n")
        .symlink("etc/sym", &"t".repeat(150))
        .dir(&"l".repeat(120), 0o755)
        .file(&long, "long")
        .dir("opt", 0o711)
        .file("opt/.wh.old", "")
        .add(Header::new(Kind::Fifo, "pipe"), b"")
        .add(special, b"")
        .end();
    let parents = [below.root()];
    let first = try_unpack(&layer, Some(&parents)).unwrap();
    let remake = |dir: &Path| {
        let mut out = Vec::new();
        diff(dir, &parents, &DiffOptions::default(), &mut out).unwrap();
        out
    };
    let tar = remake(&first.root());
    let second = try_unpack(&tar, Some(&parents)).unwrap();
    assert_eq!(describe(&first.root()), describe(&second.root()));
    assert!(describe(&first.root()).len() > 10);
    assert!(tar == remake(&second.root()));
}

/// Layers that BuildKit made, with the diffIDs that it gave them.
#[test]
fn layers_of_buildkit_are_made_again_with_the_same_diff_id() {
    if !privileged() {
        return;
    }
    let layers = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/layers");
    let mut count = 0;
    for entry in fs::read_dir(layers).unwrap() {
        let path = entry.unwrap().path();
        let done = try_unpack(&fs::read(&path).unwrap(), Some(&[])).unwrap();
        let mut again = Vec::new();
        diff(&done.root(), &[], &DiffOptions::default(), &mut again).unwrap();
        assert_eq!(
            Digest::of(&again),
            done.report.diff_id,
            "{}",
            path.display()
        );
        count += 1;
    }
    assert_eq!(count, 6);
}

/// A real overlay mount, undone when dropped.
struct Overlay(PathBuf);

impl Overlay {
    /// `None` where mounting is not allowed.
    fn mount(at: PathBuf, lower: &[&Path], upper: Option<(&Path, &Path)>) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let lower: Vec<&str> = lower.iter().map(|p| p.to_str().unwrap()).collect();
        let mut data = format!("lowerdir={}", lower.join(":"));
        if let Some((upper, work)) = upper {
            data += &format!(",upperdir={},workdir={}", upper.display(), work.display());
        }
        if !privileged() {
            data += ",userxattr";
        }
        let data = std::ffi::CString::new(data).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("overlay", &at, "overlay", flags, data.as_c_str()).ok()?;
        Some(Overlay(at))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn overlayfs_and_layers_agree() {
    let bottom = unpacked(
        Layer::default()
            .dir("d", 0o755)
            .file("d/hidden", "1")
            .dir("e", 0o755)
            .file("e/a", "1")
            .file("e/b", "1")
            .file("e/kept", "1")
            .dir("gone", 0o755)
            .file("gone/x", "1")
            .file("file", "1"),
    );
    let above = Layer::default()
        .dir("d", 0o755)
        .file("d/.wh..wh..opq", "")
        .file("d/new", "1")
        .file("e/.wh.a", "")
        .end();
    let parents = [bottom.root()];
    let middle = try_unpack(&above, Some(&parents)).unwrap();
    let room = tempfile::tempdir().unwrap();
    let (upper, work) = (room.path().join("upper"), room.path().join("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir).unwrap();
    }
    let (middle, bottom) = (middle.root(), bottom.root());
    let at = room.path().join("merged");
    let Some(merged) = Overlay::mount(at, &[&middle, &bottom], Some((&upper, &work))) else {
        return;
    };
    let path = |name: &str| merged.0.join(name);
    let names = |dir: &str| {
        let mut names: Vec<String> = fs::read_dir(path(dir))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("d"), ["new"]);
    assert_eq!(names("e"), ["b", "kept"]);
    fs::remove_file(path("e/b")).unwrap();
    fs::write(path("e/kept"), "changed").unwrap();
    fs::remove_dir_all(path("gone")).unwrap();
    fs::create_dir(path("gone")).unwrap();
    fs::write(path("gone/y"), "1").unwrap();
    fs::remove_dir_all(path("d")).unwrap();
    fs::write(path("d"), "a file now").unwrap();
    fs::hard_link(path("file"), path("second")).unwrap();
    // Copied up, and then as before.
    let mode = fs::metadata(path("e")).unwrap().permissions();
    fs::set_permissions(path("e"), mode).unwrap();
    let mut expected = describe(&merged.0);
    drop(merged);

    let parents = [middle.clone(), bottom.clone()];
    let mut layer = Vec::new();
    diff(&upper, &parents, &DiffOptions::default(), &mut layer).unwrap();
    let mut tar = crate::layer::TarReader::new(&layer[..]);
    let mut written = Vec::new();
    while let Some(entry) = tar.next_entry().unwrap() {
        written.push(String::from_utf8(entry.name).unwrap());
    }
    assert_eq!(
        written,
        [
            "d",
            "e/",
            "e/.wh.b",
            "e/kept",
            "gone/",
            "gone/.wh.x",
            "gone/y",
            "second"
        ]
    );
    let top = try_unpack(&layer, Some(&parents)).unwrap();
    let at = room.path().join("again");
    let again = Overlay::mount(at, &[&top.root(), &middle, &bottom], None).unwrap();
    let mut seen = describe(&again.0);
    // A new name of an unchanged file is a copy of its own in the layer (observed: in BuildKit's too).
    for tree in [&mut seen, &mut expected] {
        for name in ["file", "second"] {
            let text = tree.get_mut(Path::new(name)).unwrap();
            text.truncate(text.find(" = ").unwrap_or(text.len()));
        }
    }
    assert_eq!(seen, expected);
}
