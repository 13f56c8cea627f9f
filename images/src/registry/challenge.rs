//! `WWW-Authenticate`: every challenge of every header line, by the grammar of RFC 7235.

use std::collections::BTreeMap;

/// Challenges that are looked at, and bytes of header that are read: a real answer has one or two short ones.
const MAX_CHALLENGES: usize = 8;
const MAX_HEADER: usize = 16 << 10;

/// One challenge; the scheme and parameter names in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) scheme: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Challenge {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }
}

/// Reads one header line, which may hold several challenges. What can't be read is passed over.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut cursor = Cursor {
        rest: header
            .get(..header.len().min(MAX_HEADER))
            .unwrap_or_default(),
    };
    let mut found: Vec<Challenge> = Vec::new();
    while found.len() <= MAX_CHALLENGES {
        cursor.skip(|c| c.is_whitespace() || c == ',');
        let word = cursor.token();
        if word.is_empty() {
            if cursor.rest.is_empty() {
                break;
            }
            cursor.advance();
            continue;
        }
        cursor.skip(|c| c == ' ' || c == '\t');
        // `name=` belongs to the challenge before it, a lone word opens a new one.
        match (cursor.rest.strip_prefix('='), found.last_mut()) {
            (Some(rest), Some(challenge)) => {
                cursor.rest = rest;
                cursor.skip(|c| c == ' ' || c == '\t');
                let value = cursor.value();
                challenge
                    .parameters
                    .entry(word.to_ascii_lowercase())
                    .or_insert(value);
            }
            (Some(rest), None) => {
                cursor.rest = rest;
                cursor.value();
            }
            (None, _) => {
                found.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: BTreeMap::new(),
                });
            }
        }
    }
    found.truncate(MAX_CHALLENGES);
    found
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip(&mut self, skipped: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(skipped);
    }

    fn advance(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn token(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || matches!(c, '=' | ',' | '"' | ';'))
            .unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            return self.token().to_owned();
        };
        let mut value = String::new();
        let mut chars = quoted.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => value.extend(chars.next()),
                c => value.push(c),
            }
        }
        self.rest = chars.as_str();
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_challenges_of_one_line_are_told_apart() {
        let found = parse(
            r#"BASIC realm="Sonatype \"Nexus\", x", Bearer realm="https://t/token",service=s, scope="repository:a:pull,push""#,
        );
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].scheme.as_str(), found[0].get("realm")),
            ("basic", Some("Sonatype \"Nexus\", x"))
        );
        assert_eq!(found[1].get("service"), Some("s"));
        assert_eq!(found[1].get("scope"), Some("repository:a:pull,push"));
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_without_panic(header in "\\PC{0,120}") {
            proptest::prop_assert!(parse(&header).len() <= MAX_CHALLENGES);
        }
    }
}
