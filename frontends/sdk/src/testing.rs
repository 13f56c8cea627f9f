//! A gateway in memory, for unit tests of frontends: it serves files and images that the test
//! gives it, runs nothing, and remembers what it was asked.
//!
//! ```
//! use gateway_frontend::testing::MockGateway;
//!
//! # #[tokio::main] async fn main() -> Result<(), gateway_frontend::api::Error> {
//! use gateway_frontend::api::{BuildResult, Gateway, SolveRequest};
//! use gateway_frontend::llb::{ImageSource, MarshalOptions};
//!
//! async fn build(gateway: std::sync::Arc<dyn Gateway>) -> Result<BuildResult, gateway_frontend::api::Error> {
//!     let state = ImageSource::new("docker.io/library/alpine:3").state(Default::default());
//!     let definition = state.marshal(&MarshalOptions::default()).ok();
//!     gateway.solve(SolveRequest { definition, ..SolveRequest::default() }).await
//! }
//!
//! let gateway = MockGateway::new().opt("target", "app").shared();
//! build(gateway.clone()).await?;
//! assert_eq!(gateway.definitions().len(), 1);
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gateway_api::caps::CapSet;
use gateway_api::{
    BuildResult, Code, Container, ContainerRequest, Error, FileRange, Gateway, GitMeta, HttpMeta,
    ImageConfig, ImageMeta, Invocation, Ref, Refs, ResolveImageConfigRequest,
    ResolveSourceMetaRequest, SolveRequest, SourceMeta, Stat, Warning, Worker,
};
use gateway_llb::{Graph, caps, digest_of, pb, platform};

/// What a current host can do besides what it always could.
const FRONTEND_CAPS: [&str; 20] = [
    "solve.base",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "gateway.exec",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.warnings",
    "gateway.evaluate",
    "reference.attestations",
    "source.metaresolver",
];

type Files = BTreeMap<String, Vec<u8>>;

/// Serves what it was given. Ids of refs count the solves from 0.
#[derive(Default)]
pub struct MockGateway {
    invocation: Invocation,
    inputs: BTreeMap<String, pb::Definition>,
    /// By the source that a result comes from: `local://context`, `https://...`.
    files: BTreeMap<String, Files>,
    /// Configs by reference; `None` for images that are not there.
    images: BTreeMap<String, Option<Vec<u8>>>,
    git: Option<GitMeta>,
    http: Option<HttpMeta>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    solved: Vec<SolveRequest>,
    warnings: Vec<Warning>,
    metas: Vec<ResolveSourceMetaRequest>,
}

impl MockGateway {
    /// A current host of `linux/amd64` without files, on which every image exists.
    pub fn new() -> Self {
        let llb = caps::ALL.iter().filter(|c| !caps::UNANNOUNCED.contains(c));
        let own = pb::Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            ..pb::Platform::default()
        };
        Self {
            invocation: Invocation {
                session_id: "session".to_owned(),
                product: "mock".to_owned(),
                workers: vec![Worker {
                    platforms: vec![own],
                    ..Worker::default()
                }],
                frontend_caps: CapSet::enabled(FRONTEND_CAPS),
                llb_caps: CapSet::enabled(llb.copied()),
                ..Invocation::default()
            },
            ..Self::default()
        }
    }

    /// Sets an option of the call.
    #[must_use]
    pub fn opt(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.invocation.opts.insert(key.into(), value.into());
        self
    }

    /// Changes what the frontend is told about the call: session, workers, capabilities.
    #[must_use]
    pub fn invocation(mut self, change: impl FnOnce(&mut Invocation)) -> Self {
        change(&mut self.invocation);
        self
    }

    /// A definition that the caller hands over.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, definition: pb::Definition) -> Self {
        self.inputs.insert(name.into(), definition);
        self
    }

    /// A file of the client's directory `local`: `context`, `dockerfile`, ...
    #[must_use]
    pub fn file(self, local: &str, path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        self.file_of(format!("local://{local}"), path, content)
    }

    /// A file of a result that comes straight from a source: `https://...`, `git://...`; the
    /// empty one is for results of anything else.
    #[must_use]
    pub fn file_of(
        mut self,
        source: impl Into<String>,
        path: impl Into<String>,
        content: impl Into<Vec<u8>>,
    ) -> Self {
        let files = self.files.entry(source.into()).or_default();
        files.insert(path.into(), content.into());
        self
    }

    /// The config of an image, by its whole reference (`docker.io/library/alpine:latest`). In its
    /// text `$OS` and `$ARCH` stand for the platform that is asked for.
    #[must_use]
    pub fn image(mut self, reference: impl Into<String>, config: impl Into<Vec<u8>>) -> Self {
        self.images.insert(reference.into(), Some(config.into()));
        self
    }

    /// An image that is not there.
    #[must_use]
    pub fn no_image(mut self, reference: impl Into<String>) -> Self {
        self.images.insert(reference.into(), None);
        self
    }

    /// What is known of every git source.
    #[must_use]
    pub fn git(mut self, meta: GitMeta) -> Self {
        self.git = Some(meta);
        self
    }

    /// What is known of every file of the web.
    #[must_use]
    pub fn http(mut self, meta: HttpMeta) -> Self {
        self.http = Some(meta);
        self
    }

    /// The form that frontends take.
    pub fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// All solves, in order.
    pub fn solves(&self) -> Vec<SolveRequest> {
        self.seen().solved.clone()
    }

    /// The definitions that were solved, in order.
    pub fn definitions(&self) -> Vec<pb::Definition> {
        let solves = self.solves().into_iter();
        solves.filter_map(|solve| solve.definition).collect()
    }

    /// The warnings, in order.
    pub fn warnings(&self) -> Vec<Warning> {
        self.seen().warnings.clone()
    }

    /// The warnings as users see them.
    pub fn warning_texts(&self) -> Vec<String> {
        let warnings = self.warnings();
        let texts = warnings.iter().map(|w| String::from_utf8_lossy(&w.short));
        texts.map(std::borrow::Cow::into_owned).collect()
    }

    /// The sources that were asked about, in order.
    pub fn metas(&self) -> Vec<ResolveSourceMetaRequest> {
        self.seen().metas.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The source that a ref comes straight from, empty when it was made by something else.
    fn source_of(&self, reference: &Ref) -> Option<String> {
        let seen = self.seen();
        let solve = seen.solved.get(reference.id.parse::<usize>().ok()?)?;
        let graph = Graph::load(solve.definition.as_ref()?).ok()?;
        let vertex = graph.get(&graph.result().digest)?;
        match &vertex.op().op {
            Some(pb::op::Op::Source(source)) => Some(source.identifier.clone()),
            _ => Some(String::new()),
        }
    }

    fn config(&self, reference: &str, wanted: Option<&pb::Platform>) -> Result<Vec<u8>, Error> {
        let wanted = wanted.cloned();
        let wanted = wanted.unwrap_or_else(|| {
            let workers = self.invocation.workers.first();
            let first = workers.and_then(|worker| worker.platforms.first());
            first.cloned().unwrap_or_else(platform::host)
        });
        match self.images.get(reference) {
            Some(Some(config)) => Ok(String::from_utf8_lossy(config)
                .replace("$OS", &wanted.os)
                .replace("$ARCH", &wanted.architecture)
                .into_bytes()),
            Some(None) => {
                let text = format!("{reference}: not found");
                Err(Error::new(Code::Unknown, text))
            }
            None => {
                let variant = match wanted.variant.as_str() {
                    "" => None,
                    variant => Some(variant),
                };
                let config = serde_json::json!({
                    "created": "2020-01-01T00:00:00Z",
                    "architecture": wanted.architecture,
                    "os": wanted.os,
                    "variant": variant,
                    "config": {
                        "Env": [format!("PATH={}", crate::image_config::DEFAULT_PATH)],
                        "Cmd": ["sh"],
                    },
                    "rootfs": {"type": "layers", "diff_ids": [digest_of(b"layer")]},
                    "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "base"}],
                });
                Ok(config.to_string().into_bytes())
            }
        }
    }
}

#[async_trait]
impl Gateway for MockGateway {
    fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, Error> {
        Ok(self.inputs.clone())
    }

    async fn solve(&self, request: SolveRequest) -> Result<BuildResult, Error> {
        let mut seen = self.seen();
        let definition = request.definition.clone();
        seen.solved.push(request);
        let id = (seen.solved.len() - 1).to_string();
        Ok(BuildResult {
            refs: Refs::Single(Ref::new(id, definition)),
            ..BuildResult::default()
        })
    }

    async fn resolve_image_config(
        &self,
        request: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        let config = self.config(&request.reference, request.platform.as_ref());
        let config = config.map_err(|e| {
            let reference = &request.reference;
            e.context(format!("failed to resolve source metadata for {reference}"))
        })?;
        Ok(ImageConfig {
            digest: digest_of(request.reference.as_bytes()),
            config,
            reference: request.reference,
        })
    }

    async fn resolve_source_meta(
        &self,
        request: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        self.seen().metas.push(request.clone());
        let mut meta = SourceMeta {
            source: request.source.clone(),
            ..SourceMeta::default()
        };
        let identifier = &request.source.identifier;
        let image = identifier
            .strip_prefix("docker-image://")
            .or_else(|| identifier.strip_prefix("oci-layout://"));
        if let Some(reference) = image {
            meta.image = Some(ImageMeta {
                config: self.config(reference, request.platform.as_ref())?,
                digest: digest_of(reference.as_bytes()),
                ..ImageMeta::default()
            });
        } else if identifier.starts_with("git://") {
            meta.git.clone_from(&self.git);
        } else if identifier.starts_with("http") {
            meta.http.clone_from(&self.http);
        }
        Ok(meta)
    }

    async fn read_file(
        &self,
        reference: &Ref,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        let source = self.source_of(reference).unwrap_or_default();
        let files = self.files.get(&source);
        let content = files
            .and_then(|files| files.get(path.trim_start_matches('/')))
            .ok_or_else(|| Error::unknown(format!("open {path}: no such file or directory")))?;
        let Some(range) = range else {
            return Ok(content.clone());
        };
        let from = usize::try_from(range.offset).unwrap_or(0);
        let length = usize::try_from(range.length).unwrap_or(0);
        Ok(content.iter().skip(from).take(length).copied().collect())
    }

    async fn read_dir(
        &self,
        reference: &Ref,
        path: &str,
        _include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        let source = self.source_of(reference).unwrap_or_default();
        let folder = path.trim_matches(['/', '.']);
        let mut found = BTreeMap::new();
        for (file, content) in self.files.get(&source).into_iter().flatten() {
            let inside = match folder {
                "" => Some(file.as_str()),
                folder => file.strip_prefix(folder).and_then(|f| f.strip_prefix('/')),
            };
            let Some(inside) = inside else { continue };
            let (name, is_dir) = match inside.split_once('/') {
                Some((name, _)) => (name, true),
                None => (inside, false),
            };
            let stat = Stat {
                path: name.to_owned(),
                mode: if is_dir {
                    Stat::MODE_DIR | 0o755
                } else {
                    0o644
                },
                size: if is_dir { 0 } else { content.len() as i64 },
                ..Stat::default()
            };
            found.insert(name.to_owned(), stat);
        }
        Ok(found.into_values().collect())
    }

    async fn stat_file(&self, reference: &Ref, path: &str) -> Result<Stat, Error> {
        let content = self.read_file(reference, path, None).await;
        let content = content
            .map_err(|_| Error::unknown(format!("lstat {path}: no such file or directory")))?;
        Ok(Stat {
            path: path.rsplit('/').next().unwrap_or(path).to_owned(),
            mode: 0o644,
            size: content.len() as i64,
            ..Stat::default()
        })
    }

    async fn evaluate(&self, _: &Ref) -> Result<(), Error> {
        Ok(())
    }

    async fn warn(&self, warning: Warning) -> Result<(), Error> {
        self.seen().warnings.push(warning);
        Ok(())
    }

    async fn new_container(&self, _: ContainerRequest) -> Result<Box<dyn Container>, Error> {
        let text = "the gateway in memory runs no containers";
        Err(Error::new(Code::Unimplemented, text))
    }
}
