//! Caches for other builders and other machines: what this build knows of its steps, with the
//! layers that came of them, in a registry, a directory, or inside the image itself.

mod chains;
mod collect;
mod config;
mod inline;
mod options;
mod remote;
mod send;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::try_join_all;
use gateway_api::Error;
use gateway_images::archive::convert_layer_type;
use gateway_images::media::Descriptor;

pub use collect::{Collected, Node, collect, state};
pub use inline::records as inline_records;

use super::layers::{self, ReadyLayer};
use crate::import::DIFF_ID;
use crate::job::{Job, JobInner};
use crate::key::digest_of;
use crate::remote::RemoteCache;
use crate::report;
use crate::shared::Outcome;
use crate::solve::internal;
use crate::store::{LazyBlob, Snapshot};
use chains::{Found, Record};
use config::{Blobs, timestamp};
use options::Options;
use send::Cache;

/// Annotation of a layer: when it was made.
const CREATED_AT: &str = "buildkit/createdat";

/// Where a cache is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheDestination {
    Registry {
        reference: String,
    },
    /// An OCI layout in a directory.
    Local {
        dest: PathBuf,
        /// The cache's name in the layout.
        tag: String,
        /// Blobs that no name leads to any more are removed.
        reset: bool,
    },
    /// In the config of the image that is exported.
    Inline,
    /// A service of others.
    Remote(RemoteCache),
}

/// A cache to be written after a build. `attrs` are the attributes of the reference; unknown ones are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheExport {
    pub to: CacheDestination,
    /// Layers of all steps, not only of the result. Never for `Inline`.
    pub max: bool,
    /// A cache that cannot be written fails no build: its vertex shows why.
    pub ignore_error: bool,
    pub attrs: BTreeMap<String, String>,
}

/// Response attribute: the descriptor of the cache's manifest as JSON.
const MANIFEST: &str = "cache.manifest";

/// Writes one cache under a vertex of its own.
pub async fn export(
    job: &Job,
    number: usize,
    export: &CacheExport,
    tops: &[Node],
) -> Outcome<BTreeMap<String, String>> {
    let inner = job.inner();
    let name = match &export.to {
        CacheDestination::Registry { .. } => "exporting cache to registry",
        CacheDestination::Local { .. } => "exporting cache to client directory",
        CacheDestination::Remote(cache) => cache.title(),
        CacheDestination::Inline => return Ok(BTreeMap::new()),
    };
    let id = format!("{}-cache-{number}", job.session().id());
    let vertex = digest_of(id.as_bytes());
    inner
        .reports
        .announce(vec![report::vertex(&vertex, name, Vec::new(), None)]);
    let running = inner.reports.start(&vertex);
    let work = write(inner, &vertex, export, tops);
    let outcome = inner.until_cancelled(work).await;
    running.finish(&outcome);
    match outcome {
        Err(_) if export.ignore_error && !inner.cancel().is_cancelled() => Ok(BTreeMap::new()),
        outcome => outcome.map_err(|error| error.context(format!("{name} failed"))),
    }
}

async fn write(
    job: &Arc<JobInner>,
    vertex: &str,
    export: &CacheExport,
    tops: &[Node],
) -> Outcome<BTreeMap<String, String>> {
    let options = Options::parse(export)?;
    let status = job
        .reports
        .status(vertex, "preparing build cache for export", "");
    let collected = collect(job, tops).await?;
    let (blobs, lazy) = blobs(job, &collected, export.max, &options).await?;
    status.done();
    let form = match &export.to {
        CacheDestination::Remote(_) => config::Form::Alone,
        _ => config::Form::WithManifest,
    };
    let config = config::config(collected.chains.records(), &blobs, form).map_err(internal)?;
    let Some(config) = config else {
        let text = "skipping cache export for empty result";
        job.reports.status(vertex, text, "").done();
        return Ok(BTreeMap::new());
    };
    if config.dropped > 0 {
        let text = format!(
            "warning: {} of the cache's keys are left out: importers read no more than {} MiB of them\n",
            config.dropped,
            form.limit() >> 20
        );
        job.reports.log(vertex, 2, text.into_bytes());
    }
    let status = job.reports.status(vertex, "sending cache export", "");
    if let CacheDestination::Remote(remote) = &export.to {
        remote::send(job, vertex, remote, config, &lazy).await?;
        status.done();
        return Ok(BTreeMap::new());
    }
    let cache = Cache::new(job, config, lazy, &options)?;
    let manifest = cache.send(job, vertex, export, &options).await?;
    status.done();
    let json = serde_json::to_string(&manifest).map_err(internal)?;
    Ok(BTreeMap::from([(MANIFEST.to_owned(), json)]))
}

type Lazy = HashMap<gateway_images::digest::Digest, Arc<LazyBlob>>;

/// The blobs of all results that the cache is to have, and where those can be had that are not here.
async fn blobs(
    job: &Arc<JobInner>,
    collected: &Collected,
    max: bool,
    options: &Options,
) -> Outcome<(HashMap<usize, Blobs>, Lazy)> {
    let records = collected.chains.records();
    let made = match max {
        true => (0..records.len()).collect(),
        false => results_of(records, &collected.tops),
    };
    let with_result = |number: &usize| {
        let found = records.get(*number)?.result.as_ref()?;
        Some((*number, found))
    };
    let works = made
        .iter()
        .filter_map(with_result)
        .map(|(number, found)| async move {
            let ready = layers::ready(job, &found.snapshot, &options.image).await?;
            Ok::<_, Error>((number, found, ready))
        });
    let mut chains = try_join_all(works).await?;
    // Below the results, what exists anyway costs nothing but its transfer.
    for (number, record) in records.iter().enumerate() {
        if let Some(found) = record.result.as_ref().filter(|_| !made.contains(&number))
            && let Some(ready) = layers::known(job, &found.snapshot, &options.image)?
        {
            chains.push((number, found, ready));
        }
    }
    let mut blobs = HashMap::new();
    let mut lazy = Lazy::new();
    for (number, found, ready) in chains {
        if ready.is_empty() {
            continue;
        }
        remember_lazy(&mut lazy, &found.snapshot);
        let ready = ready.into_iter();
        let chain = ready
            .map(|layer| descriptor(layer, found, options))
            .collect();
        blobs.insert(number, Blobs::Chain(chain));
    }
    Ok((blobs, lazy))
}

/// The records whose layers are made when they are not there: the results themselves, or where
/// a result has no layers of its own, the next below that have.
fn results_of(records: &[Record], tops: &[Vec<usize>]) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut stack: Vec<usize> = tops.iter().flatten().copied().collect();
    while let Some(number) = stack.pop() {
        if !seen.insert(number) {
            continue;
        }
        let Some(record) = records.get(number) else {
            continue;
        };
        match &record.result {
            Some(_) => {
                found.insert(number);
            }
            None => stack.extend(record.inputs.iter().flatten().map(|link| link.record)),
        }
    }
    found
}

fn remember_lazy(lazy: &mut Lazy, snapshot: &Snapshot) {
    for layer in snapshot.layers.iter() {
        if let Some(blob) = &layer.lazy {
            lazy.insert(blob.descriptor.digest.clone(), blob.clone());
        }
    }
}

/// A layer as a cache names it.
fn descriptor(layer: ReadyLayer, found: &Found, options: &Options) -> Descriptor {
    let mut descriptor = layer.descriptor;
    descriptor.media_type = convert_layer_type(&descriptor.media_type, options.image.family);
    descriptor.annotations.clear();
    let created = layer.info.created.map(|created| created.to_string());
    let created = created.unwrap_or_else(|| timestamp(found.created_at));
    let annotations = &mut descriptor.annotations;
    annotations.insert(DIFF_ID.to_owned(), layer.info.diff_id.to_string());
    annotations.insert(CREATED_AT.to_owned(), created);
    descriptor
}
