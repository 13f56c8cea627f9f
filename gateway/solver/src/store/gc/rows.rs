//! What collection reads and changes in the metadata: whole tables, at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rusqlite::params;

use super::super::LayerRecord;
use super::super::db::{Db, split};
use super::super::uses::Use;
use crate::error::SolverError;

type Result<T> = std::result::Result<T, SolverError>;

/// A layer's row with what usage lists need beside it.
pub struct LayerRow {
    pub record: LayerRecord,
    /// In bytes; `None` until somebody looked.
    pub size: Option<u64>,
    /// Digests of its compressed forms.
    pub blobs: Vec<String>,
}

/// A cache mount's row.
pub struct CacheRow {
    pub key: String,
    pub slot: i64,
    pub dir: String,
    pub description: String,
}

impl Db {
    /// Changes when another connection wrote something.
    pub fn data_version(&self) -> Result<i64> {
        self.run(|connection| {
            connection
                .prepare_cached("PRAGMA data_version")?
                .query_row([], |row| row.get(0))
        })
    }

    pub fn all_layers(&self) -> Result<BTreeMap<String, LayerRow>> {
        self.run(|connection| {
            let mut layers = BTreeMap::new();
            let mut query = connection.prepare_cached(
                "SELECT id, base, description, created_at, opaque_root, kind, size FROM layers",
            )?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let id: String = row.get(0)?;
                let size: i64 = row.get(6)?;
                let record = LayerRecord {
                    id: id.clone(),
                    base: split(&row.get::<_, String>(1)?),
                    description: row.get(2)?,
                    created_at: row.get(3)?,
                    opaque_root: row.get(4)?,
                    kind: row.get(5)?,
                };
                let row = LayerRow {
                    record,
                    size: u64::try_from(size).ok(),
                    blobs: Vec::new(),
                };
                layers.insert(id, row);
            }
            let mut query = connection.prepare_cached("SELECT layer, digest FROM variants")?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                if let Some(layer) = layers.get_mut(&row.get::<_, String>(0)?) {
                    layer.blobs.push(row.get(1)?);
                }
            }
            Ok(layers)
        })
    }

    pub fn cache_mounts(&self) -> Result<Vec<CacheRow>> {
        self.run(|connection| {
            let mut query = connection
                .prepare_cached("SELECT key, slot, dir, description FROM cache_mounts")?;
            let rows = query.query_map([], |row| {
                Ok(CacheRow {
                    key: row.get(0)?,
                    slot: row.get(1)?,
                    dir: row.get(2)?,
                    description: row.get(3)?,
                })
            })?;
            rows.collect()
        })
    }

    pub fn uses(&self) -> Result<BTreeMap<String, Use>> {
        self.run(|connection| {
            let mut query = connection
                .prepare_cached("SELECT name, first_used_at, last_used_at, count FROM uses")?;
            let rows = query.query_map([], |row| {
                Ok((
                    row.get(0)?,
                    Use {
                        first: row.get(1)?,
                        last: row.get(2)?,
                        count: row.get::<_, i64>(3)?.unsigned_abs(),
                    },
                ))
            })?;
            rows.collect()
        })
    }

    pub fn add_uses(&self, uses: &BTreeMap<String, Use>) -> Result<()> {
        if uses.is_empty() {
            return Ok(());
        }
        self.run(|connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO uses (name, first_used_at, last_used_at, count) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (name) DO UPDATE SET
                     last_used_at = MAX(last_used_at, ?3), count = count + ?4",
                )?;
                for (name, used) in uses {
                    let count = i64::try_from(used.count).unwrap_or(i64::MAX);
                    insert.execute(params![name, used.first, used.last, count])?;
                }
            }
            transaction.commit()
        })
    }

    /// Times that a clock which ran ahead left behind, nanoseconds: else what has them never gets old.
    pub fn clamp_times(&self, now: i64) -> Result<()> {
        self.run(|connection| {
            let late = connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM uses WHERE last_used_at > ?1)
                     OR EXISTS (SELECT 1 FROM layers WHERE created_at > ?1 / 1000000000)",
                )?
                .query_row([now], |row| row.get::<_, bool>(0))?;
            if late {
                connection.execute(
                    "UPDATE uses SET last_used_at = ?1, first_used_at = MIN(first_used_at, ?1)
                     WHERE last_used_at > ?1",
                    [now],
                )?;
                connection.execute(
                    "UPDATE layers SET created_at = ?1 / 1000000000 WHERE created_at > ?1 / 1000000000",
                    [now],
                )?;
            }
            Ok(())
        })
    }

    pub fn set_layer_size(&self, id: &str, bytes: u64) -> Result<()> {
        self.run(|connection| {
            connection
                .prepare_cached("UPDATE layers SET size = ?2 WHERE id = ?1")?
                .execute(params![id, i64::try_from(bytes).unwrap_or(i64::MAX)])
                .map(drop)
        })
    }

    /// Forgets a layer and its compressed forms. Results that need it are found out when looked for.
    pub fn drop_layer(&self, id: &str, use_name: &str) -> Result<()> {
        self.run(|connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            transaction.execute("DELETE FROM layers WHERE id = ?1", [id])?;
            transaction.execute("DELETE FROM variants WHERE layer = ?1", [id])?;
            transaction.execute("DELETE FROM uses WHERE name = ?1", [use_name])?;
            transaction.commit()
        })
    }

    pub fn drop_use(&self, name: &str) -> Result<()> {
        self.run(|connection| {
            connection
                .execute("DELETE FROM uses WHERE name = ?1", [name])
                .map(drop)
        })
    }

    pub fn drop_cache_slot(&self, key: &str, slot: i64) -> Result<()> {
        self.run(|connection| {
            connection
                .execute(
                    "DELETE FROM cache_mounts WHERE key = ?1 AND slot = ?2",
                    params![key, slot],
                )
                .map(drop)
        })
    }

    /// Layers whose blob as it was pulled is this one.
    pub fn layers_pulled_as(&self, digest: &str) -> Result<Vec<String>> {
        self.run(|connection| {
            let mut query = connection
                .prepare_cached("SELECT layer FROM variants WHERE digest = ?1 AND form = ?2")?;
            let rows = query.query_map([digest, crate::export::ANY_FORM], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Layers that no sync has covered, or whether there are any, and those that one has.
    pub fn doubtful_layers(&self) -> Result<Vec<String>> {
        self.run(|connection| {
            let mut query = connection.prepare_cached("SELECT id FROM layers WHERE durable = 0")?;
            let rows = query.query_map([], |row| row.get(0))?;
            rows.collect()
        })
    }

    pub fn has_doubtful_layers(&self) -> Result<bool> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM layers WHERE durable = 0 LIMIT 1")?
                .exists([])
        })
    }

    pub fn durable_layers(&self) -> Result<HashSet<String>> {
        self.run(|connection| {
            let mut query = connection.prepare_cached("SELECT id FROM layers WHERE durable = 1")?;
            let rows = query.query_map([], |row| row.get(0))?;
            rows.collect()
        })
    }

    pub fn mark_durable(&self, layers: &[String]) -> Result<()> {
        self.run(|connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for id in layers {
                transaction
                    .prepare_cached("UPDATE layers SET durable = 1 WHERE id = ?1")?
                    .execute([id])?;
            }
            transaction.commit()
        })
    }

    /// Lists of layers that results or content digests are known of.
    pub fn layer_lists(&self) -> Result<BTreeSet<String>> {
        self.run(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT layers FROM results UNION SELECT layers FROM content_digests",
            )?;
            let rows = query.query_map([], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Forgets what is known of lists of layers some of which are gone and, if asked, links that lead to
    /// no result. Gives the number of rows removed.
    pub fn forget_lists(&self, lists: &[String], and_links: bool) -> Result<usize> {
        self.run(|connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let mut removed = 0;
            for list in lists {
                for statement in [
                    "DELETE FROM results WHERE layers = ?1",
                    "DELETE FROM content_digests WHERE layers = ?1",
                ] {
                    removed += transaction.prepare_cached(statement)?.execute([list])?;
                }
            }
            if and_links {
                removed += drop_dead_links(&transaction)?;
            }
            transaction.commit()?;
            Ok(removed)
        })
    }

    /// Copies the log into the database and cuts it. No failure matters: it is done again.
    pub fn checkpoint(&self) {
        let _ = self.run(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
    }

    pub fn integrity(&self) -> Result<Vec<String>> {
        self.run(|connection| {
            let mut query = connection.prepare("PRAGMA integrity_check(20)")?;
            let rows = query.query_map([], |row| row.get::<_, String>(0))?;
            let lines: rusqlite::Result<Vec<String>> = rows.collect();
            Ok(lines?.into_iter().filter(|line| line != "ok").collect())
        })
    }

    pub fn drop_image(&self, name: &str) -> Result<bool> {
        self.run(|connection| {
            connection
                .execute("DELETE FROM images WHERE name = ?1", [name])
                .map(|rows| rows > 0)
        })
    }
}

/// A link is alive when its target has a result or is the source of a link that is alive.
fn drop_dead_links(transaction: &rusqlite::Transaction<'_>) -> rusqlite::Result<usize> {
    let mut sources: HashMap<String, Vec<String>> = HashMap::new();
    let mut query = transaction.prepare("SELECT DISTINCT target, dep FROM links")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        sources.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    let mut query = transaction.prepare("SELECT DISTINCT key FROM results")?;
    let mut waiting: Vec<String> = query
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    transaction.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS alive (key TEXT PRIMARY KEY) WITHOUT ROWID;
         DELETE FROM temp.alive;",
    )?;
    let mut insert = transaction.prepare("INSERT OR IGNORE INTO temp.alive VALUES (?1)")?;
    while let Some(key) = waiting.pop() {
        insert.execute([&key])?;
        // Taken out: each is followed once.
        waiting.extend(sources.remove(&key).unwrap_or_default());
    }
    transaction.execute(
        "DELETE FROM links WHERE target NOT IN (SELECT key FROM temp.alive)",
        [],
    )
}
