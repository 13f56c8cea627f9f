//! Every recorded graph: our ops have the same bytes, names and capabilities.

mod oracle;

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_dockerfile::build;
use gateway_llb::{digest_of, json, pb};
use oracle::{Case, Memory, cases};
use prost::Message as _;
use serde_json::{Value, json};

/// A graph as a list of ops that does not depend on digests: each op is named by the hash of its
/// JSON, in which inputs are named likewise.
struct Plain {
    names: BTreeMap<String, String>,
    ops: BTreeMap<String, (Value, Value)>,
}

impl Plain {
    fn new(ops: &BTreeMap<String, Value>, metadata: &BTreeMap<String, Value>) -> Self {
        let mut plain = Self {
            names: BTreeMap::new(),
            ops: BTreeMap::new(),
        };
        while plain.names.len() < ops.len() {
            let before = plain.names.len();
            for (digest, op) in ops {
                plain.add(digest, op, metadata.get(digest));
            }
            assert!(plain.names.len() > before, "inputs are missing");
        }
        plain
    }

    fn add(&mut self, digest: &str, op: &Value, metadata: Option<&Value>) {
        if self.names.contains_key(digest) {
            return;
        }
        let mut op = op.clone();
        for input in op["inputs"].as_array_mut().into_iter().flatten() {
            let Some(name) = self.names.get(input["digest"].as_str().unwrap()) else {
                return;
            };
            input["digest"] = json!(name);
        }
        if op["source"].is_object() {
            let source = op["source"].as_object_mut().unwrap();
            if let Some(attrs) = source.get_mut("attrs") {
                attrs.as_object_mut().unwrap().remove("local.session");
            }
        }
        let mut known = metadata.cloned().unwrap_or_else(|| json!({}));
        if let Some(group) = known.get_mut("progress_group") {
            group.as_object_mut().unwrap().remove("id");
        }
        let name = digest_of(sorted(&op).as_bytes());
        self.names.insert(digest.to_owned(), name.clone());
        self.ops.insert(name, (op, known));
    }
}

fn sorted(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, String> =
                map.iter().map(|(k, v)| (k, sorted(v))).collect();
            format!("{sorted:?}")
        }
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(sorted).collect();
            format!("{list:?}")
        }
        other => other.to_string(),
    }
}

fn ours(definition: &pb::Definition) -> Plain {
    let ops = definition
        .def
        .iter()
        .map(|raw| {
            (
                digest_of(raw),
                json::op(&pb::Op::decode(raw.as_slice()).unwrap()),
            )
        })
        .collect();
    let metadata = definition
        .metadata
        .iter()
        .map(|(digest, metadata)| (digest.clone(), json::metadata(metadata)))
        .collect();
    Plain::new(&ops, &metadata)
}

fn recorded(llb: &Value) -> Plain {
    let map = |key: &str| {
        let entries = llb[key].as_object().unwrap().iter();
        entries.map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    Plain::new(&map("def"), &map("metadata"))
}

/// What differs, in words; `None` when all is equal.
async fn difference(case: &Case, llb: &Value) -> Option<String> {
    let memory = Arc::new(Memory::new(case));
    if let Err(e) = build(Arc::clone(&memory) as _).await {
        return Some(format!("failed: {e}"));
    }
    let definitions = memory.definitions();
    let want = recorded(llb);
    let mut closest = "no graph".to_owned();
    for definition in definitions.iter().rev() {
        match compare(definition, llb, &want) {
            None => return None,
            Some(text) if closest == "no graph" => closest = text,
            Some(_) => {}
        }
    }
    Some(closest)
}

fn compare(definition: &pb::Definition, llb: &Value, want: &Plain) -> Option<String> {
    let have = ours(definition);
    let mut out = String::new();
    for (name, (op, known)) in &want.ops {
        match have.ops.get(name) {
            None => out += &format!("  wanted {op}\n         {}\n", known["description"]),
            Some((_, ours)) if sorted(ours) != sorted(known) => {
                out += &format!("  wanted metadata {known}\n  have   metadata {ours}\n");
            }
            Some(_) => {}
        }
    }
    for (name, (op, known)) in &have.ops {
        if !want.ops.contains_key(name) {
            out += &format!("  have   {op}\n         {}\n", known["description"]);
        }
    }
    for digest in llb["def"].as_object().unwrap().keys() {
        if digest.starts_with("sha256:") && !have.names.contains_key(digest) {
            out += &format!("  digest {digest} is missing\n");
        }
    }
    (!out.is_empty()).then_some(out)
}

/// The graph as the frontend tells it when asked for it is the recorded one, digests included.
#[tokio::test]
async fn a_graph_can_be_asked_for() {
    let mut seen = 0;
    for mut case in cases() {
        let Some(llb) = case.recorded_llb() else {
            continue;
        };
        let id = "frontend.convertllb".to_owned();
        case.opts.insert("requestid".to_owned(), id);
        let answer = build(Arc::new(Memory::new(&case))).await.unwrap();
        let json: Value = serde_json::from_slice(&answer.metadata["result.json"]).unwrap();
        let fixed = llb["def"].as_object().unwrap().iter();
        for (digest, op) in fixed.filter(|(digest, _)| digest.starts_with("sha256:")) {
            assert_eq!(sorted(&json["def"][digest]), sorted(op), "{}", case.name);
            seen += 1;
        }
    }
    assert!(seen > 150, "only {seen} ops");
}

#[tokio::test]
async fn every_recorded_graph_is_made_alike() {
    let mut recorded = 0;
    let mut different = Vec::new();
    let only = std::env::var("ONLY").unwrap_or_default();
    for case in cases() {
        if !case.name.contains(&only) {
            continue;
        }
        let Some(llb) = case.recorded_llb() else {
            continue;
        };
        recorded += 1;
        if let Some(text) = difference(&case, &llb).await {
            different.push(format!("{}:\n{text}", case.name));
        }
    }
    let count = different.len();
    assert!(
        different.is_empty(),
        "{count} of {recorded} differ\n{}",
        different.join("\n")
    );
    assert!(!only.is_empty() || recorded == 97);
}
