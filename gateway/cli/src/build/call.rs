//! `--call` and `--check`: questions to the frontend about a build file instead of a build. The
//! answer goes to stdout.

use std::collections::BTreeMap;

use serde_json::Value;

use super::keys;
use crate::build::args::Build;
use crate::error::{CliError, UsageError};
use gateway_frontend::csv;

/// What is asked, and how the answer is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    method: String,
    json: bool,
    /// The frontend's own judgement does not become the exit code.
    ignore_status: bool,
}

/// What frontends must know to be asked.
const CAPABILITY: &str = "moby.buildkit.frontend.subrequests+forward";
const LINT: &str = "frontend.lint";
/// What the names of questions begin with, and users leave out.
const PREFIX: &str = "frontend.";
/// Questions that frontends of the family of `docker/dockerfile` answer, beside `check`.
const METHODS: [&str; 3] = ["outline", "targets", "subrequests.describe"];
const KEYS: [&str; 3] = ["format", "ignorestatus", "method"];

/// What to do when a frontend has no answer to what it was asked.
pub fn advice(request: &str) -> String {
    let name = request.strip_prefix(PREFIX).unwrap_or(request);
    let known = ["build", "check", "outline", "targets"];
    let meant = keys::like(name, &known);
    let meant = meant.map_or_else(String::new, |near| format!("Did you mean --call={near}? "));
    format!(
        "{meant}--call=subrequests.describe tells which questions the frontend of this build file answers."
    )
}

/// `None`: build.
pub fn call(args: &Build) -> Result<Option<Call>, UsageError> {
    let text = match (&args.call, args.check) {
        (Some(text), true) if text != "check" => {
            let problem = "--check is short for --call=check: one of them";
            return Err(UsageError::new("--call", text, problem.into()));
        }
        (Some(text), false) => text.as_str(),
        (_, true) => "check",
        (None, false) => return Ok(None),
    };
    let wrong = |problem: String| UsageError::new("--call", text, problem);
    let mut json = false;
    let mut ignore_status = false;
    let mut method = None;
    // A name as docker has it; `method=` takes one as the frontend has it.
    let mut short = true;
    for (key, value) in csv::pairs(text).map_err(wrong)? {
        match (key.as_str(), value) {
            ("format", Some(value)) => {
                json = match value.as_str() {
                    "json" => true,
                    "text" | "txt" => false,
                    _ => return Err(wrong(format!("unknown format {value:?}: json and text"))),
                };
            }
            ("ignorestatus", Some(value)) => {
                ignore_status = keys::boolean(&key, &value).map_err(wrong)?;
            }
            ("method", Some(value)) => (method, short) = (Some(value), false),
            (name, None) if method.is_none() => method = Some(name.to_owned()),
            (key, _) => {
                return Err(wrong(format!(
                    "unknown key {key:?}: write METHOD, METHOD,format=json or METHOD,ignorestatus=true{}",
                    keys::hint(key, &KEYS)
                )));
            }
        }
    }
    let method = match method.as_deref() {
        None | Some("build" | "") => return Ok(None),
        Some("check" | "lint") => LINT.to_owned(),
        Some(name) if METHODS.contains(&name) => format!("{PREFIX}{name}"),
        // A frontend may know questions of its own.
        Some(other) if short && !other.starts_with(PREFIX) => format!("{PREFIX}{other}"),
        Some(other) => other.to_owned(),
    };
    Ok(Some(Call {
        method,
        json,
        ignore_status,
    }))
}

impl Call {
    pub fn options(&self, opts: &mut BTreeMap<String, String>) {
        opts.insert("requestid".into(), self.method.clone());
        opts.entry("frontend.caps".into())
            .and_modify(|caps| {
                caps.push(',');
                caps.push_str(CAPABILITY);
            })
            .or_insert_with(|| CAPABILITY.into());
    }

    /// Prints the answer. `Ok(false)`: it says that something is wrong with the build file.
    pub fn print(&self, answer: &BTreeMap<String, Vec<u8>>) -> Result<bool, CliError> {
        let text = |key: &str| {
            answer
                .get(key)
                .map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let json = text("result.json");
        if text("result.txt").is_none() && json.is_none() {
            return Err(CliError::NoAnswer {
                method: self.method.clone(),
            });
        }
        let findings = json.as_deref().and_then(findings);
        let mut out = String::new();
        if self.json {
            out = json.clone().unwrap_or_else(|| {
                Value::String(text("result.txt").unwrap_or_default()).to_string()
            });
        } else {
            if self.method == LINT
                && let Some((warnings, error)) = &findings
            {
                out += &match (warnings, error) {
                    (0, None) => "Check complete, no warnings found.\n".to_owned(),
                    (0, Some(_)) => String::new(),
                    (1, _) => "Check complete, 1 warning has been found!\n".to_owned(),
                    (n, _) => format!("Check complete, {n} warnings have been found!\n"),
                };
            }
            out += &text("result.txt").or(json).unwrap_or_default();
            if let Some((_, Some(error))) = &findings {
                out += &format!("\nERROR: {error}\n");
            }
        }
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        crate::text::print(&out);
        let status = self.ignore_status || text("result.statuscode").is_none_or(|code| code == "0");
        let found = self.method == LINT
            && findings.is_some_and(|(warnings, error)| {
                (warnings > 0 && !self.ignore_status) || error.is_some()
            });
        Ok(status && !found)
    }
}

/// How many warnings a check found, and why the file would not build.
fn findings(json: &str) -> Option<(usize, Option<String>)> {
    let json: Value = serde_json::from_str(json).ok()?;
    let warnings = json
        .get("warnings")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let error = json
        .get("buildError")
        .and_then(|error| error.get("message"))
        .and_then(Value::as_str)
        .map(str::to_owned);
    Some((warnings, error))
}

#[cfg(test)]
mod tests {

    use super::*;

    fn given(flags: &[&str]) -> Result<Option<Call>, UsageError> {
        let build = Build::of_words(flags.iter().chain(&["."])).unwrap();
        call(&build)
    }

    #[test]
    fn short_names_stand_for_the_frontends_own() {
        let method = |flags: &[&str]| given(flags).unwrap().map(|call| (call.method, call.json));
        assert_eq!(method(&[]), None);
        assert_eq!(method(&["--call", "build"]), None);
        let lint = |json| Some((LINT.to_owned(), json));
        assert_eq!(method(&["--check"]), lint(false));
        assert_eq!(method(&["--call=check,format=json"]), lint(true));
        assert_eq!(
            method(&["--call", "outline"]),
            Some(("frontend.outline".into(), false))
        );
        assert_eq!(
            method(&["--call", "my.own.question"]),
            Some(("frontend.my.own.question".into(), false))
        );
        for (given, asked) in [
            ("frontend.outline", "frontend.outline"),
            ("method=my.own.question", "my.own.question"),
            ("method=targets", "frontend.targets"),
        ] {
            assert_eq!(method(&["--call", given]), Some((asked.into(), false)));
        }
        let call = given(&["--call", "check,ignorestatus=1"]).unwrap();
        assert!(call.unwrap().ignore_status);
        for wrong in [
            "outline,format=xml",
            "outline,what=x",
            "check,ignorestatus=maybe",
        ] {
            assert!(given(&["--call", wrong]).is_err(), "{wrong}");
        }
        assert!(given(&["--check", "--call", "outline"]).is_err());
    }

    #[test]
    fn options_keep_what_frontends_are_asked_besides() {
        let mut opts = BTreeMap::from([("frontend.caps".to_owned(), "x".to_owned())]);
        given(&["--check"]).unwrap().unwrap().options(&mut opts);
        assert_eq!(opts["requestid"], LINT);
        assert_eq!(opts["frontend.caps"], format!("x,{CAPABILITY}"));
    }
}
