//! Ops that combine results without running anything: merge, diff, passthrough.

use std::sync::Arc;

use gateway_api::{Code, Error};
use gateway_llb::pb;

use crate::job::JobInner;
use crate::live::LiveVertex;
use crate::shared::Outcome;
use crate::store::{Layer, Snapshot};

fn at(inputs: &[Snapshot], index: i64) -> Outcome<Snapshot> {
    if index == -1 {
        return Ok(Snapshot::scratch());
    }
    usize::try_from(index)
        .ok()
        .and_then(|at| inputs.get(at).cloned())
        .ok_or_else(|| Error::unknown(format!("invalid input index {index}")))
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

/// What was added on top of the lower side.
pub async fn diff(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::DiffOp,
    inputs: Vec<Snapshot>,
) -> Outcome<Vec<Snapshot>> {
    let running = job.reports.start(&vertex.digest);
    let lower = at(&inputs, op.lower.as_ref().map_or(-1, |side| side.input));
    let upper = at(&inputs, op.upper.as_ref().map_or(-1, |side| side.input));
    let outcome = lower.and_then(|lower| {
        let upper = upper?;
        let is_ancestor = lower.layers.len() <= upper.layers.len()
            && lower
                .layers
                .iter()
                .zip(upper.layers.iter())
                .all(|(a, b)| a.id == b.id);
        if !is_ancestor {
            return Err(Error::new(
                Code::Unimplemented,
                "a diff of results that are not built on one another is not supported yet",
            ));
        }
        let added: Vec<Layer> = upper
            .layers
            .iter()
            .skip(lower.layers.len())
            .cloned()
            .collect();
        Ok(vec![Snapshot::new(added)])
    });
    running.finish(&outcome);
    outcome
}

/// The inputs under other numbers.
pub fn passthrough(op: &pb::PassthroughOp, inputs: &[Snapshot]) -> Outcome<Vec<Snapshot>> {
    op.outputs.iter().map(|index| at(inputs, *index)).collect()
}
