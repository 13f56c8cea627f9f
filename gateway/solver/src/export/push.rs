//! Images into registries, layers of base images only where the registry lacks them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use gateway_api::Error;
use gateway_images::digest::Digest;
use gateway_images::media::Descriptor;
use gateway_images::reference::Reference;
use gateway_images::registry::{BlobSource, PushOptions, Pushed, Registries, SourceFuture};
use gateway_images::store::BlobStore;

use super::Solved;
use super::image::Made;
use super::options::ImageOptions;
use crate::job::JobInner;
use crate::ops::image;
use crate::report::StatusHandle;
use crate::shared::Outcome;
use crate::store::LazyBlob;

/// An image that is to go to registries when all exporters are done.
pub struct Push {
    top: Descriptor,
    names: Vec<Reference>,
    insecure: bool,
    layers: HashMap<Digest, Arc<LazyBlob>>,
}

impl Push {
    /// # Errors
    /// When names are missing or are none to push to.
    pub fn new(solved: &Solved, made: &Made, options: &ImageOptions) -> Outcome<Push> {
        if options.names.is_empty() {
            return Err(Error::unknown("tag is needed when pushing to registry"));
        }
        let mut names = Vec::new();
        for (name, given) in options.names.iter().zip(&options.given_names) {
            names.push(match options.push_by_digest {
                false => name.clone(),
                true => untagged(name, given)?.with_digest(made.top.digest.clone()),
            });
        }
        let layers = solved
            .images
            .iter()
            .flat_map(|image| image.snapshot.layers.iter());
        Ok(Push {
            top: made.top.clone(),
            names,
            insecure: options.insecure,
            layers: layers
                .filter_map(|layer| layer.lazy.clone())
                .map(|lazy| (lazy.descriptor.digest.clone(), lazy))
                .collect(),
        })
    }

    pub async fn run(&self, job: &Arc<JobInner>, vertex: &str) -> Outcome<()> {
        for name in &self.names {
            let source = Source {
                job,
                vertex,
                layers: &self.layers,
                manifest: format!("pushing manifest for {}", pushed_as(name, &self.top.digest)),
                shown: Mutex::new(Shown::Layers(job.reports.status(
                    vertex,
                    "pushing layers",
                    "",
                ))),
            };
            let registries = registries(job.logged_in(), name, self.insecure);
            let pushed = registries
                .push(name, &self.top, &source)
                .await
                .map_err(|error| {
                    image::registry_error(&error).context(format!("failed to push {name}"))
                })?;
            source.finish();
            for notice in pushed.notices {
                job.reports
                    .log(vertex, 2, format!("{notice}\n").into_bytes());
            }
        }
        Ok(())
    }
}

pub fn registries(all: &Registries, name: &Reference, insecure: bool) -> Registries {
    match insecure {
        true => all.with_insecure(name.domain()),
        false => all.clone(),
    }
}

/// The name with the digest behind it, once.
fn pushed_as(name: &Reference, digest: &Digest) -> Reference {
    name.with_digest(digest.clone())
}

/// A name to be pushed by digest: the user gave no tag.
fn untagged(name: &Reference, given: &str) -> Outcome<Reference> {
    let probe = format!("{given}@{}", Digest::of(b""));
    match Reference::parse(&probe) {
        Ok(parsed) if parsed.tag().is_none() => Ok(parsed),
        _ => Err(Error::unknown(format!(
            "can't push tagged ref {name} by digest"
        ))),
    }
}

/// What of a push is shown as running.
enum Shown {
    Layers(StatusHandle),
    Manifest(StatusHandle),
    Nothing,
}

/// Blobs of the store; those not here yet are fetched once the registry turns out to lack them.
struct Source<'a> {
    job: &'a Arc<JobInner>,
    vertex: &'a str,
    layers: &'a HashMap<Digest, Arc<LazyBlob>>,
    manifest: String,
    shown: Mutex<Shown>,
}

impl Source<'_> {
    fn show(&self, next: Shown) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *shown, next) {
            Shown::Layers(status) | Shown::Manifest(status) => status.done(),
            Shown::Nothing => {}
        }
    }

    fn finish(&self) {
        self.show(Shown::Nothing);
    }
}

impl BlobSource for Source<'_> {
    fn open<'a>(&'a self, descriptor: &'a Descriptor) -> SourceFuture<'a> {
        Box::pin(async move {
            if let Some(lazy) = self.layers.get(&descriptor.digest) {
                image::download(self.job, lazy)
                    .await
                    .map_err(|error| io::Error::other(error.message))?;
            }
            BlobSource::open(self.job.store().blobs(), descriptor).await
        })
    }

    fn origins(&self, descriptor: &Descriptor) -> Vec<Reference> {
        let lazy = self.layers.get(&descriptor.digest);
        lazy.and_then(|lazy| Reference::parse(&lazy.reference).ok())
            .into_iter()
            .collect()
    }

    fn blobs_done(&self) {
        let status = self.job.reports.status(self.vertex, &self.manifest, "");
        self.show(Shown::Manifest(status));
    }
}

/// Pushes an image of the store, without a build around it.
pub async fn stored(
    registries: &Registries,
    blobs: &BlobStore,
    top: &Descriptor,
    name: &Reference,
) -> Outcome<Pushed> {
    // Without a build nobody relies on the digest, which is told.
    let options = PushOptions {
        docker_if_oci_refused: true,
    };
    registries
        .push_with(name, top, blobs, options)
        .await
        .map_err(|error| image::registry_error(&error).context(format!("failed to push {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_without_a_tag_is_pushed_by_digest() {
        let parsed = |given: &str| untagged(&Reference::parse(given).unwrap(), given);
        assert!(parsed("h.example:5000/app").unwrap().tag().is_none());
        assert!(parsed("app").is_ok());
        let error = parsed("h.example/app:1").unwrap_err();
        assert_eq!(
            error.message,
            "can't push tagged ref h.example/app:1 by digest"
        );
    }
}
