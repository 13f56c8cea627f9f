//! An op runs once for all of its outputs, and what it made for those that nobody asked for yet is kept too: the
//! next build may ask for another one.

use std::sync::Arc;

use futures_util::future::try_join_all;
use gateway_api::Error;

use super::internal;
use crate::job::JobInner;
use crate::key::{OpKey, root_key};
use crate::live::LiveVertex;
use crate::ops;
use crate::shared::{Outcome, spawn_shared};
use crate::store::{Candidate, Snapshot, new_id};

impl JobInner {
    /// One output of the op, which runs once for all of them.
    pub(super) async fn output(
        self: &Arc<Self>,
        vertex: &Arc<LiveVertex>,
        output: i64,
    ) -> Outcome<Snapshot> {
        let work = {
            let mut states = vertex.states();
            match &states.outputs {
                Some(work) => work.clone(),
                None => {
                    let (job, owner) = (self.clone(), vertex.clone());
                    let work = spawn_shared(async move { job.execute(&owner).await.map(Arc::new) });
                    states.outputs = Some(work.clone());
                    work
                }
            }
        };
        let outputs = work.await?;
        usize::try_from(output)
            .ok()
            .and_then(|index| outputs.get(index).cloned())
            .ok_or_else(|| {
                vertex.blame(Error::unknown(format!(
                    "invalid response from exec need {output} index but {} results received",
                    outputs.len()
                )))
            })
    }

    async fn execute(self: &Arc<Self>, vertex: &Arc<LiveVertex>) -> Outcome<Vec<Snapshot>> {
        let mut works = Vec::with_capacity(vertex.inputs.len());
        for index in 0..vertex.inputs.len() {
            let (input, output) = self.input(vertex, index)?;
            works.push(self.done(&input, output));
        }
        let inputs: Vec<Snapshot> = try_join_all(works)
            .await?
            .iter()
            .map(|done| done.snapshot.clone())
            .collect();
        self.until_cancelled(ops::run(self, vertex, inputs))
            .await
            .map_err(|error| vertex.blame(error))
    }

    /// Stores the outputs of an op that has run for `output`, but that one.
    pub(super) async fn save_others(
        &self,
        vertex: &LiveVertex,
        output: i64,
        key: &OpKey,
        candidates: &[Vec<Candidate>],
    ) -> Outcome<()> {
        let made = vertex.states().outputs.clone();
        let Some(made) = made else { return Ok(()) };
        let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        for (other, snapshot) in (0..).zip(made.await?.iter()) {
            if other == output || snapshot.is_local() {
                continue;
            }
            let targets = self.targets(&key.digest, other, candidates)?;
            if self.stored(&targets)?.is_some() {
                continue;
            }
            let op = root_key(&key.digest, other);
            let target = match targets.into_iter().next() {
                Some(target) => target,
                None if vertex.inputs.is_empty() => op.clone(),
                None => format!("sha256:{}{}", new_id(), new_id()),
            };
            self.store()
                .db()
                .save(&op, candidates, &target, Some((&snapshot.ids(), now)))
                .map_err(internal)?;
        }
        Ok(())
    }
}
