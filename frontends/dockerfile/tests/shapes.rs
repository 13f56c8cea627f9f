//! Graphs of instructions that the recorded builds do not hold: remote sources, links, contexts.

mod oracle;

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::{BuildResult, Error};
use gateway_dockerfile::build;
use gateway_llb::{Graph, json};
use oracle::{Case, Memory};
use serde_json::{Value, json};

async fn run(dockerfile: &str, opts: &[(&str, &str)]) -> (Arc<Memory>, Result<BuildResult, Error>) {
    let mut files = BTreeMap::new();
    files.insert("Dockerfile".to_owned(), dockerfile.as_bytes().to_vec());
    let opts = opts
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let memory = Arc::new(Memory::new(&Case::of(files, opts)));
    let result = build(Arc::clone(&memory) as _).await;
    (memory, result)
}

/// The ops of the last graph with their metadata, inputs first.
async fn ops(dockerfile: &str, opts: &[(&str, &str)]) -> Vec<(Value, Value)> {
    let (memory, result) = run(dockerfile, opts).await;
    result.unwrap();
    let definition = memory.definitions().pop().unwrap();
    let graph = Graph::load(&definition).unwrap();
    graph
        .vertices()
        .map(|v| (json::op(v.op()), json::metadata(v.metadata())))
        .collect()
}

async fn message(dockerfile: &str) -> String {
    run(dockerfile, &[]).await.1.unwrap_err().message
}

fn name(metadata: &Value) -> &str {
    metadata["description"]["llb.customname"]
        .as_str()
        .unwrap_or_default()
}

#[tokio::test]
async fn add_of_a_url_downloads_one_file() {
    let url = "https://host/dir/file.tgz?x=1";
    let text = format!("FROM scratch\nADD --chmod=644 {url} /d/\n");
    let ops = ops(&text, &[]).await;
    assert_eq!(
        ops[0].0["source"],
        json!({"identifier": url, "attrs": {"http.filename": "file.tgz"}})
    );
    assert_eq!(
        ops[0].1["description"],
        json!({
            "com.docker.dockerfile.v1.command": "",
            "llb.customname": format!("[1/1] ADD --chmod=644 {url} /d/"),
        })
    );
    assert_eq!(
        ops[1].0["file"]["actions"][0]["copy"],
        json!({
            "src": "/file.tgz", "dest": "/d/", "mode": 0o644, "createDestPath": true,
            "timestamp": "-1",
        })
    );
}

#[tokio::test]
async fn add_of_a_repository_checks_it_out() {
    let text = "FROM scratch\nADD --keep-git-dir https://h/o/r.git?tag=v1&subdir=docs /d\n";
    let ops = ops(text, &[]).await;
    assert_eq!(
        ops[0].0["source"],
        json!({
            "identifier": "git://h/o/r.git#refs/tags/v1:docs",
            "attrs": {
                "git.authheadersecret": "GIT_AUTH_HEADER",
                "git.authtokensecret": "GIT_AUTH_TOKEN",
                "git.fullurl": "https://h/o/r.git",
                "git.keepgitdir": "true",
            },
        })
    );
    let copy = &ops[1].0["file"]["actions"][0]["copy"];
    assert_eq!((&copy["src"], &copy["dest"]), (&json!("/"), &json!("/d")));
}

#[tokio::test]
async fn a_linked_copy_is_a_layer_of_its_own_shown_as_one_step() {
    let text = "FROM busybox\nCOPY --link a /\nCOPY --link --chmod=600 b /\n";
    let ops = ops(text, &[]).await;
    let group = |index: usize| &ops[index].1["progress_group"];
    let copied = ops
        .iter()
        .position(|(op, _)| op["file"].is_object())
        .unwrap();
    let merged = ops
        .iter()
        .position(|(op, _)| op["merge"].is_object())
        .unwrap();
    assert_eq!(ops[copied].0["file"]["actions"][0]["input"], json!("-1"));
    assert_eq!(group(copied)["weak"], json!(true));
    assert_eq!(group(copied)["id"], group(merged)["id"]);
    assert_eq!(group(merged)["name"], json!("[2/3] COPY --link a /"));
    assert_eq!(name(&ops[merged].1), "[2/3] LINK COPY --link a /");
    // With a mode it is a plain copy.
    let merges = ops.iter().filter(|(op, _)| op["merge"].is_object()).count();
    assert_eq!(merges, 1);
}

#[tokio::test]
async fn no_cache_marks_the_steps_of_its_stages() {
    let text = "FROM busybox AS a\nRUN a\nFROM a AS b\nRUN b\nCOPY x /\nWORKDIR /w\n";
    let ops = ops(text, &[("no-cache", "B")]).await;
    let marked: Vec<&str> = ops
        .iter()
        .filter(|(_, known)| known["ignore_cache"] == json!(true))
        .map(|(_, known)| name(known))
        .collect();
    assert_eq!(marked, ["[b 1/3] RUN b", "[b 2/3] COPY x /"]);
}

#[tokio::test]
async fn an_epoch_is_in_history_directories_and_metadata() {
    let text = "FROM scratch\nWORKDIR /w\nARG SOURCE_DATE_EPOCH\nRUN x\n";
    let opts = [("build-arg:SOURCE_DATE_EPOCH", "1600000000")];
    let (_, result) = run(text, &opts).await;
    let metadata = result.unwrap().metadata;
    assert_eq!(metadata["source.date.epoch"], b"1600000000");
    let config: Value = serde_json::from_slice(&metadata["containerimage.config"]).unwrap();
    assert_eq!(
        config["history"][0]["created"],
        json!("2020-09-13T12:26:40Z")
    );
    let ops = ops(text, &opts).await;
    let mkdir = &ops[0].0["file"]["actions"][0]["mkdir"];
    assert_eq!(mkdir["timestamp"], json!("1600000000000000000"));
    let env = ops[1].0["exec"]["meta"]["env"].as_array().unwrap();
    assert!(env.contains(&json!("SOURCE_DATE_EPOCH=1600000000")));
}

#[tokio::test]
async fn a_git_context_holds_file_and_sources() {
    let opts = [("context", "https://h/o/r.git#main:sub"), ("cmdline", "x")];
    let (memory, result) = run("FROM scratch\nCOPY a /\n", &opts).await;
    // The in-memory host has no checkout: what counts is what was asked of it.
    assert_eq!(
        memory.calls()[..2],
        [
            "solve [internal] load git source https://h/o/r.git#main:sub",
            "read Dockerfile"
        ]
    );
    result.unwrap();
    let definition = memory.definitions().pop().unwrap();
    let graph = Graph::load(&definition).unwrap();
    let first = graph.vertices().next().unwrap();
    assert_eq!(
        json::op(first.op())["source"]["identifier"],
        json!("git://h/o/r.git#main:sub")
    );
    assert!(
        !memory
            .calls()
            .iter()
            .any(|c| c.contains(".dockerignore") && c.starts_with("solve"))
    );
}

#[tokio::test]
async fn options_of_commands_reach_every_run() {
    let opts = [
        ("add-hosts", "DB=10.0.0.1"),
        ("hostname", "h"),
        ("cgroup-parent", "/p"),
        ("ulimit", "nofile=10:20"),
        ("memory", "1024"),
        ("build-arg:BUILDKIT_CACHE_MOUNT_NS", "ns"),
        ("build-arg:https_proxy", "http://p"),
    ];
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked --network=none x\n";
    let ops = ops(text, &opts).await;
    let (op, known) = ops.last().unwrap();
    let meta = &op["exec"]["meta"];
    assert_eq!(
        meta["extraHosts"],
        json!([{"Host": "db", "IP": "10.0.0.1"}])
    );
    assert_eq!(meta["hostname"], json!("h"));
    assert_eq!(meta["cgroupParent"], json!("/p"));
    assert_eq!(
        meta["ulimit"],
        json!([{"Name": "nofile", "Soft": "10", "Hard": "20"}])
    );
    assert_eq!(meta["proxyEnv"], json!({"httpsProxy": "http://p"}));
    assert_eq!(op["exec"]["network"], json!("NONE"));
    assert_eq!(
        op["exec"]["mounts"][1]["cacheOpt"],
        json!({"ID": "ns//c", "sharing": "LOCKED"})
    );
    assert_eq!(known["linux_resources"], json!({"memory": 1024}));
}

#[tokio::test]
async fn mistakes_in_copies_and_mounts_have_the_reference_words() {
    for (text, words) in [
        ("COPY http://h/x /", "source can't be a URL for COPY"),
        (
            "COPY https://h/x.git /",
            "source can't be a git ref for COPY",
        ),
        ("ADD https://h/x.git?foo=1 /", "unexpected query \"foo\""),
        ("COPY --from=5 a /", "invalid stage index 5"),
        (
            "COPY --chmod=99999 a /",
            "invalid chmod parameter: '99999'. it should be octal string and between 0 and 07777",
        ),
        (
            "RUN --mount=type=cache,target=/ x",
            "invalid mount target \"/\"",
        ),
        (
            "RUN --mount=type=ssh,source=/x x",
            "ssh does not support source",
        ),
        (
            "ADD --checksum=sha256:0 http://a http://b /",
            "checksum can't be specified for multiple sources",
        ),
        (
            "VOLUME [\"$NONE\"]",
            "VOLUME specified can not be an empty string",
        ),
    ] {
        assert_eq!(
            message(&format!("FROM scratch\n{text}\n")).await,
            words,
            "{text}"
        );
    }
    assert_eq!(
        message("FROM scratch AS a\nCOPY --from=b /x /\nFROM scratch AS b\nFROM a\n").await,
        "cannot copy from stage \"b\", it needs to be defined before current stage \"a\""
    );
    let copy = "COPY --from=$X a /";
    assert!(
        message(&format!("FROM scratch\n{copy}\n"))
            .await
            .starts_with("variable expansion is not supported for --from")
    );
}
