//! The tables of docs/parity.md are true: every point of the Dockerfile language and of the SDK has
//! tests, and each is there.

use std::collections::BTreeSet;
use std::path::Path;

/// Points of the Dockerfile frontend, and of the SDK.
const POINTS: [(&str, usize); 2] = [("## The Dockerfile frontend", 158), ("## The SDK", 30)];

/// The folders that hold tests.
const ROOMS: [&str; 4] = ["frontends", "gateway", "images", "tests"];

fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            for part in text.split("fn ").skip(1) {
                let name = part.split_once('(').map(|(name, _)| name.to_owned());
                found.extend(name);
            }
        }
    }
}

/// Names of recorded cases: `theme/name` of real builds, `N.*` of files of a point.
fn recorded(root: &Path) -> BTreeSet<String> {
    let oracle = root.join("tests/data/oracle");
    let cases = std::fs::read_dir(oracle.join("cases")).expect("the themes");
    let mut folders: Vec<_> = cases.flatten().map(|entry| entry.path()).collect();
    folders.push(oracle.join("rebuild"));
    let mut found = BTreeSet::new();
    for folder in folders {
        let theme = folder.file_name().unwrap_or_default().to_string_lossy();
        for entry in std::fs::read_dir(&folder).expect("a theme").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(name) = name.strip_suffix(".json") {
                found.insert(format!("{theme}/{name}"));
            }
        }
    }
    let points = "frontends/dockerfile/tests/data/differential/points.jsonl";
    let points = std::fs::read_to_string(root.join(points)).expect("the points' files");
    for line in points.lines() {
        let case: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let name = case["name"].as_str().unwrap_or_default();
        let point = name.split('.').next().unwrap_or_default();
        found.insert(format!("{point}.*"));
    }
    found
}

#[test]
fn every_point_of_the_tables_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known = recorded(&root);
    for room in ROOMS {
        functions(&root.join(room), &mut known);
    }
    let text = std::fs::read_to_string(root.join("docs/parity.md")).expect("the tables");
    for (heading, points) in POINTS {
        let table = text.split_once(heading).expect("a heading").1;
        let table = table.split("\n## ").next().unwrap_or_default();
        for point in 1..=points {
            let row = table
                .lines()
                .find(|line| line.starts_with(&format!("| {point} |")))
                .unwrap_or_else(|| panic!("{heading}: point {point} is missing"));
            let cell = row
                .trim_end_matches('|')
                .rsplit('|')
                .next()
                .unwrap_or_default();
            let tests: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
            assert!(!tests.is_empty(), "{heading}: point {point} has no test");
            for test in tests {
                assert!(
                    known.contains(test),
                    "{heading}: point {point}: no test is called {test}"
                );
                assert!(
                    !test.ends_with(".*") || test == format!("{point}.*"),
                    "{heading}: {test} is not of point {point}"
                );
            }
        }
    }
}
