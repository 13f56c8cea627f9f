//! Caches that another builder wrote: their keys join the store's own before a build begins.
//!
//! Layers are only named here; whoever needs one fetches it, as with images.

pub(crate) mod config;
mod service;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway_api::Error;
use gateway_images::digest::Digest;
use gateway_images::media::{
    Descriptor, Index, MAX_CONFIG_BYTES, Manifest, ParsedManifest, RawManifest,
};
use gateway_images::reference::Reference;

use crate::job::{Job, JobInner};
use crate::key::digest_of;
use crate::ops::image;
use crate::remote::{RemoteCache, SharedRemote};
use crate::report::vertex;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Candidate, Layer, LazyBlob};

/// Larger manifests and configs are refused, as the reference does.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 1 << 20;
pub(crate) const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Annotation of a layer: the digest of its uncompressed form.
pub(crate) const DIFF_ID: &str = "containerd.io/uncompressed";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const DEFAULT_TAG: &str = "latest";
/// Indexes inside indexes: real ones have one level.
const MAX_INDEX_DEPTH: usize = 4;

/// Where a cache is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheImport {
    /// An OCI layout in a directory.
    Local {
        src: PathBuf,
        /// The manifest or index, when not the tag says which.
        digest: Option<String>,
        /// `latest` when absent.
        tag: Option<String>,
    },
    /// A cache in a registry, or an image there with a cache in it, by its reference.
    Registry {
        reference: String,
        /// The registry's certificate need not be vouched for, or it has none.
        insecure: bool,
    },
    /// A service of others.
    Remote(RemoteCache),
}

impl CacheImport {
    fn name(&self) -> String {
        let (src, digest, tag) = match self {
            CacheImport::Local { src, digest, tag } => (src, digest, tag),
            CacheImport::Registry { reference, .. } => return image::canonical(reference),
            CacheImport::Remote(cache) => return cache.name(),
        };
        let hash = digest_of(format!("{}\0{digest:?}\0{tag:?}", src.display()).as_bytes());
        let hash = hash.trim_start_matches("sha256:").get(..16).unwrap_or("0");
        format!("local:{hash}")
    }
}

impl Job {
    /// Lets this build find what a foreign cache has. A cache that cannot be used fails no build:
    /// its vertex shows why.
    pub async fn import_cache(&self, import: &CacheImport) {
        let job = self.inner();
        let name = format!("importing cache manifest from {}", import.name());
        let digest = digest_of(name.as_bytes());
        job.reports
            .announce(vec![vertex(&digest, &name, Vec::new(), None)]);
        let running = job.reports.start(&digest);
        let work = read(job, import, &digest);
        let outcome = job.until_cancelled(work).await;
        running.finish(&outcome);
    }
}

impl Job {
    /// Shows that a cache was asked for and why it is not read.
    pub fn cache_not_imported(&self, name: &str, problem: &str) {
        let job = self.inner();
        let name = format!("importing cache manifest from {name}");
        let digest = digest_of(name.as_bytes());
        job.reports
            .announce(vec![vertex(&digest, &name, Vec::new(), None)]);
        let failed: Outcome<()> = Err(Error::unknown(problem));
        job.reports.start(&digest).finish(&failed);
    }
}

async fn read(job: &Arc<JobInner>, import: &CacheImport, vertex: &str) -> Outcome<()> {
    if let CacheImport::Remote(cache) = import {
        return service::read(job, cache, vertex).await;
    }
    let (place, top) = open(job, import).await?;
    let kind = format!(
        "inferred cache manifest type: {}",
        top.descriptor.media_type
    );
    job.reports.status(vertex, kind, "").done();
    let digest = top.descriptor.digest.clone();
    let Some(config) = config_of(&top) else {
        return inline(job, place, top, vertex).await;
    };
    let config = place.document(job, &config, MAX_DOCUMENT_BYTES).await?;
    let layers = match top.parsed {
        ParsedManifest::Image(Manifest { layers, .. }) => layers,
        ParsedManifest::Index(Index { manifests, .. }) => manifests,
    };
    let (job, vertex) = (job.clone(), vertex.to_owned());
    blocking(move || {
        let records = config::parse(&config)
            .map_err(|error| Error::unknown(format!("cache {digest}: {error}")))?;
        Foreign::new(place, layers, vertex).store(&job, &records)
    })
    .await
}

/// The caches inside images: of every platform that has one.
async fn inline(job: &Arc<JobInner>, place: Place, top: RawManifest, vertex: &str) -> Outcome<()> {
    let digest = top.descriptor.digest.clone();
    let mut found = false;
    for image in place.images(job, top).await? {
        let bytes = place.document(job, &image.config, MAX_CONFIG_BYTES).await?;
        let Some(inside) = config::inside(&bytes)
            .map_err(|error| Error::unknown(format!("image {digest}: {error}")))?
        else {
            continue;
        };
        if inside.diff_ids.len() != image.layers.len() {
            continue;
        }
        found = true;
        let (job, vertex, place) = (job.clone(), vertex.to_owned(), place.clone());
        let digest = digest.clone();
        blocking(move || {
            let blobs = image
                .layers
                .iter()
                .map(|layer| layer.digest.clone())
                .collect();
            let records = config::parse_inline(&inside.records, blobs)
                .map_err(|error| Error::unknown(format!("cache in {digest}: {error}")))?;
            let layers = image.layers.into_iter().zip(inside.diff_ids);
            let layers = layers.map(|(mut layer, diff_id)| {
                layer.annotations.insert(DIFF_ID.to_owned(), diff_id);
                layer
            });
            Foreign::new(place, layers.collect(), vertex).store(&job, &records)
        })
        .await?;
    }
    if !found {
        let text = format!("{digest} is an image without a cache in it\n");
        job.reports.log(vertex, 2, text.into_bytes());
    }
    Ok(())
}

/// Where the cache is, and its manifest.
async fn open(job: &Arc<JobInner>, import: &CacheImport) -> Outcome<(Place, RawManifest)> {
    match import {
        CacheImport::Remote(_) => Err(internal("a service has no manifest")),
        CacheImport::Local { src, digest, tag } => {
            let (src, digest, tag) = (src.clone(), digest.clone(), tag.clone());
            blocking(move || {
                let top = match digest {
                    Some(digest) => digest.parse().map_err(|error| {
                        Error::invalid(format!("{digest:?} is no digest of a cache: {error}"))
                    })?,
                    None => tagged(&src, tag.as_deref().unwrap_or(DEFAULT_TAG))?,
                };
                let bytes = document(&src, &top, MAX_DOCUMENT_BYTES)?;
                let manifest = RawManifest::parse(bytes, None)
                    .map_err(|error| Error::unknown(format!("cache manifest {top}: {error}")))?;
                Ok((Place::Dir(src), manifest))
            })
            .await
        }
        CacheImport::Registry {
            reference,
            insecure,
        } => {
            let reference = image::parse(reference)?;
            if *insecure {
                job.allow_insecure(reference.domain());
            }
            let resolved = job.registries(&reference).resolve(&reference).await;
            let resolved = resolved.map_err(|error| image::registry_error(&error))?;
            Ok((Place::Registry(reference), resolved.root))
        }
    }
}

/// The cache config that a manifest names; in the older form it is an entry of an index.
fn config_of(manifest: &RawManifest) -> Option<Descriptor> {
    let mut candidates = match &manifest.parsed {
        ParsedManifest::Image(image) => std::slice::from_ref(&image.config).iter(),
        ParsedManifest::Index(index) => index.manifests.iter(),
    };
    candidates
        .find(|config| config.media_type == CONFIG_TYPE)
        .cloned()
}

/// A manifest or config of the layout, checked against its digest.
fn document(dir: &Path, digest: &Digest, limit: u64) -> Outcome<Vec<u8>> {
    let bytes = small_file(&blob_path(dir, digest), limit)?;
    match Digest::of(&bytes) == *digest {
        true => Ok(bytes),
        false => Err(Error::unknown(format!(
            "cache {}: blob {digest} has other content",
            dir.display()
        ))),
    }
}

fn small_file(path: &Path, limit: u64) -> Outcome<Vec<u8>> {
    let failed = |error| Error::unknown(format!("cannot read {}: {error}", path.display()));
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > limit {
        return Err(Error::unknown(format!(
            "{} has {size} bytes, at most {limit} are read",
            path.display()
        )));
    }
    std::fs::read(path).map_err(failed)
}

fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

/// What the layout's index has under a tag.
fn tagged(dir: &Path, tag: &str) -> Outcome<Digest> {
    let path = dir.join("index.json");
    let index: Index = serde_json::from_slice(&small_file(&path, MAX_DOCUMENT_BYTES)?)
        .map_err(|error| Error::unknown(format!("{}: {error}", path.display())))?;
    index
        .manifests
        .into_iter()
        .find(|manifest| {
            manifest
                .annotations
                .get(REF_NAME)
                .is_some_and(|name| name == tag)
        })
        .map(|manifest| manifest.digest)
        .ok_or_else(|| Error::unknown(format!("{} has no cache {tag:?}", dir.display())))
}

/// Where the blobs of a cache are.
#[derive(Clone)]
enum Place {
    Dir(PathBuf),
    /// The repository of this reference.
    Registry(Reference),
    /// A service; those of its blobs that are known to be gone.
    Service(SharedRemote, Arc<BTreeSet<Digest>>),
}

impl Place {
    /// A small blob, checked against its digest.
    async fn document(
        &self,
        job: &Arc<JobInner>,
        blob: &Descriptor,
        limit: u64,
    ) -> Outcome<Vec<u8>> {
        match self {
            Place::Dir(dir) => {
                let (dir, digest) = (dir.clone(), blob.digest.clone());
                blocking(move || document(&dir, &digest, limit)).await
            }
            Place::Registry(reference) => {
                let registries = job.registries(reference);
                let bytes = registries.small_blob(reference, blob, limit).await;
                let bytes = bytes.map_err(|error| image::registry_error(&error))?;
                Ok(bytes.to_vec())
            }
            Place::Service(..) => Err(internal("a service has no documents by digest")),
        }
    }

    async fn manifest(&self, job: &Arc<JobInner>, of: &Descriptor) -> Outcome<RawManifest> {
        match self {
            Place::Dir(_) => {
                let bytes = self.document(job, of, MAX_DOCUMENT_BYTES).await?;
                RawManifest::parse(bytes, Some(&of.media_type))
                    .map_err(|error| Error::unknown(format!("manifest {}: {error}", of.digest)))
            }
            Place::Registry(reference) => {
                let registries = job.registries(reference);
                let manifest = registries.manifest(reference, of).await;
                manifest.map_err(|error| image::registry_error(&error))
            }
            Place::Service(..) => Err(internal("a service has no manifests")),
        }
    }

    /// The images that a manifest or index leads to.
    async fn images(&self, job: &Arc<JobInner>, top: RawManifest) -> Outcome<Vec<Manifest>> {
        let mut images = Vec::new();
        let mut left = vec![(top, 0)];
        while let Some((manifest, depth)) = left.pop() {
            match manifest.parsed {
                ParsedManifest::Image(image) => images.push(image),
                ParsedManifest::Index(index) => {
                    let children = index.manifests.iter().filter(|m| !m.is_attestation());
                    for child in children.filter(|_| depth < MAX_INDEX_DEPTH) {
                        left.push((self.manifest(job, child).await?, depth + 1));
                    }
                }
            }
        }
        Ok(images)
    }
}

struct Foreign {
    place: Place,
    /// Shows the transfer of layers.
    vertex: String,
    blobs: HashMap<Digest, Descriptor>,
}

impl Foreign {
    fn new(place: Place, layers: Vec<Descriptor>, vertex: String) -> Foreign {
        let layers = layers.into_iter();
        Foreign {
            place,
            vertex,
            blobs: layers.map(|layer| (layer.digest.clone(), layer)).collect(),
        }
    }

    /// Puts the records among the store's own: a key that is known already stays the same key.
    fn store(&self, job: &Arc<JobInner>, records: &[config::Record]) -> Outcome<()> {
        let db = job.store().db();
        // By place: the key in this store.
        let mut keys: Vec<String> = Vec::with_capacity(records.len());
        for record in records {
            let inputs: Vec<Vec<Candidate>> = record
                .inputs
                .iter()
                .map(|links| {
                    let candidate = |link: &config::Link| {
                        keys.get(link.record).map(|key| Candidate {
                            key: key.clone(),
                            selector: link.selector.clone(),
                        })
                    };
                    links.iter().filter_map(candidate).collect()
                })
                .collect();
            let key = match inputs.is_empty() {
                true => record.digest.clone(),
                false => {
                    let known = db.targets(&record.digest, &inputs).map_err(internal)?;
                    known.into_iter().next().unwrap_or_else(|| {
                        digest_of(format!("{}{inputs:?}", record.digest).as_bytes())
                    })
                }
            };
            if !inputs.is_empty() {
                db.save(&record.digest, &inputs, &key, None)
                    .map_err(internal)?;
            }
            for result in &record.results {
                if let Some(layers) = self.layers(job, &result.blobs) {
                    db.save(
                        &record.digest,
                        &[],
                        &key,
                        Some((&layers, result.created_at)),
                    )
                    .map_err(internal)?;
                }
            }
            keys.push(key);
        }
        Ok(())
    }

    /// The ids of the layers, which this build can fetch from now on; `None` when one is not there.
    fn layers(&self, job: &Arc<JobInner>, blobs: &[Digest]) -> Option<Vec<String>> {
        let mut ids: Vec<String> = Vec::with_capacity(blobs.len());
        let mut layers = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let descriptor = self.blobs.get(blob)?;
            let diff_id: Digest = descriptor.annotations.get(DIFF_ID)?.parse().ok()?;
            let diff_id = diff_id.to_string();
            let mut remote = None;
            let mut gone = false;
            let (reference, file) = match &self.place {
                Place::Dir(dir) => {
                    let file = blob_path(dir, blob);
                    gone = !file.is_file();
                    (format!("cache {}", dir.display()), Some(file))
                }
                Place::Registry(reference) => (reference.to_string(), None),
                Place::Service(service, missing) => {
                    remote = Some(service.clone());
                    gone = missing.contains(blob);
                    (format!("cache {}", service.cache().name()), None)
                }
            };
            if gone && !job.store().blobs().contains(blob) {
                return None;
            }
            // The names that layers of images have: equal layers are kept once.
            let id = match ids.last() {
                None => diff_id.clone(),
                Some(below) => digest_of(format!("{below} {diff_id}").as_bytes()),
            };
            layers.push(Layer {
                id: id.clone(),
                lazy: Some(Arc::new(LazyBlob {
                    descriptor: Descriptor {
                        annotations: BTreeMap::new(),
                        ..descriptor.clone()
                    },
                    diff_id,
                    base: ids.clone(),
                    reference,
                    file,
                    remote,
                    vertex: self.vertex.clone(),
                    kind: String::new(),
                })),
                local: None,
            });
            ids.push(id);
        }
        for layer in &layers {
            job.remember_lazy(layer);
        }
        Some(ids)
    }
}
