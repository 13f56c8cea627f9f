//! Checks: the rules, which of them a file turns off, and the warnings they give.
//!
//! Rules that need only the text run here ([`check_complete_file`], [`StageChecks`]); those that need values, the context or
//! base images are raised by the conversion through the functions of [`rules`].

mod config;
mod file;
pub mod rules;
mod stage;

pub use config::{Config, ConfigError};
pub use file::{check_broken_file, check_complete_file};
pub use rules::{Finding, Rule};
pub use stage::StageChecks;

use std::collections::BTreeSet;

use crate::parse::LineRange;

/// A rule that found something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Name, description and address.
    pub rule: &'static Rule,
    /// What it found.
    pub message: String,
    /// Where.
    pub location: LineRange,
}

impl Warning {
    /// The line users see: `Rule: message (line N)`.
    pub fn short(&self) -> String {
        let name = self.rule.name;
        match self.location.start {
            0 => format!("{name}: {}", self.message),
            line => format!("{name}: {} (line {line})", self.message),
        }
    }
}

/// How many warnings of a build are kept and told; of more only the number. Nobody reads them, and a generated file
/// has one on each of a million lines.
const MAX_WARNINGS: usize = 10_000;

/// Collects the warnings of a build, as far as its configuration wants them.
#[derive(Clone, Debug, Default)]
pub struct Linter {
    config: Config,
    warnings: Vec<Warning>,
    /// The warnings that were not kept.
    more: usize,
    /// The names of all rules that found something.
    rules: BTreeSet<&'static str>,
    /// The configuration of the comments asked for last, by where they are: an instruction may have many of both
    /// comments and findings.
    last: Option<((usize, usize, LineRange), Config)>,
}

impl Linter {
    /// An empty collection.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Report a finding about the file.
    pub fn report(&mut self, location: LineRange, finding: Finding) {
        self.report_all(&[], [(location, finding)]);
    }

    /// Report a finding about an instruction, whose comments may hold a `check=` of its own.
    pub fn report_at(&mut self, comments: &[String], location: LineRange, finding: Finding) {
        self.report_all(comments, [(location, finding)]);
    }

    /// Report what was found about one instruction.
    pub fn report_all(
        &mut self,
        comments: &[String],
        findings: impl IntoIterator<Item = (LineRange, Finding)>,
    ) {
        let mut findings = findings.into_iter().peekable();
        let Some((first, _)) = findings.peek() else {
            return;
        };
        let place = (comments.as_ptr() as usize, comments.len(), *first);
        let known = matches!(&self.last, Some((known, _)) if *known == place);
        if !comments.is_empty() && !known {
            let config = self.config.with_comments(comments).into_owned();
            self.last = Some((place, config));
        }
        let config = match &self.last {
            Some((_, config)) if !comments.is_empty() => config,
            _ => &self.config,
        };
        for (location, finding) in findings.filter(|(_, f)| config.wants(f.rule)) {
            self.rules.insert(finding.rule.name);
            if self.warnings.len() == MAX_WARNINGS {
                self.more += 1;
                continue;
            }
            self.warnings.push(Warning {
                rule: finding.rule,
                message: finding.message,
                location,
            });
        }
    }

    /// How many warnings there were beyond those that are kept.
    pub fn more(&self) -> usize {
        self.more
    }

    /// What was found, in order.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What was found, in order, as values.
    pub fn into_warnings(self) -> Vec<Warning> {
        self.warnings
    }

    /// The error of a build that must not have warnings (`error=true`): the rules, sorted.
    pub fn error(&self) -> Option<String> {
        if !self.config.error || self.warnings.is_empty() {
            return None;
        }
        let names: Vec<&str> = self.rules.iter().copied().collect();
        Some(format!(
            "lint violation found for rules: {}",
            names.join(", ")
        ))
    }
}
