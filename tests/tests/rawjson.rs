//! `--progress rawjson` beside what BuildKit's own client wrote of the same build files
//! (`tests/data/progress`): whoever reads the one reads the other.

use std::collections::{BTreeMap, BTreeSet};

use gateway_tests::program::{Home, run, stderr};
use gateway_tests::registry::Registry;
use serde_json::Value;

/// What a stream says, without what differs from run to run.
#[derive(Debug, Default, PartialEq)]
struct Told {
    /// Members of each kind of message.
    members: BTreeMap<&'static str, BTreeSet<String>>,
    /// By name: members beside the name, and the names of inputs.
    vertices: BTreeMap<String, (BTreeSet<String>, Vec<String>)>,
    /// By vertex: ids in the order of their first appearance.
    statuses: BTreeMap<String, Vec<String>>,
    /// By vertex and stream, what was written in order.
    logs: BTreeMap<(String, i64), String>,
    /// Without the vertex and the build file's content.
    warnings: Vec<Value>,
    errors: BTreeMap<String, String>,
}

/// Without digests, which have a session in them.
fn masked(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("sha256:*");
        out.push_str(part.get(64..).unwrap_or_default());
    }
    out
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("base64");
    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).expect("base64")
}

fn list<'a>(message: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    message[key].as_array().into_iter().flatten()
}

/// Reads a stream, and checks what holds in every one: a vertex is told before its statuses and
/// logs, and what is completed was started, not later.
fn told(stream: &str) -> Told {
    let mut told = Told::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut inputs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let time = |value: &Value| {
        let rfc3339 = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::parse(value.as_str().expect("a time"), rfc3339).expect("a time")
    };
    for line in stream.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).expect("JSON");
        for vertex in list(&message, "vertexes") {
            let (digest, name) = (text(vertex, "digest"), masked(text(vertex, "name")));
            names.insert(digest.to_owned(), name.clone());
            let below = list(vertex, "inputs").filter_map(Value::as_str);
            inputs.insert(digest.to_owned(), below.map(str::to_owned).collect());
            if !vertex["error"].is_null() {
                let error = text(vertex, "error").to_owned();
                told.errors.insert(name.clone(), error);
            }
            let (members, _) = told.vertices.entry(name).or_default();
            members.extend(vertex.as_object().expect("an object").keys().cloned());
        }
        for (kind, key) in [
            ("vertex", "vertexes"),
            ("status", "statuses"),
            ("log", "logs"),
            ("warning", "warnings"),
        ] {
            for one in list(&message, key) {
                let keys = one.as_object().expect("an object").keys().cloned();
                told.members.entry(kind).or_default().extend(keys);
                if !one["completed"].is_null() {
                    assert!(time(&one["started"]) <= time(&one["completed"]), "{line}");
                }
                if kind != "vertex" {
                    assert!(names.contains_key(text(one, "vertex")), "{line}");
                }
            }
        }
        let members = message.as_object().expect("an object").keys().cloned();
        told.members.entry("message").or_default().extend(members);
        for status in list(&message, "statuses") {
            let vertex = names[text(status, "vertex")].clone();
            let ids = told.statuses.entry(vertex).or_default();
            let id = masked(text(status, "id"));
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        for log in list(&message, "logs") {
            let vertex = names[text(log, "vertex")].clone();
            let stream = log["stream"].as_i64().expect("a stream");
            let said = told.logs.entry((vertex, stream)).or_default();
            said.push_str(&String::from_utf8(bytes(&log["data"])).expect("text"));
        }
        for warning in list(&message, "warnings") {
            let mut warning = warning.clone();
            warning["vertex"] = names[text(&warning, "vertex")].clone().into();
            let short = String::from_utf8(bytes(&warning["short"])).expect("text");
            warning["short"] = short.into();
            // A graph of the one session: only that it is there.
            let graph = &mut warning["sourceInfo"]["definition"];
            *graph = graph
                .as_object()
                .expect("a graph")
                .keys()
                .cloned()
                .collect();
            told.warnings.push(warning);
        }
    }
    for (digest, below) in inputs {
        let mut below: Vec<String> = below.iter().map(|digest| names[digest].clone()).collect();
        below.sort();
        if let Some((_, known)) = told.vertices.get_mut(&names[&digest]) {
            *known = below;
        }
    }
    told.warnings.sort_by_key(ToString::to_string);
    told
}

/// Takes away what each has for its own reasons: one had pulled an image before, the other reads
/// contexts in place, and only one was to write an archive.
fn comparable(stream: &str) -> Told {
    let mut told = told(stream);
    told.vertices.remove("exporting to oci image format");
    told.statuses.remove("exporting to oci image format");
    for (name, (members, _)) in &mut told.vertices {
        if name.contains("FROM ") {
            members.remove("cached");
        }
    }
    for members in ["vertex", "status"] {
        let members = told.members.entry(members).or_default();
        members.remove("cached");
        members.remove("total");
    }
    for (name, ids) in &mut told.statuses {
        if name.contains("FROM ") {
            ids.retain(|id| id.starts_with("resolve "));
        }
        ids.retain(|id| id != "transferring context:");
    }
    told.statuses.retain(|_, ids| !ids.is_empty());
    told
}

#[test]
fn p61_the_stream_of_a_build_says_what_that_of_the_reference_says() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    for (name, file, reference) in [
        (
            "ok.Dockerfile",
            include_str!("../data/progress/ok.Dockerfile"),
            include_str!("../data/progress/ok.rawjson"),
        ),
        (
            "fail.Dockerfile",
            include_str!("../data/progress/fail.Dockerfile"),
            include_str!("../data/progress/fail.rawjson"),
        ),
    ] {
        let context = tempfile::tempdir().expect("a temporary folder");
        let path = context.path().join(name);
        std::fs::write(&path, file).expect("writing");
        for name in ["a.txt", "big.txt"] {
            std::fs::write(context.path().join(name), name).expect("writing");
        }
        let output = run(home
            .build()
            .args(["--progress=rawjson", "--output=type=cacheonly", "--file"])
            .arg(&path)
            .arg(context.path()));
        let said = stderr(&output);
        assert_eq!(output.status.success(), name == "ok.Dockerfile", "{said}");
        assert_eq!(comparable(&said), comparable(reference), "{said}");
    }
}
