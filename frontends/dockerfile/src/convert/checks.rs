//! What the conversion notices in passing: findings for the lint rules.

use std::sync::Mutex;

use crate::lint::{Finding, Linter};
use crate::parse::LineRange;

/// A linter that several hands may report to.
#[derive(Debug, Default)]
pub struct Checks(Mutex<Linter>);

impl Checks {
    /// With what was found before.
    pub fn new(linter: Linter) -> Self {
        Self(Mutex::new(linter))
    }

    /// Adds a finding; the comments above an instruction may switch its rule off.
    pub fn found(&self, location: LineRange, comments: &[String], finding: Finding) {
        let mut linter = self.0.lock().unwrap_or_else(|e| e.into_inner());
        linter.report_at(comments, location, finding);
    }

    /// Lets a check report to the linter.
    pub fn with(&self, check: impl FnOnce(&mut Linter)) {
        check(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()));
    }

    /// All that was found.
    pub fn into_linter(self) -> Linter {
        self.0.into_inner().unwrap_or_else(|e| e.into_inner())
    }
}
