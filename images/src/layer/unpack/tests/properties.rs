//! Any series of entries.

use super::round_trip::describe;
use super::*;
use proptest::prelude::*;

fn paths() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "a", "b", "..", ".", "", "tmp"]);
    let path = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    let end = prop::sample::select(vec!["", "", "", "/a", "/.wh.a", "/.wh.b", "/.wh..wh..opq"]);
    (path, end).prop_map(|(path, end)| path + end)
}

fn headers() -> impl Strategy<Value = (Header, usize)> {
    let kind = prop::sample::select(vec![
        Kind::File,
        Kind::File,
        Kind::Directory,
        Kind::Directory,
        Kind::Symlink,
        Kind::HardLink,
        Kind::Fifo,
    ]);
    (kind, paths(), paths(), 0usize..2000, 0u32..0o1000).prop_map(
        |(kind, name, link, size, mode)| {
            let mut header = Header::new(kind, name);
            header.mode = mode | 0o600;
            if matches!(kind, Kind::Symlink | Kind::HardLink) {
                header.link = link.into_bytes();
            }
            let size = if kind == Kind::File { size } else { 0 };
            header.size = size as u64;
            (header, size)
        },
    )
}

/// The tree without what only overlayfs sees.
fn visible(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut tree = describe(root);
    tree.retain(|path, _| !is_whiteout(&lstat(&root.join(path)).unwrap().unwrap()));
    for text in tree.values_mut() {
        *text = text.replace(" opaque", "");
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_series_of_entries_leaves_the_directory(
        entries in prop::collection::vec(headers(), 1..25),
    ) {
        let mut layer = Layer::default();
        for (header, size) in entries {
            layer = layer.add(header, &vec![b'x'; size]);
        }
        let layer = layer.end();
        let room = tempfile::tempdir().unwrap();
        let outer = room.path().join("outer");
        fs::create_dir(&outer).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(outer.join(name), name).unwrap();
            fs::write(room.path().join(name), name).unwrap();
        }
        let root = outer.join("fs");
        let result = unpack(&layer[..], &root, &options(Some(&[])));
        for dir in [room.path(), &outer] {
            prop_assert_eq!(fs::read_dir(dir).unwrap().count(), 4);
            for name in ["a", "b", "c"] {
                prop_assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), name);
            }
        }
        if result.is_ok() {
            let mut again = Vec::new();
            diff(&root, &[], &DiffOptions::default(), &mut again).unwrap();
            let copy = try_unpack(&again, Some(&[])).unwrap();
            prop_assert_eq!(visible(&root), visible(&copy.root()));
        }
    }
}
