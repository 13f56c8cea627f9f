//! What builds ask of `gateway daemon` beside their steps: questions, named contexts, ignore files, caches,
//! times, attestations, annotations, containers, and sizes that do not fit into the usual ones.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use bollard_buildkit_proto::moby::buildkit::v1 as api;
use gateway_llb::pb;
use gateway_proto::frontend as bridge;
use gateway_proto::frontend::exec_message::Input;
use gateway_proto::frontend::result::Result as Given;
use gateway_tests::calls::{Driven, busybox, exporter, file, marshal, of, step, theirs};
use gateway_tests::daemon::{Daemon, said};
use gateway_tests::program::run;
use gateway_tests::raw_frontend::{self, RAW};
use gateway_tests::rig::Rig;
use tokio_stream::wrappers::ReceiverStream;

#[tokio::test(flavor = "multi_thread")]
async fn p17_p40_p43_clients_ask_about_build_files_and_give_graphs_as_contexts() {
    let rig = Rig::new();
    let text = "FROM other AS base
COPY in-context /
FROM base AS second
ARG WHO=me
";
    let mut asked = Driven::begin(
        &rig,
        api::SolveRequest {
            internal: true,
            ..Default::default()
        },
        "asked",
    )
    .await;
    let caps = "moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts+forward";
    let with = |question| {
        [
            ("requestid", question),
            ("frontend.caps", caps),
            ("context:other", "input:other"),
        ]
    };
    let other = [("other", file("of-other", "given"))];
    let outline = asked
        .dockerfile(text, &with("frontend.outline"), &other)
        .await
        .expect("an answer");
    let json: serde_json::Value =
        serde_json::from_slice(&outline.metadata["result.json"]).expect("JSON");
    assert_eq!(json["args"][0]["name"], "WHO");
    let targets = asked
        .dockerfile(text, &with("frontend.targets"), &other)
        .await
        .expect("an answer");
    let told = String::from_utf8_lossy(&targets.metadata["result.txt"]).into_owned();
    assert!(told.contains("second"), "{told}");
    // What is wrong with a build file, without building it.
    let lint = asked
        .dockerfile(
            "from scratch\nCOPY in-context /\n",
            &with("frontend.lint"),
            &other,
        )
        .await
        .expect("an answer");
    let json: serde_json::Value =
        serde_json::from_slice(&lint.metadata["result.json"]).expect("JSON");
    let warning = &json["warnings"][0];
    assert_eq!(warning["ruleName"], "ConsistentInstructionCasing");
    assert_eq!(warning["location"]["ranges"][0]["start"]["line"], 1);
    asked.end(targets).await.expect("the build");

    // A base image that is another target's graph, as bake links them.
    let mut linked = Driven::begin(&rig, api::SolveRequest::default(), "linked").await;
    let caps = "moby.buildkit.frontend.contexts+forward";
    let opts = [("context:other", "input:other"), ("frontend.caps", caps)];
    let result = linked
        .dockerfile(text, &opts, &other)
        .await
        .expect("a result");
    assert_eq!(linked.read(&result, "/of-other").await, b"given");
    assert_eq!(linked.read(&result, "/in-context").await, b"of the context");
    linked.end(result).await.expect("the build");

    // A mistake is told with its place, for the excerpt that clients print.
    let mut wrong = Driven::begin(&rig, api::SolveRequest::default(), "wrong").await;
    let refused = wrong
        .dockerfile("FROM scratch\nCOPPY a /\n", &[], &[])
        .await;
    let refused = refused.expect_err("no such instruction");
    let details = String::from_utf8_lossy(refused.details()).into_owned();
    assert!(details.contains("errdefs.Source+json"), "{details}");
    assert!(details.contains("\"ranges\""), "{details}");
    wrong.built.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_messages_of_more_than_four_mebibytes_go_both_ways() {
    let rig = Rig::new();
    let large = vec![b'x'; 6 << 20];
    let mut driven = Driven::begin(&rig, api::SolveRequest::default(), "large").await;
    let request = bridge::SolveRequest {
        definition: Some(file("large", large.clone())),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    };
    let solved = driven.client.solve(of("large", request)).await;
    let result = solved.expect("a result").into_inner().result.expect("one");
    assert_eq!(driven.read(&result, "/large").await, large);
    driven.end(result).await.expect("the build");
}

#[tokio::test(flavor = "multi_thread")]
async fn p21_p33_p44_p45_images_are_pushed_with_provenance_and_annotations_as_several_outputs() {
    let rig = Rig::new();
    // Into repositories of their own: this registry errs when one is written by two at once.
    let name = |app: &str| format!("{}/out/{app}:1", rig.registry.address);
    let attest = ("attest:provenance", "mode=min,inline-only=true");
    let request = api::SolveRequest {
        r#ref: "several".to_owned(),
        definition: Some(theirs(&step("echo out > /out"))),
        frontend_attrs: HashMap::from([(attest.0.to_owned(), attest.1.to_owned())]),
        exporters: vec![
            exporter("image", &[("name", &name("one")), ("push", "true")]),
            exporter(
                "image",
                &[
                    ("name", &name("two")),
                    ("push", "true"),
                    ("annotation.who", "me"),
                    ("annotation-index.where", "here"),
                ],
            ),
        ],
        ..Default::default()
    };
    let mut control = rig.control().await;
    let answer = control.solve(request).await.expect("the build");
    let response = answer.into_inner().exporter_response;
    for key in [
        "containerimage.digest",
        "containerimage.descriptor",
        "image.name",
    ] {
        assert!(response.contains_key(key), "{response:?}");
    }
    let index = rig.raw("out/one:1");
    let manifests = index["manifests"].as_array().expect("an index");
    assert_eq!(manifests.len(), 2);
    assert_eq!(
        manifests[1]["annotations"]["vnd.docker.reference.type"],
        "attestation-manifest"
    );
    let attestation = manifests[1]["digest"].as_str().expect("a digest");
    let manifest = rig.raw(&format!("out/one@{attestation}"));
    let layer = &manifest["layers"][0]["annotations"]["in-toto.io/predicate-type"];
    assert_eq!(layer, "https://slsa.dev/provenance/v1");

    let index = rig.raw("out/two:1");
    assert_eq!(index["annotations"]["where"], "here");
    let image = index["manifests"][0]["digest"].as_str().expect("a digest");
    let manifest = rig.raw(&format!("out/two@{image}"));
    assert_eq!(manifest["annotations"]["who"], "me");
}

#[tokio::test(flavor = "multi_thread")]
async fn p34_an_image_of_several_platforms_is_pushed_as_one() {
    let rig = Rig::new();
    let name = format!("{}/out/several:1", rig.registry.address);
    let request = api::SolveRequest {
        exporters: vec![exporter("image", &[("name", &name), ("push", "true")])],
        ..Default::default()
    };
    let mut driven = Driven::begin(&rig, request, "several").await;
    let opts = [("platform", "linux/amd64,linux/arm64")];
    let text = "FROM scratch\nARG TARGETARCH\nCOPY in-context /of-$TARGETARCH\n";
    let result = driven.dockerfile(text, &opts, &[]).await.expect("a result");
    driven.end(result).await.expect("the build");
    let index = rig.raw("out/several:1");
    let manifests = index["manifests"].as_array().expect("an index");
    let architectures: Vec<&str> = manifests
        .iter()
        .filter_map(|manifest| manifest["platform"]["architecture"].as_str())
        .collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p36_a_cache_in_a_registry_is_written_and_found_again() {
    let rig = Rig::new();
    let mut control = rig.control().await;
    let reference = format!("{}/cache/app:1", rig.registry.address);
    let entry = |reference: &str| api::CacheOptionsEntry {
        r#type: "registry".to_owned(),
        attrs: HashMap::from([
            ("ref".to_owned(), reference.to_owned()),
            ("mode".to_owned(), "max".to_owned()),
        ]),
    };
    let build = |name: &str, cache: api::CacheOptions| api::SolveRequest {
        r#ref: name.to_owned(),
        definition: Some(theirs(&step("echo cached > /cached"))),
        exporters: vec![exporter("image", &[("name", "cached/app:1")])],
        cache: Some(cache),
        ..Default::default()
    };
    let exports = api::CacheOptions {
        exports: vec![entry(&reference)],
        ..Default::default()
    };
    control
        .solve(build("first", exports))
        .await
        .expect("the build");
    let prune = api::PruneRequest {
        all: true,
        ..Default::default()
    };
    let mut pruned = control.prune(prune).await.expect("pruning").into_inner();
    while pruned.message().await.expect("a record").is_some() {}
    // One that is not there is a warning, not a failure.
    let imports = api::CacheOptions {
        imports: vec![entry(&reference), entry(&format!("{reference}-none"))],
        ..Default::default()
    };
    control
        .solve(build("second", imports))
        .await
        .expect("the build");
    let status = api::StatusRequest {
        r#ref: "second".to_owned(),
    };
    let mut status = control
        .status(status)
        .await
        .expect("the status")
        .into_inner();
    let mut cached = false;
    while let Some(status) = status.message().await.expect("a status") {
        let steps = status.vertexes.iter();
        cached |= steps
            .filter(|v| v.name.contains("echo cached"))
            .any(|v| v.cached);
    }
    assert!(cached);
}

#[tokio::test(flavor = "multi_thread")]
async fn p59_a_client_runs_processes_in_containers_of_its_build() {
    let rig = Rig::new();
    let mut driven = Driven::begin(&rig, api::SolveRequest::default(), "shell").await;
    let request = bridge::SolveRequest {
        definition: Some(marshal(&busybox())),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    };
    let solved = driven.client.solve(of("shell", request)).await;
    let result = solved.expect("a result").into_inner().result.expect("one");
    let Some(Given::Ref(reference)) = result.result.clone() else {
        panic!("{result:?}");
    };
    let container = bridge::NewContainerRequest {
        container_id: "c".to_owned(),
        mounts: vec![pb::Mount {
            dest: "/".to_owned(),
            result_id: reference.id,
            ..Default::default()
        }],
        ..Default::default()
    };
    let made = driven.client.new_container(of("shell", container)).await;
    made.expect("a container");
    let message = |input| bridge::ExecMessage {
        process_id: "p".to_owned(),
        input: Some(input),
    };
    let (send, sent) = tokio::sync::mpsc::channel(4);
    let init = bridge::InitMessage {
        container_id: "c".to_owned(),
        meta: Some(pb::Meta {
            args: ["/bin/sh", "-c", "read word; echo \"$word back\"; exit 3"]
                .map(str::to_owned)
                .to_vec(),
            cwd: "/".to_owned(),
            env: vec!["PATH=/bin:/usr/bin".to_owned()],
            ..Default::default()
        }),
        fds: vec![0, 1, 2],
        ..Default::default()
    };
    let typed = bridge::FdMessage {
        fd: 0,
        eof: true,
        data: b"there and\n".to_vec(),
    };
    send.send(message(Input::Init(init))).await.unwrap();
    send.send(message(Input::File(typed))).await.unwrap();
    let stream = of("shell", ReceiverStream::new(sent));
    let mut heard = driven
        .client
        .exec_process(stream)
        .await
        .expect("a process")
        .into_inner();
    let (mut output, mut code) = (Vec::new(), None);
    while let Some(heard) = heard.message().await.expect("a message") {
        match heard.input {
            Some(Input::File(piece)) if piece.fd == 1 => output.extend(piece.data),
            Some(Input::Exit(exit)) => code = Some(exit.code),
            Some(Input::Done(_)) => break,
            _ => {}
        }
    }
    assert_eq!(String::from_utf8_lossy(&output), "there and back\n");
    assert_eq!(code, Some(3));
    drop(send);
    let release = bridge::ReleaseContainerRequest {
        container_id: "c".to_owned(),
    };
    let released = driven.client.release_container(of("shell", release)).await;
    // It says once more how the process ended, as the reference does.
    assert!(released.is_err_and(|status| status.message() == "exit code: 3"));
    driven.end(result).await.expect("the build");
}

#[tokio::test(flavor = "multi_thread")]
async fn p59_a_frontend_runs_processes_in_containers_of_its_build() {
    let mut rig = Rig::new();
    raw_frontend::push(&rig.registry);
    let said_both = |text: &str| {
        for (name, said, code) in [
            ("one", "ready\nover\n", 0),
            ("two", "there and back\nits-host\n", 3),
        ] {
            let told = format!("process {name} said {said:?} and ended with {code}");
            assert!(text.contains(&told), "{told}: not in:\n{text}");
        }
    };
    // A client that names the frontend, as `buildctl build --frontend gateway.v0`.
    let before = rig.daemon.holds();
    let mut control = rig.control().await;
    let opts = [("source", RAW), ("build-arg:MODE", "container")];
    let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let request = api::SolveRequest {
        r#ref: "named".to_owned(),
        frontend: "gateway.v0".to_owned(),
        frontend_attrs: opts.map(own).into(),
        ..Default::default()
    };
    let status = api::StatusRequest {
        r#ref: "named".to_owned(),
    };
    control.solve(request).await.expect("the build");
    let mut stream = control.status(status).await.expect("a stream").into_inner();
    let mut log = Vec::new();
    while let Some(status) = stream.message().await.expect("a message") {
        log.extend(status.logs.into_iter().flat_map(|log| log.msg));
    }
    said_both(&String::from_utf8_lossy(&log));
    // A client that reads what the frontend had built.
    let mut driven = Driven::begin(&rig, api::SolveRequest::default(), "driven").await;
    let request = bridge::SolveRequest {
        frontend: "gateway.v0".to_owned(),
        frontend_opt: opts.map(own).into(),
        ..Default::default()
    };
    let result = driven.solve(request).await.expect("a result");
    assert!(!driven.read(&result, "/bin/busybox").await.is_empty());
    driven.end(result).await.expect("the build");
    // docker, and a build file that names the frontend.
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), format!("# syntax={RAW}\n")).unwrap();
    let argument = "--build-arg=MODE=container";
    let (built, text) = docker(&rig.daemon, dir.path(), &[argument]);
    assert!(built, "{text}");
    // Its stderr says quotes as they are.
    said_both(&text);
    // What the frontends left running ended with them.
    rig.daemon.wait("nothing is left running", |daemon| {
        daemon.holds().children <= before.children + 1
    });
    assert_eq!(rig.daemon.holds().mounts, before.mounts);
}

/// `docker build` of a folder.
fn docker(daemon: &Daemon, dir: &Path, more: &[&str]) -> (bool, String) {
    let mut build = daemon.docker(&dir.join("docker"));
    build.args(["build", "--progress=plain"]).args(more);
    let output = run(build.arg(dir.join("context")));
    (output.status.success(), said(&output))
}

#[test]
fn p30_p32_p38_ignore_files_edited_build_files_and_the_time_of_a_build() {
    let rig = Rig::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let write = |name: &str, content: &str| {
        let path = dir.join("context").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    for name in [
        "a/keep.txt",
        "a/drop.txt",
        "a/b/drop.txt",
        "top.log",
        "# hash",
    ] {
        write(name, name);
    }
    write("Dockerfile", "FROM scratch\nCOPY . /\n");
    write(
        ".dockerignore",
        "\u{feff}# a comment\n/a\n!a/keep.txt\n**/*.log\n",
    );
    let out = dir.join("out").display().to_string();
    let (ok, text) = docker(&rig.daemon, dir, &["-o", &out]);
    assert!(ok, "{text}");
    let there = |name: &str| dir.join("out").join(name).exists();
    assert!(there("a/keep.txt") && there("# hash"));
    assert!(!there("a/drop.txt") && !there("a/b") && !there("top.log"));

    // That of the build file wins.
    write("Dockerfile.dockerignore", "a/keep.txt\n");
    let out = dir.join("other").display().to_string();
    let (ok, text) = docker(&rig.daemon, dir, &["-o", &out]);
    assert!(ok, "{text}");
    assert!(!dir.join("other/a/keep.txt").exists());
    assert!(dir.join("other/top.log").exists());

    // An edit of the same length in the same moment is seen: the build file is always fetched.
    for word in ["one", "two", "six"] {
        write(
            "Dockerfile",
            &format!("FROM busybox\nRUN echo {word} > /word\n"),
        );
        let out = dir.join(word).display().to_string();
        let (ok, text) = docker(&rig.daemon, dir, &["-o", &out]);
        assert!(ok, "{text}");
        let seen = fs::read_to_string(dir.join(word).join("word")).unwrap();
        assert_eq!(seen.trim(), word);
    }

    // Two images of the same time are the same to the last byte: the id is the digest of all of it.
    let image = |name: &str| {
        let mut build = rig.daemon.docker(&dir.join("docker"));
        build
            .args(["build", "-q", "--no-cache", "--build-arg"])
            .args(["SOURCE_DATE_EPOCH=1700000000", "-o"])
            .arg(format!("type=image,rewrite-timestamp=true,name={name}"));
        let output = run(build.arg(dir.join("context")));
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let first = image("first/app:1");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(first.starts_with("sha256:"), "{first}");
    assert_eq!(first, image("second/app:1"));
}

#[test]
fn p58_debians_docker_compose_builds_several_services_at_once() {
    let rig = Rig::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(
        dir.join("Dockerfile"),
        "FROM busybox AS one\nRUN echo one > /one\nFROM busybox AS two\nCOPY --from=one /one /two\n",
    )
    .unwrap();
    fs::write(
        dir.join("docker-compose.yaml"),
        "version: \"3.7\"
services:
  first:
    build: {context: ., target: one}
    image: composed/first:1
  second:
    build: {context: ., target: two}
    image: composed/second:1
",
    )
    .unwrap();
    let output = run(Command::new("/usr/bin/docker-compose")
        .env("PATH", "/usr/bin:/bin")
        .env("DOCKER_BUILDKIT", "1")
        .env("COMPOSE_DOCKER_CLI_BUILD", "1")
        .env("DOCKER_CONFIG", dir.join("docker"))
        .env(
            "DOCKER_HOST",
            format!("unix://{}", rig.daemon.socket().display()),
        )
        .args(["build", "--parallel"])
        .current_dir(dir)
        .stdin(Stdio::null()));
    assert!(output.status.success(), "{}", said(&output));
    let images = rig.images();
    for name in ["composed/first:1", "composed/second:1"] {
        assert!(images.contains(name), "{images}");
    }
}
