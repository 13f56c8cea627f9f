//! Asks for every name in a result, and does none of its work: for lock files.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::try_join_all;
use gateway_api::{Detail, Error};
use gateway_llb::pb;

use crate::job::Job;
use crate::live::LiveVertex;
use crate::ops;
use crate::result::ResultRef;

impl Job {
    /// Resolves all sources of these results, and of all that was solved on the way: the build's pins know them then.
    ///
    /// # Errors
    /// A definition cannot be read, or a source not be resolved; with its place in the build file.
    pub async fn resolve_sources(&self, results: &[ResultRef]) -> Result<(), Error> {
        self.resolved_sources(results).await.map(drop)
    }

    /// The same; gives them.
    pub(super) async fn resolved_sources(
        &self,
        results: &[ResultRef],
    ) -> Result<Vec<Arc<LiveVertex>>, Error> {
        let job = self.inner();
        for result in results {
            result.loaded(job)?;
        }
        let mut seen: BTreeSet<String> = job.roots().clone();
        let mut todo: Vec<String> = seen.iter().cloned().collect();
        let mut sources = Vec::new();
        while let Some(key) = todo.pop() {
            let vertex = job.graph.get(&key)?;
            for (input, _) in &vertex.inputs {
                if seen.insert(input.clone()) {
                    todo.push(input.clone());
                }
            }
            if matches!(&vertex.op.op, Some(pb::op::Op::Source(op)) if !op.identifier.starts_with("local://"))
            {
                sources.push(vertex);
            }
        }
        let asked = sources.iter().map(|vertex| async move {
            ops::source_key(job, vertex).await.map_err(|error| {
                let digest = vertex.digest.clone();
                let error = error.with(Detail::Vertex { digest });
                let asking = results.iter().find(|result| {
                    let source = result.definition().source.as_ref();
                    source.is_some_and(|source| source.locations.contains_key(&vertex.digest))
                });
                match asking {
                    Some(result) => result.locate(error),
                    None => error,
                }
            })
        });
        try_join_all(asked).await?;
        Ok(sources)
    }
}
