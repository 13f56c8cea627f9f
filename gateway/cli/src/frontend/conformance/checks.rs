//! What a frontend must do, one check each: under which host it runs, and what its answer is judged by. The numbers are
//! those of the list "a frontend SDK is compatible when" of `gateway-protocol.md` (13).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_bridge::{Conduct, Forms, OWN_IMAGE_PATH};
use gateway_llb::pb;
use gateway_sandbox::SandboxSpec;

use super::contexts;
use super::judge::{
    GIVES_UP, Ran, described, nested, old_map, pinned, platforms, refused_question, same, sessions,
};
use super::probe::{NOWHERE, Twist};
use crate::frontend::subject::PlatformImage;

/// The capability of those who answer questions.
const SUBREQUESTS: &str = "moby.buildkit.frontend.subrequests";
/// One that nobody has.
pub const UNKNOWN_CAP: &str = "moby.buildkit.frontend.of-another-time";
const WORKERS: &str = "BUILDKIT_WORKERS=";
const OPTION: &str = "BUILDKIT_FRONTEND_OPT_";

/// Build files for the Dockerfile family, when no sample is given.
pub const SAMPLE: &str = "FROM scratch\nCOPY hello.txt /\n";
const WARNING_SAMPLE: &str = "FROM scratch AS Stage\nCOPY hello.txt /\n";
const NESTED_SAMPLE: &str = "# syntax = nowhere.test/nested:1\nFROM scratch\nCOPY hello.txt /\n";

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
    pub conduct: Conduct,
    pub opts: BTreeMap<String, String>,
    pub inputs: BTreeMap<String, pb::Definition>,
    /// Instead of the Dockerfile, where the sample is not the user's.
    pub sample: Option<&'static str>,
    /// Nothing says that a `# syntax` line was followed already.
    pub outermost: bool,
    /// The steps of its result are run too.
    pub whole: bool,
    /// Cancelled as soon as something is to be solved.
    pub cancelled: bool,
    pub timeout: Option<Duration>,
    /// What is special about it among the runs of a check.
    pub note: &'static str,
}

/// What is known when the runs of a check are made.
pub struct Known<'a> {
    pub image: &'a PlatformImage,
    /// The run of the first check, which succeeded.
    pub first: Option<&'a Ran>,
    /// The sample is ours, in the Dockerfile language.
    pub own_sample: bool,
    /// `oci-layout://` of the frontend's own image.
    pub layout: &'a str,
}

/// The runs; or why there are none.
pub type Orders = Result<Vec<Order>, String>;

/// A check.
pub struct Check {
    pub id: &'static str,
    pub name: &'static str,
    /// What fails it is no worse than on any host that is broken or strict itself.
    pub beyond: bool,
    pub orders: fn(&Known<'_>) -> Orders,
    pub judge: fn(&[Ran]) -> Verdict,
}

fn plain() -> Orders {
    twisted(Twist::None)
}

fn twisted(twist: Twist) -> Orders {
    Ok(vec![Order {
        twist,
        ..Order::default()
    }])
}

fn conducted(conduct: Conduct) -> Orders {
    Ok(vec![Order {
        conduct,
        ..Order::default()
    }])
}

/// With another environment, mounts or root.
fn process(change: impl Fn(&mut SandboxSpec) + Send + Sync + 'static) -> Conduct {
    Conduct {
        process: Some(Arc::new(change)),
        ..Conduct::default()
    }
}

fn options<'a>(opts: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> BTreeMap<String, String> {
    let opts = opts.into_iter();
    opts.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn with(opts: &[(&str, &str)]) -> Orders {
    Ok(vec![Order {
        opts: options(opts),
        ..Order::default()
    }])
}

/// Only for those whose label lists this.
pub fn having(known: &Known<'_>, cap: &str, orders: impl FnOnce() -> Orders) -> Orders {
    let caps = known.image.caps();
    match caps.iter().any(|own| own.split('+').next() == Some(cap)) {
        true => orders(),
        false => Err(format!("its label does not list {cap}")),
    }
}

/// What says which machines there are, with fields that are unknown, null or not there.
fn workers() -> Vec<Order> {
    let texts = [
        (
            "BUILDKIT_WORKERS with unknown fields and null",
            Some(
                r#"[{"id":null,"labels":null,"platforms":null,"gcPolicy":null,"future":{"a":[1]}}]"#,
            ),
        ),
        ("BUILDKIT_WORKERS is null", Some("null")),
        (
            "BUILDKIT_WORKERS is not understood",
            Some("of another time"),
        ),
        ("no BUILDKIT_WORKERS and no BUILDKIT_EXPORTEDPRODUCT", None),
    ];
    let orders = texts.map(|(note, text)| Order {
        note,
        conduct: process(move |spec| {
            spec.env.retain(|variable| {
                !variable.starts_with(WORKERS)
                    && (text.is_some() || !variable.starts_with("BUILDKIT_EXPORTEDPRODUCT="))
            });
            spec.env.extend(text.map(|text| format!("{WORKERS}{text}")));
        }),
        ..Order::default()
    });
    orders.into()
}

/// The caller requires something: put where hosts that compare labels do not see it.
fn requires(cap: String) -> Conduct {
    process(move |spec| {
        let options = spec.env.iter().filter(|v| v.starts_with(OPTION));
        let count = options.count();
        spec.env
            .push(format!("{OPTION}{count}=frontend.caps={cap}"));
    })
}

fn two_platforms() -> BTreeMap<String, String> {
    options(&[("platform", "linux/amd64,linux/arm64")])
}

pub const CHECKS: &[Check] = &[
    Check {
        id: "f01",
        name: "builds the sample, and needs no network for it",
        beyond: false,
        orders: |_| {
            Ok(vec![Order {
                whole: true,
                ..Order::default()
            }])
        },
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f02",
        name: "names the host that it speaks to, as HTTP/2 libraries want",
        beyond: true,
        orders: |_| plain(),
        judge: |runs| all(runs, Ran::has_authority),
    },
    Check {
        id: "f03",
        name: "writes nothing but HTTP/2 to stdout",
        beyond: false,
        orders: |_| {
            Ok([Twist::None, Twist::Refuses, Twist::Noise]
                .map(|twist| Order {
                    twist,
                    ..Order::default()
                })
                .into())
        },
        judge: |runs| all(runs, Ran::only_frames),
    },
    Check {
        id: "f04",
        name: "takes options with = and line ends in them",
        beyond: false,
        orders: |_| {
            with(&[
                ("build-arg:GATEWAY_TEST", "a=b=c\nd=e"),
                ("build-arg:EMPTY", ""),
            ])
        },
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f05",
        name: "reads what machines there are, whatever it does not know of it",
        beyond: false,
        orders: |_| Ok(workers()),
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f06",
        name: "takes a host that lists no capabilities for one of 2018",
        beyond: false,
        orders: |_| {
            Ok(vec![Order {
                twist: Twist::Listless,
                // Such a host answers as it did then.
                conduct: Conduct {
                    forms: Forms::FirstId,
                    ..Conduct::default()
                },
                ..Order::default()
            }])
        },
        judge: |runs| all(runs, Ran::oldest_host),
    },
    Check {
        id: "f06b",
        name: "gives up a host that does not answer",
        beyond: false,
        orders: |_| {
            Ok(vec![Order {
                conduct: Conduct {
                    mute: true,
                    ..Conduct::default()
                },
                timeout: Some(GIVES_UP),
                ..Order::default()
            }])
        },
        judge: |runs| all(runs, Ran::gave_up),
    },
    Check {
        id: "f07",
        name: "asks for nothing that the host does not list",
        beyond: false,
        orders: |known| match known.first.is_some_and(|ran| !ran.seen.steps().is_empty()) {
            true => twisted(Twist::SourcesOnly),
            false => Err("the sample's graph has sources only".to_owned()),
        },
        judge: |runs| all(runs, Ran::asked_for_sources_only),
    },
    Check {
        id: "f08",
        name: "returns its own error when nothing can be solved, and ends",
        beyond: false,
        orders: |_| twisted(Twist::Refuses),
        judge: |runs| all(runs, Ran::own_error),
    },
    Check {
        id: "f09",
        name: "passes on the words and the code of an error",
        beyond: false,
        orders: |_| twisted(Twist::Refuses),
        judge: |runs| all(runs, Ran::kept_error),
    },
    Check {
        id: "f10",
        name: "takes and returns results in the forms of old hosts",
        beyond: false,
        orders: |_| {
            let order = |forms, note| Order {
                twist: Twist::NoRefArray,
                conduct: Conduct {
                    forms,
                    ..Conduct::default()
                },
                note,
                ..Order::default()
            };
            Ok(vec![
                order(Forms::Ids, "plain ids"),
                order(Forms::FirstId, "one id"),
            ])
        },
        judge: |runs| all(runs, Ran::returned_ids),
    },
    Check {
        id: "f10b",
        name: "returns plain ids for several platforms to old hosts",
        beyond: false,
        orders: |_| {
            Ok(vec![Order {
                twist: Twist::NoRefArray,
                conduct: Conduct {
                    forms: Forms::Ids,
                    ..Conduct::default()
                },
                opts: two_platforms(),
                ..Order::default()
            }])
        },
        judge: |runs| all(runs, old_map),
    },
    Check {
        id: "f11",
        name: "returns one result for each platform, and lists them",
        beyond: false,
        orders: |_| {
            Ok(vec![Order {
                opts: two_platforms(),
                ..Order::default()
            }])
        },
        judge: |runs| runs.first().map_or(Verdict::Passed, platforms),
    },
    Check {
        id: "f12",
        name: "describes the questions that it answers",
        beyond: false,
        orders: |known| {
            having(known, SUBREQUESTS, || {
                with(&[
                    ("requestid", "frontend.subrequests.describe"),
                    ("frontend.caps", SUBREQUESTS),
                ])
            })
        },
        judge: |runs| all(runs, described),
    },
    Check {
        id: "f13",
        name: "refuses a question that it does not know by name",
        beyond: false,
        orders: |known| {
            having(known, SUBREQUESTS, || {
                with(&[
                    ("requestid", "frontend.gateway-test"),
                    ("frontend.caps", SUBREQUESTS),
                ])
            })
        },
        judge: |runs| all(runs, refused_question),
    },
    Check {
        id: "f14",
        name: "refuses a caller that requires what it lacks",
        beyond: false,
        orders: |known| match known.image.caps().is_empty() {
            true => Err(
                "its label lists no capabilities, so that hosts refuse such callers for it"
                    .to_owned(),
            ),
            false => Ok(["", "+forward"]
                .map(|suffix| Order {
                    conduct: requires(format!("{UNKNOWN_CAP}{suffix}")),
                    ..Order::default()
                })
                .into()),
        },
        judge: |runs| all(runs, Ran::refused_cap),
    },
    Check {
        id: "f15",
        name: "falls back where a host does not know ResolveSourceMeta",
        beyond: false,
        orders: |_| twisted(Twist::NoSourceMeta),
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f16",
        name: "pins the images that it resolved",
        beyond: false,
        orders: |_| plain(),
        judge: |runs| runs.first().map_or(Verdict::Passed, pinned),
    },
    Check {
        id: "f17",
        name: "takes any error for a missing file as that",
        beyond: false,
        orders: |_| twisted(Twist::OtherWords),
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f18",
        name: "builds where results come without their definitions, or says why not",
        beyond: false,
        orders: |_| {
            conducted(Conduct {
                forms: Forms::WithoutDefinitions,
                ..Conduct::default()
            })
        },
        judge: |runs| all(runs, Ran::in_control),
    },
    Check {
        id: "f19",
        name: "takes named contexts and inputs of every form, the platform's own first",
        beyond: false,
        orders: contexts::orders,
        judge: contexts::judge,
    },
    Check {
        id: "f20",
        name: "says whose directories it means",
        beyond: false,
        orders: |_| plain(),
        judge: |runs| all(runs, sessions),
    },
    Check {
        id: "f21",
        name: "runs its processes in containers over one stream, ends their inputs, and does without their releases",
        beyond: false,
        orders: |known| match known.first.is_some_and(|ran| ran.seen.containers > 0) {
            true => twisted(Twist::Sticky),
            false => Err("it runs no containers for the sample".to_owned()),
        },
        judge: |runs| all(runs, Ran::ran_processes),
    },
    Check {
        id: "f22",
        name: "takes messages of more than 4 MiB",
        beyond: false,
        orders: |_| twisted(Twist::ManyCaps),
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f22b",
        name: "passes on errors of more than 16 KiB",
        beyond: false,
        orders: |_| twisted(Twist::RefusesAtLength),
        judge: |runs| all(runs, Ran::kept_error),
    },
    Check {
        id: "f23",
        name: "takes results of every form, and gives its caches to frontends that it calls",
        beyond: true,
        orders: |known| {
            let mut opts = vec![
                (
                    "cache-imports",
                    r#"[{"Type":"registry","Attrs":{"ref":"nowhere.test/cache:1"}}]"#,
                ),
                ("cache-from", "nowhere.test/cache:1"),
            ];
            let nested = format!("{NOWHERE}/nested:1");
            if !known.own_sample {
                opts.push(("build-arg:BUILDKIT_SYNTAX", &nested));
            }
            Ok(vec![Order {
                twist: Twist::Alone,
                opts: options(&opts),
                sample: Some(NESTED_SAMPLE),
                outermost: true,
                ..Order::default()
            }])
        },
        judge: |runs| all(runs, nested),
    },
    Check {
        id: "f24",
        name: "says in warnings which lines they are about",
        beyond: false,
        orders: |_| {
            Ok(vec![Order {
                sample: Some(WARNING_SAMPLE),
                ..Order::default()
            }])
        },
        judge: |runs| match runs
            .iter()
            .all(|ran| ran.succeeded().is_ok() && ran.seen.warnings.is_empty())
        {
            true => Verdict::Skipped("it warns of nothing in the sample".to_owned()),
            false => all(runs, Ran::warned),
        },
    },
    Check {
        id: "f25",
        name: "ends when its host is gone",
        beyond: false,
        orders: |_| twisted(Twist::Leaves),
        judge: |runs| all(runs, Ran::left),
    },
    Check {
        id: "f26",
        name: "needs neither PATH nor HOME, and writes no files",
        beyond: false,
        orders: |_| {
            conducted(process(|spec| {
                spec.env.retain(|variable| {
                    !variable.starts_with("PATH=") && !variable.starts_with("HOME=")
                });
                spec.env
                    .extend(["PATH=/nowhere".to_owned(), "HOME=/nowhere".to_owned()]);
                spec.root_readonly = true;
            }))
        },
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f27",
        name: "builds on a host of 2018, or says what that lacks",
        beyond: false,
        orders: |_| twisted(Twist::Of2018),
        judge: |runs| all(runs, Ran::old_host),
    },
    Check {
        id: "f28",
        name: "does without its own image's definition",
        beyond: false,
        orders: |_| {
            conducted(process(|spec| {
                spec.mounts.retain(|mount| mount.dest != OWN_IMAGE_PATH)
            }))
        },
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f29",
        name: "passes over capabilities that it does not know",
        beyond: false,
        orders: |_| twisted(Twist::Future),
        judge: |runs| all(runs, Ran::succeeded),
    },
    Check {
        id: "f30",
        name: "makes the same graph of the same input",
        beyond: false,
        orders: |_| Ok(vec![Order::default(), Order::default(), Order::default()]),
        judge: same,
    },
    Check {
        id: "m1",
        name: "survives image configs that are no JSON",
        beyond: true,
        orders: |_| twisted(Twist::BrokenConfigs),
        judge: |runs| all(runs, Ran::in_control),
    },
    Check {
        id: "m2",
        name: "survives a build file that is noise",
        beyond: true,
        orders: |_| twisted(Twist::Noise),
        judge: |runs| all(runs, Ran::in_control),
    },
    Check {
        id: "m3",
        name: "survives results that are empty",
        beyond: true,
        orders: |_| twisted(Twist::Empty),
        judge: |runs| all(runs, Ran::in_control),
    },
    Check {
        id: "c1",
        name: "is gone when its build is cancelled",
        beyond: false,
        orders: |_| {
            Ok(vec![Order {
                twist: Twist::Hangs,
                cancelled: true,
                ..Order::default()
            }])
        },
        judge: |runs| all(runs, Ran::cancelled),
    },
];

pub fn all(runs: &[Ran], judge: impl Fn(&Ran) -> Result<(), String>) -> Verdict {
    for ran in runs {
        if let Err(reason) = judge(ran) {
            return Verdict::Failed(match ran.note {
                "" => reason,
                note => format!("{note}: {reason}"),
            });
        }
    }
    Verdict::Passed
}
