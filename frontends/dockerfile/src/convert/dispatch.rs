//! The instructions of the needed stages, one after the other.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use gateway_api::Error;
use gateway_llb::{Env, FileActions, Mkdir, Owner, State};

use super::names::{expanded, uppercase_first};
use super::stage::{Command, Stage};
use super::{Converter, MAX_COMPARED, args, image, paths};
use crate::lint::rules;
use crate::parse::expand::Expander;
use crate::parse::suggest::nearest;
use crate::parse::{Instruction, Kind};
use gateway_frontend::conventions::ignore;

/// How errors of expansion begin.
const UNEXPANDED: &str = "failed to process \"";

impl Converter<'_> {
    /// Converts the stages that are needed, in file order.
    pub(super) async fn dispatch_stages(
        &mut self,
        reachable: &BTreeSet<usize>,
        target: usize,
    ) -> Result<(), Error> {
        let patterns = self.client.ignore_patterns().await?;
        self.ignore = ignore::Matcher::new(patterns).map_err(Error::unknown)?;
        for index in 0..self.stages.len() {
            let Some(stage) = self.stages.get(index) else {
                continue;
            };
            let needed = reachable.contains(&index) && !stage.dispatched;
            if !self.all_stages && !needed {
                continue;
            }
            if stage.dispatched {
                continue;
            }
            self.dispatch_stage(index)?;
        }
        if let Some(stage) = self.stages.get(target) {
            stage.use_path("/");
        }
        Ok(())
    }

    fn dispatch_stage(&mut self, index: usize) -> Result<(), Error> {
        self.stages.inherit(index);
        let Some(place) = self.stages.get_mut(index) else {
            return Ok(());
        };
        // No instruction reads its own stage: that would be a ring. A trigger may: see `state_of`.
        self.current = index;
        let mut stage = std::mem::replace(place, Stage::new(String::new()));
        self.begin_stage(&mut stage)?;
        let commands = stage.commands.clone();
        for command in &commands {
            self.dispatch(&mut stage, command)
                .map_err(|e| self.at(e, command.instruction.location))?;
        }
        stage.dispatched = true;
        if let Some(place) = self.stages.get_mut(index) {
            *place = stage;
        }
        Ok(())
    }

    fn begin_stage(&self, stage: &mut Stage) -> Result<(), Error> {
        let platform = stage
            .platform
            .get_or_insert_with(|| self.target_platform.clone())
            .clone();
        let has_path = stage.image.env().any(|(key, _)| key == "PATH");
        if !has_path && platform.os != "windows" {
            let entry = format!("PATH={}", image::DEFAULT_PATH);
            stage.image.config.env.push(entry);
        }
        let mut state = stage.state.envs(stage.image.env());
        let config = self.client.config();
        if !config.hostname.is_empty() {
            state = state.hostname(&config.hostname);
        }
        let dir = stage.image.config.working_dir.clone();
        if !dir.is_empty() {
            // Below itself, which only matters for a relative one (observed).
            let dir = workdir_below(&dir, &dir, stage.os())?;
            state = state.dir(&dir);
            stage.image.config.working_dir = paths::for_config(&dir, stage.os());
        }
        if !stage.image.config.user.is_empty() {
            state = state.user(&stage.image.config.user);
        }
        stage.state = state.network(config.network);
        Ok(())
    }

    /// The files of another stage, which must be complete; of the current one, as far as it is.
    pub(super) fn state_of(&self, index: usize, current: &Stage) -> Option<State> {
        if index == self.current {
            return Some(current.state.clone());
        }
        let stage = self.stages.get(index).filter(|stage| stage.dispatched)?;
        Some(stage.state.clone())
    }

    fn dispatch(&mut self, stage: &mut Stage, command: &Command) -> Result<(), Error> {
        stage.in_trigger = command.is_trigger;
        let instruction = &*command.instruction;
        let has_shell = !stage.image.config.shell.is_empty();
        let done = self.dispatch_kind(stage, command);
        // What is wrong with its variables comes first, and where they cannot be expanded, alone (observed).
        let expanded = !matches!(&done, Err(error) if error.message.starts_with(UNEXPANDED));
        if expanded {
            self.checks
                .with(|linter| stage.checks.check(instruction, has_shell, linter));
        }
        done
    }

    fn dispatch_kind(&mut self, stage: &mut Stage, command: &Command) -> Result<(), Error> {
        let instruction = &*command.instruction;
        match &instruction.kind {
            Kind::Env(pairs) => self.env(stage, instruction, pairs),
            Kind::Label(pairs) => self.label(stage, instruction, pairs),
            Kind::Arg(pairs) => self.arg(stage, instruction, pairs),
            Kind::Run(run) => self.run(stage, command, run),
            Kind::Copy(copy) => self.copy(stage, command, copy),
            Kind::Add(add) => self.add(stage, command, add),
            Kind::Workdir(dir) => self.workdir(stage, instruction, dir),
            Kind::User(user) => self.user(stage, instruction, user),
            Kind::Volume(volumes) => self.volume(stage, instruction, volumes),
            Kind::Stopsignal(signal) => self.stopsignal(stage, instruction, signal),
            Kind::Expose(ports) => self.expose(stage, instruction, ports),
            Kind::Cmd(line) => self.cmd(stage, line),
            Kind::Entrypoint(line) => self.entrypoint(stage, line),
            Kind::Healthcheck(check) => self.healthcheck(stage, check),
            Kind::Shell(shell) => self.shell(stage, shell),
            Kind::Maintainer(name) => self.maintainer(stage, name),
            Kind::Onbuild(onbuild) => {
                stage.image.config.on_build.push(onbuild.expression.clone());
                Ok(())
            }
        }
    }

    /// A word of an instruction with its variables; unset ones are noted.
    pub(super) fn expand(
        &self,
        stage: &Stage,
        instruction: &Instruction,
        word: &str,
    ) -> Result<String, Error> {
        self.expand_by(self.rules, stage, instruction, word)
    }

    pub(super) fn expand_by(
        &self,
        rules: Expander,
        stage: &Stage,
        instruction: &Instruction,
        word: &str,
    ) -> Result<String, Error> {
        let env = stage.state.get_env();
        let done = rules.expand(word, env);
        let unmatched = match &done {
            Ok(done) => &done.unmatched,
            Err(error) => &error.unmatched,
        };
        for name in unmatched {
            let declared = stage.args.get(name).is_some();
            if declared || args::NOT_IN_ENV.contains(&name.as_str()) {
                continue;
            }
            let compared = self.compared.fetch_add(env.len(), Ordering::Relaxed);
            let near = (compared < MAX_COMPARED).then(|| nearest(name, env.keys()));
            let finding = rules::undefined_var(name, near.flatten());
            self.checks
                .found(instruction.location, &instruction.comments, finding);
        }
        match done {
            Ok(done) => Ok(done.value),
            Err(error) => Err(Error::unknown(error.to_string())),
        }
    }

    pub(super) fn expand_all(
        &self,
        stage: &Stage,
        instruction: &Instruction,
        words: &[String],
    ) -> Result<Vec<String>, Error> {
        words
            .iter()
            .map(|word| self.expand(stage, instruction, word))
            .collect()
    }

    /// The name of a step that changes files.
    pub(super) fn file_step_text(&self, instruction: &Instruction, env: &Env) -> String {
        uppercase_first(&expanded(self.rules, instruction.code(), env))
    }

    fn workdir(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
        dir: &str,
    ) -> Result<(), Error> {
        let dir = self.expand(stage, instruction, dir)?;
        let mut checks = stage.checks.clone();
        self.checks
            .with(|linter| checks.workdir(instruction, &dir, stage.os(), linter));
        stage.checks = checks;
        let absolute = workdir_below(&stage.image.config.working_dir, &dir, stage.os())?;
        stage.state = stage.state.dir(&absolute);
        stage.image.config.working_dir = paths::for_config(&absolute, stage.os());
        let makes = absolute != "/";
        // `WORKDIR /` is counted among the steps, but there is none to show.
        if makes {
            stage.count_step();
            let user = &stage.image.config.user;
            let options = Mkdir {
                mode: 0o755,
                parents: true,
                owner: (!user.is_empty()).then(|| Owner::parse(user)),
                timestamp: self.epoch.map(|s| s.saturating_mul(1_000_000_000)),
            };
            let env = stage.state.get_env();
            let text = self.file_step_text(instruction, env);
            let name = stage.step_name(&text, stage.platform.as_ref(), Some(env));
            let constraints = self.place(Some(instruction.location)).name(name);
            let actions = FileActions::new().mkdir(&absolute, options);
            stage.state = stage.state.file(actions, constraints);
        }
        stage
            .image
            .commit(format!("WORKDIR {absolute}"), makes, self.epoch);
        Ok(())
    }

    fn user(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
        user: &str,
    ) -> Result<(), Error> {
        let user = self.expand(stage, instruction, user)?;
        stage.state = stage.state.user(&user);
        stage
            .image
            .commit(format!("USER {user}"), false, self.epoch);
        stage.image.config.user = user;
        Ok(())
    }
}

fn workdir_below(current: &str, dir: &str, os: &str) -> Result<String, Error> {
    paths::normalize(current, dir, os, false).map_err(|e| {
        let text = format!("normalizing workdir: normalizing working directory: {e}");
        Error::unknown(text)
    })
}
