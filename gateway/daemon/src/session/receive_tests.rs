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
    let mut receiver = Receiver::new(to, false, Limits::default())?;
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
    let mut receiver = Receiver::new(dir.path(), false, Limits::default()).unwrap();
    let error = receiver.data(0, b"x").unwrap_err().to_string();
    assert_eq!(error, "invalid file request 0");
    receiver.end_of_list().unwrap();
    assert!(receiver.end_of_list().is_err());
}

fn receiver(to: &Path, limits: Limits) -> Receiver {
    Receiver::new(to, false, limits).unwrap()
}

#[test]
fn p16_lists_without_end_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let few = Limits {
        entries: 3,
        ..Limits::default()
    };
    let mut receiver_of_few = receiver(dir.path(), few);
    for name in ["a", "b", "c"] {
        receiver_of_few.entry(stat(name, 0o644, 0, 0)).unwrap();
    }
    let error = receiver_of_few.entry(stat("d", 0o644, 0, 0)).unwrap_err();
    assert!(error.to_string().contains("more than 3 files"), "{error}");

    let small = Limits {
        list_bytes: 1000,
        ..Limits::default()
    };
    let mut receiver = receiver(dir.path(), small);
    let long = "n".repeat(200);
    let error = (0..10)
        .find_map(|number| {
            let entry = stat(&format!("{number}{long}"), 0o644, 0, 0);
            receiver.entry(entry).err()
        })
        .unwrap();
    assert!(error.to_string().contains("larger than 1000 bytes"));
}

#[test]
fn p16_attributes_that_no_file_has_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut huge = stat("a", 0o644, 0, 0);
    huge.xattrs.insert("user.x".into(), vec![0; 1 << 20]);
    let mut receiver = receiver(dir.path(), Limits::default());
    assert_eq!(receiver.entry(huge).unwrap(), Some(0));
    assert!(receiver.list_bytes < 100);
}

#[test]
fn p16_more_bytes_than_a_file_has_are_refused_and_a_growing_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = receiver(dir.path(), Limits::default());
    receiver.entry(stat("log", 0o644, 1, 0)).unwrap();
    let megabyte = vec![b'x'; 1 << 20];
    let refused_after =
        (0..100).find_map(|count| Some((count, receiver.data(0, &megabyte).err()?)));
    let (count, error) = refused_after.unwrap();
    assert_eq!(count, 64);
    assert!(error.to_string().contains("bytes came of a file of 1"));
}

#[test]
fn p16_files_that_do_not_fit_are_refused_by_their_stats() {
    let dir = tempfile::tempdir().unwrap();
    let mut fresh = receiver(dir.path(), Limits::default());
    let error = fresh.entry(stat("a", 0o644, i64::MAX, 0)).unwrap_err();
    assert!(error.to_string().contains("no space for"), "{error}");
    let error = fresh.entry(stat("b", 0o644, -1, 0)).unwrap_err();
    assert!(error.to_string().contains("below zero"), "{error}");
    let full = Limits {
        reserve: u64::MAX,
        ..Limits::default()
    };
    let mut full = receiver(dir.path(), full);
    full.entry(stat("a", 0o644, 1, 0)).unwrap();
    let error = full.data(0, b"x").unwrap_err();
    assert!(error.to_string().contains("no space for"), "{error}");
    // Before a byte of them is on its way.
    full.entry(stat("b", 0o644, 2 << 20, 0)).unwrap();
    let error = full.end_of_list().unwrap_err();
    assert!(error.to_string().contains("no space for 20971"), "{error}");
}

#[test]
fn p16_files_without_end_at_once_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = receiver(dir.path(), Limits::default());
    for number in 0..200 {
        receiver
            .entry(stat(&format!("{number:03}"), 0o644, 1, 0))
            .unwrap();
    }
    let error = (0..200)
        .find_map(|id| receiver.data(id, b"x").err())
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("more than 64 files sent at once")
    );
}

#[test]
fn p16_a_deep_directory_goes_again_with_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let depth = 2000;
    let list: Vec<(Stat, &str)> = (1..=depth)
        .map(|depth| (stat(&vec!["d"; depth].join("/"), DIR, 0, 1), ""))
        .collect();
    transfer(dir.path(), &list).unwrap();
    // As many as a process has at least; other tests of this process have theirs.
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let usual = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit {
        current: Some(open as u64 + 200),
        maximum: usual.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    let removed = transfer(dir.path(), &[]);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, usual).unwrap();
    removed.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
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
