//! What the frontend asks of its host, in which order, and what it answers besides builds.

mod oracle;

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::result::Refs;
use gateway_api::{BuildResult, Code, Detail, Error};
use gateway_dockerfile::build;
use oracle::{Case, Memory};
use serde_json::{Value, json};

fn case(dockerfile: &str, opts: &[(&str, &str)]) -> Case {
    let mut files = BTreeMap::new();
    files.insert("Dockerfile".to_owned(), dockerfile.as_bytes().to_vec());
    Case::of(
        files,
        opts.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    )
}

async fn run(case: &Case) -> (Arc<Memory>, Result<BuildResult, Error>) {
    let memory = Arc::new(Memory::new(case));
    let result = build(Arc::clone(&memory) as _).await;
    (memory, result)
}

fn answer(result: &BuildResult, key: &str) -> String {
    String::from_utf8(result.metadata[key].clone()).unwrap()
}

#[tokio::test]
async fn a_build_asks_in_the_order_of_the_reference() {
    let case = case("FROM busybox\nCOPY hello.txt /\nRUN true\n", &[]);
    let (memory, result) = run(&case).await;
    assert_eq!(
        memory.calls(),
        [
            "inputs",
            "solve [internal] load build definition from Dockerfile",
            "read Dockerfile",
            "read Dockerfile.dockerignore",
            "meta [internal] load metadata for docker.io/library/busybox:latest",
            "solve [internal] load .dockerignore",
            "read .dockerignore",
            "solve [3/3] RUN true",
        ]
    );
    let result = result.unwrap();
    let keys: Vec<&String> = result.metadata.keys().collect();
    assert_eq!(
        keys,
        [
            "containerimage.base.config",
            "containerimage.config",
            "refs.platforms"
        ]
    );
    assert_eq!(
        answer(&result, "refs.platforms"),
        r#"{"Platforms":[{"ID":"linux/amd64","Platform":{"architecture":"amd64","os":"linux"}}]}"#
    );
}

#[tokio::test]
async fn an_image_of_two_stages_is_asked_for_once() {
    let case = case("FROM busybox AS a\nFROM busybox\nCOPY --from=a /x /\n", &[]);
    let (memory, _) = run(&case).await;
    let metas = memory
        .calls()
        .iter()
        .filter(|c| c.starts_with("meta "))
        .count();
    assert_eq!(metas, 1);
}

#[tokio::test]
async fn platforms_are_built_side_by_side_and_listed() {
    let case = case(
        "FROM test/multi\n",
        &[("platform", "linux/arm64,linux/amd64")],
    );
    let (_, result) = run(&case).await;
    let result = result.unwrap();
    let Refs::Map(refs) = &result.refs else {
        panic!("no map: {:?}", result.refs);
    };
    assert_eq!(
        refs.keys().collect::<Vec<_>>(),
        ["linux/amd64", "linux/arm64"]
    );
    let list: Value = serde_json::from_str(&answer(&result, "refs.platforms")).unwrap();
    assert_eq!(list["Platforms"][0]["ID"], json!("linux/arm64"));
    let config: Value =
        serde_json::from_str(&answer(&result, "containerimage.config/linux/arm64")).unwrap();
    assert_eq!(config["architecture"], json!("arm64"));
}

#[tokio::test]
async fn p03_p08_a_syntax_line_hands_the_build_over_with_all_options() {
    let text = "# syntax = example/frontend:1 extra\nFROM nothing understood\n";
    let case = case(text, &[("target", "t")]);
    let (memory, result) = run(&case).await;
    result.unwrap();
    let forwards = memory.forwards();
    assert_eq!(forwards.len(), 1);
    assert_eq!(forwards[0].frontend, "gateway.v0");
    let wanted = [
        ("cmdline", "example/frontend:1 extra"),
        ("source", "example/frontend:1"),
        ("target", "t"),
    ];
    let wanted = wanted.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(forwards[0].frontend_opts, wanted);
}

#[tokio::test]
async fn p03_a_forwarded_call_ignores_the_syntax_line() {
    let text = "# syntax = example/frontend:1\nFROM scratch\n";
    let case = case(text, &[("cmdline", "example/frontend:1")]);
    let (memory, result) = run(&case).await;
    result.unwrap();
    assert!(memory.forwards().is_empty());
}

#[tokio::test]
async fn an_unknown_capability_is_refused_unless_it_may_be_forwarded() {
    let opts = [("frontend.caps", "moby.buildkit.frontend.contexts,x.y")];
    let (_, result) = run(&case("FROM scratch\n", &opts)).await;
    let error = result.unwrap_err();
    assert_eq!(error.code, Code::Unimplemented);
    assert_eq!(error.message, "unsupported frontend capability x.y");
    assert_eq!(error.details, [Detail::FrontendCap { name: "x.y".into() }]);

    let opts = [("frontend.caps", "x.y+forward")];
    let (memory, result) = run(&case("# syntax=a\n", &opts)).await;
    result.unwrap();
    assert_eq!(memory.forwards().len(), 1);
    let (_, result) = run(&case("FROM scratch\n", &opts)).await;
    assert_eq!(
        result.unwrap_err().message,
        "unsupported frontend capability x.y"
    );
}

#[tokio::test]
async fn unknown_requests_are_refused_by_name() {
    let (_, result) = run(&case("FROM scratch\n", &[("requestid", "frontend.nope")])).await;
    let error = result.unwrap_err();
    assert_eq!(error.message, "unsupported request frontend.nope");
    let name = "frontend.nope".to_owned();
    assert_eq!(error.details, [Detail::Subrequest { name }]);
}

#[tokio::test]
async fn requests_are_described() {
    let id = ("requestid", "frontend.subrequests.describe");
    let (_, result) = run(&case("FROM scratch\n", &[id])).await;
    assert_eq!(
        answer(&result.unwrap(), "result.txt"),
        "NAME                 VERSION DESCRIPTION\n\
         outline              1.0.0   List all parameters current build target supports\n\
         targets              1.0.0   List all targets current build supports\n\
         subrequests.describe 1.0.0   List available subrequest types\n"
    );
}

#[tokio::test]
async fn targets_are_listed_without_asking_for_images() {
    let text = "# base is first\nFROM nosuch AS base\nFROM base\n";
    let (memory, result) = run(&case(text, &[("requestid", "frontend.targets")])).await;
    let result = result.unwrap();
    assert_eq!(
        answer(&result, "result.txt"),
        "TARGET    DESCRIPTION\nbase      is first\n(default) \n"
    );
    let json: Value = serde_json::from_str(&answer(&result, "result.json")).unwrap();
    assert_eq!(json["targets"][0]["name"], json!("base"));
    assert_eq!(json["targets"][1]["default"], json!(true));
    assert!(!memory.calls().iter().any(|c| c.starts_with("meta ")));
}

#[tokio::test]
async fn an_empty_file_has_no_instructions_to_list_targets_of() {
    let targets = [("requestid", "frontend.targets")];
    for (text, opts, wanted) in [
        ("", &targets[..], "file with no instructions"),
        ("# x\n", &targets[..], "file with no instructions"),
        ("", &[], "the Dockerfile cannot be empty"),
    ] {
        let (_, result) = run(&case(text, opts)).await;
        assert_eq!(result.unwrap_err().message, wanted);
    }
}

#[tokio::test]
async fn an_outline_lists_what_a_target_can_be_given() {
    let text = "ARG VERSION=1\nARG UNUSED=2\nARG IMAGE=busy$VERSION\n\
                FROM scratch AS dep\nARG DEP=x\n\
                # all does it\nFROM scratch AS all\nCOPY --from=dep / /\n\
                # VERSION of it\nARG VERSION\n\
                RUN --mount=type=secret,id=s,required --mount=type=ssh true\n";
    let (_, result) = run(&case(text, &[("requestid", "frontend.outline")])).await;
    assert_eq!(
        answer(&result.unwrap(), "result.txt"),
        "TARGET:      all\nDESCRIPTION: does it\n\n\
         BUILD ARG   VALUE   DESCRIPTION\nVERSION     1       \nDEP         x       \n\n\
         SECRET   REQUIRED\ns        true\n\n\
         SSH       REQUIRED\ndefault   \n\n"
    );
}

#[tokio::test]
async fn a_lint_request_finds_and_shows_without_failing() {
    let text = "FROM scratch AS Base\nENV a b\nBAD\n";
    let (_, result) = run(&case(text, &[("requestid", "frontend.lint")])).await;
    let result = result.unwrap();
    assert_eq!(answer(&result, "result.statuscode"), "1");
    let json: Value = serde_json::from_str(&answer(&result, "result.json")).unwrap();
    assert_eq!(
        json["buildError"]["message"],
        json!("dockerfile parse error on line 3: unknown instruction: BAD (did you mean ADD?)")
    );

    let text = "FROM scratch AS Base\nCOPY a /\n";
    let (_, result) = run(&case(text, &[("requestid", "frontend.lint")])).await;
    assert_eq!(
        answer(&result.unwrap(), "result.txt"),
        "\nWARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\n\
         Stage name 'Base' should be lowercase\nDockerfile:1\n--------------------\n   \
         1 | >>> FROM scratch AS Base\n   2 |     COPY a /\n   3 |     \n--------------------\n"
    );
}

#[tokio::test]
async fn a_missing_image_may_have_been_a_stage() {
    let (_, result) = run(&case(
        "FROM scratch AS builder\nFROM scratch\nCOPY --from=buidler / /\n",
        &[],
    ))
    .await;
    assert_eq!(
        result.unwrap_err().message,
        "buidler: failed to resolve source metadata for docker.io/library/buidler:latest: \
         docker.io/library/buidler:latest: not found (did you mean builder?)"
    );
}

#[tokio::test]
async fn a_bill_of_materials_is_scanned_for_each_platform() {
    let text = "ARG BUILDKIT_SBOM_SCAN_STAGE=dep\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n\
                FROM busybox AS dep\nFROM scratch\nCOPY --from=dep /a /\nCOPY b /\n";
    let case = case(text, &[("attest:sbom", "generator=alpine,LEVEL=2")]);
    let (memory, result) = run(&case).await;
    let result = result.unwrap();
    let attestation = &result.attestations["linux/amd64"][0];
    assert_eq!(
        attestation.in_toto_predicate_type,
        "https://spdx.dev/Document"
    );
    let definition = memory.definitions().pop().unwrap();
    let graph = gateway_llb::Graph::load(&definition).unwrap();
    let scan = graph.get(&graph.result().digest).unwrap();
    assert_eq!(
        scan.custom_name(),
        Some("[linux/amd64] generating sbom using docker.io/library/alpine:latest")
    );
    let Some(gateway_llb::pb::op::Op::Exec(exec)) = &scan.op().op else {
        panic!("no exec: {:?}", scan.op());
    };
    let mounts: Vec<&str> = exec.mounts.iter().map(|m| m.dest.as_str()).collect();
    assert_eq!(
        mounts,
        [
            "/",
            "/run/out/",
            "/run/src/core/sbom",
            "/run/src/extras/sbom-context",
            "/run/src/extras/sbom-dep",
            "/tmp"
        ]
    );
    assert_eq!(graph.result().index, 1);
    let env = &exec.meta.as_ref().unwrap().env;
    assert!(env.contains(&"BUILDKIT_SCAN_LEVEL=2".to_owned()));
}

/// As with the reference, whose ops keep what they needed when they were solved first.
#[tokio::test]
async fn commands_below_a_scanner_need_what_they_need_without_it() {
    let text = "FROM busybox\nRUN true\n";
    let case = case(text, &[("attest:sbom", "generator=alpine")]);
    let (memory, result) = run(&case).await;
    result.unwrap();
    let scan = memory.definitions().pop().unwrap();
    let graph = gateway_llb::Graph::load(&scan).unwrap();
    let needs_path = |name: &str| {
        let mut vertices = graph.vertices();
        let vertex = vertices.find(|v| v.custom_name().is_some_and(|n| n.contains(name)));
        let caps = &vertex.expect(name).metadata().caps;
        caps.contains_key("exec.meta.setsdefaultpath")
    };
    assert!(needs_path("RUN true"));
    assert!(!needs_path("generating sbom"));
}

#[tokio::test]
async fn a_scanner_that_is_missing_is_told_before_mistakes_of_the_file() {
    let opts = [("attest:sbom", "generator=no such")];
    for text in ["FROM scratch\nBAD\n", "# check=bad\nFROM scratch\n", ""] {
        let (_, result) = run(&case(text, &opts)).await;
        let error = result.unwrap_err();
        assert!(error.message.contains("sbom scanner no such"), "{error}");
    }
}

#[tokio::test]
async fn a_lower_case_name_is_tried() {
    let mut files = BTreeMap::new();
    files.insert("dockerfile".to_owned(), b"FROM scratch\n".to_vec());
    let (_, result) = run(&Case::of(files, BTreeMap::new())).await;
    result.unwrap();
}
