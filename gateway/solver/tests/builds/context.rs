//! The client's directory in place: what of it shows, what happens when it changes meanwhile, and
//! that a copy made from an earlier one is what a whole copy is.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use gateway_llb::{Constraints, FileActions, LocalSource, Mkdir, Mkfile, Mount, State};
use gateway_solver::{Exporter, Job, OutputTarget, ResultRef, SolvedRefs, SolvedResult};

use crate::Bench;
use crate::bench::{base, copy_in, sh};

/// So many files that a copy of them is derived from an earlier one.
const MANY: usize = 130;

fn context(bench: &Bench) -> PathBuf {
    bench.dir.path().join("context")
}

/// Makes everything so old that it cannot be young any more; what is made after has a time of
/// its own.
fn age(dir: &Path) {
    std::thread::sleep(Duration::from_millis(150));
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    std::fs::File::open(dir).unwrap().set_modified(old).unwrap();
}

fn fill(bench: &Bench) {
    for i in 0..MANY {
        bench.write(&format!("d{}/f{i}", i % 7), &format!("file {i}\n"));
    }
    std::fs::create_dir(context(bench).join("empty")).unwrap();
    symlink("d1/f1", context(bench).join("link")).unwrap();
}

/// Digests of the layers' tars, lowest first.
async fn layers(bench: &Bench, job: &Job, result: ResultRef) -> Vec<String> {
    let out = bench.dir.path().join("out");
    let _ = std::fs::remove_dir_all(&out);
    let exporter = Exporter::Oci {
        dest: OutputTarget::Dir(out.clone()),
        tar: false,
        names: Vec::new(),
        attrs: BTreeMap::from([("compression".to_owned(), "uncompressed".to_owned())]),
    };
    let config = r#"{"architecture":"amd64","os":"linux","config":{}}"#;
    let solved = SolvedResult {
        refs: SolvedRefs::Single(Some(result)),
        attestations: BTreeMap::new(),
        metadata: BTreeMap::from([(
            "containerimage.config".to_owned(),
            config.as_bytes().to_vec(),
        )]),
    };
    job.export(solved, &[exporter], &[]).await.unwrap();
    let json = |path: PathBuf| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let index = json(out.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let manifest = json(out.join("blobs").join(digest.replace(':', "/")));
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect()
}

async fn built(bench: &Bench, state: &State) -> Vec<String> {
    let (job, result) = bench.build(state).await.unwrap();
    layers(bench, &job, result).await
}

/// What a build ends with: the uppermost layer, or why there is none (a directory of the context where
/// the base has a file).
async fn top_layer(bench: &Bench, state: &State) -> Result<Option<String>, String> {
    let (job, result) = bench.build(state).await.map_err(|error| error.message)?;
    Ok(layers(bench, &job, result).await.pop())
}

/// The same context with a store that knows nothing.
fn blank(bench: &Bench) -> Bench {
    let other = Bench::new();
    std::fs::remove_dir(context(&other)).unwrap();
    symlink(context(bench), context(&other)).unwrap();
    other
}

/// The same in a store that knows nothing.
async fn built_whole(bench: &Bench, state: &State) -> Vec<String> {
    built(&blank(bench), state).await
}

/// How many layers of the store are changes over another one.
fn derived(bench: &Bench) -> usize {
    let layers = std::fs::read_dir(bench.store().join("layers")).unwrap();
    layers
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains('+'))
        .count()
}

fn all_into(base: &State, dest: &str) -> State {
    copy_in(base, "/", dest)
}

/// One edit of the context; numbers choose which.
fn edit(dir: &Path, kind: u8, which: usize) {
    let path = dir.join(format!("d{}/f{}", which % 7, which % MANY));
    let new = dir.join(format!("d{}/new{which}", which % 7));
    match kind % 9 {
        0 => drop(std::fs::write(&path, format!("edited {which}\n"))),
        1 => drop(std::fs::remove_file(&path)),
        2 => drop(std::fs::write(&new, "new")),
        3 => {
            std::fs::create_dir_all(dir.join(format!("n{which}/deep"))).unwrap();
            std::fs::write(dir.join(format!("n{which}/deep/f")), "deep").unwrap();
        }
        4 => drop(std::fs::remove_dir_all(dir.join(format!("n{which}")))),
        5 => {
            let mode = std::fs::Permissions::from_mode(0o700 + (which % 8) as u32);
            drop(std::fs::set_permissions(
                dir.join(format!("d{}", which % 7)),
                mode,
            ));
        }
        6 => {
            drop(std::fs::remove_file(dir.join("link")));
            symlink(format!("d1/f{which}"), dir.join("link")).unwrap();
        }
        7 => drop(std::fs::rename(&path, &new)),
        // A file becomes a directory, or the other way round.
        _ => match path.is_dir() {
            true => drop(std::fs::remove_dir(&path)),
            false => {
                drop(std::fs::remove_file(&path));
                drop(std::fs::create_dir(&path));
            }
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_edit_beside_a_large_file_is_copied_alone_and_the_layer_is_that_of_a_whole_copy() {
    let bench = Bench::new();
    let large = "0123456789abcdef".repeat(2 << 20);
    bench.write("large", &large);
    bench.write("d/small", "first\n");
    age(&context(&bench));
    let state = all_into(&State::scratch(), "/app/");
    let first = built(&bench, &state).await;
    bench.write("d/small", "edited\n");
    bench.write("d/new", "new\n");
    age(&context(&bench));
    let second = built(&bench, &state).await;
    assert_eq!(derived(&bench), 1);
    assert_ne!(first, second);
    assert_eq!(second, built_whole(&bench, &state).await);
    // When the large one changes, all is copied.
    bench.write("large", &large.replace('0', "1"));
    age(&context(&bench));
    let third = built(&bench, &state).await;
    assert_eq!(derived(&bench), 1);
    assert_eq!(third, built_whole(&bench, &state).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_edit_in_many_files_is_copied_alone_and_the_layer_is_that_of_a_whole_copy() {
    let bench = Bench::new();
    fill(&bench);
    age(&context(&bench));
    let state = all_into(&State::scratch(), "/app/");
    let first = built(&bench, &state).await;
    bench.write("d3/f3", "edited\n");
    std::fs::remove_file(context(&bench).join("d4/f4")).unwrap();
    bench.write("d5/new", "new\n");
    age(&context(&bench));
    let second = built(&bench, &state).await;
    assert_eq!(derived(&bench), 1);
    assert_ne!(first, second);
    assert_eq!(second, built_whole(&bench, &state).await);
    let changes = std::fs::read_dir(bench.store().join("layers"))
        .unwrap()
        .flatten();
    let changes = changes
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains('+'))
        .unwrap();
    let mut files = crate::bench::files_below(&changes);
    files.sort();
    assert_eq!(
        files,
        [changes.join("app/d3/f3"), changes.join("app/d5/new")]
    );
    assert_eq!(bench.file(&state, "/app/d3/f3").await, "edited\n");
    let gone = sh(
        &all_into(&base(), "/app/"),
        "test ! -e /app/d4/f4 && test -e /app/d4/f11",
    );
    bench.build(&gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_copy_hid_comes_back_when_it_is_gone_from_the_context() {
    let bench = Bench::new();
    fill(&bench);
    age(&context(&bench));
    let below = State::scratch().file(
        FileActions::new()
            .mkdir(
                "/app",
                Mkdir {
                    mode: 0o755,
                    ..Mkdir::default()
                },
            )
            .mkdir(
                "/app/d1",
                Mkdir {
                    mode: 0o755,
                    ..Mkdir::default()
                },
            )
            .mkfile(
                "/app/d1/f1",
                Mkfile {
                    mode: 0o600,
                    data: "of the base".into(),
                    ..Mkfile::default()
                },
            ),
        Constraints::new(),
    );
    let state = all_into(&below, "/app/");
    bench.build(&state).await.unwrap();
    bench.write("d2/f2", "edited");
    age(&context(&bench));
    assert_eq!(bench.file(&state, "/app/d1/f1").await, "file 1\n");
    assert_eq!(derived(&bench), 1);
    std::fs::remove_file(context(&bench).join("d1/f1")).unwrap();
    age(&context(&bench));
    assert_eq!(bench.file(&state, "/app/d1/f1").await, "of the base");
    assert_eq!(derived(&bench), 1);
}

#[test]
fn any_edits_give_the_layer_of_a_whole_copy() {
    use proptest::prelude::*;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = ProptestConfig {
        cases: 4,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rounds = prop::collection::vec(
        prop::collection::vec((any::<u8>(), 0_usize..40), 1..4),
        2..5,
    );
    let seen = std::cell::Cell::new(0);
    proptest!(config, |(rounds in rounds, over_base: bool)| {
        let bench = Bench::new();
        fill(&bench);
        age(&context(&bench));
        let below = match over_base {
            // Some of it is in the way of what is copied.
            true => State::scratch().file(
                FileActions::new()
                    .mkdir("/app", Mkdir { mode: 0o711, ..Mkdir::default() })
                    .mkdir("/app/d1", Mkdir { mode: 0o711, ..Mkdir::default() })
                    .mkfile("/app/d1/f1", Mkfile { mode: 0o600, data: "of the base".into(), ..Mkfile::default() })
                    .mkfile("/app/d1/new15", Mkfile { mode: 0o600, data: "of the base".into(), ..Mkfile::default() }),
                Constraints::new(),
            ),
            false => State::scratch(),
        };
        let state = all_into(&below, "/app/");
        for round in rounds {
            let _ = runtime.block_on(top_layer(&bench, &state));
            for (kind, which) in round {
                edit(&context(&bench), kind, which);
            }
            age(&context(&bench));
            let derived = runtime.block_on(top_layer(&bench, &state));
            let whole = runtime.block_on(top_layer(&blank(&bench), &state));
            prop_assert_eq!(derived, whole);
        }
        seen.set(seen.get() + derived(&bench));
    });
    assert!(seen.get() > 0, "no copy was derived from another");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_written_to_during_builds_is_never_found_under_the_digest_of_another_content() {
    let bench = Bench::new();
    fill(&bench);
    let file = context(&bench).join("d0/f0");
    let contents = ["a".repeat(5000), "b".repeat(5000)];
    let state = all_into(&State::scratch(), "/app/");
    let stop = AtomicBool::new(false);
    let (stop, contents) = (&stop, &contents);
    std::thread::scope(|scope| {
        let file = &file;
        let writer = scope.spawn(move || {
            let turns = (0..).take_while(|_| !stop.load(Ordering::Relaxed));
            for turn in turns {
                std::fs::write(file, &contents[turn % 2]).unwrap();
            }
        });
        tokio::task::block_in_place(|| {
            let runtime = tokio::runtime::Handle::current();
            for _ in 0..12 {
                // It may be refused by name; what it stores must be true.
                if let Err(error) = runtime.block_on(bench.build(&state)) {
                    assert!(error.to_string().contains("changed"), "{error}");
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    for content in contents {
        std::fs::write(&file, content).unwrap();
        assert_eq!(bench.file(&state, "/app/d0/f0").await, *content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_context_shows_neither_ignored_files_nor_owners_nor_later_changes() {
    let bench = Bench::new();
    bench.write("seen", "before");
    bench.write("ignored", "secret");
    let owned = context(&bench).join("seen");
    std::os::unix::fs::chown(&owned, Some(1234), Some(1234)).unwrap();
    let mut source = LocalSource::new("context");
    source.exclude_patterns = vec!["ignored".into()];
    let source = source.state(Constraints::new());
    let script = "test ! -e /ctx/ignored && touch /ctx/x; ls -ln /ctx/seen > /owner; \
                  while test ! -e /go; do cat /ctx/seen > /go; done; cat /go > /read";
    let state = base()
        .run(["/bin/sh", "-c", script])
        .mount(Mount::bind("/ctx", &source))
        .root();
    assert_eq!(bench.file(&state, "/read").await, "before");
    let owner = bench.file(&state, "/owner").await;
    let fields: Vec<&str> = owner.split_whitespace().collect();
    assert_eq!(fields[2..4], ["0", "0"], "{owner}");
    // A step cannot write into the client's directory.
    assert!(!context(&bench).join("x").exists());
}
