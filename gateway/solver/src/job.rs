//! One build: its results, its session, its progress.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gateway_api::progress::Progress;
use gateway_api::{Error, FileRange, Stat, Warning};
use gateway_images::reference::Reference;
use gateway_images::registry::Registries;
use gateway_llb::{pb, platform};
use gateway_session::Session;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::content::Hasher;
use crate::export::{self, CacheExport, ExportResponse, Exporter, SolvedResult};
use crate::live::LiveGraph;
use crate::ops::build::Nesting;
use crate::ops::exec::mounts::Tree;
use crate::ops::image::{self, ImageMeta, ResolveMode};
use crate::ops::{git, http, local};
use crate::pins::Pins;
use crate::policy::SourcePolicies;
use crate::read::{self, Place};
use crate::report::Reports;
use crate::result::{RefInner, ResultRef, RootFs, ScratchDir};
use crate::shared::{Outcome, SharedWork};
use crate::solve::internal;
use crate::solver::Solver;
use crate::store::{Layer, LazyBlob, Snapshot, Store, new_id};
use crate::warnings::Warnings;

/// The only worker there is, as ids of file systems name it.
const WORKER: &str = "gateway";

/// What one build brings along.
pub struct JobOptions {
    pub session: Arc<dyn Session>,
    pub progress: Progress,
    /// Of `network.host`, `security.insecure`, `device`.
    pub entitlements: BTreeSet<String>,
    /// What sources it may use.
    pub policies: SourcePolicies,
    /// What names in it stand for, as far as that is known or to be taken down.
    pub pins: Option<Arc<Pins>>,
    /// With the logins of whoever builds; `None`: the solver's own.
    pub registries: Option<Registries>,
    /// What steps use is to be counted, for an attestation.
    pub measure: bool,
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
        self.0.store().note_uses();
        self.0.store().sync_in_background();
    }
}

type ImageKey = (String, String, ResolveMode);

pub(crate) struct JobInner {
    solver: Solver,
    /// Keeps what this build touches from being collected.
    store: Store,
    pub(crate) options: JobOptions,
    cancel: CancellationToken,
    pub(crate) graph: LiveGraph,
    pub(crate) reports: Reports,
    images: Mutex<HashMap<ImageKey, SharedWork<Arc<ImageMeta>>>>,
    lazy: Mutex<HashMap<String, Arc<LazyBlob>>>,
    pulls: Mutex<HashMap<String, SharedWork<()>>>,
    dropped_caches: Mutex<HashSet<String>>,
    hashers: Mutex<HashMap<String, Arc<Hasher>>>,
    http_files: Mutex<HashMap<String, SharedWork<Arc<http::Found>>>>,
    git_commits: Mutex<HashMap<String, SharedWork<Arc<git::Resolved>>>>,
    /// The vertices whose results were asked for.
    roots: Mutex<BTreeSet<String>>,
    nesting: Mutex<Nesting>,
    /// File systems of failed steps, by the ids in their errors.
    kept: Mutex<HashMap<String, Tree>>,
    insecure: Mutex<HashSet<String>>,
    warnings: Mutex<Warnings>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobInner {
    pub(crate) fn solver(&self) -> &Solver {
        &self.solver
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Registries with the logins of this build.
    pub(crate) fn logged_in(&self) -> &Registries {
        let given = self.options.registries.as_ref();
        given.unwrap_or_else(|| self.solver.registries())
    }

    /// Registries as this build uses them for a reference.
    pub(crate) fn registries(&self, reference: &Reference) -> Registries {
        let registries = self.logged_in();
        match locked(&self.insecure).contains(reference.domain()) {
            true => registries.with_insecure(reference.domain()),
            false => registries.clone(),
        }
    }

    /// From now on this build needs no certificate of a registry.
    pub(crate) fn allow_insecure(&self, domain: &str) {
        locked(&self.insecure).insert(domain.to_owned());
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

    /// The files of the web that this build asked for.
    pub(crate) fn http_files(
        &self,
    ) -> MutexGuard<'_, HashMap<String, SharedWork<Arc<http::Found>>>> {
        locked(&self.http_files)
    }

    /// What names in remote repositories meant in this build.
    pub(crate) fn git_commits(
        &self,
    ) -> MutexGuard<'_, HashMap<String, SharedWork<Arc<git::Resolved>>>> {
        locked(&self.git_commits)
    }

    /// The vertices whose results were asked for.
    pub(crate) fn roots(&self) -> MutexGuard<'_, BTreeSet<String>> {
        locked(&self.roots)
    }

    /// Which build ops wait for which.
    pub(crate) fn nesting(&self) -> MutexGuard<'_, Nesting> {
        locked(&self.nesting)
    }

    pub(crate) fn remember_lazy(&self, layer: &Layer) {
        if let Some(lazy) = &layer.lazy {
            // What is known of results that have it stays as long as it can be fetched.
            self.store.hold_layer(&layer.id);
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

    /// Keeps a file system until the build's end; gives the id to ask for it.
    pub(crate) fn keep(&self, tree: Tree) -> String {
        let id = format!("{WORKER}::{}", new_id());
        locked(&self.kept).insert(id.clone(), tree);
        id
    }

    pub(crate) fn kept(&self, id: &str) -> Option<Tree> {
        locked(&self.kept).get(id).cloned()
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

impl Job {
    pub(crate) fn new(solver: Solver, options: JobOptions) -> Self {
        let cancel = options.cancel.child_token();
        let reports = Reports::new(options.progress.clone());
        Job(Arc::new(Owner(Arc::new(JobInner {
            store: solver.store().for_user(),
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
            http_files: Mutex::default(),
            git_commits: Mutex::default(),
            roots: Mutex::default(),
            nesting: Mutex::default(),
            kept: Mutex::default(),
            insecure: Mutex::default(),
            warnings: Mutex::default(),
        }))))
    }

    pub(crate) fn inner(&self) -> &Arc<JobInner> {
        &self.0.0
    }

    /// Never fails: a broken definition fails at its first use.
    ///
    /// `policies` hold for it beside the build's own.
    pub fn load(&self, definition: pb::Definition, policies: &SourcePolicies) -> ResultRef {
        ResultRef::new(RefInner {
            definition,
            policies: self.inner().options.policies.and(policies),
            loaded: OnceLock::new(),
        })
    }

    /// The result, its work done.
    pub(crate) async fn snapshot(&self, result: &ResultRef) -> Outcome<Snapshot> {
        let job = self.inner();
        let (key, output) = result.loaded(job)?;
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
        let snapshot = self.snapshot(result).await?;
        if let Some(files) = snapshot.only_local()
            && let Some(read) = local::read(self.inner(), &files, path, read::part(range)).await
        {
            return read;
        }
        image::ensure(self.inner(), &snapshot).await?;
        read::file(Place::of(self.inner(), snapshot), path, range).await
    }

    /// One level of a directory, sorted by name.
    pub async fn read_dir(
        &self,
        result: &ResultRef,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        let snapshot = self.ready(result).await?;
        read::dir(Place::of(self.inner(), snapshot), path, include).await
    }

    pub async fn stat_file(&self, result: &ResultRef, path: &str) -> Result<Stat, Error> {
        let snapshot = self.ready(result).await?;
        read::stat(Place::of(self.inner(), snapshot), path).await
    }

    pub(crate) async fn ready(&self, result: &ResultRef) -> Outcome<Snapshot> {
        let snapshot = self.snapshot(result).await?;
        image::ensure(self.inner(), &snapshot).await?;
        Ok(snapshot)
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

    /// Shows a warning of a frontend, as long as there were not too many.
    pub fn warn(&self, warning: Warning) {
        let told = locked(&self.inner().warnings).admit(warning);
        if let Some(told) = told {
            self.progress().warning(told);
        }
    }

    pub fn progress(&self) -> &Progress {
        &self.inner().options.progress
    }

    pub fn session(&self) -> &Arc<dyn Session> {
        &self.inner().options.session
    }

    /// What is known of names beforehand, or taken down.
    pub fn pins(&self) -> Option<&Pins> {
        self.inner().options.pins.as_deref()
    }

    /// Whether everything that the build uses was saved beforehand.
    pub fn is_vendored(&self) -> bool {
        self.pins().is_some_and(|pins| pins.layout().is_some())
    }

    /// How processes are run where nobody says.
    pub fn steps(&self) -> &crate::steps::StepOptions {
        self.solver().steps()
    }

    /// What the build may do beyond the usual.
    pub fn entitlements(&self) -> &BTreeSet<String> {
        &self.inner().options.entitlements
    }

    pub fn cancelled(&self) -> &CancellationToken {
        &self.inner().cancel
    }

    pub fn solver(&self) -> &Solver {
        &self.inner().solver
    }

    /// Does the work of all results, hands them to the exporters, and writes caches of it.
    pub async fn export(
        &self,
        result: SolvedResult,
        exporters: &[Exporter],
        caches: &[CacheExport],
    ) -> Result<ExportResponse, Error> {
        export::export(self, result, exporters, caches).await
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}
