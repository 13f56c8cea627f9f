//! COPY and ADD.

use gateway_api::Error;
use gateway_llb::{
    Constraints, Copy, FileActions, HttpSource, Mkfile, Owner, State, caps, digest_of, path,
};

use super::copy_words::{chmod, digest, has_wildcard, is_http, relative_dest, url_filename};
use super::run::inline_document;
use super::stage::{Command, Stage};
use super::{Converter, paths};
use crate::lint::rules;
use crate::parse::expand::Expander;
use crate::parse::quote::go_quote;
use crate::parse::{self, Heredoc, Instruction, SourcesAndDest};
use gateway_frontend::conventions::git_ref::GitRef;

/// What COPY and ADD have in common, with variables expanded.
struct Request {
    is_add: bool,
    sources: Vec<String>,
    /// Name and content of files that stand in the Dockerfile.
    inline: Vec<(String, String)>,
    dest: String,
    chown: Option<String>,
    chmod: Option<String>,
    exclude: Vec<String>,
    link: bool,
    parents: bool,
    keep_git_dir: Option<bool>,
    checksum: Option<String>,
    unpack: Option<bool>,
    /// Where paths are copied from.
    from: State,
    from_context: bool,
}

impl Converter<'_> {
    pub(super) fn copy(
        &mut self,
        stage: &mut Stage,
        command: &Command,
        copy: &parse::Copy,
    ) -> Result<(), Error> {
        let instruction = &*command.instruction;
        // Flags go first: so unset variables are told when a path cannot be expanded.
        let chown = self.maybe(stage, instruction, copy.chown.as_deref())?;
        let chmod = self.maybe(stage, instruction, copy.chmod.as_deref())?;
        let paths = self.paths(stage, instruction, &copy.paths)?;
        let mut from = self.build_context.state();
        if let Some(source) = command.sources.first() {
            let Some(source) = self.state_of(*source, stage) else {
                let name = go_quote(copy.from.as_deref().unwrap_or_default());
                let this = go_quote(&stage.shown_name);
                return Err(Error::unknown(format!(
                    "cannot copy from stage {name}, it needs to be defined before current stage {this}"
                )));
            };
            from = source;
        }
        let request = Request {
            is_add: false,
            sources: paths.0,
            inline: paths.1,
            dest: paths.2,
            chown,
            chmod,
            exclude: copy.exclude.clone(),
            link: copy.link,
            parents: copy.parents,
            keep_git_dir: None,
            checksum: None,
            unpack: None,
            from,
            from_context: command.sources.is_empty(),
        };
        self.transfer(stage, instruction, &request)?;
        for source in &request.sources {
            let path = path::join(&["/", source]);
            match command.sources.first() {
                None => {
                    self.context_paths.insert(path);
                }
                Some(index) => {
                    if let Some(source) = self.stages.get(*index) {
                        source.use_path(&path);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        stage: &mut Stage,
        command: &Command,
        add: &parse::Add,
    ) -> Result<(), Error> {
        let instruction = &*command.instruction;
        let chown = self.maybe(stage, instruction, add.chown.as_deref())?;
        let chmod = self.maybe(stage, instruction, add.chmod.as_deref())?;
        let checksum = self.maybe(stage, instruction, add.checksum.as_deref())?;
        let paths = self.paths(stage, instruction, &add.paths)?;
        let request = Request {
            is_add: true,
            sources: paths.0,
            inline: paths.1,
            dest: paths.2,
            chown,
            chmod,
            checksum,
            exclude: add.exclude.clone(),
            link: add.link,
            parents: false,
            keep_git_dir: add.keep_git_dir,
            unpack: add.unpack,
            from: self.build_context.state(),
            from_context: true,
        };
        self.transfer(stage, instruction, &request)?;
        for source in &request.sources {
            if !source.starts_with("http://") && !source.starts_with("https://") {
                self.context_paths.insert(path::join(&["/", source]));
            }
        }
        Ok(())
    }

    fn maybe(
        &self,
        stage: &Stage,
        instruction: &Instruction,
        word: Option<&str>,
    ) -> Result<Option<String>, Error> {
        let done = word
            .map(|word| self.expand(stage, instruction, word))
            .transpose()?;
        Ok(done.filter(|text| !text.is_empty()))
    }

    #[allow(clippy::type_complexity)]
    fn paths(
        &self,
        stage: &Stage,
        instruction: &Instruction,
        paths: &SourcesAndDest,
    ) -> Result<(Vec<String>, Vec<(String, String)>, String), Error> {
        // In the order in which unset variables are reported: destination last.
        let sources = self.expand_all(stage, instruction, &paths.sources)?;
        let dest = self.expand(stage, instruction, &paths.dest)?;
        let mut inline = Vec::new();
        for heredoc in &paths.inline {
            let content = self.heredoc_content(stage, instruction, heredoc)?;
            inline.push((heredoc.name.clone(), content));
        }
        Ok((sources, inline, dest))
    }

    fn heredoc_content(
        &self,
        stage: &Stage,
        instruction: &Instruction,
        heredoc: &Heredoc,
    ) -> Result<String, Error> {
        if !heredoc.expand {
            return Ok(heredoc.content.clone());
        }
        let rules = Expander {
            skip_quotes: true,
            ..Expander::new('\\')
        };
        self.expand_by(rules, stage, instruction, &heredoc.content)
    }

    fn transfer(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
        request: &Request,
    ) -> Result<(), Error> {
        let dest = relative_dest(&request.dest);
        let dest = paths::normalize(stage.state.get_dir(), dest, stage.os(), true)
            .map_err(Error::unknown)?;
        let common = Copy {
            owner: request.chown.as_deref().map(Owner::parse),
            chmod: request.chmod.as_deref().map(chmod).transpose()?,
            exclude_patterns: request.exclude.clone(),
            create_dest_path: true,
            ..Copy::default()
        };
        self.check_checksum(request)?;

        let env = stage.state.get_env().clone();
        let text = self.file_step_text(instruction, &env);
        stage.count_step();
        let platform = stage.platform.clone().unwrap_or_default();
        let name = stage.step_name(&text, Some(&platform), Some(&env));

        self.budget.steps(1 + request.inline.len())?;
        // Each source is an action with all that the instruction says.
        let excludes: usize = request.exclude.iter().map(String::len).sum();
        let each = 64 + dest.len() + excludes;
        let mut actions = FileActions::new();
        for source in &request.sources {
            let names = if is_http(source) { name.len() } else { 0 };
            self.budget.text(each + names)?;
            actions =
                self.copy_one(actions, instruction, request, source, &dest, &common, &name)?;
        }
        for (file, content) in &request.inline {
            self.budget.text(each)?;
            let data = Mkfile {
                mode: 0o644,
                data: content.clone().into_bytes(),
                ..Mkfile::default()
            };
            let state = State::scratch().file(
                FileActions::new().mkfile(file, data),
                inline_document(platform.clone()),
            );
            actions = actions.copy(&state, file, &dest, common.clone());
        }

        let mut constraints = self.place(Some(instruction.location)).name(name.as_str());
        if stage.no_cache {
            constraints = constraints.ignore_cache();
        }
        let links = request.link && request.chmod.is_none() && self.client.supports(caps::MERGE_OP);
        stage.state = if links {
            let group = self.next_group(&name);
            let linked = stage.step_name(&format!("LINK {text}"), Some(&platform), Some(&env));
            let copied = State::scratch().file(
                actions,
                constraints.clone().platform(platform).progress_group(
                    group.as_str(),
                    name.as_str(),
                    true,
                ),
            );
            let merged = State::merge(
                &[stage.state.clone(), copied],
                constraints.progress_group(group, name, false).name(linked),
            );
            stage.state.with_output_of(&merged)
        } else {
            stage.state.file(actions, constraints)
        };
        let text = history(request);
        self.commit(stage, text, true)?;
        Ok(())
    }

    fn check_checksum(&self, request: &Request) -> Result<(), Error> {
        if request.checksum.is_none() {
            return Ok(());
        }
        let [source] = request.sources.as_slice() else {
            return Err(Error::unknown(
                "checksum can't be specified for multiple sources",
            ));
        };
        if !is_http(source) && GitRef::parse(source).is_none_or(|git| git.is_err()) {
            return Err(Error::unknown("checksum requires HTTP(S) or Git sources"));
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn copy_one(
        &self,
        actions: FileActions,
        instruction: &Instruction,
        request: &Request,
        source: &str,
        dest: &str,
        common: &Copy,
        name: &str,
    ) -> Result<FileActions, Error> {
        if let Some(git) = GitRef::parse(source) {
            let git = git.map_err(Error::unknown)?;
            if !git.maybe_local {
                let state = git_source(request, git, name)?;
                return Ok(actions.copy(&state, "/", dest, common.clone()));
            }
        }
        if is_http(source) {
            if !request.is_add {
                return Err(Error::unknown("source can't be a URL for COPY"));
            }
            let filename = url_filename(source);
            let state = HttpSource {
                url: source.to_owned(),
                filename: filename.clone(),
                checksum: digest(request.checksum.as_deref())?,
                ..HttpSource::default()
            }
            .state(
                Constraints::new()
                    .name(name)
                    .describe("com.docker.dockerfile.v1.command", ""),
            );
            let options = Copy {
                attempt_unpack: request.unpack == Some(true),
                ..common.clone()
            };
            return Ok(actions.copy(&state, &filename, dest, options));
        }

        self.check_ignored(instruction, request, source);
        let (mut root, mut include, mut required) = (source, Vec::new(), Vec::new());
        if request.parents {
            let (pivot, pattern) = source.split_once("/./").unwrap_or(("/", source));
            // An absolute one stays as it is written, a slash at its end included.
            let pattern = match pattern.starts_with('/') {
                true => pattern.to_owned(),
                false => path::join(&["/", pattern]),
            };
            include.push(pattern.trim_start_matches('/').to_owned());
            if !has_wildcard(pivot) && !has_wildcard(&pattern) {
                required.push(path::join(&["/", pivot, &pattern]));
            }
            root = pivot;
        }
        let options = Copy {
            follow_symlinks: true,
            dir_contents_only: true,
            include_patterns: include,
            required_paths: required,
            attempt_unpack: request.unpack.unwrap_or(request.is_add),
            allow_wildcard: true,
            allow_empty_wildcard: true,
            ..common.clone()
        };
        let root = path::join(&["/", root]);
        Ok(actions.copy(&request.from, &root, dest, options))
    }

    /// The rule CopyIgnoredFile. Files with exceptions are left alone: a folder may be ignored
    /// while what is in it is not.
    fn check_ignored(&self, instruction: &Instruction, request: &Request, source: &str) {
        let matcher = &self.ignore;
        if !request.from_context || matcher.is_empty() {
            return;
        }
        let parts = 1 + source.matches('/').count();
        if !self.budget.may_match(matcher.len(), parts) || matcher.has_exceptions() {
            return;
        }
        let source = path::clean(source);
        let is_root = source == "." || source == "/";
        if is_root && !matcher.ignores_root() {
            return;
        }
        if matcher.matches(source.trim_start_matches('/')) || is_root {
            let verb = if request.is_add { "Add" } else { "Copy" };
            let finding = rules::copy_ignored_file(verb, &source);
            self.checks
                .found(instruction.location, &instruction.comments, finding);
        }
    }

    /// A name for the steps that progress shows as one; unlike any other of this build.
    fn next_group(&mut self, name: &str) -> String {
        self.groups += 1;
        let session = &self.client.gateway().invocation().session_id;
        let platform = gateway_llb::platform::format_all(&self.target_platform);
        let text = format!("{session}\0{platform}\0{}\0{name}", self.groups);
        let digest = digest_of(text.as_bytes());
        digest.chars().skip("sha256:".len()).take(25).collect()
    }
}

fn git_source(request: &Request, git: GitRef, name: &str) -> Result<State, Error> {
    if !request.is_add {
        return Err(Error::unknown("source can't be a git ref for COPY"));
    }
    let mut git = git;
    match (request.keep_git_dir, git.keep_git_dir) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(Error::unknown("inconsistent keep-git-dir configuration"));
        }
        (flag, query) => git.keep_git_dir = query.or(flag),
    }
    if let Some(checksum) = &request.checksum {
        if !git.checksum.is_empty() && git.checksum != *checksum {
            return Err(Error::unknown(format!(
                "checksum mismatch {checksum:?} != {:?}",
                git.checksum
            )));
        }
        git.checksum.clone_from(checksum);
    }
    // Times are those of the checkout: ADD has no word for others.
    git.mtime.clear();
    Ok(git.source().state(Constraints::new().name(name)))
}

fn history(request: &Request) -> String {
    let mut words = vec![if request.is_add { "ADD" } else { "COPY" }.to_owned()];
    if request.parents {
        words.push("--parents".to_owned());
    }
    if let Some(chown) = &request.chown {
        words.push(format!("--chown={chown}"));
    }
    if let Some(chmod) = &request.chmod {
        words.push(format!("--chmod={chmod}"));
    }
    words.extend(request.sources.iter().cloned());
    words.extend(request.inline.iter().map(|(name, _)| format!("<<{name}")));
    words.push(request.dest.clone());
    format!("{} # buildkit", words.join(" "))
}
