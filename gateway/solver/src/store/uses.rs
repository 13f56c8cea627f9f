//! When things were used: a line for each in the file `uses`, written once at the end of a build.
//!
//! A build that found everything writes nothing else, so this must cost next to nothing: no transaction,
//! no sync. Whoever collects garbage or lists the store brings the lines into the metadata first.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use gateway_images::fail_point::fail_point;

use super::db::Db;
use crate::error::SolverError;

const FILE: &str = "uses";
/// A file of this size, thousands of builds, is folded by the build that wrote the last line.
const FOLD_BYTES: u64 = 4 << 20;

/// What is known of the use of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Nanoseconds since the epoch.
    pub first: i64,
    pub last: i64,
    pub count: u64,
}

/// Notes one use of each name, at `now` (nanoseconds since the epoch). Losing it is no failure.
pub fn note<'a>(root: &Path, db: &Db, names: impl Iterator<Item = &'a str>, now: i64) {
    let mut lines = String::new();
    for name in names {
        lines.push_str(&format!("{now} {name}\n"));
    }
    if lines.is_empty() {
        return;
    }
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(root.join(FILE));
    let Ok(mut file) = file else { return };
    // One call: lines of builds that end at once do not mix.
    let _ = file.write_all(lines.as_bytes());
    if file.metadata().is_ok_and(|m| m.len() > FOLD_BYTES) {
        let _ = fold(root, db);
    }
}

/// Brings the lines into the metadata.
pub fn fold(root: &Path, db: &Db) -> Result<(), SolverError> {
    // Under a name of its own nobody adds to it, and when we are killed the next one finds it.
    let taken = root.join(format!("{FILE}.{}", super::new_id()));
    let _ = std::fs::rename(root.join(FILE), &taken);
    fail_point("uses-taken");
    let Ok(entries) = std::fs::read_dir(root) else {
        return Ok(());
    };
    let files: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.to_str()
                .is_some_and(|name| name.starts_with("uses.") && name.len() > FILE.len() + 1)
        })
        .map(|entry| entry.path())
        .collect();
    for path in files {
        let Ok(text) = std::fs::read(&path) else {
            continue; // another one is at it
        };
        let uses = parse(&String::from_utf8_lossy(&text));
        // Removed first: when both fold it, or we are killed, a use is lost and none counted twice.
        if std::fs::remove_file(&path).is_ok() {
            fail_point("uses-uncounted");
            db.add_uses(&uses)?;
        }
    }
    Ok(())
}

/// Lines that are torn or none are passed over.
fn parse(text: &str) -> BTreeMap<String, Use> {
    let mut uses: BTreeMap<String, Use> = BTreeMap::new();
    for line in text.lines() {
        let Some((time, name)) = line.split_once(' ') else {
            continue;
        };
        let (Ok(time), false) = (time.parse::<i64>(), name.is_empty()) else {
            continue;
        };
        uses.entry(name.to_owned())
            .and_modify(|known| {
                known.first = known.first.min(time);
                known.last = known.last.max(time);
                known.count += 1;
            })
            .or_insert(Use {
                first: time,
                last: time,
                count: 1,
            });
    }
    uses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_across_builds_and_torn_lines_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        note(dir.path(), &db, ["layer a", "layer b"].into_iter(), 5);
        fold(dir.path(), &db).unwrap();
        note(dir.path(), &db, ["layer a"].into_iter(), 9);
        std::fs::write(dir.path().join("uses.left"), "7 layer a\nx\n8 \nlayer").unwrap();
        fold(dir.path(), &db).unwrap();
        let uses = db.uses().unwrap();
        let of = |name: &str| uses[name];
        assert_eq!(
            of("layer a"),
            Use {
                first: 5,
                last: 9,
                count: 3
            }
        );
        assert_eq!(of("layer b").count, 1);
        assert_eq!(uses.len(), 2);
        assert!(!dir.path().join("uses.left").exists());
    }
}
