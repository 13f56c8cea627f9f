//! How rules name sources: literally, with `*`, or by a regular expression. All matching takes
//! time linear in the text, whatever the pattern.

use regex::{Regex, RegexBuilder};

use super::{Condition, Constraint, MatchType};

/// Largest compiled form of one expression, in bytes: far above any that somebody writes, and a
/// bound for one that means to fill the memory.
pub const MAX_COMPILED_BYTES: usize = 1 << 18;

/// Why a pattern cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    #[error("invalid wildcard {0:?}: two asterisks in a row")]
    DoubleStar(String),
    #[error("invalid regular expression {text:?}: {problem}")]
    Regex { text: String, problem: String },
}

fn compile(text: &str, source: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(source)
        .size_limit(MAX_COMPILED_BYTES)
        .build()
        .map_err(|error| PatternError::Regex {
            text: text.to_owned(),
            // The last line says what; those before draw where.
            problem: error
                .to_string()
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned(),
        })
}

/// The sources that a rule means.
#[derive(Debug)]
pub enum Selector {
    Exact(String),
    /// A wildcard without a `*`: only it itself, but conversions have templates.
    Plain(String),
    Wildcard {
        text: String,
        regex: Regex,
    },
    Regex {
        text: String,
        regex: Regex,
    },
}

impl Selector {
    pub fn new(kind: MatchType, text: &str) -> Result<Selector, PatternError> {
        Ok(match kind {
            MatchType::Exact => Selector::Exact(text.to_owned()),
            MatchType::Wildcard if text.contains("**") => {
                return Err(PatternError::DoubleStar(text.to_owned()));
            }
            MatchType::Wildcard if !text.contains('*') => Selector::Plain(text.to_owned()),
            MatchType::Wildcard => {
                let parts: Vec<String> = text.split('*').map(regex::escape).collect();
                Selector::Wildcard {
                    text: text.to_owned(),
                    regex: compile(text, &format!("^{}$", parts.join("(.*)")))?,
                }
            }
            MatchType::Regex => Selector::Regex {
                text: text.to_owned(),
                regex: compile(text, text)?,
            },
        })
    }

    pub fn is_pattern(&self) -> bool {
        matches!(self, Selector::Wildcard { .. } | Selector::Regex { .. })
    }

    /// An identifier that is the pattern itself always matches.
    pub fn matches(&self, identifier: &str) -> bool {
        match self {
            Selector::Exact(text) | Selector::Plain(text) => text == identifier,
            Selector::Wildcard { text, regex } | Selector::Regex { text, regex } => {
                text == identifier || regex.is_match(identifier)
            }
        }
    }

    /// The template with what the pattern's parts stood for.
    pub fn format(&self, identifier: &str, template: &str) -> String {
        match self {
            Selector::Exact(_) => template.to_owned(),
            Selector::Plain(text) if text != identifier => identifier.to_owned(),
            // As the wildcard forms do: only `$$` and parts that there are none of.
            Selector::Plain(_) => match Regex::new("^.*$") {
                Ok(whole) => expand(&whole, identifier, template),
                Err(_) => template.to_owned(),
            },
            Selector::Wildcard { regex, .. } => match regex.is_match(identifier) {
                true => expand(regex, identifier, template),
                false => identifier.to_owned(),
            },
            // Every match in the identifier is replaced, what is between them stays.
            Selector::Regex { regex, .. } => regex.replace_all(identifier, template).into_owned(),
        }
    }
}

fn expand(regex: &Regex, identifier: &str, template: &str) -> String {
    let mut out = String::new();
    if let Some(captures) = regex.captures(identifier) {
        captures.expand(template, &mut out);
    }
    out
}

/// A condition on an attribute.
#[derive(Debug)]
pub enum Matcher {
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Matcher {
    pub fn new(constraint: &Constraint) -> Result<Matcher, PatternError> {
        let value = &constraint.value;
        Ok(match constraint.condition {
            Condition::Equal => Matcher::Equal(value.clone()),
            Condition::NotEqual => Matcher::NotEqual(value.clone()),
            Condition::Matches => Matcher::Matches(compile(value, value)?),
        })
    }

    pub fn is_pattern(&self) -> bool {
        matches!(self, Matcher::Matches(_))
    }

    pub fn matches(&self, value: &str) -> bool {
        match self {
            Matcher::Equal(wanted) => wanted == value,
            Matcher::NotEqual(unwanted) => unwanted != value,
            Matcher::Matches(regex) => regex.is_match(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a wildcard means, said differently: the parts between the stars occur in order.
    fn occurs(parts: &[&str], text: &str) -> bool {
        let [first, middle @ .., last] = parts else {
            return false;
        };
        let Some(mut rest) = text.strip_prefix(first) else {
            return false;
        };
        for part in middle {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    #[test]
    fn patterns_that_cannot_be_meant_are_refused() {
        assert!(Selector::new(MatchType::Wildcard, "a**b").is_err());
        for text in ["(", "a{99999}{99999}", r"\Qa\E"] {
            let error = Selector::new(MatchType::Regex, text).unwrap_err();
            assert!(error.to_string().contains("invalid regular expression"));
        }
        // Literal in the other forms.
        assert!(Selector::new(MatchType::Exact, "(**").is_ok());
        assert!(Selector::new(MatchType::Wildcard, "(").is_ok());
    }

    #[test]
    fn templates_take_what_the_parts_stood_for() {
        let image = "docker-image://docker.io/library/golang:1.19";
        for (kind, pattern, template, wanted) in [
            (
                MatchType::Wildcard,
                "docker-image://docker.io/library/golang:*",
                "docker-image://docker.io/library/golang:${1}-alpine",
                "docker-image://docker.io/library/golang:1.19-alpine",
            ),
            (
                MatchType::Wildcard,
                "docker-image://*/golang:*",
                "docker-image://m/$1/g:$2",
                "docker-image://m/docker.io/library/g:1.19",
            ),
            (MatchType::Wildcard, "*", "$1_x", ""),
            (MatchType::Wildcard, "nothing*", "x", image),
            (MatchType::Wildcard, image, "a$$b$1", "a$b"),
            (MatchType::Exact, image, "a$$b$1", "a$$b$1"),
            (
                MatchType::Regex,
                r"golang:(?P<tag>[0-9.]+)",
                "go:${tag}",
                "docker-image://docker.io/library/go:1.19",
            ),
            (
                MatchType::Regex,
                "^docker-image://docker.io/(.*)$",
                "docker-image://m.example/$1",
                "docker-image://m.example/library/golang:1.19",
            ),
        ] {
            let selector = Selector::new(kind, pattern).unwrap();
            assert_eq!(
                selector.format(image, template),
                wanted,
                "{pattern} {template}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_wildcard_matches_what_has_its_parts_in_order(
            parts in prop::collection::vec("[ab.+]{0,2}", 2..4),
            text in "[ab.+]{0,8}",
        ) {
            let pattern = parts.join("*");
            prop_assume!(!pattern.contains("**"));
            let selector = Selector::new(MatchType::Wildcard, &pattern).unwrap();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            prop_assert_eq!(selector.matches(&text), occurs(&parts, &text));
        }

        #[test]
        fn a_wildcard_put_together_again_is_the_identifier(
            parts in prop::collection::vec("[ab]{1,2}", 2..4),
            between in prop::collection::vec("[ab]{0,3}", 3),
        ) {
            let pattern = parts.join("*");
            let mut text = String::new();
            let mut template = String::new();
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    text += &between[index - 1];
                    template += &format!("${{{index}}}");
                }
                text += part;
                template += part;
            }
            let selector = Selector::new(MatchType::Wildcard, &pattern).unwrap();
            prop_assert_eq!(selector.format(&text, &template), text);
        }

        #[test]
        fn no_pattern_and_no_template_panics(pattern in ".{0,24}", text in ".{0,24}", template in ".{0,24}") {
            for kind in [MatchType::Wildcard, MatchType::Exact, MatchType::Regex] {
                if let Ok(selector) = Selector::new(kind, &pattern) {
                    selector.matches(&text);
                    selector.format(&text, &template);
                }
            }
        }
    }
}
