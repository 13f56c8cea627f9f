//! Directories of the client: a private, filtered copy per session.

mod metadata;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gateway_api::Error;
use gateway_llb::pb;
use gateway_session::{LocalDir, LocalRequest};
use rustix::io::Errno;

use crate::fs::read::FileRange;
use crate::fs::{self, Filter, FsError, Root, SyncOptions, Visible, gopath, sync_into, walk};
use crate::job::JobInner;
use crate::key::{LocalFilter, local_key};
use crate::live::LiveVertex;
use crate::read;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Hold, Layer, LocalCopy, LocalFiles, Snapshot, new_id};

/// As observed with BuildKit.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A list of patterns. One that is not understood would let through what it should not.
fn list(op: &pb::SourceOp, name: &str) -> Outcome<Vec<String>> {
    let Some(json) = op.attrs.get(name) else {
        return Ok(Vec::new());
    };
    let list: Option<Vec<String>> = serde_json::from_str(json)
        .map_err(|error| Error::unknown(format!("invalid value for {name}: {error}")))?;
    Ok(list.unwrap_or_default())
}

fn filter(op: &pb::SourceOp) -> Outcome<Filter> {
    Ok(Filter {
        include: list(op, "local.includepattern")?,
        exclude: list(op, "local.excludepatterns")?,
        follow: list(op, "local.followpaths")?,
    })
}

/// The name of the directory, and the session that has it if one is named: a name with a prefix
/// before a colon asks for the prefixed directory.
fn place<'a>(op: &'a pb::SourceOp, name: &str) -> (String, Option<&'a str>) {
    let Some(session) = op.attrs.get("local.session") else {
        return (name.to_owned(), None);
    };
    match session.split_once(':') {
        Some((prefix, session)) => (format!("{prefix}-{name}"), Some(session)),
        None => (name.to_owned(), Some(session)),
    }
}

/// Whether only the stats of the files are wanted, and those that are wanted whole.
fn only_metadata(op: &pb::SourceOp) -> Outcome<(bool, Vec<String>)> {
    let name = "local.metadatatransfer";
    let text = op.attrs.get(name).map_or("false", String::as_str);
    let only = gateway_api::parse_bool(text).ok_or_else(|| {
        Error::unknown(format!("invalid value for {name} {text:?}: invalid syntax"))
    })?;
    Ok((only, list(op, "local.metadatatransferexclude")?))
}

/// Never equal to that of another session.
pub fn key(job: &JobInner, op: &pb::SourceOp, name: &str) -> Outcome<String> {
    let (name, session) = place(op, name);
    let session = session.unwrap_or_else(|| job.options.session.id());
    let filter = filter(op)?;
    let (metadata, metadata_exceptions) = only_metadata(op)?;
    let filter = LocalFilter {
        include: filter.include,
        exclude: filter.exclude,
        follow: filter.follow,
        metadata,
        metadata_exceptions,
    };
    Ok(local_key(&name, session, &filter))
}

/// The files where they lie; whoever needs more than their hashes copies them.
pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
    name: &str,
) -> Outcome<Vec<Snapshot>> {
    let (name, _) = place(op, name);
    let mut filter = filter(op)?;
    let (metadata, exceptions) = only_metadata(op)?;
    let running = job.reports.start(&vertex.digest);
    let copy = tokio::sync::OnceCell::new();
    let dir = async {
        let found = find(job, vertex, op, &name, &filter).await?;
        if !metadata {
            return Ok((found.path, found.hold, found.still));
        }
        let filter = std::mem::take(&mut filter);
        let list = metadata::list(job, found.path, filter, exceptions).await?;
        let dir = list.work.path().join("fs");
        let _ = copy.set(list);
        Ok((dir, found.hold, false))
    }
    .await;
    running.finish(&dir);
    let (dir, hold, still) = dir?;
    Ok(vec![Snapshot::new(vec![Layer {
        id: format!("local-{}", new_id()),
        lazy: None,
        local: Some(Arc::new(LocalFiles {
            dir,
            _hold: Hold(hold),
            still,
            filter,
            name,
            vertex: vertex.digest.clone(),
            copy,
            hashes: std::sync::OnceLock::new(),
            visible: std::sync::OnceLock::new(),
        })),
    }])])
}

/// Asks the client for the directory.
async fn find(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
    name: &str,
    filter: &Filter,
) -> Outcome<LocalDir> {
    let attr = |key: &str| op.attrs.get(key).cloned().unwrap_or_default();
    let request = LocalRequest {
        name: name.to_owned(),
        session: attr("local.session"),
        include: filter.include.clone(),
        exclude: filter.exclude.clone(),
        follow: filter.follow.clone(),
        shared_key_hint: attr("local.sharedkeyhint"),
        fresh: attr("local.differ") == "none",
    };
    let id = format!("transferring {name}:");
    let shown = Mutex::new(None);
    let progress = |bytes| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, last) = shown.get_or_insert_with(|| {
            let status = job
                .reports
                .status_when_told(&vertex.digest, &id, "transferring");
            (status, None::<Instant>)
        });
        if last.is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL) {
            status.update(bytes, 0);
            *last = Some(Instant::now());
        }
    };
    let session = &job.options.session;
    let dir = job
        .until_cancelled(async {
            let dir = session.local(&request, &progress).await;
            dir.map_err(|error| Error::unknown(error.to_string()))?
                .ok_or_else(|| Error::unknown(format!("no access allowed to dir {name:?}")))
        })
        .await?;
    if let Some(bytes) = dir.transferred {
        let shown = shown.into_inner().unwrap_or_else(PoisonError::into_inner);
        let status = shown.map(|(status, _)| status);
        let status = status.unwrap_or_else(|| {
            job.reports
                .status_when_told(&vertex.digest, &id, "transferring")
        });
        status.done_with(bytes);
    }
    Ok(dir)
}

/// One file where it lies, for a frontend; `None` when there is a copy, which must be read then.
/// What the filter hides is not there.
pub async fn read(
    job: &Arc<JobInner>,
    files: &Arc<LocalFiles>,
    path: &str,
    range: Option<FileRange>,
) -> Option<Outcome<Vec<u8>>> {
    if files.copy.get().is_some() {
        return None;
    }
    let (inner, path) = (files.clone(), path.to_owned());
    let read = blocking(move || {
        let failed = |error: FsError| read::failed(&error);
        let root = Root::open(&inner.dir).map_err(internal)?;
        if inner.filter != Filter::default() {
            let visible = match inner.visible.get() {
                Some(visible) => visible,
                None => {
                    let entries = walk::entries(&root, &inner.filter).map_err(failed)?;
                    inner.visible.get_or_init(|| Visible::of(&entries))
                }
            };
            let resolved = root.resolve(path.as_bytes()).map_err(failed)?;
            if resolved != gopath::absolute(path.as_bytes()) {
                // Whether the links on the way are there is for the copy to say.
                return Ok(None);
            }
            if !visible.has(&resolved) {
                return Err(failed(FsError::path("open", &path, Errno::NOENT)));
            }
        }
        let data = fs::read::read_file(&root, &path, range).map_err(failed)?;
        Ok(Some(data))
    })
    .await
    .transpose()?;
    if let Ok(data) = &read {
        let id = format!("transferring {}:", files.name);
        let status = job
            .reports
            .status_when_told(&files.vertex, id, "transferring");
        status.done_with(data.len() as u64);
    }
    Some(read)
}

/// Makes the private copy, once.
pub async fn copied(job: &Arc<JobInner>, files: &Arc<LocalFiles>) -> Outcome<()> {
    let transfer = || async {
        let running = job.reports.start(&files.vertex);
        let outcome = transfer(job, files).await;
        running.finish(&outcome);
        outcome
    };
    files.copy.get_or_try_init(transfer).await.map(drop)
}

async fn transfer(job: &Arc<JobInner>, files: &Arc<LocalFiles>) -> Outcome<LocalCopy> {
    let started = Instant::now();
    let id = format!("transferring {}:", files.name);
    let status = job.reports.status(&files.vertex, id, "transferring");
    let (inner, files) = (job.clone(), files.clone());
    let shown = Mutex::new((status, Instant::now()));
    let (work, bytes, status) = blocking(move || {
        let work = inner.store().work_dir().map_err(internal)?;
        let target = work.sub("fs").map_err(internal)?;
        let from = Root::open(&files.dir).map_err(internal)?;
        let to = Root::open(&target).map_err(internal)?;
        let progress = |bytes| {
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            if shown.1.elapsed() >= PROGRESS_INTERVAL {
                shown.0.update(bytes, 0);
                shown.1 = Instant::now();
            }
        };
        let options = SyncOptions {
            progress: Some(&progress),
            cancel: None,
        };
        let stats = sync_into(&from, &files.filter, &to, &options)
            .map_err(|error| Error::unknown(error.to_string()))?;
        let (status, _) = shown.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((work, stats.bytes, status))
    })
    .await?;
    status.done_with(bytes);
    Ok(LocalCopy { work, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(attrs: &[(&str, &str)]) -> pb::SourceOp {
        pb::SourceOp {
            identifier: "local://context".into(),
            attrs: attrs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_list_that_is_not_understood_is_an_error_and_no_empty_one() {
        for name in [
            "local.includepattern",
            "local.excludepatterns",
            "local.followpaths",
        ] {
            assert!(filter(&op(&[(name, "secret*")])).is_err(), "{name}");
            assert!(filter(&op(&[(name, "null")])).is_ok(), "{name}");
        }
        assert!(only_metadata(&op(&[("local.metadatatransferexclude", "a")])).is_err());
        assert!(only_metadata(&op(&[("local.metadatatransfer", "yes")])).is_err());
        let (only, list) = only_metadata(&op(&[
            ("local.metadatatransfer", "true"),
            ("local.metadatatransferexclude", "[\"a\"]"),
        ]))
        .unwrap();
        assert!(only);
        assert_eq!(list, ["a"]);
    }

    #[test]
    fn a_prefix_of_the_session_renames_the_directory() {
        let named = op(&[("local.session", "vm:abc")]);
        assert_eq!(place(&named, "context"), ("vm-context".into(), Some("abc")));
        let plain = op(&[("local.session", "abc")]);
        assert_eq!(place(&plain, "context"), ("context".into(), Some("abc")));
        assert_eq!(place(&op(&[]), "context"), ("context".into(), None));
    }
}
