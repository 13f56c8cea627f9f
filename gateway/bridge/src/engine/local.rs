//! The `Gateway` of one frontend call over one job: what a built-in frontend calls directly and
//! what the bridge serves to one in a container.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use async_trait::async_trait;
use gateway_api::{
    Attestation, BuildResult, Container, ContainerRequest, Detail, Error, FileRange, Gateway,
    ImageConfig, Invocation, Ref, Refs, ResolveImageConfigRequest, ResolveSourceMetaRequest,
    SolveRequest, SourceMeta, Stat, Warning,
};
use gateway_llb::pb;
use gateway_solver::policy::SourcePolicies;
use gateway_solver::{Job, MountSource, ResultRef, SolvedRefs};
use tokio_util::sync::CancellationToken;

use super::cache::Caches;
use super::image::image_source;
use super::judge::Judge;
use super::provenance::Origin;
use super::solved::Solved;
use super::waiting::{Call, Waiting};
use super::{Engine, FrontendCall, source_policy};
use crate::container::LocalContainer;

/// One frontend call's gateway.
pub(crate) struct LocalGateway {
    engine: Engine,
    job: Job,
    invocation: Invocation,
    inputs: BTreeMap<String, pb::Definition>,
    /// Of this frontend call.
    depth: usize,
    /// What its caller set beside the build's own.
    policies: SourcePolicies,
    judge: Option<Arc<Judge>>,
    caches: Arc<Caches>,
    /// This call, as provenance tells of it.
    origin: Arc<Origin>,
    verify_replay: bool,
    refs: RefTable,
    /// Cancelled when the call ends, and with it what it left running.
    containers: CancellationToken,
    waiting: Waiting,
}

impl Drop for LocalGateway {
    fn drop(&mut self) {
        self.containers.cancel();
    }
}

/// For names in messages: one counter for all calls of the process.
static NEXT_CONTAINER: AtomicU64 = AtomicU64::new(1);

/// Results by the ids that this call gave out.
#[derive(Default)]
struct RefTable {
    refs: Mutex<BTreeMap<String, Known>>,
}

/// A result, and the frontend call that it comes from.
#[derive(Clone)]
struct Known {
    result: ResultRef,
    origin: Option<Arc<Origin>>,
}

impl RefTable {
    /// A fresh id, even for a result that has one already.
    fn add(&self, result: ResultRef, origin: &Option<Arc<Origin>>) -> Ref {
        // One counter for all calls of the process: an id of one call means nothing in another.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = format!("ref-{:08x}", NEXT.fetch_add(1, Ordering::Relaxed));
        let definition = result.definition().clone();
        self.refs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(
                id.clone(),
                Known {
                    result,
                    origin: origin.clone(),
                },
            );
        Ref::new(id, Some(definition))
    }

    fn add_optional(&self, result: Option<ResultRef>, origin: &Option<Arc<Origin>>) -> Ref {
        result.map_or_else(Ref::scratch, |result| self.add(result, origin))
    }

    fn get(&self, id: &str) -> Option<ResultRef> {
        self.known(id).map(|known| known.result)
    }

    fn known(&self, id: &str) -> Option<Known> {
        self.refs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }
}

impl LocalGateway {
    pub fn new(engine: Engine, job: Job, call: FrontendCall, invocation: Invocation) -> Self {
        LocalGateway {
            engine,
            containers: job.cancelled().child_token(),
            job,
            invocation,
            inputs: call.inputs,
            depth: call.depth,
            policies: call.policies,
            judge: call.judge,
            caches: call.caches,
            origin: Arc::new(Origin {
                frontend: call.name,
                opts: call.opts,
                root: call.root,
            }),
            verify_replay: call.verify_replay,
            refs: RefTable::default(),
            waiting: Waiting::default(),
        }
    }

    fn begun(&self) -> Call<'_> {
        self.waiting.begun()
    }

    /// What the frontend makes of its calls, unless the build is cancelled while it waits for none: what it works at
    /// then is its own, and nothing has to be cleaned up. A call notices a cancellation by itself.
    pub async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let token = self.job.cancelled();
        let mut cancelled = std::pin::pin!(token.cancelled());
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            let is_idle = self.waiting.is_none();
            match is_idle && cancelled.as_mut().poll(context).is_ready() {
                true => Poll::Ready(Err(Error::canceled())),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Ends when the build is cancelled and no call is under way: for frontends that are elsewhere, of which nobody
    /// knows whether they still are there.
    pub async fn left_alone(&self) {
        self.job.cancelled().cancelled().await;
        self.waiting.none().await;
    }

    /// The result behind a ref; `None` for scratch.
    fn find(&self, reference: &Ref) -> Result<Option<ResultRef>, Error> {
        match reference.is_scratch() {
            true => Ok(None),
            false => self.refs.get(&reference.id).map(Some).ok_or_else(|| {
                Error::unknown(format!("return reference {} not found", reference.id))
            }),
        }
    }

    /// An attestation, with the result behind its ref beside it.
    pub fn attested(
        &self,
        mut attestation: Attestation,
    ) -> Result<(Attestation, Option<ResultRef>), Error> {
        let result = match attestation.reference.take() {
            Some(reference) => self.find(&reference)?,
            None => None,
        };
        Ok((attestation, result))
    }

    /// What the frontend returned, with the results behind its refs.
    pub fn resolve(&self, returned: BuildResult) -> Result<Solved, Error> {
        let find = |reference: Ref| self.find(&reference);
        let origin = {
            let mut ids = returned.refs.iter().map(|(_, reference)| &reference.id);
            ids.find_map(|id| self.refs.known(id)?.origin)
        };
        let refs = match returned.refs {
            Refs::None => SolvedRefs::None,
            Refs::Single(reference) => SolvedRefs::Single(find(reference)?),
            Refs::Map(map) => SolvedRefs::Map(
                map.into_iter()
                    .map(|(key, reference)| Ok((key, find(reference)?)))
                    .collect::<Result<_, Error>>()?,
            ),
        };
        let mut attestations = BTreeMap::new();
        for (key, list) in returned.attestations {
            let list = list
                .into_iter()
                .map(|attestation| self.attested(attestation));
            attestations.insert(key, list.collect::<Result<_, Error>>()?);
        }
        Ok(Solved {
            refs,
            origin,
            metadata: returned.metadata,
            attestations,
        })
    }

    /// A nested frontend's result, under ids of this call.
    fn adopt(&self, solved: Solved) -> BuildResult {
        let origin = &solved.origin;
        BuildResult {
            refs: match solved.refs {
                SolvedRefs::None => Refs::None,
                SolvedRefs::Single(result) => Refs::Single(self.refs.add_optional(result, origin)),
                SolvedRefs::Map(map) => Refs::Map(
                    map.into_iter()
                        .map(|(key, result)| (key, self.refs.add_optional(result, origin)))
                        .collect(),
                ),
            },
            metadata: solved.metadata,
            attestations: solved
                .attestations
                .into_iter()
                .map(|(key, list)| {
                    let list = list.into_iter().map(|(mut attestation, result)| {
                        attestation.reference = result.map(|result| self.refs.add(result, origin));
                        attestation
                    });
                    (key, list.collect())
                })
                .collect(),
        }
    }

    /// What a request brings along, beside what holds for the whole call.
    fn policies(&self, messages: &[Vec<u8>]) -> Result<SourcePolicies, Error> {
        Ok(self.policies.and(&source_policy::read(messages)?))
    }

    fn result(&self, reference: &Ref) -> Result<ResultRef, Error> {
        self.refs
            .get(&reference.id)
            .ok_or_else(|| Error::unknown(format!("no such ref: {}", reference.id)))
    }

    /// A mount shows a result of this call, or what a failed step left.
    fn mount_source(&self, mount: &pb::Mount) -> Result<MountSource, Error> {
        let id = &mount.result_id;
        if id.is_empty() {
            return Ok(MountSource::Nothing);
        }
        if self.job.has_kept(id) {
            return Ok(MountSource::Kept(id.clone()));
        }
        let result = self.refs.get(id).ok_or_else(|| {
            let dest = &mount.dest;
            Error::unknown(format!(
                "failed to find ref {id} for {dest:?} mount: return reference {id} not found"
            ))
        })?;
        Ok(MountSource::Result(result))
    }

    async fn nested(
        &self,
        request: SolveRequest,
        policies: SourcePolicies,
    ) -> Result<Solved, Error> {
        let detail = Detail::Frontend {
            name: request.frontend.clone(),
            source: request
                .frontend_opts
                .get("source")
                .cloned()
                .unwrap_or_default(),
        };
        let call = FrontendCall {
            name: request.frontend,
            opts: request.frontend_opts,
            inputs: request.frontend_inputs,
            depth: self.depth + 1,
            policies,
            judge: self.judge.clone(),
            caches: self.caches.clone(),
            root: self.origin.root.clone().or_else(|| {
                // A client that drives its build itself is no frontend, but has said what it wants.
                let told = !self.origin.frontend.is_empty() || !self.origin.opts.is_empty();
                told.then(|| self.origin.clone())
            }),
            verify_replay: self.verify_replay,
        };
        self.engine
            .call(&self.job, call)
            .await
            .map_err(|mut error| {
                // An error of what that frontend returned names it already.
                if error.details.first() != Some(&detail) {
                    error.details.insert(0, detail);
                }
                error
            })
    }
}

#[async_trait]
impl Gateway for LocalGateway {
    fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, Error> {
        Ok(self.inputs.clone())
    }

    async fn solve(&self, request: SolveRequest) -> Result<BuildResult, Error> {
        let _call = self.begun();
        let policies = self.policies(&request.source_policies)?;
        let definition = request
            .definition
            .clone()
            .filter(|definition| !definition.def.is_empty());
        let evaluate = request.evaluate;
        let solved = match (definition, request.frontend.is_empty()) {
            (Some(_), false) => {
                return Err(Error::unknown(
                    "cannot solve with both Definition and Frontend specified",
                ));
            }
            (Some(definition), true) => {
                // Before anything of it is solved: a step that began does not look again.
                self.caches.import(&self.job, &request.cache_imports).await;
                let policies = match &self.judge {
                    Some(judge) => {
                        let judged = judge.of_definition(&self.job, &definition, policies);
                        Box::pin(judged).await?
                    }
                    None => policies,
                };
                Solved {
                    refs: SolvedRefs::Single(Some(self.job.load(definition, &policies))),
                    origin: Some(self.origin.clone()),
                    ..Solved::default()
                }
            }
            (None, false) => self.nested(request, policies).await?,
            (None, true) => Solved {
                refs: SolvedRefs::Single(None),
                ..Solved::default()
            },
        };
        if evaluate {
            let results = solved.results().into_iter();
            let work = results.map(|result| self.job.evaluate(result));
            futures_util::future::try_join_all(work).await?;
        }
        Ok(self.adopt(solved))
    }

    async fn resolve_image_config(
        &self,
        request: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        let _call = self.begun();
        let mut policies = self.policies(&request.source_policies)?;
        // Layouts are the client's own.
        if let Some(judge) = self.judge.as_ref().filter(|_| request.resolver_type != 1) {
            let source = image_source(request.reference.clone());
            let platform = request.platform.clone();
            let judged = judge.of_source(&self.job, source, platform, policies);
            policies = Box::pin(judged).await?;
        }
        self.job.resolve_image_config(request, &policies).await
    }

    async fn resolve_source_meta(
        &self,
        request: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        let _call = self.begun();
        let mut policies = self.policies(&request.source_policies)?;
        if let Some(judge) = &self.judge {
            let (source, platform) = (request.source.clone(), request.platform.clone());
            let judged = judge.of_source(&self.job, source, platform, policies);
            policies = Box::pin(judged).await?;
        }
        self.job.resolve_source_meta(request, &policies).await
    }

    async fn read_file(
        &self,
        reference: &Ref,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        let _call = self.begun();
        let result = self.result(reference)?;
        self.job.read_file(&result, path, range).await
    }

    async fn read_dir(
        &self,
        reference: &Ref,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        let _call = self.begun();
        let result = self.result(reference)?;
        self.job.read_dir(&result, path, include).await
    }

    async fn stat_file(&self, reference: &Ref, path: &str) -> Result<Stat, Error> {
        let _call = self.begun();
        let result = self.result(reference)?;
        self.job.stat_file(&result, path).await
    }

    async fn evaluate(&self, reference: &Ref) -> Result<(), Error> {
        let _call = self.begun();
        let result = self.result(reference)?;
        self.job.evaluate(&result).await
    }

    async fn warn(&self, mut warning: Warning) -> Result<(), Error> {
        warning.level = warning.level.max(1);
        self.job.warn(warning);
        Ok(())
    }

    async fn new_container(&self, request: ContainerRequest) -> Result<Box<dyn Container>, Error> {
        let _call = self.begun();
        let sources = request
            .mounts
            .iter()
            .map(|mount| self.mount_source(mount))
            .collect::<Result<_, Error>>()?;
        let name = format!(
            "container-{}",
            NEXT_CONTAINER.fetch_add(1, Ordering::Relaxed)
        );
        let cancel = self.containers.child_token();
        let container = LocalContainer::new(&self.job, name, request, sources, cancel).await?;
        Ok(Box::new(container))
    }
}
