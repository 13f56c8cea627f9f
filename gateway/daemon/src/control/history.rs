//! Finished builds, remembered on disk: a record and what was said, in a directory each.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prost::Message;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast;

use super::log::StatusLog;
use super::spans::{Spans, Trace};
use crate::proto::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, Descriptor,
};
use crate::state::HistoryLimits;

/// What logs are called.
const LOG_TYPE: &str = "application/vnd.buildkit.status.v0";

/// What traces are called.
const TRACE_TYPE: &str = "application/vnd.buildkit.otlp.json.v0";

/// Records at most, however young they are: they are in memory.
const MOST: usize = 5000;

/// Bytes of what builds said that are kept, of all together; pinned builds do not count.
const MOST_BYTES: u64 = 4 << 30;

/// Events that a slow listener may lag behind before it misses some.
const EVENTS: usize = 1024;

/// Cheap to clone.
#[derive(Clone)]
pub struct History(Arc<Inner>);

struct Inner {
    root: PathBuf,
    limits: HistoryLimits,
    known: Mutex<HashMap<String, Arc<BuildHistoryRecord>>>,
    events: broadcast::Sender<BuildHistoryEvent>,
}

/// A file that history keeps under its digest.
pub struct HistoryBlob {
    pub path: PathBuf,
    pub size: u64,
}

fn seconds(record: &BuildHistoryRecord) -> i64 {
    record.created_at.as_ref().map_or(0, |time| time.seconds)
}

impl History {
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(root: &Path, limits: HistoryLimits) -> io::Result<History> {
        std::fs::create_dir_all(root)?;
        let mut known = HashMap::new();
        for entry in std::fs::read_dir(root)? {
            let path = entry?.path();
            let record = std::fs::read(path.join("record"));
            // After a power cut a record may be of no bytes, which is a message too: of no name.
            let named = |record: &BuildHistoryRecord| {
                path.file_name() == Some(std::ffi::OsStr::new(&record.r#ref))
            };
            match record
                .ok()
                .and_then(|bytes| BuildHistoryRecord::decode(&bytes[..]).ok())
                .filter(named)
            {
                Some(record) => {
                    known.insert(record.r#ref.clone(), Arc::new(record));
                }
                // A build that a dead daemon did not finish, or did not finish forgetting.
                None => {
                    let _ = std::fs::remove_dir_all(path);
                }
            }
        }
        Ok(History(Arc::new(Inner {
            root: root.to_owned(),
            limits,
            known: Mutex::new(known),
            events: broadcast::Sender::new(EVENTS),
        })))
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Arc<BuildHistoryRecord>>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.0.root.join(name)
    }

    /// The log of a build that begins.
    ///
    /// # Errors
    /// When its files cannot be made.
    pub fn log(&self, name: &str) -> io::Result<StatusLog> {
        let dir = self.dir(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir)?;
        StatusLog::create(&dir.join("status"))
    }

    /// Tells listeners of a build that begins.
    pub fn started(&self, record: &BuildHistoryRecord) {
        let record = Arc::new(record.clone());
        self.locked().insert(record.r#ref.clone(), record.clone());
        self.tell(BuildHistoryEventType::Started, &record);
    }

    fn tell(&self, kind: BuildHistoryEventType, record: &BuildHistoryRecord) {
        // Nobody listening is no failure.
        let _ = self.0.events.send(BuildHistoryEvent {
            r#type: kind as i32,
            record: Some(record.clone()),
        });
    }

    /// A build that is not remembered: what it said goes.
    pub fn forget(&self, name: &str) {
        self.locked().remove(name);
        let dir = self.dir(name);
        // First: a daemon that ends here leaves a directory that the next one removes, not a record without its log.
        let _ = std::fs::remove_file(dir.join("record"));
        let _ = std::fs::remove_dir_all(dir);
    }

    /// Keeps what is known of a finished build.
    pub fn finished(&self, mut record: BuildHistoryRecord, trace: Option<Trace>) {
        let dir = self.dir(&record.r#ref);
        let status = dir.join("status");
        if let Ok((digest, size)) = digest_of(&status) {
            record.logs = Some(Descriptor {
                media_type: LOG_TYPE.to_owned(),
                digest,
                size: i64::try_from(size).unwrap_or(i64::MAX),
                ..Descriptor::default()
            });
        }
        if let Ok(log) = StatusLog::open(&status) {
            let mut spans = Spans::new(&record.r#ref, trace);
            // Of a log that cannot be read to its end, what could be.
            let _ = log.each(|said| spans.see(said));
            let bytes = spans.finish(&record);
            record.trace = self.keep(&record.r#ref, TRACE_TYPE, &bytes);
        }
        self.save(&record);
        let record = Arc::new(record);
        self.locked().insert(record.r#ref.clone(), record.clone());
        self.tell(BuildHistoryEventType::Complete, &record);
        self.collect();
    }

    /// Keeps a blob of a build that runs. `None` when it cannot be written: a build is more than what is
    /// remembered of it.
    pub fn keep(&self, name: &str, media_type: &str, bytes: &[u8]) -> Option<Descriptor> {
        let hex: String = Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        std::fs::write(self.dir(name).join(&hex), bytes).ok()?;
        Some(Descriptor {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{hex}"),
            size: i64::try_from(bytes.len()).ok()?,
            ..Descriptor::default()
        })
    }

    /// Never fails: a build is more than what is remembered of it.
    fn save(&self, record: &BuildHistoryRecord) {
        let dir = self.dir(&record.r#ref);
        let unfinished = dir.join("record.new");
        if std::fs::write(&unfinished, record.encode_to_vec()).is_ok() {
            let _ = std::fs::rename(unfinished, dir.join("record"));
        }
    }

    /// Old builds beyond the number that is kept go.
    fn collect(&self) {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let age = i64::try_from(self.0.limits.age.as_secs()).unwrap_or(i64::MAX);
        let mut records = self.list();
        records.retain(|record| record.completed_at.is_some() && !record.pinned);
        let mut bytes = 0_u64;
        for (at, record) in records.into_iter().enumerate() {
            let said = record.logs.as_ref().map_or(0, |logs| logs.size);
            bytes = bytes.saturating_add(u64::try_from(said).unwrap_or(0));
            let old = now.saturating_sub(seconds(&record)) > age;
            if bytes > MOST_BYTES || at >= MOST || (old && at >= self.0.limits.entries) {
                self.forget(&record.r#ref);
            }
        }
    }

    /// The newest first; those that run too.
    pub fn list(&self) -> Vec<Arc<BuildHistoryRecord>> {
        let mut records: Vec<_> = self.locked().values().cloned().collect();
        records.sort_by_key(|record| {
            let nanos = record.created_at.as_ref().map_or(0, |time| time.nanos);
            std::cmp::Reverse((seconds(record), nanos))
        });
        records
    }

    pub fn get(&self, name: &str) -> Option<Arc<BuildHistoryRecord>> {
        self.locked().get(name).cloned()
    }

    /// What a finished build said.
    pub fn replay(&self, name: &str) -> Option<StatusLog> {
        self.get(name)?.completed_at.as_ref()?;
        StatusLog::open(&self.dir(name).join("status")).ok()
    }

    pub fn listen(&self) -> broadcast::Receiver<BuildHistoryEvent> {
        self.0.events.subscribe()
    }

    /// Changes a record; false when there is none.
    pub fn pin(&self, name: &str, pinned: bool) -> bool {
        let Some(record) = self.get(name) else {
            return false;
        };
        let mut record = BuildHistoryRecord::clone(&record);
        record.pinned = pinned;
        record.generation += 1;
        self.save(&record);
        self.locked().insert(name.to_owned(), Arc::new(record));
        true
    }

    /// False when there is none.
    pub fn delete(&self, name: &str) -> bool {
        let Some(record) = self
            .get(name)
            .filter(|record| record.completed_at.is_some())
        else {
            return false;
        };
        self.forget(name);
        self.tell(BuildHistoryEventType::Deleted, &record);
        true
    }

    /// The digests of what the builds made, the newest first.
    pub fn results(&self) -> Vec<String> {
        let records = self.list();
        let infos = records
            .iter()
            .flat_map(|record| record.result.iter().chain(record.results.values()));
        infos
            .flat_map(|info| info.results.values())
            .map(|descriptor| descriptor.digest.clone())
            .collect()
    }

    /// What is kept under a digest.
    pub fn blob(&self, digest: &str) -> Option<HistoryBlob> {
        let is = |descriptor: &&Descriptor| descriptor.digest == digest;
        let path = self.list().into_iter().find_map(|record| {
            let dir = self.dir(&record.r#ref);
            if record.logs.as_ref().filter(is).is_some() {
                return Some(dir.join("status"));
            }
            let results = record.result.iter().chain(record.results.values());
            let kept = results
                .flat_map(|info| &info.attestations)
                .chain(&record.trace)
                .chain(&record.external_error)
                .find(is)?;
            Some(dir.join(kept.digest.strip_prefix("sha256:")?))
        })?;
        let size = std::fs::metadata(&path).ok()?.len();
        Some(HistoryBlob { path, size })
    }
}

fn digest_of(path: &Path) -> io::Result<(String, u64)> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let size = io::copy(&mut file, &mut hash)?;
    let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok((format!("sha256:{hex}"), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, seconds: i64) -> BuildHistoryRecord {
        let time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        BuildHistoryRecord {
            r#ref: name.to_owned(),
            created_at: time,
            completed_at: time,
            ..BuildHistoryRecord::default()
        }
    }

    #[test]
    fn p51_p54_records_outlive_the_daemon_and_old_ones_go_unless_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let limits = HistoryLimits {
            age: std::time::Duration::from_secs(60),
            entries: 1,
        };
        let history = History::open(dir.path(), limits).unwrap();
        let keep = |name: &str, seconds| {
            history.log(name).unwrap().end();
            history.finished(record(name, seconds), None);
        };
        keep("pinned", 10);
        assert!(history.pin("pinned", true));
        keep("old", 20);
        keep("new", 30);
        let again = History::open(dir.path(), limits).unwrap();
        let names: Vec<String> = again.list().iter().map(|r| r.r#ref.clone()).collect();
        assert_eq!(names, ["new", "pinned"]);
        let logs = again.get("new").unwrap().logs.clone().unwrap();
        assert!(again.blob(&logs.digest).is_some());
        assert!(again.delete("pinned"));
        assert!(!again.delete("pinned"));
    }

    #[test]
    fn what_a_daemon_left_that_ended_at_any_moment_goes_and_whole_builds_stay() {
        let dir = tempfile::tempdir().unwrap();
        let limits = HistoryLimits {
            age: std::time::Duration::from_secs(60),
            entries: 10,
        };
        let history = History::open(dir.path(), limits).unwrap();
        for name in ["whole", "begun", "unnamed", "empty", "torn", "forgotten"] {
            history.log(name).unwrap().end();
            if name != "begun" {
                history.finished(record(name, 10), None);
            }
        }
        let file = |name: &str| dir.path().join(name).join("record");
        std::fs::rename(file("unnamed"), file("unnamed").with_extension("new")).unwrap();
        std::fs::write(file("empty"), "").unwrap();
        std::fs::write(file("torn"), [0; 64]).unwrap();
        std::fs::remove_file(file("forgotten")).unwrap();
        let again = History::open(dir.path(), limits).unwrap();
        let names: Vec<String> = again.list().iter().map(|r| r.r#ref.clone()).collect();
        assert_eq!(names, ["whole"]);
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["whole"]);
        assert!(again.replay("whole").is_some());
    }

    #[test]
    fn p51_of_what_builds_said_four_gibibytes_are_kept_and_the_newest_stay() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path(), HistoryLimits::default()).unwrap();
        for (name, seconds) in [("oldest", 10), ("older", 20), ("newest", 30)] {
            let said = Descriptor {
                size: i64::try_from(MOST_BYTES).unwrap() / 2,
                ..Descriptor::default()
            };
            let record = BuildHistoryRecord {
                logs: Some(said),
                ..record(name, seconds)
            };
            history.locked().insert(name.to_owned(), Arc::new(record));
        }
        history.collect();
        let names: Vec<String> = history.list().iter().map(|r| r.r#ref.clone()).collect();
        assert_eq!(names, ["newest", "older"]);
        assert_eq!(MOST_BYTES, 4 << 30);
    }
}
