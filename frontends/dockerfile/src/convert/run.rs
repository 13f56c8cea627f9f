//! RUN: the command line, heredocs, and what surrounds the command.

use std::borrow::Cow;

use gateway_api::Error;
use gateway_llb::{Constraints, Env, FileActions, Mkfile, Mount, Run, State, caps, path, pb};

use super::Converter;
use super::args::Declared;
use super::config::with_shell;
use super::names::{heredoc_summary, uppercase_first};
use super::stage::{Command, Stage};
use crate::parse::expand::Expander;
use crate::parse::{self, CommandLine, Network, Security};

/// Where scripts of heredocs are mounted.
const SCRIPTS: &str = "/dev/pipes/";

/// A command line with its heredocs worked in.
struct Script {
    args: Vec<String>,
    /// What the step's name says of a heredoc.
    summary: Option<String>,
    /// A script that is run as a file.
    file: Option<State>,
}

impl Converter<'_> {
    pub(super) fn run(
        &mut self,
        stage: &mut Stage,
        command: &Command,
        run: &parse::Run,
    ) -> Result<(), Error> {
        let instruction = &*command.instruction;
        let lines = instruction.location;
        // A command can read any file.
        stage.use_path("/");
        // It is told all variables, and its history all ARGs.
        self.budget.steps(1)?;
        self.budget.text(stage.state.get_env().bytes())?;

        let script = script(stage, &run.command);
        let args = if run.command.shell_form {
            with_shell(stage, &script.args)
        } else {
            script.args
        };
        let mounts = self.mounts(stage, command, run)?;

        let mut step = stage.state.run(args.clone());
        if let Some(file) = &script.file {
            step = step.mount(Mount::bind(SCRIPTS, file).selector("/").readonly());
        }
        step = mounts.add_to(step);
        if let Some(proxy) = &self.proxy {
            step = step.proxy(proxy.clone());
        }
        match run.security {
            Security::Sandbox => {}
            Security::Insecure => step = step.security(pb::SecurityMode::Insecure),
        }
        match run.network {
            Network::Default => {}
            Network::None => step = step.network(pb::NetMode::None),
            Network::Host => step = step.network(pb::NetMode::Host),
        }
        if !run.devices.is_empty() {
            return Err(Error::unknown(
                "device feature is only supported in Dockerfile frontend 1.14.0-labs or later",
            ));
        }
        step = self.surround(step);

        let mut code = instruction.code().to_owned();
        if let Some(summary) = &script.summary {
            code.push_str(&format!(" ({summary})"));
        }
        let before = stage.state.clone();
        let env = before.get_env();
        let mut shown = Cow::Borrowed(env);
        for name in &mounts.secret_env {
            shown.to_mut().set(name.as_str(), "****");
        }
        let rules = Expander {
            raw_quotes: true,
            skip_unset: true,
            ..self.rules
        };
        let text = uppercase_first(&self.shown(rules, &code, &*shown));
        stage.count_step();
        let name = stage.step_name(&text, stage.state.get_platform(), Some(env));
        let mut constraints = self
            .place(Some(lines))
            .describe("com.docker.dockerfile.v1.command", instruction.code())
            .name(name);
        if stage.no_cache {
            constraints = constraints.ignore_cache();
        }
        constraints = self.resources(constraints);
        if self.client.supports(caps::EXEC_META_SETS_DEFAULT_PATH) {
            // Each command of the file needs it wherever it is solved: also below the scanner of a bill of materials,
            // which itself does not (observed).
            constraints = constraints.cap(caps::EXEC_META_SETS_DEFAULT_PATH);
        }

        stage.state = step.with(constraints).root();
        let text = history(&args, &stage.args, env);
        self.commit(stage, text, true)?;
        Ok(())
    }

    /// Limits, hosts and memory of every command, as far as the builder knows them.
    fn surround(&self, mut step: Run) -> Run {
        let config = self.client.config();
        if self.client.supports(caps::EXEC_META_ULIMIT) {
            for limit in &config.ulimits {
                step = step.ulimit(limit.name.as_str(), limit.soft, limit.hard);
            }
        }
        for host in &config.extra_hosts {
            step = step.extra_host(host.host.as_str(), host.ip.as_str());
        }
        if config.shm_size > 0 && self.client.supports(caps::EXEC_MOUNT_TMPFS_SIZE) {
            step = step.mount(Mount::tmpfs("/dev/shm", config.shm_size));
        }
        if !config.cgroup_parent.is_empty() && self.client.supports(caps::EXEC_META_CGROUP_PARENT) {
            step = step.cgroup_parent(config.cgroup_parent.as_str());
        }
        step
    }

    fn resources(&self, constraints: Constraints) -> Constraints {
        match &self.client.config().linux_resources {
            Some(limits) if self.client.supports(caps::EXEC_META_LINUX_RESOURCES) => {
                constraints.linux_resources(limits.clone())
            }
            _ => constraints,
        }
    }
}

fn script(stage: &Stage, line: &CommandLine) -> Script {
    let plain = |args: Vec<String>| Script {
        args,
        summary: None,
        file: None,
    };
    let Some(first) = line.heredocs.first() else {
        return plain(line.args.clone());
    };
    let text = line.args.first().cloned().unwrap_or_default();
    if !is_only_heredoc(&text) {
        // The shell gets line and bodies, and reads the heredocs itself.
        let mut whole = text;
        for heredoc in &line.heredocs {
            whole.push('\n');
            whole.push_str(&heredoc.content);
            whole.push_str(&heredoc.name);
        }
        return plain(vec![whole]);
    }
    let body = first.chomped();
    let summary = Some(heredoc_summary(&first.content));
    if stage.image.os() == "windows" || !body.starts_with("#!") {
        return Script {
            args: vec![body],
            summary,
            file: None,
        };
    }
    let file = Mkfile {
        mode: 0o755,
        data: body.into_bytes(),
        ..Mkfile::default()
    };
    let platform = stage.platform.clone().unwrap_or_default();
    let file = State::scratch().dir("/").file(
        FileActions::new().mkfile(&first.name, file),
        inline_document(platform),
    );
    Script {
        args: vec![path::join(&[SCRIPTS, &first.name])],
        summary,
        file: Some(file),
    }
}

/// Metadata of a file that stands in the Dockerfile.
pub(super) fn inline_document(platform: pb::Platform) -> Constraints {
    Constraints::new()
        .name("[internal] preparing inline document")
        .platform(platform)
}

/// True when a command is one heredoc and nothing else: `<<EOF`, `3<<-"EOF"`.
fn is_only_heredoc(text: &str) -> bool {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = rest.strip_prefix("<<") else {
        return false;
    };
    let word = rest.strip_prefix('-').unwrap_or(rest);
    let word = word.trim_start_matches([' ', '\t']);
    !word.is_empty() && is_one_word(word)
}

/// One shell word: blanks only inside quotes or after a backslash.
fn is_one_word(text: &str) -> bool {
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, c) if c.is_whitespace() || c == '<' => return false,
            (None | Some('"'), '\\') => {
                chars.next();
            }
            _ => {}
        }
    }
    quote.is_none()
}

/// What the history says of a command: its ARGs, then its arguments.
fn history(args: &[String], declared: &Declared, env: &Env) -> String {
    let mut words = Vec::new();
    if !declared.is_empty() {
        words.push(format!("|{}", declared.len()));
    }
    words.extend(declared.iter().map(|(key, value)| {
        let value = env.get(key).or(value).unwrap_or_default();
        format!("{key}={value}")
    }));
    words.extend(args.iter().cloned());
    format!("RUN {} # buildkit", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lone_heredoc_is_one() {
        for one in ["<<EOF", "<<-EOF", "3<<EOF", "<<\"a b\"", "<< EOF"] {
            assert!(is_only_heredoc(one), "{one}");
        }
        for other in ["cat <<EOF", "<<EOF cat", "<<A <<B", "<<", "echo"] {
            assert!(!is_only_heredoc(other), "{other}");
        }
    }

    #[test]
    fn the_history_lists_args_once_with_their_last_value() {
        let mut env = Env::default();
        env.set("A", "2");
        let mut declared = Declared::default();
        declared.set("A", Some("1".into()));
        declared.set("B", None);
        declared.set("A", Some("2".into()));
        let args = ["sh".to_owned(), "-c".to_owned()];
        assert_eq!(
            history(&args, &declared, &env),
            "RUN |2 A=2 B= sh -c # buildkit"
        );
    }
}
