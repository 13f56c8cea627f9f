//! `check=skip=A,B;error=true;experimental=C`: in a directive, a build argument or above an instruction.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::Rule;
use crate::parse::quote::go_quote;
use crate::parse::syntax;

/// Which rules run, and whether they fail the build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// No rule but wanted experimental ones.
    pub skip_all: bool,
    /// Rules not to run.
    pub skip: BTreeSet<String>,
    /// All experimental rules.
    pub experimental_all: bool,
    /// Experimental rules to run.
    pub experimental: BTreeSet<String>,
    /// Warnings fail the build.
    pub error: bool,
}

/// A check option that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not one of `skip`, `error`, `experimental`, or without `=`.
    #[error("invalid check option {}", go_quote(.0))]
    Invalid(String),
    /// `error=` with something that is no boolean.
    #[error("failed to parse check option {}: strconv.ParseBool: parsing {}: invalid syntax", go_quote(.option), go_quote(.value))]
    NotABool {
        /// The whole part.
        option: String,
        /// What should be a boolean.
        value: String,
    },
    /// In the directive of the file.
    #[error("failed to parse check options: {0}")]
    InFile(Box<ConfigError>),
    /// In the build argument.
    #[error("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: {0}")]
    InBuildArg(Box<ConfigError>),
}

impl Config {
    /// The configuration of a build: the build argument `BUILDKIT_DOCKERFILE_CHECK`, else the file's directive.
    ///
    /// # Errors
    /// Options that can't be read.
    pub fn for_build(file: &[u8], build_arg: Option<&str>) -> Result<Self, ConfigError> {
        if let Some(text) = build_arg {
            return Self::parse(text).map_err(|e| ConfigError::InBuildArg(Box::new(e)));
        }
        match syntax::find_directive(file, "check") {
            Some((text, _)) => Self::parse(&text).map_err(|e| ConfigError::InFile(Box::new(e))),
            None => Ok(Self::default()),
        }
    }

    /// Read options.
    ///
    /// # Errors
    /// Unknown options.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(config);
        }
        let names = |list: &str| list.split(',').map(|n| n.trim().to_owned()).collect();
        // at most three parts: a fourth belongs to the third (observed)
        for part in text.splitn(3, ';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(ConfigError::Invalid(part.to_owned()));
            };
            let value = value.trim();
            match (key.trim(), value) {
                ("skip", "all") => config.skip_all = true,
                ("skip", list) => config.skip = names(list),
                ("experimental", "all") => config.experimental_all = true,
                ("experimental", list) => config.experimental = names(list),
                ("error", value) => {
                    config.error =
                        gateway_api::parse_bool(value).ok_or_else(|| ConfigError::NotABool {
                            option: part.to_owned(),
                            value: value.to_owned(),
                        })?;
                }
                (other, _) => return Err(ConfigError::Invalid(other.to_owned())),
            }
        }
        Ok(config)
    }

    /// Whether a rule runs.
    pub fn wants(&self, rule: &Rule) -> bool {
        if rule.experimental {
            self.experimental_all || self.experimental.contains(rule.name)
        } else {
            !self.skip_all && !self.skip.contains(rule.name)
        }
    }

    /// This configuration with what the comments above an instruction add; mistakes in them are ignored (observed).
    pub(super) fn with_comments(&self, comments: &[String]) -> Cow<'_, Self> {
        let check = |comment: &String| match syntax::directive(comment.as_bytes(), "") {
            Some((name, value)) if name == "check" => Some(value),
            _ => None,
        };
        let Some(value) = comments.iter().find_map(check) else {
            return Cow::Borrowed(self);
        };
        let Ok(more) = Self::parse(value.split(' ').next().unwrap_or_default()) else {
            return Cow::Borrowed(self);
        };
        let mut merged = self.clone();
        merged.skip_all |= more.skip_all;
        merged.experimental_all |= more.experimental_all;
        merged.skip.extend(more.skip);
        merged.experimental.extend(more.experimental);
        Cow::Owned(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_options_are_read() {
        let config = Config::parse(" skip=A, B ; error=true;experimental=all ").unwrap();
        assert_eq!(config.skip, ["A", "B"].map(str::to_owned).into());
        assert!(config.error && config.experimental_all && !config.skip_all);
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn each_mistake_has_its_text() {
        let error = |text| Config::parse(text).unwrap_err().to_string();
        assert_eq!(error("foo"), "invalid check option \"foo\"");
        assert_eq!(error("foo=1"), "invalid check option \"foo\"");
        assert_eq!(
            error("error=x"),
            "failed to parse check option \"error=x\": strconv.ParseBool: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            Config::for_build(b"# check=foo\nFROM x", None)
                .unwrap_err()
                .to_string(),
            "failed to parse check options: invalid check option \"foo\""
        );
        assert_eq!(
            Config::for_build(b"# check=foo\nFROM x", Some("bar"))
                .unwrap_err()
                .to_string(),
            "failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: invalid check option \"bar\""
        );
    }

    #[test]
    fn the_build_argument_replaces_the_directive() {
        let config = Config::for_build(b"# check=error=true\nFROM x", Some("skip=all")).unwrap();
        assert!(config.skip_all && !config.error);
        let config = Config::for_build(b"# check=error=true\nFROM x", None).unwrap();
        assert!(config.error);
    }

    #[test]
    fn a_comment_adds_to_the_configuration() {
        let config = Config::parse("skip=A").unwrap();
        let merged =
            config.with_comments(&["x".to_owned(), "check=skip=B;error=true c".to_owned()]);
        assert_eq!(merged.skip, ["A", "B"].map(str::to_owned).into());
        assert!(!merged.error);
    }
}
