//! Shell words: quotes, escapes and `$` forms, as Dockerfile instructions understand them.
//!
//! The conversion calls this with the values it knows; the parser itself only uses it to read heredoc names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::pattern::{self, Pattern, Steps};

/// `${a:-${b:-${c..` deeper than this is refused: the walk is recursive and the text comes from outside.
const MAX_NESTING: usize = 100;

/// The longest that the values put into one word may be together. No message between a frontend and its host is larger,
/// so nothing longer could be built; without it `ENV a=$a$a` some forty times takes all memory.
const MAX_EXPANDED: usize = 16 << 20;

/// Where variables come from.
pub trait Vars {
    /// The value, `None` when unset.
    fn get(&self, name: &str) -> Option<&str>;
}

impl<S: std::hash::BuildHasher> Vars for HashMap<String, String, S> {
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
        self.iter()
            .rev()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
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
    /// Keep quotes in the result (step names of RUN).
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
    /// Variables that were looked up and unset before the mistake was met.
    pub unmatched: BTreeSet<String>,
}

impl Expander {
    /// The rules for values of instructions, with the file's escape character.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            skip_quotes: false,
            skip_unset: false,
        }
    }

    /// The rules for the bodies of heredocs of COPY and ADD.
    pub fn heredoc_body() -> Self {
        Self {
            skip_quotes: true,
            ..Self::new('\\')
        }
    }

    /// The rules for the name of a RUN step: quotes and unset variables stay as written.
    pub fn step_name(escape: char) -> Self {
        Self {
            raw_quotes: true,
            skip_unset: true,
            ..Self::new(escape)
        }
    }

    /// Expand a word.
    ///
    /// # Errors
    /// Unclosed quotes, bad substitutions, `${x:?}` of an unset variable.
    pub fn expand<V: Vars + ?Sized>(&self, word: &str, vars: &V) -> Result<Expanded, ExpandError> {
        self.expand_counted(word, vars, &mut Steps::default())
    }

    /// [`Self::expand`], with the steps that its patterns may take.
    ///
    /// # Errors
    /// Those of [`Self::expand`]; more steps than that.
    pub fn expand_counted<V: Vars + ?Sized>(
        &self,
        word: &str,
        vars: &V,
        steps: &mut Steps,
    ) -> Result<Expanded, ExpandError> {
        let mut walk = Walk {
            rules: *self,
            rest: word.strip_prefix('\u{feff}').unwrap_or(word),
            vars,
            out: Expanded::default(),
            depth: 0,
            inserted: 0,
            nested: 0,
            steps,
        };
        let mut words = Words::default();
        match walk.until(None, self.raw_escapes, Some(&mut words)) {
            Ok(value) => Ok(Expanded {
                value,
                words: words.finish(),
                ..walk.out
            }),
            Err(reason) => Err(ExpandError {
                word: word.to_owned(),
                reason,
                unmatched: walk.out.unmatched,
            }),
        }
    }
}

/// The words of a text, split at blanks that were not quoted.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Words {
    fn plain(&mut self, c: char) {
        if c.is_whitespace() {
            self.end_word();
        } else {
            self.word.push(c);
        }
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.end_word();
        self.done
    }
}

struct Walk<'a, V: ?Sized> {
    rules: Expander,
    rest: &'a str,
    vars: &'a V,
    out: Expanded,
    depth: usize,
    /// Bytes of values so far.
    inserted: usize,
    /// Words inside `${}` so far.
    nested: usize,
    steps: &'a mut Steps,
}

impl<V: Vars + ?Sized> Walk<'_, V> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    fn lookup(&mut self, name: &str) -> Result<Option<String>, String> {
        let value = self.vars.get(name);
        self.inserted += value.map_or(0, str::len);
        if self.inserted > MAX_EXPANDED {
            return Err(format!("longer than {MAX_EXPANDED} bytes with its values"));
        }
        let value = value.map(str::to_owned);
        let set = if value.is_some() {
            &mut self.out.matched
        } else {
            &mut self.out.unmatched
        };
        if !set.contains(name) {
            set.insert(name.to_owned());
        }
        Ok(value)
    }

    /// Read up to `stop` (consumed) or, without one, to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
        mut words: Option<&mut Words>,
    ) -> Result<String, String> {
        let mut out = String::new();
        self.nested += usize::from(words.is_none());
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                return Ok(out);
            }
            let quotes = !self.rules.skip_quotes;
            let nested = self.nested;
            let special = match c {
                '$' => Some(self.dollar()?),
                '<' => Some(self.heredoc_mark()),
                '\'' if quotes => Some(self.single_quoted()?),
                '"' if quotes => Some(self.double_quoted(raw_escapes)?),
                _ => None,
            };
            if let Some(text) = special {
                if let Some(words) = words.as_deref_mut() {
                    if self.nested != nested {
                        // The word that surrounds another one starts anew after it: of `80${X:-81}`
                        // EXPOSE has 81, and `<<${X:-EOF}` is no heredoc (observed).
                        words.word.clear();
                    }
                    if c == '$' {
                        text.chars().for_each(|c| words.plain(c));
                    } else {
                        words.word.push_str(&text);
                    }
                }
                out.push_str(&text);
                continue;
            }
            self.next();
            if c != self.rules.escape {
                if let Some(words) = words.as_deref_mut() {
                    words.plain(c);
                }
                out.push(c);
                continue;
            }
            let escaped = [raw_escapes.then_some(c), self.next()];
            for c in escaped.into_iter().flatten() {
                if let Some(words) = words.as_deref_mut() {
                    words.word.push(c);
                }
                out.push(c);
            }
        }
        match stop {
            Some(stop) => Err(format!(
                "unexpected end of statement while looking for matching {stop}"
            )),
            None => Ok(out),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let body = self.rest.get(1..).unwrap_or_default();
        let Some(end) = body.find('\'') else {
            self.rest = "";
            return Err(
                "unexpected end of statement while looking for matching single-quote".to_owned(),
            );
        };
        let (text, rest) = body.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(if self.rules.raw_quotes {
            format!("'{text}'")
        } else {
            text.to_owned()
        })
    }

    fn double_quoted(&mut self, raw_escapes: bool) -> Result<String, String> {
        let mut out = String::new();
        let quote = |out: &mut String, rules: &Expander| {
            if rules.raw_quotes {
                out.push('"');
            }
        };
        self.next();
        quote(&mut out, &self.rules);
        loop {
            match self.peek() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote"
                            .to_owned(),
                    );
                }
                Some('"') => {
                    self.next();
                    quote(&mut out, &self.rules);
                    return Ok(out);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    out.push_str(&value);
                }
                Some(c) => {
                    self.next();
                    if c != self.rules.escape {
                        out.push(c);
                        continue;
                    }
                    if raw_escapes {
                        out.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(n) if n == '"' || n == '$' || n == self.rules.escape => {
                            self.next();
                            out.push(n);
                        }
                        // with raw escapes the character shows twice, as the reference has it
                        Some(_) => out.push(c),
                    }
                }
            }
        }
    }

    /// `<<` keeps the blanks after it, so that `<< EOF` is one word.
    fn heredoc_mark(&mut self) -> String {
        self.next();
        if self.peek() != Some('<') {
            return "<".to_owned();
        }
        self.next();
        let mut out = "<<".to_owned();
        while let Some(c @ ('\t' | '\r' | ' ')) = self.peek() {
            self.next();
            out.push(c);
        }
        out
    }

    fn name(&mut self) -> String {
        let len = match self.peek() {
            Some(c) if c.is_ascii_digit() => self
                .rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(self.rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => self
                .rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(self.rest.len()),
        };
        let (name, rest) = self.rest.split_at(len);
        let name = name.to_owned();
        self.rest = rest;
        name
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.lookup(&name)? {
                None if self.rules.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        if self.depth >= MAX_NESTING {
            return Err("syntax error: substitutions nested too deeply".to_owned());
        }
        self.depth += 1;
        let out = self.braced();
        self.depth -= 1;
        out
    }

    /// After `${`.
    fn braced(&mut self) -> Result<String, String> {
        let name = self.name();
        let missing = || "syntax error: missing '}'".to_owned();
        let Some(mut op) = self.next() else {
            return Err(missing());
        };
        if op == '}' {
            return Ok(match self.lookup(&name)? {
                None if self.rules.skip_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            });
        }
        if op == '/' {
            return self.replacement(&name);
        }
        let colon = op == ':';
        let mut written = op.to_string();
        if colon {
            op = self.next().ok_or_else(missing)?;
            written.push(op);
        } else if !matches!(op, '+' | '-' | '?' | '#' | '%') {
            return Err(unsupported(&written));
        }
        let is_pattern = matches!(op, '#' | '%');
        if colon && is_pattern {
            return Err(unsupported(&written));
        }
        let word = self
            .until(Some('}'), is_pattern, None)
            .map_err(|e| if self.rest.is_empty() { missing() } else { e })?;
        let value = self.lookup(&name)?;
        if self.rules.skip_unset && value.is_none() {
            return Ok(format!("${{{name}{written}{word}}}"));
        }
        let empty = colon && value.as_deref() == Some("");
        match op {
            '-' => Ok(value.filter(|_| !empty).unwrap_or(word)),
            '+' => Ok(if value.is_none() || empty {
                String::new()
            } else {
                word
            }),
            '?' => match value {
                Some(value) if !empty => Ok(value),
                _ if !word.is_empty() => Err(format!("{name}: {word}")),
                None => Err(format!("{name}: is not allowed to be unset")),
                Some(_) => Err(format!("{name}: is not allowed to be empty")),
            },
            '#' | '%' => {
                let (text, longest) = match word.strip_prefix(op) {
                    Some(text) => (text, true),
                    None => (word.as_str(), false),
                };
                let value = value.unwrap_or_default();
                let pattern = Pattern::parse(text).map_err(|e| bad_pattern(text, e))?;
                let trimmed = if op == '#' {
                    pattern.trim_prefix(&value, longest, self.steps)
                } else {
                    pattern.trim_suffix(&value, longest, self.steps)
                };
                trimmed.map_err(|e| bad_pattern(text, e))
            }
            _ => Err(unsupported(&written)),
        }
    }

    /// After `${name/`.
    fn replacement(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let text = self.until(Some('/'), true, None).map_err(|e| {
            if self.rest.is_empty() {
                "syntax error: missing '/' in ${}".to_owned()
            } else {
                e
            }
        })?;
        let with = self.until(Some('}'), true, None).map_err(|e| {
            if self.rest.is_empty() {
                "syntax error: missing '}'".to_owned()
            } else {
                e
            }
        })?;
        let value = self.lookup(name)?;
        if self.rules.skip_unset && value.is_none() {
            return Ok(format!("${{{name}/{text}/{with}}}"));
        }
        let pattern = Pattern::parse(&text).map_err(|e| bad_pattern(&text, e))?;
        pattern
            .replace(&value.unwrap_or_default(), &with, all, self.steps)
            .map_err(|e| bad_pattern(&text, e))
    }
}

fn unsupported(op: &str) -> String {
    format!("unsupported modifier ({op}) in substitution")
}

fn bad_pattern(text: &str, why: pattern::PatternError) -> String {
    format!("invalid pattern ({text}) in substitution: {why}")
}

#[cfg(test)]
mod tests;
