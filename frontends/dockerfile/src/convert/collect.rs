//! The stages of the file, with their bases and platforms expanded, and what they read of each
//! other.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_api::Error;
use gateway_llb::{pb, platform};

use super::Converter;
use super::args;
use super::stage::{Command, Parameters, SCRATCH, Stage};
use crate::lint::rules;
use crate::parse::expand::{Expanded, NoVars};
use crate::parse::mount::Mount;
use crate::parse::suggest::nearest;
use crate::parse::{Instruction, Kind, LineRange};
use gateway_frontend::conventions::reference::ImageRef;

/// How many instructions of a ring are shown: each brings the whole file along. Of a longer ring those that close it.
const MAX_RING_SHOWN: usize = 16;

impl Converter<'_> {
    /// The rule InvalidDefaultArgInFrom: bases that are no reference without build args.
    pub(super) async fn check_default_bases(&self, automatic: &gateway_llb::Env) {
        let instructions = &self.dockerfile.meta_args;
        let env = automatic.clone();
        let global = args::global(env, instructions, self.rules, None, &self.budget);
        let Ok((env, _)) = global.await else {
            return;
        };
        for stage in &self.dockerfile.stages {
            self.budget.turn().await;
            let Ok(base) = self.budget.expand(self.rules, &stage.base, &env) else {
                return;
            };
            if ImageRef::parse(&base.value).is_err() {
                let finding = rules::invalid_default_arg_in_from(&stage.base);
                // A comment above FROM does not silence it (observed).
                self.checks.found(stage.location, &[], finding);
            }
        }
    }

    fn check_from_args(&self, unmatched: &BTreeSet<String>, stage: &crate::parse::Stage) {
        for name in unmatched {
            if self.global.get(name).is_some() || self.global_args.contains_key(name) {
                continue;
            }
            let known = || {
                let declared = self.global_args.keys().map(String::as_str);
                self.global.keys().chain(declared).collect::<BTreeSet<_>>()
            };
            let bytes = 2 * self.global.bytes() + name.len();
            let near = (self.budget.may_compare(bytes))
                .then(|| nearest(name, known()))
                .flatten();
            let finding = rules::undefined_arg_in_from(name, near);
            self.checks.found(stage.location, &stage.comments, finding);
        }
    }

    /// The stages of the file, with their bases and platforms expanded.
    pub(super) async fn collect_stages(&mut self) -> Result<(), Error> {
        for (index, parsed) in self.dockerfile.stages.iter().enumerate() {
            self.budget.turn().await;
            let lines = parsed.location;
            let base = self.budget.expand(self.rules, &parsed.base, &self.global);
            let base = base.map_err(|e| {
                self.check_from_args(&e.unmatched, parsed);
                self.at(Error::unknown(e.to_string()), lines)
            })?;
            (self.budget.text(base.value.len())).map_err(|e| self.at(e, lines))?;
            self.check_from_args(&base.unmatched, parsed);
            if base.value.is_empty() {
                let text = format!("base name ({}) should not be blank", parsed.base);
                return Err(self.at(Error::unknown(text), lines));
            }
            let (platform, of_platform) = self.stage_platform(parsed)?;
            let mut stage = Stage {
                name: parsed.name.clone(),
                description: parsed.doc_comment.clone(),
                parameters: Parameters {
                    global: Arc::clone(&self.global_args),
                    in_from: base.matched,
                    ..Parameters::default()
                },
                code: parsed.code.clone(),
                location: Some(lines),
                comments: parsed.comments.clone(),
                platform,
                shown_name: parsed
                    .name
                    .clone()
                    .unwrap_or_else(|| format!("stage-{index}")),
                show_platform: self.client.config().multi_platform,
                ..Stage::new(base.value)
            };
            stage.parameters.in_from.extend(of_platform);
            if let Some(name) = &parsed.name {
                let platform = stage.platform.as_ref().unwrap_or(&self.target_platform);
                stage.named = self.client.named_context(name, platform)?;
            }
            if stage.named.is_none() {
                let from_image =
                    stage.base_name != SCRATCH && !self.stages.has_base(&stage.base_name);
                let counted = parsed.instructions.iter().filter(|i| {
                    matches!(
                        i.kind,
                        Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)
                    )
                });
                stage.steps = usize::from(from_image) + counted.count();
                stage.no_cache = self
                    .client
                    .config()
                    .is_no_cache(parsed.name.as_deref().unwrap_or_default());
            }
            self.stages.add(stage);
        }
        Ok(())
    }

    /// The platform that FROM asks for, and the variables that it is made of.
    fn stage_platform(
        &self,
        parsed: &crate::parse::Stage,
    ) -> Result<(Option<pb::Platform>, BTreeSet<String>), Error> {
        let Some(written) = parsed.platform.as_deref().filter(|p| !p.is_empty()) else {
            return Ok((None, BTreeSet::new()));
        };
        let lines = parsed.location;
        let expanded = self.budget.expand(self.rules, written, &self.global);
        let expanded = expanded.map_err(|e| {
            self.check_from_args(&e.unmatched, parsed);
            let text = format!("failed to process arguments for platform : {e}");
            self.at(Error::unknown(text), lines)
        })?;
        self.check_from_args(&expanded.unmatched, parsed);
        self.check_platform_flag(written, &expanded, parsed);
        let hint = |text: String| {
            let keys: Vec<&str> = self.global.keys().collect();
            let meant = expanded
                .unmatched
                .iter()
                .find_map(|name| nearest(name, keys.iter().copied()));
            match meant {
                Some(near) => format!("{text} (did you mean {near}?)"),
                None => text,
            }
        };
        if expanded.value.is_empty() {
            let text = hint(format!("empty platform value from expression {written}"));
            return Err(self.at(Error::unknown(text), lines));
        }
        match platform::parse(&expanded.value) {
            Ok(platform) => Ok((Some(platform), expanded.matched.clone())),
            Err(e) => {
                let text = format!(
                    "failed to parse platform {written}: {}",
                    hint(e.to_string())
                );
                Err(self.at(Error::unknown(text), lines))
            }
        }
    }

    fn check_platform_flag(
        &self,
        written: &str,
        expanded: &Expanded,
        parsed: &crate::parse::Stage,
    ) {
        let (lines, comments) = (parsed.location, &parsed.comments);
        let mut matched = expanded.matched.iter();
        let only = (matched.next(), matched.next());
        if let (Some(name), None) = only
            && name == "TARGETPLATFORM"
            && expanded.unmatched.is_empty()
            && self.global.get(name) == Some(&expanded.value)
        {
            let finding = rules::redundant_target_platform(written);
            self.checks.found(lines, comments, finding);
        }
        if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
            return;
        }
        let Ok(platform) = platform::parse(&expanded.value) else {
            return;
        };
        let name = parsed.name.as_deref().unwrap_or_default();
        if name.contains(&platform.os) || name.contains(&platform.architecture) {
            return;
        }
        let finding = rules::from_platform_flag_const_disallowed(&expanded.value);
        self.checks.found(lines, comments, finding);
    }

    /// Finds the stages and images that instructions read.
    pub(super) async fn link_stages(&mut self) -> Result<(), Error> {
        for (index, parsed) in self.dockerfile.stages.iter().enumerate() {
            let mut commands = Vec::with_capacity(parsed.instructions.len());
            for instruction in &parsed.instructions {
                self.budget.turn().await;
                commands.push(self.link(index, Arc::clone(instruction), false)?);
            }
            if let Some(stage) = self.stages.get_mut(index) {
                stage.commands = commands;
            }
        }
        if let Some((stage, lines)) = self.stages.ring() {
            let name = self.stages.get(stage).map(|s| s.shown_name.clone());
            let mut error = Error::unknown(format!(
                "circular dependency detected on stage: {}",
                name.unwrap_or_default()
            ));
            // The instruction that closes the ring is shown first: it is the innermost.
            for line in lines.into_iter().rev().take(MAX_RING_SHOWN) {
                error = self.at(error, line);
            }
            return Err(error);
        }
        if let [only] = &mut *self.stages {
            only.shown_name.clear();
        }
        Ok(())
    }

    /// The sources of an instruction of `stage`; images that are new become stages.
    pub(super) fn link(
        &mut self,
        stage: usize,
        instruction: Arc<Instruction>,
        is_trigger: bool,
    ) -> Result<Command, Error> {
        let lines = instruction.location;
        let mut sources = Vec::new();
        match &instruction.kind {
            Kind::Copy(copy) => {
                if let Some(from) = copy.from.as_deref().filter(|from| !from.is_empty()) {
                    sources.push(self.copy_source(from, lines)?);
                }
            }
            Kind::Run(run) => {
                for raw in &run.mounts {
                    let from = mount_from(raw);
                    let from = from.as_deref().filter(|f| !f.is_empty()).unwrap_or(SCRATCH);
                    let source = match self.stages.by_name(from) {
                        Some(known) => known,
                        None => self.stages.add(Stage::image(from.to_owned(), None)),
                    };
                    sources.push(source);
                }
            }
            _ => {}
        }
        if let Some(stage) = self.stages.get_mut(stage) {
            stage
                .deps
                .extend(sources.iter().map(|source| (*source, lines)));
        }
        Ok(Command {
            instruction,
            sources,
            is_trigger,
        })
    }

    fn copy_source(&mut self, from: &str, lines: LineRange) -> Result<usize, Error> {
        let plain = self.budget.expand(self.rules, from, &NoVars);
        let plain = plain.map_err(|e| self.at(Error::unknown(e.to_string()), lines))?;
        if plain.value != from {
            return Err(self.at(Error::unknown("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"), lines));
        }
        if let Ok(index) = from.parse::<i64>() {
            let known = usize::try_from(index)
                .ok()
                .filter(|i| *i < self.stages.len());
            return known.ok_or_else(|| {
                self.at(
                    Error::unknown(format!("invalid stage index {index}")),
                    lines,
                )
            });
        }
        Ok(match self.stages.by_name(from) {
            Some(known) => known,
            None => self.stages.add(Stage::image(from.to_owned(), Some(lines))),
        })
    }
}

/// The `from` of a mount, before anything else of it is known to be good.
fn mount_from(raw: &str) -> Option<String> {
    if let Ok(mount) = Mount::parse(raw, &mut |value| Ok(value.to_owned())) {
        return Some(mount.from);
    }
    gateway_frontend::csv::fields(raw)
        .ok()?
        .into_iter()
        .filter_map(|field| {
            let (key, value) = field.split_once('=')?;
            key.eq_ignore_ascii_case("from").then(|| value.to_owned())
        })
        .next_back()
}
