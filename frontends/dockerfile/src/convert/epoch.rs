//! SOURCE_DATE_EPOCH: the time that a reproducible result gets.

use gateway_api::{Error, ResolveSourceMetaRequest};
use gateway_llb::{Constraints, Graph, HttpSource, State, pb, platform};

use super::stage::{SCRATCH, no_paths};
use super::{Converter, copy_words};
use crate::parse::{Kind, Stage};
use gateway_frontend::conventions::git_ref::GitRef;

const KEY: &str = "SOURCE_DATE_EPOCH";

impl Converter<'_> {
    /// Finds the time: a number, or one of `context`, a named context or a stage that only
    /// downloads something. The ARG then has the number.
    pub(super) async fn resolve_epoch(&mut self) -> Result<(), Error> {
        let given = self.build_args.get(KEY).cloned();
        let value = given.or_else(|| {
            let default = self.global.get(KEY).filter(|v| !v.is_empty());
            default.map(str::to_owned)
        });
        let Some(value) = value else {
            return Ok(());
        };
        self.epoch = self.epoch_of(&value).await?;
        match self.epoch {
            Some(seconds) => {
                let text = seconds.to_string();
                if let Some(arg) = self.build_args.get_mut(KEY) {
                    arg.clone_from(&text);
                }
                if self.global.get(KEY).is_some() {
                    self.global.set(KEY, text);
                }
            }
            None => {
                self.build_args.remove(KEY);
                self.global.remove(KEY);
            }
        }
        Ok(())
    }

    async fn epoch_of(&self, value: &str) -> Result<Option<i64>, Error> {
        if value.is_empty() {
            return Ok(None);
        }
        if let Ok(seconds) = value.parse() {
            return Ok(Some(seconds));
        }
        if value == "context" {
            let context = self.client.main_context(Vec::new()).await?;
            let name = "[internal] resolve main build context metadata";
            return self.source_time(&context, name).await;
        }
        // One time for all platforms: that of the context for the builder's own.
        let own = platform::normalize(&platform::host());
        if let Some(named) = self.client.named_context(value, &own)? {
            let loaded = self.client.load_named(&named, &no_paths()).await?;
            if let Some(local) = loaded.pending {
                local.fill();
            }
            let name = format!("[internal] resolve SOURCE_DATE_EPOCH named context {value}");
            return self.source_time(&loaded.state, &name).await;
        }
        let lower = value.to_lowercase();
        let stages = &self.dockerfile.stages;
        let Some(stage) = stages.iter().find(|s| s.name.as_deref() == Some(&lower)) else {
            return Err(Error::unknown(format!(
                "invalid SOURCE_DATE_EPOCH: {value}"
            )));
        };
        let source = self
            .only_source(stage)
            .map_err(|text| self.at(Error::unknown(text), stage.location))?;
        let name = format!("[internal] resolve SOURCE_DATE_EPOCH source stage {lower}");
        self.source_time(&source, &name).await
    }

    /// The download that a stage consists of.
    fn only_source(&self, stage: &Stage) -> Result<State, String> {
        let mut env = self.global.clone();
        env.remove(KEY);
        let base = self
            .rules
            .expand(&stage.base, &env)
            .map_err(|e| e.to_string())?;
        if base.value != SCRATCH {
            return Err("SOURCE_DATE_EPOCH stage must use FROM scratch".to_owned());
        }
        let mut source = None;
        for instruction in &stage.instructions {
            match &instruction.kind {
                Kind::Arg(pairs) => {
                    for pair in pairs {
                        if let Some(given) = self.build_args.get(&pair.key) {
                            env.set(pair.key.as_str(), given.as_str());
                        } else if let Some(default) = &pair.value {
                            let done = self
                                .rules
                                .expand(default, &env)
                                .map_err(|e| e.to_string())?;
                            env.set(pair.key.as_str(), done.value);
                        }
                    }
                }
                Kind::Add(add) => {
                    if source.is_some() {
                        return Err(
                            "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD"
                                .to_owned(),
                        );
                    }
                    let ([word], []) = (add.paths.sources.as_slice(), add.paths.inline.as_slice())
                    else {
                        return Err(
                            "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source"
                                .to_owned(),
                        );
                    };
                    let done = self.rules.expand(word, &env).map_err(|e| e.to_string())?;
                    source = Some(remote(&done.value)?);
                }
                _ => {
                    return Err(format!(
                        "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {} instruction",
                        instruction.keyword
                    ));
                }
            }
        }
        source
            .ok_or_else(|| "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD".to_owned())
    }

    /// When a source was made: its commit's time, or what the server says. `None` for sources
    /// without a time.
    async fn source_time(&self, state: &State, log_name: &str) -> Result<Option<i64>, Error> {
        let definition = self.client.marshal(state)?;
        let Ok(graph) = Graph::load(&definition) else {
            return Ok(None);
        };
        let mut sources = graph.vertices().filter_map(|v| match &v.op().op {
            Some(pb::op::Op::Source(source)) => Some(source.clone()),
            _ => None,
        });
        let (Some(source), None) = (sources.next(), sources.next()) else {
            return Ok(None);
        };
        let is_git = source.identifier.starts_with("git://");
        if !is_git && !source.identifier.starts_with("http") {
            return Ok(None);
        }
        let meta = self
            .client
            .gateway()
            .resolve_source_meta(ResolveSourceMetaRequest {
                source,
                log_name: log_name.to_owned(),
                git_return_object: is_git,
                ..ResolveSourceMetaRequest::default()
            })
            .await?;
        if let Some(git) = &meta.git {
            return Ok(committer_time(&git.commit_object));
        }
        Ok(meta.http.and_then(|http| http.last_modified))
    }
}

fn remote(source: &str) -> Result<State, String> {
    if let Some(git) = GitRef::parse(source) {
        let git = git?;
        if !git.maybe_local {
            return Ok(git.source().state(Constraints::new()));
        }
    }
    if source.starts_with("http://") || source.starts_with("https://") {
        let file = HttpSource {
            url: source.to_owned(),
            filename: copy_words::url_filename(source),
            ..HttpSource::default()
        };
        return Ok(file.state(Constraints::new()));
    }
    Err("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD".to_owned())
}

/// The committer's time in a commit object.
fn committer_time(object: &[u8]) -> Option<i64> {
    let text = String::from_utf8_lossy(object);
    let line = text
        .lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix("committer "))?;
    line.rsplit(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_time_of_a_commit_is_its_committers() {
        let commit = b"tree 00\nauthor A <a@b> 1 +0000\ncommitter C <c@d> 1600000000 +0200\n\ntext";
        assert_eq!(super::committer_time(commit), Some(1_600_000_000));
        assert_eq!(super::committer_time(b"committer"), None);
    }
}
