//! Diffs of results that are not built on one another. What is expected was observed with BuildKit of 2026: the
//! same definitions, the files of the layer of the difference and of merges with it.

use gateway_llb::{Constraints, FileActions, Mkdir, Mkfile, State, Symlink};

use crate::Bench;

/// 2020-01-01, in nanoseconds.
const DAY: i64 = 1_577_836_800_000_000_000;

/// A file system from nothing: directories end in a slash, `a -> b` is a link.
fn tree(entries: &[(&str, &str)]) -> State {
    let mut actions = FileActions::new();
    for (path, text) in entries {
        actions = match (path.strip_suffix('/'), path.split_once(" -> ")) {
            (Some(dir), _) => actions.mkdir(
                dir,
                Mkdir {
                    mode: if *text == "closed" { 0o700 } else { 0o755 },
                    timestamp: Some(DAY),
                    ..Mkdir::default()
                },
            ),
            (_, Some((name, target))) => actions.symlink(
                target,
                name,
                Symlink {
                    timestamp: Some(DAY),
                    ..Symlink::default()
                },
            ),
            _ => actions.mkfile(
                path,
                Mkfile {
                    mode: 0o644,
                    data: text.as_bytes().to_vec(),
                    timestamp: Some(DAY),
                    ..Mkfile::default()
                },
            ),
        };
    }
    State::scratch().file(actions, Constraints::new())
}

fn lower() -> State {
    tree(&[
        ("/same/", ""),
        ("/same/a", "a"),
        ("/same/gone", "x"),
        ("/deep/", ""),
        ("/deep/er/", ""),
        ("/deep/er/edited", "1"),
        ("/deep/er/same", "s"),
        ("/gone/", ""),
        ("/gone/f", "f"),
        ("/file-to-dir", "x"),
        ("/dir-to-file/", ""),
        ("/dir-to-file/f", "f"),
        ("/mode/", ""),
        ("/mode/f", "f"),
        ("/link -> same/a", ""),
        ("/relinked -> same/a", ""),
    ])
}

fn upper() -> State {
    tree(&[
        ("/same/", ""),
        ("/same/a", "a"),
        ("/deep/", ""),
        ("/deep/er/", ""),
        ("/deep/er/edited", "2"),
        ("/deep/er/same", "s"),
        ("/file-to-dir/", ""),
        ("/file-to-dir/f", "f"),
        ("/dir-to-file", "x"),
        ("/mode/", "closed"),
        ("/mode/f", "f"),
        ("/new/", ""),
        ("/new/tree/", ""),
        ("/new/tree/f", "n"),
        ("/link -> same/a", ""),
        ("/relinked -> same/b", ""),
    ])
}

/// Something that the difference is laid upon.
fn third() -> State {
    tree(&[
        ("/deep/", ""),
        ("/deep/er/", ""),
        ("/deep/er/own", "o"),
        ("/deep/er/same", "other"),
        ("/gone/", ""),
        ("/gone/own", "o"),
        ("/file-to-dir/", ""),
        ("/file-to-dir/own", "o"),
        ("/dir-to-file", "other"),
    ])
}

/// All paths of a result, and what the files hold.
async fn listing(bench: &Bench, state: &State) -> Vec<String> {
    let (job, result) = bench.build(state).await.unwrap();
    let mut found = Vec::new();
    let mut open = vec!["/".to_owned()];
    while let Some(dir) = open.pop() {
        for entry in job.read_dir(&result, &dir, None).await.unwrap() {
            let path = format!("{dir}{}", entry.path);
            if entry.mode & (1 << 31) != 0 {
                found.push(format!("{path}/ {:o}", entry.mode & 0o777));
                open.push(format!("{path}/"));
            } else if entry.linkname.is_empty() {
                let data = job.read_file(&result, &path, None).await.unwrap();
                found.push(format!("{path} {}", String::from_utf8_lossy(&data)));
            } else {
                found.push(format!("{path} -> {}", entry.linkname));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_of_unrelated_results_has_what_is_other_in_the_upper_one() {
    let bench = Bench::new();
    let diff = State::diff(&lower(), &upper(), Constraints::new());
    assert_eq!(
        listing(&bench, &diff).await,
        [
            "/deep/ 755",
            "/deep/er/ 755",
            "/deep/er/edited 2",
            "/dir-to-file x",
            "/file-to-dir/ 755",
            "/file-to-dir/f f",
            "/mode/ 700",
            "/new/ 755",
            "/new/tree/ 755",
            "/new/tree/f n",
            "/relinked -> same/b",
            "/same/ 755",
        ]
    );
    // Laid upon the lower side it makes the upper one.
    let again = State::merge(&[lower(), diff.clone()], Constraints::new());
    assert_eq!(
        listing(&bench, &again).await,
        listing(&bench, &upper()).await
    );
    // What is gone from the lower side is gone from anything.
    let other = State::merge(&[third(), diff], Constraints::new());
    assert_eq!(
        listing(&bench, &other).await,
        [
            "/deep/ 755",
            "/deep/er/ 755",
            "/deep/er/edited 2",
            "/deep/er/own o",
            "/deep/er/same other",
            "/dir-to-file x",
            "/file-to-dir/ 755",
            "/file-to-dir/f f",
            "/file-to-dir/own o",
            "/mode/ 700",
            "/new/ 755",
            "/new/tree/ 755",
            "/new/tree/f n",
            "/relinked -> same/b",
            "/same/ 755",
        ]
    );
}
