//! A build from request to exported result: finds the frontend, runs it, hands what it returned to
//! the exporters.

mod cache;
pub mod capabilities;
mod context;
mod frontend;
mod image;
mod judge;
mod late;
mod local;
mod observer;
mod policy;
mod provenance;
mod replay;
mod scan;
mod solved;
mod source_policy;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use gateway_api::progress::Progress;
use gateway_api::{Code, Error, FrontendFn, Invocation, Worker};
use gateway_images::registry::Registries;
use gateway_llb::pb;
use gateway_session::Session;
use gateway_solver::pins::{Pins, VendorReport};
use gateway_solver::policy::SourcePolicies;
use gateway_solver::usage::MachineUsage;
use gateway_solver::{
    AttestationContent, CacheDestination, CacheExport, CacheImport, Exporter, Job, JobOptions,
    ResultRef, Solver,
};
use tokio_util::sync::CancellationToken;

use crate::host::FrontendLimits;
use cache::Caches;
use judge::Judge;
pub use judge::{SourceJudge, Verdict};
pub use late::{LateExporters, Provenance};
use local::LocalGateway;
use observer::Watch;
pub use observer::{Observed, Observer};
pub use policy::FrontendPolicy;
pub use provenance::Wanted as WantedProvenance;
use scan::Scanning;
use solved::Solved;
pub use source_policy::read as read_source_policies;

/// The frontend that runs images.
const GATEWAY: &str = "gateway.v0";

/// What we are called in error texts about capabilities.
const PRODUCT: &str = "gateway";

/// Configuration, as values.
pub struct EngineOptions {
    pub solver: Solver,
    /// Frontends that run in process, by name (`dockerfile.v0`).
    pub builtins: BTreeMap<String, FrontendFn>,
    pub policy: FrontendPolicy,
    pub limits: FrontendLimits,
}

/// Runs builds. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<EngineOptions>, Option<Arc<dyn Observer>>);

/// One build.
pub struct BuildRequest {
    /// `dockerfile.v0`, or `gateway.v0` for the image in the option `source`.
    pub frontend: String,
    pub opts: BTreeMap<String, String>,
    pub inputs: BTreeMap<String, pb::Definition>,
    pub session: Arc<dyn Session>,
    pub progress: Progress,
    /// Of `network.host`, `security.insecure`, `device`.
    pub entitlements: BTreeSet<String>,
    /// What sources may be used, by the build and for its frontends.
    pub source_policies: SourcePolicies,
    /// Shown every source that those allow, before it is looked at.
    pub source_judge: Option<Arc<dyn SourceJudge>>,
    /// What names in it stand for, as far as that is known or to be taken down.
    pub pins: Option<Arc<Pins>>,
    /// Only look at what the build is made of, and build and export nothing.
    pub collect: Option<Collect>,
    /// With the logins of whoever builds; `None`: the solver's own.
    pub registries: Option<Registries>,
    pub exporters: Vec<Exporter>,
    /// Asked for more of them when the result is known.
    pub late_exporters: Option<Arc<dyn LateExporters>>,
    /// Provenance is in the response, whether or not the build's outputs have it.
    pub record_provenance: bool,
    /// Caches to look in besides the store. Of local ones frontends may name these only.
    pub cache_imports: Vec<CacheImport>,
    /// Caches to write when all is built.
    pub cache_exports: Vec<CacheExport>,
    /// Frontends run also where their answers could be replayed; other answers fail the build.
    pub verify_replay: bool,
    pub cancel: CancellationToken,
}

/// What is done with the sources of a build that is not built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collect {
    /// Nothing: only the frontend runs.
    Nothing,
    /// Each is asked for, so that the pins know it.
    Resolve,
    /// They are saved in the OCI layout at `dir`.
    Vendor { dir: PathBuf, all_platforms: bool },
}

/// What a build gives back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BuildResponse {
    /// Of [`Collect::Vendor`].
    pub vendored: Option<VendorReport>,
    /// Of the exporters (`containerimage.digest`), and the frontend's keys `frontend.*`.
    pub exporter: BTreeMap<String, String>,
    /// All of the result's metadata, e.g. the answer to a subrequest.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// If it was to be recorded.
    pub provenance: Vec<Provenance>,
}

/// A frontend to run, by name.
#[derive(Clone)]
pub(crate) struct FrontendCall {
    pub name: String,
    pub opts: BTreeMap<String, String>,
    pub inputs: BTreeMap<String, pb::Definition>,
    /// Frontends that called this one.
    pub depth: usize,
    /// What those set for its sources, beside the build's own.
    pub policies: SourcePolicies,
    pub judge: Option<Arc<Judge>>,
    pub caches: Arc<Caches>,
    /// The outermost call, unless this is it.
    pub root: Option<Arc<provenance::Origin>>,
    /// Frontends run also where their answers could be replayed, and must give the same.
    pub verify_replay: bool,
}

impl Engine {
    pub fn new(options: EngineOptions) -> Engine {
        Engine(Arc::new(options), None)
    }

    /// With someone who is told of every frontend that runs.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Engine {
        self.1 = Some(observer);
        self
    }

    /// Builds and exports. Dropping the future cancels the build.
    ///
    /// # Errors
    /// The frontend's error or that of a step, with details that say where and what.
    pub async fn build(&self, request: BuildRequest) -> Result<BuildResponse, Error> {
        self.run_until_cancelled(request, None).await
    }

    /// The same for a frontend that is no one of ours, e.g. a client (see [`Builds::frontend`]); the
    /// request's own is not looked at.
    ///
    /// # Errors
    /// As [`Engine::build`].
    ///
    /// [`Builds::frontend`]: crate::service::Builds::frontend
    pub async fn build_with(
        &self,
        request: BuildRequest,
        frontend: FrontendFn,
    ) -> Result<BuildResponse, Error> {
        self.run_until_cancelled(request, Some(frontend)).await
    }

    async fn run_until_cancelled(
        &self,
        request: BuildRequest,
        frontend: Option<FrontendFn>,
    ) -> Result<BuildResponse, Error> {
        let cancel = request.cancel.clone();
        // Boxed: exporting and all below it take much room, which callers move about with many builds.
        let build = Box::pin(self.run(request, frontend));
        tokio::select! {
            built = build => match built {
                // What fails because of the cancellation is the cancellation.
                Err(_) if cancel.is_cancelled() => Err(Error::canceled()),
                built => built,
            },
            () = cancelled_for_good(&cancel) => Err(Error::canceled()),
        }
    }

    async fn run(
        &self,
        request: BuildRequest,
        frontend: Option<FrontendFn>,
    ) -> Result<BuildResponse, Error> {
        let provenance = provenance::Wanted::of(&request.opts)?;
        let mut invocation = provenance::Invocation {
            id: request.session.id().to_owned(),
            started: time::OffsetDateTime::now_utc(),
            usage: None,
        };
        let measure = provenance.as_ref().is_some_and(provenance::Wanted::usage);
        if measure {
            invocation.usage = Some(MachineUsage::start());
        }
        let judge = request
            .source_judge
            .map(|judge| Arc::new(Judge::new(judge, request.source_policies.clone())));
        let job = self.0.solver.job(JobOptions {
            session: request.session,
            progress: request.progress,
            entitlements: request.entitlements,
            policies: request.source_policies,
            pins: request.pins,
            registries: request.registries,
            measure,
            cancel: request.cancel,
        });
        let mut caches = request.cache_exports;
        if wants_inline_cache(&request.opts) && !caches.iter().any(is_inline) {
            caches.push(CacheExport {
                to: CacheDestination::Inline,
                max: false,
                ignore_error: false,
                attrs: BTreeMap::new(),
            });
        }
        let mut call = FrontendCall {
            name: request.frontend,
            opts: request.opts,
            inputs: request.inputs,
            depth: 0,
            policies: SourcePolicies::default(),
            judge,
            caches: Arc::new(Caches::of_client(&request.cache_imports)),
            root: None,
            verify_replay: request.verify_replay,
        };
        self.prefer_builtin(&mut call);
        let scanning = Scanning::of(&call)?;
        // Before anything is solved: a step that began does not look again.
        for import in &request.cache_imports {
            job.import_cache(import).await;
        }
        let solved = match frontend {
            Some(frontend) => self.call_function(&job, call, frontend, false).await?,
            None => self.call(&job, call).await?,
        };
        let metadata = solved.metadata.clone();
        if let Some(collect) = &request.collect {
            let vendored = self
                .collected(&job, solved, collect, scanning.as_ref())
                .await?;
            return Ok(BuildResponse {
                vendored,
                metadata,
                ..BuildResponse::default()
            });
        }
        let origin = solved.origin.clone();
        let mut result = solved.into_exportable();
        let record =
            request.record_provenance && (provenance.is_some() || late::is_exportable(&result));
        let recording = record.then(|| provenance::Wanted::for_history(provenance.as_ref()));
        let platform = gateway_llb::platform::format(self.0.solver.default_platform());
        let mut recorded = Vec::new();
        let own = result.attestations.iter();
        let own: BTreeMap<String, usize> =
            own.map(|(key, list)| (key.clone(), list.len())).collect();
        // A history has all of it, whatever the outputs are to have.
        for (wanted, record) in [(provenance, false), (recording, true)] {
            let Some(wanted) = wanted else { continue };
            let attest = |materials, of: Option<&ResultRef>| {
                wanted.attest(origin.as_deref(), &materials, of, &platform, &invocation)
            };
            job.attest_provenance(&mut result, attest).await?;
            if record {
                recorded = late::provenance(&result);
                late::without_last(&mut result);
            }
        }
        // Later than provenance, which a scan is no part of, and in front of it as with the reference.
        if let Some(scanning) = &scanning {
            for (key, scan) in scanning.scans(self, &job, &result).await? {
                let at = own.get(&key).copied().unwrap_or_default();
                let list = result.attestations.entry(key).or_default();
                list.insert(at.min(list.len()), scan);
            }
        }
        let mut exporters = request.exporters;
        if let Some(late) = &request.late_exporters {
            let results = late::names(&result);
            exporters.extend(late.find(&result.metadata, results).await?);
        }
        // Boxed: builds run side by side on one stack, and exporters are a large part of one.
        let exported = job.export(result, &exporters, &caches);
        let exported = Box::pin(exported).await?;
        let mut provenance = Vec::with_capacity(recorded.len());
        for (key, predicate_type, predicate) in recorded {
            let predicate = job.predicate(&predicate).await?;
            provenance.push(Provenance {
                key,
                predicate_type,
                predicate,
            });
        }
        let mut exporter = exported.attrs;
        for (key, value) in &metadata {
            if key.starts_with("frontend.") {
                let text = String::from_utf8_lossy(value).into_owned();
                exporter.insert(key.clone(), text);
            }
        }
        Ok(BuildResponse {
            exporter,
            metadata,
            vendored: None,
            provenance,
        })
    }

    /// Looks at what a build is made of, its scans included.
    async fn collected(
        &self,
        job: &Job,
        solved: Solved,
        collect: &Collect,
        scanning: Option<&Scanning>,
    ) -> Result<Option<VendorReport>, Error> {
        let results: Vec<_> = solved.results().into_iter().cloned().collect();
        let result = solved.into_exportable();
        let scans = match scanning {
            Some(scanning) => scanning.scans(self, job, &result).await?,
            None => BTreeMap::new(),
        };
        let attested = result.attestations.into_values().flatten();
        let attested = attested.chain(scans.into_values());
        let attested = attested.filter_map(|attested| match attested.content {
            AttestationContent::Result(result) => Some(result),
            _ => None,
        });
        let results: Vec<_> = results.into_iter().chain(attested).collect();
        match collect {
            Collect::Nothing => Ok(None),
            Collect::Resolve => job.resolve_sources(&results).await.map(|()| None),
            Collect::Vendor { dir, all_platforms } => {
                job.vendor(&results, dir, *all_platforms).await.map(Some)
            }
        }
    }

    /// An outermost request for the image `dockerfile.v0` means the built-in frontend of that name.
    fn prefer_builtin(&self, call: &mut FrontendCall) {
        let Some(source) = call.opts.get("source").filter(|_| call.name == GATEWAY) else {
            return;
        };
        let named = call.opts.contains_key(&format!("context:{source}"));
        if self.0.builtins.contains_key(source) && !named {
            call.name = source.clone();
            call.opts.remove("source");
        }
    }

    /// Runs one frontend to its end. Its results are as lazy as it left them.
    // Boxed: frontends call frontends.
    pub(crate) fn call<'a>(
        &'a self,
        job: &'a Job,
        call: FrontendCall,
    ) -> Pin<Box<dyn Future<Output = Result<Solved, Error>> + Send + 'a>> {
        Box::pin(async move {
            if call.depth > self.0.limits.depth {
                return Err(Error::new(
                    Code::ResourceExhausted,
                    format!(
                        "frontends call each other more than {} levels deep",
                        self.0.limits.depth
                    ),
                ));
            }
            if !self.0.policy.allows(&call.name) {
                let name = &call.name;
                return Err(Error::unknown(format!(
                    "invalid frontend: {name} (disabled by the configuration)"
                ))
                .caused_by(gateway_api::Cause::Policy));
            }
            if call.name == GATEWAY {
                return frontend::run(self, job, call).await;
            }
            let Some(builtin) = self.0.builtins.get(&call.name).cloned() else {
                return Err(Error::unknown(format!("invalid frontend: {}", call.name)));
            };
            self.call_function(job, call, builtin, true).await
        })
    }

    /// Runs a frontend that is a function: of ours, or of a client, which is told of a cancellation itself.
    async fn call_function(
        &self,
        job: &Job,
        call: FrontendCall,
        function: FrontendFn,
        ours: bool,
    ) -> Result<Solved, Error> {
        let name = call.name.clone();
        let gateway = self.gateway(job, call);
        let watch = Watch::new(self.1.as_deref(), &name, gateway.clone());
        let frontend = watch.gateway();
        let work = async move { function(frontend).await };
        let work = async {
            match ours {
                true => gateway.unless_cancelled(work).await,
                false => tokio::select! {
                    biased;
                    returned = work => returned,
                    () = gateway.left_alone() => Err(Error::canceled()),
                },
            }
        };
        let returned = AssertUnwindSafe(work)
            .catch_unwind()
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    Code::Internal,
                    format!("internal failure of the frontend {name}"),
                ))
            });
        watch.ended(&returned);
        gateway.resolve(returned?)
    }

    /// A gateway for one call.
    fn gateway(&self, job: &Job, call: FrontendCall) -> Arc<LocalGateway> {
        let invocation = Invocation {
            opts: call.opts.clone(),
            session_id: job.session().id().to_owned(),
            product: PRODUCT.to_owned(),
            workers: vec![Worker {
                id: PRODUCT.to_owned(),
                labels: BTreeMap::new(),
                platforms: vec![self.0.solver.default_platform().clone()],
            }],
            frontend_caps: capabilities::frontend(),
            llb_caps: capabilities::llb(),
        };
        Arc::new(LocalGateway::new(
            self.clone(),
            job.clone(),
            call,
            invocation,
        ))
    }
}

/// A cache inside the image can also be asked for by an argument of the build: users of clients
/// without a flag for it do so.
fn wants_inline_cache(opts: &BTreeMap<String, String>) -> bool {
    let given = opts.get("build-arg:BUILDKIT_INLINE_CACHE");
    given.is_some_and(|text| gateway_api::parse_bool(text) == Some(true))
}

fn is_inline(export: &CacheExport) -> bool {
    export.to == CacheDestination::Inline
}

/// Work notices a cancellation by itself and cleans up; what does not in this time is dropped.
const CANCEL_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

async fn cancelled_for_good(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(CANCEL_WAIT).await;
}
