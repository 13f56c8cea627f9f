//! The layers that came of a result's steps, as the engine's own attestations tell them: of every
//! step whose blobs exist when the attestation is written. None is made or fetched for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::Error;
use gateway_images::media::Descriptor;
use gateway_llb::{Graph, pb};
use serde_json::{Map, Value, json};

use super::cache::state;
use super::layers;
use super::options::ImageOptions;
use crate::job::{Job, JobInner};
use crate::live::LiveVertex;
use crate::ops::image;
use crate::result::ResultRef;
use crate::shared::Outcome;
use crate::solve::internal;
use crate::store::Snapshot;

/// What the engine attests by itself.
#[derive(Clone)]
pub struct Predicate {
    /// JSON.
    pub json: Vec<u8>,
    /// Told in it once they are made.
    pub layers: Option<StepLayers>,
}

/// Whose layers are told, and where.
#[derive(Clone)]
pub struct StepLayers {
    pub result: ResultRef,
    /// The numbers of the steps, by the digests of the result's definition.
    pub numbers: Arc<BTreeMap<String, usize>>,
    /// JSON pointer to the object in the predicate that gets them, as `layers`.
    pub place: &'static str,
}

impl Predicate {
    /// With the layers that exist now in the form that `options` give them.
    pub(crate) async fn told(
        &self,
        job: &Arc<JobInner>,
        options: &ImageOptions,
    ) -> Outcome<Vec<u8>> {
        let Some(wanted) = &self.layers else {
            return Ok(self.json.clone());
        };
        // Layers that are in a registry still are known as well.
        let options = ImageOptions {
            push: true,
            store: false,
            ..options.clone()
        };
        let layers = found(job, wanted, &options).await?;
        if layers.is_empty() {
            return Ok(self.json.clone());
        }
        let mut predicate: Value = serde_json::from_slice(&self.json).map_err(internal)?;
        if let Some(Value::Object(place)) = predicate.pointer_mut(wanted.place) {
            place.insert("layers".to_owned(), layers.into());
        }
        gateway_images::config::to_json(&predicate).map_err(internal)
    }
}

impl Job {
    /// What the engine attests, with the layers that exist now in the form that images have.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn predicate(&self, predicate: &Predicate) -> Result<Vec<u8>, Error> {
        let options = ImageOptions::parse(&BTreeMap::new(), &[], &BTreeMap::new(), true)?;
        predicate.told(self.inner(), &options).await
    }
}

/// By step and output, as `step3:0`: the chains of layers, of which a step has one here.
async fn found(
    job: &Arc<JobInner>,
    wanted: &StepLayers,
    options: &ImageOptions,
) -> Outcome<Map<String, Value>> {
    let graph = Graph::load(wanted.result.definition()).map_err(internal)?;
    let (digest, output) = (&graph.result().digest, graph.result().index);
    // Policies give the vertices of a definition other digests, but no other inputs.
    let mut todo = vec![(digest.clone(), wanted.result.loaded(job)?.0, output)];
    let mut seen = BTreeSet::new();
    let mut by_step = BTreeMap::new();
    while let Some((digest, key, output)) = todo.pop() {
        if !seen.insert((digest.clone(), output)) {
            continue;
        }
        let vertex = job.graph.get(&key)?;
        if let Some(number) = wanted.numbers.get(&digest)
            && let Some(snapshot) = result(job, &vertex, output).await?
            && let Some(ready) = layers::known(job, &snapshot, options)?
            && !ready.is_empty()
        {
            let chain: Vec<Descriptor> = ready.into_iter().map(|layer| layer.descriptor).collect();
            by_step.insert((*number, output), json!([chain]));
        }
        if let Some(known) = graph.get(&digest) {
            let inputs = known.op().inputs.iter().zip(&vertex.inputs);
            todo.extend(
                inputs.map(|(own, (live, output))| (own.digest.clone(), live.clone(), *output)),
            );
        }
    }
    let named = by_step.into_iter();
    Ok(named
        .map(|((number, output), chain)| (format!("step{number}:{output}"), chain))
        .collect())
}

/// What came of a vertex, if it is known.
async fn result(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    output: i64,
) -> Outcome<Option<Snapshot>> {
    if let Some(pb::op::Op::Source(op)) = &vertex.op.op {
        let done = {
            let states = vertex.states();
            let done = states.done.get(&output).and_then(|work| work.peek());
            done.cloned()
        };
        if let Some(Ok(done)) = done {
            return Ok(Some(done.snapshot.clone()));
        }
        // One that only keys were made of: all that needs it was stored.
        return match op.identifier.strip_prefix("docker-image://") {
            Some(reference) => Ok(image::layers_of(job, vertex, op, reference).await.ok()),
            None => Ok(None),
        };
    }
    Ok(state(job, vertex, output).await?.1)
}
