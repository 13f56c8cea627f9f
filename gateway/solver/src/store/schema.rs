//! The numbered schema of `metadata.db`.

use gateway_images::fail_point::fail_point;
use rusqlite::Connection;

/// Raised with every change of the tables; each number has a step below.
pub const VERSION: i64 = 6;

const STEPS: [&str; VERSION as usize] = [
    "
    -- A key is known by what leads to it: equal op, output, input position and selector.
    CREATE TABLE links (
        dep TEXT NOT NULL, input INTEGER NOT NULL, op TEXT NOT NULL, selector TEXT NOT NULL,
        target TEXT NOT NULL,
        PRIMARY KEY (dep, input, op, selector, target)
    ) WITHOUT ROWID;
    -- Ops without inputs are found by their root key itself.
    CREATE TABLE results (
        key TEXT NOT NULL, layers TEXT NOT NULL, created_at INTEGER NOT NULL,
        PRIMARY KEY (key, layers)
    ) WITHOUT ROWID;
    CREATE TABLE layers (
        id TEXT PRIMARY KEY, base TEXT NOT NULL, description TEXT NOT NULL,
        created_at INTEGER NOT NULL, opaque_root INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    -- Compressed forms of a layer.
    CREATE TABLE variants (
        layer TEXT NOT NULL, form TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
        media_type TEXT NOT NULL, diff_id TEXT NOT NULL,
        PRIMARY KEY (layer, form)
    ) WITHOUT ROWID;
    CREATE TABLE cache_mounts (
        key TEXT NOT NULL, slot INTEGER NOT NULL, dir TEXT NOT NULL,
        PRIMARY KEY (key, slot)
    ) WITHOUT ROWID;
    CREATE TABLE images (
        name TEXT PRIMARY KEY, digest TEXT NOT NULL, media_type TEXT NOT NULL,
        size INTEGER NOT NULL, created_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE content_digests (
        layers TEXT NOT NULL, selector TEXT NOT NULL, digest TEXT NOT NULL,
        PRIMARY KEY (layers, selector)
    ) WITHOUT ROWID;
",
    "
    CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
",
    "
    -- Ops are named by a hash from here on, as caches elsewhere name them.
    DELETE FROM links;
",
    "
    -- What kind of record a layer is for usage lists, where it is not an ordinary one; bytes it takes, once
    -- somebody asked (-1 before); whether a sync has covered it.
    ALTER TABLE layers ADD COLUMN kind TEXT NOT NULL DEFAULT '';
    ALTER TABLE layers ADD COLUMN size INTEGER NOT NULL DEFAULT -1;
    ALTER TABLE layers ADD COLUMN durable INTEGER NOT NULL DEFAULT 0;
    UPDATE layers SET durable = 1
        WHERE created_at < (SELECT CAST(value AS INTEGER) FROM state WHERE name = 'synced');
    DELETE FROM state WHERE name = 'synced';
    CREATE INDEX doubtful_layers ON layers (id) WHERE durable = 0;
    ALTER TABLE cache_mounts ADD COLUMN description TEXT NOT NULL DEFAULT '';
    -- By lease name. Times in nanoseconds since the epoch.
    CREATE TABLE uses (
        name TEXT PRIMARY KEY, first_used_at INTEGER NOT NULL, last_used_at INTEGER NOT NULL,
        count INTEGER NOT NULL
    ) WITHOUT ROWID;
",
    "
    -- For caches that are written: what leads to a key.
    CREATE INDEX links_by_target ON links (target);
",
    "
    -- What is asked and answered the same way again, for those who know how to compare it.
    CREATE TABLE answers (
        key TEXT PRIMARY KEY, answer BLOB NOT NULL, kept_at INTEGER NOT NULL
    ) WITHOUT ROWID;
",
];

/// Brings the tables up to [`VERSION`]; gives the number found when it is newer.
pub fn migrate(connection: &mut Connection) -> rusqlite::Result<Result<(), i64>> {
    let found = version(connection)?;
    if found == VERSION {
        return Ok(Ok(()));
    }
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let found = version(&transaction)?;
    let Some(steps) = usize::try_from(found).ok().and_then(|at| STEPS.get(at..)) else {
        return Ok(Err(found));
    };
    for step in steps {
        transaction.execute_batch(step)?;
    }
    fail_point("schema-uncommitted");
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(Ok(()))
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Db;

    /// What each version left on disks, with the same content.
    const LEFT: [&str; VERSION as usize] = [
        include_str!("fixtures/v1.sql"),
        include_str!("fixtures/v2.sql"),
        include_str!("fixtures/v3.sql"),
        include_str!("fixtures/v4.sql"),
        include_str!("fixtures/v5.sql"),
        include_str!("fixtures/v6.sql"),
    ];

    #[test]
    fn a_store_of_any_earlier_version_keeps_what_it_knew() {
        for (index, text) in LEFT.iter().enumerate() {
            let found = index as i64 + 1;
            let dir = tempfile::tempdir().unwrap();
            let old = Connection::open(dir.path().join("metadata.db")).unwrap();
            old.execute_batch(text).unwrap();
            assert_eq!(version(&old).unwrap(), found);
            drop(old);
            let db = Db::open(dir.path()).unwrap();
            assert_eq!(db.images().unwrap()[0].0, "docker.io/me/app:latest");
            let layers = db.all_layers().unwrap();
            assert_eq!(layers.len(), 2);
            let (base, top) = (format!("sha256:{}", "1".repeat(64)), "a".repeat(32));
            assert_eq!(layers[&top].record.base, [base.as_str()]);
            assert_eq!(layers[&base].blobs.len(), 1);
            let result = db.results(&["sha256:target".into()]).unwrap();
            assert_eq!(result[0].layers, [base.clone(), top]);
            assert_eq!(db.cache_mount("/c", 0, "new", "").unwrap(), "cafe");
            // Marked by the time of the last sync where that was known.
            let durable = db.durable_layers().unwrap();
            assert_eq!(durable.contains(&base), found > 1, "version {found}");
            assert_eq!(durable.len(), usize::from(found > 1));
            // Ops had other names before the third.
            let input = vec![vec![crate::store::Candidate {
                key: "sha256:dep".into(),
                selector: String::new(),
            }]];
            let targets = db.targets("sha256:op@0", &input).unwrap();
            assert_eq!(targets.len(), usize::from(found > 2), "version {found}");
            // Answers of frontends are kept since the sixth.
            let answer = db.answer("sha256:question").unwrap();
            assert_eq!(answer.is_some(), found > 5, "version {found}");
            drop(db);
            assert!(Db::open(dir.path()).is_ok());
        }
    }
}
