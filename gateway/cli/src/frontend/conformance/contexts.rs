//! Named contexts and inputs: each form that clients give them, and what must be found of it in the graph.

use std::collections::BTreeMap;

use gateway_images::reference::Reference;
use gateway_llb::pb;
use prost::Message as _;

use super::checks::{Known, Order, Orders, Verdict, all, having};
use super::judge::Ran;
use super::probe::{NOWHERE, Twist};

const CONTEXTS: &str = "moby.buildkit.frontend.contexts";
const INPUTS: &str = "moby.buildkit.frontend.inputs";
/// The context of our own sample.
const NAME: &str = "gateway-test";
const SAMPLE: &str = "FROM scratch\nCOPY --from=gateway-test / /\n";
/// Local directories that nobody has: they are only looked for in graphs.
const DIR: &str = "gateway-test-dir";
const OTHER_DIR: &str = "gateway-test-other";
const INPUT: &str = "gateway-test-input";
/// What the input is: a directory of this name.
const INPUT_DIR: &str = "/gateway-test-input";

/// Forms, by the notes of their runs: what is to be found.
const LOCAL: &str = "local:";
const IMAGE: &str = "docker-image://";
const GIT: &str = "a git address";
const HTTP: &str = "an http address";
const LAYOUT: &str = "oci-layout://";
const OF_INPUT: &str = "input:";
const PLATFORM: &str = "one for the platform and one for all";

pub fn orders(known: &Known<'_>) -> Orders {
    having(known, CONTEXTS, || {
        let name = match (known.own_sample, known.first) {
            (true, _) => NAME.to_owned(),
            (false, first) => {
                let first = first.and_then(image_of);
                first.ok_or("the sample uses no image that a context could replace")?
            }
        };
        let takes_inputs = having(known, INPUTS, || Ok(Vec::new())).is_ok();
        let order = |note, contexts: &[(String, String)]| Order {
            note,
            twist: Twist::Unreachable,
            sample: Some(SAMPLE),
            opts: contexts.iter().cloned().collect(),
            ..Order::default()
        };
        let plain = format!("context:{name}");
        let platform = gateway_llb::platform::format(&gateway_llb::platform::host());
        let of = |value: String| [(plain.clone(), value)];
        let mut orders = vec![
            order(LOCAL, &of(format!("local:{DIR}"))),
            order(IMAGE, &of(format!("docker-image://{NOWHERE}/image:1"))),
            order(GIT, &of(format!("https://{NOWHERE}/repository.git"))),
            order(HTTP, &of(format!("https://{NOWHERE}/file.txt"))),
            order(LAYOUT, &of(known.layout.to_owned())),
            order(
                PLATFORM,
                &[
                    (plain.clone(), format!("local:{OTHER_DIR}")),
                    (format!("{plain}::{platform}"), format!("local:{DIR}")),
                ],
            ),
        ];
        if takes_inputs {
            orders.push(Order {
                inputs: BTreeMap::from([(INPUT.to_owned(), input())]),
                ..order(OF_INPUT, &of(format!("input:{INPUT}")))
            });
        }
        Ok(orders)
    })
}

/// An empty directory.
fn input() -> pb::Definition {
    let made = gateway_llb::FileActions::new().mkdir(INPUT_DIR, gateway_llb::Mkdir::default());
    let state = gateway_llb::State::scratch().file(made, gateway_llb::Constraints::new());
    let options = gateway_llb::MarshalOptions::new(gateway_llb::platform::host());
    state.marshal(&options).unwrap_or_default()
}

/// The first image that the sample uses, as contexts are named.
fn image_of(first: &Ran) -> Option<String> {
    let sources = first.seen.sources();
    let mut images = sources
        .iter()
        .filter_map(|source| source.identifier.strip_prefix("docker-image://"));
    let name = images.next()?.split('@').next()?;
    let familiar = Reference::parse(name).ok()?.familiar();
    Some(familiar.trim_end_matches(":latest").to_owned())
}

pub fn judge(runs: &[Ran]) -> Verdict {
    all(runs, |ran| {
        let sources = ran.seen.sources();
        let mut seen: Vec<&str> = sources.iter().map(|s| s.identifier.as_str()).collect();
        seen.extend(ran.seen.resolved.iter().map(String::as_str));
        let has = |wanted: &str| seen.iter().any(|seen| seen.starts_with(wanted));
        let found = match ran.note {
            LOCAL => has(&format!("local://{DIR}")),
            IMAGE => has(&format!("docker-image://{NOWHERE}/image:1")),
            GIT => seen
                .iter()
                .any(|s| s.starts_with("git://") && s.contains(NOWHERE)),
            HTTP => has(&format!("https://{NOWHERE}/file.txt")),
            LAYOUT => has("oci-layout://"),
            PLATFORM => has(&format!("local://{DIR}")) && !has(&format!("local://{OTHER_DIR}")),
            _ => ran
                .seen
                .definitions
                .iter()
                .flatten()
                .any(|op| makes_input(op)),
        };
        match (found, ran.returned()) {
            (true, _) => ran.in_control(),
            (false, Err(error)) => Err(format!("it did not look there: {}", error.message)),
            (false, Ok(_)) => Err("it did not look there".to_owned()),
        }
    })
}

fn makes_input(op: &[u8]) -> bool {
    let Ok(op) = pb::Op::decode(op) else {
        return false;
    };
    let Some(pb::op::Op::File(file)) = op.op else {
        return false;
    };
    file.actions.iter().any(|action| {
        matches!(&action.action, Some(pb::file_action::Action::Mkdir(made)) if made.path == INPUT_DIR)
    })
}
