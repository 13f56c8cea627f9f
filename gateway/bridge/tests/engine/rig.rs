//! A store, a session with directories, an engine, and the raw frontend as an image.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use gateway_api::progress::{Progress, Status};
use gateway_api::{BuildResult, Error, FrontendFn, Gateway};
use gateway_bridge::{
    BuildRequest, BuildResponse, Engine, EngineOptions, FrontendLimits, FrontendPolicy,
};
use gateway_images::registry::{Registries, RegistriesConfig};
use gateway_sandbox::LauncherOptions;
use gateway_session::ssh::{Agent, AgentSource};
use gateway_session::{LocalSession, Secret, SecretSource};
use gateway_solver::policy::SourcePolicies;
use gateway_solver::{CacheImport, Exporter, Solver, SolverOptions, StepOptions};
use tokio_util::sync::CancellationToken;

use crate::support::raw_frontend;

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub builtins: BTreeMap<String, FrontendFn>,
    pub policy: FrontendPolicy,
    pub limits: FrontendLimits,
    pub exporters: Vec<Exporter>,
    pub cache_imports: Vec<CacheImport>,
    pub source_policies: SourcePolicies,
    pub statuses: Arc<Mutex<Vec<Status>>>,
    /// What the session forwards as its agent; nobody answers there.
    _agent: std::os::unix::net::UnixListener,
}

impl Rig {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["store", "context", "raw", "image", "files"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let agent = std::os::unix::net::UnixListener::bind(dir.path().join("agent")).unwrap();
        let rig = Rig {
            _agent: agent,
            dir,
            builtins: BTreeMap::new(),
            policy: FrontendPolicy::default(),
            limits: FrontendLimits::default(),
            exporters: Vec::new(),
            cache_imports: Vec::new(),
            source_policies: SourcePolicies::default(),
            statuses: Arc::default(),
        };
        let bin = rig.path("root/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for name in ["sh", "cat", "sleep", "stty", "env", "ls", "wc", "touch"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        std::fs::write(rig.path("context/Dockerfile"), "FROM scratch\n").unwrap();
        std::fs::copy(raw_frontend(), rig.path("raw/run")).unwrap();
        std::fs::copy(raw_frontend(), rig.path("image/frontend")).unwrap();
        rig
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub fn with_builtin<F>(mut self, name: &str, frontend: fn(Arc<dyn Gateway>) -> F) -> Self
    where
        F: Future<Output = Result<BuildResult, Error>> + Send + 'static,
    {
        let function: FrontendFn = Arc::new(move |gateway| Box::pin(frontend(gateway)));
        self.builtins.insert(name.to_owned(), function);
        self
    }

    pub async fn build(&self, frontend: &str, opts: &[(&str, &str)]) -> Built {
        self.build_until(frontend, opts, CancellationToken::new())
            .await
    }

    pub async fn build_until(
        &self,
        frontend: &str,
        opts: &[(&str, &str)],
        cancel: CancellationToken,
    ) -> Built {
        let request = self.request(frontend, opts, cancel);
        self.engine().await.build(request).await
    }

    pub async fn engine(&self) -> Engine {
        let solver = Solver::open(SolverOptions {
            root: self.path("store"),
            registries: Registries::new(RegistriesConfig {
                offline: true,
                ..RegistriesConfig::default()
            }),
            launcher: LauncherOptions::default(),
            max_parallelism: 0,
            steps: StepOptions::default(),
            default_platform: gateway_llb::platform::host(),
        })
        .await
        .unwrap();
        Engine::new(EngineOptions {
            solver,
            builtins: self.builtins.clone(),
            policy: self.policy.clone(),
            limits: self.limits.clone(),
        })
    }

    pub fn request(
        &self,
        frontend: &str,
        opts: &[(&str, &str)],
        cancel: CancellationToken,
    ) -> BuildRequest {
        let session = LocalSession::new("the-session")
            .with_dir("context", self.path("context"))
            .with_dir("dockerfile", self.path("context"))
            .with_dir("raw", self.path("raw"))
            .with_dir("image", self.path("image"))
            .with_dir("root", self.path("root"))
            .with_dir("files", self.path("files"))
            .with_agent(Agent {
                id: "default".to_owned(),
                source: AgentSource::Raw(self.path("agent")),
            })
            .with_secret(
                "token",
                SecretSource::Value(Secret::new(b"hidden".to_vec())),
            );
        let statuses = self.statuses.clone();
        BuildRequest {
            cache_imports: self.cache_imports.clone(),
            cache_exports: Vec::new(),
            verify_replay: false,
            frontend: frontend.to_owned(),
            opts: opts
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
            inputs: BTreeMap::new(),
            session: Arc::new(session),
            progress: Progress::new(move |status| statuses.lock().unwrap().push(status)),
            entitlements: Default::default(),
            source_policies: self.source_policies.clone(),
            pins: None,
            collect: None,
            registries: None,
            source_judge: None,
            late_exporters: None,
            record_provenance: false,
            exporters: self.exporters.clone(),
            cancel,
        }
    }

    /// All that the client was told, in words that a test can look for.
    pub fn vertices(&self) -> Vec<gateway_api::progress::Vertex> {
        let statuses = self.statuses.lock().unwrap();
        let vertices = statuses.iter().flat_map(|status| status.vertexes.clone());
        vertices.collect()
    }

    /// The raw frontend as the image `test/raw:1`.
    pub async fn build_raw(&self, mode: &str) -> Built {
        let mode = [("build-arg:MODE", mode)];
        self.build("gateway.v0", &[&RAW[..], &mode[..]].concat())
            .await
    }
}

pub const RAW: [(&str, &str); 2] = [
    ("source", "test/raw:1"),
    ("context:test/raw:1", "local:raw"),
];

pub type Built = Result<BuildResponse, Error>;
