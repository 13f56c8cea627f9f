//! The small regular language behind ignore patterns.
//!
//! The reference matcher rewrites a pattern into a regular expression character by
//! character, classes included, and lets Go's engine judge. Its corner cases (`a**b`, `[?]`,
//! a `^` in the middle) follow from that rewriting, so the same two steps are taken here: the
//! pattern becomes expression text, and the text becomes the steps of an automaton.

use super::automaton::{Automaton, Set, Step};
use super::syntax::PatternError;

/// How a pattern is compared, decided while it is rewritten.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// No wildcard at all.
    Exact,
    /// Literal text and a final `**`: everything that starts with the text.
    Prefix,
    /// A leading `**` and literal text: everything that ends with the text.
    Suffix,
    /// The general case.
    Expression(Automaton),
    /// Accepted by the syntax check, refused when it is first used.
    Broken,
}

/// Rewrites a cleaned pattern.
pub(super) fn compile(pattern: &str) -> Form {
    let mut form = Form::Exact;
    let mut general = false;
    let mut text = String::from("^");
    let mut chars = pattern.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                if chars.peek().is_none() {
                    if !general && matches!(form, Form::Exact) {
                        form = Form::Prefix;
                    } else {
                        text.push_str(".*");
                        general = true;
                    }
                } else {
                    text.push_str("(.*/)?");
                    general = true;
                }
                if first {
                    form = Form::Suffix;
                    general = false;
                }
            }
            '*' => {
                text.push_str("[^/]*");
                general = true;
            }
            '?' => {
                text.push_str("[^/]");
                general = true;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                text.push('\\');
                text.push(c);
            }
            '\\' => {
                text.push('\\');
                if let Some(next) = chars.next() {
                    text.push(next);
                    general = true;
                }
            }
            '[' | ']' => {
                text.push(c);
                general = true;
            }
            c => text.push(c),
        }
        first = false;
    }
    if !general {
        return form;
    }
    text.push('$');
    match parse(&text) {
        Ok(automaton) => Form::Expression(automaton),
        Err(_) => Form::Broken,
    }
}

/// Reads expression text.
fn parse(text: &str) -> Result<Automaton, PatternError> {
    let body = text
        .strip_prefix('^')
        .and_then(|t| t.strip_suffix('$'))
        .ok_or(PatternError::Syntax)?;
    let mut steps = Vec::new();
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("(.*/)?") {
            steps.push(Step::Directories);
            rest = after;
            continue;
        }
        let after = &rest[c.len_utf8()..];
        let (set, after) = match c {
            '^' => {
                steps.push(Step::Start);
                rest = after;
                continue;
            }
            '.' => (Set::Any, after),
            '[' => class(after)?,
            '\\' => escape(after)?,
            // A quantifier with nothing before it.
            '*' => return Err(PatternError::Syntax),
            c => (Set::Char(c as u32), after),
        };
        rest = after;
        if let Some(after) = rest.strip_prefix('*') {
            steps.push(Step::Many(set));
            rest = after;
            // A second quantifier is refused by Go's engine.
            if rest.starts_with('*') {
                return Err(PatternError::Syntax);
            }
        } else {
            steps.push(Step::One(set));
        }
    }
    Ok(Automaton::new(steps))
}

/// An escape outside of a class. Letters and digits have meanings of their own.
fn escape(rest: &str) -> Result<(Set, &str), PatternError> {
    let c = rest.chars().next().ok_or(PatternError::Syntax)?;
    let after = &rest[c.len_utf8()..];
    let set = match c {
        'd' => ranges(false, &[('0', '9')]),
        'D' => ranges(true, &[('0', '9')]),
        'w' => ranges(false, &[('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_')]),
        'W' => ranges(true, &[('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_')]),
        's' => ranges(false, &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')]),
        'S' => ranges(true, &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')]),
        'a' => Set::Char(7),
        'f' => Set::Char(12),
        'n' => Set::Char(10),
        'r' => Set::Char(13),
        't' => Set::Char(9),
        'v' => Set::Char(11),
        // Assertions, code points and Unicode groups: nobody names a file that way.
        c if c.is_ascii_alphanumeric() || !c.is_ascii() => return Err(PatternError::Syntax),
        c => Set::Char(c as u32),
    };
    Ok((set, after))
}

fn ranges(negated: bool, list: &[(char, char)]) -> Set {
    Set::Ranges {
        negated,
        ranges: list.iter().map(|(a, b)| (*a as u32, *b as u32)).collect(),
    }
}

/// Reads a class of the expression after its `[`.
fn class(mut rest: &str) -> Result<(Set, &str), PatternError> {
    let negated = rest.starts_with('^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(']').filter(|_| !ranges.is_empty()) {
            return Ok((Set::Ranges { negated, ranges }, after));
        }
        let (lo, after) = class_char(rest)?;
        rest = after;
        let mut hi = lo;
        if let Some(after) = rest.strip_prefix('-').filter(|r| !r.starts_with(']')) {
            (hi, rest) = class_char(after)?;
        }
        if hi < lo {
            return Err(PatternError::Syntax);
        }
        ranges.push((lo, hi));
    }
}

fn class_char(rest: &str) -> Result<(u32, &str), PatternError> {
    let c = rest.chars().next().ok_or(PatternError::Syntax)?;
    let after = &rest[c.len_utf8()..];
    if c != '\\' {
        return Ok((c as u32, after));
    }
    match escape(after)? {
        (Set::Char(c), after) => Ok((c, after)),
        _ => Err(PatternError::Syntax),
    }
}
