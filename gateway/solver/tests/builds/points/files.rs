//! What file ops make, and which of them are none.

use gateway_api::Stat;
use gateway_llb::{Chmod, Mkdir, Mkfile, Owner, Rm, Symlink};
use gateway_llb::{Constraints, Copy, FileActions, State, digest_of, pb};
use gateway_solver::policy::SourcePolicies;
use prost::Message;

use crate::Bench;
use crate::bench::local;

fn over(base: &State, actions: FileActions) -> State {
    base.file(actions, Constraints::new())
}

async fn stat(bench: &Bench, state: &State, path: &str) -> Option<Stat> {
    let (job, result) = bench.build(state).await.unwrap();
    job.stat_file(&result, path).await.ok()
}

fn file(mode: u32, timestamp: Option<i64>, owner: Option<Owner>) -> Mkfile {
    Mkfile {
        mode,
        data: b"text".to_vec(),
        owner,
        timestamp,
    }
}

fn dir(mode: u32, owner: Option<Owner>) -> Mkdir {
    Mkdir {
        mode,
        parents: true,
        owner,
        timestamp: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s53_s54_a_mode_of_zero_and_a_time_of_zero_are_meant() {
    let bench = Bench::new();
    bench.write("f", "text");
    let changed = Copy {
        timestamp: Some(0),
        chmod: Some(Chmod::Bits(0)),
        ..Copy::default()
    };
    let actions = FileActions::new()
        .mkfile("/made", file(0, Some(0), None))
        .copy(&local("context"), "/f", "/kept", Copy::default())
        .copy(&local("context"), "/f", "/changed", changed);
    let state = over(&State::scratch(), actions);
    for (path, mode, epoch) in [
        ("/made", 0, true),
        ("/kept", 0o644, false),
        ("/changed", 0, true),
    ] {
        let found = stat(&bench, &state, path).await.unwrap();
        assert_eq!(found.mode & 0o777, mode, "{path}");
        assert_eq!(found.mod_time == 0, epoch, "{path}: {}", found.mod_time);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s56_s57_owners_by_name_and_number() {
    let bench = Bench::new();
    let passwd = Mkfile {
        data: b"root:x:0:0::/:/bin/sh\nme:x:12:34::/:/bin/sh\n".to_vec(),
        ..file(0o644, None, None)
    };
    let users = FileActions::new()
        .mkdir("/etc", dir(0o755, None))
        .mkfile("/etc/passwd", passwd);
    let users = over(&State::scratch(), users);
    let owner = |text: &str| Some(Owner::parse(text));
    let actions = FileActions::new()
        .mkfile("/unknown", file(0o644, None, owner("nobody-knows")))
        .mkfile("/me", file(0o644, None, owner("me")))
        .mkfile("/number", file(0o644, None, owner("7")))
        .mkfile("/both", file(0o644, None, owner("7:8")));
    let state = over(&users, actions);
    for (path, ids) in [
        ("/unknown", (0, 0)),
        ("/me", (12, 34)),
        ("/number", (7, 7)),
        ("/both", (7, 8)),
    ] {
        let found = stat(&bench, &state, path).await.unwrap();
        assert_eq!((found.uid, found.gid), ids, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s58_a_directory_that_is_there_is_not_touched() {
    let bench = Bench::new();
    let owner = Some(Owner::ids(5, 6));
    let first = over(
        &State::scratch(),
        FileActions::new().mkdir("/d", dir(0o700, owner)),
    );
    let again = over(&first, FileActions::new().mkdir("/d", dir(0o755, None)));
    let found = stat(&bench, &again, "/d").await.unwrap();
    assert_eq!((found.mode & 0o777, found.uid, found.gid), (0o700, 5, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn s59_s60_removing_takes_a_link_itself_and_stays_in_the_root() {
    let bench = Bench::new();
    let link = Symlink {
        owner: None,
        timestamp: None,
    };
    let base = FileActions::new()
        .mkdir("/d", dir(0o755, None))
        .mkfile("/d/f", file(0o644, None, None))
        .symlink("/d", "/link", link)
        .mkfile("/top", file(0o644, None, None));
    let base = over(&State::scratch(), base);
    let rm = |path: &str| {
        let options = Rm {
            allow_not_found: false,
            allow_wildcard: false,
        };
        over(&base, FileActions::new().rm(path, options))
    };
    let state = rm("/link");
    assert!(stat(&bench, &state, "/link").await.is_none());
    assert!(stat(&bench, &state, "/d/f").await.is_some());
    // Upwards ends at the root: its own file goes, none of the machine's.
    let state = rm("/d/../../../top");
    assert!(stat(&bench, &state, "/top").await.is_none());
    assert!(stat(&bench, &state, "/d/f").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn s66_a_required_path_that_is_missing_fails_before_anything_is_copied() {
    let bench = Bench::new();
    bench.write("there", "text");
    let options = Copy {
        include_patterns: vec!["*".into()],
        required_paths: vec!["/missing".into()],
        dir_contents_only: true,
        ..Copy::default()
    };
    let actions = FileActions::new().copy(&local("context"), "/", "/", options);
    let error = bench
        .build(&over(&State::scratch(), actions))
        .await
        .unwrap_err();
    assert!(
        error.message.contains("failed to compute cache key"),
        "{}",
        error.message
    );
    assert!(error.message.contains("missing"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn s67_shapes_that_are_no_file_op_are_told_in_known_words() {
    let action = |input, secondary_input, output| pb::FileAction {
        input,
        secondary_input,
        output,
        action: Some(pb::file_action::Action::Mkfile(pb::FileActionMkFile {
            path: "/f".into(),
            mode: 0o644,
            data: b"x".to_vec(),
            timestamp: -1,
            ..pb::FileActionMkFile::default()
        })),
    };
    for (actions, expected) in [
        (vec![action(7, -1, 0)], "invalid input index 7"),
        (
            vec![action(-1, -1, 0), action(0, -1, 0)],
            "duplicate output 0",
        ),
        (vec![action(-1, -1, 1)], "missing output index 0"),
        (vec![action(1, -1, 0), action(0, -1, -1)], "loop from index"),
    ] {
        let bench = Bench::new();
        let op = pb::Op {
            op: Some(pb::op::Op::File(pb::FileOp { actions })),
            ..pb::Op::default()
        };
        let bytes = op.encode_to_vec();
        let last = pb::Op {
            inputs: vec![pb::Input {
                digest: digest_of(&bytes),
                index: 0,
            }],
            ..pb::Op::default()
        };
        let definition = pb::Definition {
            def: vec![bytes, last.encode_to_vec()],
            ..pb::Definition::default()
        };
        let job = bench.job().await;
        let result = job.load(definition, &SourcePolicies::default());
        let error = job.evaluate(&result).await.unwrap_err();
        assert!(error.message.contains(expected), "{}", error.message);
    }
}
