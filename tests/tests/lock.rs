//! Pins: a lock file that holds a build while everything it names moves, and a vendored layout that stands in for all
//! networks. A registry of Debian's over TLS, a git daemon and a web server are what moves.

use std::path::{Path, PathBuf};
use std::process::Output;

use gateway_tests::base_images::{Layout, Tar};
use gateway_tests::git::GitDaemon;
use gateway_tests::program::{Home, run, stderr, tool};
use gateway_tests::raw_frontend::{self, RAW};
use gateway_tests::registry::Registry;
use gateway_tests::scanner;
use gateway_tests::web::{Page, Web};
use serde_json::json;

const FRONTEND: &str = "you/your-frontend:1";

/// An image of one file that says which it is.
fn push(registry: &Registry, name: &str, release: &str) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let files = Tar::default().file("release", release.as_bytes(), (0o644, 0, 0));
    let mut layout = Layout::create(dir.path()).expect("a layout");
    let image = layout.image(&[files.bytes()], json!({}), "amd64");
    layout.name(image.expect("an image"), name);
    layout.close().expect("closing the layout");
    registry.push_layout(dir.path(), name, name);
}

fn context(build_file: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("Dockerfile"), build_file).expect("the build file");
    std::fs::write(dir.path().join("hello.txt"), "hello\n").expect("a file");
    dir
}

fn lock(home: &Home, context: &Path, args: &[&str]) -> Output {
    run(home.command(&["lock"]).args(args).arg(context))
}

fn read_lock(context: &Path) -> String {
    std::fs::read_to_string(context.join("Dockerfile.lock")).expect("the lock file")
}

/// Builds with an empty store into a folder.
fn build(home: &Home, context: &Path, args: &[&str]) -> (Output, PathBuf) {
    let dest = context.with_extension("out");
    let _ = std::fs::remove_dir_all(&dest);
    let _ = std::fs::remove_dir_all(home.store());
    let mut command = home.build();
    command.args(["--progress=plain", "--output"]);
    command.arg(format!("type=local,dest={}", dest.display()));
    (run(command.args(args).arg(context)), dest)
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        stderr(output)
    )
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(output));
    text(output)
}

fn contains(text: &str, wanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

fn file(dir: &Path, path: &str) -> String {
    std::fs::read_to_string(dir.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn a_lock_holds_a_build_while_everything_it_names_moves() {
    let registry = Registry::start();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    registry.build_and_push(&project, FRONTEND);
    for name in ["test/base:1", "test/tools:1", "test/named:1"] {
        push(&registry, name, "one");
    }
    let git = GitDaemon::start();
    let repository = git.repository("r.git", &[("source", "one")]);
    let home = Home::new(&registry.as_docker_hub());
    let context = context(&format!(
        "# syntax = {FRONTEND}\nFROM test/base:1\nCOPY --from=test/tools:1 /release /tools\n\
         COPY --from=named /release /named\nADD {}#main /src\n",
        git.url("r.git")
    ));
    let context = context.path();
    let named = "--build-context=named=docker-image://test/named:1";

    let missing = refused(&build(&home, context, &["--locked"]).0);
    contains(
        &missing,
        &["there is no lock file", "Dockerfile.lock: `gateway lock`"],
    );
    contains(
        &ok(&lock(&home, context, &[named])),
        &["+ docker.io/you/your-frontend:1", "5 pinned"],
    );
    let written = read_lock(context);
    let places: Vec<usize> = [
        FRONTEND,
        "test/base:1",
        "test/tools:1",
        "test/named:1",
        "r.git",
    ]
    .iter()
    .map(|name| {
        written
            .find(name)
            .unwrap_or_else(|| panic!("{name}: {written}"))
    })
    .collect();
    assert!(
        places.is_sorted(),
        "the frontend first, then bases, then contexts: {written}"
    );
    contains(
        &ok(&lock(&home, context, &[named])),
        &["5 pinned, nothing moved"],
    );
    contains(
        &ok(&lock(&home, context, &[named, "--locked"])),
        &["nothing moved"],
    );

    for name in ["test/base:1", "test/tools:1", "test/named:1"] {
        push(&registry, name, "two");
    }
    git.commit(&repository, &[("source", "two")]);
    let (output, dest) = build(&home, context, &["--locked", named]);
    ok(&output);
    for (path, wanted) in [
        ("release", "one"),
        ("tools", "one"),
        ("named", "one"),
        ("src/source", "one"),
    ] {
        assert_eq!(file(&dest, path), wanted, "{path}");
    }
    let (output, dest) = build(&home, context, &[named]);
    ok(&output);
    assert_eq!(
        file(&dest, "release"),
        "two",
        "without the flag the lock file changes nothing"
    );

    let drift = refused(&lock(&home, context, &[named, "--locked"]));
    contains(
        &drift,
        &[
            "~ docker.io/test/base:1\n    - sha256:",
            "~ docker.io/test/tools:1",
            "~ docker.io/test/named:1",
            "#main\n    - ",
            "gateway lock --update",
        ],
    );
    let report = drift.split_once("error: ").map_or("", |(_, report)| report);
    assert!(!report.contains("your-frontend"), "{report}");
    assert_eq!(read_lock(context), written, "looking writes nothing");

    let moved = ok(&lock(&home, context, &[named, "--update"]));
    contains(
        &moved,
        &[
            "~ docker.io/test/base:1\n    - sha256:",
            "    + sha256:",
            "5 pinned",
        ],
    );
    let (output, dest) = build(&home, context, &["--locked", named]);
    ok(&output);
    assert_eq!(
        (file(&dest, "release"), file(&dest, "src/source")),
        ("two".into(), "two".into())
    );

    let more = file(context, "Dockerfile") + "COPY --from=test/other:1 /release /other\n";
    std::fs::write(context.join("Dockerfile"), more).expect("the build file");
    let unknown = refused(&build(&home, context, &["--locked", named]).0);
    contains(
        &unknown,
        &[
            "docker.io/test/other:1 is not pinned in ",
            "`gateway lock` with the flags",
        ],
    );
    let asked = format!("{}/v2/test/other", registry.address);
    assert!(
        !unknown.contains(&asked),
        "nothing was asked for it: {unknown}"
    );
}

#[test]
fn a_file_of_the_web_that_changed_stops_a_locked_build_and_says_so() {
    let web = Web::start();
    let page = |body: &str| Page {
        body: body.into(),
        ..Page::default()
    };
    web.put("/f.txt", page("one"));
    let url = web.url("/f.txt");
    let context = context(&format!("FROM scratch\nADD {url} /f.txt\n"));
    let home = Home::new("");
    ok(&lock(&home, context.path(), &[]));
    contains(
        &read_lock(context.path()),
        &["[[file]]", &url, "checksum = \"sha256:"],
    );
    let (output, dest) = build(&home, context.path(), &["--locked"]);
    ok(&output);
    assert_eq!(file(&dest, "f.txt"), "one");
    web.put("/f.txt", page("two"));
    let said = refused(&build(&home, context.path(), &["--locked"]).0);
    contains(
        &said,
        &[
            "digest mismatch",
            "Dockerfile.lock pins",
            "gateway lock --update",
        ],
    );
    contains(
        &ok(&lock(&home, context.path(), &["--update"])),
        &["~ http"],
    );
    let (output, dest) = build(&home, context.path(), &["--locked"]);
    ok(&output);
    assert_eq!(file(&dest, "f.txt"), "two");
}

#[test]
fn a_lock_file_edited_by_hand_is_refused_with_what_is_wrong_in_it() {
    let registry = Registry::start();
    push(&registry, "test/base:1", "one");
    let home = Home::new(&registry.as_docker_hub());
    let context = context("FROM test/base:1\n");
    ok(&lock(&home, context.path(), &[]));
    let path = context.path().join("Dockerfile.lock");
    let good = read_lock(context.path());
    let digest = good
        .lines()
        .find(|line| line.starts_with("digest"))
        .expect("a digest");
    let gone = format!("digest = \"sha256:{}\"", "0".repeat(64));
    for (from, to, wanted) in [
        (
            digest,
            "digest = \"sha256:12\"",
            "image 1: \"sha256:12\" is no digest",
        ),
        (digest, "", "image 1: has no digest"),
        ("version = 1", "version = 9", "version 9 is not known"),
        ("version = 1", "<<<<<<< ours\nversion = 1", "line "),
        (digest, gone.as_str(), "sha256:000000"),
    ] {
        std::fs::write(&path, good.replace(from, to)).expect("editing");
        let said = refused(&build(&home, context.path(), &["--locked"]).0);
        contains(&said, &[wanted, "gateway lock --update", "Dockerfile.lock"]);
    }
    contains(
        &ok(&lock(&home, context.path(), &["--update"])),
        &["1 pinned"],
    );
    assert_eq!(read_lock(context.path()), good);
}

#[test]
fn digests_are_written_into_the_build_file_itself() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    push(&registry, "test/base:1", "one");
    let home = Home::new(&registry.as_docker_hub());
    let build_file = "FROM test/base:1 AS base\nFROM scratch\nCOPY --from=base /release /\n";
    let context = context(build_file);
    contains(
        &ok(&lock(&home, context.path(), &["--write"])),
        &["1 pinned in the file itself"],
    );
    let written = file(context.path(), "Dockerfile");
    assert!(written.starts_with("FROM test/base:1@sha256:"), "{written}");
    assert!(
        written.ends_with(" AS base\nFROM scratch\nCOPY --from=base /release /\n"),
        "{written}"
    );
    push(&registry, "test/base:1", "two");
    for args in [&[][..], &["--locked"]] {
        let (output, dest) = build(&home, context.path(), args);
        ok(&output);
        assert_eq!(file(&dest, "release"), "one", "{args:?}");
    }
    contains(
        &ok(&lock(&home, context.path(), &["--write"])),
        &["0 pinned in the file itself"],
    );
    let syntax = self::context(&format!("# syntax = {RAW}\nany language\n"));
    ok(&lock(
        &home,
        syntax.path(),
        &["--write", "--build-arg=MODE=current"],
    ));
    let written = file(syntax.path(), "Dockerfile");
    assert!(
        written.starts_with(&format!("# syntax = {RAW}@sha256:")),
        "{written}"
    );
}

/// `gateway build` where there is no network but a loopback device that is down.
fn build_alone(home: &Home, context: &Path, args: &[&str]) -> (Output, PathBuf) {
    let dest = context.with_extension("out");
    let _ = std::fs::remove_dir_all(&dest);
    let _ = std::fs::remove_dir_all(home.store());
    let inner = home.build();
    let mut command = std::process::Command::new("unshare");
    command
        .arg("--net")
        .arg(inner.get_program())
        .args(inner.get_args());
    command.args(["--progress=plain", "--output"]);
    command.arg(format!("type=local,dest={}", dest.display()));
    (run(command.args(args).arg(context)), dest)
}

#[test]
fn a_vendored_build_needs_no_registry_and_no_network_whatever_its_frontends_age() {
    let mut registry = Registry::start();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    registry.build_and_push(&project, FRONTEND);
    raw_frontend::push_index(&registry, RAW);
    push(&registry, "test/base:1", "one");
    let git = GitDaemon::start();
    git.repository("r.git", &[("source", "one")]);
    let web = Web::start();
    web.put(
        "/f.txt",
        Page {
            body: "one".into(),
            ..Page::default()
        },
    );
    let home = Home::new(&registry.as_docker_hub());
    let current = context(&format!(
        "# syntax = {FRONTEND}\nFROM test/base:1\nADD {} /f.txt\nADD {}#main /src\nCOPY hello.txt /\n",
        web.url("/f.txt"),
        git.url("r.git")
    ));
    let old = context(&format!("# syntax = {RAW}\nas in 2018\n"));
    let age = "--build-arg=MODE=2018";
    let vendor = |context: &Path, args: &[&str]| {
        let dir = context.with_extension("vendor");
        let output = run(home.command(&["vendor"]).args(args).arg(&dir).arg(context));
        (ok(&output), dir)
    };
    let (said, dir) = vendor(current.path(), &[]);
    contains(
        &said,
        &[
            "docker.io/you/your-frontend:1",
            "2 images, 1 file, 1 checkout",
        ],
    );
    let (_, old_dir) = vendor(old.path(), &[age]);
    // Other tools read it.
    let place = format!("oci:{}:docker.io/test/base:1", dir.display());
    contains(&tool("skopeo", &["inspect", &place]), &["\"Layers\": ["]);
    let place = format!("oci:{}:docker.io/{RAW}", old_dir.display());
    contains(
        &tool("skopeo", &["inspect", "--config", &place]),
        &["RELEASE=of the host"],
    );
    registry.stop();
    drop(git);

    let vendored = format!("--vendored={}", dir.display());
    let (output, dest) = build_alone(&home, current.path(), &[&vendored]);
    ok(&output);
    for (path, wanted) in [
        ("release", "one"),
        ("f.txt", "one"),
        ("src/source", "one"),
        ("hello.txt", "hello\n"),
    ] {
        assert_eq!(file(&dest, path), wanted, "{path}");
    }
    let old_vendored = format!("--vendored={}", old_dir.display());
    let (output, dest) = build_alone(&home, old.path(), &[&old_vendored, age]);
    ok(&output);
    assert_eq!(file(&dest, "hello.txt"), "hello\n");

    let more = file(current.path(), "Dockerfile") + "COPY --from=test/other:1 /release /other\n";
    let other = context(&more);
    let said = refused(&build_alone(&home, other.path(), &[&vendored]).0);
    contains(
        &said,
        &["docker.io/test/other:1 is not pinned in ", "gateway vendor"],
    );

    // Each blob that a build reads, damaged: the build says so and what to do.
    let blobs: Vec<_> = std::fs::read_dir(dir.join("blobs/sha256"))
        .expect("the blobs")
        .flatten()
        .collect();
    let mut noticed = 0;
    for blob in &blobs {
        let path = blob.path();
        let good = std::fs::read(&path).expect("a blob");
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&path, bad).expect("a flipped bit");
        let (output, _) = build_alone(&home, current.path(), &[&vendored]);
        if !output.status.success() {
            contains(
                &text(&output),
                &["gateway vendor", &blob.file_name().to_string_lossy()],
            );
            noticed += 1;
        }
        std::fs::write(&path, good).expect("mending");
    }
    // Not read: the artifacts' manifests and their empty config.
    assert_eq!(noticed, blobs.len() - 3, "of {} blobs", blobs.len());
}

#[test]
fn vendoring_again_mends_what_is_damaged_and_drops_what_is_not_used_any_more() {
    let registry = Registry::start();
    push(&registry, "test/base:1", "one");
    push(&registry, "test/base:2", "two");
    let home = Home::new(&registry.as_docker_hub());
    let context = context("FROM test/base:1\n");
    let dir = context.path().with_extension("vendor");
    let vendor = || {
        ok(&run(home
            .command(&["vendor"])
            .arg(&dir)
            .arg(context.path())))
    };
    vendor();
    let vendored = format!("--vendored={}", dir.display());
    for blob in std::fs::read_dir(dir.join("blobs/sha256"))
        .expect("the blobs")
        .flatten()
    {
        std::fs::write(blob.path(), "damaged").expect("damage");
    }
    refused(&build(&home, context.path(), &[&vendored]).0);
    vendor();
    ok(&build(&home, context.path(), &[&vendored]).0);
    std::fs::write(context.path().join("Dockerfile"), "FROM test/base:2\n")
        .expect("the build file");
    let count = || {
        std::fs::read_dir(dir.join("blobs/sha256"))
            .expect("the blobs")
            .count()
    };
    let before = count();
    vendor();
    assert_eq!(count(), before);
    let (output, dest) = build(&home, context.path(), &[&vendored]);
    ok(&output);
    assert_eq!(file(&dest, "release"), "two");

    // With a lock file, that says what is saved; and both together must agree.
    ok(&lock(&home, context.path(), &[]));
    push(&registry, "test/base:2", "three");
    vendor();
    let (output, dest) = build(&home, context.path(), &[&vendored, "--locked"]);
    ok(&output);
    assert_eq!(file(&dest, "release"), "two");
    ok(&lock(&home, context.path(), &["--update"]));
    let said = refused(&build(&home, context.path(), &[&vendored, "--locked"]).0);
    contains(
        &said,
        &["is not what", "~ docker.io/test/base:2", "gateway vendor"],
    );
}

#[test]
fn the_scanner_of_a_result_is_pinned_also_when_its_frontend_knows_nothing_of_it() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    scanner::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let dir = context(&format!("# syntax = {RAW}\n"));
    let asked = format!("--sbom=generator={}", scanner::IMAGE);
    ok(&lock(&home, dir.path(), &[&asked]));
    contains(&read_lock(dir.path()), &["docker.io/test/scanner:1"]);
    // It is another one now; the build runs the one that was there.
    push(&registry, scanner::IMAGE, "that runs nothing");
    let (output, dest) = build(&home, dir.path(), &["--locked", &asked]);
    ok(&output);
    contains(&file(&dest, "sbom.spdx.json"), &["hello.txt"]);
    let (output, _) = build(&home, dir.path(), &[&asked]);
    contains(&refused(&output), &["does not have cmd"]);
}
