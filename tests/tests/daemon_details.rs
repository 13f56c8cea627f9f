//! What clients of the daemon get to read and to keep beside their results: where a mistake is, what a result is made
//! of; and which of their files they are asked for.

use std::fs;
use std::path::Path;

use base64::Engine;
use bollard_buildkit_proto::moby::buildkit::v1 as api;
use gateway_proto::frontend as bridge;
use gateway_proto::frontend::result::Result as Given;
use gateway_tests::calls::{Driven, exporter, file, step, theirs};
use gateway_tests::daemon::said;
use gateway_tests::program::run;
use gateway_tests::rig::Rig;
use gateway_tests::scanner;
use prost::Message;
use serde_json::{Value, json};

/// What a status carries in its details.
#[derive(Clone, PartialEq, Message)]
struct Detailed {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The details of one type.
fn details(status: &tonic::Status, kind: &str) -> Vec<Value> {
    let all = Detailed::decode(status.details()).expect("details");
    assert_eq!(all.code, 2);
    assert_eq!(all.message, status.message());
    let kind = format!("github.com/moby/buildkit/errdefs.{kind}+json");
    let found = all.details.iter().filter(|detail| detail.type_url == kind);
    found
        .map(|detail| serde_json::from_slice(&detail.value).expect("JSON"))
        .collect()
}

/// The build file that a detail shows, and its lines that are marked: all that an excerpt is made of.
fn shown(source: &Value) -> (String, String, Vec<(u64, u64)>) {
    let data = source["info"]["data"].as_str().expect("the file");
    let data = base64::engine::general_purpose::STANDARD.decode(data);
    let line = |range: &Value, end: &str| range[end]["line"].as_u64().unwrap_or_default();
    let ranges = source["ranges"].as_array().expect("ranges");
    (
        source["info"]["filename"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        String::from_utf8(data.expect("base64")).expect("text"),
        ranges
            .iter()
            .map(|range| (line(range, "start"), line(range, "end")))
            .collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn p17_mistakes_and_failed_steps_carry_the_lines_that_clients_show() {
    let rig = Rig::new();
    let text = "FROM scratch\nCOPPY a /\n";
    let mut wrong = Driven::begin(&rig, api::SolveRequest::default(), "wrong").await;
    let refused = wrong
        .dockerfile(text, &[], &[])
        .await
        .expect_err("no such instruction");
    assert!(
        refused.message().contains("unknown instruction: COPPY"),
        "{refused:?}"
    );
    let sources: Vec<_> = details(&refused, "Source").iter().map(shown).collect();
    let place = ("Dockerfile".to_owned(), text.to_owned(), vec![(2, 2)]);
    assert_eq!(sources, [place]);
    wrong.built.abort();

    // A step of several lines fails when its result is needed: the last call says so.
    let text = "FROM busybox\nRUN echo first\nRUN echo said >&2; \\\n    exit 7\n";
    let mut failed = Driven::begin(&rig, api::SolveRequest::default(), "failed").await;
    let result = failed.dockerfile(text, &[], &[]).await.expect("a graph");
    let failed = failed.end(result).await.expect_err("a step that fails");
    assert!(failed.message().contains("exit code: 7"), "{failed:?}");
    let sources: Vec<_> = details(&failed, "Source").iter().map(shown).collect();
    let place = (
        "Dockerfile".to_owned(),
        text.to_owned(),
        vec![(3, 3), (4, 4)],
    );
    assert_eq!(sources, [place]);
    let vertices = details(&failed, "Vertex");
    let digest = vertices[0]["digest"].as_str().expect("a digest");
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert_eq!(details(&failed, "Solve").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p44_a_bill_of_materials_of_a_scanner_is_pushed_beside_the_image() {
    let rig = Rig::new();
    scanner::push(&rig.registry);
    let name = format!("{}/out/scanned:1", rig.registry.address);
    let generator = format!("generator={},depth=3", scanner::IMAGE);
    let attested = [
        ("attest:sbom", generator.as_str()),
        ("attest:provenance", "mode=max"),
    ];
    let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let request = api::SolveRequest {
        frontend_attrs: attested.map(own).into(),
        exporters: vec![exporter("image", &[("name", &name), ("push", "true")])],
        ..Default::default()
    };
    let mut driven = Driven::begin(&rig, request, "scanned").await;
    let text = "FROM scratch\nCOPY in-context /one\n";
    let result = driven.dockerfile(text, &attested, &[]).await;
    driven
        .end(result.expect("a graph"))
        .await
        .expect("the build");
    let index = rig.raw("out/scanned:1");
    let attestation = index["manifests"][1]["digest"].as_str().expect("a digest");
    let manifest = rig.raw(&format!("out/scanned@{attestation}"));
    let layers = manifest["layers"].as_array().expect("statements");
    let kinds: Vec<&str> = layers
        .iter()
        .filter_map(|layer| layer["annotations"]["in-toto.io/predicate-type"].as_str())
        .collect();
    assert!(kinds.contains(&"https://spdx.dev/Document"), "{kinds:?}");
    assert!(
        kinds.contains(&"https://slsa.dev/provenance/v1"),
        "{kinds:?}"
    );
}

/// Asked for by a client, as by the command line.
#[tokio::test(flavor = "multi_thread")]
async fn p44_what_steps_used_is_told_to_clients_that_ask_for_it() {
    let rig = Rig::new();
    let name = format!("{}/out/used:1", rig.registry.address);
    let attested = [("attest:provenance", "mode=max,capture-usage=true")];
    let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let request = api::SolveRequest {
        frontend_attrs: attested.map(own).into(),
        exporters: vec![exporter("image", &[("name", &name), ("push", "true")])],
        ..Default::default()
    };
    let mut driven = Driven::begin(&rig, request, "used").await;
    let text = "FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=1M count=50\n";
    let result = driven.dockerfile(text, &attested, &[]).await;
    let ended = driven.end(result.expect("a graph")).await;
    ended.expect("the build");
    let index = rig.raw("out/used:1");
    let attestation = index["manifests"][1]["digest"].as_str().expect("a digest");
    let manifest = rig.raw(&format!("out/used@{attestation}"));
    let statement = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let statement = rig.blob("out/used", statement);
    let predicate = &statement["predicate"];
    let steps = predicate
        .pointer("/buildDefinition/internalParameters/buildConfig/llbDefinition")
        .and_then(Value::as_array)
        .unwrap_or_else(|| panic!("no steps: {predicate}"));
    let used = steps.iter().find_map(|step| step.get("resourceUsage"));
    let used = used.unwrap_or_else(|| panic!("no step used anything: {predicate}"));
    let last = used["samples"].as_array().and_then(|list| list.last());
    let nanos = last.and_then(|last| last["cpuStat"]["usageNanos"].as_u64());
    assert!(nanos > Some(0), "{used}");
    let machine = &predicate["runDetails"]["metadata"]["buildkit_metadata"]["sysUsage"];
    assert!(machine[0]["cpuStat"]["idle"].is_number(), "{machine}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p44_graphs_of_clients_are_scanned_platform_by_platform() {
    let rig = Rig::new();
    scanner::push(&rig.registry);
    let generator = format!("generator={},depth=3", scanner::IMAGE);
    let attrs = [("attest:sbom".to_owned(), generator)];
    let request = |name: &str| api::SolveRequest {
        frontend_attrs: attrs.clone().into(),
        exporters: vec![exporter(
            "image",
            &[
                ("name", &format!("{}/{name}", rig.registry.address)),
                ("push", "true"),
            ],
        )],
        ..Default::default()
    };
    // As `buildctl build` of a graph.
    let mut control = rig.control().await;
    let graph = api::SolveRequest {
        r#ref: "graph".to_owned(),
        definition: Some(theirs(&step("echo > /made; rm -rf /tmp"))),
        ..request("out/graph:1")
    };
    control.solve(graph).await.expect("the build");
    let found = |name: &str, of: usize| {
        let index = rig.raw(name);
        let attestation = index["manifests"][of]["digest"].as_str().expect("a digest");
        let (name, _) = name.split_once(':').expect("a tag");
        let manifest = rig.raw(&format!("{name}@{attestation}"));
        let layers = manifest["layers"].as_array().expect("statements");
        assert_eq!(layers.len(), 1, "{manifest}");
        let kind = &layers[0]["annotations"]["in-toto.io/predicate-type"];
        assert_eq!(kind, "https://spdx.dev/Document");
        let statement = rig.blob(name, layers[0]["digest"].as_str().expect("a digest"));
        statement["predicate"]["files"].to_string()
    };
    let files = found("out/graph:1", 1);
    assert!(files.contains("made") && !files.contains("tmp"), "{files}");

    // As a client that returns a result of each platform.
    let mut driven = Driven::begin(&rig, request("out/several:1"), "several").await;
    let mut refs = Vec::new();
    for (platform, name) in [("linux/amd64", "one"), ("linux/arm64", "two")] {
        let solved = driven
            .solve(bridge::SolveRequest {
                definition: Some(file(name, "")),
                ..Default::default()
            })
            .await
            .expect("a result");
        let Some(Given::Ref(reference)) = solved.result else {
            panic!("{solved:?}");
        };
        refs.push(bridge::RefEntry {
            key: platform.to_owned(),
            value: Some(reference),
        });
    }
    let platforms = json!({"Platforms": [
        {"ID": "linux/amd64", "Platform": {"architecture": "amd64", "os": "linux"}},
        {"ID": "linux/arm64", "Platform": {"architecture": "arm64", "os": "linux"}},
    ]});
    let result = bridge::Result {
        result: Some(Given::Refs(bridge::RefMap { refs })),
        metadata: [("refs.platforms".to_owned(), platforms.to_string().into())].into(),
        ..Default::default()
    };
    driven.end(result).await.expect("the build");
    assert_eq!(found("out/several:1", 2), "\"one \"");
    assert_eq!(found("out/several:1", 3), "\"two \"");

    // What cannot be scanned is not built without being scanned.
    let missing = api::SolveRequest {
        r#ref: "missing".to_owned(),
        definition: Some(theirs(&step("true"))),
        frontend_attrs: [("attest:sbom".to_owned(), "generator=test/none:1".to_owned())].into(),
        ..request("out/missing:1")
    };
    let refused = control.solve(missing).await.expect_err("no such scanner");
    assert!(
        refused
            .message()
            .contains("docker.io/test/none:1: not found"),
        "{refused:?}"
    );
    let unknown = api::SolveRequest {
        r#ref: "unknown".to_owned(),
        definition: Some(theirs(&step("true"))),
        frontend_attrs: [("attest:weather".to_owned(), String::new())].into(),
        ..Default::default()
    };
    let refused = control.solve(unknown).await.expect_err("no such kind");
    assert!(
        refused
            .message()
            .contains("unknown attestation type \"weather\""),
        "{refused:?}"
    );
}

/// Lines of an ignore file, files that they hide and files that they do not: a row each, in a directory of its own.
const ROWS: [(&[&str], &[&str], &[&str]); 21] = [
    (&["/?/foo"], &["foo/x"], &["a/foo", "foobar"]),
    (&["/?/*/foo"], &["a/foo", "b/foo/x"], &["foo", "c/b/foo"]),
    (&["/?/**/foo"], &["foo", "a/foo", "b/c/foo"], &["xfoo"]),
    (&["/?/foo/**"], &["foo/a", "foo/b/c"], &["foobar"]),
    (&["/?/foo/*"], &["foo/a", "foo/b/c"], &["foobar"]),
    (&["/?/a/**/z"], &["a/z", "a/b/z", "a/b/c/z"], &["az"]),
    (&["/?/*"], &["a", "b/c", ".x"], &[]),
    (&["/?/dir", "!/?/dir/keep"], &["dir/x"], &["dir/keep"]),
    (&["/?/dir", "!/?/dir/keep"], &["dir/x"], &["dir/keep/y"]),
    (&["!/?/dir/keep", "/?/dir"], &["dir/keep"], &[]),
    (
        &["/?/*", "!/?/*.go", "/?/x.go"],
        &["x.go", "a.c"],
        &["a.go"],
    ),
    (&["/?/[^a]x"], &["bx"], &["ax"]),
    (&["/?/a?c"], &["abc"], &["a/c"]),
    (&["/?/a.b"], &["a.b"], &["axb"]),
    (&["/?/foo/"], &["foo"], &["bar"]),
    (&["./?/foo"], &["foo"], &["bar"]),
    (&["?/./x/../foo"], &["foo"], &["x/foo"]),
    (&["/?/a{b,c}"], &["a{b,c}"], &["ab"]),
    (&["/?/a\\*b"], &["a*b"], &["axb"]),
    (&["  /?/foo  ", "# /?/bar", "   "], &["foo"], &["bar"]),
    (&["/?/foo", "!  /?/foo"], &[], &["foo"]),
];

#[test]
fn p30_every_kind_of_pattern_hides_what_it_says() {
    let rig = Rig::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let context = dir.path().join("context");
    let write = |path: &Path, text: &str| {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("writing");
    };
    let mut patterns = "\u{feff}".to_owned();
    for (number, (lines, hidden, shown)) in ROWS.iter().enumerate() {
        for line in *lines {
            patterns += &line.replacen('?', &format!("row{number}"), 1);
            patterns.push('\n');
        }
        for file in hidden.iter().chain(*shown) {
            let file = context.join(format!("row{number}")).join(file);
            write(&file, "");
        }
    }
    write(&context.join("Dockerfile"), "FROM scratch\nCOPY . /\n");
    write(&context.join(".dockerignore"), &patterns);
    let out = dir.path().join("out");
    let mut build = rig.daemon.docker(&dir.path().join("docker"));
    build.args(["build", "--output", &out.display().to_string()]);
    let output = run(build.arg(&context));
    assert!(output.status.success(), "{}", said(&output));
    let mut wrong = Vec::new();
    for (number, (lines, hidden, shown)) in ROWS.iter().enumerate() {
        let row = out.join(format!("row{number}"));
        let hidden = hidden.iter().filter(|file| row.join(file).exists());
        wrong.extend(hidden.map(|file| format!("{lines:?} does not hide {file}")));
        let shown = shown.iter().filter(|file| !row.join(file).exists());
        wrong.extend(shown.map(|file| format!("{lines:?} hides {file}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn p56_docker_builds_through_ssh() {
    let rig = Rig::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let context = dir.path().join("context");
    fs::create_dir(&context).expect("a folder");
    fs::write(
        context.join("Dockerfile"),
        "FROM busybox\nRUN echo built > /made\n",
    )
    .expect("writing");
    // Runs here what would be run there.
    let ssh = dir.path().join("ssh");
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" != docker ]; do shift; done\necho \"$@\" >> {}\nexport DOCKER_HOST=unix://{}\nexec \"$@\"\n",
        dir.path().join("asked").display(),
        rig.daemon.socket().display()
    );
    fs::write(&ssh, script).expect("writing");
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let out = dir.path().join("out");
    let mut docker = std::process::Command::new("/usr/bin/docker");
    docker
        .env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()))
        .env("DOCKER_BUILDKIT", "1")
        .env("DOCKER_CONFIG", dir.path().join("docker"))
        .env_remove("DOCKER_HOST")
        .args(["--host", "ssh://somebody@elsewhere", "build", "--output"])
        .arg(&out)
        .arg(&context)
        .stdin(std::process::Stdio::null());
    let output = run(&mut docker);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        fs::read_to_string(out.join("made")).expect("the result"),
        "built\n"
    );
    let asked = fs::read_to_string(dir.path().join("asked")).expect("what was asked");
    assert!(asked.contains("docker system dial-stdio"), "{asked}");
}
