//! `gateway frontend test`: our own frontend passes every check, and each check finds out a frontend that breaks it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gateway_tests::base_images::{Layout, Tar};
use gateway_tests::program::{Home, binary, run, stderr};
use gateway_tests::raw_frontend::{self, RAW};
use gateway_tests::registry::Registry;
use serde_json::{Value, json};

const CAPS: &str = "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts";

fn gateway(args: &[&str]) -> Output {
    run(Command::new(binary()).args(args))
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        stderr(output)
    )
}

fn contains(text: &str, wanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// An image of our Dockerfile frontend.
fn own(dir: &Path) -> String {
    let program =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/frontend/dockerfile-frontend");
    let place = dir.join("own").display().to_string();
    let program = format!("--binary=linux/amd64={}", program.display());
    let caps = format!("--label=moby.buildkit.frontend.caps={CAPS}");
    let made = gateway(&["frontend", "build", &program, &caps, "-o", &place]);
    assert!(made.status.success(), "{}", stderr(&made));
    format!("oci:{place}")
}

/// An image of the raw frontend, whose answers may be used again, as it says.
fn raw(dir: &Path) -> String {
    let place = dir.join("raw");
    let labels = json!({
        "moby.buildkit.frontend.caps": CAPS,
        "moby.buildkit.frontend.network.none": "true",
        "gateway.frontend.deterministic": "true",
    });
    let config = json!({"Entrypoint": ["/frontend"], "Labels": labels});
    raw_frontend::write_layout(&place, "x", config);
    format!("oci:{}", place.display())
}

#[test]
fn our_own_frontend_passes_every_check() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = own(dir.path());
    let output = gateway(&["frontend", "test", "--strict", &place]);
    assert!(output.status.success(), "{}", text(&output));
    contains(
        &text(&output),
        &[
            "profile strict, without network",
            "ok    f01   builds the sample",
            "ok    f06b  gives up a host",
            "ok    f07   ",
            "ok    f19   ",
            "ok    f23   ",
            "ok    f24   ",
            "ok    m1    ",
            "ok    c1    ",
            " 0 failed, 0 weak, 2 do not apply",
        ],
    );
    let report = gateway(&["frontend", "test", "--json", "--only=f16,f30", &place]);
    let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!(report["failed"], 0);
    let checks = report["checks"].as_array().expect("checks");
    let ids: Vec<&str> = checks.iter().filter_map(|c| c["id"].as_str()).collect();
    assert_eq!(ids, ["f01", "f16", "f30"]);
    assert_eq!(checks[1]["outcome"], "skipped");
    let unknown = gateway(&["frontend", "test", "--only=f99", &place]);
    contains(&text(&unknown), &["there is no such check", "f22b"]);
}

/// A frontend (a mode of the raw one), the checks that it breaks, and words of the report.
const BREAKERS: &[(&str, &[&str], &[&str])] = &[
    ("exit", &["f01"], &["exit code: 7"]),
    ("text", &["f01"], &["hello, this is not HTTP/2"]),
    (
        "2019",
        &["f02", "f23"],
        &["empty :authority", "lack allowResultReturn"],
    ),
    ("talks", &["f03"], &["words belong on stderr"]),
    ("option-lines", &["f04"], &["cannot do without"]),
    (
        "strict-workers",
        &["f05"],
        &["BUILDKIT_WORKERS with unknown fields"],
    ),
    ("listed-caps", &["f06"], &["it returned nothing"]),
    (
        "file-op",
        &["f07"],
        &["it solved a file operation (file.base)"],
    ),
    (
        "current",
        &[
            "f06b", "f08", "f09", "f10", "f10b", "f11", "f12", "f13", "f14", "f19", "f22b", "f27",
            "m3",
        ],
        &[
            "it waited for an answer to Ping for ever",
            "plain ids: ",
            "returned one result without a word",
            "it built, though it lacks what the caller requires",
            "local:: it did not look there",
        ],
    ),
    ("metaresolver", &["f15"], &["cannot do without"]),
    ("tag", &["f16"], &["has no digest in its graph"]),
    ("words", &["f17"], &["cannot do without"]),
    ("definitions", &["f18"], &["it returned nothing"]),
    ("no-session", &["f20"], &["has no session id"]),
    ("two-streams", &["f21"], &["over 2 streams"]),
    (
        "open-input",
        &["f21"],
        &["did not end the input of 2 of its processes"],
    ),
    ("small-messages", &["f22"], &["cannot do without"]),
    (
        "nested",
        &["f23"],
        &["without the caches that it was given"],
    ),
    ("warns", &["f24"], &["does not say which lines"]),
    ("stays", &["f25"], &["it had to be killed"]),
    ("writes-files", &["f26"], &["cannot do without"]),
    ("own-image", &["f28"], &["cannot do without"]),
    ("known-caps", &["f29"], &["cannot do without"]),
    ("random", &["f30"], &["gave different graphs"]),
    ("config-only", &["m1"], &["it returned nothing"]),
    ("text-only", &["m2"], &["it returned nothing"]),
    ("hasty", &["c1"], &["returned before it was cancelled"]),
];

#[test]
fn each_check_finds_out_a_frontend_that_breaks_it() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = raw(dir.path());
    let image = format!("--build-arg=IMAGE=docker.io/{RAW}");
    let test = |mode: &str, ids: &[&str]| {
        let mode = format!("--build-arg=MODE={mode}");
        let only = format!("--only={}", ids.join(","));
        let args = ["--strict", &image, &mode, &only, &place];
        run(home.command(&["frontend", "test"]).args(args))
    };
    let mut found: std::collections::BTreeSet<&str> = Default::default();
    let mut wrong = Vec::new();
    for (mode, ids, words) in BREAKERS {
        let output = test(mode, ids);
        let text = text(&output);
        let line = |id: &str, word: &str| text.contains(&format!("{word}  {id:4}  "));
        let passed = ids.iter().find(|id| !line(id, "FAIL") && !line(id, "weak"));
        let missing = words.iter().find(|word| !text.contains(**word));
        if output.status.code() != Some(1) || passed.is_some() || missing.is_some() {
            wrong.push(format!(
                "{mode} passes {passed:?}, lacks {missing:?}:\n{text}"
            ));
        }
        found.extend(*ids);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Nothing is said about a frontend that does not even build its sample.
    contains(
        &text(&test("exit", &["f04"])),
        &[
            "n/a   all other checks",
            "give one in its language with --sample",
        ],
    );
    // What does as it should in the same place passes.
    let output = test("one-stream", &["f03", "f21", "f25"]);
    assert!(output.status.success(), "{}", text(&output));
    contains(&text(&output), &["ok    f21 ", "4 passed"]);
    let all = gateway(&["frontend", "test", "--only=none", &place]);
    let all = text(&all);
    let (_, all) = all.split_once("there are ").expect("the list of checks");
    let unbroken: Vec<&str> = all
        .split([',', ' ', '\n'])
        .filter(|id| id.len() > 1 && id[1..].starts_with(|c: char| c.is_ascii_digit()))
        .filter(|id| !found.contains(id))
        .collect();
    assert!(unbroken.is_empty(), "no frontend breaks {unbroken:?}");
}

#[test]
fn an_image_that_no_host_could_run_is_not_tested() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let other = PathBuf::from(dir.path()).join("other");
    raw_frontend::write_layout(&other, "x", json!({"Entrypoint": ["/no"]}));
    let output = gateway(&["frontend", "test", &format!("oci:{}", other.display())]);
    assert_eq!(output.status.code(), Some(1));
    contains(
        &text(&output),
        &["hosts could not run it", "is not in the image"],
    );
    // One that only another machine could run.
    let place = dir.path().join("elsewhere");
    let files = Tar::default().file("frontend", b"#!/bin/sh\n", (0o755, 0, 0));
    let mut layout = Layout::create(&place).expect("a layout");
    let config = json!({"Entrypoint": ["/frontend"]});
    let image = layout.image(&[files.bytes()], config, "riscv64");
    layout.name(image.expect("an image"), "x");
    layout.close().expect("closing the layout");
    let output = gateway(&["frontend", "test", &format!("oci:{}", place.display())]);
    assert_eq!(output.status.code(), Some(1));
    contains(
        &text(&output),
        &["it has no image for this machine", "only for linux/riscv64"],
    );
}
