//! The parameters of a target: ARGs, secrets and ssh agents of all that it is built from.

use std::collections::{BTreeMap, BTreeSet};

use gateway_api::{BuildResult, Error};
use gateway_frontend::subrequest::{Table, answer as result};
use gateway_llb::json;
use serde_json::{Map, Value, json};

use super::{convert_checked, location, set_text};
use crate::convert::MAX_LINES;
use crate::convert::args::ArgInfo;
use crate::convert::stage::{Parameters, Stage};
use crate::parse::{LineRange, Parsed};
use gateway_frontend::conventions::{BuildClient, BuildFile};

pub async fn answer(
    client: &BuildClient,
    file: &BuildFile,
    parsed: &Parsed,
) -> Result<BuildResult, Error> {
    let converted = convert_checked(client, file, parsed).await?;
    let mut found = Found::default();
    found.collect(&converted.stages, converted.target);
    let target = converted.stages.get(converted.target);
    let name = target.and_then(|t| t.name.as_deref()).unwrap_or_default();
    let description = target.map_or("", |t| t.description.as_str());

    let mut left = MAX_LINES;
    let mut out = Map::new();
    set_text(&mut out, "name", name);
    set_text(&mut out, "description", description);
    let args = by_line(found.args, |info| info.location);
    let secrets = by_line(found.secrets, |(lines, _)| *lines);
    let ssh = by_line(found.ssh, |(lines, _)| *lines);
    set_list(
        &mut out,
        "args",
        args.iter().map(|arg| arg_json(arg, &mut left)),
    );
    set_list(
        &mut out,
        "secrets",
        secrets.iter().map(|s| given_json(s, &mut left)),
    );
    set_list(
        &mut out,
        "ssh",
        ssh.iter().map(|s| given_json(s, &mut left)),
    );
    out.insert("sources".to_owned(), json!([json::bytes(&file.map.data)]));

    let mut text = String::new();
    if !name.is_empty() || !description.is_empty() {
        let mut table = Table::new(1);
        let shown = if name.is_empty() { "(default)" } else { name };
        table.row(&["TARGET:", shown]);
        if !description.is_empty() {
            table.row(&["DESCRIPTION:", description]);
        }
        text += &format!("{}\n", table.text());
    }
    if !args.is_empty() {
        let mut table = Table::new(3);
        table.row(&["BUILD ARG", "VALUE", "DESCRIPTION"]);
        for (name, info) in &args {
            table.row(&[name, &info.value, &info.description]);
        }
        text += &format!("{}\n", table.text());
    }
    for (title, list) in [("SECRET", &secrets), ("SSH", &ssh)] {
        if list.is_empty() {
            continue;
        }
        let mut table = Table::new(3);
        table.row(&[title, "REQUIRED"]);
        for (name, (_, required)) in list {
            table.row(&[name, if *required { "true" } else { "" }]);
        }
        text += &format!("{}\n", table.text());
    }
    Ok(result(&Value::Object(out), Some(text), "1.0.0"))
}

#[derive(Default)]
struct Found {
    args: BTreeMap<String, ArgInfo>,
    secrets: BTreeMap<String, (LineRange, bool)>,
    ssh: BTreeMap<String, (LineRange, bool)>,
    /// The global ARGs that were taken, with what they need.
    globals: BTreeSet<String>,
}

impl Found {
    /// The target first, then what it is built from: the first word about a name counts.
    fn collect(&mut self, stages: &[Stage], target: usize) {
        let mut seen = BTreeSet::new();
        let mut seen_from = BTreeSet::new();
        let mut waiting = vec![target];
        while let Some(index) = waiting.pop() {
            let Some(stage) = stages.get(index).filter(|_| seen.insert(index)) else {
                continue;
            };
            let mut used: Vec<&str> = stage.parameters.used.iter().map(String::as_str).collect();
            let mut below = Some(index);
            while let Some(index) = below.filter(|index| seen_from.insert(*index)) {
                let stage = stages.get(index);
                used.extend(
                    stage
                        .iter()
                        .flat_map(|s| &s.parameters.in_from)
                        .map(String::as_str),
                );
                below = stage.and_then(|stage| stage.base);
            }
            self.add(&stage.parameters, used);
            waiting.extend(stage.deps.iter().rev().map(|(dep, _)| *dep));
            waiting.extend(stage.base);
        }
    }

    fn add<'a>(&mut self, parameters: &'a Parameters, mut waiting: Vec<&'a str>) {
        let mut used = BTreeSet::new();
        while let Some(name) = waiting.pop() {
            let info = match parameters.args.get(name) {
                Some(own) if used.insert(name) => own,
                Some(_) => continue,
                None => match parameters.global.get(name) {
                    Some(global) if self.globals.insert(name.to_owned()) => global,
                    _ => continue,
                },
            };
            self.args
                .entry(name.to_owned())
                .or_insert_with(|| info.clone());
            waiting.extend(info.needs.iter().map(String::as_str));
        }
        for (from, to) in [
            (&parameters.secrets, &mut self.secrets),
            (&parameters.ssh, &mut self.ssh),
        ] {
            for (name, value) in from {
                to.entry(name.clone()).or_insert(*value);
            }
        }
    }
}

fn by_line<T>(map: BTreeMap<String, T>, lines: impl Fn(&T) -> LineRange) -> Vec<(String, T)> {
    let mut list: Vec<(String, T)> = map.into_iter().collect();
    list.sort_by_key(|(_, value)| lines(value));
    list
}

fn set_list(out: &mut Map<String, Value>, key: &str, list: impl Iterator<Item = Value>) {
    let list: Vec<Value> = list.collect();
    if !list.is_empty() {
        out.insert(key.to_owned(), Value::Array(list));
    }
}

fn arg_json((name, info): &(String, ArgInfo), left: &mut usize) -> Value {
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(name));
    set_text(&mut out, "description", &info.description);
    set_text(&mut out, "value", &info.value);
    out.insert("location".to_owned(), location(info.location, left));
    Value::Object(out)
}

fn given_json((name, (lines, required)): &(String, (LineRange, bool)), left: &mut usize) -> Value {
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(name));
    if *required {
        out.insert("required".to_owned(), json!(true));
    }
    out.insert("location".to_owned(), location(*lines, left));
    Value::Object(out)
}
