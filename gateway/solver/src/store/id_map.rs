//! Whose ids the files of a store carry.
//!
//! In a user namespace root's files belong to an ordinary user outside, and others to subordinate
//! ids. Read under another mapping every owner in a layer would be a wrong one.

use std::path::Path;

use super::db::Db;
use crate::error::SolverError;

const ID_MAP: &str = "id_map";

/// Remembers the mapping (as `/proc/self/uid_map` has it) of the first use; later ones must have
/// the same.
pub fn check(root: &Path, db: &Db, uid_map: &str) -> Result<(), SolverError> {
    let ours = normalized(uid_map);
    match db.state(ID_MAP)? {
        Some(theirs) if theirs == ours => Ok(()),
        Some(theirs) => Err(SolverError::OtherIds {
            root: root.to_owned(),
            theirs,
            ours,
        }),
        None => db.set_state(ID_MAP, &ours),
    }
}

/// One range after the other, `inside outside length`, without the kernel's padding.
fn normalized(uid_map: &str) -> String {
    let ranges: Vec<String> = uid_map
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    ranges.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_stays_with_the_mapping_it_was_made_under() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let user = "         0       1000          1\n         1     100000      65536\n";
        check(dir.path(), &db, user).unwrap();
        check(dir.path(), &db, user).unwrap();
        let error = check(dir.path(), &db, "0 0 4294967295\n").unwrap_err();
        assert!(error.to_string().contains("0 1000 1, 1 100000 65536"));
    }
}
