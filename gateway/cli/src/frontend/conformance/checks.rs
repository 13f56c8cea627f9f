//! What a frontend must do, one check each: under which host it runs, and what its answer is judged by. The numbers are
//! those of the list "a frontend SDK is compatible when" of `gateway-protocol.md` (13).

use std::collections::BTreeMap;
use std::time::Duration;

use gateway_api::result::metadata::PLATFORMS;
use gateway_api::{BuildResult, Detail, Error, Refs};
use gateway_llb::pb;
use prost::Message as _;
use serde_json::Value;

use super::probe::{REFUSAL, Seen, Twist};
use crate::frontend::subject::PlatformImage;

/// The capability of those who answer questions.
const SUBREQUESTS: &str = "moby.buildkit.frontend.subrequests";
/// After a cancellation everything must be over; many times what it takes.
const END: Duration = Duration::from_secs(6);

/// What is shown of a dead frontend's last words.
const SHOWN_LINES: usize = 4;

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed(String),
    /// It says nothing about this frontend.
    Skipped(String),
}

/// One run of the frontend, as it is to be made.
#[derive(Debug, Clone, Default)]
pub struct Order {
    pub twist: Twist,
    pub opts: BTreeMap<String, String>,
    /// The steps of its result are run too.
    pub whole: bool,
    pub cancel_after: Option<Duration>,
}

/// One run, as it was.
#[derive(Debug)]
pub struct Ran {
    pub seen: Seen,
    pub built: Result<(), Error>,
    pub took: Duration,
    /// The image, as hosts call it in errors of their own.
    pub name: String,
}

/// A check.
pub struct Check {
    pub id: &'static str,
    pub name: &'static str,
    /// More than the protocol asks: a host that answers like this is broken.
    pub beyond: bool,
    pub applies: fn(&PlatformImage) -> Result<(), String>,
    pub orders: fn() -> Vec<Order>,
    pub judge: fn(&[Ran]) -> Verdict,
}

fn always(_: &PlatformImage) -> Result<(), String> {
    Ok(())
}

fn answers(image: &PlatformImage) -> Result<(), String> {
    let caps = image.caps();
    let known = caps
        .iter()
        .any(|cap| cap.split('+').next() == Some(SUBREQUESTS));
    match known {
        true => Ok(()),
        false => Err(format!("its label does not list {SUBREQUESTS}")),
    }
}

fn plain() -> Vec<Order> {
    vec![Order::default()]
}

fn twisted(twist: Twist) -> Vec<Order> {
    vec![Order {
        twist,
        ..Order::default()
    }]
}

fn with(opts: &[(&str, &str)]) -> Vec<Order> {
    let opts = opts
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    vec![Order {
        opts: opts.collect(),
        ..Order::default()
    }]
}

pub const CHECKS: &[Check] = &[
    Check {
        id: "f01",
        name: "builds the sample, and needs no network for it",
        beyond: false,
        applies: always,
        orders: || {
            vec![Order {
                whole: true,
                ..Order::default()
            }]
        },
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f04",
        name: "takes options with = and line ends in them",
        beyond: false,
        applies: always,
        orders: || {
            with(&[
                ("build-arg:GATEWAY_TEST", "a=b=c\nd=e"),
                ("build-arg:EMPTY", ""),
            ])
        },
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f08",
        name: "returns its own error when nothing can be solved, and ends",
        beyond: false,
        applies: always,
        orders: || twisted(Twist::Refuses),
        judge: |runs| all(runs, Ran::own_error),
    },
    Check {
        id: "f09",
        name: "passes on the words and the code of an error",
        beyond: false,
        applies: always,
        orders: || twisted(Twist::Refuses),
        judge: |runs| all(runs, Ran::kept_error),
    },
    Check {
        id: "f11",
        name: "returns one result for each platform, and lists them",
        beyond: false,
        applies: always,
        orders: || with(&[("platform", "linux/amd64,linux/arm64")]),
        judge: |runs| runs.first().map_or(Verdict::Passed, platforms),
    },
    Check {
        id: "f12",
        name: "describes the questions that it answers",
        beyond: false,
        applies: answers,
        orders: || {
            with(&[
                ("requestid", "frontend.subrequests.describe"),
                ("frontend.caps", SUBREQUESTS),
            ])
        },
        judge: |runs| all(runs, described),
    },
    Check {
        id: "f13",
        name: "refuses a question that it does not know by name",
        beyond: false,
        applies: answers,
        orders: || {
            with(&[
                ("requestid", "frontend.gateway-test"),
                ("frontend.caps", SUBREQUESTS),
            ])
        },
        judge: |runs| all(runs, refused_question),
    },
    Check {
        id: "f15",
        name: "falls back where a host does not know ResolveSourceMeta",
        beyond: false,
        applies: always,
        orders: || twisted(Twist::NoSourceMeta),
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f16",
        name: "pins the images that it resolved",
        beyond: false,
        applies: always,
        orders: plain,
        judge: |runs| runs.first().map_or(Verdict::Passed, pinned),
    },
    Check {
        id: "f17",
        name: "takes any error for a missing file as that",
        beyond: false,
        applies: always,
        orders: || twisted(Twist::OtherWords),
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f20",
        name: "says whose directories it means",
        beyond: false,
        applies: always,
        orders: plain,
        judge: |runs| all(runs, sessions),
    },
    Check {
        id: "f27",
        name: "builds on a host of 2018, or says what that lacks",
        beyond: false,
        applies: always,
        orders: || twisted(Twist::Of2018),
        judge: |runs| all(runs, Ran::old_host),
    },
    Check {
        id: "f29",
        name: "passes over capabilities that it does not know",
        beyond: false,
        applies: always,
        orders: || twisted(Twist::Future),
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f30",
        name: "makes the same graph of the same input",
        beyond: false,
        applies: always,
        orders: || vec![Order::default(), Order::default(), Order::default()],
        judge: same,
    },
    Check {
        id: "m1",
        name: "survives image configs that are no JSON",
        beyond: true,
        applies: always,
        orders: || twisted(Twist::BrokenConfigs),
        judge: |runs| all(runs, Ran::in_control),
    },
    Check {
        id: "m2",
        name: "survives a build file that is noise",
        beyond: true,
        applies: always,
        orders: || twisted(Twist::Noise),
        judge: |runs| all(runs, Ran::in_control),
    },
    Check {
        id: "m3",
        name: "survives results that are empty",
        beyond: true,
        applies: always,
        orders: || twisted(Twist::Empty),
        judge: |runs| all(runs, Ran::in_control),
    },
    Check {
        id: "c1",
        name: "is gone when its build is cancelled",
        beyond: false,
        applies: always,
        orders: || {
            let cancel_after = Some(Duration::from_millis(300));
            vec![Order {
                twist: Twist::Hangs,
                cancel_after,
                ..Order::default()
            }]
        },
        judge: |runs| all(runs, Ran::cancelled),
    },
];

fn all(runs: &[Ran], judge: impl Fn(&Ran) -> Result<(), String>) -> Verdict {
    match runs.iter().try_for_each(judge) {
        Ok(()) => Verdict::Passed,
        Err(reason) => Verdict::Failed(reason),
    }
}

impl Ran {
    fn returned(&self) -> Result<&BuildResult, &Error> {
        match (&self.seen.returned, &self.built) {
            (Some(Ok(result)), _) => Ok(result),
            (Some(Err(error)), _) | (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(&NOTHING),
        }
    }

    /// The error that its host had to make, because it returned none itself.
    fn died(&self) -> Option<String> {
        let error = self.returned().err()?;
        let prefix = format!("frontend {}: ", self.name);
        let text = error.message.strip_prefix(&prefix)?;
        Some(text.trim_end().to_owned())
    }

    fn succeeded(&self) -> Result<(), String> {
        self.returned().map_err(|error| error.message.clone())?;
        self.built
            .as_ref()
            .map_err(|error| error.message.clone())
            .copied()
    }

    /// It ended by a Return, whatever that said.
    fn in_control(&self) -> Result<(), String> {
        match self.died() {
            Some(text) => {
                let text: String = text
                    .chars()
                    .filter(|c| *c == '\n' || !c.is_control())
                    .collect();
                let shown: Vec<&str> = text.lines().take(SHOWN_LINES).collect();
                Err(format!("it returned nothing: {}", shown.join("\n")))
            }
            None => Ok(()),
        }
    }

    fn own_error(&self) -> Result<(), String> {
        self.in_control()?;
        match self.returned() {
            Ok(_) => Err("it returned a result, though it could solve nothing".to_owned()),
            Err(_) => Ok(()),
        }
    }

    fn kept_error(&self) -> Result<(), String> {
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
            gateway_api::Code::FailedPrecondition => Ok(()),
            other => Err(format!(
                "the host's code was FailedPrecondition, and it returned {other:?}"
            )),
        }
    }

    fn old_host(&self) -> Result<(), String> {
        self.in_control()?;
        let Err(error) = self.returned() else {
            return Ok(());
        };
        let text = error.message.to_lowercase();
        let says = [
            "capabilit",
            "feature",
            "not supported",
            "unsupported",
            "update",
        ];
        match says.iter().any(|word| text.contains(word)) {
            true => Ok(()),
            false => Err(format!(
                "its error does not say what the host lacks: {}",
                error.message
            )),
        }
    }

    fn cancelled(&self) -> Result<(), String> {
        match &self.built {
            Ok(()) => {
                Err("it returned before it was cancelled, without waiting for its solve".to_owned())
            }
            Err(error) if error.code != gateway_api::Code::Canceled => Err(error.message.clone()),
            Err(_) if self.took > END => Err(format!("it took {:.1} s", self.took.as_secs_f64())),
            Err(_) => Ok(()),
        }
    }

    /// Sources of all that it solved.
    fn sources(&self) -> Vec<pb::SourceOp> {
        let ops = self.seen.definitions.iter().flatten();
        ops.filter_map(|bytes| match pb::Op::decode(bytes.as_slice()).ok()?.op? {
            pb::op::Op::Source(source) => Some(source),
            _ => None,
        })
        .collect()
    }
}

static NOTHING: Error = Error {
    code: gateway_api::Code::Unknown,
    message: String::new(),
    details: Vec::new(),
};

fn platforms(ran: &Ran) -> Verdict {
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

fn described(ran: &Ran) -> Result<(), String> {
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

fn refused_question(ran: &Ran) -> Result<(), String> {
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

fn pinned(ran: &Ran) -> Verdict {
    if let Err(reason) = ran.succeeded() {
        return Verdict::Failed(reason);
    }
    let sources = ran.sources();
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

fn sessions(ran: &Ran) -> Result<(), String> {
    ran.succeeded()?;
    let sources = ran.sources();
    let mut locals = sources
        .iter()
        .filter(|source| source.identifier.starts_with("local://"));
    match locals.find(|source| !source.attrs.contains_key("local.session")) {
        None => Ok(()),
        Some(source) => Err(format!("{} has no session id", source.identifier)),
    }
}

fn same(runs: &[Ran]) -> Verdict {
    if let Some(reason) = runs.iter().find_map(|run| run.succeeded().err()) {
        return Verdict::Failed(reason);
    }
    // Questions that are asked side by side may come in any order.
    let sorted = |run: &Ran| {
        let mut definitions = run.seen.definitions.clone();
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
