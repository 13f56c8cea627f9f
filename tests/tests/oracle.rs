//! The expected results of real builds: ours must make the same, with the built-in frontend.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use gateway_tests::case::Case;
use gateway_tests::expect::{Outcome, differences};
use gateway_tests::image::{Node, images, read_archive};
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::registry::Registry;
use serde_json::Value;

/// Builds at once: steps sleep and sync more than they compute.
const WORKERS: usize = 4;

fn data(theme: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/oracle/cases")
        .join(theme)
}

fn cases(theme: &str) -> Vec<(Case, Value)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(data(theme))
        .expect("the theme's folder")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "case"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let expected = std::fs::read(path.with_extension("json")).expect("an expectation");
            (
                Case::read(path),
                serde_json::from_slice(&expected).expect("JSON"),
            )
        })
        .collect()
}

fn busybox(registry_layout: &Path) -> BTreeMap<String, Node> {
    gateway_tests::base_images::write_layout(registry_layout).expect("writing base images");
    let archive = registry_layout.join("busybox.tar");
    gateway_tests::program::tool(
        "skopeo",
        &[
            "--insecure-policy".to_owned(),
            "copy".to_owned(),
            "--quiet".to_owned(),
            format!("oci:{}:library/busybox:latest", registry_layout.display()),
            format!("oci-archive:{}", archive.display()),
        ],
    );
    images(&read_archive(&archive))
        .into_iter()
        .next()
        .expect("the image")
        .files
}

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
    let outcome = Outcome {
        ok,
        stderr: stderr(&output),
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
    let base = busybox(layout.path());
    let only = std::env::var("ORACLE_CASE").ok();
    let cases: Vec<_> = cases(theme)
        .into_iter()
        .filter(|(case, _)| only.as_ref().is_none_or(|only| case.name == *only))
        .collect();
    assert!(!cases.is_empty(), "no cases in {theme}");
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(cases.len()) {
            scope.spawn(|| {
                while let Some((case, expected)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let differences = build_case(home, case, expected, &base, syntax);
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
    let report: String = failures
        .iter()
        .map(|(name, lines)| format!("== {theme}/{name}\n{}\n", lines.join("\n")))
        .collect();
    assert!(
        report.is_empty(),
        "{} of {} cases differ:\n{report}",
        failures.len(),
        cases.len()
    );
    println!("{theme}: {} cases match", cases.len());
}

#[test]
fn run_cases_match_the_reference() {
    run_theme("run", &[]);
}

#[test]
fn copy_cases_match_the_reference() {
    run_theme("copy", &[]);
}

/// The project's frontend as an image: what is built in, behind a `# syntax` line.
#[test]
fn run_and_copy_cases_match_through_our_own_frontend_image() {
    const FRONTEND: &str = "you/your-frontend:1";
    let registry = Registry::with_base_images();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    registry.build_and_push(&project, FRONTEND);
    let home = Home::new(&registry.as_docker_hub());
    for theme in ["run", "copy"] {
        run_theme_in(&home, theme, &[], Some(FRONTEND));
    }
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
