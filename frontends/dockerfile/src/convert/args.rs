//! The ARGs before the first FROM, and the variables that every build has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_llb::{Env, pb, platform};
use rpds::{HashTrieMapSync, VectorSync};

use super::budget::Budget;
use crate::parse::expand::{ExpandError, Expander, Vars};
use crate::parse::{Instruction, Kind, LineRange};

/// ARGs that steer the build and are never seen by commands.
pub const NOT_IN_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

impl Vars for Env {
    fn get(&self, name: &str) -> Option<&str> {
        Env::get(self, name)
    }
}

/// The automatic variables: what is built on and for.
pub fn automatic(
    build: &pb::Platform,
    target: &pb::Platform,
    stage: &str,
    overrides: &BTreeMap<String, String>,
) -> Env {
    let stage = if stage.is_empty() { "default" } else { stage };
    let mut env = Env::default();
    for (key, value) in [
        ("BUILDPLATFORM", platform::format(build).as_str()),
        ("BUILDOS", &build.os),
        ("BUILDOSVERSION", &build.os_version),
        ("BUILDARCH", &build.architecture),
        ("BUILDVARIANT", &build.variant),
        ("TARGETPLATFORM", &platform::format_all(target)),
        ("TARGETOS", &target.os),
        ("TARGETOSVERSION", &target.os_version),
        ("TARGETARCH", &target.architecture),
        ("TARGETVARIANT", &target.variant),
        ("TARGETSTAGE", stage),
    ] {
        env.set(key, overrides.get(key).map_or(value, String::as_str));
    }
    env
}

/// An ARG as it was met: for outlines and suggestions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArgInfo {
    /// Its value; empty when it has none.
    pub value: String,
    /// What the comments say.
    pub description: String,
    /// Its line.
    pub location: LineRange,
    /// The ARGs that its default is made of.
    pub needs: BTreeSet<String>,
}

/// The ARGs of a stage with their last values, in the order in which each name was met first: as the history of commands
/// lists them. Stages begin with those of the stage below: a copy shares them.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    list: VectorSync<(Arc<str>, Option<Arc<str>>)>,
    places: HashTrieMapSync<Arc<str>, usize>,
}

impl Declared {
    /// Declares an ARG, or gives one that was declared another value.
    pub fn set(&mut self, key: &str, value: Option<Arc<str>>) {
        let known = self.places.get_key_value(key);
        match known.map(|(name, place)| (Arc::clone(name), *place)) {
            Some((name, place)) => {
                self.list.set_mut(place, (name, value));
            }
            None => {
                let name: Arc<str> = key.into();
                self.places.insert_mut(Arc::clone(&name), self.list.len());
                self.list.push_back_mut((name, value));
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True before the first.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The value of an ARG, if it has one; `None` for what was not declared.
    pub fn get(&self, key: &str) -> Option<Option<&str>> {
        let (_, value) = self.list.get(*self.places.get(key)?)?;
        Some(value.as_deref())
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.list
            .iter()
            .map(|(key, value)| (&**key, value.as_deref()))
    }
}

/// The values of the ARGs before the first FROM.
///
/// # Errors
/// A default that cannot be expanded, with its lines.
pub(super) async fn global(
    mut env: Env,
    instructions: &[Instruction],
    rules: Expander,
    build_args: Option<&BTreeMap<String, String>>,
    budget: &Budget,
) -> Result<(Env, BTreeMap<String, ArgInfo>), (ExpandError, LineRange)> {
    let mut all: BTreeMap<String, ArgInfo> = BTreeMap::new();
    for instruction in instructions {
        let Kind::Arg(pairs) = &instruction.kind else {
            continue;
        };
        budget.turn().await;
        for pair in pairs {
            let given = build_args.and_then(|args| args.get(&pair.key));
            let mut needs = BTreeSet::new();
            let value = match (given, &pair.value) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let expanded = budget
                        .expand(rules, default, &env)
                        .map_err(|e| (e, instruction.location))?;
                    needs = expanded.matched;
                    // A default that adds to itself needs what the one before needed.
                    if needs.remove(&pair.key)
                        && let Some(before) = all.get(&pair.key)
                    {
                        needs.extend(before.needs.iter().cloned());
                    }
                    Some(expanded.value)
                }
                (None, None) => None,
            };
            if let Some(value) = &value {
                env.set(pair.key.as_str(), value.as_str());
            }
            all.insert(
                pair.key.clone(),
                ArgInfo {
                    needs,
                    value: value.unwrap_or_default(),
                    description: pair.doc_comment.clone(),
                    location: instruction.location,
                },
            );
        }
    }
    Ok((env, all))
}

/// The proxy variables among the build args, in any case; `None` when there is none.
pub fn proxy(args: &BTreeMap<String, String>) -> Option<pb::ProxyEnv> {
    let mut proxy = pb::ProxyEnv::default();
    let mut any = false;
    for (key, value) in args {
        let place = match key.to_ascii_lowercase().as_str() {
            "http_proxy" => &mut proxy.http_proxy,
            "https_proxy" => &mut proxy.https_proxy,
            "ftp_proxy" => &mut proxy.ftp_proxy,
            "no_proxy" => &mut proxy.no_proxy,
            "all_proxy" => &mut proxy.all_proxy,
            _ => continue,
        };
        place.clone_from(value);
        any = true;
    }
    any.then_some(proxy)
}
