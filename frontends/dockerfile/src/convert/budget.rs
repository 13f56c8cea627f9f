//! What a build file may become. A file of ten megabytes can ask for terabytes: each command is told all variables, each
//! stage passes on what it has. The reference tries; here the line where it becomes too much is named.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use gateway_api::Error;

use crate::parse::expand::{ExpandError, Expanded, Expander, Vars};
use crate::parse::pattern::Steps;

/// Bytes of commands with their variables, names and history, in all. Twenty times a file of 10 MB without variables; no
/// message between a frontend and its host has more than 16 MiB.
const MAX_TEXT: usize = 256 << 20;

/// Steps: as many as a definition may have.
const MAX_STEPS: usize = gateway_llb::graph::MAX_OPS;

/// Variables that stages take over from others and put in another order: four thousand of each of a thousand stages.
const MAX_PASSED_ON: usize = 4_000_000;

/// Steps that the patterns of all substitutions may take together: about a second.
const MAX_PATTERN_STEPS: usize = 200_000_000;

/// Bytes of names that mistaken names are compared with, in all: a thousand mistakes where there are a thousand
/// variables get their hints. Without an end a generated file of 100 kB would be compared for seconds.
const MAX_COMPARED: usize = 64 << 20;

/// Patterns of the ignore file that paths are compared with for a check, in all, by the depth of the path.
const MAX_IGNORE_MATCHES: usize = 16 << 20;

/// Instructions, and bytes of text, between two moments at which others have their turn and a build can be cancelled.
const TURN: (usize, usize) = (256, 1 << 20);

/// How much of each was used.
#[derive(Debug, Default)]
pub(super) struct Budget {
    text: AtomicUsize,
    steps: AtomicUsize,
    passed_on: AtomicUsize,
    pattern_steps: AtomicUsize,
    compared: AtomicUsize,
    ignore_matches: AtomicUsize,
    instructions: AtomicUsize,
    /// The text at the last turn.
    turn: AtomicUsize,
}

impl Budget {
    /// Takes some bytes of text.
    ///
    /// # Errors
    /// When there is no more.
    pub fn text(&self, bytes: usize) -> Result<(), Error> {
        let before = self.text.fetch_add(bytes, Relaxed);
        if before.saturating_add(bytes) > MAX_TEXT {
            return Err(Error::unknown(format!(
                "the build file becomes more than {} MiB of commands, variables and history",
                MAX_TEXT >> 20
            ))
            .with_help("every RUN carries all ARG and ENV of its stage: set fewer, or later, or split the file"));
        }
        Ok(())
    }

    /// Takes some steps.
    ///
    /// # Errors
    /// When there are no more.
    pub fn steps(&self, count: usize) -> Result<(), Error> {
        let before = self.steps.fetch_add(count, Relaxed);
        if before.saturating_add(count) > MAX_STEPS {
            let text = format!("the build file has more than {MAX_STEPS} steps");
            return Err(Error::unknown(text));
        }
        Ok(())
    }

    /// Lets a stage take over some variables one by one.
    ///
    /// # Errors
    /// When stages have done so too often.
    pub fn pass_on(&self, variables: usize) -> Result<(), Error> {
        let before = self.passed_on.fetch_add(variables, Relaxed);
        if before.saturating_add(variables) > MAX_PASSED_ON {
            let text = format!("stages take over more than {MAX_PASSED_ON} variables of others");
            return Err(Error::unknown(text));
        }
        Ok(())
    }

    /// Expands a word.
    ///
    /// # Errors
    /// Those of the word, and when the patterns of the file have taken too long.
    pub fn expand<V: Vars + ?Sized>(
        &self,
        rules: Expander,
        word: &str,
        vars: &V,
    ) -> Result<Expanded, ExpandError> {
        let taken = self.pattern_steps.load(Relaxed);
        let mut steps = Steps::up_to(MAX_PATTERN_STEPS.saturating_sub(taken));
        let done = rules.expand_counted(word, vars, &mut steps);
        self.pattern_steps.fetch_add(steps.taken(), Relaxed);
        done
    }

    /// Whether a mistaken name may be compared with names of so many bytes.
    pub fn may_compare(&self, bytes: usize) -> bool {
        self.compared.fetch_add(bytes, Relaxed) < MAX_COMPARED
    }

    /// Whether a path of some parts may be compared with so many patterns.
    pub fn may_match(&self, patterns: usize, parts: usize) -> bool {
        let work = patterns.saturating_mul(parts);
        self.ignore_matches.fetch_add(work, Relaxed) < MAX_IGNORE_MATCHES
    }

    /// To be awaited once an instruction: gives others their turn now and then. A conversion that is dropped stops here.
    pub async fn turn(&self) {
        let count = self.instructions.fetch_add(1, Relaxed);
        let text = self.text.load(Relaxed);
        if count % TURN.0 == TURN.0 - 1 || text - self.turn.load(Relaxed) > TURN.1 {
            self.turn.store(text, Relaxed);
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::expand::NoVars;

    #[test]
    fn there_is_an_end_to_each() {
        let budget = Budget::default();
        assert!(budget.text(MAX_TEXT).is_ok() && budget.text(1).is_err());
        assert!(budget.steps(MAX_STEPS).is_ok() && budget.steps(1).is_err());
        assert!(budget.pass_on(MAX_PASSED_ON).is_ok() && budget.pass_on(1).is_err());
        assert!(budget.may_compare(MAX_COMPARED) && !budget.may_compare(1));
        assert!(budget.may_match(MAX_IGNORE_MATCHES, 1) && !budget.may_match(1, 1));
    }

    #[test]
    fn patterns_of_all_words_together_take_no_more_than_so_many_steps() {
        let budget = Budget::default();
        let rules = Expander::new('\\');
        assert!(budget.expand(rules, "${A#b}", &NoVars).is_ok());
        budget.pattern_steps.store(MAX_PATTERN_STEPS, Relaxed);
        let vars = std::collections::BTreeMap::from([("A".to_owned(), "b".to_owned())]);
        let error = budget.expand(rules, "${A#b}", &vars).unwrap_err();
        assert!(error.reason.contains("too much work"), "{error}");
        assert_eq!(budget.expand(rules, "$A", &vars).unwrap().value, "b");
    }
}
