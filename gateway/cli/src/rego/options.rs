//! `--policy`, and the policy beside a build file.

use gateway_frontend::csv;

use super::files::{Files, Module};
use super::{Level, Policy, environment};
use crate::build::args::Build;
use crate::environment::Environment;
use crate::error::UsageError;

/// Behind a build file's name: its policy.
const BESIDE: &str = ".rego";
/// As `filename`s are where the build file is elsewhere.
const DEFAULT_FILE: &str = "Dockerfile";

/// A variable of `docker buildx`: a policy about the images that builds use unasked.
const DEFAULT_POLICY: &str = "BUILDX_DEFAULT_POLICY";

/// One flag, read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Given {
    files: Vec<String>,
    reset: bool,
    disabled: bool,
    strict: Option<bool>,
    level: Option<Level>,
}

/// Files that decide together.
#[derive(Debug, PartialEq, Eq)]
struct Set {
    files: Vec<String>,
    level: Option<Level>,
}

/// The policies of a build. All of them must allow a source.
///
/// # Errors
/// A flag is not understood, or one of the policies cannot be used.
pub fn read(args: &Build, env: &Environment) -> Result<Vec<Policy>, UsageError> {
    let files = Files {
        context: args.context.is_dir().then(|| args.context.clone()),
    };
    let mut given = Vec::new();
    for text in &args.policies {
        given.push(flag(text).map_err(|problem| UsageError::new("--policy", text, problem))?);
    }
    let sets = sets(beside(args, &files), &given)
        .map_err(|problem| UsageError::new("--policy", args.policies.join(" "), problem))?;
    let mut policies = Vec::new();
    let wants_default = env.get(DEFAULT_POLICY).map_or("", String::as_str);
    if gateway_api::parse_bool(wants_default) == Some(true) {
        policies.push(default(environment(args, env))?);
    }
    for set in sets {
        let modules = set.files.iter().map(|name| files.module(name));
        let modules = modules.collect::<Result<Vec<_>, UsageError>>()?;
        policies.push(Policy::new(
            modules,
            files.clone(),
            environment(args, env),
            set.level.unwrap_or(Level::Info),
        )?);
    }
    Ok(policies)
}

/// What `docker buildx` has built in, as far as it can be judged here.
pub(super) fn default(env: serde_json::Value) -> Result<Policy, UsageError> {
    let module = Module {
        name: "of BUILDX_DEFAULT_POLICY".into(),
        text: include_str!("default.rego").into(),
    };
    Policy::new(vec![module], Files { context: None }, env, Level::Silent)
}

/// The policy that is named after the build file, where the context has one.
fn beside(args: &Build, files: &Files) -> Option<String> {
    let context = files.context.as_ref()?;
    let name = match args.file.as_deref() {
        Some(file) if file.is_file() => {
            let file = std::path::absolute(file).ok()?;
            let context = std::path::absolute(context).ok()?;
            match file.strip_prefix(context) {
                Ok(inside) => inside.to_string_lossy().into_owned(),
                // One elsewhere is looked for by its name.
                Err(_) => file.file_name()?.to_string_lossy().into_owned(),
            }
        }
        _ => DEFAULT_FILE.to_owned(),
    } + BESIDE;
    context.join(&name).is_file().then_some(name)
}

fn flag(text: &str) -> Result<Given, String> {
    let mut given = Given::default();
    for (key, value) in csv::pairs(text)? {
        let value = value.ok_or_else(|| format!("{key:?} needs a value: {key}=..."))?;
        let boolean = || {
            gateway_api::parse_bool(&value).ok_or_else(|| format!("{key}={value}: true or false"))
        };
        match key.trim().to_lowercase().as_str() {
            "filename" if value.is_empty() => return Err("filename= needs a file".into()),
            "filename" => given.files.push(value),
            "reset" => given.reset = boolean()?,
            "disabled" => given.disabled = boolean()?,
            "strict" => given.strict = Some(boolean()?),
            "log-level" => given.level = Some(level(&value)?),
            _ => {
                return Err(format!(
                    "unknown {key:?}: filename, reset, disabled, strict and log-level are known"
                ));
            }
        }
    }
    Ok(given)
}

fn level(text: &str) -> Result<Level, String> {
    match text.to_lowercase().as_str() {
        "panic" | "fatal" | "error" | "warn" | "warning" => Ok(Level::Silent),
        "info" => Ok(Level::Info),
        "debug" | "trace" => Ok(Level::Debug),
        _ => Err(format!(
            "log-level={text}: error, warn, info and debug are known"
        )),
    }
}

/// What the flags make of the policy that is there without any.
fn sets(beside: Option<String>, given: &[Given]) -> Result<Vec<Set>, String> {
    let mut sets: Vec<Set> = beside
        .map(|file| Set {
            files: vec![file],
            level: None,
        })
        .into_iter()
        .collect();
    if given.iter().any(|given| given.disabled) {
        let alone = Given {
            disabled: true,
            ..Given::default()
        };
        return match given {
            [only] if *only == alone => Ok(Vec::new()),
            _ => Err("disabled=true cannot be combined with anything else".into()),
        };
    }
    // Of a flag without files before any policy: it is for those that follow.
    let mut before = None;
    for given in given {
        if given.reset {
            sets.clear();
        }
        if given.files.is_empty() {
            match sets.last_mut() {
                Some(last) => last.level = given.level.or(last.level),
                None => before = given.level,
            }
            continue;
        }
        sets.push(Set {
            files: given.files.clone(),
            level: given.level.or(before),
        });
    }
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(beside: Option<&str>, flags: &[&str]) -> Result<Vec<(String, Option<Level>)>, String> {
        let given = flags.iter().map(|text| flag(text));
        let given = given.collect::<Result<Vec<_>, String>>()?;
        let sets = sets(beside.map(str::to_owned), &given)?;
        let shown = sets.into_iter().map(|set| (set.files.join("+"), set.level));
        Ok(shown.collect())
    }

    #[test]
    fn flags_add_to_the_policy_beside_the_build_file_or_replace_it() {
        let debug = Some(Level::Debug);
        for (flags, expected) in [
            (&[][..], vec![("D.rego", None)]),
            (&["log-level=debug"], vec![("D.rego", debug)]),
            (
                &["filename=a,filename=b"],
                vec![("D.rego", None), ("a+b", None)],
            ),
            (&["reset=true,filename=a"], vec![("a", None)]),
            (&["disabled=true"], vec![]),
            (
                &["reset=1,log-level=trace", "filename=a,strict=true"],
                vec![("a", debug)],
            ),
        ] {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(name, level)| (name.to_owned(), level))
                .collect();
            assert_eq!(made(Some("D.rego"), flags).unwrap(), expected, "{flags:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (flags, part) in [
            (&["file=a"][..], "unknown \"file\""),
            (&["filename"], "needs a value"),
            (&["disabled=maybe"], "disabled=maybe"),
            (&["log-level=loud"], "log-level=loud"),
            (&["disabled=true", "filename=a"], "disabled=true cannot"),
        ] {
            let error = made(None, flags).unwrap_err();
            assert!(error.contains(part), "{flags:?}: {error}");
        }
    }
}
