//! Ops that combine results without running anything: merge, diff, passthrough.

use std::collections::HashSet;
use std::sync::Arc;

use gateway_api::{Code, Error};
use gateway_llb::pb;
use gateway_sandbox::overlay::MAX_LAYERS;

use super::file::{CancelOnDrop, commit};
use super::{difference, image};
use crate::fs::Root;
use crate::job::JobInner;
use crate::live::LiveVertex;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Layer, Snapshot};
use crate::view::View;

fn at(inputs: &[Snapshot], index: i64) -> Outcome<Snapshot> {
    if index == -1 {
        return Ok(Snapshot::scratch());
    }
    usize::try_from(index)
        .ok()
        .and_then(|at| inputs.get(at).cloned())
        .ok_or_else(|| Error::unknown(format!("invalid input index {index}")))
}

/// Up to so many, layers stay as their inputs have them, repeated ones too: as BuildKit exports them.
const FEW_LAYERS: usize = 64;

/// Takes out what is there again further up: the lower one shows nothing that the upper one does not. A few merges
/// of merges would else have more layers than memory.
fn keep_last(layers: &mut Vec<Layer>) {
    let mut seen = HashSet::new();
    let mut kept: Vec<Layer> = layers
        .drain(..)
        .rev()
        .filter(|layer| seen.insert(layer.id.clone()))
        .collect();
    kept.reverse();
    *layers = kept;
}

/// The layers of all inputs, one above the other.
pub fn merge(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::MergeOp,
    inputs: &[Snapshot],
) -> Outcome<Vec<Snapshot>> {
    let running = job.reports.start(&vertex.digest);
    let merged = (|| {
        let mut layers: Vec<Layer> = Vec::new();
        for input in &op.inputs {
            let snapshot = at(inputs, input.input)?;
            // A common base is there once; above it layers may repeat, the last one wins.
            let common = layers
                .iter()
                .zip(snapshot.layers.iter())
                .take_while(|(a, b)| a.id == b.id)
                .count();
            layers.extend(snapshot.layers.iter().skip(common).cloned());
            if layers.len() > FEW_LAYERS {
                keep_last(&mut layers);
            }
            if layers.len() > MAX_LAYERS {
                let text = format!(
                    "a merge of {} layers: the kernel puts no more than {MAX_LAYERS} over each other",
                    layers.len()
                );
                return Err(Error::new(Code::Unimplemented, text));
            }
        }
        Ok(layers)
    })();
    running.finish(&merged);
    let layers = merged?;
    match op.inputs.is_empty() {
        true => Ok(Vec::new()),
        false => Ok(vec![Snapshot::new(layers)]),
    }
}

/// What must be added to the lower side to have the upper one: the layers above it, or, where they are not built on
/// one another, a layer of what differs.
pub async fn diff(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::DiffOp,
    inputs: Vec<Snapshot>,
) -> Outcome<Vec<Snapshot>> {
    let running = job.reports.start(&vertex.digest);
    let lower = at(&inputs, op.lower.as_ref().map_or(-1, |side| side.input));
    let upper = at(&inputs, op.upper.as_ref().map_or(-1, |side| side.input));
    let outcome = async {
        let (lower, upper) = (lower?, upper?);
        let is_ancestor = lower.layers.len() <= upper.layers.len()
            && lower
                .layers
                .iter()
                .zip(upper.layers.iter())
                .all(|(a, b)| a.id == b.id);
        if !is_ancestor {
            return Ok(vec![unrelated(job, vertex, lower, upper).await?]);
        }
        let added: Vec<Layer> = upper
            .layers
            .iter()
            .skip(lower.layers.len())
            .cloned()
            .collect();
        Ok(vec![Snapshot::new(added)])
    }
    .await;
    running.finish(&outcome);
    outcome
}

/// A layer of what differs between two file systems.
async fn unrelated(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    lower: Snapshot,
    upper: Snapshot,
) -> Outcome<Snapshot> {
    image::ensure(job, &lower).await?;
    image::ensure(job, &upper).await?;
    let (store, description) = (job.store().clone(), vertex.name.clone());
    let cancel = CancelOnDrop(Arc::default());
    let flag = cancel.0.clone();
    blocking(move || {
        let views = [&lower, &upper].map(|side| View::read_only(&store.lowers(side)));
        let [below, above] = views;
        let (below, above) = (below.map_err(internal)?, above.map_err(internal)?);
        let (below, above) = (
            Root::open(below.path()).map_err(internal)?,
            Root::open(above.path()).map_err(internal)?,
        );
        let work = store.work_dir().map_err(internal)?;
        let out = Root::open(&work.sub("fs").map_err(internal)?).map_err(internal)?;
        difference::write(&below, &above, &out, Some(&flag)).map_err(internal)?;
        let made = commit(&store, &lower, &work, &description)?;
        // Of what it was made on, it is the difference: the lower side's own layers are no part of it.
        let own = made.layers.last().cloned().into_iter().collect();
        Ok(Snapshot::new(own))
    })
    .await
}

/// The inputs under other numbers.
pub fn passthrough(op: &pb::PassthroughOp, inputs: &[Snapshot]) -> Outcome<Vec<Snapshot>> {
    op.outputs.iter().map(|index| at(inputs, *index)).collect()
}
