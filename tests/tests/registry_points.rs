//! The table of docs/registry-client.md is true: every point has tests, and each is there.

use std::collections::BTreeSet;
use std::path::Path;

/// Points of the client.
const POINTS: usize = 163;

/// The folders that hold tests of them.
const ROOMS: [&str; 2] = ["images", "tests"];

/// Names of test functions: what stands behind `fn` in the lines after a `#[test]` or `#[tokio::test]`.
fn tests_in(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let mut marked = false;
            for line in text.lines().map(str::trim_start) {
                marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let name = line.strip_prefix("async ").unwrap_or(line);
                if let (true, Some(rest)) = (marked, name.strip_prefix("fn ")) {
                    found.extend(rest.split('(').next().map(str::to_owned));
                    marked = false;
                }
            }
        }
    }
}

#[test]
fn every_point_of_the_registry_client_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known = BTreeSet::new();
    for room in ROOMS {
        tests_in(&root.join(room), &mut known);
    }
    let table = std::fs::read_to_string(root.join("docs/registry-client.md")).expect("the table");
    let mut numbered = BTreeSet::new();
    for point in 1..=POINTS {
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| {point} |")))
            .unwrap_or_else(|| panic!("point {point} is not in the table"));
        let cell = row.split('|').nth(3).unwrap_or_default();
        let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "point {point} has no test");
        for test in named {
            // What takes a quiet machine is measured, not tested.
            let there = known.contains(test) || (test.contains('/') && root.join(test).is_file());
            assert!(there, "point {point}: no test is called {test}");
            numbered.insert(test.to_owned());
        }
    }
    // A test that carries the number of a point stands in the table.
    for test in known.iter().filter(|test| test.starts_with("check_")) {
        assert!(numbered.contains(test), "{test} is not in the table");
    }
}
