//! What a second build finds again: after each change, the same steps as the reference must be
//! cached and the same must run (format: `data/oracle/README.md`).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gateway_tests::case::{CONTEXT_TIME, set_times};
use gateway_tests::expect::Events;
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::registry::Registry;
use serde_json::{Map, Value};

/// Scenarios at once: steps sleep and sync more than they compute.
const WORKERS: usize = 4;

/// A scenario's context, store and secrets, as its steps change them.
struct Scenario<'a> {
    home: Home,
    scratch: tempfile::TempDir,
    description: &'a Value,
}

impl<'a> Scenario<'a> {
    fn new(registry: &Registry, description: &'a Value) -> Scenario<'a> {
        Scenario {
            home: Home::new(&registry.as_docker_hub()),
            scratch: tempfile::tempdir().expect("a temporary folder"),
            description,
        }
    }

    fn context(&self) -> PathBuf {
        self.scratch.path().join("context")
    }

    /// All differences of the first build and of those that follow.
    fn play(&self) -> Vec<String> {
        let description = self.description;
        self.write(&description["files"]);
        let mut out = self.build(
            "first",
            0,
            &[],
            &description["secrets"],
            &description["first"],
        );
        let steps = description["then"].as_array().expect("a list of steps");
        for (number, step) in (1..).zip(steps) {
            self.change(step);
            let opts: Vec<&str> = step["opt"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let name = format!("step {number}");
            out.extend(self.build(&name, number, &opts, &step["secret"], &step["expected"]));
        }
        out
    }

    fn write(&self, files: &Value) {
        for (path, text) in entries(files) {
            let path = self.context().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("making a folder");
            std::fs::write(&path, text).expect("writing a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
                .expect("setting a mode");
        }
    }

    /// `touch` needs no work here: every step gives all files new times.
    fn change(&self, step: &Value) {
        const KNOWN: [&str; 7] = [
            "chmod", "expected", "opt", "rename", "secret", "touch", "write",
        ];
        for key in step.as_object().expect("a step").keys() {
            assert!(KNOWN.contains(&key.as_str()), "unknown change {key:?}");
        }
        self.write(&step["write"]);
        for (from, to) in entries(&step["rename"]) {
            std::fs::rename(self.context().join(from), self.context().join(to))
                .expect("renaming a file");
        }
        for (path, mode) in entries(&step["chmod"]) {
            let mode = u32::from_str_radix(mode, 8).expect("an octal mode");
            std::fs::set_permissions(
                self.context().join(path),
                std::fs::Permissions::from_mode(mode),
            )
            .expect("setting a mode");
        }
    }

    fn build(
        &self,
        name: &str,
        number: i64,
        opts: &[&str],
        secrets: &Value,
        expected: &Value,
    ) -> Vec<String> {
        set_times(&self.context(), CONTEXT_TIME + number);
        let mut command = self.home.build();
        command
            .args(["--progress=rawjson", "--output"])
            .arg(format!(
                "type=oci,dest={}",
                self.scratch.path().join("image.tar").display()
            ));
        for opt in opts {
            command.arg("--opt").arg(opt);
        }
        for (id, value) in entries(secrets) {
            let path = self.scratch.path().join(format!("secret-{id}"));
            std::fs::write(&path, value).expect("writing a secret");
            command
                .arg("--secret")
                .arg(format!("id={id},src={}", path.display()));
        }
        let output = run(command.arg(self.context()));
        let stderr = stderr(&output);
        if expected["ok"].as_bool() != Some(output.status.success()) {
            return vec![format!(
                "{name}: ok: expected {}; stderr:\n{stderr}",
                expected["ok"]
            )];
        }
        differences(name, expected, &Events::read(&stderr))
    }
}

/// The entries of an object of texts; nothing where there is none.
fn entries(object: &Value) -> impl Iterator<Item = (&str, &str)> {
    object
        .as_object()
        .into_iter()
        .flat_map(Map::iter)
        .map(|(key, value)| (key.as_str(), value.as_str().expect("a text")))
}

fn differences(name: &str, expected: &Value, events: &Events) -> Vec<String> {
    let mut want: BTreeMap<&str, &str> = entries(&expected["steps"]).collect();
    let got = events
        .vertices
        .iter()
        .filter(|(step, _)| is_compared(step))
        .map(|(step, (cached, _))| (step.as_str(), if *cached { "cached" } else { "ran" }));
    let mut out = Vec::new();
    for (step, outcome) in got {
        match want.remove(step) {
            Some(wanted) if wanted == outcome => {}
            Some(wanted) => out.push(format!("{name}: {step}: expected {wanted}, {outcome}")),
            None => out.push(format!("{name}: step too many: {step} ({outcome})")),
        }
    }
    out.extend(
        want.keys()
            .map(|step| format!("{name}: step missing: {step}")),
    );
    out
}

/// Base images, the frontend's own steps and the exporters' are not in the expectations.
fn is_compared(step: &str) -> bool {
    step.starts_with('[')
        && !step.starts_with("[internal]")
        && !step.starts_with("[auth]")
        && !step.contains("] FROM ")
}

fn scenarios() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/oracle/rebuild");
    let only = std::env::var("ORACLE_CASE").ok();
    let mut out: Vec<(String, Value)> = std::fs::read_dir(folder)
        .expect("the scenarios' folder")
        .flatten()
        .map(|entry| entry.path())
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy();
            let text = std::fs::read(&path).expect("a scenario");
            (
                name.into_owned(),
                serde_json::from_slice(&text).expect("JSON"),
            )
        })
        .filter(|(name, _)| only.as_ref().is_none_or(|only| name == only))
        .collect();
    out.sort_by(|one, other| one.0.cmp(&other.0));
    out
}

#[test]
fn rebuilds_find_again_what_the_reference_finds() {
    let registry = Registry::with_base_images();
    let scenarios = scenarios();
    assert!(!scenarios.is_empty(), "no scenarios");
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(scenarios.len()) {
            scope.spawn(|| {
                while let Some((name, scenario)) =
                    scenarios.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let differences = Scenario::new(&registry, scenario).play();
                    if !differences.is_empty() {
                        let mut failures = failures.lock().expect("no panic holds the lock");
                        failures.insert(name, differences);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic holds the lock");
    let report: String = failures
        .iter()
        .map(|(name, lines)| format!("== {name}\n{}\n", lines.join("\n")))
        .collect();
    assert!(
        report.is_empty(),
        "{} of {} scenarios differ:\n{report}",
        failures.len(),
        scenarios.len()
    );
    println!("{} scenarios match", scenarios.len());
}
