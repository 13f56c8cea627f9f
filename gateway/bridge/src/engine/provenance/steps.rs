//! The steps of a result and the build file they were written in, as provenance tells them that
//! is to tell all.
//!
//! A step is a vertex without the names that are its session's alone and without the passwords
//! in its addresses; it is called by its number, inputs first.

use std::collections::{BTreeMap, BTreeSet};

use gateway_api::Error;
use gateway_images::registry::shown_url;
use gateway_llb::{digest_of, json, pb};
use prost::Message as _;
use serde_json::{Map, Value, json};

/// Attributes of sources that mean something in one session only.
const OF_SESSION: [&str; 2] = ["local.session", "local.unique"];

/// Attributes that are addresses.
const FULL_URL: &str = "git.fullurl";

/// The steps of a definition.
#[derive(Default)]
pub struct Steps {
    list: Vec<Value>,
    /// By digest.
    pub numbers: BTreeMap<String, usize>,
}

impl Steps {
    /// With what those used of which that is known, by digest.
    ///
    /// # Errors
    /// The definition is none.
    pub fn of(
        definition: &pb::Definition,
        usage: &BTreeMap<String, Value>,
    ) -> Result<Steps, Error> {
        let unreadable = |error: &str| Error::unknown(format!("failed to parse llb: {error}"));
        let mut ops = BTreeMap::new();
        let mut last = None;
        for bytes in &definition.def {
            let op = pb::Op::decode(bytes.as_slice());
            let op = op.map_err(|error| unreadable(&error.to_string()))?;
            let digest = digest_of(bytes);
            last = Some(digest.clone());
            ops.insert(digest, op);
        }
        let mut steps = Steps::default();
        let Some(last) = last else {
            return Ok(steps);
        };
        let order = inputs_first(&ops, last);
        let numbers = order.iter().enumerate();
        steps.numbers = numbers.map(|(at, digest)| (digest.clone(), at)).collect();
        for (number, digest) in order.iter().enumerate() {
            let Some(op) = ops.get(digest) else {
                return Err(unreadable(&format!("no input {digest}")));
            };
            let mut step = steps.step(number, op);
            if let (Some(used), Value::Object(step)) = (usage.get(digest), &mut step) {
                step.insert("resourceUsage".into(), used.clone());
            }
            steps.list.push(step);
        }
        Ok(steps)
    }

    fn step(&self, number: usize, op: &pb::Op) -> Value {
        let mut step = Map::new();
        step.insert("id".into(), format!("step{number}").into());
        step.insert("op".into(), json::plain_op(&without_secrets(op)));
        if !op.inputs.is_empty() {
            let name = |input: &pb::Input| {
                let number = self.numbers.get(&input.digest).copied();
                format!("step{}:{}", number.unwrap_or_default(), input.index)
            };
            let inputs: Vec<String> = op.inputs.iter().map(name).collect();
            step.insert("inputs".into(), json!(inputs));
        }
        step.into()
    }

    /// The members `llbDefinition` and `digestMapping`; neither when there is no step.
    pub fn told(&self) -> Map<String, Value> {
        let mut told = Map::new();
        if !self.list.is_empty() {
            told.insert("llbDefinition".into(), json!(self.list));
            let names = self.numbers.iter();
            let names: Map<String, Value> = names
                .map(|(digest, number)| (digest.clone(), format!("step{number}").into()))
                .collect();
            told.insert("digestMapping".into(), names.into());
        }
        told
    }
}

/// All vertices that the last one needs, each after its inputs. No recursion: graphs are deep.
fn inputs_first(ops: &BTreeMap<String, pb::Op>, last: String) -> Vec<String> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    let mut stack = vec![(last, false)];
    while let Some((digest, ready)) = stack.pop() {
        if ready {
            order.push(digest);
            continue;
        }
        if !seen.insert(digest.clone()) {
            continue;
        }
        stack.push((digest.clone(), true));
        let inputs = ops.get(&digest).into_iter().flat_map(|op| &op.inputs).rev();
        stack.extend(inputs.map(|input| (input.digest.clone(), false)));
    }
    order
}

fn without_secrets(op: &pb::Op) -> pb::Op {
    let mut op = op.clone();
    match &mut op.op {
        Some(pb::op::Op::Source(source)) => {
            source.identifier = shown_url(&source.identifier);
            for name in OF_SESSION {
                source.attrs.remove(name);
            }
            if let Some(url) = source.attrs.get_mut(FULL_URL) {
                *url = shown_url(url);
            }
        }
        Some(pb::op::Op::Exec(exec)) => {
            if let Some(meta) = &mut exec.meta {
                for variable in &mut meta.env {
                    if let Some((name, value)) = variable.split_once('=')
                        && is_proxy(name)
                    {
                        *variable = format!("{name}={}", shown_url(value));
                    }
                }
                if let Some(proxy) = &mut meta.proxy_env {
                    for url in [
                        &mut proxy.http_proxy,
                        &mut proxy.https_proxy,
                        &mut proxy.ftp_proxy,
                        &mut proxy.all_proxy,
                    ] {
                        *url = shown_url(url);
                    }
                }
            }
        }
        _ => {}
    }
    op
}

/// Whether a variable is the address of a proxy, which may have a password in it.
pub fn is_proxy(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with("_proxy")
}

/// The build file and where in it the steps are; nothing when the definition does not say.
///
/// # Errors
/// What the build file was read from is no definition.
pub fn source(definition: &pb::Definition, steps: &Steps) -> Result<Option<Value>, Error> {
    let Some(source) = definition.source.as_ref().filter(|s| !s.infos.is_empty()) else {
        return Ok(None);
    };
    let mut infos = Vec::with_capacity(source.infos.len());
    for info in &source.infos {
        let mut told = Map::new();
        for (key, text) in [("filename", &info.filename), ("language", &info.language)] {
            if !text.is_empty() {
                told.insert(key.into(), text.clone().into());
            }
        }
        if !info.data.is_empty() {
            told.insert("data".into(), json::bytes(&info.data));
        }
        if let Some(definition) = &info.definition {
            told.extend(Steps::of(definition, &BTreeMap::new())?.told());
        }
        infos.push(Value::from(told));
    }
    let mut places = BTreeMap::new();
    for (digest, known) in &source.locations {
        if let Some(number) = steps.numbers.get(digest) {
            let ranges: Vec<Value> = known.locations.iter().map(json::location).collect();
            let told = match ranges.is_empty() {
                true => json!({}),
                false => json!({"locations": ranges}),
            };
            places.insert(*number, told);
        }
    }
    let places = places.into_iter();
    let places: Map<String, Value> = places
        .map(|(number, told)| (format!("step{number}"), told))
        .collect();
    let mut told = Map::new();
    if !places.is_empty() {
        told.insert("locations".into(), places.into());
    }
    told.insert("infos".into(), infos.into());
    Ok(Some(told.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(op: pb::op::Op, inputs: &[&str]) -> (Vec<u8>, String) {
        let inputs = inputs.iter().map(|digest| pb::Input {
            digest: (*digest).to_owned(),
            index: 0,
        });
        let op = pb::Op {
            inputs: inputs.collect(),
            op: Some(op),
            ..pb::Op::default()
        };
        let bytes = op.encode_to_vec();
        let digest = digest_of(&bytes);
        (bytes, digest)
    }

    fn source_op(identifier: &str, attrs: &[(&str, &str)]) -> pb::op::Op {
        let attrs = attrs.iter();
        pb::op::Op::Source(pb::SourceOp {
            identifier: identifier.into(),
            attrs: attrs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        })
    }

    /// A step over a web file and a folder, with a vertex that nothing needs.
    fn definition() -> (pb::Definition, [String; 2]) {
        let web = source_op("https://me:hunter2@h.example/f", &[]);
        let (web, web_digest) = encoded(web, &[]);
        let unused = encoded(source_op("local://unused", &[]), &[]).0;
        let local = source_op(
            "local://context",
            &[("local.session", "s"), ("local.unique", "u"), ("a", "b")],
        );
        let (local, local_digest) = encoded(local, &[]);
        let exec = pb::op::Op::Exec(pb::ExecOp {
            meta: Some(pb::Meta {
                env: vec![
                    "HTTP_PROXY=http://me:hunter2@p.example/".into(),
                    "A=b".into(),
                ],
                proxy_env: Some(pb::ProxyEnv {
                    http_proxy: "http://me:hunter2@p.example/".into(),
                    ..pb::ProxyEnv::default()
                }),
                ..pb::Meta::default()
            }),
            ..pb::ExecOp::default()
        });
        let (exec, exec_digest) = encoded(exec, &[&web_digest, &local_digest, &web_digest]);
        let top = pb::Op {
            inputs: vec![pb::Input {
                digest: exec_digest.clone(),
                index: 0,
            }],
            ..pb::Op::default()
        };
        let def = vec![unused, local, web, exec, top.encode_to_vec()];
        let definition = pb::Definition {
            def,
            ..pb::Definition::default()
        };
        (definition, [local_digest, exec_digest])
    }

    #[test]
    fn steps_come_after_their_inputs_and_tell_no_passwords() {
        let (definition, [local, exec]) = definition();
        let steps = Steps::of(&definition, &BTreeMap::new()).unwrap();
        let told = steps.told();
        let text = json!(told).to_string();
        assert!(
            !text.contains("hunter2") && !text.contains("unused"),
            "{text}"
        );
        let list = told["llbDefinition"].as_array().unwrap();
        assert_eq!(list.len(), 4);
        assert_eq!(
            list[1]["op"],
            json!({"Op": {"source": {"identifier": "local://context", "attrs": {"a": "b"}}}})
        );
        assert_eq!(list[2]["inputs"], json!(["step0:0", "step1:0", "step0:0"]));
        assert_eq!(
            list[2]["op"]["Op"]["exec"]["meta"]["env"],
            json!(["HTTP_PROXY=http://p.example/", "A=b"])
        );
        assert_eq!(
            list[3],
            json!({"id": "step3", "op": {"Op": {}}, "inputs": ["step2:0"]})
        );
        assert_eq!(told["digestMapping"][&local], "step1");
        assert_eq!(told["digestMapping"][&exec], "step2");
        assert!(
            Steps::of(&pb::Definition::default(), &BTreeMap::new())
                .unwrap()
                .told()
                .is_empty()
        );
    }

    #[test]
    fn what_a_step_used_stands_beside_it() {
        let (definition, [local, exec]) = definition();
        let used = json!({"samples": [{"cpuStat": {"usageNanos": 7}}]});
        let usage = BTreeMap::from([
            (exec, used.clone()),
            ("sha256:other".to_owned(), used.clone()),
        ]);
        let told = Steps::of(&definition, &usage).unwrap().told();
        assert_eq!(told["llbDefinition"][2]["resourceUsage"], used);
        assert_eq!(told["digestMapping"][&local], "step1");
        assert_eq!(told["llbDefinition"][1].get("resourceUsage"), None);
    }

    #[test]
    fn the_build_file_is_told_with_the_places_of_steps() {
        let (mut definition, [local, exec]) = definition();
        let steps = Steps::of(&definition, &BTreeMap::new()).unwrap();
        assert_eq!(source(&definition, &steps).unwrap(), None);
        let range = pb::Range {
            start: Some(pb::Position {
                line: 2,
                character: 0,
            }),
            end: Some(pb::Position {
                line: 3,
                character: 0,
            }),
        };
        let place = pb::Location {
            source_index: 0,
            ranges: vec![range],
        };
        let locations = |locations: Vec<pb::Location>| pb::Locations { locations };
        definition.source = Some(pb::Source {
            locations: BTreeMap::from([
                (exec, locations(vec![place])),
                (local, locations(Vec::new())),
                ("sha256:other".to_owned(), locations(Vec::new())),
            ]),
            infos: vec![pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: b"FROM x".to_vec(),
                definition: Some(definition.clone()),
                language: "Dockerfile".into(),
            }],
        });
        let told = source(&definition, &steps).unwrap().unwrap();
        assert_eq!(
            told["locations"],
            json!({
                "step1": {},
                "step2": {"locations": [{"ranges": [{"start": {"line": 2}, "end": {"line": 3}}]}]},
            })
        );
        let info = &told["infos"][0];
        assert_eq!(info["data"], "RlJPTSB4");
        assert_eq!(info["llbDefinition"].as_array().map(Vec::len), Some(4));
    }
}
