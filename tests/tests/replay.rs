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

#[test]
fn a_frontend_runs_only_when_something_changed_for_it() {
    let registry = Registry::with_base_images();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    registry.build_and_push(project.expect("the project"), FRONTEND);
    let home = Home::new(&registry.as_docker_hub());
    let context = home.dir.path().join("context");
    std::fs::create_dir_all(&context).expect("making a folder");
    let builds = Builds { home, context };
    builds.write("Dockerfile", FILE);
    builds.write("a.txt", "a\n");

    let first = builds.build(&[]);
    assert!(!first.replayed);
    assert!(first.warnings > 0);
    let again = builds.build(&[]);
    assert!(again.replayed);
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
