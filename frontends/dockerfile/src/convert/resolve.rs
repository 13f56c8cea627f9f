//! What the needed stages begin with: base images, named contexts, and the triggers of bases.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::try_join_all;
use gateway_api::Error;
use gateway_llb::{ImageSource, State, pb, platform};

use super::image::Image;
use super::stage::{SCRATCH, Stage};
use super::{Converter, checks::Checks};
use crate::lint::rules;
use crate::parse::quote::go_quote;
use crate::parse::suggest::with_hint;
use crate::parse::{Instruction, Kind, parse_onbuild_trigger};
use gateway_frontend::conventions::PendingLocal;
use gateway_frontend::conventions::reference::ImageRef;

/// Image names that a mistyped base may have meant.
const COMMON_IMAGES: [&str; 7] = [
    "alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora",
];

/// How many bases are asked for at once: enough that none waits in an honest file, and not a question for each line of
/// one that names a hundred thousand.
const AT_ONCE: usize = 128;

/// What a stage begins with.
struct Base {
    base_name: String,
    state: State,
    image: Image,
    base_image: Option<Image>,
    platform: Option<pb::Platform>,
    pending: Option<PendingLocal>,
    /// Nothing of the stage itself is left to do.
    complete: bool,
    /// The op is made when the step's name is known.
    pull: Option<pb::Platform>,
}

impl Converter<'_> {
    /// Resolves the bases of all that `target` needs, triggers included.
    pub(super) async fn resolve_stages(&mut self, target: usize) -> Result<BTreeSet<usize>, Error> {
        let mut reachable = BTreeSet::new();
        let mut waiting = vec![target];
        let mut first = true;
        while !waiting.is_empty() {
            let new = self
                .stages
                .reach(std::mem::take(&mut waiting), &mut reachable);
            // What is not needed must be good references.
            let mut bases: Vec<usize> = new.iter().copied().collect();
            if std::mem::take(&mut first) {
                bases = (0..self.stages.len()).collect();
            }
            self.resolve_bases(&bases, &reachable).await?;
            for index in new {
                self.budget.turn().await;
                self.stages.inherit(index);
                waiting.extend(self.take_triggers(index)?);
            }
        }
        Ok(reachable)
    }

    /// Puts the triggers of the base in front of a stage's instructions, and tells which stages
    /// and images they read.
    fn take_triggers(&mut self, index: usize) -> Result<Vec<usize>, Error> {
        let Some(stage) = self.stages.get_mut(index) else {
            return Ok(Vec::new());
        };
        let triggers = std::mem::take(&mut stage.image.on_build);
        let mut triggers: Vec<String> = triggers.iter().cloned().collect();
        let location = stage.location.unwrap_or_default();
        if let (Some(base), false) = (stage.base, stage.took_triggers) {
            stage.took_triggers = true;
            let of_base = self.stages.get(base).map(|b| b.commands.as_slice());
            for command in of_base.unwrap_or_default() {
                if let Kind::Onbuild(onbuild) = &command.instruction.kind {
                    triggers.push(onbuild.expression.clone());
                }
            }
        }
        let mut read = Vec::new();
        let mut commands = Vec::with_capacity(triggers.len());
        for trigger in &triggers {
            self.budget
                .text(trigger.len() + size_of::<Instruction>())
                .map_err(|e| self.at(e, location))?;
            let instruction = parse_onbuild_trigger(trigger, location)
                .map_err(|e| self.at(Error::unknown(e.message), location))?;
            let command = self.link(index, Arc::new(instruction), true)?;
            read.extend(&command.sources);
            commands.push(command);
        }
        if let Some(stage) = self.stages.get_mut(index) {
            stage.steps += commands.len();
            commands.append(&mut stage.commands);
            stage.commands = commands;
        }
        Ok(read)
    }

    async fn resolve_bases(
        &mut self,
        stages: &[usize],
        reachable: &BTreeSet<usize>,
    ) -> Result<(), Error> {
        let mut waiting = Vec::new();
        for index in stages {
            let needed = self.all_stages || reachable.contains(index);
            let stage = self.stages.get(*index);
            if stage.is_some_and(|s| s.base.is_none() && !s.dispatched && !s.resolved) {
                waiting.push((*index, needed));
            }
        }
        for some in waiting.chunks(AT_ONCE) {
            self.budget.turn().await;
            self.resolve_some(some).await?;
        }
        Ok(())
    }

    async fn resolve_some(&mut self, waiting: &[(usize, bool)]) -> Result<(), Error> {
        let this = &*self;
        let bases = try_join_all(waiting.iter().map(|(index, needed)| async move {
            let Some(stage) = this.stages.get(*index) else {
                return Ok(None);
            };
            match this.resolve_base(stage, *needed).await {
                Ok(base) => Ok(base.map(|base| (*index, base))),
                Err(e) => Err(match stage.location {
                    Some(lines) => this.at(e, lines),
                    None => e,
                }),
            }
        }))
        .await?;
        for (index, base) in bases.into_iter().flatten() {
            self.begin(index, base);
        }
        Ok(())
    }

    /// Gives a stage its base; the step's name counts, so this is done in file order.
    fn begin(&mut self, index: usize, base: Base) {
        let Some(stage) = self.stages.get_mut(index) else {
            return;
        };
        stage.resolved = true;
        stage.state = base.state;
        stage.dispatched = base.complete || stage.is_image;
        stage.base_name = base.base_name;
        stage.image = base.image.into();
        stage.base_image = base.base_image;
        if let Some(platform) = base.pull {
            stage.count_step();
            let text = format!("FROM {}", stage.base_name);
            let name = stage.step_name(&text, Some(&platform), None);
            let code = stage.code.clone();
            let lines = stage.location;
            let source = ImageSource {
                resolve_mode: self.client.config().resolve_mode,
                ..ImageSource::new(stage.base_name.as_str())
            };
            let constraints = self
                .place(lines)
                .describe("com.docker.dockerfile.v1.command", code)
                .platform(platform)
                .name(name);
            if let Some(stage) = self.stages.get_mut(index) {
                stage.state = source.state(constraints);
            }
        }
        if let Some(stage) = self.stages.get_mut(index)
            && base.platform.is_some()
        {
            stage.platform = base.platform;
        }
        self.pending.extend(base.pending);
    }

    async fn resolve_base(&self, stage: &Stage, needed: bool) -> Result<Option<Base>, Error> {
        let name = &stage.base_name;
        if name == SCRATCH && stage.named.is_none() {
            return Ok(needed.then(|| Base {
                base_name: name.clone(),
                state: State::scratch(),
                image: Image::scratch(&self.target_platform),
                base_image: None,
                platform: Some(self.target_platform.clone()),
                pending: None,
                complete: false,
                pull: None,
            }));
        }
        let reference = ImageRef::parse(name)
            .map_err(|e| {
                let error = Error::unknown(format!(
                    "failed to parse stage name {}: {e}",
                    go_quote(name)
                ));
                match self.stages.by_name(name).and_then(|i| self.stages.get(i)) {
                    Some(meant) => error.with_help(format!(
                        "FROM takes the names of stages in lower case: write FROM {}",
                        meant.shown_name
                    )),
                    None => error,
                }
            })?
            .tagged();
        if !needed {
            return Ok(None);
        }
        let full = reference.to_string();
        let platform = stage.platform.as_ref().unwrap_or(&self.target_platform);

        if let Some(named) = &stage.named {
            let loaded = self.client.load_named(named, &stage.paths).await?;
            let mut image = loaded.image.unwrap_or_default();
            image.created = None;
            let has_platform = !image.os.is_empty() && !image.architecture.is_empty();
            return Ok(Some(Base {
                base_name: full,
                state: loaded.state,
                platform: has_platform.then(|| image.platform()),
                image,
                base_image: None,
                pending: loaded.pending,
                complete: true,
                pull: None,
            }));
        }
        if let Some(named) = self.client.named_context(&full, platform)? {
            let loaded = self.client.load_named(&named, &stage.paths).await?;
            let mut image = loaded.image.unwrap_or_else(|| Image::scratch(platform));
            let base_image = Some(image.clone());
            image.created = None;
            return Ok(Some(Base {
                base_name: full,
                state: loaded.state.platform(platform.clone()),
                image,
                base_image,
                platform: Some(platform.clone()),
                pending: loaded.pending,
                complete: false,
                pull: None,
            }));
        }

        let shown = if self.client.config().multi_platform {
            format!("{} ", platform::format_all(platform))
        } else {
            String::new()
        };
        let log_name = format!("[{shown}internal] load metadata for {full}");
        let resolved = self
            .client
            .resolve_image(&full, platform, log_name)
            .await
            .map_err(|e| self.unresolved(e, name))?;
        let mut reference = reference;
        if resolved.reference != full {
            reference = ImageRef::parse(&resolved.reference).map_err(|e| {
                Error::unknown(format!(
                    "failed to parse ref {}: {e}",
                    go_quote(&resolved.reference)
                ))
            })?;
        }
        let mut image = Image::parse(&resolved.config)?;
        let base_image = Some(image.clone());
        image.created = None;
        let mut platform = platform.clone();
        if stage.platform.is_none() && self.implicit_platform {
            platform = self.detect_platform(&image, platform);
        }
        if !resolved.digest.is_empty() {
            reference = reference.with_digest(&resolved.digest);
        }
        check_base_platform(self.checks, name, &platform, &image, stage);
        Ok(Some(Base {
            base_name: reference.to_string(),
            state: State::scratch(),
            pull: (!image.is_empty()).then(|| platform.clone()),
            image,
            base_image,
            platform: Some(platform),
            pending: None,
            complete: false,
        }))
    }

    /// Without a wish for a platform, an image of another one that the builder runs is taken as
    /// it is.
    fn detect_platform(&self, image: &Image, target: pb::Platform) -> pb::Platform {
        if target.os == image.os && target.architecture == image.architecture {
            return target;
        }
        let mut supported = self.client.config().build_platforms.iter();
        supported
            .find(|p| p.os == image.os && p.architecture == image.architecture)
            .cloned()
            .unwrap_or(target)
    }

    /// An image that is not there may be a mistyped stage.
    fn unresolved(&self, error: Error, name: &str) -> Error {
        let mut error = error.context(name);
        let latest = COMMON_IMAGES.map(|image| format!("{image}:latest"));
        let images = COMMON_IMAGES.iter().zip(&latest);
        let images = images.flat_map(|(image, latest)| [*image, latest.as_str()]);
        error.message = with_hint(error.message, name, self.stages.shown_names().chain(images));
        error
    }
}

fn check_base_platform(
    checks: &Checks,
    name: &str,
    expected: &pb::Platform,
    image: &Image,
    stage: &Stage,
) {
    let actual = image.platform();
    if image.is_empty()
        || (expected.os == actual.os && expected.architecture == actual.architecture)
    {
        return;
    }
    let show = |p: &pb::Platform| platform::format_all(&platform::normalize(p));
    let finding = rules::invalid_base_image_platform(name, &show(expected), &show(&actual));
    let lines = stage.location.unwrap_or_default();
    checks.found(lines, &stage.comments, finding);
}
