//! The table of docs/solver.md is true: every point has tests, and each is there.

use std::collections::BTreeSet;
use std::path::Path;

const POINTS: usize = 96;

/// The folders that hold tests of them.
const ROOMS: [&str; 4] = ["frontends", "gateway", "images", "tests"];

/// Names of the functions that are tests.
fn tests(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if let Some((_, rest)) = line.split_once("fn ") {
                    let name = rest.split('(').next().unwrap_or_default();
                    if std::mem::take(&mut is_test) {
                        found.insert(name.to_owned());
                    }
                }
            }
        }
    }
}

#[test]
fn every_point_of_the_solver_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known = BTreeSet::new();
    for room in ROOMS {
        tests(&root.join(room), &mut known);
    }
    let table = std::fs::read_to_string(root.join("docs/solver.md")).expect("the table");
    let mut missing = Vec::new();
    for point in 1..=POINTS {
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| {point} |")))
            .unwrap_or_else(|| panic!("point {point} is not in the table"));
        let cell = row.split('|').nth(3).unwrap_or_default();
        let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "point {point} has no test");
        let unknown = named.into_iter().filter(|name| !known.contains(*name));
        missing.extend(unknown.map(|name| format!("{point}: no test is called {name}")));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
