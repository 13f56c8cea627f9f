//! Policies in Rego, as `docker buildx` has them: a file beside the build file, or those of `--policy`, say of every
//! source of a build whether it may be used.
//!
//! The language is regorus' matter. What a policy is told of a source, which words are known here, and how it is asked
//! is this room's; who enforces what it says is the engine. Whatever a policy needs that is not known here stops the
//! build: a guard that is not understood guards nothing.

mod document;
mod files;
mod functions;
mod objects;
mod options;
mod provenance;
mod words;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_api::progress::{Progress, Vertex, VertexLog};
use gateway_api::{Cause, Error, ResolveSourceMetaRequest, SourceMeta};
use gateway_bridge::SourceJudge;
use gateway_images::registry::shown_url;
use gateway_llb::pb;
use regorus::{Engine, Value};
use time::OffsetDateTime;

use self::document::Document;
use self::files::{Files, Module};
use self::functions::Found;
pub use self::options::read;
use self::words::Words;
use crate::environment::Environment;
use crate::error::UsageError;

/// What is asked of a policy.
const DECISION: &str = "data.docker.decision";
/// What a policy may want of the builder, and what is not there.
const PROXY: &str = "exec.proxy";
/// The stream of log lines that are no step's output.
const STDERR: i64 = 2;

/// How much a policy says of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Silent,
    Info,
    Debug,
}

/// Modules that decide together: one file of `--policy` with what it imports, or several of one flag.
pub struct Policy {
    names: Vec<String>,
    /// Without input and functions; cloned for every question.
    engine: Mutex<Engine>,
    words: Words,
    files: Files,
    /// What the build was asked for, the same in all questions.
    env: serde_json::Value,
    level: Level,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Policy({})", self.names.join(", "))
    }
}

/// What a policy answered.
#[derive(Debug, Default, PartialEq)]
struct Decision {
    allow: bool,
    reasons: Vec<String>,
    caps: BTreeMap<String, bool>,
}

impl Policy {
    /// # Errors
    /// A module cannot be read, is no Rego, or needs what is not known here.
    fn new(
        modules: Vec<Module>,
        files: Files,
        env: serde_json::Value,
        level: Level,
    ) -> Result<Policy, UsageError> {
        let names: Vec<String> = modules.iter().map(|module| module.name.clone()).collect();
        let mut engine = Engine::new();
        engine.set_rego_v0(false);
        engine.set_strict_builtin_errors(false);
        engine.set_gather_prints(true);
        let mut words = Words::default();
        for module in files.with_imports(modules)? {
            let wrong = |problem: String| UsageError::new("--policy", &module.name, problem);
            let own = Words::of(&module.text);
            if let Some((word, why)) = own.unknown() {
                return Err(wrong(format!("{word} is not known here: {why}")));
            }
            words.add(own);
            let added = engine.add_policy(module.name.clone(), module.text.clone());
            added.map_err(|error| wrong(plain(&error)))?;
        }
        let policy = Policy {
            names,
            engine: Mutex::new(engine),
            words,
            files,
            env,
            level,
        };
        let wrong = |error: Error| UsageError::new("--policy", policy.title(), error.message);
        let mut prints = Vec::new();
        let (decision, _) = policy
            .evaluate(&policy.caps_question(), &mut prints)
            .map_err(wrong)?;
        if decision.caps.get(PROXY) == Some(&true) {
            let problem = "it wants a proxy between steps and the network (exec.proxy), and there is none here: \
                           --network none or --network isolated keep steps from it";
            return Err(wrong(Error::unknown(problem)));
        }
        Ok(policy)
    }

    fn title(&self) -> String {
        self.names.join(", ")
    }

    /// Asked before anything else: what it wants of the builder.
    fn caps_question(&self) -> Document {
        let mut env = self.env.clone();
        env["capsRequest"] = true.into();
        Document::of_nothing(env)
    }

    fn evaluate(
        &self,
        document: &Document,
        prints: &mut Vec<String>,
    ) -> Result<(Decision, Found), Error> {
        let cannot = |problem: String| {
            Error::unknown(format!(
                "the policy {} cannot be evaluated: {problem}",
                self.title()
            ))
        };
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let mut engine = engine.clone();
        let input = document.input();
        let input = Value::from_json_str(&input.to_string()).map_err(|e| cannot(plain(&e)))?;
        let found = functions::add(&mut engine, document, &input, &self.files)
            .map_err(|error| cannot(plain(&error)))?;
        engine.set_input(input);
        let value = engine.eval_rule(DECISION.to_owned());
        prints.extend(engine.take_prints().unwrap_or_default());
        let value = value.map_err(|error| match plain(&error) {
            // The engine's words for a rule that is nowhere.
            text if text.contains("not a valid rule path") => {
                cannot("it has no rule \"decision\" in the package docker".into())
            }
            text => cannot(text),
        })?;
        if value == Value::Undefined {
            return Err(cannot("policy returned zero result".into()));
        }
        let json = value.to_json_str().map_err(|error| cannot(plain(&error)))?;
        let decision = decision(&json).map_err(cannot)?;
        Ok((decision, found))
    }

    fn verdict(&self, source: &SourceMeta, platform: &pb::Platform) -> Shown {
        let mut lines = Vec::new();
        let verdict = self.judge(source, platform, &mut lines);
        Shown { verdict, lines }
    }

    fn judge(
        &self,
        source: &SourceMeta,
        platform: &pb::Platform,
        lines: &mut Vec<(Level, String)>,
    ) -> Result<Verdict, Error> {
        let identifier = shown_url(&source.source.identifier);
        let document = Document::of(source, platform, self.env.clone())?;
        let name = match document.is_image() {
            true => format!("{identifier} ({})", gateway_llb::platform::format(platform)),
            false => identifier,
        };
        lines.push((Level::Info, format!("checking policy for source {name}")));
        if let Some(request) = document.missing(source, platform, &self.words) {
            lines.push((
                Level::Info,
                format!("policy decision for source {name}: resolve missing fields"),
            ));
            return Ok(Verdict::Ask(Box::new(request)));
        }
        let text = serde_json::to_string_pretty(&document.input()).unwrap_or_default();
        lines.push((Level::Debug, format!("policy input: {text}")));
        let mut prints = Vec::new();
        let evaluated = self.evaluate(&document, &mut prints);
        lines.extend(prints.into_iter().map(|line| (Level::Info, line)));
        let (decision, found) = evaluated?;
        if let Some(question) = found.question() {
            lines.push((
                Level::Info,
                format!("policy decision for source {name}: resolve what its signature is of"),
            ));
            return Ok(Verdict::Ask(Box::new(ResolveSourceMetaRequest {
                source: source.source.clone(),
                http_checksum: Some(question),
                ..ResolveSourceMetaRequest::default()
            })));
        }
        let mut said = |word: &str| {
            lines.push((
                Level::Info,
                format!("policy decision for source {name}: {word}"),
            ));
        };
        if !decision.allow {
            said("DENY");
            return Ok(Verdict::Deny(decision.reasons));
        }
        match found.pins().as_slice() {
            [] => {
                said("ALLOW");
                Ok(Verdict::Allow)
            }
            [digest] => {
                let pinned = document::pinned(&source.source, digest)?;
                said(&format!("convert to {}", pinned.identifier));
                Ok(Verdict::Convert(pinned))
            }
            several => Err(Error::unknown(format!(
                "multiple image pins set to {name}: {}",
                several.join(", ")
            ))),
        }
    }
}

/// What a policy makes of a source.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    Allow,
    /// With the reasons that the user is told.
    Deny(Vec<String>),
    Convert(pb::SourceOp),
    /// It must know more first.
    Ask(Box<ResolveSourceMetaRequest>),
}

/// A verdict with what there is to say about it.
struct Shown {
    verdict: Result<Verdict, Error>,
    lines: Vec<(Level, String)>,
}

/// All policies of a build.
struct Judge {
    policies: Vec<Policy>,
    progress: Progress,
}

impl Judge {
    /// What one of the policies says, its work shown as a step.
    fn verdict(
        &self,
        policy: &Policy,
        source: &SourceMeta,
        platform: &pb::Platform,
    ) -> Result<Verdict, Error> {
        let name = format!("loading policies {}", policy.title());
        let mut vertex = Vertex {
            digest: gateway_images::digest::Digest::of(name.as_bytes()).to_string(),
            name,
            started: Some(OffsetDateTime::now_utc()),
            ..Vertex::default()
        };
        self.progress.vertex(vertex.clone());
        let Shown { verdict, lines } = policy.verdict(source, platform);
        let text: String = lines
            .into_iter()
            .filter(|(level, _)| *level <= policy.level)
            .map(|(_, line)| line + "\n")
            .collect();
        if !text.is_empty() {
            self.progress.log(VertexLog {
                vertex: vertex.digest.clone(),
                stream: STDERR,
                data: text.into_bytes(),
                timestamp: OffsetDateTime::now_utc(),
            });
        }
        vertex.completed = Some(OffsetDateTime::now_utc());
        self.progress.vertex(vertex);
        verdict
    }
}

#[async_trait]
impl SourceJudge for Judge {
    async fn judge(
        &self,
        platform: Option<&pb::Platform>,
        source: SourceMeta,
    ) -> Result<gateway_bridge::Verdict, Error> {
        let given = platform.filter(|platform| !platform.os.is_empty());
        let platform = gateway_llb::platform::normalize(
            &given.cloned().unwrap_or_else(gateway_llb::platform::host),
        );
        for policy in &self.policies {
            match self.verdict(policy, &source, &platform)? {
                Verdict::Allow => {}
                Verdict::Deny(reasons) => return Err(denied(&source.source, &reasons)),
                Verdict::Convert(other) => return Ok(gateway_bridge::Verdict::Convert(other)),
                Verdict::Ask(request) => return Ok(gateway_bridge::Verdict::Ask(request)),
            }
        }
        Ok(gateway_bridge::Verdict::Allow)
    }
}

fn denied(source: &pb::SourceOp, reasons: &[String]) -> Error {
    let shown = shown_url(&source.identifier);
    let mut error = Error::unknown(format!(
        "source \"{shown}\" not allowed by policy: action DENY"
    ))
    .caused_by(Cause::Policy);
    for reason in reasons {
        error = error.with_help(format!("{reason}\n"));
    }
    error
}

/// Reads what a policy answered; what is not of the form that is known stops the build.
fn decision(json: &str) -> Result<Decision, String> {
    let value: serde_json::Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let object = value
        .as_object()
        .ok_or_else(|| format!("its decision is no object: {value}"))?;
    let mut decision = Decision::default();
    if let Some(allow) = object.get("allow") {
        decision.allow = allow
            .as_bool()
            .ok_or_else(|| format!("its decision's allow is no boolean: {allow}"))?;
    }
    let reasons = object.get("deny_msg").and_then(|list| list.as_array());
    decision.reasons = reasons
        .into_iter()
        .flatten()
        .filter_map(|reason| reason.as_str().map(crate::progress::tty::clean))
        .collect();
    let caps = object.get("caps").map(|caps| {
        caps.as_object()
            .ok_or_else(|| format!("its decision's caps are no object: {caps}"))
    });
    for (name, wanted) in caps.transpose()?.into_iter().flatten() {
        if name != PROXY {
            return Err(format!("unknown policy cap {name:?}"));
        }
        let wanted = wanted
            .as_bool()
            .ok_or_else(|| format!("its decision's caps.{name} is no boolean: {wanted}"))?;
        decision.caps.insert(name.clone(), wanted);
    }
    Ok(decision)
}

/// The engine's errors have their place and an excerpt in several lines.
fn plain(error: &impl std::fmt::Display) -> String {
    error.to_string().trim().to_owned()
}

/// What the build was asked for, as policies are told it.
fn environment(args: &crate::build::args::Build, env: &Environment) -> serde_json::Value {
    let pairs = |texts: &[String], from: Option<&Environment>| {
        let pair = |text: &String| match (text.split_once('='), from) {
            (Some((key, value)), _) => Some((key.to_owned(), value.to_owned())),
            (None, Some(env)) => Some((text.clone(), env.get(text)?.clone())),
            (None, None) => Some((text.clone(), String::new())),
        };
        texts
            .iter()
            .filter_map(pair)
            .collect::<BTreeMap<String, String>>()
    };
    let mut value = serde_json::json!({"depth": 0});
    let given = pairs(&args.build_args, Some(env));
    if !given.is_empty() {
        value["args"] = serde_json::json!(given);
    }
    let labels = pairs(&args.labels, None);
    if !labels.is_empty() {
        value["labels"] = serde_json::json!(labels);
    }
    let file = args.file.as_deref().and_then(|file| file.file_name());
    let file = file.map_or("Dockerfile".into(), |name| name.to_string_lossy());
    value["filename"] = file.as_ref().into();
    if let Some(target) = &args.target {
        value["target"] = target.as_str().into();
    }
    value
}

/// These policies as the judge of a build's sources; none without any.
pub fn judge(mut policies: Vec<Policy>, progress: &Progress) -> Option<Arc<dyn SourceJudge>> {
    // What one of them must know all are told: a source is asked about once.
    let mut words = Words::default();
    for policy in &policies {
        words.add(policy.words.clone());
    }
    for policy in &mut policies {
        policy.words = words.clone();
    }
    let progress = progress.clone();
    (!policies.is_empty()).then(|| Arc::new(Judge { policies, progress }) as Arc<dyn SourceJudge>)
}

#[cfg(test)]
mod tests;
