//! What flags leave open is taken from the environment, else from the files.

use clap::ValueEnum;
use toml::Value;

use super::keys::{KEYS, Key};
use super::layers::{Layers, Origin};
use crate::build::args::Build;
use crate::environment::Environment;
use crate::error::{CliError, UsageError};
use crate::progress::mode::Mode;
use crate::registry::settings::RegistryArgs;

fn value(
    layers: &Layers,
    env: &Environment,
    name: &str,
) -> Result<Option<(Value, Origin)>, CliError> {
    match KEYS.iter().find(|key: &&Key| key.name == name) {
        Some(key) => layers.value(key, env),
        None => Ok(None),
    }
}

/// A text or a path.
pub fn text(layers: &Layers, env: &Environment, name: &str) -> Result<Option<String>, CliError> {
    let value = value(layers, env, name)?;
    Ok(value.and_then(|(value, _)| value.as_str().map(str::to_owned)))
}

pub fn number(layers: &Layers, env: &Environment, name: &str) -> Result<Option<u64>, CliError> {
    let value = value(layers, env, name)?;
    Ok(value.and_then(|(value, _)| u64::try_from(value.as_integer()?).ok()))
}

fn switch(layers: &Layers, env: &Environment, name: &str) -> Result<bool, CliError> {
    let value = value(layers, env, name)?;
    Ok(value.is_some_and(|(value, _)| value.as_bool() == Some(true)))
}

fn list(layers: &Layers, env: &Environment, name: &str) -> Result<Vec<String>, CliError> {
    let Some((Value::Array(list), _)) = value(layers, env, name)? else {
        return Ok(Vec::new());
    };
    let words = list.iter().filter_map(Value::as_str);
    Ok(words.map(str::to_owned).collect())
}

/// The flags about registries with what they leave open.
///
/// # Errors
/// When a variable holds what it cannot.
pub fn registry_args(
    args: &RegistryArgs,
    layers: &Layers,
    env: &Environment,
) -> Result<RegistryArgs, CliError> {
    let mut args = args.clone();
    args.offline |= switch(layers, env, "gateway.offline")?;
    if args.registries_from.is_empty() {
        args.registries_from = list(layers, env, "gateway.registries-from")?;
    }
    Ok(args)
}

/// The flags of a build with what they leave open.
///
/// # Errors
/// When a variable or a file holds what it cannot.
pub fn filled(build: &Build, layers: &Layers, env: &Environment) -> Result<Build, CliError> {
    let mut build = build.clone();
    if build.progress == Mode::Auto
        && let Some((value, origin)) = value(layers, env, "build.progress")?
    {
        let text = value.as_str().unwrap_or_default();
        build.progress = Mode::from_str(text, true).map_err(|_| {
            let problem = "auto, tty, plain, plain=2018, rawjson, quiet and none are known";
            let place = match &origin {
                Origin::File(path) => format!("build.progress in {}", path.display()),
                origin => origin.to_string(),
            };
            UsageError::new(place, text, problem.to_owned())
        })?;
    }
    build.debug |= switch(layers, env, "build.debug")?;
    build.pull = match build.pull {
        None => Some(switch(layers, env, "build.pull")?),
        given => given,
    };
    let empty_then = |given: &mut Vec<String>, name: &str| -> Result<(), CliError> {
        if given.is_empty() {
            *given = list(layers, env, name)?;
        }
        Ok(())
    };
    empty_then(&mut build.platforms, "build.platforms")?;
    empty_then(&mut build.cache_from, "build.cache-from")?;
    empty_then(&mut build.cache_to, "build.cache-to")?;
    for (kind, flag) in [
        ("sbom", &mut build.sbom),
        ("provenance", &mut build.provenance),
    ] {
        // `--attest` says all about its kind.
        let attested = format!("type={kind}");
        let asked = build.attest.iter().any(|text| text.contains(&attested));
        if flag.is_none() && !asked {
            *flag = text(layers, env, &format!("build.{kind}"))?;
        }
    }
    build.allow.extend(list(layers, env, "build.allow")?);
    // Guards add up, and the variable's is read with those of the flags.
    let policies = list(layers, &Environment::new(), "build.source-policies")?;
    build
        .source_policies
        .extend(policies.into_iter().map(Into::into));
    Ok(build)
}

#[cfg(test)]
mod tests {

    use super::*;

    fn built(flags: &[&str], text: &str, env: &Environment) -> Build {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gateway.toml");
        std::fs::write(&file, text).unwrap();
        let layers = Layers::find(Some(&file), env).unwrap();
        let build = Build::of_words(flags.iter().chain(&["."])).unwrap();
        filled(&build, &layers, env).unwrap()
    }

    const FILE: &str = "[build]\nprogress = \"plain\"\npull = true\nplatforms = [\"linux/s390x\"]\n\
        cache-from = [\"a\"]\nprovenance = \"mode=min\"\nallow = [\"network.host\"]\n\
        source-policies = [\"/p.json\"]\n";

    #[test]
    fn files_fill_what_flags_leave_open() {
        let build = built(&[], FILE, &Environment::new());
        assert_eq!(build.progress, Mode::Plain);
        assert_eq!(build.pull, Some(true));
        assert_eq!(build.platforms, ["linux/s390x"]);
        assert_eq!(build.cache_from, ["a"]);
        assert_eq!(build.provenance.as_deref(), Some("mode=min"));
        assert_eq!(build.source_policies, [std::path::Path::new("/p.json")]);
    }

    #[test]
    fn the_environment_beats_files_and_flags_beat_both() {
        let env = Environment::from([
            ("GATEWAY_PROGRESS".to_owned(), "rawjson".to_owned()),
            ("GATEWAY_PULL".to_owned(), "0".to_owned()),
            ("DOCKER_DEFAULT_PLATFORM".to_owned(), "linux/386".to_owned()),
        ]);
        let build = built(&[], FILE, &env);
        assert_eq!(build.progress, Mode::Rawjson);
        assert_eq!(build.pull, Some(false));
        assert_eq!(build.platforms, ["linux/386"]);
        let flags = [
            "--progress=tty",
            "--pull=true",
            "--platform=linux/amd64",
            "--cache-from=b",
            "--attest=type=provenance,mode=max",
            "--allow=security.insecure",
        ];
        let build = built(&flags, FILE, &env);
        assert_eq!(build.progress, Mode::Tty);
        assert_eq!(build.pull, Some(true));
        assert_eq!(build.platforms, ["linux/amd64"]);
        assert_eq!(build.cache_from, ["b"]);
        assert_eq!(build.provenance, None);
        assert_eq!(build.allow, ["security.insecure", "network.host"]);
        assert_eq!(
            built(&["--pull=false"], FILE, &Environment::new()).pull,
            Some(false)
        );
    }
}
