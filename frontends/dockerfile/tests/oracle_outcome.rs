//! Configs, histories, step names, warnings and errors of the recorded builds.

mod oracle;

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_api::{BuildResult, Error};
use gateway_dockerfile::build;
use gateway_llb::Graph;
use oracle::{Case, Memory, cases};
use serde_json::{Value, json};

/// Cases whose error comes from a step, when the result is used.
const STEPS_FAIL: [&str; 13] = [
    "copy/chown-name-on-scratch",
    "copy/link-chown-name",
    "copy/missing-source",
    "copy/outside-context",
    "lint/copy-ignored-file",
    "net/network-host-refused",
    "net/security-insecure-refused",
    "run/fail-command-not-found",
    "run/fail-exit-code",
    "run/fail-script",
    "run/fail-unknown-user",
    "run/mount-secret-required-missing",
    "run/mount-ssh-missing-required",
];

async fn run(case: &Case) -> (Arc<Memory>, Result<BuildResult, Error>) {
    let memory = Arc::new(Memory::new(case));
    let result = build(Arc::clone(&memory) as _).await;
    (memory, result)
}

fn check(failures: Vec<String>, seen: usize, least: usize) {
    let count = failures.len();
    assert!(
        failures.is_empty(),
        "{count} of {seen} differ\n{}",
        failures.join("\n")
    );
    assert!(seen >= least, "only {seen} cases");
}

/// The config as it is recorded: without times and layers.
fn config(result: &BuildResult, platform: &str) -> (Value, Vec<Value>) {
    let metadata = &result.metadata;
    let bytes = metadata
        .get(&format!("containerimage.config/{platform}"))
        .or_else(|| metadata.get("containerimage.config"))
        .unwrap();
    let mut config: Value = serde_json::from_slice(bytes).unwrap();
    let map = config.as_object_mut().unwrap();
    map.remove("created");
    map.remove("rootfs");
    let mut history = match map.remove("history") {
        Some(Value::Array(history)) => history,
        _ => Vec::new(),
    };
    for entry in &mut history {
        entry.as_object_mut().unwrap().remove("created");
    }
    (config, history)
}

#[tokio::test]
async fn configs_and_histories_are_the_recorded_ones() {
    let mut failures = Vec::new();
    let mut seen = 0;
    for case in cases() {
        let expected = case.expected();
        if expected["ok"] != json!(true) {
            continue;
        }
        let (_, result) = run(&case).await;
        let result = match result {
            Ok(result) => result,
            Err(e) => {
                failures.push(format!("{}: {e}", case.name));
                continue;
            }
        };
        for image in expected["images"].as_array().into_iter().flatten() {
            seen += 1;
            let (config, history) = config(&result, image["platform"].as_str().unwrap());
            if config != image["config"] {
                failures.push(format!(
                    "{}:\n  wanted {}\n  have   {config}",
                    case.name, image["config"]
                ));
            }
            let wanted = image["history"].as_array().cloned().unwrap_or_default();
            if history != wanted {
                failures.push(format!(
                    "{}:\n  wanted {}\n  have   {}",
                    case.name,
                    json!(wanted),
                    json!(history)
                ));
            }
        }
    }
    check(failures, seen, 90);
}

/// Digests in names are not compared.
fn scrub(name: &str) -> String {
    match name.split_once("@sha256:") {
        Some((head, tail)) => format!("{head}@sha256:<digest>{}", tail.get(64..).unwrap_or("")),
        None => name.to_owned(),
    }
}

#[tokio::test]
async fn steps_have_the_recorded_names() {
    let mut failures = Vec::new();
    let mut seen = 0;
    for case in cases() {
        let expected = case.expected();
        if expected["ok"] != json!(true) {
            continue;
        }
        seen += 1;
        let (memory, _) = run(&case).await;
        let mut have: BTreeSet<String> = memory
            .calls()
            .iter()
            .filter_map(|call| call.strip_prefix("meta ").map(scrub))
            .collect();
        for definition in memory.definitions() {
            let Ok(graph) = Graph::load(&definition) else {
                continue;
            };
            have.extend(graph.vertices().map(|v| match v.custom_name() {
                Some(name) => scrub(name),
                None => gateway_llb::vertex_name(&graph, v.digest()),
            }));
        }
        let want: BTreeSet<String> = expected["vertices"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|v| v.as_str().unwrap().to_owned())
            .collect();
        if have != want {
            let lost: Vec<_> = want.difference(&have).collect();
            let extra: Vec<_> = have.difference(&want).collect();
            failures.push(format!(
                "{}:\n  lost {lost:?}\n  extra {extra:?}",
                case.name
            ));
        }
    }
    check(failures, seen, 90);
}

#[tokio::test]
async fn warnings_are_the_recorded_ones() {
    let mut failures = Vec::new();
    let mut seen = 0;
    for case in cases() {
        let expected = case.expected();
        let mut want: Vec<String> = expected["warnings"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|w| w["message"].as_str().unwrap().to_owned())
            .collect();
        let (memory, _) = run(&case).await;
        let mut have = memory.warnings();
        seen += have.len();
        want.sort();
        have.sort();
        // The reference may lose warnings of a build that fails.
        let enough = expected["ok"] != json!(true) && want.iter().all(|w| have.contains(w));
        if have != want && !enough {
            failures.push(format!(
                "{}:\n  wanted {want:?}\n  have   {have:?}",
                case.name
            ));
        }
    }
    check(failures, seen, 20);
}

/// An error as the reference client prints it.
fn printed(error: &Error) -> String {
    let mut out = String::new();
    let sources: Vec<_> = error.sources().collect();
    for source in sources.into_iter().rev() {
        let lines: BTreeSet<i32> = source
            .ranges
            .iter()
            .filter_map(|r| Some(r.start.as_ref()?.line))
            .collect();
        let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
            continue;
        };
        let text = String::from_utf8_lossy(&source.info.data).into_owned();
        let all: Vec<&str> = text.split('\n').collect();
        let around = if first == last { 2 } else { 1 };
        out += &format!("{}:{first}\n--------------------\n", source.info.filename);
        for number in (first - around).max(1)..=(last + around).min(all.len() as i32) {
            let mark = if lines.contains(&number) {
                ">>>"
            } else {
                "   "
            };
            out += &format!("{number:4} | {mark} {}\n", all[number as usize - 1]);
        }
        out += "--------------------\n";
    }
    out + &format!("error: failed to solve: {}", error.message)
}

#[tokio::test]
async fn errors_read_as_recorded() {
    let mut failures = Vec::new();
    let mut seen = 0;
    for case in cases() {
        let expected = case.expected();
        if expected["ok"] == json!(true) || STEPS_FAIL.contains(&case.name.as_str()) {
            continue;
        }
        seen += 1;
        let want = expected["error"].as_str().unwrap();
        let (_, result) = run(&case).await;
        match result {
            Ok(_) => failures.push(format!("{}: built, wanted {want}", case.name)),
            Err(e) => {
                let have = sort_rules(&printed(&e));
                let want = &sort_rules(want);
                if scrub_all(&have).trim_end() != scrub_all(want).trim_end() {
                    failures.push(format!("{}:\n{want}\n-- have\n{have}", case.name));
                }
            }
        }
    }
    check(failures, seen, 25);
}

/// The reference lists the violated rules in random order.
fn sort_rules(text: &str) -> String {
    const HEAD: &str = "lint violation found for rules: ";
    let Some((head, rules)) = text.split_once(HEAD) else {
        return text.to_owned();
    };
    let mut rules: Vec<&str> = rules.trim().split(", ").collect();
    rules.sort_unstable();
    format!("{head}{HEAD}{}", rules.join(", "))
}

fn scrub_all(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once("sha256:") {
        out += head;
        out += "sha256:<digest>";
        rest = tail
            .strip_prefix("<digest>")
            .unwrap_or_else(|| tail.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    out + rest
}
