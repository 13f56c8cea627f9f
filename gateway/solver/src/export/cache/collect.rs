//! From the live graph and the store's keys to the records of a cache.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::chains::{Chains, Found, Link};
use crate::job::JobInner;
use crate::key::root_key;
use crate::live::{LiveVertex, VertexKey};
use crate::shared::Outcome;
use crate::solve::{internal, is_private};
use crate::store::Snapshot;

/// A vertex of the live graph and which output of it.
pub type Node = (String, i64);

/// What is known of some results' vertices and all below them.
#[derive(Default)]
pub struct Collected {
    pub chains: Chains,
    /// By result, its records.
    pub tops: Vec<Vec<usize>>,
}

/// Nothing is evaluated: what the build did not need counts with what the store has of it.
pub async fn collect(job: &Arc<JobInner>, tops: &[Node]) -> Outcome<Collected> {
    let mut collected = Collected::default();
    let mut known: HashMap<Node, Vec<usize>> = HashMap::new();
    for node in inputs_first(job, tops)? {
        let records = record(job, &mut collected.chains, &known, &node).await?;
        known.insert(node, records);
    }
    collected.tops = tops
        .iter()
        .map(|top| known.get(top).cloned().unwrap_or_default())
        .collect();
    Ok(collected)
}

/// All nodes below, each once. No recursion: graphs are deep.
fn inputs_first(job: &JobInner, tops: &[Node]) -> Outcome<Vec<Node>> {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    let mut stack: Vec<(Node, bool)> = tops.iter().rev().map(|n| (n.clone(), false)).collect();
    while let Some((node, ready)) = stack.pop() {
        if ready {
            order.push(node);
            continue;
        }
        if !seen.insert(node.clone()) {
            continue;
        }
        let vertex = job.graph.get(&node.0)?;
        stack.push((node, true));
        let inputs = vertex.inputs.iter().rev();
        stack.extend(inputs.map(|input| (input.clone(), false)));
    }
    Ok(order)
}

async fn record(
    job: &Arc<JobInner>,
    chains: &mut Chains,
    known: &HashMap<Node, Vec<usize>>,
    node: &Node,
) -> Outcome<Vec<usize>> {
    let (vertex, output) = (job.graph.get(&node.0)?, node.1);
    let key = match &*job.vertex_key(&vertex).await? {
        VertexKey::Source(digests) => {
            let roots = digests.iter().map(|digest| root_key(digest, output));
            let public = roots.filter(|key| !is_private(key));
            return Ok(public.map(|key| chains.root(&key)).collect());
        }
        VertexKey::Op(key) => key.clone(),
    };
    let op = root_key(&key.digest, output);
    if vertex.inputs.is_empty() {
        // As everywhere: what no input leads to has no result in a cache.
        return Ok(vec![chains.root(&op)]);
    }
    let (keys, snapshot) = state(job, &vertex, output).await?;
    let mut inputs: Vec<BTreeSet<Link>> = Vec::with_capacity(vertex.inputs.len());
    for (input, dep) in vertex.inputs.iter().zip(&key.deps) {
        let link = |record: &usize| Link {
            record: *record,
            selector: dep.selector.clone().unwrap_or_default(),
        };
        inputs.push(known.get(input).into_iter().flatten().map(link).collect());
    }
    // Content, and names that images had in other builds.
    for target in &keys {
        for (input, candidate) in job.store().db().root_links(&op, target).map_err(internal)? {
            if is_private(&candidate.key) {
                continue;
            }
            if let Some(links) = inputs.get_mut(input) {
                links.insert(Link {
                    record: chains.root(&candidate.key),
                    selector: candidate.selector,
                });
            }
        }
    }
    let Some(record) = chains.add(&op, inputs) else {
        return Ok(Vec::new());
    };
    let exported = vertex
        .metadata
        .export_cache
        .is_none_or(|export| export.value);
    if let Some(snapshot) = snapshot.filter(|_| exported)
        && let Some(created_at) = created_at(job, &keys, &snapshot)?
    {
        chains.set_result(
            record,
            Found {
                snapshot,
                created_at,
            },
        );
    }
    Ok(vec![record])
}

/// The keys of an output, and its result if there is one.
pub async fn state(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    output: i64,
) -> Outcome<(Vec<String>, Option<Snapshot>)> {
    let (done, found) = {
        let states = vertex.states();
        let done = states.done.get(&output).and_then(|work| work.peek());
        let found = states.found.get(&output).and_then(|work| work.peek());
        (done.cloned(), found.cloned())
    };
    if let Some(Ok(done)) = done {
        return Ok((done.keys.clone(), Some(done.snapshot.clone())));
    }
    if let Some(Ok(found)) = found
        && found.hit.is_some()
    {
        return Ok((found.keys.clone(), found.hit.clone()));
    }
    let known = job.known(vertex, output).await?;
    Ok((known.keys.clone(), known.hit.clone()))
}

/// When a result was stored; `None` for one that never was.
fn created_at(job: &JobInner, keys: &[String], snapshot: &Snapshot) -> Outcome<Option<i64>> {
    let ids = snapshot.ids();
    let results = job.store().db().results(keys).map_err(internal)?;
    let mut results = results.into_iter();
    let own = results.find(|result| result.layers == ids);
    Ok(own.map(|result| result.created_at))
}
