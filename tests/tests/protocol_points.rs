//! The table of docs/bridge.md is true: every point of the protocol has tests, and each is there.

use std::collections::BTreeSet;
use std::path::Path;

/// Points of the protocol.
const POINTS: usize = 53;

/// The folders that hold tests of them.
const ROOMS: [&str; 3] = ["frontends", "gateway", "tests"];

fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let names = text.split("fn p").skip(1).filter_map(|rest| {
                let name = rest.split('(').next()?;
                name.starts_with(|c: char| c.is_ascii_digit())
                    .then(|| format!("p{name}"))
            });
            found.extend(names);
        }
    }
}

#[test]
fn every_point_of_the_table_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known = BTreeSet::new();
    for room in ROOMS {
        functions(&root.join(room), &mut known);
    }
    let table = std::fs::read_to_string(root.join("docs/bridge.md")).expect("the table");
    for point in 1..=POINTS {
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| {point} |")))
            .unwrap_or_else(|| panic!("point {point} is not in the table"));
        let cell = row.split('|').nth(3).unwrap_or_default();
        let tests: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "point {point} has no test");
        for test in tests {
            assert!(
                known.contains(test),
                "point {point}: no test is called {test}"
            );
            assert!(
                test.contains(&format!("p{point:02}_")),
                "{test} is not of point {point}"
            );
        }
    }
}
