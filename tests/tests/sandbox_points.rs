//! The tables of docs/sandbox.md are true: every point of safety has a test that carries its number, and
//! every test that they name is there.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;

/// Points of safety.
const POINTS: RangeInclusive<usize> = 41..=78;

/// The folders that hold tests of them.
const ROOMS: [&str; 4] = ["frontends", "gateway", "images", "tests"];

fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            // Only functions marked as tests, however: some stand below other marks.
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                marked |= line.starts_with("#[test") || line.starts_with("#[tokio::test");
                let name = line.trim_start_matches("pub ").trim_start_matches("async ");
                if let Some(name) = name.strip_prefix("fn ") {
                    let name = name.split('(').next().unwrap_or_default();
                    // Tests of both doors of the engine are marked by their list.
                    if std::mem::take(&mut marked) || line.starts_with("pub async fn ") {
                        found.insert(name.to_owned());
                    }
                }
            }
        }
    }
}

#[test]
fn every_point_of_safety_has_tests_and_all_tests_of_the_tables_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known = BTreeSet::new();
    for room in ROOMS {
        functions(&root.join(room), &mut known);
    }
    let text = std::fs::read_to_string(root.join("docs/sandbox.md")).expect("the tables");
    let tests_of = |line: &str| -> Vec<String> {
        let cell = line.trim_end_matches([' ', '|']).rsplit('|').next();
        let names = cell.unwrap_or_default().split('`').skip(1).step_by(2);
        names.map(str::to_owned).collect()
    };
    for point in POINTS {
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| {point} |")))
            .unwrap_or_else(|| panic!("point {point} is not in the table"));
        let carries = |name: &String| name.contains(&format!("s{point:02}_"));
        assert!(
            tests_of(row).iter().any(carries),
            "point {point} has no test with its number"
        );
    }
    let tables = text
        .split("## Safety, point by point")
        .nth(1)
        .unwrap_or_default();
    let mut count = 0;
    for line in tables.lines().filter(|line| line.starts_with("| ")) {
        for name in tests_of(line) {
            assert!(known.contains(&name), "no test is called {name}:\n{line}");
            count += 1;
        }
    }
    assert!(count >= 90, "{count} tests only: were the tables read?");
}
