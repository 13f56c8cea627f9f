//! Caches that another builder wrote: their keys join the store's own before a build begins.
//!
//! Layers are only named here; whoever needs one fetches it, as with images.

mod config;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway_api::Error;
use gateway_images::digest::Digest;
use gateway_images::media::{Descriptor, Index, Manifest, ParsedManifest, RawManifest};

use crate::job::{Job, JobInner};
use crate::key::digest_of;
use crate::ops::image;
use crate::report::vertex;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Candidate, Layer, LazyBlob};

/// Larger manifests and configs are refused, as the reference does.
const MAX_DOCUMENT_BYTES: u64 = 1 << 20;
const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Annotation of a layer: the digest of its uncompressed form.
const DIFF_ID: &str = "containerd.io/uncompressed";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const DEFAULT_TAG: &str = "latest";

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
    /// A cache in a registry, by its reference.
    Registry { reference: String },
}

impl CacheImport {
    fn name(&self) -> String {
        let (src, digest, tag) = match self {
            CacheImport::Local { src, digest, tag } => (src, digest, tag),
            CacheImport::Registry { reference } => return image::canonical(reference),
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
    let (place, manifest, config) = match import {
        CacheImport::Local { src, digest, tag } => {
            let (src, digest, tag) = (src.clone(), digest.clone(), tag.clone());
            blocking(move || {
                let top = match digest {
                    Some(digest) => digest.parse().map_err(|error| {
                        Error::invalid(format!("{digest:?} is no digest of a cache: {error}"))
                    })?,
                    None => tagged(&src, tag.as_deref().unwrap_or(DEFAULT_TAG))?,
                };
                let bytes = document(&src, &top)?;
                let manifest = RawManifest::parse(bytes, None)
                    .map_err(|error| Error::unknown(format!("cache manifest {top}: {error}")))?;
                let config = document(&src, &config_of(&manifest)?.digest)?;
                Ok((Place::Dir(src), manifest, config))
            })
            .await?
        }
        CacheImport::Registry { reference } => {
            let reference = image::parse(reference)?;
            let registries = job.solver().registries();
            let failed = |error| image::registry_error(&error);
            let manifest = registries.resolve(&reference).await.map_err(failed)?.root;
            let config = config_of(&manifest)?;
            let config = registries
                .small_blob(&reference, &config, MAX_DOCUMENT_BYTES)
                .await
                .map_err(failed)?
                .to_vec();
            (Place::Registry(reference.to_string()), manifest, config)
        }
    };
    let top = manifest.descriptor.digest.clone();
    let layers = match manifest.parsed {
        ParsedManifest::Image(Manifest { layers, .. }) => layers,
        ParsedManifest::Index(Index { manifests, .. }) => manifests,
    };
    let foreign = Foreign {
        place,
        vertex: vertex.to_owned(),
        blobs: layers
            .into_iter()
            .map(|layer| (layer.digest.clone(), layer))
            .collect(),
    };
    let job = job.clone();
    blocking(move || {
        let records = config::parse(&config)
            .map_err(|error| Error::unknown(format!("cache {top}: {error}")))?;
        foreign.store(&job, &records)
    })
    .await
}

/// The cache config that a manifest names; in the older form it is an entry of an index.
fn config_of(manifest: &RawManifest) -> Outcome<Descriptor> {
    let config = match &manifest.parsed {
        ParsedManifest::Image(image) => Some(&image.config),
        ParsedManifest::Index(index) => index.manifests.last(),
    };
    config
        .filter(|config| config.media_type == CONFIG_TYPE)
        .cloned()
        .ok_or_else(|| {
            let top = &manifest.descriptor.digest;
            Error::unknown(format!("{top} is not a cache: it has no cache config"))
        })
}

/// A manifest or config of the layout, checked against its digest.
fn document(dir: &Path, digest: &Digest) -> Outcome<Vec<u8>> {
    let bytes = small_file(&blob_path(dir, digest))?;
    match Digest::of(&bytes) == *digest {
        true => Ok(bytes),
        false => Err(Error::unknown(format!(
            "cache {}: blob {digest} has other content",
            dir.display()
        ))),
    }
}

fn small_file(path: &Path) -> Outcome<Vec<u8>> {
    let failed = |error| Error::unknown(format!("cannot read {}: {error}", path.display()));
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_DOCUMENT_BYTES {
        return Err(Error::unknown(format!(
            "{} has {size} bytes, at most {MAX_DOCUMENT_BYTES} are read",
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
    let index: Index = serde_json::from_slice(&small_file(&path)?)
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
enum Place {
    Dir(PathBuf),
    /// The repository of this reference.
    Registry(String),
}

struct Foreign {
    place: Place,
    /// Shows the transfer of layers.
    vertex: String,
    blobs: HashMap<Digest, Descriptor>,
}

impl Foreign {
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
            let (reference, file) = match &self.place {
                Place::Dir(dir) => (
                    format!("cache {}", dir.display()),
                    Some(blob_path(dir, blob)),
                ),
                Place::Registry(reference) => (reference.clone(), None),
            };
            let gone = file.as_ref().is_some_and(|file| !file.is_file());
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
