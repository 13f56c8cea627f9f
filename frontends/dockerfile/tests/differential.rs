//! Odd Dockerfiles, made by a generator, with what the reference frontend made of them: digests of
//! all ops, configs, errors with their lines, warnings.

use std::collections::BTreeMap;

use gateway_api::{GitMeta, HttpMeta};
use gateway_dockerfile::build;
use gateway_frontend::testing::MockGateway;
use gateway_llb::{digest_of, pb};
use serde_json::{Map, Value};

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    dockerfile: String,
    opts: BTreeMap<String, String>,
    ignore: Option<String>,
    own_ignore: Option<String>,
    /// Files of sources by path.
    #[serde(default)]
    files: BTreeMap<String, BTreeMap<String, String>>,
    /// Images that are not there.
    #[serde(default)]
    missing: Vec<String>,
    want: Want,
}

#[derive(serde::Deserialize)]
struct Want {
    error: Option<String>,
    /// Of the error; 0 where the reference tells none or several.
    #[serde(default)]
    line: i32,
    warnings: Vec<String>,
    /// All ops, by the first quarter of their digests: name, flags and lines.
    #[serde(default)]
    ops: BTreeMap<String, String>,
    #[serde(default)]
    config: Map<String, Value>,
    /// The result's metadata but configs: platforms, epoch, answers of subrequests.
    #[serde(default)]
    metadata: Map<String, Value>,
}

const COMMIT: &[u8] = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@b> 1600000001 +0000\ncommitter A <a@b> 1600000002 +0000\n\nx\n";

fn gateway(case: &Case, images: &Map<String, Value>) -> MockGateway {
    let mut gateway = MockGateway::new()
        .invocation(|call| {
            // The recorded run was told of all capabilities.
            call.llb_caps =
                gateway_api::caps::CapSet::enabled(gateway_llb::caps::ALL.iter().copied());
            let platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"];
            let platforms = platforms.map(|text| gateway_llb::platform::parse(text).unwrap());
            call.workers[0].platforms = platforms.to_vec();
        })
        .git(GitMeta {
            checksum: "1".repeat(40),
            commit_checksum: "1".repeat(40),
            commit_object: COMMIT.to_vec(),
            ..GitMeta::default()
        })
        .http(HttpMeta {
            last_modified: Some(1_600_000_003),
            ..HttpMeta::default()
        })
        .file("dockerfile", "Dockerfile", case.dockerfile.as_bytes())
        .file("context", "foo", "1")
        .file("other", ".dockerignore", "q\n");
    for (key, value) in &case.opts {
        gateway = gateway.opt(key, value);
    }
    for (reference, config) in images {
        gateway = gateway.image(reference, config.to_string());
    }
    for reference in &case.missing {
        gateway = gateway.no_image(reference);
    }
    if let Some(text) = &case.ignore {
        gateway = gateway.file("context", ".dockerignore", text.as_bytes());
    }
    if let Some(text) = &case.own_ignore {
        gateway = gateway.file("dockerfile", "Dockerfile.dockerignore", text.as_bytes());
    }
    for (source, files) in &case.files {
        for (path, text) in files {
            gateway = gateway.file_of(source, path, text.as_bytes());
        }
    }
    gateway
}

/// Without what only exporters fill in.
fn config(bytes: &[u8]) -> Value {
    let mut config: Value = serde_json::from_slice(bytes).unwrap();
    config.as_object_mut().unwrap().remove("rootfs");
    without_nothing(&mut config);
    config
}

/// `null` and absence are the same.
fn without_nothing(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null() && *value != Value::Array(Vec::new()));
        map.values_mut().for_each(without_nothing);
    }
}

/// The ops of a definition, by the start of their digests, as users see them.
fn steps(definition: &pb::Definition) -> Vec<(String, String)> {
    let describe = |raw: &Vec<u8>| {
        let digest = digest_of(raw);
        let metadata = definition.metadata.get(&digest).cloned();
        let metadata = metadata.unwrap_or_default();
        let name = metadata.description.get("llb.customname").cloned();
        let mut text = name.unwrap_or_default();
        if metadata.ignore_cache {
            text.push_str(" (no cache)");
        }
        if let Some(group) = &metadata.progress_group {
            text.push_str(&format!(" ({} {})", group.name, group.weak));
        }
        let places = definition.source.as_ref();
        let places = places.and_then(|source| source.locations.get(&digest));
        let lines: Vec<String> = places
            .into_iter()
            .flat_map(|places| &places.locations)
            .map(|place| place.ranges.iter().map(range).collect::<Vec<_>>().join(","))
            .filter(|lines| !lines.is_empty())
            .collect();
        if !lines.is_empty() {
            text.push_str(&format!(" @ {}", lines.join("; ")));
        }
        (digest["sha256:".len()..][..16].to_owned(), text)
    };
    definition.def.iter().map(describe).collect()
}

fn range(range: &pb::Range) -> String {
    let (start, end) = (
        range.start.unwrap_or_default(),
        range.end.unwrap_or_default(),
    );
    format!(
        "{}.{}-{}.{}",
        start.line, start.character, end.line, end.character
    )
}

async fn differences(case: &Case, images: &Map<String, Value>) -> Vec<String> {
    let mut out = Vec::new();
    let gateway = gateway(case, images).shared();
    let built = build(gateway.clone()).await;
    let mut warnings = gateway.warning_texts();
    warnings.sort();
    let want = &case.want;
    // The reference loses warnings when a build fails early; ours does not.
    let lost = want.warnings.iter().filter(|w| !warnings.contains(w));
    let lost: Vec<&String> = lost.collect();
    if !lost.is_empty() || (want.error.is_none() && warnings != want.warnings) {
        out.push(format!("warnings {warnings:?}, wanted {:?}", want.warnings));
    }
    match (&built, &want.error) {
        (Err(error), Some(text)) => {
            if error.message != *text {
                out.push(format!("error {:?}, wanted {text:?}", error.message));
            }
            let line = error.sources().next().and_then(|s| s.ranges.first());
            let line = line.and_then(|range| range.start).map_or(0, |p| p.line);
            if want.line != 0 && line != want.line {
                out.push(format!("error at line {line}, wanted {}", want.line));
            }
        }
        (Err(error), None) => out.push(format!("failed: {error}")),
        (Ok(_), Some(text)) => out.push(format!("built, wanted {text:?}")),
        (Ok(result), None) => {
            let definitions = gateway.definitions();
            let ops: BTreeMap<String, String> = definitions.iter().flat_map(steps).collect();
            for (digest, text) in &want.ops {
                if ops.get(digest) != Some(text) {
                    let have = ops.get(digest);
                    out.push(format!("op {digest} {have:?}, wanted {text:?}"));
                }
            }
            for (digest, text) in &ops {
                if !want.ops.contains_key(digest) {
                    out.push(format!("op {digest} is too many: {text:?}"));
                }
            }
            for (key, want) in &want.metadata {
                let have = result.metadata.get(key).map(|bytes| {
                    serde_json::from_slice(bytes)
                        .unwrap_or_else(|_| String::from_utf8_lossy(bytes).into())
                });
                let (mut have, mut want) = (have.unwrap_or(Value::Null), want.clone());
                without_nothing(&mut have);
                without_nothing(&mut want);
                if have != want {
                    out.push(format!("{key} {have}, wanted {want}"));
                }
            }
            for (key, want) in &want.config {
                let mut want = want.clone();
                without_nothing(&mut want);
                let have = result.metadata.get(key).map(|bytes| config(bytes));
                if have.as_ref() != Some(&want) {
                    out.push(format!("{key} {have:?}, wanted {want}"));
                }
            }
        }
    }
    out
}

async fn check(text: &str, at_least: usize) {
    let images: Map<String, Value> =
        serde_json::from_str(include_str!("data/differential/images.json")).unwrap();
    let cases: Vec<Case> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(cases.len() > at_least, "only {}", cases.len());
    let mut failures = Vec::new();
    for case in &cases {
        let found = differences(case, &images).await;
        if !found.is_empty() {
            let file = &case.dockerfile;
            let found = found.join("\n  ");
            failures.push(format!("{} {:?}\n{file}\n  {found}", case.name, case.opts));
        }
    }
    let count = failures.len();
    assert!(count == 0, "{count} differ\n{}", failures.join("\n\n"));
}

#[tokio::test]
async fn odd_files_become_what_the_reference_makes_of_them() {
    check(include_str!("data/differential/cases.jsonl"), 300).await;
}

/// Cases are named after the points of docs/parity.md.
#[tokio::test]
async fn every_point_of_the_language_is_what_the_reference_makes_of_it() {
    check(include_str!("data/differential/points.jsonl"), 200).await;
}
