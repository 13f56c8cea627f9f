//! A cache on its way: config and manifest, then all blobs to where they are to be.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use gateway_api::Error;
use gateway_images::archive::{Family, Layout, make_index, write_layout_as};
use gateway_images::digest::Digest;
use gateway_images::media::{DOCKER_INDEX, Descriptor, Manifest, OCI_INDEX, OCI_MANIFEST};
use gateway_images::reference::Reference;
use gateway_images::registry::{BlobSource, SourceFuture};

use super::config::Config;
use super::options::Options;
use super::{CacheDestination, CacheExport, Lazy};
use crate::export::push::registries;
use crate::import::CONFIG_TYPE;
use crate::job::JobInner;
use crate::ops::image;
use crate::report::StatusHandle;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;

/// A cache whose manifest and config are in the blob store.
pub struct Cache {
    manifest: Descriptor,
    config: Digest,
    layers: Vec<Descriptor>,
    lazy: Lazy,
    image_manifest: bool,
}

impl Cache {
    pub fn new(job: &JobInner, config: Config, lazy: Lazy, options: &Options) -> Outcome<Cache> {
        let blobs = job.store().blobs();
        blobs.put(&config.json).map_err(internal)?;
        let described = Descriptor::of(CONFIG_TYPE, &config.json);
        let mut cache = Cache {
            manifest: described.clone(),
            config: described.digest.clone(),
            layers: config.layers,
            lazy,
            image_manifest: options.image_manifest,
        };
        cache.manifest = match options.image_manifest {
            true => {
                let manifest = Manifest {
                    schema_version: 2,
                    media_type: Some(OCI_MANIFEST.to_owned()),
                    artifact_type: None,
                    config: described,
                    layers: cache.layers.clone(),
                    subject: None,
                    annotations: std::collections::BTreeMap::new(),
                };
                let bytes = serde_json::to_vec(&manifest).map_err(internal)?;
                blobs.put(&bytes).map_err(internal)?;
                Descriptor::of(OCI_MANIFEST, &bytes)
            }
            false => {
                let mut entries = cache.layers.clone();
                entries.push(described);
                let family = options.image.family;
                let none = std::collections::BTreeMap::new();
                let index = make_index(entries, family, none).map_err(internal)?;
                blobs.put(&index.bytes).map_err(internal)?;
                let media_type = match family {
                    Family::Oci => OCI_INDEX,
                    Family::Docker => DOCKER_INDEX,
                };
                Descriptor::of(media_type, &index.bytes)
            }
        };
        Ok(cache)
    }

    /// Sends all there is; gives the descriptor of the manifest.
    pub async fn send(
        self,
        job: &Arc<JobInner>,
        vertex: &str,
        export: &CacheExport,
        options: &Options,
    ) -> Outcome<Descriptor> {
        let kind = match self.image_manifest {
            true => "writing cache image manifest",
            false => "writing cache manifest",
        };
        let manifest_name = format!("{kind} {}", self.manifest.digest);
        let mut running: Vec<StatusHandle> = Vec::new();
        for layer in &self.layers {
            let name = format!("writing layer {}", layer.digest);
            running.push(job.reports.status(vertex, name, ""));
        }
        let name = format!("writing config {}", self.config);
        running.push(job.reports.status(vertex, name, ""));
        match &export.to {
            CacheDestination::Registry { reference } => {
                let name = reference_of(reference)?;
                let source = Source {
                    job,
                    vertex,
                    lazy: &self.lazy,
                    manifest_name,
                    running: Mutex::new(running),
                };
                let registries = registries(job.logged_in(), &name, options.image.insecure);
                let pushed = registries.push(&name, &self.manifest, &source).await;
                let pushed = pushed.map_err(|error| {
                    image::registry_error(&error).context(format!("failed to push {name}"))
                })?;
                source.finish();
                for notice in pushed.notices {
                    let line = format!("{notice}\n").into_bytes();
                    job.reports.log(vertex, 2, line);
                }
            }
            CacheDestination::Local { dest, tag, reset } => {
                let (store, top) = (job.store().clone(), self.manifest.clone());
                let cancel = job.cancel().clone();
                let (dest, tag, reset) = (dest.clone(), tag.clone(), *reset);
                blocking(move || {
                    let failed = |error: &dyn std::fmt::Display| {
                        Error::unknown(format!("cache in {}: {error}", dest.display()))
                    };
                    write_layout_as(store.blobs(), &top, &tag, &dest, &|| cancel.is_cancelled())
                        .map_err(|e| failed(&e))?;
                    match reset {
                        true => clean(&dest).map_err(|e| failed(&e)),
                        false => Ok(0),
                    }
                })
                .await?;
                running.into_iter().for_each(StatusHandle::done);
                job.reports.status(vertex, manifest_name, "").done();
            }
            CacheDestination::Inline | CacheDestination::Remote(_) => {}
        }
        Ok(self.manifest)
    }
}

/// Removes what no name of the layout leads to.
fn clean(dir: &Path) -> Result<usize, gateway_images::archive::ArchiveError> {
    Layout::open(dir)?.remove_unnamed()
}

/// The name of a cache in a registry; `latest` where it has no tag.
fn reference_of(text: &str) -> Outcome<Reference> {
    let reference = image::parse(text)?;
    match reference.digest() {
        None => Ok(reference),
        Some(_) => Err(Error::invalid(format!(
            "a cache cannot be written to {text}: name a tag, not a digest"
        ))),
    }
}

/// Blobs of the store; those of images are fetched once the registry turns out to lack them.
struct Source<'a> {
    job: &'a Arc<JobInner>,
    vertex: &'a str,
    lazy: &'a Lazy,
    manifest_name: String,
    running: Mutex<Vec<StatusHandle>>,
}

impl Source<'_> {
    fn finish(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.drain(..).for_each(StatusHandle::done);
    }
}

impl BlobSource for Source<'_> {
    fn open<'a>(&'a self, descriptor: &'a Descriptor) -> SourceFuture<'a> {
        Box::pin(async move {
            if let Some(lazy) = self.lazy.get(&descriptor.digest) {
                image::download(self.job, lazy)
                    .await
                    .map_err(|error| io::Error::other(error.message))?;
            }
            BlobSource::open(self.job.store().blobs(), descriptor).await
        })
    }

    fn origins(&self, descriptor: &Descriptor) -> Vec<Reference> {
        let lazy = self.lazy.get(&descriptor.digest);
        let origin = lazy.and_then(|lazy| Reference::parse(&lazy.reference).ok());
        origin.into_iter().collect()
    }

    fn blobs_done(&self) {
        self.finish();
        let status = self
            .job
            .reports
            .status(self.vertex, &self.manifest_name, "");
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.push(status);
    }
}
