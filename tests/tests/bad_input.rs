//! What goes wrong outside must end in a clear error that names file, line and image, and leave nothing
//! behind.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::program::{Home, run, stderr};
use gateway_tests::registry::{Registry, free_port};
use gateway_tests::remains::nothing_left_behind;
use serde_json::json;

/// Configuration on top of the registry's: frontends that say nothing are given up soon.
const IMPATIENT: &str = "\n[frontend.\"gateway.v0\"]\nstartTimeout = 2\n";

struct Failure {
    code: Option<i32>,
    text: String,
}

/// Builds a file with this syntax line; it must fail and leave nothing in the store's way.
fn fails(home: &Home, dockerfile: &str) -> Failure {
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(context.path().join("Dockerfile"), dockerfile).expect("writing the build file");
    let output = run(home
        .build()
        .args(["--output", "type=oci,dest=/dev/null"])
        .arg(context.path()));
    assert!(!output.status.success(), "it built: {}", stderr(&output));
    nothing_left_behind(&home.store());
    Failure {
        code: output.status.code(),
        text: stderr(&output),
    }
}

fn contains_all(failure: &Failure, wanted: &[&str]) {
    contains_all_and_ends(failure, 1, wanted);
}

/// The same of a failure that is a registry's.
fn contains_all_of_a_registry(failure: &Failure, wanted: &[&str]) {
    contains_all_and_ends(failure, 3, wanted);
}

fn contains_all_and_ends(failure: &Failure, code: i32, wanted: &[&str]) {
    for text in wanted {
        assert!(
            failure.text.contains(text),
            "{text:?} is not in:\n{}",
            failure.text
        );
    }
    assert_eq!(failure.code, Some(code), "{}", failure.text);
}

/// The lines that point at the first line of the build file.
const EXCERPT: &str = "Dockerfile:1\n--------------------\n   1 | >>> # syntax = ";

#[test]
fn p05_a_frontend_image_that_is_not_there_is_named_with_its_line() {
    let registry = Registry::start();
    let home = Home::new(&registry.as_docker_hub());
    let failure = fails(&home, "# syntax = docker/none:7\nFROM scratch\n");
    contains_all_of_a_registry(
        &failure,
        &[
            EXCERPT,
            "docker.io/docker/none:7: not found",
            &registry.address.to_string(),
        ],
    );
}

#[test]
fn a_registry_that_is_away_is_named_with_the_reason() {
    let address = free_port();
    let home = Home::new("");
    let failure = fails(
        &home,
        &format!("# syntax = {address}/a/b:1\nFROM scratch\n"),
    );
    contains_all_of_a_registry(
        &failure,
        &[EXCERPT, &address.to_string(), "connection refused"],
    );
}

#[test]
fn an_unknown_authority_is_told_in_the_known_words() {
    let registry = Registry::start();
    let home = Home::new(&format!(
        "[registry.\"{}\"]\nhttp = false\n",
        registry.address
    ));
    let failure = fails(
        &home,
        &format!("# syntax = {}/a/b:1\nFROM scratch\n", registry.address),
    );
    contains_all_of_a_registry(
        &failure,
        &[
            EXCERPT,
            "failed to do request: ",
            &format!(
                "https://{}/v2/a/b/manifests/1: x509: certificate signed by unknown authority",
                registry.address
            ),
        ],
    );
}

#[test]
fn a_malformed_syntax_line_is_pointed_at() {
    let home = Home::new("");
    let failure = fails(&home, "# syntax = Not//A Reference\nFROM scratch\n");
    contains_all(&failure, &[EXCERPT, "invalid reference format"]);
}

#[test]
fn images_that_are_no_frontends_say_what_they_did() {
    let registry = Registry::start();
    let home = Home::new(&(registry.as_docker_hub() + IMPATIENT));
    let busybox = |args: &[&str]| {
        let mut entrypoint = vec!["/bin/busybox"];
        entrypoint.extend(args);
        json!({"Entrypoint": entrypoint})
    };
    let cases = [
        // No entrypoint means /run, which is not there.
        ("none", json!({}), vec!["/run"]),
        (
            "exits",
            busybox(&["sh", "-c", "exit 3"]),
            vec!["exit code: 3"],
        ),
        (
            "quits",
            busybox(&["true"]),
            vec!["no result for incomplete build"],
        ),
        (
            "complains",
            busybox(&["sh", "-c", "echo out of cheese >&2; exit 1"]),
            vec!["exit code: 1", "out of cheese"],
        ),
        (
            "talks",
            busybox(&["sh", "-c", "echo hello; sleep 100"]),
            vec!["stdout", "hello"],
        ),
        ("sleeps", busybox(&["sleep", "100"]), vec!["2 s"]),
    ];
    for (name, config, wanted) in cases {
        let image = format!("bad/{name}:1");
        registry.push_busybox(&image, config);
        let started = Instant::now();
        let failure = fails(&home, &format!("# syntax = {image}\nFROM scratch\n"));
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{name} took too long"
        );
        contains_all(&failure, &[EXCERPT, &image]);
        contains_all(&failure, &wanted);
    }
}

#[test]
fn ctrl_c_ends_a_running_step_and_leaves_nothing() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM busybox\nRUN echo started; sleep 4242\n",
    )
    .expect("writing the build file");
    let archive = context.path().join("never.tar");
    let mut child = home
        .build()
        .args(["--progress=plain", "--output"])
        .arg(format!("type=oci,dest={}", archive.display()))
        .arg(context.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting the build");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
    let running = lines.any(|line| line.is_ok_and(|line| line.ends_with(" started")));
    assert!(running, "the step never started");
    let interrupted = Instant::now();
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("kill");
    assert!(killed.success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let status = child.wait().expect("the build's end");
    assert!(
        interrupted.elapsed() < Duration::from_secs(5),
        "slow to end"
    );
    assert_eq!(status.code(), Some(130), "{rest:?}");
    assert!(!archive.exists(), "a half-written archive");
    nothing_left_behind(&home.store());
    // The store is as good as before.
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM busybox\nRUN echo fine\n",
    )
    .expect("writing the build file");
    let output = run(home
        .build()
        .arg("--output")
        .arg(format!("type=oci,dest={}", archive.display()))
        .arg(context.path()));
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn p44_a_failing_step_shows_its_log_and_its_line() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let failure = fails(&home, "FROM busybox\nRUN echo before; exit 7\n");
    contains_all(
        &failure,
        &[
            " > [2/2] RUN echo before; exit 7:\n",
            " before\n------\n",
            "Dockerfile:2\n",
            "   2 | >>> RUN echo before; exit 7\n",
            "error: failed to solve: process \"/bin/sh -c echo before; exit 7\" did not complete successfully: exit code: 7",
        ],
    );
}
