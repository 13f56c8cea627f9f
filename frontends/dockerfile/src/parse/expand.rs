//! Shell words: quotes, escapes and `$` forms, as Dockerfile instructions understand them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where variables come from.
pub trait Vars {
    /// The value, `None` when unset.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Vars for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        HashMap::get(self, name).map(String::as_str)
    }
}

impl Vars for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }
}

/// A list in order of assignment: the last entry of a name wins.
impl Vars for [(String, String)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
}

/// No variables at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoVars;

impl Vars for NoVars {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// How words are read. The default is what values of instructions need.
#[derive(Clone, Copy, Debug)]
pub struct Expander {
    /// The escape character (of the file; heredoc bodies always use `\`).
    pub escape: char,
    /// Keep quotes in the result (step names of RUN, heredoc bodies).
    pub raw_quotes: bool,
    /// Keep escape characters in the result.
    pub raw_escapes: bool,
    /// Quotes are ordinary characters (heredoc bodies).
    pub skip_quotes: bool,
    /// Leave unset variables as written (step names).
    pub skip_unset: bool,
}

/// What became of a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub value: String,
    /// The text split at unquoted blanks, after expansion (EXPOSE).
    pub words: Vec<String>,
    /// Variables that were looked up and set.
    pub matched: BTreeSet<String>,
    /// Variables that were looked up and unset (UndefinedVar, UndefinedArgInFrom).
    pub unmatched: BTreeSet<String>,
}

/// A word that can't be expanded: `failed to process "WORD": why`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {reason}", super::quote::go_quote(.word))]
pub struct ExpandError {
    /// The word as written.
    pub word: String,
    /// Why.
    pub reason: String,
}

impl Expander {
    /// The rules for values of instructions, with the file's escape character.
    pub fn new(escape: char) -> Self {
        Self { escape, raw_quotes: false, raw_escapes: false, skip_quotes: false, skip_unset: false }
    }

    /// Expand a word.
    ///
    /// # Errors
    /// Unclosed quotes, bad substitutions, `${x:?}` of an unset variable.
    pub fn expand<V: Vars + ?Sized>(&self, word: &str, _vars: &V) -> Result<Expanded, ExpandError> {
        Ok(Expanded { value: word.to_owned(), ..Expanded::default() })
    }
}
