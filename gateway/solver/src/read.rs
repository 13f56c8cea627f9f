//! Reading files of results for frontends.

use std::path::PathBuf;

use gateway_api::{Code, Error, FileRange, Stat};

use crate::fs::read::{self, FileStat};
use crate::fs::{FsError, Root};
use crate::job::JobInner;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::Snapshot;
use crate::view::View;

/// Layers to read in, and what keeps them there.
pub struct Place<K> {
    /// Topmost first; not empty.
    pub lowers: Vec<PathBuf>,
    pub lease: K,
}

impl Place<Snapshot> {
    pub fn of(job: &JobInner, snapshot: Snapshot) -> Self {
        Place {
            lowers: job.store().lowers(&snapshot),
            lease: snapshot,
        }
    }
}

/// Something read of a view of the layers.
async fn with_root<T: Send + 'static, K: Send + 'static>(
    place: Place<K>,
    work: impl FnOnce(&Root) -> Result<T, FsError> + Send + 'static,
) -> Outcome<T> {
    blocking(move || {
        let view = View::read_only(&place.lowers).map_err(internal)?;
        let root = Root::open(view.path()).map_err(internal)?;
        let read = work(&root).map_err(|error| failed(&error));
        drop(place.lease);
        read
    })
    .await
}

/// The code of what could be met by asking for less; clients match no other.
pub fn failed(error: &FsError) -> Error {
    let code = match error {
        FsError::TooLarge { .. } => Code::ResourceExhausted,
        _ => Code::Unknown,
    };
    Error::new(code, error.to_string())
}

pub fn part(range: Option<FileRange>) -> Option<read::FileRange> {
    range.map(|range| read::FileRange {
        offset: range.offset,
        length: range.length,
    })
}

pub async fn file<K: Send + 'static>(
    place: Place<K>,
    path: &str,
    range: Option<FileRange>,
) -> Outcome<Vec<u8>> {
    let (path, range) = (path.to_owned(), part(range));
    with_root(place, move |root| read::read_file(root, &path, range)).await
}

pub async fn dir<K: Send + 'static>(
    place: Place<K>,
    path: &str,
    include: Option<&str>,
) -> Outcome<Vec<Stat>> {
    let (path, include) = (path.to_owned(), include.unwrap_or_default().to_owned());
    let entries = with_root(place, move |root| read::read_dir(root, &path, &include)).await?;
    Ok(entries.into_iter().map(api_stat).collect())
}

pub async fn stat<K: Send + 'static>(place: Place<K>, path: &str) -> Outcome<Stat> {
    let path = path.to_owned();
    let stat = with_root(place, move |root| read::stat_file(root, &path)).await?;
    Ok(api_stat(stat))
}

/// Like [`stat`], but a link that leads out of the root stands for itself.
pub async fn stat_or_link<K: Send + 'static>(place: Place<K>, path: &str) -> Outcome<Stat> {
    let path = path.to_owned();
    let stat = with_root(place, move |root| read::stat_or_link(root, &path)).await?;
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
