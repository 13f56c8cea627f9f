//! Attributes of caches that are services: strings, of which some may come from the environment, and some are secret.

use gateway_api::parse_bool;
use std::collections::BTreeMap;
use std::time::Duration;

use super::Variable;

/// A secret: compared and used, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    pub fn new(text: impl Into<String>) -> Hidden {
        Hidden(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// The attributes of one cache.
pub struct Attrs<'a> {
    given: &'a BTreeMap<String, String>,
    variable: Variable<'a>,
}

impl<'a> Attrs<'a> {
    pub fn new(given: &'a BTreeMap<String, String>, variable: Variable<'a>) -> Self {
        Attrs { given, variable }
    }

    /// What was given; an empty value is none.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let value = self.given.get(key).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// What was given, even when it is empty: a prefix may be nothing.
    pub fn given(&self, key: &str) -> Option<&'a str> {
        self.given.get(key).map(String::as_str)
    }

    pub fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    pub fn or_variable(&self, key: &str, name: &str) -> Option<String> {
        self.get(key)
            .map(str::to_owned)
            .or_else(|| self.variable(name))
    }

    pub fn hidden(&self, key: &str) -> Option<Hidden> {
        self.get(key).map(Hidden::new)
    }

    /// Names of the cache: several with `;`.
    pub fn names(&self) -> Vec<String> {
        let names = self.get("name").unwrap_or("buildkit").split(';');
        let names: Vec<String> = names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        match names.is_empty() {
            true => vec!["buildkit".to_owned()],
            false => names,
        }
    }

    /// Go's booleans; `None` where there is none, or no such thing.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        parse_bool(self.get(key)?)
    }

    pub fn positive(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|number| *number > 0);
        number
            .map(Some)
            .ok_or_else(|| format!("{key} must be a positive integer, not {text:?}"))
    }
}

/// A duration as Go writes it: `24h`, `1h30m`, `1.5s`. `None` for what is none.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = behind;
    }
    match text.is_empty() {
        true => None,
        false => Duration::try_from_secs_f64(seconds).ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, seconds) in [
            ("24h", 86_400.0),
            ("1h30m", 5400.0),
            ("1.5s", 1.5),
            ("250ms", 0.25),
            ("0", 0.0),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_secs_f64(seconds)),
                "{text}"
            );
        }
        for text in ["", "24", "h", "1d", "-1s", "1..5s", "1e400h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let shown = format!("{:?}", Hidden::new("hunter2"));
        assert_eq!(shown, "Hidden(..)");
    }

    proptest! {
        #[test]
        fn any_text_is_a_duration_or_none(text in "\\PC{0,12}|[0-9.hmsnu]{0,12}") {
            let _ = duration(&text);
        }
    }
}
