//! Flags to a request: the frontend options and the session of a build.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gateway_session::LocalSession;

use super::contexts;
use super::secrets::{self, Environment};
use crate::args::Build;
use crate::error::{CliError, UsageError};

/// The build file when none is named.
const DEFAULT_FILE: &str = "Dockerfile";
/// Entitlements that a build may be given.
const ENTITLEMENTS: [&str; 3] = ["network.host", "security.insecure", "device"];

/// What the engine needs beside exporters and progress.
pub struct Inputs {
    pub opts: BTreeMap<String, String>,
    pub session: LocalSession,
    pub entitlements: BTreeSet<String>,
}

pub fn inputs(args: &Build, env: &Environment, session_id: String) -> Result<Inputs, CliError> {
    let mut opts = BTreeMap::new();
    let session = LocalSession::new(session_id);
    let mut session = match contexts::remote(&args.context) {
        Some(address) => {
            // The build file is a part of what is fetched.
            if let Some(file) = &args.file {
                opts.insert("filename".to_owned(), file.to_string_lossy().into_owned());
            }
            opts.insert("context".to_owned(), address);
            session
        }
        None => {
            let context = context_dir(&args.context)?;
            let (dockerfile_dir, filename) = build_file(args, &context)?;
            if filename != DEFAULT_FILE {
                opts.insert("filename".to_owned(), filename);
            }
            session
                .with_dir("context", context)
                .with_dir("dockerfile", dockerfile_dir)
        }
    };

    build_args(args, env, &mut opts)?;
    for text in &args.labels {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        opts.insert(format!("label:{key}"), value.to_owned());
    }
    session = build_contexts(args, session, &mut opts)?;
    simple_opts(args, &mut opts)?;
    for text in &args.opts {
        let (key, value) = pair("--opt", text)?;
        opts.insert(key, value);
    }
    for text in &args.secrets {
        let (id, source) = secrets::secret(text, env)?;
        session = session.with_secret(id, source);
    }
    for text in &args.ssh {
        session = session.with_agent(secrets::agent(text, env)?);
    }
    Ok(Inputs {
        opts,
        session,
        entitlements: entitlements(args)?,
    })
}

fn context_dir(path: &Path) -> Result<PathBuf, CliError> {
    let text = path.to_string_lossy();
    if text == "-" || text.contains("://") {
        return Err(CliError::ContextKind {
            path: path.to_owned(),
        });
    }
    let metadata = std::fs::metadata(path).map_err(|source| CliError::Context {
        path: path.to_owned(),
        source,
    })?;
    if !metadata.is_dir() {
        return Err(CliError::ContextKind {
            path: path.to_owned(),
        });
    }
    std::path::absolute(path).map_err(|source| CliError::Context {
        path: path.to_owned(),
        source,
    })
}

/// The folder that holds the build file, and its name there. A missing default file is the
/// frontend's to report: it knows the other names it would accept.
fn build_file(args: &Build, context: &Path) -> Result<(PathBuf, String), CliError> {
    let Some(file) = &args.file else {
        return Ok((context.to_owned(), DEFAULT_FILE.to_owned()));
    };
    let unreadable = |source| CliError::BuildFile {
        path: file.clone(),
        source,
    };
    let metadata = std::fs::metadata(file).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(std::io::ErrorKind::IsADirectory.into()));
    }
    let absolute = std::path::absolute(file).map_err(unreadable)?;
    let name = absolute
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let dir = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    Ok((dir, name))
}

fn pair(flag: &str, text: &str) -> Result<(String, String), UsageError> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| UsageError::new(flag, text, "write KEY=VALUE".into()))
}

fn build_args(
    args: &Build,
    env: &Environment,
    opts: &mut BTreeMap<String, String>,
) -> Result<(), UsageError> {
    for text in &args.build_args {
        match text.split_once('=') {
            Some(("", _)) => {
                return Err(UsageError::new("--build-arg", text, "no name".into()));
            }
            Some((key, value)) => {
                opts.insert(format!("build-arg:{key}"), value.to_owned());
            }
            // As docker does: a name alone is taken from the environment, and left out when unset.
            None => {
                if let Some(value) = env.get(text) {
                    opts.insert(format!("build-arg:{text}"), value.clone());
                }
            }
        }
    }
    // By agreement of all builders: https://reproducible-builds.org/specs/source-date-epoch/
    if let Some(epoch) = env.get("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) {
        opts.entry("build-arg:SOURCE_DATE_EPOCH".into())
            .or_insert_with(|| epoch.clone());
    }
    Ok(())
}

fn build_contexts(
    args: &Build,
    mut session: LocalSession,
    opts: &mut BTreeMap<String, String>,
) -> Result<LocalSession, CliError> {
    for text in &args.build_contexts {
        let (name, source) = pair("--build-context", text)?;
        let key = format!("context:{name}");
        if let Some(layout) = contexts::layout(&source) {
            let layout = layout?;
            opts.insert(key, layout.reference());
            session = session.with_oci_store(layout.store, layout.dir);
            continue;
        }
        if source.contains("://") || contexts::remote(Path::new(&source)).is_some() {
            opts.insert(key, source);
            continue;
        }
        let dir = context_dir(Path::new(&source))?;
        // These two names are taken by the build's own directories.
        let local = match name.as_str() {
            "context" | "dockerfile" => format!("_{name}"),
            _ => name,
        };
        session = session.with_dir(local.clone(), dir);
        opts.insert(key, format!("local:{local}"));
    }
    Ok(session)
}

fn simple_opts(args: &Build, opts: &mut BTreeMap<String, String>) -> Result<(), UsageError> {
    if let Some(target) = &args.target {
        opts.insert("target".into(), target.clone());
    }
    if !args.platforms.is_empty() {
        opts.insert("platform".into(), args.platforms.join(","));
    }
    if args.no_cache {
        opts.insert("no-cache".into(), String::new());
    }
    if args.pull {
        opts.insert("image-resolve-mode".into(), "pull".into());
    }
    match args.network.as_deref() {
        None | Some("default") => {}
        Some(mode @ ("none" | "host")) => {
            opts.insert("force-network-mode".into(), mode.to_owned());
        }
        Some(other) => {
            return Err(UsageError::new(
                "--network",
                other,
                "default, none and host are known".into(),
            ));
        }
    }
    let mut hosts = Vec::new();
    for text in &args.add_hosts {
        // Both separators are in use; an IPv6 address has colons of its own.
        let (host, address) = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .ok_or_else(|| UsageError::new("--add-host", text, "write HOST:IP".into()))?;
        let address = address.trim_matches(['[', ']']);
        if address.parse::<std::net::IpAddr>().is_err() {
            let problem = format!("{address:?} is not an IP address");
            return Err(UsageError::new("--add-host", text, problem));
        }
        hosts.push(format!("{host}={address}"));
    }
    if !hosts.is_empty() {
        opts.insert("add-hosts".into(), hosts.join(","));
    }
    Ok(())
}

fn entitlements(args: &Build) -> Result<BTreeSet<String>, UsageError> {
    args.allow
        .iter()
        .map(|text| match ENTITLEMENTS.contains(&text.as_str()) {
            true => Ok(text.clone()),
            false => Err(UsageError::new(
                "--allow",
                text,
                format!("unknown entitlement: {} are known", ENTITLEMENTS.join(", ")),
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use gateway_session::Session;

    use super::*;

    fn parse(line: &[&str]) -> Build {
        let words = ["gateway", "build"].iter().chain(line);
        match crate::args::Cli::try_parse_from(words).unwrap().command {
            crate::args::Command::Build(build) => *build,
            _ => panic!("a build"),
        }
    }

    fn given(line: &[&str]) -> Result<Inputs, CliError> {
        let env = Environment::from([("FROM_ENV".to_owned(), "e".to_owned())]);
        inputs(&parse(line), &env, "session".into())
    }

    #[test]
    fn flags_become_frontend_options() {
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().to_str().unwrap();
        let inputs = given(&[
            "--build-arg",
            "A=1=2",
            "--build-arg",
            "FROM_ENV",
            "--build-arg",
            "UNSET",
            "--label",
            "l=v",
            "--no-cache",
            "--target",
            "t",
            "--platform",
            "linux/amd64",
            "--platform",
            "linux/arm64",
            "--add-host",
            "db:10.1.2.3",
            "--opt",
            "hostname=h",
            context,
        ])
        .unwrap();
        let expected: BTreeMap<String, String> = [
            ("add-hosts", "db=10.1.2.3"),
            ("build-arg:A", "1=2"),
            ("build-arg:FROM_ENV", "e"),
            ("hostname", "h"),
            ("label:l", "v"),
            ("no-cache", ""),
            ("platform", "linux/amd64,linux/arm64"),
            ("target", "t"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        assert_eq!(inputs.opts, expected);
        assert_eq!(
            inputs.session.local_dir("context").as_deref(),
            Some(dir.path())
        );
    }

    #[test]
    fn a_build_file_elsewhere_is_its_own_directory() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let file = other.path().join("my.Dockerfile");
        std::fs::write(&file, "FROM scratch\n").unwrap();
        let inputs = given(&["-f", file.to_str().unwrap(), dir.path().to_str().unwrap()]).unwrap();
        assert_eq!(inputs.opts["filename"], "my.Dockerfile");
        assert_eq!(
            inputs.session.local_dir("dockerfile").as_deref(),
            Some(other.path())
        );
    }

    #[test]
    fn a_named_context_is_a_directory_or_a_reference() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let inputs = given(&[
            "--build-context",
            &format!("context={path}"),
            "--build-context",
            "base=docker-image://alpine",
            path,
        ])
        .unwrap();
        assert_eq!(inputs.opts["context:context"], "local:_context");
        assert_eq!(inputs.opts["context:base"], "docker-image://alpine");
    }

    #[test]
    fn an_address_is_a_context_with_the_build_file_in_it() {
        let inputs = given(&["-f", "sub/my.Dockerfile", "https://example.com/r.git#main"]).unwrap();
        assert_eq!(inputs.opts["context"], "https://example.com/r.git#main");
        assert_eq!(inputs.opts["filename"], "sub/my.Dockerfile");
        assert_eq!(inputs.session.local_dir("context"), None);
    }

    #[test]
    fn bad_flags_name_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        for (flag, value) in [
            ("--opt", "novalue"),
            ("--allow", "everything"),
            ("--network", "bridge"),
            ("--add-host", "db:nowhere"),
        ] {
            let error = given(&[flag, value, path]).map(|_| ()).unwrap_err();
            assert!(error.to_string().starts_with(flag), "{error}");
            assert!(error.to_string().contains(value), "{error}");
        }
        assert!(given(&["/no/such/context"]).is_err());
        assert!(given(&["-f", "/no/such/file", path]).is_err());
    }
}
