//! How a result comes about: keys first, then content, then work.
//!
//! For an output of a vertex: do its definition keys lead to a stored result? Then nothing below
//! is evaluated. Else: do they together with the content of files that are here already? Else the
//! content of those inputs is made and hashed that may count by content. Only then the op runs, when all inputs are there, and what it made is stored under every key that leads
//! to it. Each of these is one shared work per vertex, on a task of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::try_join_all;
use gateway_api::{Code, Error};
use gateway_images::fail_point::fail_point;
use gateway_llb::pb;

mod outputs;

use crate::content::{self, Place};
use crate::job::JobInner;
use crate::key::{Dep, digest_of, root_key};
use crate::live::{Done, Known, LiveVertex, VertexKey};
use crate::ops;
use crate::shared::{Outcome, SharedWork, shared, spawn_shared};
use crate::store::{Candidate, Layer, Snapshot, new_id};

/// Keys of things that no other build has: never looked up, never stored.
pub(crate) fn is_private(key: &str) -> bool {
    key.starts_with("random:")
}

/// What may be done to find a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// Hash what is here: local files and results of earlier builds.
    Look,
    /// Also run steps whose output counts by content.
    Run,
}

fn public(keys: &[String], selector: Option<&String>) -> Vec<Candidate> {
    keys.iter()
        .filter(|key| !is_private(key))
        .map(|key| Candidate {
            key: key.clone(),
            selector: selector.cloned().unwrap_or_default(),
        })
        .collect()
}

impl JobInner {
    fn input(&self, vertex: &LiveVertex, index: usize) -> Outcome<(Arc<LiveVertex>, i64)> {
        let (key, output) = vertex.inputs.get(index).ok_or_else(|| {
            Error::new(
                Code::Internal,
                format!("{} has no input {index}", vertex.name),
            )
        })?;
        Ok((self.graph.get(key)?, *output))
    }

    pub(crate) fn vertex_key(
        self: &Arc<Self>,
        vertex: &Arc<LiveVertex>,
    ) -> SharedWork<Arc<VertexKey>> {
        let failed = |owner: &LiveVertex, error: Error| {
            owner.blame(error.context("failed to load cache key"))
        };
        let mut states = vertex.states();
        if let Some(work) = &states.key {
            return work.clone();
        }
        let work = match &vertex.op.op {
            Some(pb::op::Op::Source(_)) => {
                let (job, owner) = (self.clone(), vertex.clone());
                spawn_shared(async move {
                    let key = job.until_cancelled(ops::source_key(&job, &owner)).await;
                    key.map(Arc::new).map_err(|error| failed(&owner, error))
                })
            }
            // Nothing is waited for, and most vertices are such: no task for each of them.
            _ => {
                drop(states);
                let key = ops::op_key(self, vertex);
                let key = key.map(Arc::new).map_err(|error| failed(vertex, error));
                states = vertex.states();
                shared(key)
            }
        };
        states.key.get_or_insert(work).clone()
    }

    /// What is known of an output before any work.
    pub(crate) fn known(
        self: &Arc<Self>,
        vertex: &Arc<LiveVertex>,
        output: i64,
    ) -> SharedWork<Arc<Known>> {
        let mut states = vertex.states();
        if let Some(work) = states.known.get(&output) {
            return work.clone();
        }
        let (job, owner) = (self.clone(), vertex.clone());
        let work = spawn_shared(async move { job.find_known(&owner, output).await.map(Arc::new) });
        states.known.insert(output, work.clone());
        work
    }

    async fn find_known(self: &Arc<Self>, vertex: &Arc<LiveVertex>, output: i64) -> Outcome<Known> {
        let key = match &*self.vertex_key(vertex).await? {
            VertexKey::Source(digests) => {
                return Ok(Known {
                    keys: digests.iter().map(|d| root_key(d, output)).collect(),
                    hit: None,
                });
            }
            VertexKey::Op(key) => key.clone(),
        };
        if vertex.metadata.ignore_cache {
            return Ok(Known {
                keys: Vec::new(),
                hit: None,
            });
        }
        if key.deps.is_empty() {
            let root = root_key(&key.digest, output);
            let hit = self.stored(std::slice::from_ref(&root))?;
            return Ok(Known {
                keys: vec![root],
                hit,
            });
        }
        let inputs = self.known_inputs(vertex).await?;
        let candidates: Vec<Vec<Candidate>> = inputs
            .iter()
            .zip(&key.deps)
            .map(|(known, dep)| public(&known.keys, dep.selector.as_ref()))
            .collect();
        let keys = self.targets(&key.digest, output, &candidates)?;
        let hit = self.stored(&keys)?;
        Ok(Known { keys, hit })
    }

    async fn known_inputs(self: &Arc<Self>, vertex: &Arc<LiveVertex>) -> Outcome<Vec<Arc<Known>>> {
        let mut works = Vec::with_capacity(vertex.inputs.len());
        for index in 0..vertex.inputs.len() {
            let (input, output) = self.input(vertex, index)?;
            works.push(self.known(&input, output));
        }
        try_join_all(works).await
    }

    fn targets(
        &self,
        digest: &str,
        output: i64,
        candidates: &[Vec<Candidate>],
    ) -> Outcome<Vec<String>> {
        let op = root_key(digest, output);
        self.store().db().targets(&op, candidates).map_err(internal)
    }

    /// The newest stored result whose layers are all here.
    fn stored(&self, keys: &[String]) -> Outcome<Option<Snapshot>> {
        if keys.is_empty() {
            return Ok(None);
        }
        for result in self.store().db().results(keys).map_err(internal)? {
            let layers = result.layers;
            let mut found = Vec::with_capacity(layers.len());
            for id in &layers {
                match self.find_layer(id) {
                    Some(layer) => found.push(layer),
                    None => break,
                }
            }
            if found.len() == layers.len() {
                return Ok(Some(Snapshot::new(found)));
            }
            self.store().db().drop_result(&layers).map_err(internal)?;
        }
        Ok(None)
    }

    /// A layer by its id: on disk, or of an image that this build resolved.
    fn find_layer(&self, id: &str) -> Option<Layer> {
        if self.store().has_layer(id) {
            return Some(Layer::stored(id));
        }
        self.lazy_layer(id)
    }

    /// An output with all of its work done.
    pub(crate) fn done(
        self: &Arc<Self>,
        vertex: &Arc<LiveVertex>,
        output: i64,
    ) -> SharedWork<Arc<Done>> {
        let mut states = vertex.states();
        if let Some(work) = states.done.get(&output) {
            return work.clone();
        }
        let (job, owner) = (self.clone(), vertex.clone());
        let work = spawn_shared(async move {
            let done = job.until_cancelled(job.find_done(&owner, output)).await;
            done.map(Arc::new)
        });
        states.done.insert(output, work.clone());
        work
    }

    async fn find_done(self: &Arc<Self>, vertex: &Arc<LiveVertex>, output: i64) -> Outcome<Done> {
        let known = self.known(vertex, output).await?;
        if let Some(snapshot) = &known.hit {
            self.reports.cached(&vertex.digest);
            return Ok(Done {
                keys: known.keys.clone(),
                snapshot: snapshot.clone(),
            });
        }
        match &*self.vertex_key(vertex).await? {
            VertexKey::Source(_) => {
                let snapshot = self.output(vertex, output).await?;
                Ok(Done {
                    keys: known.keys.clone(),
                    snapshot,
                })
            }
            VertexKey::Op(key) => {
                let mut found = self.found(vertex, output).await?;
                let by_content = key.deps.iter().any(|dep| dep.content.is_some());
                if found.hit.is_none() && by_content && !vertex.metadata.ignore_cache {
                    let effort = Effort::Run;
                    let all = self.find_by_content(vertex, output, &known, key, effort);
                    found = Arc::new(all.await?);
                }
                if let Some(snapshot) = found.hit.clone() {
                    self.reports.cached(&vertex.digest);
                    return Ok(Done {
                        keys: found.keys.clone(),
                        snapshot,
                    });
                }
                self.run(vertex, output, &known, key).await
            }
        }
    }

    /// What can be found of an output without running anything.
    fn found(self: &Arc<Self>, vertex: &Arc<LiveVertex>, output: i64) -> SharedWork<Arc<Known>> {
        let mut states = vertex.states();
        if let Some(work) = states.found.get(&output) {
            return work.clone();
        }
        let (job, owner) = (self.clone(), vertex.clone());
        let work = spawn_shared(async move {
            let found = job.find_without_running(&owner, output);
            job.until_cancelled(found).await
        });
        states.found.insert(output, work.clone());
        work
    }

    async fn find_without_running(
        self: &Arc<Self>,
        vertex: &Arc<LiveVertex>,
        output: i64,
    ) -> Outcome<Arc<Known>> {
        let known = self.known(vertex, output).await?;
        match &*self.vertex_key(vertex).await? {
            VertexKey::Op(key)
                if known.hit.is_none()
                    && !vertex.inputs.is_empty()
                    && !vertex.metadata.ignore_cache =>
            {
                self.find_by_content(vertex, output, &known, key, Effort::Look)
                    .await
                    .map(Arc::new)
            }
            _ => Ok(known),
        }
    }

    /// Whether hashing the content of an input needs no step to run.
    fn is_here(&self, input: &LiveVertex, found: &Known) -> bool {
        let local = matches!(
            &input.op.op,
            Some(pb::op::Op::Source(source)) if source.identifier.starts_with("local://")
        );
        local || found.hit.is_some()
    }

    /// Looks for a key, and what is stored under it, also by the content of inputs whose own keys
    /// lead nowhere.
    async fn find_by_content(
        self: &Arc<Self>,
        vertex: &Arc<LiveVertex>,
        output: i64,
        known: &Known,
        key: &crate::key::OpKey,
        effort: Effort,
    ) -> Outcome<Known> {
        let inputs = self.found_inputs(vertex).await?;
        let mut candidates = Vec::new();
        let mut wanted = Vec::new();
        // Inputs whose keys lead somewhere, though perhaps not to the same place.
        let mut leading = Vec::new();
        for (index, (input, dep)) in inputs.iter().zip(&key.deps).enumerate() {
            let own = public(&input.keys, dep.selector.as_ref());
            let hashable = dep.content.is_some()
                && (effort == Effort::Run || self.is_here(&self.input(vertex, index)?.0, input));
            if !self.leads(&key.digest, output, index, &own)? {
                if !hashable {
                    // No record can match any more.
                    return Ok(known.clone());
                }
                wanted.push(index);
            } else if hashable {
                leading.push(index);
            }
            candidates.push(own);
        }
        if wanted.is_empty() {
            let keys = self.targets(&key.digest, output, &candidates)?;
            if let Some(snapshot) = self.stored(&keys)? {
                return self.remember(key, output, &candidates, keys, snapshot);
            }
            wanted = leading;
        }
        let digests = try_join_all(
            wanted
                .iter()
                .map(|index| self.content_digest(vertex, *index, key)),
        )
        .await?;
        for (index, digest) in wanted.iter().zip(digests) {
            if let Some(list) = candidates.get_mut(*index) {
                list.push(content_candidate(&digest));
            }
        }
        let keys = self.targets(&key.digest, output, &candidates)?;
        match self.stored(&keys)? {
            Some(snapshot) => self.remember(key, output, &candidates, keys, snapshot),
            None => Ok(Known { keys, hit: None }),
        }
    }

    /// The next build finds a result by its definition.
    fn remember(
        &self,
        key: &crate::key::OpKey,
        output: i64,
        candidates: &[Vec<Candidate>],
        keys: Vec<String>,
        snapshot: Snapshot,
    ) -> Outcome<Known> {
        let op = root_key(&key.digest, output);
        for target in &keys {
            self.store()
                .db()
                .save(&op, candidates, target, None)
                .map_err(internal)?;
        }
        Ok(Known {
            keys,
            hit: Some(snapshot),
        })
    }

    async fn found_inputs(self: &Arc<Self>, vertex: &Arc<LiveVertex>) -> Outcome<Vec<Arc<Known>>> {
        let mut works = Vec::with_capacity(vertex.inputs.len());
        for index in 0..vertex.inputs.len() {
            let (input, output) = self.input(vertex, index)?;
            works.push(self.found(&input, output));
        }
        try_join_all(works).await
    }

    /// Whether any record of the op has this input.
    fn leads(&self, digest: &str, output: i64, index: usize, own: &[Candidate]) -> Outcome<bool> {
        if own.is_empty() {
            return Ok(false);
        }
        let op = root_key(digest, output);
        self.store()
            .db()
            .input_leads(&op, index, own)
            .map_err(internal)
    }

    /// The digest of the part of an input that counts by content.
    fn content_digest(
        self: &Arc<Self>,
        vertex: &Arc<LiveVertex>,
        index: usize,
        key: &crate::key::OpKey,
    ) -> SharedWork<Arc<String>> {
        let mut states = vertex.states();
        if let Some(work) = states.content.get(&index) {
            return work.clone();
        }
        let (job, owner) = (self.clone(), vertex.clone());
        let dep: Dep = key.deps.get(index).cloned().unwrap_or_default();
        let work = spawn_shared(async move {
            let (input, output) = job.input(&owner, index)?;
            let done = job.done(&input, output).await?;
            let selectors = dep.content.unwrap_or_default();
            let digest = content::digest(&job, &done.snapshot, selectors, Place::Source).await;
            if digest.is_err() {
                // Shown where it is looked for, though no work of the vertex began.
                job.reports.start(&owner.digest).finish(&digest);
            }
            digest
                .map(Arc::new)
                .map_err(|error| owner.blame(error.context("failed to compute cache key")))
        });
        states.content.insert(index, work.clone());
        work
    }

    /// Does the work and stores what came of it.
    async fn run(
        self: &Arc<Self>,
        vertex: &Arc<LiveVertex>,
        output: i64,
        known: &Known,
        key: &crate::key::OpKey,
    ) -> Outcome<Done> {
        let mut works = Vec::with_capacity(vertex.inputs.len());
        for index in 0..vertex.inputs.len() {
            let (input, output) = self.input(vertex, index)?;
            works.push(self.done(&input, output));
        }
        let inputs = try_join_all(works).await?;
        let mut candidates = Vec::new();
        let mut read_in_place = Vec::new();
        for (index, (done, dep)) in inputs.iter().zip(&key.deps).enumerate() {
            let mut list = public(&done.keys, dep.selector.as_ref());
            if dep.content.is_some() {
                let local = done.snapshot.only_local();
                let in_place = local.is_some_and(|files| files.copy.get().is_none())
                    && ops::reads_in_place(vertex, index);
                let digest = if done.snapshot.is_local() && !in_place {
                    self.copy_digest(vertex, &done.snapshot, dep).await?
                } else {
                    self.content_digest(vertex, index, key).await?.to_string()
                };
                if in_place {
                    read_in_place.push((index, list.len()));
                }
                list.push(content_candidate(&digest));
            }
            candidates.push(list);
        }
        // One process, and in it one build, does work of this key at a time; the others find it done.
        let lock_name = digest_of(format!("{}{candidates:?}", key.digest).as_bytes());
        let shareable = candidates.iter().all(|list| !list.is_empty());
        let _alone = vertex.at_work.lock().await;
        // For another output: this one was made with it.
        let has_run = vertex.states().outputs.is_some();
        let mut turn = match shareable && !vertex.metadata.ignore_cache && !has_run {
            true => Some(self.turn(vertex, &lock_name).await?),
            false => None,
        };
        let waited = turn.as_mut().and_then(|turn| turn.waited.take());
        let mut keys = known.keys.clone();
        if shareable && !vertex.metadata.ignore_cache {
            keys = match vertex.inputs.is_empty() {
                true => vec![root_key(&key.digest, output)],
                false => self.targets(&key.digest, output, &candidates)?,
            };
            if !has_run && let Some(snapshot) = self.stored(&keys)? {
                match waited {
                    // It was shown at work.
                    Some(running) => running.finish(&Ok(())),
                    None => self.reports.cached(&vertex.digest),
                }
                return Ok(Done { keys, snapshot });
            }
        }
        if let Some(turn) = &turn {
            turn.take_over();
        }
        let outcome = self.output(vertex, output).await;
        if let Some(running) = waited {
            running.finish(&outcome);
        }
        let snapshot = outcome?;
        if vertex.used_copy.load(Ordering::Relaxed) {
            // It was made of other files than those that were hashed.
            for (index, place) in read_in_place {
                let (Some(done), Some(dep)) = (inputs.get(index), key.deps.get(index)) else {
                    continue;
                };
                let digest = self.copy_digest(vertex, &done.snapshot, dep).await?;
                let candidate = content_candidate(&digest);
                if let Some(slot) = candidates.get_mut(index).and_then(|c| c.get_mut(place))
                    && slot.key != candidate.key
                {
                    *slot = candidate;
                    keys.clear();
                }
            }
        }
        if vertex.inputs.is_empty() {
            keys = vec![root_key(&key.digest, output)];
        } else if keys.is_empty() {
            let kind = if shareable { "sha256" } else { "random" };
            keys.push(format!("{kind}:{}{}", new_id(), new_id()));
        }
        if shareable && !snapshot.is_local() {
            let op = root_key(&key.digest, output);
            let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
            let now = i64::try_from(now).unwrap_or(i64::MAX);
            if let Some(target) = keys.first() {
                self.store()
                    .db()
                    .save(&op, &candidates, target, Some((&snapshot.ids(), now)))
                    .map_err(internal)?;
                fail_point("result-saved");
            }
            if !has_run && !vertex.metadata.ignore_cache {
                self.save_others(vertex, output, key, &candidates).await?;
            }
        }
        Ok(Done { keys, snapshot })
    }

    /// The digest of the very bytes that a step gets of a local source: the files may have changed
    /// since they were hashed in place.
    async fn copy_digest(
        self: &Arc<Self>,
        vertex: &LiveVertex,
        snapshot: &Snapshot,
        dep: &Dep,
    ) -> Outcome<String> {
        let selectors = dep.content.clone().unwrap_or_default();
        content::digest(self, snapshot, selectors, Place::Copy)
            .await
            .map_err(|error| vertex.blame(error.context("failed to compute cache key")))
    }
}

fn content_candidate(digest: &str) -> Candidate {
    Candidate {
        key: crate::key::content_key(digest),
        selector: String::new(),
    }
}

pub(crate) fn internal(error: impl std::fmt::Display) -> Error {
    Error::new(Code::Internal, error.to_string())
}
