//! One build: its results, its session, its progress.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gateway_api::progress::{Progress, VertexWarning};
use gateway_api::{
    Code, Error, FileRange, ImageConfig, ImageMeta as ApiImageMeta, ResolveImageConfigRequest,
    ResolveSourceMetaRequest, SourceMeta, Stat, Warning,
};
use gateway_llb::{pb, platform};
use gateway_session::Session;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::content::Hasher;
use crate::export::{self, ExportResponse, Exporter, SolvedResult};
use crate::key::digest_of;
use crate::live::LiveGraph;
use crate::ops::image::{self, ImageMeta, ResolveMode};
use crate::read;
use crate::report::{Reports, vertex};
use crate::result::{RefInner, ResultRef, RootFs, ScratchDir};
use crate::shared::{Outcome, SharedWork};
use crate::solve::internal;
use crate::solver::Solver;
use crate::store::{Layer, LazyBlob, Snapshot, Store};

/// What one build brings along.
pub struct JobOptions {
    pub session: Arc<dyn Session>,
    pub progress: Progress,
    /// Of `network.host`, `security.insecure`, `device`.
    pub entitlements: BTreeSet<String>,
    pub cancel: CancellationToken,
}

/// One build. Dropping all clones stops what still runs and releases its results.
#[derive(Clone)]
pub struct Job(Arc<Owner>);

/// Ends the work of a build that nobody holds any more.
struct Owner(Arc<JobInner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.cancel.cancel();
        self.0.store().sync_in_background();
    }
}

type ImageKey = (String, String, ResolveMode);

pub(crate) struct JobInner {
    solver: Solver,
    pub(crate) options: JobOptions,
    cancel: CancellationToken,
    pub(crate) graph: LiveGraph,
    pub(crate) reports: Reports,
    images: Mutex<HashMap<ImageKey, SharedWork<Arc<ImageMeta>>>>,
    lazy: Mutex<HashMap<String, Arc<LazyBlob>>>,
    pulls: Mutex<HashMap<String, SharedWork<()>>>,
    dropped_caches: Mutex<HashSet<String>>,
    hashers: Mutex<HashMap<String, Arc<Hasher>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobInner {
    pub(crate) fn solver(&self) -> &Solver {
        &self.solver
    }

    pub(crate) fn store(&self) -> &Store {
        self.solver.store()
    }

    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    pub(crate) fn images(&self) -> MutexGuard<'_, HashMap<ImageKey, SharedWork<Arc<ImageMeta>>>> {
        locked(&self.images)
    }

    pub(crate) fn pulls(&self) -> MutexGuard<'_, HashMap<String, SharedWork<()>>> {
        locked(&self.pulls)
    }

    pub(crate) fn remember_lazy(&self, layer: &Layer) {
        if let Some(lazy) = &layer.lazy {
            locked(&self.lazy)
                .entry(layer.id.clone())
                .or_insert_with(|| lazy.clone());
        }
    }

    /// A layer of an image that this build resolved, to be fetched when needed.
    pub(crate) fn lazy_layer(&self, id: &str) -> Option<Layer> {
        let lazy = locked(&self.lazy).get(id).cloned()?;
        Some(Layer {
            id: id.to_owned(),
            lazy: Some(lazy),
            local: None,
        })
    }

    /// True the first time in a build: a cache is emptied once, not before every step.
    pub(crate) fn first_drop(&self, cache: &str) -> bool {
        locked(&self.dropped_caches).insert(cache.to_owned())
    }

    /// The open tree of this name; made by `open` the first time.
    pub(crate) fn hasher(
        &self,
        name: &str,
        open: impl FnOnce() -> Outcome<Hasher>,
    ) -> Outcome<Arc<Hasher>> {
        if let Some(hasher) = locked(&self.hashers).get(name) {
            return Ok(hasher.clone());
        }
        // Outside the lock: it reads directories. A second one made meanwhile is as good.
        let hasher = Arc::new(open()?);
        Ok(locked(&self.hashers)
            .entry(name.to_owned())
            .or_insert(hasher)
            .clone())
    }

    pub(crate) fn known_hasher(&self, name: &str) -> Option<Arc<Hasher>> {
        locked(&self.hashers).get(name).cloned()
    }

    /// The platform that an op runs on.
    pub(crate) fn platform(&self, op: &pb::Op) -> pb::Platform {
        let given = op.platform.as_ref().filter(|p| !p.os.is_empty());
        platform::normalize(given.unwrap_or(self.solver.default_platform()))
    }

    /// The right to run one step.
    pub(crate) async fn permit(&self) -> Outcome<OwnedSemaphorePermit> {
        let permits = self.solver.0.permits.clone();
        permits.acquire_owned().await.map_err(internal)
    }

    /// The work, or the error of a cancelled build as soon as it is cancelled.
    pub(crate) async fn until_cancelled<T>(
        &self,
        work: impl Future<Output = Outcome<T>>,
    ) -> Outcome<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Error::canceled()),
            outcome = work => outcome,
        }
    }
}

/// The stream of log lines that are not a step's output.
const STDERR: i64 = 2;

impl Job {
    pub(crate) fn new(solver: Solver, options: JobOptions) -> Self {
        let cancel = options.cancel.child_token();
        let reports = Reports::new(options.progress.clone());
        Job(Arc::new(Owner(Arc::new(JobInner {
            solver,
            options,
            cancel,
            graph: LiveGraph::default(),
            reports,
            images: Mutex::default(),
            lazy: Mutex::default(),
            pulls: Mutex::default(),
            dropped_caches: Mutex::default(),
            hashers: Mutex::default(),
        }))))
    }

    pub(crate) fn inner(&self) -> &Arc<JobInner> {
        &self.0.0
    }

    /// Never fails: a broken definition fails at its first use.
    pub fn load(&self, definition: pb::Definition) -> ResultRef {
        ResultRef(Arc::new(RefInner {
            definition,
            loaded: OnceLock::new(),
        }))
    }

    /// The result, its work done.
    pub(crate) async fn snapshot(&self, result: &ResultRef) -> Outcome<Snapshot> {
        let job = self.inner();
        let loaded = result.0.loaded.get_or_init(|| {
            let loaded = job
                .graph
                .load(&result.0.definition, &job.options.entitlements)?;
            job.reports.announce(loaded.announced);
            Ok(loaded.result)
        });
        let (key, output) = loaded.clone()?;
        let vertex = job.graph.get(&key)?;
        match job.done(&vertex, output).await {
            Ok(done) => Ok(done.snapshot.clone()),
            Err(error) => Err(result.locate(error)),
        }
    }

    /// Does the work of a result.
    ///
    /// # Errors
    /// With the failed vertex, the place in the build file and a process's exit code as details.
    pub async fn evaluate(&self, result: &ResultRef) -> Result<(), Error> {
        self.snapshot(result).await.map(drop)
    }

    /// A regular file's content, or a part of it. Follows symbolic links inside the root.
    pub async fn read_file(
        &self,
        result: &ResultRef,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        let snapshot = self.ready(result).await?;
        read::file(self.inner(), snapshot, path, range).await
    }

    /// One level of a directory, sorted by name.
    pub async fn read_dir(
        &self,
        result: &ResultRef,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        let snapshot = self.ready(result).await?;
        read::dir(self.inner(), snapshot, path, include).await
    }

    pub async fn stat_file(&self, result: &ResultRef, path: &str) -> Result<Stat, Error> {
        let snapshot = self.ready(result).await?;
        read::stat(self.inner(), snapshot, path).await
    }

    async fn ready(&self, result: &ResultRef) -> Outcome<Snapshot> {
        let snapshot = self.snapshot(result).await?;
        image::ensure(self.inner(), &snapshot).await?;
        Ok(snapshot)
    }

    async fn resolve_shown(
        &self,
        reference: &str,
        platform: Option<&pb::Platform>,
        mode: &str,
        log_name: &str,
    ) -> Outcome<Arc<ImageMeta>> {
        let job = self.inner();
        let mode = ResolveMode::parse(mode)?;
        let name = match log_name {
            "" => format!("resolve image config for docker-image://{reference}"),
            name => name.to_owned(),
        };
        let platform = platform::normalize(
            platform
                .filter(|platform| !platform.os.is_empty())
                .unwrap_or(job.solver.default_platform()),
        );
        let digest = digest_of(name.as_bytes());
        job.reports
            .announce(vec![vertex(&digest, &name, Vec::new(), None)]);
        let running = job.reports.start(&digest);
        let resolved = job
            .until_cancelled(image::resolve(job, reference, &platform, mode))
            .await;
        for notice in resolved.iter().flat_map(|meta| &meta.notices) {
            let line = format!("{notice}\n").into_bytes();
            job.reports.log(&digest, STDERR, line);
        }
        running.finish(&resolved);
        resolved.map_err(|error| {
            let shown = image::canonical(reference);
            error.context(format!("failed to resolve source metadata for {shown}"))
        })
    }

    /// The config of an image, under a progress vertex of the request's log name.
    pub async fn resolve_image_config(
        &self,
        request: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        let meta = self
            .resolve_shown(
                &request.reference,
                request.platform.as_ref(),
                &request.resolve_mode,
                &request.log_name,
            )
            .await?;
        Ok(ImageConfig {
            digest: meta.root.to_string(),
            config: meta.config.clone(),
            reference: meta.reference.clone(),
        })
    }

    /// What is known of a source. Today: images; of others only the identifier.
    pub async fn resolve_source_meta(
        &self,
        request: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        let source = request.source.clone();
        let Some((scheme, reference)) = source.identifier.split_once("://") else {
            return Err(Error::unknown(format!(
                "failed to parse {}: invalid",
                source.identifier
            )));
        };
        match scheme {
            "docker-image" => {
                let mode = match request.resolve_mode.as_str() {
                    "" => source
                        .attrs
                        .get("image.resolvemode")
                        .map_or("", String::as_str),
                    mode => mode,
                };
                let meta = self
                    .resolve_shown(
                        reference,
                        request.platform.as_ref(),
                        mode,
                        &request.log_name,
                    )
                    .await?;
                let mut source = source.clone();
                source.identifier = format!("docker-image://{}", meta.reference);
                Ok(SourceMeta {
                    source,
                    image: Some(ApiImageMeta {
                        digest: meta.root.to_string(),
                        config: meta.config.clone(),
                    }),
                    ..SourceMeta::default()
                })
            }
            "local" => Ok(SourceMeta {
                source,
                ..SourceMeta::default()
            }),
            scheme => Err(Error::new(
                Code::Unimplemented,
                format!(
                    "{scheme} sources are not supported yet: {}",
                    source.identifier
                ),
            )),
        }
    }

    /// The root file system of a result, for running a container on it.
    pub async fn rootfs(&self, result: &ResultRef) -> Result<RootFs, Error> {
        let snapshot = self.ready(result).await?;
        Ok(RootFs {
            lowers: self.inner().store().lowers(&snapshot),
            _snapshot: snapshot,
        })
    }

    /// Directories for a throw-away overlay upper.
    pub fn scratch_dir(&self) -> Result<ScratchDir, Error> {
        let dir = self.inner().store().work_dir().map_err(internal)?;
        Ok(ScratchDir {
            upper: dir.sub("fs").map_err(internal)?,
            work: dir.sub("work").map_err(internal)?,
            _dir: dir,
        })
    }

    /// Shows a warning of a frontend.
    pub fn warn(&self, warning: Warning) {
        self.progress().warning(VertexWarning {
            vertex: warning.digest,
            level: warning.level.max(1),
            short: warning.short,
            detail: warning.detail,
            url: warning.url,
            source_info: warning.info.as_ref().map(Into::into),
            ranges: warning.ranges.iter().map(Into::into).collect(),
        });
    }

    pub fn progress(&self) -> &Progress {
        &self.inner().options.progress
    }

    pub fn session(&self) -> &Arc<dyn Session> {
        &self.inner().options.session
    }

    pub fn entitlements(&self) -> &BTreeSet<String> {
        &self.inner().options.entitlements
    }

    pub fn cancelled(&self) -> &CancellationToken {
        &self.inner().cancel
    }

    pub fn solver(&self) -> &Solver {
        &self.inner().solver
    }

    /// Does the work of all results and hands them to the exporters.
    pub async fn export(
        &self,
        result: SolvedResult,
        exporters: &[Exporter],
    ) -> Result<ExportResponse, Error> {
        export::export(self, result, exporters).await
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}
