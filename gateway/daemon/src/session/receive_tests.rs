use std::os::unix::fs::{MetadataExt, PermissionsExt};

use proptest::prelude::*;

use super::*;

const DIR: u32 = 1 << 31 | 0o755;
const LINK: u32 = 1 << 27 | 0o777;

fn stat(path: &str, mode: u32, size: i64, time: i64) -> Stat {
    Stat {
        path: path.to_owned(),
        mode,
        size,
        mod_time: time,
        ..Stat::default()
    }
}

/// Receives the list and sends what is asked for; the paths of that.
fn transfer(to: &Path, list: &[(Stat, &str)]) -> Result<Vec<String>> {
    let mut receiver = Receiver::new(to, false)?;
    let mut asked = Vec::new();
    for (stat, content) in list {
        if let Some(id) = receiver.entry(stat.clone())? {
            asked.push(stat.path.clone());
            receiver.data(id, content.as_bytes())?;
            if !content.is_empty() {
                receiver.data(id, b"")?;
            }
        }
    }
    receiver.end_of_list()?;
    receiver.finish()?;
    Ok(asked)
}

#[test]
fn p15_p16_a_tree_arrives_with_modes_times_and_links() {
    let dir = tempfile::tempdir().unwrap();
    let link = Stat {
        linkname: "a/x".into(),
        ..stat("a/y", 0o640, 0, 5)
    };
    let symlink = Stat {
        linkname: "../nowhere".into(),
        ..stat("s", LINK, 0, 7_000_000_001)
    };
    let list = [
        (stat("a", DIR, 0, 3_000_000_000), ""),
        (stat("a/x", 1 << 23 | 0o640, 2, 5_000_000_009), "hi"),
        (link, ""),
        (stat("a.txt", 0o600, 0, 1), ""),
        (symlink, ""),
    ];
    assert_eq!(transfer(dir.path(), &list).unwrap(), ["a/x", "a.txt"]);
    let meta = |name: &str| std::fs::symlink_metadata(dir.path().join(name)).unwrap();
    assert_eq!(meta("a/x").permissions().mode() & 0o7777, 0o4640);
    assert_eq!((meta("a/x").mtime(), meta("a/x").mtime_nsec()), (5, 9));
    assert_eq!(meta("a/x").ino(), meta("a/y").ino());
    assert_eq!(meta("a").mtime(), 3);
    assert_eq!(meta("s").mtime_nsec(), 1);
    assert_eq!(
        std::fs::read_link(dir.path().join("s")).unwrap(),
        Path::new("../nowhere")
    );
}

#[test]
fn p29_the_second_time_only_what_changed_is_asked_for_and_what_is_gone_goes() {
    let dir = tempfile::tempdir().unwrap();
    let all = [
        (stat("d", DIR, 0, 1), ""),
        (stat("d/gone", 0o644, 1, 1), "x"),
        (stat("mode", 0o644, 1, 1), "x"),
        (stat("same", 0o644, 1, 1), "x"),
        (stat("size", 0o644, 1, 1), "x"),
        (stat("time", 0o644, 1, 1), "x"),
    ];
    assert_eq!(transfer(dir.path(), &all).unwrap().len(), 5);
    assert_eq!(transfer(dir.path(), &all).unwrap(), [""; 0]);
    let changed = [
        (stat("mode", 0o600, 1, 1), "x"),
        (stat("same", 0o644, 1, 1), "never read"),
        (stat("size", 0o644, 2, 1), "xx"),
        (stat("time", 0o644, 1, 2), "y"),
    ];
    let asked = transfer(dir.path(), &changed).unwrap();
    assert_eq!(asked, ["mode", "size", "time"]);
    assert!(!dir.path().join("d").exists());
    assert_eq!(std::fs::read(dir.path().join("same")).unwrap(), b"x");
    assert_eq!(std::fs::read(dir.path().join("time")).unwrap(), b"y");
}

#[test]
fn p16_lists_that_lead_out_or_lie_are_refused() {
    for (list, problem) in [
        (vec![stat("../x", 0o644, 0, 0)], "invalid path"),
        (vec![stat("/x", 0o644, 0, 0)], "invalid path"),
        (vec![stat("a//x", 0o644, 0, 0)], "invalid path"),
        (vec![stat("", 0o644, 0, 0)], "invalid path"),
        (vec![stat("a/x", 0o644, 0, 0)], "not announced"),
        (vec![stat("l", LINK, 0, 0)], "invalid link text"),
        (
            vec![stat("b", 0o644, 0, 0), stat("a", 0o644, 0, 0)],
            "changes out of order",
        ),
        (
            vec![stat("a", 0o644, 0, 0), stat("a", 0o644, 0, 0)],
            "changes out of order",
        ),
        (
            vec![stat("a", 0o644, 0, 0), stat("a/x", 0o644, 0, 0)],
            "not announced",
        ),
        (
            vec![stat("a", 1 << 30, 0, 0)]
                .into_iter()
                .map(|s| Stat {
                    linkname: "b".into(),
                    ..s
                })
                .collect(),
            "unknown path",
        ),
        (vec![stat("a", 1 << 31 | 1 << 27, 0, 0)], "is of no file"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let list: Vec<(Stat, &str)> = list.into_iter().map(|stat| (stat, "")).collect();
        let error = transfer(dir.path(), &list).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn p16_a_link_of_an_earlier_transfer_is_never_gone_through() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("file"), "kept").unwrap();
    let link = Stat {
        linkname: outside.path().display().to_string(),
        ..stat("d", LINK, 0, 1)
    };
    transfer(dir.path(), &[(link, "")]).unwrap();
    let list = [
        (stat("d", DIR, 0, 1), ""),
        (stat("d/file", 0o644, 1, 1), "x"),
    ];
    transfer(dir.path(), &list).unwrap();
    assert_eq!(std::fs::read(outside.path().join("file")).unwrap(), b"kept");
    assert!(dir.path().join("d").symlink_metadata().unwrap().is_dir());
}

#[test]
fn p15_bytes_that_nobody_asked_for_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::new(dir.path(), false).unwrap();
    let error = receiver.data(0, b"x").unwrap_err().to_string();
    assert_eq!(error, "invalid file request 0");
    receiver.end_of_list().unwrap();
    assert!(receiver.end_of_list().is_err());
}

proptest! {
    /// The order is that of a walk: a directory's content right behind it.
    #[test]
    fn p16_the_order_is_that_of_a_walk(paths in prop::collection::btree_set("[a-c.-]{1,2}(/[a-c.-]{1,2}){0,2}", 1..20)) {
        let mut by_order: Vec<&String> = paths.iter().collect();
        by_order.sort_by(|a, b| order(a.as_bytes(), b.as_bytes()));
        let mut by_parts: Vec<&String> = paths.iter().collect();
        by_parts.sort_by_key(|path| path.split('/').collect::<Vec<_>>());
        prop_assert_eq!(by_order, by_parts);
    }

    #[test]
    fn any_list_ends_without_a_panic_and_inside(
        entries in prop::collection::vec(("[a-b./]{0,4}", prop::sample::select(vec![0o644, DIR, LINK, 1 << 25]), "[a-b./]{0,3}"), 0..12)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let list: Vec<(Stat, &str)> = entries
            .into_iter()
            .map(|(path, mode, linkname)| (Stat { linkname, ..stat(&path, mode, 0, 1) }, ""))
            .collect();
        let _ = transfer(&inside, &list);
        prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
