//! A Dockerfile as LLB and an image config.
//!
//! The order of work: global ARGs ([`args`]), the stages and what they need of each other
//! (`collect`), base images of what the target needs (`resolve`), then the instructions of
//! those stages in file order (`dispatch` and its kin). What is not needed is not touched.

pub mod args;
mod budget;
pub mod checks;
mod collect;
mod config;
mod copy;
mod copy_words;
mod dispatch;
pub mod draft;
mod epoch;
mod expose;
mod mounts;
mod names;
mod paths;
mod resolve;
mod run;
mod signal;
pub mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::{Detail, Error, SourceLocation, parse_bool};
use gateway_llb::{Constraints, Env, Slot, State, pb};

use crate::parse::expand::Expander;
use crate::parse::{Dockerfile, LineRange};
use gateway_frontend::conventions::named::follow_paths;
use gateway_frontend::conventions::{BuildClient, BuildFile, PendingLocal, ignore};

pub(crate) use paths::is_absolute;

use args::ArgInfo;
use budget::Budget;
use checks::Checks;
pub use gateway_frontend::image_config as image;

use image::Image;
use stage::{Stage, Stages};

/// What is converted, and for what.
pub struct Request<'a> {
    /// The build's client.
    pub client: &'a BuildClient,
    /// The build file.
    pub file: &'a BuildFile,
    /// The build file, parsed.
    pub dockerfile: &'a Dockerfile,
    /// The platform to build for; `None` for the builder's own.
    pub platform: Option<pb::Platform>,
    /// Convert all stages, needed or not (for checks).
    pub all_stages: bool,
    /// Where findings go.
    pub checks: &'a Checks,
}

/// A converted target.
pub struct Converted {
    /// Its files.
    pub state: State,
    /// Its config.
    pub image: Image,
    /// The config that it began with.
    pub base_image: Option<Image>,
    /// Times in the result are no later; seconds since 1970.
    pub epoch: Option<i64>,
    /// The platform of ops that name none.
    pub platform: pb::Platform,
    /// What a bill of materials is to list besides the result, by name.
    pub scanned: BTreeMap<String, State>,
    /// Some step of it runs even when its result is known.
    pub ignores_cache: bool,
    /// The stages, for outlines.
    pub stages: Vec<Stage>,
    /// The number of the target among them.
    pub target: usize,
}

pub(crate) struct Converter<'a> {
    client: &'a BuildClient,
    file: &'a BuildFile,
    dockerfile: &'a Dockerfile,
    checks: &'a Checks,
    all_stages: bool,

    target_platform: pb::Platform,
    implicit_platform: bool,
    rules: Expander,
    build_args: BTreeMap<String, String>,
    global: Env,
    global_args: Arc<BTreeMap<String, ArgInfo>>,
    proxy: Option<pb::ProxyEnv>,
    epoch: Option<i64>,

    stages: Stages,
    build_context: Slot,
    context_paths: BTreeSet<String>,
    pending: Vec<PendingLocal>,
    ignore: ignore::Matcher,
    groups: usize,
    /// The stage whose instructions are being converted.
    current: usize,
    budget: Budget,
}

/// Converts a Dockerfile.
///
/// # Errors
/// Mistakes in the file with their lines, and what the gateway says.
pub async fn convert(request: Request<'_>) -> Result<Converted, Error> {
    let mut converter = Converter::new(request).await?;
    converter.resolve_epoch().await?;
    converter.collect_stages().await?;
    let target = converter.find_target()?;
    converter.link_stages().await?;
    let reachable = converter.resolve_stages(target).await?;
    converter.dispatch_stages(&reachable, target).await?;
    converter.finish(target).await
}

impl<'a> Converter<'a> {
    async fn new(request: Request<'a>) -> Result<Self, Error> {
        let config = request.client.config();
        let build = config.build_platforms.first().cloned().unwrap_or_default();
        let target_platform = request.platform.clone().unwrap_or_else(|| build.clone());
        let rules = Expander::new(request.dockerfile.escape.0);
        let last = request.dockerfile.stages.last();
        let stage = if config.target.is_empty() {
            last.and_then(|s| s.name.as_deref()).unwrap_or_default()
        } else {
            &config.target
        };
        let automatic = args::automatic(&build, &target_platform, stage, &config.build_args);

        let mut converter = Self {
            client: request.client,
            file: request.file,
            dockerfile: request.dockerfile,
            checks: request.checks,
            all_stages: request.all_stages,
            implicit_platform: request.platform.is_none(),
            target_platform,
            rules,
            build_args: config.build_args.clone(),
            global: Env::default(),
            global_args: Arc::default(),
            proxy: args::proxy(&config.build_args),
            epoch: None,
            stages: Stages::default(),
            build_context: Slot::new(),
            context_paths: BTreeSet::new(),
            pending: Vec::new(),
            ignore: ignore::Matcher::default(),
            groups: 0,
            current: usize::MAX,
            budget: Budget::default(),
        };
        converter.check_default_bases(&automatic).await;
        let instructions = &converter.dockerfile.meta_args;
        let given = Some(&converter.build_args);
        let (global, all) = args::global(automatic, instructions, rules, given, &converter.budget)
            .await
            .map_err(|(e, lines)| converter.at(Error::unknown(e.to_string()), lines))?;
        converter.global = global;
        converter.global_args = Arc::new(all);
        Ok(converter)
    }

    /// The error with the lines of the file that it is about.
    fn at(&self, error: Error, lines: LineRange) -> Error {
        locate(self.file, error, lines)
    }

    /// Metadata of an op that comes from some lines.
    fn place(&self, lines: Option<LineRange>) -> Constraints {
        match lines {
            Some(lines) => Constraints::new().at(&self.file.map, ranges(lines)),
            None => Constraints::new(),
        }
    }

    fn find_target(&self) -> Result<usize, Error> {
        let target = &self.client.config().target;
        if target.is_empty() {
            return self
                .stages
                .len()
                .checked_sub(1)
                .ok_or_else(|| Error::unknown("dockerfile contains no stages to build"));
        }
        self.stages.by_name(target).ok_or_else(|| {
            let text = format!(
                "target stage {} could not be found",
                crate::parse::quote::go_quote(target)
            );
            Error::unknown(self.hint(text, target))
        })
    }

    /// A message with the stage name that may have been meant.
    fn hint(&self, message: String, word: &str) -> String {
        crate::parse::suggest::with_hint(message, word, self.stages.shown_names())
    }

    /// What ARGs ask to be scanned: the context of the target, and stages it is built from.
    fn scanned(&self, target: usize) -> (BTreeMap<String, State>, bool) {
        let [context, stages] = args::NOT_IN_ENV;
        let mut found = BTreeMap::new();
        let mut ignores_cache = false;
        if self.client.config().sbom.is_none() {
            return (found, ignores_cache);
        }
        for index in self.stages.reachable(target) {
            let Some(stage) = self.stages.get(index) else {
                continue;
            };
            if index == target {
                if self.is_asked(stage, context) {
                    found.insert("context".to_owned(), self.build_context.state());
                }
            } else if self.is_asked(stage, stages) {
                found.insert(stage.shown_name.clone(), stage.state.clone());
                ignores_cache |= stage.no_cache;
            }
        }
        (found, ignores_cache)
    }

    /// Whether an ARG is true for a stage, or lists its name. The stage's own word goes last.
    fn is_asked(&self, stage: &Stage, key: &str) -> bool {
        let own = stage.args.get(key).flatten();
        let value = own.or_else(|| self.global.get(key));
        value.is_some_and(|value| {
            parse_bool(value)
                .unwrap_or_else(|| value.split(',').any(|name| name == stage.shown_name))
        })
    }

    async fn finish(mut self, target: usize) -> Result<Converted, Error> {
        let labels = self.client.config().labels.clone();
        let context = self
            .client
            .main_context(follow_paths(&self.context_paths))
            .await?;
        self.build_context.fill(context);
        for local in self.pending.drain(..) {
            local.fill();
        }
        let platform = &self.target_platform;
        let implicit = self.implicit_platform;
        let Some(stage) = self.stages.get_mut(target) else {
            return Err(Error::unknown("dockerfile contains no stages to build"));
        };
        let mut image = stage.image.to_image();
        image.config.labels.extend(labels);
        if !implicit {
            let same = image.os == platform.os && image.architecture == platform.architecture;
            image.os.clone_from(&platform.os);
            image.architecture.clone_from(&platform.architecture);
            if !same || !platform.variant.is_empty() {
                image.variant.clone_from(&platform.variant);
            }
            if !same || !platform.os_version.is_empty() {
                image.os_version.clone_from(&platform.os_version);
            }
            if !platform.os_features.is_empty() {
                image.os_features.clone_from(&platform.os_features);
            }
        }
        let normal = gateway_llb::platform::normalize(&image.platform());
        image.set_platform(&normal);
        let ignores_cache = stage.no_cache;
        let state = stage.state.clone();
        let base_image = stage.base_image.clone();
        let (scanned, stage_ignores_cache) = self.scanned(target);
        Ok(Converted {
            scanned,
            ignores_cache: ignores_cache || stage_ignores_cache,
            state,
            image,
            base_image,
            epoch: self.epoch,
            platform: self.target_platform,
            stages: self.stages.into_vec(),
            target,
        })
    }
}

/// An error with the lines of a build file that it is about.
pub fn locate(file: &BuildFile, mut error: Error, lines: LineRange) -> Error {
    let place = Detail::Source(SourceLocation {
        info: file.map.to_info(),
        ranges: ranges(lines),
    });
    if !error.details.contains(&place) {
        error.details.insert(0, place);
    }
    error
}

/// How many lines the places of one answer may name one by one: an instruction may have as many lines as findings or
/// variables. Places beyond name the first and the last of their lines.
pub const MAX_LINES: usize = 1 << 20;

/// [`ranges`], as long as there are lines left.
pub fn some_ranges(lines: LineRange, left: &mut usize) -> Vec<pb::Range> {
    match left.checked_sub(lines.lines().len()) {
        Some(rest) => {
            *left = rest;
            ranges(lines)
        }
        None => vec![range(lines)],
    }
}

/// Lines as they travel: one range for each.
pub fn ranges(lines: LineRange) -> Vec<pb::Range> {
    lines.lines().map(LineRange::line).map(range).collect()
}

/// Lines as one range.
fn range(lines: LineRange) -> pb::Range {
    let position = |line: u32| pb::Position {
        line: i32::try_from(line).unwrap_or(i32::MAX),
        character: 0,
    };
    pb::Range {
        start: Some(position(lines.start)),
        end: Some(position(lines.end)),
    }
}
