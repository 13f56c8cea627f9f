//! A cache on its way to a service: the layers that are not there yet, several at once, then the config that names them.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use gateway_api::Error;
use gateway_images::media::Descriptor;
use gateway_images::registry::BlobSource;

use super::Lazy;
use super::config::Config;
use crate::job::JobInner;
use crate::ops::image;
use crate::remote::{Remote, RemoteCache, RemoteError};
use crate::shared::Outcome;
use crate::solve::internal;

fn failed(error: RemoteError) -> Error {
    Error::unknown(error.to_string())
}

/// Sends all that is missing there.
pub async fn send(
    job: &Arc<JobInner>,
    vertex: &str,
    cache: &RemoteCache,
    config: Config,
    lazy: &Lazy,
) -> Outcome<()> {
    let remote = Remote::new(job.logged_in().clone(), cache.clone());
    remote.open().await.map_err(failed)?;
    let remote_ref = &remote;
    futures_util::stream::iter(config.layers.into_iter().map(Ok))
        .try_for_each_concurrent(cache.parallelism(), |layer| async move {
            send_layer(job, vertex, remote_ref, &layer, lazy).await
        })
        .await?;
    remote
        .put_config(config.json.into())
        .await
        .map_err(|error| failed(error).context("error writing manifest"))
}

async fn send_layer(
    job: &Arc<JobInner>,
    vertex: &str,
    remote: &Remote,
    layer: &Descriptor,
    lazy: &Lazy,
) -> Outcome<()> {
    let known = remote.keep(&layer.digest).await;
    if known.map_err(|error| failed(error).context("failed to check file presence in cache"))? {
        return Ok(());
    }
    let name = format!("writing layer {}", layer.digest);
    let mut status = job.reports.status_of(vertex, name, "", layer.size);
    if let Some(lazy) = lazy.get(&layer.digest) {
        image::download(job, lazy).await?;
    }
    let source = BlobSource::open(job.store().blobs(), layer)
        .await
        .map_err(internal)?;
    let put = remote.put(layer, source).await;
    put.map_err(|error| failed(error).context("error writing layer blob"))?;
    status.update(layer.size, layer.size);
    status.done();
    Ok(())
}
