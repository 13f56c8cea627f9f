//! Metadata: cache links and results, layers and their compressed forms, cache mounts, images.
//!
//! Every call is one short transaction. WAL with `synchronous=NORMAL` never syncs on the path of
//! a build; what a power cut takes is only work to be done again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gateway_images::fail_point::fail_point;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};

use super::schema;
use crate::error::SolverError;

/// How long a process waits for another's transaction; those take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// Keys that one input of an op leads to before the other inputs are asked first: a file that is
/// merged into a hundred thousand results is an input of as many ops that are alike.
const MANY: i64 = 32;

pub struct Db {
    root: PathBuf,
    connection: Mutex<Connection>,
}

/// A key by which one input of an op may be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub key: String,
    /// Empty: none.
    pub selector: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResult {
    /// Lowest first.
    pub layers: Vec<String>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerRecord {
    pub id: String,
    /// The layers below when it was made, lowest first.
    pub base: Vec<String>,
    /// What made it, for histories and usage lists.
    pub description: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Nothing of the layers below shows.
    pub opaque_root: bool,
    /// The kind of record that it is in usage lists; empty for an ordinary one.
    pub kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantRecord {
    pub digest: String,
    pub size: u64,
    pub media_type: String,
    pub diff_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    pub digest: String,
    pub media_type: String,
    pub size: u64,
}

type Result<T> = std::result::Result<T, SolverError>;

/// Pause between two tries to open.
const OPEN_PAUSE: Duration = Duration::from_millis(5);

/// Opens and migrates. SQLite's own waiting does not cover the moments in which the first process of
/// several switches to WAL and the last one cleans it up: there "busy" comes at once.
fn connect(path: &Path) -> rusqlite::Result<(Connection, std::result::Result<(), i64>)> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let busy = match try_connect(path) {
            Err(error) if is_busy(&error) => error,
            outcome => return outcome,
        };
        if Instant::now() >= deadline {
            return Err(busy);
        }
        std::thread::sleep(OPEN_PAUSE);
    }
}

fn try_connect(path: &Path) -> rusqlite::Result<(Connection, std::result::Result<(), i64>)> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // The last process to close would copy the log into the database and sync it, also after a build
    // that found everything. The log is copied when it has grown.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Else a statement is compiled once more as soon as it has its values, for a plan that suits these.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    let migrated = schema::migrate(&mut connection)?;
    Ok((connection, migrated))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}

impl Db {
    pub fn open(root: &Path) -> Result<Db> {
        let failed = |source| SolverError::Metadata {
            root: root.to_owned(),
            source,
        };
        let (connection, migrated) = connect(&root.join("metadata.db")).map_err(failed)?;
        match migrated {
            Ok(()) => Ok(Db {
                root: root.to_owned(),
                connection: Mutex::new(connection),
            }),
            Err(found) => Err(SolverError::NewerSchema {
                root: root.to_owned(),
                found,
                known: schema::VERSION,
            }),
        }
    }

    /// Copies the log into the database and empties it, unless somebody is reading or writing just now:
    /// whoever opens the store first reads all of the log. Syncs the disk.
    pub fn empty_log(&self) {
        let emptied = (|| {
            let connection = Connection::open(self.root.join("metadata.db"))?;
            connection.busy_timeout(Duration::ZERO)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        })();
        // A log that stays long costs time alone.
        let _: rusqlite::Result<()> = emptied;
    }

    pub(super) fn run<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut connection: MutexGuard<'_, Connection> = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(&mut connection).map_err(|source| SolverError::Metadata {
            root: self.root.clone(),
            source,
        })
    }

    /// The keys of op `op` (the root key of its digest and output) that every input leads to by one of its candidates.
    pub fn targets(&self, op: &str, inputs: &[Vec<Candidate>]) -> Result<Vec<String>> {
        self.run(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT target FROM links WHERE dep = ?1 AND input = ?2 AND op = ?3 AND selector = ?4
                 LIMIT ?5",
            )?;
            let mut led_to = |input: usize, most: i64| -> rusqlite::Result<Vec<String>> {
                let mut found = BTreeSet::new();
                for Candidate { key, selector } in inputs.get(input).into_iter().flatten() {
                    let rows = query.query_map(params![key, input as i64, op, selector, most], |row| {
                        row.get::<_, String>(0)
                    })?;
                    for row in rows {
                        found.insert(row?);
                    }
                }
                Ok(found.into_iter().collect())
            };
            let mut common: Option<Vec<String>> = None;
            let mut many = Vec::new();
            for input in 0..inputs.len() {
                let found = led_to(input, MANY)?;
                if found.is_empty() {
                    return Ok(found);
                }
                if i64::try_from(found.len()).unwrap_or(MANY) >= MANY {
                    many.push(input);
                    continue;
                }
                common = Some(match common {
                    Some(common) => common.into_iter().filter(|t| found.contains(t)).collect(),
                    None => found,
                });
            }
            let mut common = match (common, many.first()) {
                (Some(common), _) => common,
                (None, Some(first)) => led_to(*first, -1)?,
                (None, None) => Vec::new(),
            };
            if many.is_empty() {
                return Ok(common);
            }
            let mut leads = connection.prepare_cached(
                "SELECT 1 FROM links
                 WHERE dep = ?1 AND input = ?2 AND op = ?3 AND selector = ?4 AND target = ?5",
            )?;
            for input in many {
                let mut kept = Vec::new();
                for target in common {
                    let mut here = false;
                    for Candidate { key, selector } in inputs.get(input).into_iter().flatten() {
                        here = here || leads.exists(params![key, input as i64, op, selector, target])?;
                    }
                    if here {
                        kept.push(target);
                    }
                }
                common = kept;
            }
            Ok(common)
        })
    }

    /// Whether any key of the op is known by this input.
    pub fn input_leads(&self, op: &str, input: usize, candidates: &[Candidate]) -> Result<bool> {
        self.run(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT 1 FROM links WHERE dep = ?1 AND input = ?2 AND op = ?3 AND selector = ?4",
            )?;
            for candidate in candidates {
                if query.exists(params![candidate.key, input as i64, op, candidate.selector])? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// What leads to `target` by inputs that are known by nothing but themselves: content and sources.
    pub fn root_links(&self, op: &str, target: &str) -> Result<Vec<(usize, Candidate)>> {
        self.run(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT input, dep, selector FROM links AS link WHERE target = ?1 AND op = ?2
                 AND NOT EXISTS (SELECT 1 FROM links WHERE target = link.dep)
                 ORDER BY input, dep, selector",
            )?;
            let rows = query.query_map(params![target, op], |row| {
                let candidate = Candidate {
                    key: row.get(1)?,
                    selector: row.get(2)?,
                };
                Ok((row.get::<_, i64>(0)?, candidate))
            })?;
            let placed = |row: rusqlite::Result<(i64, Candidate)>| {
                row.map(|(input, candidate)| {
                    // Written as a place in a list.
                    (usize::try_from(input).unwrap_or_default(), candidate)
                })
            };
            rows.map(placed).collect()
        })
    }

    /// Results under any of the keys, newest first.
    pub fn results(&self, keys: &[String]) -> Result<Vec<StoredResult>> {
        self.run(|connection| {
            let mut query = connection
                .prepare_cached("SELECT layers, created_at FROM results WHERE key = ?1")?;
            let mut found: Vec<(i64, String)> = Vec::new();
            for key in keys {
                let rows = query.query_map([key], |row| Ok((row.get(1)?, row.get(0)?)))?;
                for row in rows {
                    found.push(row?);
                }
            }
            found.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
            let stored = |(created_at, layers): (i64, String)| StoredResult {
                layers: split(&layers),
                created_at,
            };
            Ok(found.into_iter().map(stored).collect())
        })
    }

    /// Records that `inputs` lead to `target` and, if given, what the result is.
    pub fn save(
        &self,
        op: &str,
        inputs: &[Vec<Candidate>],
        target: &str,
        result: Option<(&[String], i64)>,
    ) -> Result<()> {
        self.run(|connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            {
                let mut insert = transaction.prepare_cached(
                    "INSERT OR IGNORE INTO links (dep, input, op, selector, target)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                for (input, candidates) in inputs.iter().enumerate() {
                    for candidate in candidates {
                        insert.execute(params![
                            candidate.key,
                            input as i64,
                            op,
                            candidate.selector,
                            target
                        ])?;
                    }
                }
                if let Some((layers, now)) = result {
                    transaction
                        .prepare_cached(
                            "INSERT OR REPLACE INTO results (key, layers, created_at)
                             VALUES (?1, ?2, ?3)",
                        )?
                        .execute(params![target, layers.join("\n"), now])?;
                }
            }
            fail_point("result-uncommitted");
            transaction.commit()
        })
    }

    /// Forgets a result whose layers are gone.
    pub fn drop_result(&self, layers: &[String]) -> Result<()> {
        self.run(|connection| {
            connection
                .execute("DELETE FROM results WHERE layers = ?1", [layers.join("\n")])
                .map(drop)
        })
    }

    /// One that is known already may be made anew: nothing is known of the new files.
    pub fn add_layer(&self, layer: &LayerRecord) -> Result<()> {
        self.run(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO layers (id, base, description, created_at, opaque_root, kind)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (id) DO UPDATE SET durable = 0, size = -1",
                )?
                .execute(params![
                    layer.id,
                    layer.base.join("\n"),
                    layer.description,
                    layer.created_at,
                    layer.opaque_root,
                    layer.kind
                ])
                .map(drop)
        })
    }

    pub fn layer(&self, id: &str) -> Result<Option<LayerRecord>> {
        self.run(|connection| {
            connection
                .prepare_cached(
                    "SELECT base, description, created_at, opaque_root, kind FROM layers WHERE id = ?1",
                )?
                .query_row([id], |row| {
                    Ok(LayerRecord {
                        id: id.to_owned(),
                        base: split(&row.get::<_, String>(0)?),
                        description: row.get(1)?,
                        created_at: row.get(2)?,
                        opaque_root: row.get(3)?,
                        kind: row.get(4)?,
                    })
                })
                .optional()
        })
    }

    /// The layer as a blob in the given form (`gzip`, `zstd`, ... with options).
    pub fn variant(&self, layer: &str, form: &str) -> Result<Option<VariantRecord>> {
        self.run(|connection| {
            connection
                .prepare_cached(
                    "SELECT digest, size, media_type, diff_id FROM variants
                     WHERE layer = ?1 AND form = ?2",
                )?
                .query_row(params![layer, form], |row| {
                    Ok(VariantRecord {
                        digest: row.get(0)?,
                        size: row.get::<_, i64>(1)?.unsigned_abs(),
                        media_type: row.get(2)?,
                        diff_id: row.get(3)?,
                    })
                })
                .optional()
        })
    }

    pub fn add_variant(&self, layer: &str, form: &str, variant: &VariantRecord) -> Result<()> {
        fail_point("variant-unrecorded");
        self.run(|connection| {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO variants (layer, form, digest, size, media_type, diff_id)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    layer,
                    form,
                    variant.digest,
                    i64::try_from(variant.size).unwrap_or(i64::MAX),
                    variant.media_type,
                    variant.diff_id
                ])
                .map(drop)
        })
    }

    pub fn image(&self, name: &str) -> Result<Option<ImageRecord>> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT digest, media_type, size FROM images WHERE name = ?1")?
                .query_row([name], |row| {
                    Ok(ImageRecord {
                        digest: row.get(0)?,
                        media_type: row.get(1)?,
                        size: row.get::<_, i64>(2)?.unsigned_abs(),
                    })
                })
                .optional()
        })
    }

    pub fn set_image(&self, name: &str, image: &ImageRecord, now: i64) -> Result<()> {
        fail_point("image-unnamed");
        self.run(|connection| {
            connection
                .execute(
                    "INSERT OR REPLACE INTO images (name, digest, media_type, size, created_at)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        name,
                        image.digest,
                        image.media_type,
                        i64::try_from(image.size).unwrap_or(i64::MAX),
                        now
                    ],
                )
                .map(drop)
        })
    }

    /// By name; with each the time it was named, seconds since the epoch.
    pub fn images(&self) -> Result<Vec<(String, ImageRecord, i64)>> {
        self.run(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT name, digest, media_type, size, created_at FROM images ORDER BY name",
            )?;
            let rows = query.query_map([], |row| {
                Ok((
                    row.get(0)?,
                    ImageRecord {
                        digest: row.get(1)?,
                        media_type: row.get(2)?,
                        size: row.get::<_, i64>(3)?.unsigned_abs(),
                    },
                    row.get(4)?,
                ))
            })?;
            rows.collect()
        })
    }

    /// The directory of slot `slot` of a cache mount: the known one, or `dir` from now on.
    pub fn cache_mount(
        &self,
        key: &str,
        slot: i64,
        dir: &str,
        description: &str,
    ) -> Result<String> {
        self.run(|connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            transaction.execute(
                "INSERT OR IGNORE INTO cache_mounts (key, slot, dir, description)
                 VALUES (?1, ?2, ?3, ?4)",
                params![key, slot, dir, description],
            )?;
            let dir = transaction.query_row(
                "SELECT dir FROM cache_mounts WHERE key = ?1 AND slot = ?2",
                params![key, slot],
                |row| row.get(0),
            )?;
            fail_point("cache-uncommitted");
            transaction.commit()?;
            Ok(dir)
        })
    }

    /// Forgets a cache mount, so that its next user gets an empty one; gives its directories.
    pub fn drop_cache_mount(&self, key: &str) -> Result<Vec<String>> {
        self.run(|connection| {
            let mut query = connection.prepare_cached(
                "DELETE FROM cache_mounts WHERE key = ?1 OR key LIKE ?1 || ':%' RETURNING dir",
            )?;
            let rows = query.query_map([key], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// An answer that was kept.
    pub fn answer(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT answer FROM answers WHERE key = ?1")?
                .query_row([key], |row| row.get(0))
                .optional()
        })
    }

    /// Forgets all answers.
    pub fn forget_answers(&self) -> Result<()> {
        self.run(|connection| connection.execute("DELETE FROM answers", []).map(drop))
    }

    /// Keeps an answer; the oldest that make more than `total` bytes with it are forgotten.
    pub fn keep_answer(&self, key: &str, answer: &[u8], now: i64, total: u64) -> Result<()> {
        self.run(|connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            transaction.execute(
                // The last is the latest, even where a clock went back.
                "INSERT OR REPLACE INTO answers (key, answer, kept_at) SELECT ?1, ?2,
                   max(?3, 1 + coalesce((SELECT max(kept_at) FROM answers), 0))",
                params![key, answer, now],
            )?;
            transaction.execute(
                "DELETE FROM answers WHERE key IN (SELECT key FROM (
                   SELECT key, sum(length(answer)) OVER (ORDER BY kept_at DESC, key) AS total
                   FROM answers) WHERE total > ?1)",
                [i64::try_from(total).unwrap_or(i64::MAX)],
            )?;
            fail_point("answer-uncommitted");
            transaction.commit()
        })
    }

    /// A fact about the store as a whole.
    pub fn state(&self, name: &str) -> Result<Option<String>> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT value FROM state WHERE name = ?1")?
                .query_row([name], |row| row.get(0))
                .optional()
        })
    }

    pub fn set_state(&self, name: &str, value: &str) -> Result<()> {
        self.run(|connection| {
            connection
                .prepare_cached("INSERT OR REPLACE INTO state (name, value) VALUES (?1, ?2)")?
                .execute(params![name, value])
                .map(drop)
        })
    }

    pub fn content_digest(&self, layers: &str, selector: &str) -> Result<Option<String>> {
        self.run(|connection| {
            connection
                .prepare_cached(
                    "SELECT digest FROM content_digests WHERE layers = ?1 AND selector = ?2",
                )?
                .query_row(params![layers, selector], |row| row.get(0))
                .optional()
        })
    }

    pub fn set_content_digest(&self, layers: &str, selector: &str, digest: &str) -> Result<()> {
        fail_point("content-digest-unkept");
        self.run(|connection| {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO content_digests (layers, selector, digest)
                     VALUES (?1, ?2, ?3)",
                )?
                .execute(params![layers, selector, digest])
                .map(drop)
        })
    }
}

pub(super) fn split(layers: &str) -> Vec<String> {
    layers
        .split('\n')
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(key: &str, selector: &str) -> Candidate {
        Candidate {
            key: key.into(),
            selector: selector.into(),
        }
    }

    #[test]
    fn a_new_store_opened_by_many_at_once_is_never_busy() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            std::thread::scope(|scope| {
                let opened: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| Db::open(dir.path()).map(drop)))
                    .collect();
                for thread in opened {
                    thread.join().unwrap().unwrap();
                }
            });
        }
    }

    #[test]
    fn the_log_is_emptied_unless_somebody_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let length = || {
            std::fs::metadata(dir.path().join("metadata.db-wal"))
                .unwrap()
                .len()
        };
        db.set_state("name", "value").unwrap();
        assert!(length() > 0);
        let other = Db::open(dir.path()).unwrap();
        other
            .run(|connection| {
                let reading = connection.transaction()?;
                reading.query_row("SELECT count(*) FROM state", [], |_| Ok(()))?;
                db.set_state("name", "newer").unwrap();
                db.empty_log();
                Ok(())
            })
            .unwrap();
        assert!(length() > 0);
        db.empty_log();
        assert_eq!(length(), 0);
        drop((db, other));
        let again = Db::open(dir.path()).unwrap();
        assert_eq!(again.state("name").unwrap().as_deref(), Some("newer"));
    }

    #[test]
    fn a_key_is_found_only_when_every_input_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let (a, b) = (vec![candidate("a", "s")], vec![candidate("b", "")]);
        db.save(
            "op@0",
            &[a.clone(), b.clone()],
            "t",
            Some((&["l1".into()], 1)),
        )
        .unwrap();
        assert_eq!(db.targets("op@0", &[a.clone(), b.clone()]).unwrap(), ["t"]);
        for inputs in [
            [a.clone(), vec![candidate("x", "")]],
            [b.clone(), a.clone()],
            [vec![candidate("a", "")], b.clone()],
        ] {
            assert!(db.targets("op@0", &inputs).unwrap().is_empty());
        }
        assert!(db.targets("op@1", &[a, b]).unwrap().is_empty());
        let stored = StoredResult {
            layers: vec!["l1".into()],
            created_at: 1,
        };
        assert_eq!(db.results(&["t".into()]).unwrap(), [stored]);
    }

    #[test]
    fn inputs_of_very_many_ops_are_told_apart_by_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let many = usize::try_from(MANY).unwrap() + 8;
        let (a, b) = (vec![candidate("a", "")], vec![candidate("b", "")]);
        for number in 0..many {
            let own = vec![candidate(&format!("own{number}"), "")];
            let target = format!("t{number:03}");
            db.save("op", &[a.clone(), own.clone()], &target, None)
                .unwrap();
            db.save("op", &[own, a.clone()], &target, None).unwrap();
            // These two share all but the last.
            db.save("both", &[a.clone(), b.clone()], &target, None)
                .unwrap();
        }
        db.save("both", std::slice::from_ref(&a), "of one alone", None)
            .unwrap();
        let own = vec![candidate("own3", ""), candidate("own4", "")];
        assert_eq!(
            db.targets("op", &[a.clone(), own.clone()]).unwrap(),
            ["t003", "t004"]
        );
        assert_eq!(
            db.targets("op", &[own, a.clone()]).unwrap(),
            ["t003", "t004"]
        );
        let nobody = vec![candidate("nobody", "")];
        assert!(db.targets("op", &[a.clone(), nobody]).unwrap().is_empty());
        let all: Vec<String> = (0..many).map(|number| format!("t{number:03}")).collect();
        assert_eq!(db.targets("both", &[a, b]).unwrap(), all);
    }

    #[test]
    fn the_oldest_answers_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        for now in 0..4 {
            db.keep_answer(&format!("k{now}"), &[1; 10], now, 20)
                .unwrap();
        }
        // The clock has gone back since.
        db.keep_answer("k2", &[2; 10], 0, 20).unwrap();
        assert_eq!(db.answer("k1").unwrap(), None);
        assert_eq!(db.answer("k2").unwrap(), Some(vec![2; 10]));
        assert_eq!(db.answer("k3").unwrap(), Some(vec![1; 10]));
        db.keep_answer("large", &[3; 15], 0, 20).unwrap();
        assert_eq!(db.answer("k2").unwrap(), None);
        assert!(db.answer("large").unwrap().is_some());
    }

    #[test]
    fn only_links_from_content_and_sources_are_root_links() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let inputs = |step: &str| {
            vec![
                vec![candidate(step, "s"), candidate("image", "")],
                vec![candidate("content", "")],
            ]
        };
        db.save("below", &[vec![candidate("image", "")]], "step", None)
            .unwrap();
        db.save("op@0", &inputs("step"), "t", None).unwrap();
        let roots = [(0, candidate("image", "")), (1, candidate("content", ""))];
        assert_eq!(db.root_links("op@0", "t").unwrap(), roots);
        assert!(db.root_links("op@1", "t").unwrap().is_empty());
    }

    #[test]
    fn a_newer_schema_is_refused_by_number() {
        let dir = tempfile::tempdir().unwrap();
        drop(Db::open(dir.path()).unwrap());
        Connection::open(dir.path().join("metadata.db"))
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            Db::open(dir.path()),
            Err(SolverError::NewerSchema { found: 99, .. })
        ));
    }
}
