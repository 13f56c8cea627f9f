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

/// Collects the warnings of a build, as far as its configuration wants them.
#[derive(Clone, Debug, Default)]
pub struct Linter {
    config: Config,
    warnings: Vec<Warning>,
}

impl Linter {
    /// An empty collection.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            warnings: Vec::new(),
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
        let Self { config, warnings } = self;
        let mut findings = findings.into_iter().peekable();
        if findings.peek().is_none() {
            return;
        }
        let config = config.with_comments(comments);
        let wanted = findings.filter(|(_, f)| config.wants(f.rule));
        warnings.extend(wanted.map(|(location, f)| Warning {
            rule: f.rule,
            message: f.message,
            location,
        }));
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
        let mut names: Vec<&str> = self.warnings.iter().map(|w| w.rule.name).collect();
        names.sort_unstable();
        names.dedup();
        Some(format!(
            "lint violation found for rules: {}",
            names.join(", ")
        ))
    }
}
