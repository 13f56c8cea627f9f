//! The instructions of the needed stages, one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_api::Error;
use gateway_llb::{Env, FileActions, Mkdir, Owner, State};

use super::names::uppercase_first;
use super::stage::{Command, Stage};
use super::{Converter, args, image, paths};
use crate::lint::rules;
use crate::parse::expand::{Expander, Vars};
use crate::parse::suggest::nearest;
use crate::parse::{Instruction, Kind};
use gateway_frontend::conventions::ignore;

/// How errors of expansion begin.
const UNEXPANDED: &str = "failed to process \"";

/// The longest path that a system can use: a longer folder cannot be made. Without an end, relative ones below each other
/// make a file of 100 kB one of 100 MB.
const MAX_PATH: usize = 4096;

/// That of Windows.
const MAX_PATH_WINDOWS: usize = 32_767;

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
            self.dispatch_stage(index).await?;
        }
        if let Some(stage) = self.stages.get(target) {
            stage.use_path("/");
        }
        Ok(())
    }

    async fn dispatch_stage(&mut self, index: usize) -> Result<(), Error> {
        self.stages.inherit(index);
        let Some(place) = self.stages.get_mut(index) else {
            return Ok(());
        };
        // No instruction reads its own stage: that would be a ring. A trigger may: see `state_of`.
        self.current = index;
        let mut stage = std::mem::replace(place, Stage::new(String::new()));
        let location = stage.location.unwrap_or_default();
        self.begin_stage(&mut stage)
            .map_err(|e| self.at(e, location))?;
        let commands = stage.commands.clone();
        for command in &commands {
            self.budget.turn().await;
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
        if !stage.image.has_env("PATH") && platform.os != "windows" {
            stage.image.set_env("PATH", image::DEFAULT_PATH);
            stage.env_in_order = false;
        }
        let mut state = stage.state.clone();
        if !stage.env_in_order {
            self.budget.pass_on(stage.image.env_len())?;
            state = state.envs(stage.image.env());
            stage.env_in_order = true;
        }
        let config = self.client.config();
        if !config.hostname.is_empty() {
            state = state.hostname(&config.hostname);
        }
        let dir = Arc::clone(&stage.image.working_dir);
        if !dir.is_empty() {
            // Below itself, which only matters for a relative one (observed).
            let dir = workdir_below(&dir, &dir, stage.os())?;
            state = state.dir(&dir);
            stage.image.working_dir = paths::for_config(&dir, stage.os()).into();
        }
        if !stage.image.user.is_empty() {
            state = state.user(&stage.image.user);
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
        // What it becomes names each of its lines.
        let lines = instruction.location.lines().len();
        self.budget
            .text(lines * size_of::<gateway_llb::pb::Range>())?;
        let has_shell = !stage.image.shell.is_empty();
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
                (stage.image.on_build).push_back_mut(onbuild.expression.clone());
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
        let done = self.budget.expand(rules, word, env);
        let unmatched = match &done {
            Ok(done) => &done.unmatched,
            Err(error) => &error.unmatched,
        };
        for name in unmatched {
            let declared = stage.args.get(name).is_some();
            if declared || args::NOT_IN_ENV.contains(&name.as_str()) {
                continue;
            }
            let may = self.budget.may_compare(env.bytes() + name.len());
            let near = may.then(|| nearest(name, env.keys()));
            let finding = rules::undefined_var(name, near.flatten());
            self.checks
                .found(instruction.location, &instruction.comments, finding);
        }
        match done {
            Ok(done) => {
                self.budget.text(done.value.len())?;
                Ok(done.value)
            }
            Err(error) => Err(Error::unknown(error.to_string())),
        }
    }

    /// The code of an instruction with its variables, as names of steps show it; as written when that fails.
    pub(super) fn shown<V: Vars + ?Sized>(&self, rules: Expander, code: &str, vars: &V) -> String {
        match self.budget.expand(rules, code, vars) {
            Ok(done) if self.budget.text(done.value.len()).is_ok() => done.value,
            _ => code.to_owned(),
        }
    }

    /// Adds a step to the history of a stage.
    pub(super) fn commit(
        &self,
        stage: &mut Stage,
        created_by: String,
        layer: bool,
    ) -> Result<(), Error> {
        self.budget.text(created_by.len())?;
        stage.image.commit(created_by, layer, self.epoch);
        Ok(())
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
        uppercase_first(&self.shown(self.rules, instruction.code(), env))
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
        let absolute = workdir_below(&stage.image.working_dir, &dir, stage.os())?;
        let longest = if stage.os() == "windows" {
            MAX_PATH_WINDOWS
        } else {
            MAX_PATH
        };
        if absolute.len() > longest {
            let text = format!("the working directory is longer than {longest} bytes");
            return Err(Error::unknown(text));
        }
        stage.state = stage.state.dir(&absolute);
        stage.image.working_dir = paths::for_config(&absolute, stage.os()).into();
        let makes = absolute != "/";
        // `WORKDIR /` is counted among the steps, but there is none to show.
        if makes {
            self.budget.steps(1)?;
            stage.count_step();
            let user = &stage.image.user;
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
        self.commit(stage, format!("WORKDIR {absolute}"), makes)?;
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
        self.commit(stage, format!("USER {user}"), false)?;
        stage.image.user = user.into();
        Ok(())
    }
}

fn workdir_below(current: &str, dir: &str, os: &str) -> Result<String, Error> {
    paths::normalize(current, dir, os, false).map_err(|e| {
        let text = format!("normalizing workdir: normalizing working directory: {e}");
        Error::unknown(text)
    })
}
