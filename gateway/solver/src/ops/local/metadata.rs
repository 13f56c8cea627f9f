//! A directory of the client by its stats alone: one file lists them all, and only what is
//! excepted is there with its content.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use gateway_api::Error;
use prost::Message as _;

use crate::fs::meta::XattrsOf;
use crate::fs::pattern::PatternMatcher;
use crate::fs::{Filter, FsError, Root, SyncOptions, sync_entries, walk};
use crate::job::JobInner;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::LocalCopy;

/// The list: for every file its stat, each after its length in four bytes, lowest first.
const FILE: &str = ".fsutil-metadata";

/// What clients say of a file (`fsutil.types.Stat`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stat {
    #[prost(string, tag = "1")]
    pub path: String,
    /// Go's `os.FileMode`.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    #[prost(int64, tag = "5")]
    pub size: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub mod_time: i64,
    #[prost(string, tag = "7")]
    pub linkname: String,
    #[prost(int64, tag = "8")]
    pub devmajor: i64,
    #[prost(int64, tag = "9")]
    pub devminor: i64,
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Makes the directory that stands for the client's. Dropped with what is returned.
pub async fn list(
    job: &Arc<JobInner>,
    dir: PathBuf,
    filter: Filter,
    exceptions: Vec<String>,
) -> Outcome<LocalCopy> {
    let started = Instant::now();
    let job = job.clone();
    blocking(move || {
        let work = job.store().work_dir().map_err(internal)?;
        let target = work.sub("fs").map_err(internal)?;
        let failed = |error: FsError| Error::unknown(error.to_string());
        let from = Root::open(&dir).map_err(internal)?;
        let to = Root::open(&target).map_err(internal)?;
        let entries: Vec<walk::Entry> = walk::entries(&from, &filter)
            .map_err(failed)?
            .into_iter()
            .filter(|entry| entry.path != FILE.as_bytes())
            .collect();
        let mut text = Vec::new();
        for entry in &entries {
            let stat = stat(&from, entry).encode_to_vec();
            let length = u32::try_from(stat.len()).map_err(internal)?;
            text.extend(length.to_le_bytes());
            text.extend(stat);
        }
        let kept = excepted(&entries, &exceptions)?;
        sync_entries(&from, &kept, &to, &SyncOptions::default()).map_err(failed)?;
        let path = target.join(FILE);
        std::fs::write(&path, text).map_err(internal)?;
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&path, mode).map_err(internal)?;
        Ok(LocalCopy { work, started })
    })
    .await
}

fn stat(root: &Root, entry: &walk::Entry) -> Stat {
    let meta = &entry.meta;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let link = entry.hard_link.as_deref().or(entry.target.as_deref());
    let xattrs = XattrsOf::Path(&root.host_path(&entry.path)).read();
    let is_device = meta.rdev != 0;
    let number = |part: u32| if is_device { i64::from(part) } else { 0 };
    Stat {
        path: text(&entry.path),
        mode: meta.go_mode(),
        // Owners of a client's files are nobody's business.
        uid: 0,
        gid: 0,
        size: match meta.is_dir() || entry.hard_link.is_some() {
            true => 0,
            false => i64::try_from(meta.size).unwrap_or(i64::MAX),
        },
        mod_time: i64::try_from(meta.mtime).unwrap_or_default(),
        linkname: link.map(text).unwrap_or_default(),
        devmajor: number(rustix::fs::major(meta.rdev)),
        devminor: number(rustix::fs::minor(meta.rdev)),
        xattrs: xattrs
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (text(&name), value))
            .collect(),
    }
}

/// What matches, what lies below it, and the directories that it lies in.
fn excepted(entries: &[walk::Entry], exceptions: &[String]) -> Outcome<Vec<walk::Entry>> {
    if exceptions.is_empty() {
        return Ok(Vec::new());
    }
    let invalid = |why: String| Error::unknown(format!("local.metadatatransferexclude: {why}"));
    let matcher = PatternMatcher::new(exceptions).map_err(|error| invalid(error.to_string()))?;
    let mut wanted: BTreeSet<&[u8]> = BTreeSet::new();
    for entry in entries {
        let matches = matcher
            .matches(&entry.path)
            .map_err(|error| invalid(error.to_string()))?;
        if matches {
            let mut path: &[u8] = &entry.path;
            while !path.is_empty() && wanted.insert(path) {
                path = match path.iter().rposition(|byte| *byte == b'/') {
                    Some(slash) => path.get(..slash).unwrap_or_default(),
                    None => &[],
                };
            }
        }
    }
    let kept = entries
        .iter()
        .filter(|entry| wanted.contains(entry.path.as_slice()));
    Ok(kept
        .map(|entry| {
            let mut entry = entry.clone();
            // The first name of a file may be none of those that are here.
            entry.hard_link = entry
                .hard_link
                .filter(|first| wanted.contains(first.as_slice()));
            entry
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(dir: &std::path::Path) -> (Root, Vec<walk::Entry>) {
        let root = Root::open(dir).unwrap();
        let entries = walk::entries(&root, &Filter::default()).unwrap();
        (root, entries)
    }

    #[test]
    fn a_stat_is_what_a_client_sends() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "four").unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("l")).unwrap();
        let (root, entries) = entries(dir.path());
        let stats: Vec<Stat> = entries.iter().map(|entry| stat(&root, entry)).collect();
        let said: Vec<(&str, i64, &str)> = stats
            .iter()
            .map(|stat| (stat.path.as_str(), stat.size, stat.linkname.as_str()))
            .collect();
        assert_eq!(
            said,
            [("a", 4, ""), ("b", 0, "a"), ("d", 0, ""), ("l", 1, "a")]
        );
        assert_eq!(stats[2].mode & 1 << 31, 1 << 31);
        assert!(stats.iter().all(|stat| stat.uid == 0 && stat.mod_time > 0));
    }

    #[test]
    fn exceptions_bring_what_is_below_and_above_them() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b", "a/c", "d"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
            std::fs::write(dir.path().join(path).join("f"), "").unwrap();
        }
        let (_, entries) = entries(dir.path());
        let of = |list: &[&str]| -> Vec<String> {
            let list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
            let kept = excepted(&entries, &list).unwrap();
            kept.iter()
                .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
                .collect()
        };
        assert_eq!(of(&["a/b"]), ["a", "a/b", "a/b/f"]);
        assert_eq!(of(&["**/f", "!d"]), ["a", "a/b", "a/b/f", "a/c", "a/c/f"]);
        assert_eq!(of(&[]), Vec::<String>::new());
        assert!(excepted(&entries, &["[".to_owned()]).is_err());
    }
}
