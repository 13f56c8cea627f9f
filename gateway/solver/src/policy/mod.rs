//! Source policies: which sources a build may use, and what is taken in their place. Rules of
//! clients and frontends are judged here against every source before it is looked at: of a
//! definition when it is loaded, of a question about a source when it is asked.
//!
//! The order of evaluation is BuildKit's (`llb-solver.md`, source policy): of one policy the last
//! matching ALLOW or DENY counts, every policy must agree, and a CONVERT that changes something
//! starts all over with what it made.

mod apply;
mod document;
mod identifier;
mod pattern;

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::{Cause, Code, Error};
use gateway_llb::pb;

pub(crate) use apply::apply;
pub use pattern::PatternError;
use pattern::{Matcher, Selector};

/// A source may be converted this often before it counts as a circle; BuildKit's number.
const MAX_CONVERSIONS: usize = 20;

/// Rules in one policy. Pinning every image of a large organisation takes thousands; this is a
/// bound on the work that one source of a hostile frontend can cause.
pub const MAX_RULES: usize = 50_000;

/// Rules with a wildcard or an expression in one policy: each may hold
/// [`pattern::MAX_COMPILED_BYTES`] when compiled.
pub const MAX_PATTERNS: usize = 2_000;

/// Longest identifier that is judged, in bytes: longer than any server takes a URL. Together with
/// [`MAX_TEMPLATE`] a bound on what conversions can make of one.
const MAX_IDENTIFIER: usize = 8 << 10;

/// Longest identifier in an update, in bytes.
pub const MAX_TEMPLATE: usize = 4 << 10;

/// What a rule does to the sources that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    Convert,
}

/// How a rule names sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchType {
    /// `*` stands for any text; what it stood for is `$1`, `$2`, ... of a conversion.
    Wildcard,
    Exact,
    Regex,
}

/// What must hold of an attribute; a missing one is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Equal,
    NotEqual,
    /// The value is an expression that matches somewhere.
    Matches,
}

/// See [`Condition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    pub key: String,
    pub value: String,
    pub condition: Condition,
}

/// What a conversion makes of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// A template with `${1}`; empty to change only attributes.
    pub identifier: String,
    pub attrs: BTreeMap<String, String>,
}

/// One rule, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub action: Action,
    /// E.g. `docker-image://docker.io/library/alpine:*`.
    pub identifier: String,
    pub match_type: MatchType,
    pub constraints: Vec<Constraint>,
    pub updates: Option<Update>,
}

/// Why a policy cannot be used. Whoever gets one stops: a guard that is not understood guards
/// nothing.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("not a JSON document: {0}")]
    Json(#[from] serde_json::Error),
    /// Where in the document, and what.
    #[error("{place}: {problem}")]
    Document { place: String, problem: String },
    #[error("rule {rule}: {source}")]
    Pattern { rule: usize, source: PatternError },
    #[error("rule {rule}: CONVERT needs updates")]
    NoUpdates { rule: usize },
    #[error("rule {rule}: the identifier in its updates is longer than {MAX_TEMPLATE} bytes")]
    Template { rule: usize },
    #[error("more than {MAX_RULES} rules")]
    Rules,
    #[error("more than {MAX_PATTERNS} wildcards and regular expressions")]
    Patterns,
}

/// A policy that was read and found good.
#[derive(Debug)]
pub struct Policy {
    origin: String,
    rules: Vec<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    selector: Selector,
    constraints: Vec<(String, Matcher)>,
}

impl Policy {
    /// `origin` says in error texts whose policy it is, e.g. its file.
    ///
    /// # Errors
    /// A rule cannot be used.
    pub fn new(origin: impl Into<String>, rules: Vec<Rule>) -> Result<Policy, PolicyError> {
        if rules.len() > MAX_RULES {
            return Err(PolicyError::Rules);
        }
        let mut patterns = 0;
        let mut compiled = Vec::with_capacity(rules.len());
        for (index, rule) in rules.into_iter().enumerate() {
            let number = index + 1;
            let bad = |source| PolicyError::Pattern {
                rule: number,
                source,
            };
            if rule.action == Action::Convert && rule.updates.is_none() {
                return Err(PolicyError::NoUpdates { rule: number });
            }
            let template = rule
                .updates
                .as_ref()
                .map(|updates| updates.identifier.len());
            if template.is_some_and(|length| length > MAX_TEMPLATE) {
                return Err(PolicyError::Template { rule: number });
            }
            let selector = Selector::new(rule.match_type, &rule.identifier).map_err(bad)?;
            let constraints = rule
                .constraints
                .iter()
                .map(|constraint| Ok((constraint.key.clone(), Matcher::new(constraint)?)))
                .collect::<Result<Vec<_>, PatternError>>()
                .map_err(bad)?;
            patterns += usize::from(selector.is_pattern());
            patterns += constraints.iter().filter(|(_, m)| m.is_pattern()).count();
            if patterns > MAX_PATTERNS {
                return Err(PolicyError::Patterns);
            }
            compiled.push(Compiled {
                rule,
                selector,
                constraints,
            });
        }
        Ok(Policy {
            origin: origin.into(),
            rules: compiled,
        })
    }

    /// Reads a policy as clients keep it: a JSON object with `rules`.
    ///
    /// # Errors
    /// It is no such document, or has parts that are not understood.
    pub fn parse(origin: impl Into<String>, json: &str) -> Result<Policy, PolicyError> {
        Policy::new(origin, document::rules(json)?)
    }

    /// True when a conversion changed `source`.
    fn judge(&self, source: &mut pb::SourceOp) -> Result<bool, Error> {
        let identifier = source.identifier.clone();
        let mut denied_by = None;
        for (index, compiled) in self.rules.iter().enumerate() {
            if !compiled.matches(&identifier, &source.attrs) {
                continue;
            }
            match compiled.rule.action {
                Action::Allow => denied_by = None,
                Action::Deny => denied_by = Some((index, compiled)),
                Action::Convert => {
                    if compiled.convert(source, &identifier) {
                        return Ok(true);
                    }
                }
            }
        }
        let Some((index, compiled)) = denied_by else {
            return Ok(false);
        };
        let shown = gateway_images::registry::shown_url(&identifier);
        Err(Error::unknown(format!(
            "source \"{shown}\" denied by policy: source denied by policy"
        ))
        .caused_by(Cause::Policy)
        .with_help(format!(
            "rule {} of {} denies it: DENY {}\n",
            index + 1,
            self.origin,
            compiled.rule.identifier
        )))
    }
}

impl Compiled {
    fn matches(&self, identifier: &str, attrs: &BTreeMap<String, String>) -> bool {
        self.constraints
            .iter()
            .all(|(key, matcher)| matcher.matches(attrs.get(key).map_or("", String::as_str)))
            && self.selector.matches(identifier)
    }

    fn convert(&self, source: &mut pb::SourceOp, identifier: &str) -> bool {
        let Some(updates) = &self.rule.updates else {
            return false;
        };
        let before = source.clone();
        // The reference takes the rule's own identifier when there is none, which for a pattern is
        // the name of nothing.
        let destination = match updates.identifier.as_str() {
            "" => String::new(),
            template => self.selector.format(identifier, template),
        };
        for (key, value) in &updates.attrs {
            source.attrs.insert(key.clone(), value.clone());
        }
        if !destination.is_empty() && destination != identifier {
            identifier::replace(source, destination, &updates.attrs);
        }
        *source != before
    }
}

/// The policies that hold for a build or for one question of it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SourcePolicies(Vec<Arc<Policy>>);

impl SourcePolicies {
    pub fn new(policies: impl IntoIterator<Item = Policy>) -> Self {
        SourcePolicies(policies.into_iter().map(Arc::new).collect())
    }

    /// These, and then `others`.
    #[must_use]
    pub fn and(&self, others: &SourcePolicies) -> SourcePolicies {
        SourcePolicies(self.0.iter().chain(&others.0).cloned().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is used in the end when this source is named, in the form in which sources are judged.
    ///
    /// # Errors
    /// It is denied, or converted in a circle.
    pub fn settled(&self, source: &pb::SourceOp) -> Result<pb::SourceOp, Error> {
        Ok(match self.evaluate(source)? {
            Some(converted) => converted,
            None => pb::SourceOp {
                identifier: identifier::normalized(source),
                ..source.clone()
            },
        })
    }

    /// What to use instead of a source, or none when it stays.
    ///
    /// # Errors
    /// It is denied, or converted in a circle.
    pub(crate) fn evaluate(&self, source: &pb::SourceOp) -> Result<Option<pb::SourceOp>, Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut now = source.clone();
        now.identifier = identifier::normalized(&now);
        let mut converted = false;
        for _ in 0..=MAX_CONVERSIONS {
            if now.identifier.len() > MAX_IDENTIFIER {
                return Err(Error::unknown(format!(
                    "a source whose identifier is longer than {MAX_IDENTIFIER} bytes cannot be judged by a policy"
                )));
            }
            let mut changed = false;
            for policy in &self.0 {
                changed = policy.judge(&mut now)?;
                if changed {
                    break;
                }
            }
            if !changed {
                return Ok(converted.then_some(now));
            }
            converted = true;
        }
        Err(Error::new(
            Code::Unknown,
            "too many mutations on a single source: too many operations",
        )
        .with_help(format!(
            "the policies convert {} in a circle; the last was {}\n",
            source.identifier, now.identifier
        )))
    }
}

#[cfg(test)]
mod tests;
