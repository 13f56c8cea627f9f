//! Where a frontend's image comes from: a named context of its name, or its registry. Always for the
//! host's platform, never the build's target.

use std::collections::BTreeMap;

use gateway_api::{Error, ResolveImageConfigRequest};
use gateway_images::config::{ImageConfig, RunConfig};
use gateway_images::reference::Reference;
use gateway_llb::{
    Constraints, Copy, FileActions, GitRemote, GitSource, HttpSource, LocalSource, OciLayoutSource,
    State, platform,
};
use gateway_solver::Job;

use super::image::{FrontendImage, marshal, resolve_image};
use super::{Engine, FrontendCall};

/// The number of the resolver for OCI layouts.
const OCI_LAYOUT: i32 = 1;

/// What a frontend from the web is run as, unless it is an archive.
const DOWNLOADED: &str = "run";

/// Finds the image that `source` names.
pub(super) async fn resolve(
    engine: &Engine,
    job: &Job,
    call: &FrontendCall,
    source: &str,
) -> Result<FrontendImage, Error> {
    let reference = Reference::parse(source)
        .map_err(|error| Error::unknown(format!("invalid context name {source}: {error}")))?;
    let familiar = reference.familiar();
    let name = familiar.strip_suffix(":latest").unwrap_or(&familiar);
    let host = platform::format_all(&platform::normalize(engine.0.solver.default_platform()));
    let given = [format!("{name}::{host}"), name.to_owned()]
        .into_iter()
        .find_map(|key| Some((call.opts.get(&format!("context:{key}"))?, key)));
    let Some((value, key)) = given else {
        return resolve_image(engine, job, call, &reference).await;
    };
    let Some((scheme, rest)) = value.split_once(':') else {
        return Err(Error::unknown(format!(
            "invalid context specifier {value} for {key}"
        )));
    };
    let context = Context {
        engine,
        job,
        call,
        value,
        target: rest.strip_prefix("//").unwrap_or(rest),
        source,
    };
    match scheme {
        "docker-image" => context.image().await,
        "oci-layout" => context.layout(&reference).await,
        "local" => context.local(),
        "input" => context.input(&key),
        "git" => context.git(),
        "http" | "https" => match is_repository(value) {
            true => context.git(),
            false => context.http(),
        },
        scheme if scheme.starts_with("git@") => context.git(),
        other => Err(Error::unknown(format!(
            "unsupported context source {other} for {key}"
        ))),
    }
}

/// Over HTTP only what is called `*.git` is a repository.
fn is_repository(value: &str) -> bool {
    GitRemote::parse(value).is_ok_and(|remote| remote.path.ends_with(".git"))
}

/// A named context with the name of a frontend.
struct Context<'a> {
    engine: &'a Engine,
    job: &'a Job,
    call: &'a FrontendCall,
    value: &'a str,
    /// Behind the scheme.
    target: &'a str,
    /// The frontend as the user wrote it.
    source: &'a str,
}

impl Context<'_> {
    fn invalid(&self, problem: impl std::fmt::Display) -> Error {
        Error::unknown(format!("invalid named context {}: {problem}", self.value))
    }

    /// A file system without a config: its entry point is the default one.
    fn plain(&self, state: State) -> Result<FrontendImage, Error> {
        Ok(FrontendImage {
            definition: marshal(self.engine, state)?,
            config: RunConfig::default(),
            digest: String::new(),
            name: String::new(),
        })
    }

    fn constraints(&self) -> Constraints {
        let name = format!("[frontend] load {} from {}", self.source, self.shown());
        Constraints::new().name(name)
    }

    /// The context without what may be a password in it.
    fn shown(&self) -> String {
        gateway_images::registry::shown_url(self.value)
    }

    async fn image(&self) -> Result<FrontendImage, Error> {
        let reference = Reference::parse(self.target).map_err(|error| self.invalid(error))?;
        resolve_image(self.engine, self.job, self.call, &reference).await
    }

    async fn layout(&self, name: &Reference) -> Result<FrontendImage, Error> {
        let (store, digest) = self.target.split_once('@').ok_or_else(|| {
            self.invalid(
                "an OCI layout needs the digest of the image: oci-layout://STORE@sha256:...",
            )
        })?;
        // A tag says nothing beside the digest.
        let store = match store.rsplit_once(':') {
            Some((store, tag)) if !tag.contains('/') => store,
            _ => store,
        };
        let reference = format!("{}@{digest}", name.name());
        let session = self.job.session().id().to_owned();
        let resolved = self
            .job
            .resolve_image_config(
                ResolveImageConfigRequest {
                    reference: reference.clone(),
                    log_name: format!("resolve image config for {}", self.value),
                    resolver_type: OCI_LAYOUT,
                    session_id: session.clone(),
                    store_id: store.to_owned(),
                    ..ResolveImageConfigRequest::default()
                },
                &self.call.policies,
            )
            .await?;
        let config = ImageConfig::parse(&resolved.config).map_err(|error| self.invalid(error))?;
        let source = OciLayoutSource {
            reference,
            session,
            store: store.to_owned(),
            layer_limit: None,
        };
        Ok(FrontendImage {
            definition: marshal(self.engine, source.state(self.constraints()))?,
            config: config.config,
            digest: resolved.digest,
            name: String::new(),
        })
    }

    fn local(&self) -> Result<FrontendImage, Error> {
        let source = LocalSource {
            session: self.job.session().id().to_owned(),
            ..LocalSource::new(self.target)
        };
        self.plain(source.state(self.constraints()))
    }

    fn input(&self, key: &str) -> Result<FrontendImage, Error> {
        let name = self.target;
        let definition = self.call.inputs.get(name).cloned().ok_or_else(|| {
            Error::unknown(format!("invalid input {name} for {key}: no such input"))
        })?;
        let metadata = self.call.opts.get(&format!("input-metadata:{name}"));
        Ok(FrontendImage {
            definition,
            config: metadata.map_or(Ok(RunConfig::default()), |text| input_config(text))?,
            digest: String::new(),
            name: String::new(),
        })
    }

    /// `ADDRESS#REF:SUBDIR`.
    fn git(&self) -> Result<FrontendImage, Error> {
        let remote = GitRemote::parse(self.value).map_err(|error| self.invalid(error))?;
        if !remote.query.is_empty() {
            return Err(self.invalid("write what to check out as ADDRESS#REF:SUBDIR"));
        }
        let fragment = remote.fragment.as_str();
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        if subdir.split('/').any(|part| part == "..") {
            return Err(self.invalid("the folder lies outside of the repository"));
        }
        let source = GitSource {
            remote: remote.url.clone(),
            reference: reference.to_owned(),
            subdir: subdir.trim_matches('/').to_owned(),
            ..GitSource::default()
        };
        self.plain(source.state(self.constraints()))
    }

    /// An archive is the root file system; any other file is the program itself.
    fn http(&self) -> Result<FrontendImage, Error> {
        let file = HttpSource {
            url: self.value.to_owned(),
            filename: DOWNLOADED.to_owned(),
            perm: 0o755,
            ..HttpSource::default()
        }
        .state(self.constraints());
        let unpack = Copy {
            attempt_unpack: true,
            ..Copy::default()
        };
        let actions = FileActions::new().copy(&file, &format!("/{DOWNLOADED}"), "/", unpack);
        self.plain(State::scratch().file(actions, self.constraints()))
    }
}

/// The image config among an input's metadata: JSON, keys to base64.
fn input_config(metadata: &str) -> Result<RunConfig, Error> {
    use base64::Engine as _;
    let invalid = |error: &dyn std::fmt::Display| {
        Error::unknown(format!("invalid metadata of a frontend's input: {error}"))
    };
    let map: BTreeMap<String, String> =
        serde_json::from_str(metadata).map_err(|error| invalid(&error))?;
    let Some(config) = map.get(gateway_api::result::metadata::IMAGE_CONFIG) else {
        return Ok(RunConfig::default());
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(config)
        .map_err(|error| invalid(&error))?;
    let config = ImageConfig::parse(&bytes).map_err(|error| invalid(&error))?;
    Ok(config.config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_among_an_inputs_metadata_is_used() {
        use base64::Engine as _;
        let config = r#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/f"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let text = serde_json::json!({
            "containerimage.config": base64::engine::general_purpose::STANDARD.encode(config),
        });
        let config = input_config(&text.to_string()).unwrap();
        assert_eq!(config.entrypoint.unwrap(), ["/f"]);
        assert!(input_config("[]").is_err());
    }

    #[test]
    fn only_what_is_called_git_is_a_repository_over_http() {
        assert!(is_repository("https://example.com/a/b.git#main:dir"));
        assert!(!is_repository("https://example.com/a/b.tar.gz"));
    }
}
