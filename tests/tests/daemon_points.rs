//! The table of docs/daemon.md is true: every point has a state, and what is said to be tested is.

use std::collections::BTreeSet;
use std::path::Path;

/// Points of the checklist.
const POINTS: usize = 62;

/// The folders that hold tests of them.
const ROOMS: [&str; 2] = ["gateway", "tests"];

fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let names = text.split("fn ").skip(1);
            found.extend(names.filter_map(|rest| Some(rest.split('(').next()?.to_owned())));
        }
    }
}

fn known() -> (std::path::PathBuf, BTreeSet<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known = BTreeSet::new();
    for room in ROOMS {
        functions(&root.join(room), &mut known);
    }
    (root, known)
}

#[test]
fn every_limit_of_the_daemon_has_its_test() {
    let (root, known) = known();
    let text = std::fs::read_to_string(root.join("docs/daemon.md")).expect("the table");
    let mut rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| what | limit | why | tests |"))
        .skip(2)
        .take_while(|line| line.starts_with("| "))
        .peekable();
    assert!(rows.peek().is_some(), "there is no table of limits");
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let tests = cells.get(4).copied().unwrap_or_default();
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            assert!(known.contains(test), "no test is called {test}: {row}");
        }
    }
}

#[test]
fn every_point_of_the_daemon_has_a_state_and_what_is_tested_is() {
    let (root, known) = known();
    let table = std::fs::read_to_string(root.join("docs/daemon.md")).expect("the table");
    for point in 1..=POINTS {
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| {point} |")))
            .unwrap_or_else(|| panic!("point {point} is not in the table"));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let state = cells.get(3).copied().unwrap_or_default();
        let tests: Vec<&str> = cells
            .get(4)
            .map(|cell| cell.split('`').skip(1).step_by(2).collect())
            .unwrap_or_default();
        let claimed = state == "tested" || state.starts_with("in part (");
        assert!(
            claimed || ["by hand", "untried", "missing"].contains(&state),
            "point {point}: no state is called {state:?}"
        );
        assert_eq!(
            claimed,
            !tests.is_empty(),
            "point {point}: {state}, {tests:?}"
        );
        for test in tests {
            assert!(
                test.contains(&format!("p{point:02}_")),
                "{test} is not of point {point}"
            );
            assert!(
                known.contains(test),
                "point {point}: no test is called {test}"
            );
        }
    }
}
