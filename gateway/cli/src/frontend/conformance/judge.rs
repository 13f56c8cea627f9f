//! One run of a frontend, and what it shows.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway_api::result::metadata::PLATFORMS;
use gateway_api::{BuildResult, Code, Detail, Error, Refs};
use gateway_bridge::ReturnForm;
use gateway_images::digest::Digest;
use gateway_llb::pb;
use prost::Message as _;
use serde_json::Value;

use super::checks::Verdict;
use super::probe::{REFUSAL, Seen};

/// After a cancellation everything must be over; many times what it takes.
const END: Duration = Duration::from_secs(6);
/// A host that does not answer is given up after 15 seconds; some more for slow machines.
pub const GIVES_UP: Duration = Duration::from_secs(30);

const UNIQUE: &str = "local.unique";

/// What is shown of a dead frontend's last words.
const SHOWN_LINES: usize = 4;
/// And of a line: stack traces come as one.
const SHOWN_CHARACTERS: usize = 400;

/// One run, as it was.
#[derive(Debug)]
pub struct Ran {
    pub seen: Seen,
    pub built: Result<(), Error>,
    /// After its cancellation, if it was cancelled.
    pub took: Duration,
    /// The image, as hosts call it in errors of their own.
    pub name: String,
    /// What was special about it.
    pub note: &'static str,
}

impl Ran {
    pub fn returned(&self) -> Result<&BuildResult, &Error> {
        match (&self.seen.returned, &self.built) {
            (Some(Ok(result)), _) => Ok(result),
            (Some(Err(error)), _) | (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(&NOTHING),
        }
    }

    /// The error that its host had to make, because it returned none itself.
    pub fn died(&self) -> Option<String> {
        let error = self.returned().err()?;
        let prefix = format!("frontend {}: ", self.name);
        let text = error.message.strip_prefix(&prefix)?;
        Some(text.trim_end().to_owned())
    }

    pub fn succeeded(&self) -> Result<(), String> {
        self.returned().map_err(|error| shown(&error.message))?;
        self.built
            .as_ref()
            .map_err(|error| shown(&error.message))
            .copied()
    }

    /// It ended by a Return, whatever that said.
    pub fn in_control(&self) -> Result<(), String> {
        match self.died() {
            Some(text) => Err(format!("it returned nothing: {}", shown(&text))),
            None => Ok(()),
        }
    }

    pub fn own_error(&self) -> Result<(), String> {
        self.in_control()?;
        match self.returned() {
            Ok(_) => Err("it returned a result, though it could solve nothing".to_owned()),
            Err(_) => Ok(()),
        }
    }

    pub fn kept_error(&self) -> Result<(), String> {
        self.own_error()?;
        let Err(error) = self.returned() else {
            return Ok(());
        };
        if !error.message.contains(REFUSAL) {
            return Err(format!(
                "the host said {REFUSAL:?}, and it returned {:?}",
                error.message
            ));
        }
        match error.code {
            Code::FailedPrecondition => Ok(()),
            other => Err(format!(
                "the host's code was FailedPrecondition, and it returned {other:?}"
            )),
        }
    }

    pub fn old_host(&self) -> Result<(), String> {
        self.in_control()?;
        let Err(error) = self.returned() else {
            return Ok(());
        };
        match says_what_is_missing(&error.message) {
            true => Ok(()),
            false => Err(format!(
                "its error does not say what the host lacks: {}",
                error.message
            )),
        }
    }

    /// The same for a host that has no Return: there an exit code and words on stderr are all that there is.
    pub fn oldest_host(&self) -> Result<(), String> {
        match self.died() {
            Some(text) if says_what_is_missing(&text) => Ok(()),
            _ => self.old_host(),
        }
    }

    /// It noticed by itself that nobody answers.
    pub fn gave_up(&self) -> Result<(), String> {
        match &self.built {
            Ok(()) => Err("it returned a result, though the host never answered".to_owned()),
            Err(_) if self.took >= GIVES_UP => {
                Err("it waited for an answer to Ping for ever".to_owned())
            }
            Err(_) => Ok(()),
        }
    }

    /// It ended when its host was gone.
    pub fn left(&self) -> Result<(), String> {
        match self.died() {
            Some(text) if text.contains("did not exit") => {
                Err("it runs on when its stdin has ended: it had to be killed".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// All that it wrote was HTTP/2.
    pub fn only_frames(&self) -> Result<(), String> {
        match self.seen.manners.torn {
            false => Ok(()),
            true => Err(
                "it wrote something else to stdout after it had begun with HTTP/2: stdout is the connection, words belong on stderr"
                    .to_owned(),
            ),
        }
    }

    pub fn has_authority(&self) -> Result<(), String> {
        match self.seen.manners.empty_authority {
            false => Ok(()),
            true => Err(
                "its requests have an empty :authority, which strict HTTP/2 libraries refuse: send localhost"
                    .to_owned(),
            ),
        }
    }

    /// It takes results as they are today.
    pub fn takes_results(&self) -> Result<(), String> {
        match self.seen.manners.narrow_solves {
            0 => Ok(()),
            count => Err(format!(
                "{count} of its Solve requests lack allowResultReturn or allowResultArrayRef: hosts answer with less then"
            )),
        }
    }

    /// It built on a host that knows plain ids only, and returned such.
    pub fn returned_ids(&self) -> Result<(), String> {
        self.succeeded()?;
        match self.seen.manners.returned {
            Some(ReturnForm::Messages) => {
                Err("it returned refs in a form that such a host cannot read".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// It demanded nothing of a host that can fetch sources only.
    pub fn asked_for_sources_only(&self) -> Result<(), String> {
        if let Some(op) = self.seen.steps().first() {
            return Err(format!("it solved {op}, which the host does not list"));
        }
        self.old_host()
    }

    pub fn ran_processes(&self) -> Result<(), String> {
        self.succeeded()?;
        let manners = &self.seen.manners;
        match (manners.process_streams, manners.open_inputs) {
            (0 | 1, 0) => Ok(()),
            (0 | 1, count) => Err(format!(
                "it did not end the input of {count} of its processes: hosts wait for a File message of fd 0 with EOF, \
                 also after the exit, before they say that a process is done"
            )),
            (count, _) => Err(format!(
                "it ran processes over {count} streams: one ExecProcess call carries all of them"
            )),
        }
    }

    /// The caller requires what nobody has.
    pub fn refused_cap(&self) -> Result<(), String> {
        self.in_control()?;
        let Err(error) = self.returned() else {
            return Err("it built, though it lacks what the caller requires".to_owned());
        };
        let named = |detail: &Detail| matches!(detail, Detail::FrontendCap { name } if name == super::checks::UNKNOWN_CAP);
        match (error.code, error.details.iter().any(named)) {
            (Code::Unimplemented, true) => Ok(()),
            (Code::Unimplemented, false) => Err(format!(
                "its error has no detail that names the capability: {}",
                error.message
            )),
            (code, _) => Err(format!(
                "the code of its error is {code:?}, not Unimplemented: {}",
                error.message
            )),
        }
    }

    pub fn warned(&self) -> Result<(), String> {
        self.succeeded()?;
        for warning in &self.seen.warnings {
            let short = String::from_utf8_lossy(&warning.short);
            // The default is set by clients; hosts take 0 for it.
            if warning.level < 0 {
                return Err(format!("{short:?} has the level {}", warning.level));
            }
            if warning.info.is_none() || warning.ranges.is_empty() {
                return Err(format!("{short:?} does not say which lines it is about"));
            }
        }
        Ok(())
    }

    pub fn cancelled(&self) -> Result<(), String> {
        match &self.built {
            Ok(()) => {
                Err("it returned before it was cancelled, without waiting for its solve".to_owned())
            }
            Err(error) if error.code != Code::Canceled => Err(error.message.clone()),
            Err(_) if self.took > END => Err(format!("it took {:.1} s", self.took.as_secs_f64())),
            Err(_) => Ok(()),
        }
    }
}

/// The first lines of what may be a program's last words, without what is no text.
fn shown(text: &str) -> String {
    let plain = |line: &str| -> String {
        let mut plain: String = line
            .chars()
            .filter(|c| !c.is_control())
            .take(SHOWN_CHARACTERS)
            .collect();
        if plain.chars().count() == SHOWN_CHARACTERS {
            plain.push_str("...");
        }
        plain
    };
    let lines: Vec<String> = text.lines().take(SHOWN_LINES).map(plain).collect();
    lines.join("\n")
}

impl Seen {
    fn ops(&self) -> impl Iterator<Item = pb::op::Op> {
        let ops = self.definitions.iter().flatten();
        ops.filter_map(|bytes| pb::Op::decode(bytes.as_slice()).ok()?.op)
    }

    /// Sources of all that it solved.
    pub fn sources(&self) -> Vec<pb::SourceOp> {
        let of = |op| match op {
            pb::op::Op::Source(source) => Some(source),
            _ => None,
        };
        self.ops().filter_map(of).collect()
    }

    /// What kinds of steps it solved.
    pub fn steps(&self) -> Vec<&'static str> {
        let of = |op| match op {
            pb::op::Op::Exec(_) => Some("a command (exec.meta.base)"),
            pb::op::Op::File(_) => Some("a file operation (file.base)"),
            pb::op::Op::Merge(_) => Some("a merge (mergeop)"),
            pb::op::Op::Diff(_) => Some("a diff (diffop)"),
            _ => None,
        };
        self.ops().filter_map(of).collect()
    }
}

fn says_what_is_missing(text: &str) -> bool {
    let text = text.to_lowercase();
    [
        "capabilit",
        "feature",
        "not supported",
        "unsupported",
        "update",
    ]
    .iter()
    .any(|word| text.contains(word))
}

/// Ids of plain refs for several platforms.
pub fn old_map(ran: &Ran) -> Result<(), String> {
    ran.in_control()?;
    match (ran.returned(), ran.seen.manners.returned) {
        // For one platform only, which is another check's business.
        (Err(_), _) => Ok(()),
        (Ok(_), Some(ReturnForm::Messages)) => {
            Err("it returned refs in a form that such a host cannot read".to_owned())
        }
        (Ok(_), _) => Ok(()),
    }
}

/// What it gave to frontends that it called.
pub fn nested(ran: &Ran) -> Result<(), String> {
    ran.takes_results()?;
    for call in &ran.seen.nested {
        let keys = ["cache-imports", "cache-from"];
        if !keys.iter().any(|key| call.frontend_opts.contains_key(*key))
            && call.cache_imports.is_empty()
        {
            return Err(format!(
                "it called {} without the caches that it was given (cache-imports)",
                call.frontend
            ));
        }
    }
    Ok(())
}

static NOTHING: Error = Error {
    code: Code::Unknown,
    message: String::new(),
    details: Vec::new(),
};

pub fn platforms(ran: &Ran) -> Verdict {
    if let Err(reason) = ran.in_control() {
        return Verdict::Failed(reason);
    }
    let result = match ran.returned() {
        Ok(result) => result,
        Err(error) => {
            let reason = format!(
                "it says that it builds for one platform only: {}",
                error.message
            );
            return Verdict::Skipped(reason);
        }
    };
    let Refs::Map(refs) = &result.refs else {
        return Verdict::Failed(
            "it was asked for two platforms, and returned one result without a word".to_owned(),
        );
    };
    let listed: Option<Value> = result
        .metadata
        .get(PLATFORMS)
        .and_then(|bytes| serde_json::from_slice(bytes).ok());
    let listed = listed
        .as_ref()
        .and_then(|value| value["Platforms"].as_array());
    let Some(listed) = listed else {
        return Verdict::Failed(format!("its result has no list of platforms ({PLATFORMS})"));
    };
    let mut ids: Vec<&str> = listed
        .iter()
        .filter_map(|entry| entry["ID"].as_str())
        .collect();
    ids.sort_unstable();
    match ids.iter().eq(refs.keys()) {
        true => Verdict::Passed,
        false => Verdict::Failed(format!("it lists {ids:?} and returned {:?}", refs.keys())),
    }
}

pub fn described(ran: &Ran) -> Result<(), String> {
    ran.succeeded()?;
    let result = ran.returned().map_err(|error| error.message.clone())?;
    let answer = result
        .metadata
        .get("result.json")
        .ok_or("its answer has no result.json")?;
    let answer: Value =
        serde_json::from_slice(answer).map_err(|e| format!("its answer is no JSON: {e}"))?;
    match answer.is_array() {
        true => Ok(()),
        false => Err("its answer is no list".to_owned()),
    }
}

pub fn refused_question(ran: &Ran) -> Result<(), String> {
    ran.in_control()?;
    let Err(error) = ran.returned() else {
        return Err("it returned a result for a question that nobody knows".to_owned());
    };
    let named = error
        .details
        .iter()
        .any(|detail| matches!(detail, Detail::Subrequest { .. }));
    match named {
        true => Ok(()),
        false => Err(format!(
            "its error has no detail that names the question: {}",
            error.message
        )),
    }
}

pub fn pinned(ran: &Ran) -> Verdict {
    if let Err(reason) = ran.succeeded() {
        return Verdict::Failed(reason);
    }
    let sources = ran.seen.sources();
    let images: Vec<&str> = sources
        .iter()
        .filter_map(|source| source.identifier.strip_prefix("docker-image://"))
        .collect();
    if images.is_empty() {
        return Verdict::Skipped("the sample uses no image".to_owned());
    }
    match images.iter().find(|image| !image.contains("@sha256:")) {
        None => Verdict::Passed,
        Some(image) => Verdict::Failed(format!(
            "{image} has no digest in its graph: a tag that moves meanwhile is another image"
        )),
    }
}

pub fn sessions(ran: &Ran) -> Result<(), String> {
    ran.succeeded()?;
    let sources = ran.seen.sources();
    let mut locals = sources
        .iter()
        .filter(|source| source.identifier.starts_with("local://"));
    match locals.find(|source| !source.attrs.contains_key("local.session")) {
        None => Ok(()),
        Some(source) => Err(format!("{} has no session id", source.identifier)),
    }
}

pub fn same(runs: &[Ran]) -> Verdict {
    if let Some(reason) = runs.iter().find_map(|run| run.succeeded().err()) {
        return Verdict::Failed(reason);
    }
    // Questions that are asked side by side may come in any order.
    let sorted = |run: &Ran| {
        let definitions = run.seen.definitions.iter();
        let mut definitions: Vec<_> = definitions.map(|all| lasting(all)).collect();
        definitions.sort();
        definitions
    };
    let mut graphs = runs.iter().map(sorted);
    let first = graphs.next();
    match graphs.all(|other| Some(&other) == first.as_ref()) {
        true => Verdict::Passed,
        false => Verdict::Failed(
            "two runs with the same input gave different graphs: caches are of no use to it"
                .to_owned(),
        ),
    }
}

/// A definition without the names that directories have on purpose in one build only, as frontends of 2018 give them;
/// caches do not look at these.
fn lasting(definition: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let name = |bytes: &[u8]| Digest::of(bytes).to_string();
    let mut renamed = BTreeMap::new();
    // Whatever the order of the ops is: each pass renames at least one level of them.
    for _ in 0..definition.len() + 2 {
        let now = definition
            .iter()
            .map(|bytes| without_unique(bytes, &renamed));
        let now: Vec<Vec<u8>> = now.collect();
        let changed = definition.iter().zip(&now).filter(|(old, new)| old != new);
        let names: BTreeMap<_, _> = changed.map(|(old, new)| (name(old), name(new))).collect();
        if names == renamed {
            return now;
        }
        renamed = names;
    }
    definition.to_vec()
}

fn without_unique(bytes: &[u8], renamed: &BTreeMap<String, String>) -> Vec<u8> {
    let Ok(mut op) = pb::Op::decode(bytes) else {
        return bytes.to_vec();
    };
    let mut changed = false;
    if let Some(pb::op::Op::Source(source)) = &mut op.op {
        changed |= source.attrs.remove(UNIQUE).is_some();
    }
    for input in &mut op.inputs {
        if let Some(name) = renamed.get(&input.digest) {
            input.digest.clone_from(name);
            changed = true;
        }
    }
    match changed {
        true => op.encode_to_vec(),
        false => bytes.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_build_only_do_not_count_and_all_others_do() {
        let definition = |unique: &str, path: &str| {
            let source = pb::SourceOp {
                identifier: format!("local://{path}"),
                attrs: [(UNIQUE.to_owned(), unique.to_owned())].into(),
            };
            let mut ops = vec![pb::Op {
                op: Some(pb::op::Op::Source(source)),
                ..pb::Op::default()
            }];
            for _ in 0..2 {
                let below = ops.last().map(prost::Message::encode_to_vec);
                let digest = Digest::of(&below.unwrap()).to_string();
                ops.push(pb::Op {
                    inputs: vec![pb::Input { digest, index: 0 }],
                    ..pb::Op::default()
                });
            }
            // In whatever order.
            let mut bytes: Vec<_> = ops.iter().map(prost::Message::encode_to_vec).collect();
            bytes.reverse();
            bytes
        };
        assert_ne!(definition("a", "x"), definition("b", "x"));
        let lasting = |unique, path| lasting(&definition(unique, path));
        assert_eq!(lasting("a", "x"), lasting("b", "x"));
        assert_ne!(lasting("a", "x"), lasting("a", "y"));
    }
}
