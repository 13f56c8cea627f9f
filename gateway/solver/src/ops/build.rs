//! Build ops: a definition that lies in a file of an input is solved in their place.
//!
//! What is solved is known only when the input is made, so such ops may wait for one another in a
//! circle, or make new ones for ever. Both are found here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use gateway_api::{Code, Error};
use gateway_llb::pb;
use prost::Message as _;

use super::image;
use crate::job::JobInner;
use crate::live::LiveVertex;
use crate::read::{self, Place};
use crate::result::{RefInner, ResultRef};
use crate::shared::Outcome;
use crate::store::Snapshot;

/// The builder that takes LLB, the only one that there is.
const LLB_BUILDER: i64 = -1;
/// The input with the definition, and the file in it.
const DEFINITION: &str = "buildkit.llb.definition";
/// Names another file.
const FILENAME: &str = "llbbuild.filename";

/// Largest definition in a file, in bytes: four times what fits in a message.
const MAX_DEFINITION: i64 = 64 << 20;

/// Definitions that bring definitions, at most. Nobody has been seen to need a second level.
const MAX_DEPTH: usize = 16;

/// Which build ops wait for which others.
#[derive(Default)]
pub struct Nesting {
    /// By vertex: those that its definition has.
    waits: BTreeMap<String, BTreeSet<String>>,
    depths: BTreeMap<String, usize>,
}

impl Nesting {
    /// Notes that `outer` waits for `inner`.
    fn add(&mut self, outer: &str, inner: &BTreeSet<String>) -> Result<(), String> {
        let depth = self.depths.get(outer).copied().unwrap_or(0) + 1;
        if depth > MAX_DEPTH && !inner.is_empty() {
            return Err(format!(
                "definitions of build ops are nested more than {MAX_DEPTH} levels deep"
            ));
        }
        let mut reached = BTreeSet::new();
        let mut todo: Vec<&str> = inner.iter().map(String::as_str).collect();
        while let Some(vertex) = todo.pop() {
            if vertex == outer {
                return Err("a build op's definition has the build op itself".to_owned());
            }
            if reached.insert(vertex) {
                let next = self.waits.get(vertex).into_iter().flatten();
                todo.extend(next.map(String::as_str));
            }
        }
        for vertex in inner {
            let known = self.depths.entry(vertex.clone()).or_default();
            *known = depth.max(*known);
        }
        self.waits
            .entry(outer.to_owned())
            .or_default()
            .extend(inner.iter().cloned());
        Ok(())
    }
}

pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::BuildOp,
    inputs: &[Snapshot],
) -> Outcome<Vec<Snapshot>> {
    let running = job.reports.start(&vertex.digest);
    let outcome = solve(job, vertex, op, inputs).await;
    running.finish(&outcome);
    outcome.map(|snapshot| vec![snapshot])
}

async fn solve(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::BuildOp,
    inputs: &[Snapshot],
) -> Outcome<Snapshot> {
    if op.builder != LLB_BUILDER {
        return Err(Error::unknown("only LLB builder is currently allowed"));
    }
    let input = op
        .inputs
        .get(DEFINITION)
        .ok_or_else(|| Error::unknown(format!("no llb definition input {DEFINITION} found")))?;
    let snapshot = usize::try_from(input.input)
        .ok()
        .and_then(|index| inputs.get(index))
        .ok_or_else(|| Error::unknown(format!("invalid index {}", input.input)))?;
    let file = op.attrs.get(FILENAME).map_or(DEFINITION, String::as_str);
    image::ensure(job, snapshot).await?;
    let definition = definition(job, snapshot, file).await?;
    let result = ResultRef::new(RefInner {
        definition,
        policies: job.options.policies.clone(),
        loaded: OnceLock::new(),
    });
    let (key, output) = result.loaded(job)?;
    let inner = job.graph.builds_below(&key)?;
    job.nesting()
        .add(&vertex.digest, &inner)
        .map_err(Error::unknown)?;
    let inner = job.graph.get(&key)?;
    match job.done(&inner, output).await {
        Ok(done) => Ok(done.snapshot.clone()),
        Err(error) => Err(result.locate(error)),
    }
}

async fn definition(job: &JobInner, snapshot: &Snapshot, file: &str) -> Outcome<pb::Definition> {
    let cannot = |error: Error| error.context(format!("failed to open {file}"));
    let place = || Place::of(job, snapshot.clone());
    let stat = read::stat(place(), file).await.map_err(cannot)?;
    if stat.mode & gateway_api::Stat::MODE_TYPE != 0 {
        return Err(Error::unknown(format!("{file} is not a regular file")));
    }
    if stat.size > MAX_DEFINITION {
        return Err(Error::new(
            Code::ResourceExhausted,
            format!("{file} has more than {MAX_DEFINITION} bytes, too many for a definition"),
        ));
    }
    let bytes = read::file(place(), file, None).await.map_err(cannot)?;
    pb::Definition::decode(bytes.as_slice())
        .map_err(|error| Error::unknown(format!("{file} is no LLB definition: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_circle_is_found_by_whoever_closes_it() {
        let mut nesting = Nesting::default();
        assert!(nesting.add("a", &set(&["a"])).is_err());
        nesting.add("a", &set(&["b", "x"])).unwrap();
        nesting.add("b", &set(&["c", "x"])).unwrap();
        nesting.add("x", &set(&[])).unwrap();
        assert!(nesting.add("c", &set(&["a"])).is_err());
        nesting.add("c", &set(&["x"])).unwrap();
    }

    #[test]
    fn definitions_that_go_on_for_ever_end() {
        let mut nesting = Nesting::default();
        let deepest = (0..100).find(|level| {
            let (outer, inner) = (format!("v{level}"), format!("v{}", level + 1));
            nesting.add(&outer, &set(&[&inner])).is_err()
        });
        assert_eq!(deepest, Some(MAX_DEPTH));
        assert!(nesting.add("v16", &set(&[])).is_ok());
    }
}
