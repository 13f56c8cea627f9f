//! All that is in a store at one moment, as usage records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gateway_images::digest::Digest;
use gateway_images::media::{MAX_MANIFEST_BYTES, ParsedManifest, RawManifest};
use gateway_images::registry::shown_url;
use gateway_images::store::{BlobStore, Collector, lease_name};

use super::super::db::Db;
use super::super::uses::{self, Use};
use super::super::{
    Store, cache_lease, derived_from, git_lease, layer_id, layer_lease, layer_name,
};
use super::filter::Filters;
use super::record::{RecordType, UsageRecord};
use super::size;
use crate::error::SolverError;

/// Ids of the records that stand for more than one thing.
const HASHES: &str = "file-digests";
const UNFINISHED: &str = "unfinished-work";
const METADATA: &str = "metadata";
const QUARANTINE: &str = "quarantine";

/// Larger blobs are never looked at as documents.
const MAX_DOCUMENT_BYTES: u64 = MAX_MANIFEST_BYTES;

/// One thing, with what its removal needs.
#[derive(Debug)]
pub struct Item {
    pub record: UsageRecord,
    pub what: What,
    /// What its users hold.
    pub lease: Option<String>,
    /// Things that need this one to stay.
    pub children: usize,
    /// Ids of the things that this one needs.
    pub needs: Vec<String>,
    /// Blobs whose bytes count with it: each blob with one thing.
    pub blobs: Vec<Digest>,
    /// The compressed forms of a layer.
    pub forms: Vec<Digest>,
    /// Bytes without its blobs, where somebody has looked already.
    pub measured: Option<u64>,
    /// Nothing in the metadata says what it is.
    pub stray: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Layer,
    /// Of no layer and no image.
    Blob(Digest),
    Cache {
        dir: String,
        /// Key and slot, if a row names it.
        row: Option<(String, i64)>,
    },
    Git(String),
    Hashes,
    Quarantine,
    /// Nothing that collection removes.
    Fixed,
}

/// Everything, by record id.
#[derive(Debug, Default)]
pub struct Inventory {
    pub items: BTreeMap<String, Item>,
    /// Blobs that named images need.
    pub of_images: BTreeSet<Digest>,
    /// How many layers have the blob as a compressed form.
    pub of_layers: HashMap<Digest, usize>,
    /// Rows of layers that are not there.
    pub stale_layers: Vec<String>,
    pub blob_sizes: HashMap<Digest, u64>,
}

fn nanoseconds(seconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000)
}

fn changed_at(path: &Path) -> i64 {
    std::fs::symlink_metadata(path).map_or(0, |m| nanoseconds(m.mtime()))
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let named = entries.flatten().map(|entry| entry.file_name());
    named.filter_map(|name| name.into_string().ok()).collect()
}

/// The blobs below a manifest or index, as far as they are here: the others cannot be lost.
pub fn reachable(blobs: &BlobStore, top: &Digest) -> BTreeSet<Digest> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![top.clone()];
    while let Some(digest) = waiting.pop() {
        if !found.insert(digest.clone()) {
            continue;
        }
        let parsed = blobs
            .read(&digest, MAX_MANIFEST_BYTES)
            .ok()
            .and_then(|bytes| RawManifest::parse(bytes, None).ok());
        match parsed.map(|manifest| manifest.parsed) {
            Some(ParsedManifest::Index(index)) => {
                waiting.extend(index.manifests.into_iter().map(|entry| entry.digest));
            }
            Some(ParsedManifest::Image(manifest)) => {
                found.insert(manifest.config.digest);
                found.extend(manifest.layers.into_iter().map(|layer| layer.digest));
            }
            None => {}
        }
    }
    found
}

fn is_document(blobs: &BlobStore, digest: &Digest, bytes: u64) -> bool {
    let mut first = [0];
    bytes <= MAX_DOCUMENT_BYTES
        && blobs
            .reader(digest)
            .map(|mut file| file.read_exact(&mut first).is_ok() && first == *b"{")
            .unwrap_or(false)
}

impl Inventory {
    /// Looks at everything. Sizes that nobody has asked for before stay open.
    pub fn take(root: &Path, db: &Db, blobs: &BlobStore) -> Result<Inventory, SolverError> {
        let mut inventory = Inventory::default();
        let uses = db.uses()?;
        for digest in blobs.list().unwrap_or_default() {
            if let Ok(Some(bytes)) = blobs.size(&digest) {
                inventory.blob_sizes.insert(digest, bytes);
            }
        }
        let mut images = Vec::new();
        for (name, image, created) in db.images()? {
            if let Ok(digest) = image.digest.parse::<Digest>() {
                let below = reachable(blobs, &digest);
                inventory.of_images.extend(below.iter().cloned());
                images.push((name, digest, created, below));
            }
        }
        let mut owned: BTreeSet<Digest> = BTreeSet::new();
        inventory.layers(root, db, &uses, &mut owned)?;
        for (name, digest, created, below) in images {
            inventory.image(&name, &digest, created, below, &mut owned);
        }
        inventory.loose_blobs(blobs, &uses, &owned);
        inventory.caches(root, db, &uses)?;
        inventory.repositories(root, &uses);
        inventory.others(root);
        Ok(inventory)
    }

    fn bytes_of(&self, blobs: &[Digest]) -> u64 {
        let known = blobs
            .iter()
            .filter_map(|digest| self.blob_sizes.get(digest));
        known.sum()
    }

    fn layers(
        &mut self,
        root: &Path,
        db: &Db,
        uses: &BTreeMap<String, Use>,
        owned: &mut BTreeSet<Digest>,
    ) -> Result<(), SolverError> {
        let dir = root.join("layers");
        let here: BTreeSet<String> = names(&dir)
            .into_iter()
            .filter(|name| !name.ends_with(".opaque"))
            .map(|name| layer_id(&name))
            .collect();
        let mut rows = db.all_layers()?;
        for (id, row) in &rows {
            for blob in row.blobs.iter().filter_map(|blob| blob.parse().ok()) {
                *self.of_layers.entry(blob).or_default() += 1;
            }
            if !here.contains(id) {
                self.stale_layers.push(id.clone());
            }
        }
        for id in here.iter().cloned() {
            let row = rows.remove(&id);
            let stray = row.is_none();
            let lease = layer_lease(&id);
            let (record, blobs, measured) = match row {
                Some(row) => (row.record, row.blobs, row.size),
                None => Default::default(),
            };
            let created_at = match stray {
                true => changed_at(&dir.join(layer_name(&id))),
                false => nanoseconds(record.created_at),
            };
            let all: Vec<Digest> = blobs.iter().filter_map(|blob| blob.parse().ok()).collect();
            let shared = all.iter().any(|blob| self.of_images.contains(blob));
            // Each blob counts once.
            let mut mine = all.clone();
            mine.retain(|blob| self.blob_sizes.contains_key(blob) && owned.insert(blob.clone()));
            let base: Vec<String> = record
                .base
                .iter()
                .filter(|below| here.contains(*below))
                .cloned()
                .collect();
            // One that was derived is not whole without the one that it changes.
            let changed = derived_from(&id).filter(|whole| here.contains(*whole));
            let needs = base
                .iter()
                .cloned()
                .chain(changed.map(str::to_owned))
                .collect();
            self.add(Item {
                record: UsageRecord {
                    parents: base.last().cloned().into_iter().collect(),
                    description: record.description,
                    record_type: RecordType::parse(&record.kind),
                    shared,
                    ..blank(id, created_at, uses.get(&lease))
                },
                what: What::Layer,
                lease: Some(lease),
                children: 0,
                needs,
                blobs: mine,
                forms: all,
                measured,
                stray,
            });
        }
        let needs: Vec<String> = self
            .items
            .values()
            .flat_map(|item| item.needs.iter().cloned())
            .collect();
        for id in needs {
            if let Some(item) = self.items.get_mut(&id) {
                item.children += 1;
            }
        }
        // What an image shares, it shares with all below.
        let shared: Vec<String> = self
            .items
            .values()
            .filter(|item| item.record.shared)
            .flat_map(|item| item.needs.iter().cloned())
            .collect();
        for id in shared {
            if let Some(item) = self.items.get_mut(&id) {
                item.record.shared = true;
            }
        }
        Ok(())
    }

    fn image(
        &mut self,
        name: &str,
        digest: &Digest,
        created: i64,
        below: BTreeSet<Digest>,
        owned: &mut BTreeSet<Digest>,
    ) {
        let mut mine: Vec<Digest> = below.into_iter().collect();
        mine.retain(|blob| self.blob_sizes.contains_key(blob) && owned.insert(blob.clone()));
        self.add(Item {
            record: UsageRecord {
                in_use: true,
                description: format!("image {name} {digest}"),
                record_type: RecordType::Image,
                shared: true,
                ..blank(format!("image {name}"), nanoseconds(created), None)
            },
            ..fixed(mine)
        });
    }

    fn loose_blobs(
        &mut self,
        blobs: &BlobStore,
        uses: &BTreeMap<String, Use>,
        owned: &BTreeSet<Digest>,
    ) {
        let loose: Vec<(Digest, u64)> = self
            .blob_sizes
            .iter()
            .filter(|(digest, _)| !owned.contains(digest))
            .map(|(digest, bytes)| (digest.clone(), *bytes))
            .collect();
        for (digest, bytes) in loose {
            let is_document = is_document(blobs, &digest, bytes);
            let (record_type, description) = match is_document {
                true => (RecordType::Internal, "manifest or config of an image"),
                false => (RecordType::Regular, "pulled layer, not unpacked"),
            };
            let lease = lease_name(&digest);
            let created = changed_at(&blobs.path(&digest));
            self.add(Item {
                record: UsageRecord {
                    record_type,
                    description: description.to_owned(),
                    ..blank(format!("blob {digest}"), created, uses.get(&lease))
                },
                what: What::Blob(digest.clone()),
                lease: Some(lease),
                stray: true,
                ..fixed(vec![digest])
            });
        }
    }

    fn caches(
        &mut self,
        root: &Path,
        db: &Db,
        uses: &BTreeMap<String, Use>,
    ) -> Result<(), SolverError> {
        let dir = root.join("cache");
        let mut rows: HashMap<String, _> = db
            .cache_mounts()?
            .into_iter()
            .map(|row| (row.dir.clone(), row))
            .collect();
        for name in names(&dir) {
            let row = rows.remove(&name);
            let lease = cache_lease(&name);
            let used = uses.get(&lease);
            let created = used.map_or_else(|| changed_at(&dir.join(&name)), |used| used.first);
            self.add(Item {
                record: UsageRecord {
                    mutable: true,
                    record_type: RecordType::CacheMount,
                    description: row
                        .as_ref()
                        .map_or_else(String::new, |row| row.description.clone()),
                    ..blank(name.clone(), created, used)
                },
                stray: row.is_none(),
                what: What::Cache {
                    dir: name,
                    row: row.map(|row| (row.key, row.slot)),
                },
                lease: Some(lease),
                measured: None,
                ..fixed(Vec::new())
            });
        }
        Ok(())
    }

    fn repositories(&mut self, root: &Path, uses: &BTreeMap<String, Use>) {
        let dir = root.join("git");
        for name in names(&dir) {
            let lease = git_lease(&name);
            let used = uses.get(&lease);
            let created = used.map_or_else(|| changed_at(&dir.join(&name)), |used| used.first);
            let url = std::fs::read_to_string(dir.join(&name).join("config"))
                .ok()
                .and_then(|config| {
                    let mut lines = config.lines().map(str::trim);
                    lines.find_map(|line| line.strip_prefix("url = ").map(shown_url))
                });
            self.add(Item {
                record: UsageRecord {
                    mutable: true,
                    record_type: RecordType::GitCheckout,
                    description: url
                        .map(|url| format!("shared git repo for {url}"))
                        .unwrap_or_default(),
                    ..blank(format!("git {name}"), created, used)
                },
                what: What::Git(name),
                lease: Some(lease),
                measured: None,
                ..fixed(Vec::new())
            });
        }
    }

    fn others(&mut self, root: &Path) {
        let hashes = names(&root.join("hashes"));
        let copies = names(&root.join("copies"));
        if !hashes.is_empty() || !copies.is_empty() {
            let changed = changed_at(&root.join("hashes")).max(changed_at(&root.join("copies")));
            self.add(Item {
                record: UsageRecord {
                    mutable: true,
                    record_type: RecordType::Internal,
                    description: format!("digests of files of {} local directories", hashes.len()),
                    last_used_at: Some(changed),
                    ..blank(HASHES.to_owned(), changed, None)
                },
                what: What::Hashes,
                measured: None,
                ..fixed(Vec::new())
            });
        }
        if !names(&root.join("quarantine")).is_empty() {
            let changed = changed_at(&root.join("quarantine"));
            self.add(Item {
                record: UsageRecord {
                    record_type: RecordType::Internal,
                    description: "damaged blobs that a check set aside".to_owned(),
                    ..blank(QUARANTINE.to_owned(), changed, None)
                },
                what: What::Quarantine,
                measured: None,
                stray: true,
                ..fixed(Vec::new())
            });
        }
        for (id, description) in [
            (METADATA, "what is known of the rest"),
            (UNFINISHED, "unfinished work of running builds"),
        ] {
            let record = UsageRecord {
                mutable: true,
                in_use: true,
                record_type: RecordType::Internal,
                description: description.to_owned(),
                ..blank(id.to_owned(), changed_at(&root.join("metadata.db")), None)
            };
            self.add(Item {
                record,
                measured: None,
                ..fixed(Vec::new())
            });
        }
    }

    fn add(&mut self, item: Item) {
        self.items.insert(item.record.id.clone(), item);
    }

    /// Whether a user holds each thing at this moment.
    pub fn ask_who_uses(&mut self, collector: &Collector) {
        for item in self.items.values_mut() {
            if let Some(lease) = &item.lease {
                // What cannot be asked counts as used.
                item.record.in_use = collector.is_used(lease).unwrap_or(true);
            }
        }
    }

    /// The size of one thing, looked up on the disk if nobody did before. Layers do not change: theirs
    /// is kept for the next time.
    pub fn measure(&mut self, root: &Path, db: &Db, id: &str) -> Result<u64, SolverError> {
        let Some(item) = self.items.get(id) else {
            return Ok(0);
        };
        let blobs = self.bytes_of(&item.blobs);
        let own = match (item.measured, &item.what) {
            (Some(bytes), _) => bytes,
            (None, What::Layer) => {
                let bytes = size::of(&root.join("layers").join(layer_name(id)));
                if !item.stray {
                    // A disk that is full must not keep anybody from making room.
                    let _ = db.set_layer_size(id, bytes);
                }
                bytes
            }
            (None, What::Cache { dir, .. }) => size::of(&root.join("cache").join(dir)),
            (None, What::Git(name)) => size::of(&root.join("git").join(name)),
            (None, What::Hashes) => size::of(&root.join("hashes")) + size::of(&root.join("copies")),
            (None, What::Quarantine) => size::of(&root.join("quarantine")),
            (None, What::Blob(_)) => 0,
            (None, What::Fixed) if id == UNFINISHED => {
                size::of(&root.join("tmp")) + size::of(&root.join("ingest"))
            }
            (None, What::Fixed) => ["metadata.db", "metadata.db-wal", "metadata.db-shm"]
                .iter()
                .map(|name| size::of(&root.join(name)))
                .sum(),
        };
        let item = self.items.get_mut(id);
        if let Some(item) = item {
            item.measured = Some(own);
            item.record.size = own.saturating_add(blobs);
            return Ok(item.record.size);
        }
        Ok(0)
    }

    pub fn measure_all(&mut self, root: &Path, db: &Db) -> Result<(), SolverError> {
        let ids: Vec<String> = self.items.keys().cloned().collect();
        for id in ids {
            self.measure(root, db, &id)?;
        }
        Ok(())
    }
}

fn blank(id: String, created_at: i64, used: Option<&Use>) -> UsageRecord {
    UsageRecord {
        id,
        mutable: false,
        in_use: false,
        size: 0,
        parents: Vec::new(),
        created_at,
        last_used_at: used.map(|used| used.last),
        usage_count: used.map_or(0, |used| used.count),
        record_type: RecordType::Regular,
        shared: false,
        description: String::new(),
    }
}

fn fixed(blobs: Vec<Digest>) -> Item {
    Item {
        record: blank(String::new(), 0, None),
        what: What::Fixed,
        lease: None,
        children: 0,
        needs: Vec::new(),
        measured: (!blobs.is_empty()).then_some(0),
        blobs,
        forms: Vec::new(),
        stray: false,
    }
}

/// The records of a store that match the filters, by id.
///
/// # Errors
/// When a filter cannot be read, or the metadata.
pub fn disk_usage(store: &Store, filters: &[String]) -> Result<Vec<UsageRecord>, SolverError> {
    let filters = Filters::parse(filters)?;
    let root = store.root();
    uses::fold(root, store.db())?;
    let blobs = BlobStore::open(root).map_err(|error| SolverError::Other {
        root: root.to_owned(),
        message: error.to_string(),
    })?;
    let collector = Collector::open(root).map_err(|source| SolverError::Io {
        root: root.to_owned(),
        source,
    })?;
    let mut inventory = Inventory::take(root, store.db(), &blobs)?;
    inventory.ask_who_uses(&collector);
    let wanted: Vec<String> = inventory
        .items
        .values()
        .filter(|item| filters.matches(&item.record))
        .map(|item| item.record.id.clone())
        .collect();
    let mut records = Vec::with_capacity(wanted.len());
    for id in wanted {
        inventory.measure(root, store.db(), &id)?;
        if let Some(item) = inventory.items.get(&id) {
            records.push(item.record.clone());
        }
    }
    Ok(records)
}

/// A blob, and what needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlob {
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// Names of images.
    pub images: Vec<String>,
    /// Ids of layers of the cache.
    pub layers: Vec<String>,
}

/// All blobs, by digest.
///
/// # Errors
/// When the metadata cannot be read.
pub fn list_blobs(store: &Store) -> Result<Vec<StoredBlob>, SolverError> {
    let blobs = store.blobs();
    let mut listed: BTreeMap<Digest, StoredBlob> = BTreeMap::new();
    for digest in blobs.list().unwrap_or_default() {
        if let Ok(Some(size)) = blobs.size(&digest) {
            let blob = StoredBlob {
                digest: digest.to_string(),
                size,
                images: Vec::new(),
                layers: Vec::new(),
            };
            listed.insert(digest, blob);
        }
    }
    for (name, image, _) in store.db().images()? {
        let Ok(top) = image.digest.parse() else {
            continue;
        };
        for digest in reachable(blobs, &top) {
            if let Some(blob) = listed.get_mut(&digest) {
                blob.images.push(name.clone());
            }
        }
    }
    for (id, row) in store.db().all_layers()? {
        for digest in row.blobs.iter().filter_map(|blob| blob.parse().ok()) {
            if let Some(blob) = listed.get_mut(&digest) {
                blob.layers.push(id.clone());
            }
        }
    }
    Ok(listed.into_values().collect())
}
