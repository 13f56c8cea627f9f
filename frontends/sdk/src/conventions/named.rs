//! Named contexts: what `context:NAME=...` puts in the place of an image or stage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use gateway_api::{Error, ResolveImageConfigRequest, SolveRequest};
use gateway_llb::{
    Constraints, HttpSource, ImageSource, LocalSource, OciLayoutSource, Slot, State, pb, platform,
};

use super::git_ref::git_context;
use super::reference::ImageRef;
use super::{BuildClient, ignore};
use crate::image_config::Image;

/// The paths that a build uses of a state; shared, as stages inherit it.
pub type Paths = Arc<Mutex<BTreeSet<String>>>;

/// A named context that an option gives.
#[derive(Clone, Debug)]
pub struct NamedContext {
    value: String,
    name: String,
    /// The option's name, with its platform.
    key: String,
    shared_key: String,
    platform: pb::Platform,
}

/// A local folder whose needed paths are known only when all stages are converted.
#[derive(Clone, Debug)]
pub struct PendingLocal {
    slot: Slot,
    source: LocalSource,
    name: String,
    paths: Paths,
}

/// What a named context stands for.
pub struct Loaded {
    /// Its files.
    pub state: State,
    /// Its config, when it is an image.
    pub image: Option<Image>,
    /// To be filled in at the end.
    pub pending: Option<PendingLocal>,
}

impl PendingLocal {
    /// Fills the slot, with the paths that were asked for by now.
    pub fn fill(self) {
        let follow_paths = follow_paths(&self.paths.lock().unwrap_or_else(|e| e.into_inner()));
        let source = LocalSource {
            follow_paths,
            ..self.source
        };
        self.slot
            .fill(source.state(Constraints::new().name(self.name)));
    }
}

/// The paths to ask a client for: relative and sorted; none when the root itself is needed.
pub fn follow_paths(paths: &BTreeSet<String>) -> Vec<String> {
    if paths.contains("/") {
        return Vec::new();
    }
    let mut list: Vec<String> = paths
        .iter()
        .map(|path| gateway_llb::path::join(&[".", path.trim_start_matches('/')]))
        .collect();
    list.sort();
    list
}

impl BuildClient {
    /// The context of a name, if an option gives one. The name is shortened as an image
    /// reference; a key for the platform goes first.
    ///
    /// # Errors
    /// When the name cannot be one of a context.
    pub fn named_context(
        &self,
        name: &str,
        platform: &pb::Platform,
    ) -> Result<Option<NamedContext>, Error> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return Ok(None);
        }
        let reference = ImageRef::parse(name)
            .map_err(|e| Error::unknown(format!("invalid context name {name}: {e}")))?;
        // Of most builds nothing is asked but whether the names could be some.
        if !self.opts().keys().any(|key| key.starts_with("context:")) {
            return Ok(None);
        }
        let familiar = reference.familiar();
        let name = familiar.strip_suffix(":latest").unwrap_or(&familiar);
        let with_platform = format!(
            "{name}::{}",
            platform::format_all(&platform::normalize(platform))
        );
        for key in [with_platform.as_str(), name] {
            if let Some(value) = self.opts().get(&format!("context:{key}")) {
                let shared = self.opts().get(&format!("sharedkey:localdir:{key}"));
                return Ok(Some(NamedContext {
                    value: value.clone(),
                    name: name.to_owned(),
                    key: key.to_owned(),
                    shared_key: shared.cloned().unwrap_or_default(),
                    platform: platform.clone(),
                }));
            }
        }
        Ok(None)
    }

    /// Loads a named context. `paths` are those that the build will use of it.
    ///
    /// # Errors
    /// For a value that means nothing, and what its source says.
    pub async fn load_named(&self, context: &NamedContext, paths: &Paths) -> Result<Loaded, Error> {
        let value = &context.value;
        let key = &context.key;
        let Some((scheme, rest)) = value.split_once(':') else {
            return Err(Error::unknown(format!(
                "invalid context specifier {value} for {key}"
            )));
        };
        let target = rest.strip_prefix("//").unwrap_or(rest);
        let scheme = if scheme.starts_with("git@") {
            "git"
        } else {
            scheme
        };
        let only = |state: State| Loaded {
            state,
            image: None,
            pending: None,
        };
        match scheme {
            "docker-image" => self.load_image(context, target).await,
            "git" => match git_context(value, None, false) {
                Some(state) => Ok(only(state.map_err(Error::unknown)?)),
                None => Err(Error::unknown(format!("invalid git context {value}"))),
            },
            "http" | "https" => {
                if let Some(state) = git_context(value, None, false) {
                    return Ok(only(state.map_err(Error::unknown)?));
                }
                let source = HttpSource {
                    url: value.clone(),
                    filename: "context".to_owned(),
                    ..HttpSource::default()
                };
                let name = format!("[context {key}] {value}");
                Ok(only(source.state(Constraints::new().name(name))))
            }
            "oci-layout" => self.load_layout(context, target).await,
            "local" => self.load_local(context, rest, paths).await,
            "input" => self.load_input(context, rest).await,
            other => Err(Error::unknown(format!(
                "unsupported context source {other} for {key}"
            ))),
        }
    }

    async fn load_image(&self, context: &NamedContext, target: &str) -> Result<Loaded, Error> {
        if target == "scratch" {
            return Ok(Loaded {
                state: State::scratch(),
                image: None,
                pending: None,
            });
        }
        let key = &context.key;
        let reference = ImageRef::parse(target)
            .map_err(|e| Error::unknown(e.to_string()))?
            .tagged();
        let resolved = self
            .resolve_image(
                &reference.to_string(),
                &context.platform,
                format!("[context {key}] load metadata for {target}"),
            )
            .await?;
        let mut image = Image::parse(&resolved.config)?;
        image.created = None;
        let state = ImageSource::new(resolved.reference).state(
            Constraints::new()
                .name(format!("[context {key}] {target}"))
                .platform(context.platform.clone()),
        );
        Ok(Loaded {
            state: image.apply_to(&state),
            image: Some(image),
            pending: None,
        })
    }

    async fn load_layout(&self, context: &NamedContext, target: &str) -> Result<Loaded, Error> {
        let key = &context.key;
        let Some((store, digest)) = target.split_once('@') else {
            return Err(Error::unknown(format!(
                "oci-layout reference {target:?} has no digest"
            )));
        };
        let store =
            store.rsplit_once(':').map_or(
                store,
                |(name, tag)| {
                    if tag.contains('/') { store } else { name }
                },
            );
        let dummy = ImageRef::parse(&context.name)
            .map_err(|e| {
                Error::unknown(format!(
                    "could not parse oci-layout reference {:?}: {e}",
                    context.name
                ))
            })?
            .with_digest(digest)
            .to_string();
        let session = self.gateway().invocation().session_id.clone();
        let answer = self
            .gateway()
            .resolve_image_config(ResolveImageConfigRequest {
                reference: dummy.clone(),
                platform: Some(context.platform.clone()),
                log_name: format!("[context {key}] load metadata for {dummy}"),
                resolver_type: 1,
                session_id: session.clone(),
                store_id: store.to_owned(),
                ..ResolveImageConfigRequest::default()
            })
            .await?;
        let image = Image::parse(&answer.config)
            .map_err(|e| e.context("could not parse oci-layout image config"))?;
        let state = OciLayoutSource {
            reference: dummy,
            session,
            store: store.to_owned(),
            layer_limit: None,
        }
        .state(
            Constraints::new()
                .name(format!("[context {key}] OCI load from client"))
                .platform(context.platform.clone()),
        );
        Ok(Loaded {
            state: image.apply_to(&state),
            image: Some(image),
            pending: None,
        })
    }

    async fn load_local(
        &self,
        context: &NamedContext,
        local: &str,
        paths: &Paths,
    ) -> Result<Loaded, Error> {
        const DOCKERIGNORE: &str = ".dockerignore";
        let key = &context.key;
        let session = self.session_of(local);
        let state = LocalSource {
            session: session.clone(),
            follow_paths: vec![DOCKERIGNORE.to_owned()],
            shared_key_hint: format!("context:{key}-{DOCKERIGNORE}"),
            differ_none: true,
            ..LocalSource::new(local)
        }
        .state(Constraints::new().name(format!("[context {key}] load {DOCKERIGNORE}")));
        let reference = self
            .solve(SolveRequest {
                definition: Some(self.marshal(&state)?),
                evaluate: true,
                ..SolveRequest::default()
            })
            .await?;
        let ignore = self
            .gateway()
            .read_file(&reference, DOCKERIGNORE, None)
            .await;
        let slot = Slot::new();
        Ok(Loaded {
            state: slot.state(),
            image: None,
            pending: Some(PendingLocal {
                slot,
                source: LocalSource {
                    session,
                    exclude_patterns: ignore::patterns(&ignore.unwrap_or_default()),
                    shared_key_hint: format!("context:{key}-{}", context.shared_key),
                    ..LocalSource::new(local)
                },
                name: format!("[context {key}] load from client"),
                paths: Arc::clone(paths),
            }),
        })
    }

    async fn load_input(&self, context: &NamedContext, name: &str) -> Result<Loaded, Error> {
        let key = &context.key;
        let inputs = self.inputs().await?;
        let definition = inputs
            .get(name)
            .ok_or_else(|| Error::unknown(format!("invalid input {name} for {key}")))?;
        let mut state = State::from_definition(definition)
            .map_err(|e| Error::unknown(format!("failed to load input {name}: {e}")))?;
        let mut image = None;
        if let Some(text) = self.opts().get(&format!("input-metadata:{name}")) {
            let metadata: BTreeMap<String, String> = serde_json::from_str(text).map_err(|e| {
                Error::unknown(format!("failed to parse input metadata {text}: {e}"))
            })?;
            if let Some(encoded) = metadata.get("containerimage.config") {
                let config = crate::image_config::decode_base64(encoded).ok_or_else(|| {
                    Error::unknown(format!("failed to parse input metadata {text}"))
                })?;
                let parsed = Image::parse(&config)
                    .map_err(|e| e.context(format!("failed to parse image config for {key}")))?;
                state = parsed.apply_to(&state);
                image = Some(parsed);
            }
        }
        Ok(Loaded {
            state,
            image,
            pending: None,
        })
    }
}
