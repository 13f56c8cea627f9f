//! Flags to a request: the frontend options and the session of a build.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use gateway_images::reference::Reference;
use gateway_session::{LocalSession, Session};

use super::secrets::{self};
use super::stdin::{self, Stdin};
use super::{contexts, proxies, resources};
use crate::build::args::Build;
use crate::environment::Environment;
use crate::error::{CliError, UsageError};

/// The build file when none is named.
const DEFAULT_FILE: &str = "Dockerfile";
/// As a context or a build file.
const STDIN: &str = "-";
/// Address of what the client hands in itself.
const UPLOADS: &str = "http://buildkit-session/";
/// The entitlement that can be for one device alone.
const DEVICE: &str = "device";
/// Entitlements that a build may be given.
const ENTITLEMENTS: [&str; 4] = [
    "network.host",
    "security.insecure",
    DEVICE,
    super::output::LOCAL_DELETE,
];

/// What the engine needs beside exporters and progress.
pub struct Inputs {
    pub opts: BTreeMap<String, String>,
    pub session: LocalSession,
    pub entitlements: BTreeSet<String>,
    /// What may not be meant as it was said.
    pub notes: Vec<String>,
    /// What stdin held and what was fetched; must live as long as the build.
    pub held: Vec<Stdin>,
}

/// `fetched` is the build file, where `--file` is an address.
pub fn inputs(
    args: &Build,
    env: &Environment,
    session_id: String,
    fetched: Option<Stdin>,
) -> Result<Inputs, CliError> {
    let mut opts = BTreeMap::new();
    let session = LocalSession::new(session_id);
    let stdin = stdin(args)?;
    let is_stdin = args.context == Path::new(STDIN);
    // The build file, where it is no file of the context or beside it.
    let file = match is_stdin {
        true => fetched.as_ref(),
        false => fetched.as_ref().or(stdin.as_ref()),
    };
    let mut session = match contexts::remote(&args.context) {
        _ if is_stdin => from_stdin(args, stdin.as_ref(), file, session, &mut opts)?,
        Some(address) => {
            opts.insert("context".to_owned(), address);
            beside_fetched(args, file, session, &mut opts)
        }
        None => {
            let context = context_dir(&args.context)?;
            let (dockerfile_dir, filename) = match file {
                Some(file) => (file.dir.path().to_owned(), DEFAULT_FILE.to_owned()),
                None => build_file(args, &context)?,
            };
            if filename != DEFAULT_FILE {
                opts.insert("filename".to_owned(), filename);
            }
            session
                .with_dir("context", context)
                .with_dir("dockerfile", dockerfile_dir)
        }
    };

    build_args(args, env, &mut opts)?;
    proxies::options(env, &mut opts)?;
    for text in &args.labels {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        opts.insert(format!("label:{key}"), value.to_owned());
    }
    session = build_contexts(args, session, &mut opts)?;
    simple_opts(args, env, &mut opts)?;
    let mut notes = Vec::new();
    opts.extend(super::attest::options(args, &mut notes)?);
    let mut dirs = Vec::new();
    for name in ["context", "dockerfile"] {
        dirs.extend(session.local_dir(name).map(|dir| (name, dir)));
    }
    if dirs.len() == 2 {
        let name = opts.get("filename").map_or(DEFAULT_FILE, String::as_str);
        let file = dirs.last().map(|(_, dir)| dir.join(name));
        super::vcs::options(env, &dirs, &file.unwrap_or_default(), &mut opts);
    }
    for text in &args.opts {
        let (key, value) = pair("--opt", text)?;
        opts.insert(key, value);
    }
    for text in &args.secrets {
        let (id, source) = secrets::secret(text, env, &mut notes)?;
        session = session.with_secret(id, source);
    }
    for text in &args.ssh {
        session = session.with_agent(secrets::agent(text, env)?);
    }
    let socket = env.get("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
    if args.ssh.is_empty() && socket.is_some() && contexts::is_over_ssh(&args.context) {
        // Nobody gets at such a repository without.
        session = session.with_agent(secrets::agent(secrets::DEFAULT_AGENT, env)?);
    }
    Ok(Inputs {
        opts,
        session,
        entitlements: entitlements(args)?,
        notes,
        held: stdin.into_iter().chain(fetched).collect(),
    })
}

/// The build file of a context that the build fetches: a part of it, unless there is one from elsewhere.
fn beside_fetched(
    args: &Build,
    file: Option<&Stdin>,
    session: LocalSession,
    opts: &mut BTreeMap<String, String>,
) -> LocalSession {
    if let Some(file) = file {
        opts.insert("dockerfilekey".to_owned(), "dockerfile".to_owned());
        return session.with_dir("dockerfile", file.dir.path());
    }
    if let Some(file) = &args.file {
        opts.insert("filename".to_owned(), file.to_string_lossy().into_owned());
    }
    session
}

/// Reads stdin where the flags name it: as the context or as the build file.
fn stdin(args: &Build) -> Result<Option<Stdin>, CliError> {
    let file = args.file.as_deref() == Some(Path::new(STDIN));
    let context = args.context == Path::new(STDIN);
    if file && context {
        let problem = "stdin cannot be the context and the build file at once";
        return Err(UsageError::new("--file", STDIN, problem.into()).into());
    }
    if !file && !context {
        return Ok(None);
    }
    if std::io::stdin().is_terminal() {
        eprintln!("reading the build file from the terminal, up to Ctrl-D");
    }
    stdin::read(std::io::stdin().lock(), file).map(Some)
}

/// A build whose context is stdin: an archive of it, or a build file without any.
fn from_stdin(
    args: &Build,
    stdin: Option<&Stdin>,
    file: Option<&Stdin>,
    session: LocalSession,
    opts: &mut BTreeMap<String, String>,
) -> Result<LocalSession, CliError> {
    let Some(stdin) = stdin else {
        return Err(CliError::EmptyStdin);
    };
    match &stdin.content {
        stdin::Content::BuildFile => {
            if let Some(file) = &args.file {
                let problem = "the build file came on stdin: leave --file out";
                let file = file.to_string_lossy();
                return Err(UsageError::new("--file", file, problem.into()).into());
            }
            Ok(session
                .with_dir("context", stdin::empty_context(stdin)?)
                .with_dir("dockerfile", stdin.dir.path()))
        }
        stdin::Content::Archive(path) => {
            let id = session.id().to_owned();
            opts.insert("context".to_owned(), format!("{UPLOADS}{id}"));
            let session = beside_fetched(args, file, session, opts);
            Ok(session.with_upload(id, path))
        }
    }
}

fn context_dir(path: &Path) -> Result<PathBuf, CliError> {
    let text = path.to_string_lossy();
    if text.contains("://") {
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

/// As frontends ask for it: a name of an image is shortened.
fn context_name(name: &str) -> Result<String, String> {
    let reference = Reference::parse(name).map_err(|error| error.to_string())?;
    let familiar = reference.familiar();
    Ok(familiar
        .strip_suffix(":latest")
        .unwrap_or(&familiar)
        .to_owned())
}

fn build_contexts(
    args: &Build,
    mut session: LocalSession,
    opts: &mut BTreeMap<String, String>,
) -> Result<LocalSession, CliError> {
    for text in &args.build_contexts {
        let (name, source) = pair("--build-context", text)?;
        let name = context_name(&name)
            .map_err(|problem| UsageError::new("--build-context", text, problem))?;
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

fn simple_opts(
    args: &Build,
    env: &Environment,
    opts: &mut BTreeMap<String, String>,
) -> Result<(), UsageError> {
    if let Some(target) = &args.target {
        opts.insert("target".into(), target.clone());
    }
    let default = env
        .get("DOCKER_DEFAULT_PLATFORM")
        .filter(|text| !text.is_empty());
    if !args.platforms.is_empty() {
        let platforms = platforms("--platform", &args.platforms)?;
        if !platforms.is_empty() {
            opts.insert("platform".into(), platforms);
        }
    } else if let Some(platform) = default {
        let given = std::slice::from_ref(platform);
        let platforms = platforms("DOCKER_DEFAULT_PLATFORM", given)?;
        opts.insert("platform".into(), platforms);
    }
    if args.no_cache {
        opts.insert("no-cache".into(), String::new());
    } else if !args.no_cache_filter.is_empty() {
        opts.insert("no-cache".into(), args.no_cache_filter.join(","));
    }
    resources::options(args, opts)?;
    if args.pull == Some(true) {
        opts.insert("image-resolve-mode".into(), "pull".into());
    }
    match args.network.as_deref() {
        None | Some("default") => {}
        Some(mode @ ("none" | "host")) => {
            opts.insert("force-network-mode".into(), mode.to_owned());
        }
        // A matter of this machine, not of frontends.
        Some(mode) if crate::worker::is_of_machine(mode) => {}
        Some(other) => {
            return Err(UsageError::new(
                "--network",
                other,
                "default, none, host, isolated, container:NAME and ns:PATH are known".into(),
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
        let address = match address.trim_matches(['[', ']']) {
            // Steps share the network of this machine, so its gateway is the machine itself.
            "host-gateway" => "127.0.0.1",
            address => address,
        };
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
        .filter(|text| *text != super::output::LOCAL_DELETE)
        .map(|text| {
            // One device, as device=NAME.
            let kind = text.split_once('=').map_or(text.as_str(), |(kind, _)| kind);
            if ENTITLEMENTS.contains(&text.as_str()) || kind == DEVICE {
                return Ok(text.clone());
            }
            let known = ENTITLEMENTS.join(", ");
            let hint = super::keys::hint(text, &ENTITLEMENTS);
            let problem = format!("unknown entitlement: {known} are known{hint}");
            Err(UsageError::new("--allow", text, problem))
        })
        .collect()
}

/// Platforms as frontends take them, with commas. `local` is this machine's, an empty text nothing.
fn platforms(flag: &str, texts: &[String]) -> Result<String, UsageError> {
    let mut all = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let wrong = |problem: String| UsageError::new(flag, text, problem);
        for one in text.split(',').map(str::trim) {
            match one {
                "" => return Err(wrong("there is nothing between two commas".to_owned())),
                "local" => all.push(gateway_llb::platform::format(&gateway_llb::platform::host())),
                one => {
                    let parsed = one.parse::<gateway_images::platform::Platform>();
                    parsed.map_err(|error| {
                        wrong(format!("{error}: write OS/ARCHITECTURE, as linux/amd64"))
                    })?;
                    all.push(one.to_owned());
                }
            }
        }
    }
    Ok(all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Build {
        Build::of_words(line).unwrap()
    }

    fn given(line: &[&str]) -> Result<Inputs, CliError> {
        let env = Environment::from([("FROM_ENV".to_owned(), "e".to_owned())]);
        inputs(&parse(line), &env, "session".into(), None)
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
