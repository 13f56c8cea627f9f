//! Frontends whose answers are used again: when nothing that they would be told has changed, they do
//! not run; whenever something has, they do.

use std::path::{Path, PathBuf};

use gateway_tests::base_images;
use gateway_tests::expect::Events;
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::registry::Registry;

/// A name of the family whose images are known to decide by nothing but what they are told.
const FRONTEND: &str = "docker/dockerfile:1";
const NOTE: &str =
    "[frontend] docker/dockerfile:1: nothing changed for it, its answers are replayed";
const FILE: &str = "\
# syntax = docker/dockerfile:1
FROM busybox
ARG X=1
maintainer me
COPY . /in/
RUN echo $X > /x
";

struct Builds {
    home: Home,
    context: PathBuf,
}

/// What a build showed.
struct Built {
    replayed: bool,
    warnings: usize,
    digest: String,
}

impl Builds {
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.context.join(name), text).expect("writing a file");
    }

    fn build(&self, flags: &[&str]) -> Built {
        let metadata = self.home.dir.path().join("metadata.json");
        let mut command = self.home.build();
        command
            .args([
                "--progress=rawjson",
                "--output=type=image",
                "--metadata-file",
            ])
            .arg(&metadata)
            .args(flags)
            .arg(&self.context);
        let output = run(&mut command);
        let stderr = stderr(&output);
        assert!(output.status.success(), "{stderr}");
        let events = Events::read(&stderr);
        let metadata: serde_json::Value =
            serde_json::from_slice(&std::fs::read(metadata).expect("metadata")).expect("JSON");
        Built {
            replayed: events.vertices.iter().any(|(name, _)| name == NOTE),
            warnings: events.warnings.len(),
            digest: metadata["containerimage.digest"].to_string(),
        }
    }
}

impl Builds {
    /// A registry with our frontend under the family's name, and a small project.
    fn new(file: &str) -> (Registry, Builds) {
        let registry = Registry::with_base_images();
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        registry.build_and_push(project.expect("the project"), FRONTEND);
        let home = Home::new(&registry.as_docker_hub());
        let context = home.dir.path().join("context");
        std::fs::create_dir_all(&context).expect("making a folder");
        let builds = Builds { home, context };
        builds.write("Dockerfile", file);
        builds.write("a.txt", "a\n");
        (registry, builds)
    }
}

#[test]
fn killed_while_answers_are_kept_the_frontend_runs_again() {
    let (_registry, builds) = Builds::new(FILE);
    let mut killed = builds.home.build();
    killed
        .args(["--quiet", "--output=type=image"])
        .arg(&builds.context)
        .env("GATEWAY_FAIL_POINT", "answer-uncommitted");
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(run(&mut killed).status.signal(), Some(9));
    let first = builds.build(&[]);
    assert!(!first.replayed);
    let again = builds.build(&[]);
    assert!(again.replayed);
    assert_eq!(again.digest, first.digest);
}

#[test]
fn a_frontend_runs_only_when_something_changed_for_it() {
    let (registry, builds) = Builds::new(FILE);
    let first = builds.build(&[]);
    assert!(!first.replayed);
    assert!(first.warnings > 0);
    let again = builds.build(&[]);
    assert!(again.replayed);
    // A recording holds what frontends ask, so they must run for it.
    let records = builds.home.dir.path().join("records");
    let recorded = builds.build(&["--record", &records.display().to_string()]);
    assert!(!recorded.replayed);
    let names = std::fs::read_dir(&records).expect("recordings").flatten();
    let mut names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        ["1-dockerfile.v0.json", "2-docker_dockerfile_1.json"]
    );
    assert_eq!(again.warnings, first.warnings);
    assert_eq!(again.digest, first.digest);
    // The files that steps use are not the frontend's business: they have keys of their own.
    builds.write("a.txt", "b\n");
    let edited = builds.build(&[]);
    assert!(edited.replayed);
    assert_ne!(edited.digest, first.digest);

    assert!(!builds.build(&["--build-arg=X=2"]).replayed);
    assert!(builds.build(&["--build-arg=X=2"]).replayed);
    assert!(!builds.build(&["--no-cache"]).replayed);
    // Runs, and answers as before.
    assert!(!builds.build(&["--verify-replay"]).replayed);

    builds.write("Dockerfile", &FILE.replace("X=1", "X=3"));
    assert!(!builds.build(&[]).replayed);
    assert!(builds.build(&[]).replayed);
    builds.write(".dockerignore", "a.txt\n");
    assert!(!builds.build(&[]).replayed);
    assert!(builds.build(&[]).replayed);

    let other = tempfile::tempdir().expect("a temporary folder");
    let names = base_images::write_layout(other.path()).expect("writing base images");
    let alpine = names.iter().find(|name| name.contains("alpine"));
    registry.push_layout(
        other.path(),
        alpine.expect("alpine"),
        "library/busybox:latest",
    );
    let moved = builds.build(&[]);
    assert!(!moved.replayed);
    assert!(builds.build(&[]).replayed);
}

#[test]
fn what_is_told_beside_the_options_counts_too() {
    let (_registry, builds) = Builds::new(
        "# syntax = docker/dockerfile:1\nFROM base\nCOPY --from=other . /other/\nCOPY . /in/\n",
    );
    let other = builds.home.dir.path().join("other");
    std::fs::create_dir_all(&other).expect("making a folder");
    std::fs::write(other.join("x"), "x\n").expect("writing a file");
    let policy = builds.home.dir.path().join("policy.json");
    let named = format!("--build-context=other={}", other.display());
    let base = |image: &str| format!("--build-context=base=docker-image://{image}");
    let busybox = [base("busybox"), named.clone()];
    let build = |flags: &[String]| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        builds.build(&flags)
    };

    let first = build(&busybox);
    assert!(!first.replayed);
    let again = build(&busybox);
    assert!(again.replayed);
    assert_eq!(again.digest, first.digest);
    // Another base under the same name is another option.
    assert!(!build(&[base("alpine"), named.clone()]).replayed);
    // Files of a named directory are the steps' business; its list of what is ignored is read by
    // the frontend.
    std::fs::write(other.join("x"), "y\n").expect("writing a file");
    let edited = build(&busybox);
    assert!(edited.replayed);
    assert_ne!(edited.digest, first.digest);
    std::fs::write(other.join(".dockerignore"), "x\n").expect("writing a file");
    let ignoring = build(&busybox);
    assert!(!ignoring.replayed);
    assert_ne!(ignoring.digest, edited.digest);

    // A policy that puts one image in the place of another changes what is resolved.
    let rule = serde_json::json!({"rules": [{
        "action": "CONVERT",
        "selector": {"identifier": "docker-image://docker.io/library/busybox:latest"},
        "updates": {"identifier": "docker-image://docker.io/library/alpine:latest"},
    }]});
    std::fs::write(&policy, rule.to_string()).expect("writing a file");
    let policy = format!("--source-policy-file={}", policy.display());
    let converting = [busybox[0].clone(), busybox[1].clone(), policy];
    let converted = build(&converting);
    assert!(!converted.replayed);
    assert_ne!(converted.digest, ignoring.digest);
    assert!(build(&converting).replayed);
}

#[test]
fn builds_of_one_project_at_the_same_time_are_replayed_each_with_its_own_session() {
    let (_registry, builds) = Builds::new(FILE);
    let first = builds.build(&[]);
    let commands: Vec<_> = (0..4)
        .map(|number| {
            let metadata = builds.home.dir.path().join(format!("{number}.json"));
            let mut command = builds.home.build();
            command
                .args(["--progress=rawjson", "--output=type=image"])
                .arg("--metadata-file")
                .arg(&metadata)
                .arg(&builds.context)
                .stderr(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null());
            (metadata, command.spawn().expect("starting a build"))
        })
        .collect();
    for (metadata, child) in commands {
        let output = child.wait_with_output().expect("waiting for a build");
        let stderr = stderr(&output);
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains(NOTE), "{stderr}");
        let metadata: serde_json::Value =
            serde_json::from_slice(&std::fs::read(metadata).expect("metadata")).expect("JSON");
        assert_eq!(metadata["containerimage.digest"].to_string(), first.digest);
    }
}

#[test]
fn pins_are_taken_and_saved_also_of_a_frontend_that_does_not_run() {
    let (_registry, builds) = Builds::new(FILE);
    assert!(!builds.build(&[]).replayed);
    assert!(builds.build(&[]).replayed);
    let dir = builds.home.dir.path();
    let file = dir.join("lock");
    let run = |command: &str, args: &[&std::path::Path]| {
        let mut command = builds.home.command(&[command]);
        command.args(["--progress=plain", "--lock-file"]).arg(&file);
        let output = run(command.args(args).arg(&builds.context));
        let text = stderr(&output);
        assert!(output.status.success() && text.contains(NOTE), "{text}");
    };
    run("lock", &[]);
    let written = std::fs::read_to_string(&file).expect("the lock file");
    for name in [
        "docker.io/docker/dockerfile:1",
        "docker.io/library/busybox:latest",
    ] {
        assert!(written.contains(&format!("name = {name:?}")), "{written}");
    }
    let vendored = dir.join("vendored");
    run("vendor", &[&vendored]);
    let index = std::fs::read_to_string(vendored.join("index.json")).expect("an index");
    for name in [
        "docker.io/docker/dockerfile:1",
        "docker.io/library/busybox:latest",
    ] {
        assert!(index.contains(name), "{index}");
    }
    // Their layers too: a build with nothing else.
    std::fs::remove_dir_all(builds.home.store()).expect("removing the store");
    let from = format!("--vendored={}", vendored.display());
    assert!(!builds.build(&[&from]).replayed);
}
