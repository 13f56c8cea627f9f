//! What the conversion notices in passing: findings for the lint rules.

use std::sync::Mutex;

use crate::parse::LineRange;

/// Something that a lint rule warns about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule's name.
    pub rule: &'static str,
    /// What is wrong, in the rule's words.
    pub message: String,
    /// The lines it is about.
    pub location: LineRange,
    /// The comments above, which may switch rules off.
    pub comments: Vec<String>,
}

/// Collects findings in the order in which they are met.
#[derive(Debug, Default)]
pub struct Checks(Mutex<Vec<Finding>>);

impl Checks {
    /// Adds a finding.
    pub fn found(
        &self,
        rule: &'static str,
        location: LineRange,
        comments: &[String],
        message: String,
    ) {
        let finding = Finding {
            rule,
            message,
            location,
            comments: comments.to_vec(),
        };
        self.0.lock().unwrap_or_else(|e| e.into_inner()).push(finding);
    }

    /// All that was found.
    pub fn into_findings(self) -> Vec<Finding> {
        self.0.into_inner().unwrap_or_else(|e| e.into_inner())
    }
}
