//! Reading files of results for frontends.

use std::sync::Arc;

use gateway_api::{Error, FileRange, Stat};

use crate::fs::read::{self, FileStat};
use crate::fs::{FsError, Root};
use crate::job::JobInner;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::Snapshot;
use crate::view::View;

/// Something read of a view of the snapshot.
async fn with_root<T: Send + 'static>(
    job: &Arc<JobInner>,
    snapshot: Snapshot,
    work: impl FnOnce(&Root) -> Result<T, FsError> + Send + 'static,
) -> Outcome<T> {
    let store = job.store().clone();
    blocking(move || {
        let view = View::read_only(&store.lowers(&snapshot)).map_err(internal)?;
        let root = Root::open(view.path()).map_err(internal)?;
        work(&root).map_err(|error| Error::unknown(error.to_string()))
    })
    .await
}

pub async fn file(
    job: &Arc<JobInner>,
    snapshot: Snapshot,
    path: &str,
    range: Option<FileRange>,
) -> Outcome<Vec<u8>> {
    let path = path.to_owned();
    let range = range.map(|range| read::FileRange {
        offset: range.offset,
        length: range.length,
    });
    with_root(job, snapshot, move |root| {
        read::read_file(root, &path, range)
    })
    .await
}

pub async fn dir(
    job: &Arc<JobInner>,
    snapshot: Snapshot,
    path: &str,
    include: Option<&str>,
) -> Outcome<Vec<Stat>> {
    let (path, include) = (path.to_owned(), include.unwrap_or_default().to_owned());
    let entries = with_root(job, snapshot, move |root| {
        read::read_dir(root, &path, &include)
    })
    .await?;
    Ok(entries.into_iter().map(api_stat).collect())
}

pub async fn stat(job: &Arc<JobInner>, snapshot: Snapshot, path: &str) -> Outcome<Stat> {
    let path = path.to_owned();
    let stat = with_root(job, snapshot, move |root| read::stat_file(root, &path)).await?;
    Ok(api_stat(stat))
}

fn api_stat(stat: FileStat) -> Stat {
    Stat {
        path: stat.path,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        mod_time: stat.mod_time,
        linkname: stat.link_name,
        devmajor: stat.dev_major,
        devminor: stat.dev_minor,
        xattrs: stat
            .xattrs
            .into_iter()
            .map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value))
            .collect(),
    }
}
