//! Cache mounts: directories that survive builds and are part of no result.

use std::path::PathBuf;
use std::sync::Arc;

use gateway_llb::pb;

use super::image;
use crate::fs::copy::{CopyOptions, copy};
use crate::fs::root::Root;
use crate::job::JobInner;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Snapshot, WorkLock, new_id};
use crate::view::View;
use gateway_images::fail_point::fail_point;
use gateway_images::store::Lease;

/// A cache mount in use.
pub struct CacheMount {
    pub dir: PathBuf,
    /// For the sharing modes that keep others out.
    _lock: Option<WorkLock>,
    /// Keeps collectors of garbage out.
    _lease: Lease,
}

/// More private copies of one cache than this were never used at once by anyone sane; the limit
/// keeps a broken lock from filling the disk.
const MAX_SLOTS: i64 = 1024;

/// The directory of the cache mount for this step.
pub async fn acquire(
    job: &Arc<JobInner>,
    options: &pb::CacheOpt,
    base: Option<&Snapshot>,
    fresh: bool,
    description: &str,
) -> Outcome<CacheMount> {
    let key = match base {
        Some(base) if !base.layers.is_empty() => {
            format!(
                "{}:{}",
                options.id,
                base.ids().last().cloned().unwrap_or_default()
            )
        }
        _ => options.id.clone(),
    };
    if fresh && job.first_drop(&key) {
        for dir in job.store().db().drop_cache_mount(&key).map_err(internal)? {
            job.store().remove_cache_dir(&dir);
        }
    }
    let lock_key = |slot: i64| crate::key::digest_of(format!("cache\0{key}\0{slot}").as_bytes());
    let (slot, lock) = match options.sharing() {
        pb::CacheSharingOpt::Shared => (0, None),
        pb::CacheSharingOpt::Locked => {
            let lock = job.store().lock(&lock_key(0)).await.map_err(internal)?;
            (0, Some(lock))
        }
        pb::CacheSharingOpt::Private => {
            let mut slot = 0;
            loop {
                let lock = job.store().try_lock(&lock_key(slot)).map_err(internal)?;
                if lock.is_some() || slot >= MAX_SLOTS {
                    break (slot, lock);
                }
                slot += 1;
            }
        }
    };
    let row = |name: &str| {
        let db = job.store().db();
        db.cache_mount(&key, slot, name, description)
            .map_err(internal)
    };
    let mut name = row(&new_id())?;
    let lease = loop {
        let lease = job.store().hold_cache(&name).map_err(internal)?;
        // Before it was held it may have been collected, and named anew by another step.
        let now = row(&name)?;
        if now == name {
            break lease;
        }
        name = now;
    };
    let dir = job.store().cache_dir(&name);
    if !dir.is_dir() {
        fill(job, dir.clone(), base.cloned()).await?;
    }
    Ok(CacheMount {
        dir,
        _lock: lock,
        _lease: lease,
    })
}

/// What a usage list says of it.
pub fn description(mount: &pb::Mount, options: &pb::CacheOpt, meta: &pb::Meta) -> String {
    let mut text = format!("cached mount {}", mount.dest);
    if !meta.args.is_empty() {
        text += &format!(" from exec {}", meta.args.join(" "));
    }
    if !options.id.is_empty() && options.id != mount.dest {
        text += &format!(" with id {:?}", options.id);
    }
    text
}

/// Makes the directory with the content that the mount starts from.
async fn fill(job: &Arc<JobInner>, dir: PathBuf, base: Option<Snapshot>) -> Outcome<()> {
    if let Some(base) = &base {
        image::ensure(job, base).await?;
    }
    let store = job.store().clone();
    blocking(move || {
        let work = store.work_dir().map_err(internal)?;
        let made = work.sub("cache").map_err(internal)?;
        if let Some(base) = base.filter(|base| !base.layers.is_empty()) {
            let view = View::read_only(&store.lowers(&base)).map_err(internal)?;
            let from = Root::open(view.path()).map_err(internal)?;
            let to = Root::open(&made).map_err(internal)?;
            let options = CopyOptions {
                contents: true,
                ..CopyOptions::default()
            };
            copy(&from, b"/", &to, b"/", &options).map_err(internal)?;
        }
        fail_point("cache-filled");
        match std::fs::rename(&made, &dir) {
            Ok(()) => Ok(()),
            // Another step was faster.
            Err(_) if dir.is_dir() => Ok(()),
            Err(error) => Err(internal(error)),
        }
    })
    .await
}
