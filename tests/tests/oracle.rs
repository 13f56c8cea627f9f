//! The expected results of real builds: ours must make the same, with the built-in frontend
//! and with the same frontend as an image.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use gateway_tests::base_images;
use gateway_tests::case::{BUILDS, Case, THEMES, cases, themes};
use gateway_tests::expect::{Outcome, differences};
use gateway_tests::image::{Node, images, read_archive};
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::registry::Registry;
use serde_json::Value;

/// Builds at once: steps sleep and sync more than they compute.
const WORKERS: usize = 4;

/// Builds one case in `home` and compares.
fn build_case(
    home: &Home,
    case: &Case,
    expected: &Value,
    base: &BTreeMap<String, Node>,
    syntax: Option<&str>,
) -> Vec<String> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let context = case.write_context(scratch.path());
    let archive = scratch.path().join("image.tar");
    let mut command = home.build();
    command
        .args(["--progress=rawjson", "--no-cache", "--output"])
        .arg(format!("type=oci,dest={}", archive.display()));
    if let Some(syntax) = syntax {
        // As a `# syntax` line would, without shifting the lines of the file.
        command.arg(format!("--opt=build-arg:BUILDKIT_SYNTAX={syntax}"));
    }
    for (key, value) in &case.opts {
        match (key.strip_prefix("context:"), value.strip_prefix("local:")) {
            (Some(name), Some(dir)) => command.arg("--build-context").arg(format!(
                "{name}={}",
                scratch.path().join("ctx2").join(dir).display()
            )),
            _ => command.arg("--opt").arg(format!("{key}={value}")),
        };
    }
    for (id, value) in &case.secrets {
        let path = scratch.path().join(format!("secret-{id}"));
        std::fs::write(&path, value).expect("writing a secret");
        command
            .arg("--secret")
            .arg(format!("id={id},src={}", path.display()));
    }
    for entitlement in &case.allow {
        command.arg("--allow").arg(entitlement);
    }
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs();
    let output = run(command.arg(&context));
    let ok = output.status.success();
    let images = if ok {
        images(&read_archive(&archive))
    } else {
        Vec::new()
    };
    let mut said = stderr(&output);
    if let Some(syntax) = syntax {
        // Errors without a line say how their frontend was chosen.
        let chosen = format!("failed with build-arg:BUILDKIT_SYNTAX = {syntax}: ");
        said = said.replace(&chosen, "");
    }
    let outcome = Outcome {
        ok,
        stderr: said,
        images,
        started,
    };
    differences(expected, &outcome, base)
}

/// Runs a theme with the built-in frontend; `exceptions` are cases that may differ here, each with
/// the reason.
fn run_theme(theme: &str, exceptions: &[(&str, &str)]) {
    // By hand, any frontend image of any registry can be put to the same test.
    let syntax = std::env::var("ORACLE_SYNTAX").ok();
    match std::env::var("ORACLE_CONFIG") {
        Ok(path) => {
            let config = std::fs::read_to_string(path).expect("the configuration");
            run_theme_in(&Home::new(&config), theme, exceptions, syntax.as_deref());
        }
        Err(_) => {
            let registry = Registry::with_base_images();
            let home = Home::new(&registry.as_docker_hub());
            run_theme_in(&home, theme, exceptions, syntax.as_deref());
        }
    }
}

fn run_theme_in(home: &Home, theme: &str, exceptions: &[(&str, &str)], syntax: Option<&str>) {
    let layout = tempfile::tempdir().expect("a temporary folder");
    let base = base_images::busybox_files(layout.path());
    let (count, report) = differing(home, theme, exceptions, syntax, &base);
    assert!(report.is_empty(), "of {count} cases differ:\n{report}");
    println!("{theme}: {count} cases match");
}

/// How many cases the theme has, and what differs in which of them.
fn differing(
    home: &Home,
    theme: &str,
    exceptions: &[(&str, &str)],
    syntax: Option<&str>,
    base: &BTreeMap<String, Node>,
) -> (usize, String) {
    let only = std::env::var("ORACLE_CASE").ok();
    let cases: Vec<_> = cases(theme)
        .into_iter()
        .filter(|(case, _)| only.as_ref().is_none_or(|only| case.name == *only))
        .collect();
    assert!(only.is_some() || !cases.is_empty(), "no cases in {theme}");
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(cases.len()) {
            scope.spawn(|| {
                while let Some((case, expected)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let differences = build_case(home, case, expected, base, syntax);
                    if !differences.is_empty() {
                        let mut failures = failures.lock().expect("no panic holds the lock");
                        failures.insert(case.name.clone(), differences);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no panic holds the lock");
    for (name, reason) in exceptions {
        if failures.remove(*name).is_some() {
            println!("{theme}/{name} differs, as expected here: {reason}");
        }
    }
    let report = failures
        .iter()
        .map(|(name, lines)| format!("== {theme}/{name}\n{}\n", lines.join("\n")))
        .collect();
    (cases.len(), report)
}

#[test]
fn run_cases_match_the_reference() {
    run_theme("run", &[]);
}

#[test]
fn copy_cases_match_the_reference() {
    run_theme("copy", &[]);
}

/// The project's frontend as an image: what is built in, behind a `# syntax` line. One registry and one
/// store for all cases.
#[test]
fn all_cases_match_through_our_own_frontend_image() {
    const FRONTEND: &str = "you/your-frontend:1";
    let registry = Registry::with_base_images();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    registry.build_and_push(&project, FRONTEND);
    let home = Home::new(&registry.as_docker_hub());
    let layout = tempfile::tempdir().expect("a temporary folder");
    let base = base_images::busybox_files(layout.path());
    let (mut count, mut report) = (0, String::new());
    for theme in THEMES {
        let (cases, differing) = differing(&home, theme, &[], Some(FRONTEND), &base);
        count += cases;
        report += &differing;
    }
    assert!(report.is_empty(), "of {count} cases differ:\n{report}");
    println!("{count} cases match");
}

#[test]
fn every_theme_has_its_test() {
    assert_eq!(themes(), THEMES);
}

/// Recorded with `docker/dockerfile:1` under the current BuildKit, in the format of the others.
#[test]
fn whole_build_files_match_the_reference() {
    run_theme(BUILDS, &[]);
}

#[test]
fn add_cases_match_the_reference() {
    run_theme("add", &[]);
}

#[test]
fn argument_cases_match_the_reference() {
    run_theme("args", &[]);
}

#[test]
fn config_cases_match_the_reference() {
    run_theme("config", &[]);
}

#[test]
fn lint_cases_match_the_reference() {
    run_theme("lint", &[]);
}

#[test]
fn network_cases_match_the_reference() {
    run_theme("net", &[]);
}

#[test]
fn parse_cases_match_the_reference() {
    run_theme("parse", &[]);
}

#[test]
fn stage_cases_match_the_reference() {
    run_theme("stages", &[]);
}
