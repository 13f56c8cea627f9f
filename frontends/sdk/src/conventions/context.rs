//! The main context and the build file in it.

use std::sync::Arc;

use gateway_api::{Error, FileRange, SolveRequest, Warning};
use gateway_llb::{Constraints, Copy, FileActions, HttpSource, LocalSource, SourceMap, State};
use gateway_llb::{Graph, path, pb};

use super::git_ref::git_context;
use super::{BuildClient, ignore, options};

/// The name under which a context is sent when none is chosen.
pub const CONTEXT: &str = "context";
const DOCKERFILE: &str = "dockerfile";
const DEFAULT_FILENAME: &str = "Dockerfile";
const DOCKERIGNORE: &str = ".dockerignore";

/// How many bytes of a downloaded context tell whether it is an archive.
const SNIFFED: i64 = 1024;

/// Where the context and the build file are.
#[derive(Clone, Debug)]
pub struct BuildContext {
    /// The context, when it is not a local folder.
    pub context: Option<State>,
    /// What the build file is in, when that is not a local folder.
    dockerfile: Option<State>,
    /// Name of the local folder of the build file.
    dockerfile_local: String,
    /// Path of the build file.
    pub filename: String,
    force_local_dockerfile: bool,
}

/// The build file, read.
#[derive(Clone, Debug)]
pub struct BuildFile {
    /// File and name.
    pub map: Arc<SourceMap>,
    /// The vertex that warnings belong to.
    pub vertex: String,
}

impl BuildClient {
    /// Where the context is; asked once.
    ///
    /// # Errors
    /// For a bad address, or a download that fails.
    pub async fn build_context(&self) -> Result<&BuildContext, Error> {
        self.context.get_or_try_init(|| self.find_context()).await
    }

    async fn find_context(&self) -> Result<BuildContext, Error> {
        let opts = self.opts();
        let option = |key: &str| opts.get(key).map(String::as_str);
        let mut found = BuildContext {
            context: None,
            dockerfile: None,
            dockerfile_local: option("dockerfilekey").unwrap_or(DOCKERFILE).to_owned(),
            filename: option("filename").unwrap_or(DEFAULT_FILENAME).to_owned(),
            force_local_dockerfile: opts.contains_key("dockerfilekey"),
        };
        let key = option("contextkey").unwrap_or(CONTEXT);
        let address = option(key).unwrap_or_default();
        let keep_git =
            option("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR").and_then(options::parse_bool);
        let epoch = option("build-arg:SOURCE_DATE_EPOCH").is_some_and(|v| !v.is_empty());

        if let Some(git) = git_context(address, keep_git, epoch) {
            let state = git.map_err(Error::unknown)?;
            found.context = Some(state.clone());
            found.dockerfile = Some(state);
        } else if address.starts_with("http://") || address.starts_with("https://") {
            let filename = CONTEXT;
            let state = HttpSource {
                url: address.to_owned(),
                filename: filename.to_owned(),
                ..HttpSource::default()
            }
            .state(Constraints::new().name("[internal] load remote build context"));
            let definition = self.marshal(&state)?;
            let reference = self
                .solve(SolveRequest {
                    definition: Some(definition),
                    ..SolveRequest::default()
                })
                .await
                .map_err(|e| e.context("failed to resolve httpcontext"))?;
            let range = FileRange {
                offset: 0,
                length: SNIFFED,
            };
            let head = self
                .gateway()
                .read_file(&reference, filename, Some(range))
                .await
                .map_err(|e| e.context("failed to read downloaded context"))?;
            let state = if is_archive(&head) {
                let unpack = Copy {
                    attempt_unpack: true,
                    ..Copy::default()
                };
                let copy = FileActions::new().copy(&state, &format!("/{filename}"), "/", unpack);
                State::scratch().file(copy, Constraints::new())
            } else {
                found.filename = filename.to_owned();
                state
            };
            found.context = Some(state.clone());
            found.dockerfile = Some(state);
        } else {
            let inputs = self.inputs().await?;
            let state = |name: &str| {
                let definition = inputs.get(name);
                definition
                    .map(State::from_definition)
                    .transpose()
                    .map_err(|e| Error::unknown(format!("failed to load input {name}: {e}")))
            };
            if !found.force_local_dockerfile {
                found.dockerfile = state(&found.dockerfile_local)?;
            }
            found.context = state(CONTEXT)?;
        }

        if let (Some(context), Some(subdir)) = (&found.context, option("contextsubdir")) {
            let contents = Copy {
                dir_contents_only: true,
                ..Copy::default()
            };
            let copy = FileActions::new().copy(context, subdir, "/", contents);
            found.context = Some(State::scratch().file(copy, Constraints::new()));
        }
        Ok(found)
    }

    /// Reads the build file.
    ///
    /// # Errors
    /// When there is none or its source fails.
    pub async fn read_build_file(&self, language: &str) -> Result<BuildFile, Error> {
        let context = self.build_context().await?;
        let filename = &context.filename;
        let lower = lowercase_name(filename);
        let state = match &context.dockerfile {
            Some(state) if !context.force_local_dockerfile => state.clone(),
            _ => {
                let mut follow = vec![filename.clone(), format!("{filename}.dockerignore")];
                follow.extend(lower.clone());
                LocalSource {
                    session: self.session_of(&context.dockerfile_local),
                    follow_paths: follow,
                    shared_key_hint: context.dockerfile_local.clone(),
                    differ_none: true,
                    ..LocalSource::new(&context.dockerfile_local)
                }
                .state(
                    Constraints::new()
                        .name(format!("[internal] load build definition from {filename}")),
                )
            }
        };
        let definition = self.marshal(&state)?;
        let vertex = Graph::load(&definition)
            .map(|graph| graph.result().digest.clone())
            .unwrap_or_default();
        let reference = self
            .solve(SolveRequest {
                definition: Some(definition.clone()),
                ..SolveRequest::default()
            })
            .await
            .map_err(|e| e.context("failed to resolve dockerfile"))?;
        let data = match self.gateway().read_file(&reference, filename, None).await {
            Ok(data) => data,
            Err(error) => {
                let other = match &lower {
                    Some(lower) => self.gateway().read_file(&reference, lower, None).await.ok(),
                    None => None,
                };
                other.ok_or_else(|| error.context("failed to read dockerfile"))?
            }
        };
        let ignore_name = format!("{filename}.dockerignore");
        // A missing file is the usual case, so no error here is worth a failed build.
        if let Ok(bytes) = self
            .gateway()
            .read_file(&reference, &ignore_name, None)
            .await
        {
            let mut own = self
                .dockerfile_ignore
                .lock()
                .unwrap_or_else(|e| e.into_inner());
            *own = Some((ignore_name, bytes));
        }
        Ok(BuildFile {
            map: Arc::new(SourceMap {
                filename: filename.clone(),
                language: language.to_owned(),
                data,
                definition: Some(definition),
            }),
            vertex,
        })
    }

    /// The patterns of the context's ignore file; none for contexts that are not local.
    ///
    /// # Errors
    /// When the context cannot be read.
    pub async fn ignore_patterns(&self) -> Result<&[String], Error> {
        if self.build_context().await?.context.is_some() {
            return Ok(&[]);
        }
        let patterns = self
            .ignore
            .get_or_try_init(|| async {
                let own = {
                    let own = self
                        .dockerfile_ignore
                        .lock()
                        .unwrap_or_else(|e| e.into_inner());
                    own.clone()
                };
                let bytes = match own {
                    Some((_, bytes)) => bytes,
                    None => self.read_ignore_file().await?,
                };
                Ok::<_, Error>(ignore::patterns(&bytes))
            })
            .await?;
        Ok(patterns)
    }

    async fn read_ignore_file(&self) -> Result<Vec<u8>, Error> {
        let state = LocalSource {
            session: self.session_of(CONTEXT),
            follow_paths: vec![DOCKERIGNORE.to_owned()],
            shared_key_hint: format!("{CONTEXT}-{DOCKERIGNORE}"),
            differ_none: true,
            ..LocalSource::new(CONTEXT)
        }
        .state(Constraints::new().name(format!("[internal] load {DOCKERIGNORE}")));
        let reference = self
            .solve(SolveRequest {
                definition: Some(self.marshal(&state)?),
                ..SolveRequest::default()
            })
            .await?;
        let read = self
            .gateway()
            .read_file(&reference, DOCKERIGNORE, None)
            .await;
        Ok(read.unwrap_or_default())
    }

    /// The main context, narrowed to the paths that the build needs (empty: all).
    ///
    /// # Errors
    /// When its ignore file cannot be read.
    pub async fn main_context(&self, follow_paths: Vec<String>) -> Result<State, Error> {
        if let Some(context) = &self.build_context().await?.context {
            return Ok(context.clone());
        }
        let excludes = self
            .ignore_patterns()
            .await
            .map_err(|e| e.context("failed to read dockerignore patterns"))?;
        Ok(LocalSource {
            session: self.session_of(CONTEXT),
            exclude_patterns: excludes.to_vec(),
            follow_paths,
            shared_key_hint: CONTEXT.to_owned(),
            ..LocalSource::new(CONTEXT)
        }
        .state(Constraints::new().name("[internal] load build context")))
    }
}

impl BuildFile {
    /// A warning about some lines of the file.
    pub fn warning(
        &self,
        text: String,
        detail: &str,
        url: &str,
        ranges: Vec<pb::Range>,
    ) -> Warning {
        Warning {
            info: Some(self.map.to_info()),
            ..self.short_warning(text, detail, url, ranges)
        }
    }

    /// A warning that names lines of the file without bringing it along: where there are many, or the file is large.
    pub fn short_warning(
        &self,
        text: String,
        detail: &str,
        url: &str,
        ranges: Vec<pb::Range>,
    ) -> Warning {
        Warning {
            digest: self.vertex.clone(),
            level: 1,
            short: text.into_bytes(),
            detail: vec![detail.as_bytes().to_vec()],
            url: url.to_owned(),
            info: Some(pb::SourceInfo {
                filename: self.map.filename.clone(),
                language: self.map.language.clone(),
                ..pb::SourceInfo::default()
            }),
            ranges,
        }
    }
}

/// The lower-case name that is tried when there is no `Dockerfile`.
fn lowercase_name(filename: &str) -> Option<String> {
    (path::base(filename) == DEFAULT_FILENAME)
        .then(|| path::join(&[&path::dir(filename), &DEFAULT_FILENAME.to_lowercase()]))
}

/// By the magic numbers of bzip2, gzip and xz, and the checksum of a tar header.
fn is_archive(head: &[u8]) -> bool {
    let magic: [&[u8]; 3] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0"];
    magic.iter().any(|m| head.starts_with(m)) || is_tar(head)
}

fn is_tar(head: &[u8]) -> bool {
    let (Some(header), Some(field)) = (head.get(..512), head.get(148..156)) else {
        return false;
    };
    let text = String::from_utf8_lossy(field);
    let text = text.trim_matches(['\0', ' ']);
    let Ok(want) = u32::from_str_radix(text, 8) else {
        return false;
    };
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(i, b)| {
            if (148..156).contains(&i) {
                32
            } else {
                u32::from(*b)
            }
        })
        .sum();
    sum == want
}
