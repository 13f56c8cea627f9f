//! Compares what a build made with the recorded expectation. Every difference is one line of text.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::base_images::BASE_TIME;
use crate::case::CONTEXT_TIME;
use crate::image::{Image, Node};

/// What a build did.
pub struct Outcome {
    pub ok: bool,
    /// All of stderr: progress, then the error.
    pub stderr: String,
    pub images: Vec<Image>,
    /// Seconds since the epoch.
    pub started: u64,
}

pub fn differences(
    expected: &Value,
    outcome: &Outcome,
    base: &BTreeMap<String, Node>,
) -> Vec<String> {
    let mut out = Vec::new();
    if expected["ok"].as_bool() != Some(outcome.ok) {
        out.push(format!(
            "ok: expected {}, got {}; stderr ends:\n{}",
            expected["ok"],
            outcome.ok,
            tail(&outcome.stderr)
        ));
        return out;
    }
    if let Some(error) = expected["error"].as_str() {
        let got = sort_rules(&scrub(&outcome.stderr));
        if !got.contains(sort_rules(error).trim_end()) {
            out.push(format!("error: expected\n{error}\ngot\n{}", tail(&got)));
        }
    }
    let events = Events::read(&outcome.stderr);
    compare_vertices(expected, &events, &mut out);
    compare_warnings(expected, &events, &mut out);
    let wanted = expected["images"].as_array().cloned().unwrap_or_default();
    if outcome.ok && wanted.len() != outcome.images.len() {
        out.push(format!(
            "images: expected {}, got {}",
            wanted.len(),
            outcome.images.len()
        ));
    }
    for want in &wanted {
        let platform = want["platform"].as_str().unwrap_or_default();
        match outcome
            .images
            .iter()
            .find(|image| image.platform == platform)
        {
            Some(image) => compare_image(want, image, base, outcome.started, &mut out),
            None => out.push(format!("no image for {platform}")),
        }
    }
    out
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Digests and random refs as the expectations write them.
pub fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("sha256:") {
        let (before, from) = rest.split_at(at);
        out += before;
        let hex = &from["sha256:".len()..];
        let length = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
        if length == 64 {
            out += "sha256:<digest>";
            rest = &hex[64..];
        } else {
            out += "sha256:";
            rest = hex;
        }
    }
    scrub_refs(&(out + rest))
}

/// A vertex's event and the build's error both name them.
fn scrub_refs(text: &str) -> String {
    const BEFORE: &str = "checksum of ref ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(BEFORE) {
        let (before, from) = rest.split_at(at + BEFORE.len());
        out += before;
        out += "<ref>";
        rest = &from[from.find(':').unwrap_or(from.len())..];
    }
    out + rest
}

/// The reference lists violated rules in the random order of a Go map.
fn sort_rules(text: &str) -> String {
    const LIST: &str = "lint violation found for rules: ";
    text.lines()
        .map(|line| match line.split_once(LIST) {
            Some((before, rules)) => {
                let mut rules: Vec<&str> = rules.split(", ").collect();
                rules.sort_unstable();
                format!("{before}{LIST}{}\n", rules.join(", "))
            }
            None => format!("{line}\n"),
        })
        .collect()
}

#[derive(Default)]
pub struct Events {
    /// Vertex name -> (cached, has an error).
    pub vertices: BTreeMap<String, (bool, bool)>,
    pub warnings: Vec<Value>,
}

impl Events {
    pub fn read(stderr: &str) -> Events {
        let mut events = Events::default();
        for line in stderr.lines().filter(|line| line.starts_with('{')) {
            let Ok(status) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            for vertex in status["vertexes"].as_array().into_iter().flatten() {
                let name = scrub(vertex["name"].as_str().unwrap_or_default());
                let entry = events.vertices.entry(name).or_default();
                entry.0 = vertex["cached"] == true;
                entry.1 |= vertex["error"]
                    .as_str()
                    .is_some_and(|error| !error.is_empty());
            }
            for warning in status["warnings"].as_array().into_iter().flatten() {
                events.warnings.push(warning.clone());
            }
        }
        events
    }
}

fn is_left_out(name: &str) -> bool {
    // The steps that bring a frontend image are not the case's own.
    const OTHERS: [&str; 6] = [
        "exporting ",
        "[auth]",
        "importing ",
        "[frontend]",
        "resolve image config for docker-image://",
        "docker-image://",
    ];
    OTHERS.iter().any(|prefix| name.starts_with(prefix))
}

fn compare_vertices(expected: &Value, events: &Events, out: &mut Vec<String>) {
    let want: BTreeSet<String> = expected["vertices"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let got: BTreeSet<String> = events
        .vertices
        .keys()
        .filter(|name| !is_left_out(name))
        .cloned()
        .collect();
    for name in want.difference(&got) {
        out.push(format!("step missing: {name}"));
    }
    for name in got.difference(&want) {
        out.push(format!("step too many: {name}"));
    }
}

fn compare_warnings(expected: &Value, events: &Events, out: &mut Vec<String>) {
    let got: Vec<Value> = events
        .warnings
        .iter()
        .map(|warning| {
            let lines: BTreeSet<i64> = warning["range"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|range| {
                    let line = |end: &str| range[end]["line"].as_i64().unwrap_or(0);
                    line("start")..=line("end").max(line("start"))
                })
                .collect();
            json!({
                "lines": lines,
                "message": base64_text(warning["short"].as_str().unwrap_or_default()),
                "url": warning["url"],
            })
        })
        .collect();
    let want = expected["warnings"].as_array().cloned().unwrap_or_default();
    for warning in &want {
        if !got.contains(warning) {
            out.push(format!("warning missing: {warning}"));
        }
    }
    // The reference can lose warnings of failed builds: there the list is a lower bound.
    if expected["ok"] == true {
        for warning in got.iter().filter(|warning| !want.contains(warning)) {
            out.push(format!("warning too many: {warning}"));
        }
    }
}

fn base64_text(text: &str) -> String {
    let mut bytes = Vec::new();
    let (mut buffer, mut bits) = (0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        buffer = buffer << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
            buffer &= (1 << bits) - 1;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn compare_image(
    want: &Value,
    image: &Image,
    base: &BTreeMap<String, Node>,
    started: u64,
    out: &mut Vec<String>,
) {
    if want["layers"] != image.layers {
        out.push(format!(
            "layers: expected {}, got {}",
            want["layers"], image.layers
        ));
    }
    let mut config = image.config.clone();
    if let Some(map) = config.as_object_mut() {
        map.remove("created");
        map.remove("rootfs");
        map.remove("history");
    }
    if config != want["config"] {
        out.push(format!(
            "config: expected {}\n     got {config}",
            want["config"]
        ));
    }
    compare_history(want, image, out);
    compare_files(want, image, base, started, out);
}

fn compare_history(want: &Value, image: &Image, out: &mut Vec<String>) {
    let got: Vec<Value> = image.config["history"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            let kept: Map<String, Value> = ["created_by", "comment", "empty_layer"]
                .iter()
                .filter(|key| !entry[**key].is_null())
                .map(|key| ((*key).to_owned(), entry[*key].clone()))
                .collect();
            Value::Object(kept)
        })
        .collect();
    let expected = want["history"].as_array().cloned().unwrap_or_default();
    if got != expected {
        out.push(format!(
            "history: expected {}\n      got {}",
            Value::Array(expected),
            Value::Array(got)
        ));
    }
}

fn compare_files(
    want: &Value,
    image: &Image,
    base: &BTreeMap<String, Node>,
    started: u64,
    out: &mut Vec<String>,
) {
    let on_base = want["on_base"] == true;
    let empty = Map::new();
    let expected = want["files"].as_object().unwrap_or(&empty);
    for (path, node) in &image.files {
        let unchanged = on_base && base.get(path).is_some_and(|old| same_as_base(old, node));
        if unchanged && !expected.contains_key(path) {
            continue;
        }
        match expected.get(path) {
            Some(entry) => compare_node(path, entry, node, started, out),
            None => out.push(format!("file too many: {path} {}", describe(node, started))),
        }
    }
    for path in expected
        .keys()
        .filter(|path| !image.files.contains_key(*path))
    {
        out.push(format!("file missing: {path}"));
    }
    let removed: BTreeSet<&str> = want["removed"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for path in base.keys().filter(|_| on_base) {
        if image.files.contains_key(path) == removed.contains(path.as_str()) {
            out.push(format!("path of the base, removed or not, differs: {path}"));
        }
    }
}

/// Times of directories are no difference: a step that makes a file in one changes them.
fn same_as_base(old: &Node, new: &Node) -> bool {
    let same = (old.kind, old.mode, old.uid, old.gid, &old.data, &old.target)
        == (new.kind, new.mode, new.uid, new.gid, &new.data, &new.target);
    same && (old.kind == "dir" || old.mtime == new.mtime)
}

fn describe(node: &Node, started: u64) -> Value {
    let mut entry = json!({
        "type": node.kind, "mode": format!("{:04o}", node.mode), "uid": node.uid, "gid": node.gid,
        "time": time_word(node.mtime, started),
    });
    match node.kind {
        "link" => entry["to"] = json!(node.target),
        "file" => {
            entry["size"] = json!(node.data.len());
            entry["sha256"] = json!(hex::encode(Sha256::digest(&node.data)));
            entry["text"] = json!(String::from_utf8_lossy(&node.data));
        }
        _ => {}
    }
    if node.hard {
        entry["hard"] = json!(true);
    }
    entry
}

fn time_word(mtime: u64, started: u64) -> Value {
    if mtime == CONTEXT_TIME as u64 {
        json!("context")
    } else if mtime == BASE_TIME {
        json!("base")
    } else if mtime + 1 >= started && mtime <= started + 3600 {
        json!("now")
    } else {
        json!(mtime)
    }
}

fn compare_node(path: &str, expected: &Value, node: &Node, started: u64, out: &mut Vec<String>) {
    let got = describe(node, started);
    let mut wrong = Vec::new();
    for (key, value) in expected.as_object().into_iter().flatten() {
        if got[key] != *value {
            wrong.push(format!("{key}: expected {value}, got {}", got[key]));
        }
    }
    if node.hard && expected["hard"].is_null() {
        wrong.push("hard: not expected".to_owned());
    }
    if !wrong.is_empty() {
        out.push(format!("{path}: {}", wrong.join("; ")));
    }
}
