//! Directories of the client: a private, filtered copy per session.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use gateway_api::Error;
use gateway_llb::pb;
use rustix::io::Errno;

use crate::fs::read::FileRange;
use crate::fs::{self, Filter, FsError, Root, SyncOptions, Visible, gopath, sync_into, walk};
use crate::job::JobInner;
use crate::key::{LocalFilter, local_key};
use crate::live::LiveVertex;
use crate::read;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Layer, LocalCopy, LocalFiles, Snapshot, new_id};

/// As observed with BuildKit.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

fn list(op: &pb::SourceOp, name: &str) -> Vec<String> {
    op.attrs
        .get(name)
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default()
}

fn filter(op: &pb::SourceOp) -> Filter {
    Filter {
        include: list(op, "local.includepattern"),
        exclude: list(op, "local.excludepatterns"),
        follow: list(op, "local.followpaths"),
    }
}

/// Never equal to that of another session.
pub fn key(job: &JobInner, op: &pb::SourceOp, name: &str) -> String {
    let session = op
        .attrs
        .get("local.session")
        .map_or_else(|| job.options.session.id(), String::as_str);
    let filter = filter(op);
    let filter = LocalFilter {
        include: filter.include,
        exclude: filter.exclude,
        follow: filter.follow,
    };
    local_key(name, session, &filter)
}

/// The files where they lie; whoever needs more than their hashes copies them.
pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
    name: &str,
) -> Outcome<Vec<Snapshot>> {
    let running = job.reports.start(&vertex.digest);
    let dir = job
        .options
        .session
        .local_dir(name)
        .ok_or_else(|| Error::unknown(format!("no access allowed to dir {name:?}")));
    running.finish(&dir);
    Ok(vec![Snapshot::new(vec![Layer {
        id: format!("local-{}", new_id()),
        lazy: None,
        local: Some(Arc::new(LocalFiles {
            dir: dir?,
            filter: filter(op),
            name: name.to_owned(),
            vertex: vertex.digest.clone(),
            copy: tokio::sync::OnceCell::new(),
            hashes: std::sync::OnceLock::new(),
            visible: std::sync::OnceLock::new(),
        })),
    }])])
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
        let status = job.reports.status(&files.vertex, id, "transferring");
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
    let shown = std::sync::Mutex::new((status, Instant::now()));
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
