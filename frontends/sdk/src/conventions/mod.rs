//! The frontend's view of its caller: options, the build file, contexts, image configs, by the
//! conventions that build clients and frontends share.
//!
//! Everything that is asked of the gateway is asked here, once.

pub mod context;
pub mod git_ref;
pub mod ignore;
pub mod named;
pub mod options;
pub mod reference;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use gateway_api::result::Refs;
use gateway_api::{
    Code, Error, Gateway, ImageMetaRequest, Ref, ResolveImageConfigRequest,
    ResolveSourceMetaRequest, SolveRequest,
};
use gateway_llb::{MarshalOptions, State, caps, pb, platform};
use tokio::sync::OnceCell;

pub use context::{BuildContext, BuildFile};
pub use named::{NamedContext, PendingLocal};
pub use options::Config;

/// A build's client: what it asked for and what it gives.
pub struct BuildClient {
    gateway: Arc<dyn Gateway>,
    config: Config,
    opts: BTreeMap<String, String>,
    context: OnceCell<BuildContext>,
    ignore: OnceCell<Vec<String>>,
    dockerfile_ignore: Mutex<Option<(String, Vec<u8>)>>,
    images: Mutex<HashMap<String, Arc<OnceCell<ImageAnswer>>>>,
    inputs: OnceCell<BTreeMap<String, pb::Definition>>,
}

/// What was answered about an image; errors are not asked for again.
type ImageAnswer = Result<ResolvedImage, Error>;

/// An image whose config is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The reference, as changed by policies.
    pub reference: String,
    /// Digest of its manifest or index.
    pub digest: String,
    /// Its config, as JSON.
    pub config: Vec<u8>,
}

impl BuildClient {
    /// Reads the options of the call.
    ///
    /// # Errors
    /// When the builder is too old or an option cannot be used.
    pub fn new(gateway: Arc<dyn Gateway>) -> Result<Self, Error> {
        let invocation = gateway.invocation();
        let opts = invocation.opts.clone();
        if !invocation.llb_caps.supports(caps::FILE_BASE) {
            return Err(Error::unknown(
                "needs BuildKit 0.5 or later: requested experimental feature file.base is not supported by build server, please update",
            ));
        }
        if opts
            .get("override-copy-image")
            .is_some_and(|v| !v.is_empty())
        {
            return Err(Error::unknown(
                "support for \"override-copy-image\" was removed in BuildKit 0.11",
            ));
        }
        let disabled = opts.get("build-arg:BUILDKIT_DISABLE_FILEOP");
        if disabled.is_some_and(|v| options::parse_bool(v) == Some(true)) {
            return Err(Error::unknown(
                "support for \"BUILDKIT_DISABLE_FILEOP\" build-arg was removed in BuildKit 0.11",
            ));
        }
        let config = Config::read(invocation)?;
        Ok(Self {
            config,
            opts,
            gateway,
            context: OnceCell::new(),
            ignore: OnceCell::new(),
            dockerfile_ignore: Mutex::new(None),
            images: Mutex::new(HashMap::new()),
            inputs: OnceCell::new(),
        })
    }

    /// The gateway behind it.
    pub fn gateway(&self) -> &Arc<dyn Gateway> {
        &self.gateway
    }

    /// What was asked for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All options.
    pub fn opts(&self) -> &BTreeMap<String, String> {
        &self.opts
    }

    /// Whether the builder can do what an op may ask.
    pub fn supports(&self, cap: &str) -> bool {
        self.gateway.invocation().llb_caps.supports(cap)
    }

    /// The session that has a local folder.
    pub fn session_of(&self, local: &str) -> String {
        match self.config.local_sessions.get(local) {
            Some(session) => session.clone(),
            None => self.gateway.invocation().session_id.clone(),
        }
    }

    /// Marshalling for this builder and a platform.
    pub fn marshal_options(&self, platform: &pb::Platform) -> MarshalOptions {
        MarshalOptions {
            sets_default_path: self.supports(caps::EXEC_META_SETS_DEFAULT_PATH),
            ..MarshalOptions::new(platform.clone())
        }
    }

    /// The graph of a state that is solved on its own.
    ///
    /// # Errors
    /// Only for a mistake of ours.
    pub fn marshal(&self, state: &State) -> Result<pb::Definition, Error> {
        state
            .marshal(&self.marshal_options(&platform::normalize(&platform::host())))
            .map_err(|e| Error::unknown(format!("failed to marshal LLB definition: {e}")))
    }

    /// Solves a graph to a single result.
    ///
    /// # Errors
    /// What the gateway says, and a result that is not single.
    pub async fn solve(&self, request: SolveRequest) -> Result<Ref, Error> {
        let result = self.gateway.solve(request).await?;
        match result.refs {
            Refs::Single(reference) => Ok(reference),
            Refs::None => Ok(Ref::scratch()),
            Refs::Map(_) => Err(Error::unknown("failed to get single ref")),
        }
    }

    /// The definitions that the caller handed over; none when it cannot.
    ///
    /// # Errors
    /// What the gateway says.
    pub async fn inputs(&self) -> Result<&BTreeMap<String, pb::Definition>, Error> {
        self.inputs
            .get_or_try_init(|| async {
                let caps = &self.gateway.invocation().frontend_caps;
                if !caps.supports("frontend.inputs") {
                    return Ok(BTreeMap::new());
                }
                match self.gateway.inputs().await {
                    Err(e) if e.code == Code::Unimplemented => Ok(BTreeMap::new()),
                    other => other.map_err(|e| e.context("failed to get frontend inputs")),
                }
            })
            .await
    }

    /// The config of an image, asked once for each reference and platform, errors included.
    ///
    /// # Errors
    /// What the gateway says.
    pub async fn resolve_image(
        &self,
        reference: &str,
        platform: &pb::Platform,
        log_name: String,
    ) -> Result<ResolvedImage, Error> {
        let key = format!("{reference} {}", platform::format_all(platform));
        let cell = {
            let mut images = self.images.lock().unwrap_or_else(|e| e.into_inner());
            Arc::clone(images.entry(key).or_default())
        };
        cell.get_or_init(|| self.ask_image(reference, platform, log_name))
            .await
            .clone()
    }

    async fn ask_image(
        &self,
        reference: &str,
        platform: &pb::Platform,
        log_name: String,
    ) -> Result<ResolvedImage, Error> {
        let mode = self.config.resolve_mode.as_str().to_owned();
        let caps = &self.gateway.invocation().frontend_caps;
        if !caps.supports("source.metaresolver") {
            let answer = self
                .gateway
                .resolve_image_config(ResolveImageConfigRequest {
                    reference: reference.to_owned(),
                    platform: Some(platform.clone()),
                    resolve_mode: mode,
                    log_name,
                    ..ResolveImageConfigRequest::default()
                })
                .await?;
            let reference = if answer.reference.is_empty() {
                reference.to_owned()
            } else {
                answer.reference
            };
            return Ok(ResolvedImage {
                reference,
                digest: answer.digest,
                config: answer.config,
            });
        }
        let answer = self
            .gateway
            .resolve_source_meta(ResolveSourceMetaRequest {
                source: pb::SourceOp {
                    identifier: format!("docker-image://{reference}"),
                    ..pb::SourceOp::default()
                },
                platform: Some(platform.clone()),
                log_name,
                resolve_mode: mode,
                image: Some(ImageMetaRequest::default()),
                ..ResolveSourceMetaRequest::default()
            })
            .await
            .map_err(|e| {
                // Hosts say it of an image's config, but not of a source.
                let prefix = format!("failed to resolve source metadata for {reference}");
                match e.message.starts_with(&prefix) {
                    true => e,
                    false => e.context(prefix),
                }
            })?;
        let identifier = &answer.source.identifier;
        let Some(updated) = identifier.strip_prefix("docker-image://") else {
            return Err(Error::unknown(format!(
                "ref \"docker-image://{reference}\" resolved to non-image {identifier:?}"
            )));
        };
        let image = answer
            .image
            .ok_or_else(|| Error::unknown(format!("no image config for {reference}")))?;
        Ok(ResolvedImage {
            reference: updated.to_owned(),
            digest: image.digest,
            config: image.config,
        })
    }
}
