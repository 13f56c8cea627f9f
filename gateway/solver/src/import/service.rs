//! Caches that are services: configs by name, in which each layer says what a manifest would say of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::Error;
use gateway_images::digest::Digest;
use gateway_images::media::Descriptor;

use super::{DIFF_ID, Foreign, Place, config};
use crate::job::JobInner;
use crate::remote::{Remote, RemoteCache, RemoteError};
use crate::shared::{Outcome, blocking};

/// Reads all configs of a service. One that has none is an empty cache.
pub async fn read(job: &Arc<JobInner>, cache: &RemoteCache, vertex: &str) -> Outcome<()> {
    let failed = |error: RemoteError| Error::unknown(error.to_string());
    let remote = Arc::new(Remote::new(job.logged_in().clone(), cache.clone()));
    remote.open().await.map_err(failed)?;
    for bytes in remote.configs().await.map_err(failed)? {
        let wrong = |error: config::ConfigError| {
            Error::unknown(format!("cache {}: {error}", remote.cache().name()))
        };
        let layers = config::layers(&bytes).map_err(wrong)?;
        let records = config::parse(&bytes).map_err(wrong)?;
        // What was removed there would be missed only in the middle of a build.
        let blobs: BTreeSet<Digest> = layers
            .iter()
            .map(|layer| layer.blob.clone())
            .filter(|blob| !job.store().blobs().contains(blob))
            .collect();
        let gone = remote.gone(&blobs).await;
        if !gone.is_empty() {
            let (gone, all) = (gone.len(), layers.len());
            let text = format!("{gone} of {all} layers of the cache are not there any more\n");
            job.reports.log(vertex, 2, text.into_bytes());
        }
        let layers = layers.into_iter().map(descriptor).collect();
        let place = Place::Service(remote.clone(), Arc::new(gone));
        let foreign = Foreign::new(place, layers, vertex.to_owned());
        let job = job.clone();
        blocking(move || foreign.store(&job, &records)).await?;
    }
    Ok(())
}

fn descriptor(layer: config::Annotated) -> Descriptor {
    let annotations = BTreeMap::from([(DIFF_ID.to_owned(), layer.diff_id)]);
    Descriptor {
        annotations,
        ..Descriptor::new(layer.media_type, layer.blob, layer.size)
    }
}
