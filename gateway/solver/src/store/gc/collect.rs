//! Removing what may go.
//!
//! A thing is claimed first: from then on nobody can begin to use it. Then the metadata is read again if
//! anybody wrote to it, for what was garbage a moment ago may have been named or built upon since. Only
//! then it leaves its place, by one rename, and is deleted from there. Being killed anywhere in between
//! leaves rows without files or files without rows, which the next collection removes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gateway_images::digest::Digest;
use gateway_images::fail_point::fail_point;
use gateway_images::store::{BlobStore, Claim, Collector, lease_name};

use super::super::db::Db;
use super::super::workspace::{WorkDir, Workspace};
use super::super::{DiskSpace, Store, USER_NAME, layer_lease, layer_name, uses};
use super::filter::Filters;
use super::inventory::{Inventory, Item, What};
use super::policy::{PruneOptions, order};
use super::record::{RecordType, UsageRecord};
use crate::error::SolverError;

/// Between two collections that nobody asked for.
const PAUSE: Duration = Duration::from_secs(60);
/// Its time is that of the last such collection.
const STAMP: &str = "collected";
/// The lock under which they run.
const LOCK: &str = "collect";

/// Removes what the options name and nobody uses; tells each record that is gone.
///
/// # Errors
/// When a filter or the metadata cannot be read, or a directory not be removed.
pub fn prune(
    store: &Store,
    policies: &[PruneOptions],
    mut removed: impl FnMut(&UsageRecord),
) -> Result<(), SolverError> {
    let mut collection = Collection::new(store)?;
    for options in policies {
        collection.prune(options, &mut removed)?;
    }
    collection.tidy()
}

/// Removes what nothing refers to: blobs of no layer and no image, directories without a row, rows without
/// a directory, damaged blobs that were set aside. Costs no result of any build.
///
/// # Errors
/// As for [`prune`].
pub fn prune_unreferenced(
    store: &Store,
    mut removed: impl FnMut(&UsageRecord),
) -> Result<(), SolverError> {
    let mut collection = Collection::new(store)?;
    let strays: Vec<String> = collection
        .inventory
        .items
        .values()
        .filter(|item| item.stray)
        .map(|item| item.record.id.clone())
        .collect();
    for id in strays {
        if let Some(record) = collection.remove(&id, |item| item.stray)? {
            removed(&record);
        }
    }
    collection.tidy()
}

/// What a build does at its end: if it added something and the last look was long enough ago, brings the
/// store below its limits. Gives the number of records removed.
///
/// # Errors
/// As for [`prune`].
pub fn collect_if_due(
    store: &Store,
    policies: impl FnOnce(DiskSpace) -> Vec<PruneOptions>,
) -> Result<usize, SolverError> {
    if !store.take_grown() {
        return Ok(0);
    }
    let root = store.root();
    let io = |source| SolverError::Io {
        root: root.to_owned(),
        source,
    };
    let stamp = root.join(STAMP);
    let last = std::fs::metadata(&stamp).and_then(|metadata| metadata.modified());
    // A time in the future was written under another clock and says nothing.
    let is_recent = last.is_ok_and(|last| {
        SystemTime::now()
            .duration_since(last)
            .is_ok_and(|age| age < PAUSE)
    });
    if is_recent {
        return Ok(0);
    }
    let Some(_lock) = store.try_lock(LOCK).map_err(io)? else {
        return Ok(0);
    };
    std::fs::write(&stamp, "").map_err(io)?;
    let policies = policies(DiskSpace::of(root).map_err(io)?);
    let mut count = 0;
    prune(store, &policies, |_| count += 1)?;
    Ok(count)
}

struct Collection {
    root: PathBuf,
    /// A connection of its own: only so it sees whether others wrote.
    db: Db,
    blobs: BlobStore,
    collector: Arc<Collector>,
    trash: Workspace,
    inventory: Inventory,
    /// Of the metadata when the inventory was taken.
    version: i64,
    /// Records so far.
    removed: usize,
}

impl Collection {
    fn new(store: &Store) -> Result<Collection, SolverError> {
        let root = store.root().to_owned();
        let io = |source| SolverError::Io {
            root: root.clone(),
            source,
        };
        let db = Db::open(&root)?;
        // A full disk takes no notes; making room comes first.
        let _ = uses::fold(&root, &db);
        let _ = db.clamp_times(super::now());
        let blobs = BlobStore::open(&root).map_err(|error| SolverError::Other {
            root: root.clone(),
            message: error.to_string(),
        })?;
        let collector = Arc::new(Collector::open(&root).map_err(io)?);
        let version = db.data_version()?;
        let inventory = Inventory::take(&root, &db, &blobs)?;
        Ok(Collection {
            trash: Workspace::open(&root.join("tmp")),
            root,
            db,
            blobs,
            collector,
            inventory,
            version,
            removed: 0,
        })
    }

    fn prune(
        &mut self,
        options: &PruneOptions,
        removed: &mut impl FnMut(&UsageRecord),
    ) -> Result<(), SolverError> {
        let filters = Filters::parse(&options.filters)?;
        let mut used = 0_u64;
        if options.has_limits() {
            self.inventory.measure_all(&self.root, &self.db)?;
            used = self.bytes();
        }
        let free = DiskSpace::of(&self.root).map_or(u64::MAX, |disk| disk.free);
        let keep = options.keep_bytes(used, free);
        let oldest = super::now()
            .saturating_sub(i64::try_from(options.keep_duration.as_nanos()).unwrap_or(i64::MAX));
        let may_go = |item: &Item| {
            let record = &item.record;
            let kind = record.record_type;
            let hidden = matches!(kind, RecordType::Internal | RecordType::Frontend);
            let spared = !options.all && (hidden || record.shared);
            let age = record.last_used_at.unwrap_or(record.created_at);
            let young = !options.keep_duration.is_zero() && age > oldest;
            item.what != What::Fixed && item.children == 0 && !spared && !young
        };
        // What was in use once is not asked for again.
        let mut passed: BTreeSet<String> = BTreeSet::new();
        loop {
            if keep.is_some_and(|keep| used < keep) {
                return Ok(());
            }
            let mut candidates: Vec<&UsageRecord> = self
                .inventory
                .items
                .values()
                .filter(|item| may_go(item) && !passed.contains(&item.record.id))
                .map(|item| &item.record)
                .filter(|record| filters.matches(record))
                .collect();
            if keep.is_some() {
                order(&mut candidates);
                candidates.truncate(1);
            }
            let ids: Vec<String> = candidates.iter().map(|record| record.id.clone()).collect();
            if ids.is_empty() {
                return Ok(());
            }
            for id in ids {
                let fits = |item: &Item| may_go(item) && filters.matches(&item.record);
                match self.remove(&id, fits)? {
                    Some(record) => {
                        if !record.shared {
                            used = used.saturating_sub(record.size);
                        }
                        removed(&record);
                    }
                    None => drop(passed.insert(id)),
                }
            }
        }
    }

    /// Of all that is not shared with named images.
    fn bytes(&self) -> u64 {
        let records = self.inventory.items.values().map(|item| &item.record);
        let own = records.filter(|record| !record.shared);
        own.map(|record| record.size).sum()
    }

    /// Looks again if somebody wrote to the metadata since the last look.
    fn refresh(&mut self) -> Result<(), SolverError> {
        let version = self.db.data_version()?;
        if version == self.version {
            return Ok(());
        }
        let mut fresh = Inventory::take(&self.root, &self.db, &self.blobs)?;
        for (id, item) in &mut fresh.items {
            // Walking a large cache mount once is enough.
            if let Some(known) = self.inventory.items.get(id)
                && item.measured.is_none()
            {
                item.measured = known.measured;
                item.record.size = known.record.size;
            }
        }
        self.inventory = fresh;
        self.version = version;
        Ok(())
    }

    /// Removes one thing, if it still fits when nobody else can use it; gives its record then.
    fn remove(
        &mut self,
        id: &str,
        fits: impl Fn(&Item) -> bool,
    ) -> Result<Option<UsageRecord>, SolverError> {
        let Some(item) = self.inventory.items.get(id) else {
            return Ok(None);
        };
        let (lease, collector) = (item.lease.clone(), self.collector.clone());
        let claim = match &lease {
            None => None,
            Some(name) => match collector.claim(name).map_err(|e| self.io(e))? {
                Some(claim) => Some(claim),
                None => return Ok(None),
            },
        };
        self.refresh()?;
        if !self.inventory.items.get(id).is_some_and(fits) {
            return Ok(None);
        }
        self.inventory.measure(&self.root, &self.db, id)?;
        let Some(item) = self.inventory.items.remove(id) else {
            return Ok(None);
        };
        self.take_away(&item, claim)?;
        self.removed += 1;
        Ok(Some(item.record))
    }

    fn io(&self, source: std::io::Error) -> SolverError {
        SolverError::Io {
            root: self.root.clone(),
            source,
        }
    }

    fn take_away(&mut self, item: &Item, claim: Option<Claim<'_>>) -> Result<(), SolverError> {
        let id = &item.record.id;
        let lease = item.lease.as_deref().unwrap_or_default();
        match &item.what {
            What::Layer => {
                let dir = self.root.join("layers").join(layer_name(id));
                let trash = self.move_away(&dir)?;
                let _ = std::fs::remove_file(dir.with_extension("opaque"));
                fail_point("collect-layer-moved");
                let forgotten = self.db.drop_layer(id, lease);
                fail_point("collect-layer-forgotten");
                if forgotten.is_ok() {
                    drop(claim);
                    drop(trash);
                } else {
                    // The disk may be full: with the files gone there is room for it.
                    drop(trash);
                    self.db.drop_layer(id, lease)?;
                    drop(claim);
                }
                for below in &item.needs {
                    if let Some(below) = self.inventory.items.get_mut(below) {
                        below.children = below.children.saturating_sub(1);
                    }
                }
                for blob in &item.forms {
                    if let Some(count) = self.inventory.of_layers.get_mut(blob) {
                        *count = count.saturating_sub(1);
                    }
                    self.remove_blob(blob)?;
                }
            }
            What::Blob(digest) => {
                let _ = self.blobs.remove(digest);
                let _ = self.db.drop_use(lease);
            }
            What::Cache { dir, row } => {
                let trash = self.move_away(&self.root.join("cache").join(dir))?;
                fail_point("collect-cache-moved");
                if let Some((key, slot)) = row {
                    // A row without its directory gets a new one from the next user.
                    let _ = self.db.drop_cache_slot(key, *slot);
                }
                let _ = self.db.drop_use(lease);
                drop(claim);
                drop(trash);
            }
            What::Git(name) => {
                let trash = self.move_away(&self.root.join("git").join(name))?;
                let _ = self.db.drop_use(lease);
                drop(claim);
                drop(trash);
            }
            What::Hashes => {
                for dir in ["hashes", "copies"] {
                    let entries = std::fs::read_dir(self.root.join(dir));
                    for entry in entries.map_err(|e| self.io(e))?.flatten() {
                        let _ = std::fs::remove_file(entry.path());
                    }
                }
                // Answers to frontends are about the same files.
                let _ = self.db.forget_answers();
            }
            What::Quarantine => drop(self.move_away(&self.root.join("quarantine"))?),
            What::Fixed => {}
        }
        Ok(())
    }

    /// Out of its place by one rename; deleted when the result is dropped, or by another process when
    /// this one is killed.
    fn move_away(&self, from: &Path) -> Result<WorkDir, SolverError> {
        let trash = self.trash.dir().map_err(|e| self.io(e))?;
        match std::fs::rename(from, trash.path().join("removed")) {
            Ok(()) => Ok(trash),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(trash),
            Err(error) => Err(self.io(error)),
        }
    }

    /// Removes a blob that was a layer's, unless another layer or an image has it or somebody uses it:
    /// then it is found by a later collection.
    fn remove_blob(&mut self, digest: &Digest) -> Result<(), SolverError> {
        let collector = self.collector.clone();
        let claim = collector.claim(&lease_name(digest));
        let Some(_claim) = claim.map_err(|e| self.io(e))? else {
            return Ok(());
        };
        self.refresh()?;
        let needed = self.inventory.of_images.contains(digest)
            || self
                .inventory
                .of_layers
                .get(digest)
                .is_some_and(|count| *count > 0);
        if !needed {
            // What cannot be removed is garbage for the next time.
            let _ = self.blobs.remove(digest);
            self.inventory.blob_sizes.remove(digest);
        }
        Ok(())
    }

    /// Forgets in the metadata what is no longer there.
    fn tidy(&mut self) -> Result<(), SolverError> {
        self.refresh()?;
        let collector = self.collector.clone();
        let is_gone = |id: &str| !self.root.join("layers").join(layer_name(id)).is_dir();
        for id in std::mem::take(&mut self.inventory.stale_layers) {
            let name = layer_lease(&id);
            // Whoever is about to make it holds it.
            if let Ok(Some(_claim)) = collector.claim(&name)
                && is_gone(&id)
            {
                self.db.drop_layer(&id, &name)?;
            }
        }
        // A list whose missing layers somebody may fetch is held by that one.
        let forgotten =
            |id: &str| is_gone(id) && !collector.is_used(&layer_lease(id)).unwrap_or(true);
        let lists: Vec<String> = self
            .db
            .layer_lists()?
            .into_iter()
            .filter(|list| list.split('\n').any(|id| !id.is_empty() && forgotten(id)))
            .collect();
        if lists.is_empty() && self.removed == 0 {
            return Ok(());
        }
        // A running build may be about to save a result at the end of links that lead nowhere yet.
        let alone = collector.claim(USER_NAME).map_err(|e| self.io(e))?;
        self.db.forget_lists(&lists, alone.is_some())?;
        drop(alone);
        // Space that the metadata's log took comes back as well.
        self.db.checkpoint();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
