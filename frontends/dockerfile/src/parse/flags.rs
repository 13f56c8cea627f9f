//! The flags an instruction may have, and reading them.

use super::suggest;

/// What a flag holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `--x`, `--x=true`, `--x=false`.
    Bool,
    /// `--x=value`, once.
    Value,
    /// `--x=value`, any number of times.
    Values,
}

/// The flags given, in order.
#[derive(Debug, Default)]
pub(super) struct Flags {
    given: Vec<(&'static str, String)>,
}

/// Read flags; `known` is sorted by name.
pub(super) fn parse(args: &[String], known: &[(&'static str, Form)]) -> Result<Flags, String> {
    let mut flags = Flags::default();
    for arg in args {
        let (written, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg.as_str(), None),
        };
        let name = written.strip_prefix("--").unwrap_or(written);
        let Some((name, form)) = known.iter().find(|(k, _)| *k == name) else {
            let text = format!("unknown flag: {written}");
            return Err(suggest::with_hint(
                text,
                name,
                known.iter().map(|(k, _)| *k),
            ));
        };
        if *form != Form::Values && flags.value(name).is_some() {
            return Err(format!("duplicate flag specified: {written}"));
        }
        let value = match (form, value) {
            (Form::Bool, None) => "true".to_owned(),
            (Form::Bool, Some("")) | (_, None) => {
                return Err(format!("missing a value on flag: {written}"));
            }
            (Form::Bool, Some(value)) => match value.to_lowercase().as_str() {
                word @ ("true" | "false") => word.to_owned(),
                _ => {
                    return Err(format!(
                        "expecting boolean value for flag {written}, not: {value}"
                    ));
                }
            },
            (_, Some(value)) => value.to_owned(),
        };
        flags.given.push((name, value));
    }
    Ok(flags)
}

impl Flags {
    fn value(&self, name: &str) -> Option<&String> {
        self.given.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The value of a flag; an empty one is as good as none.
    pub fn text(&self, name: &str) -> Option<String> {
        self.value(name).filter(|v| !v.is_empty()).cloned()
    }

    /// The value of a flag that was given, even empty.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.value(name).map(String::as_str)
    }

    /// All values of a flag.
    pub fn list(&self, name: &str) -> Vec<String> {
        let found = self.given.iter().filter(|(n, _)| *n == name);
        found.map(|(_, v)| v.clone()).collect()
    }

    /// Whether and how a boolean flag is given.
    pub fn maybe(&self, name: &str) -> Option<bool> {
        self.value(name).map(|v| v == "true")
    }

    /// Whether a boolean flag is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.maybe(name) == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [(&str, Form); 3] = [
        ("from", Form::Value),
        ("link", Form::Bool),
        ("mount", Form::Values),
    ];

    fn error(args: &[&str]) -> String {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        parse(&args, &KNOWN).unwrap_err()
    }

    #[test]
    fn each_mistake_has_its_text() {
        assert_eq!(
            error(&["--mont=x"]),
            "unknown flag: --mont (did you mean mount?)"
        );
        assert_eq!(
            error(&["--from=a", "--from=b"]),
            "duplicate flag specified: --from"
        );
        assert_eq!(error(&["--from"]), "missing a value on flag: --from");
        assert_eq!(error(&["--link="]), "missing a value on flag: --link");
        assert_eq!(
            error(&["--link=maybe"]),
            "expecting boolean value for flag --link, not: maybe"
        );
    }

    #[test]
    fn lists_repeat_and_booleans_ignore_case() {
        let args = ["--mount=a", "--mount=b", "--link=FALSE"].map(str::to_owned);
        let flags = parse(&args, &KNOWN).unwrap();
        assert_eq!(flags.list("mount"), ["a", "b"]);
        assert_eq!(flags.maybe("link"), Some(false));
        assert_eq!(flags.maybe("from"), None);
    }
}
