//! `gateway config`: what flags, environment and files say, put together, and where each value comes from.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;
use toml::Value;

use super::keys::{DAEMON, KEYS, Key};
use super::layers::{ConfigFile, Layers, Origin, user_config};
use crate::environment::Environment;
use crate::error::CliError;
use crate::registry::environment;
use crate::registry::settings::{RegistryArgs, login_file, registries};
use crate::text::print;

/// Variables that say how the network is reached.
const PROXIES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
];
/// Column at which origins begin.
const ORIGINS: usize = 44;
/// Terminals with fewer columns have origins right behind the values.
const WIDE: usize = 72;

/// Show the configuration: what flags, environment and files say together, and where each value comes from.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway config                              what holds here
  gateway config --format json | jq .files    which files are read
  gateway config --config other.toml          what that file would change; a mistake in it is told")]
pub struct Show {
    /// How it is written: toml, with origins as comments, or json
    #[arg(long, value_name = "FORM", default_value = "toml")]
    format: Form,

    /// Image store and cache
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    #[command(flatten)]
    registries: RegistryArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Toml,
    Json,
}

/// One line of the answer.
struct Entry {
    place: Vec<String>,
    value: Value,
    origin: Origin,
}

/// # Errors
/// When a file or a variable is not understood, as a build would say it.
pub fn run(args: &Show) -> Result<(), CliError> {
    let env = environment();
    let layers = Layers::find(args.registries.config.as_deref(), &env)?;
    let entries = entries(args, &layers, &env)?;
    // What a build would refuse or warn about.
    super::settings(&args.registries, &layers, &env)?;
    crate::build::check_configuration(&layers, &env)?;
    let (_, warnings) = registries(
        &super::registry_args(&args.registries, &layers, &env)?,
        &layers,
        &env,
    )?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    print(&match args.format {
        Form::Toml => toml_text(&entries, &layers, &env, crate::table::terminal()),
        Form::Json => json_text(&entries, &layers, &env),
    });
    Ok(())
}

/// What builds do not go by: what the daemon does, and what nobody does.
fn daemons(file: &ConfigFile) -> (Vec<String>, Vec<String>) {
    let unused = file.unused().into_iter();
    unused.partition(|name| DAEMON.contains(&name.as_str()))
}

fn entries(args: &Show, layers: &Layers, env: &Environment) -> Result<Vec<Entry>, CliError> {
    let mut entries = Vec::new();
    for key in &KEYS {
        let place: Vec<String> = key.name.split('.').map(str::to_owned).collect();
        let (value, origin) = match of_flag(args, key) {
            Some(value) => (value, Origin::Flag(key.flag)),
            None => match layers.value(key, env)? {
                Some(found) => found,
                None => match default(key, layers, env)? {
                    Some(value) => (value, Origin::Default),
                    None => continue,
                },
            },
        };
        entries.push(Entry {
            place,
            value,
            origin,
        });
    }
    let mut merged = layers.merged();
    merged.retain(|name, _| ["registry", "frontend", "worker", "cdi"].contains(&name));
    let mut leaves = Vec::new();
    leaves_of(&merged, &mut Vec::new(), &mut leaves);
    let unused: Vec<String> = layers.files.iter().flat_map(|file| file.unused()).collect();
    for (place, value) in leaves {
        if unused.contains(&place.join(".")) {
            continue;
        }
        let origin = layers
            .origin(&place)
            .map_or(Origin::Default, |path| Origin::File(path.to_owned()));
        entries.push(Entry {
            place,
            value,
            origin,
        });
    }
    for (name, value) in frontend_defaults() {
        let place = ["frontend", "gateway.v0", name].map(str::to_owned).to_vec();
        if !entries.iter().any(|entry| entry.place == place) {
            let origin = Origin::Default;
            entries.push(Entry {
                place,
                value,
                origin,
            });
        }
    }
    entries.sort_by_key(|entry| {
        let own = KEYS
            .iter()
            .position(|key| key.name == entry.place.join("."))
            .unwrap_or(KEYS.len());
        (own, entry.place.clone())
    });
    Ok(entries)
}

fn of_flag(args: &Show, key: &Key) -> Option<Value> {
    match key.name {
        "gateway.root" => {
            let path = std::path::absolute(args.root.as_ref()?).ok()?;
            Some(Value::String(path.to_string_lossy().into_owned()))
        }
        "gateway.offline" => args.registries.offline.then_some(Value::Boolean(true)),
        "gateway.registries-from" => {
            let given = args.registries.registries_from.iter().cloned();
            let list: Vec<Value> = given.map(Value::String).collect();
            (!list.is_empty()).then_some(Value::Array(list))
        }
        _ => None,
    }
}

fn default(key: &Key, layers: &Layers, env: &Environment) -> Result<Option<Value>, CliError> {
    if key.name == "gateway.root" {
        let is_root = rustix::process::geteuid().is_root() && !crate::is_rootless();
        let root = super::store_root(None, layers, env, is_root)?;
        return Ok(Some(Value::String(root.to_string_lossy().into_owned())));
    }
    let table: Result<toml::Table, _> = format!("x = {}", key.default).parse();
    Ok(table.ok().and_then(|mut table| table.remove("x")))
}

/// What holds of frontends when no file says anything.
fn frontend_defaults() -> Vec<(&'static str, Value)> {
    let (policy, limits) = (
        gateway_bridge::FrontendPolicy::default(),
        gateway_bridge::FrontendLimits::default(),
    );
    let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let size = |size: usize| number(size as u64);
    let seconds = |limit: Option<std::time::Duration>| number(limit.map_or(0, |d| d.as_secs()));
    let repositories = policy.allowed_repositories.into_iter();
    vec![
        (
            "allowedRepositories",
            Value::Array(repositories.map(Value::String).collect()),
        ),
        ("enabled", Value::Boolean(policy.gateway_enabled)),
        ("idleTimeout", seconds(limits.idle_timeout)),
        ("maxBuffered", size(limits.buffered_bytes)),
        ("maxContainers", size(limits.containers)),
        ("maxDefinitions", size(limits.definition_bytes)),
        ("maxMemory", number(limits.memory_bytes)),
        ("maxMessage", size(limits.message_bytes)),
        ("maxProcesses", number(limits.processes)),
        ("maxRefs", size(limits.refs)),
        ("startTimeout", seconds(Some(limits.start_timeout))),
        ("timeout", seconds(limits.timeout)),
    ]
}

/// Values that are no tables, with the way to each.
fn leaves_of(table: &toml::Table, way: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, Value)>) {
    for (name, value) in table {
        way.push(name.clone());
        match value {
            Value::Table(inner) => leaves_of(inner, way, leaves),
            value => leaves.push((way.clone(), value.clone())),
        }
        way.pop();
    }
}

/// A name as it stands in a TOML file.
fn named(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match !name.is_empty() && name.chars().all(plain) {
        true => name.to_owned(),
        false => Value::String(name.to_owned()).to_string(),
    }
}

fn toml_text(
    entries: &[Entry],
    layers: &Layers,
    env: &Environment,
    terminal: Option<usize>,
) -> String {
    let origins = match terminal {
        Some(columns) if columns < WIDE => 0,
        _ => ORIGINS,
    };
    let mut text = String::from("# Files, the strongest first:\n");
    for file in &layers.files {
        text += &format!("#   {}\n", file.path.display());
    }
    for path in &layers.missing {
        text += &format!("#   {} (not there)\n", path.display());
    }
    let mut table: Option<&[String]> = None;
    for entry in entries {
        let Some((key, tables)) = entry.place.split_last() else {
            continue;
        };
        if table != Some(tables) {
            let names: Vec<String> = tables.iter().map(|name| named(name)).collect();
            text += &format!("\n[{}]\n", names.join("."));
            table = Some(tables);
        }
        let line = format!("{} = {}", named(key), entry.value);
        text += &format!("{line:origins$} # {}\n", entry.origin);
    }
    for file in &layers.files {
        let (of_daemon, unused) = daemons(file);
        for (what, names) in [
            ("Of gateway daemon alone", of_daemon),
            ("Means nothing here", unused),
        ] {
            if !names.is_empty() {
                let (names, path) = (names.join(", "), file.path.display());
                text += &format!("\n# {what}: {names} of {path}\n");
            }
        }
    }
    text += "\n# Read besides:\n";
    for (path, what, there) in besides(env) {
        let there = if there { "" } else { " (not there)" };
        text += &format!("#   {}: {what}{there}\n", path.display());
    }
    for (name, value) in proxies(env) {
        text += &format!("#   {name}={value}\n");
    }
    text
}

fn json_text(entries: &[Entry], layers: &Layers, env: &Environment) -> String {
    let found = layers.files.iter().map(|file| {
        let (of_daemon, unused) = daemons(file);
        json!({"path": file.path, "found": true, "daemon": of_daemon, "unused": unused})
    });
    let missing = layers
        .missing
        .iter()
        .map(|path| json!({"path": path, "found": false}));
    let values = entries.iter().map(|entry| {
        let (kind, name) = match &entry.origin {
            Origin::Flag(name) => ("flag", (*name).to_owned()),
            Origin::Variable(name) => ("variable", (*name).to_owned()),
            Origin::File(path) => ("file", path.to_string_lossy().into_owned()),
            Origin::Default => ("default", String::new()),
        };
        let mut value = json!({"key": entry.place, "value": entry.value, "from": kind});
        if !name.is_empty() {
            value["name"] = name.into();
        }
        value
    });
    let besides = besides(env)
        .into_iter()
        .map(|(path, what, there)| json!({"path": path, "for": what, "found": there}));
    let document = json!({
        "files": found.chain(missing).collect::<Vec<_>>(),
        "values": values.collect::<Vec<_>>(),
        "besides": besides.collect::<Vec<_>>(),
        "proxies": proxies(env).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    });
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

/// Files of other programs that are read too.
fn besides(env: &Environment) -> Vec<(PathBuf, &'static str, bool)> {
    let mut files = Vec::new();
    let mut add = |path: PathBuf, what| {
        let there = path.exists();
        files.push((path, what, there));
    };
    if let Some(path) = login_file(env) {
        add(path, "logins and proxies of docker");
    }
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty());
    match (set("REGISTRY_AUTH_FILE"), user_config(env)) {
        (Some(file), _) => add(PathBuf::from(file), "logins of podman"),
        (None, Some(own)) => add(own.join("containers/auth.json"), "logins of podman"),
        (None, None) => {}
    }
    for dir in [
        "/etc/docker/certs.d",
        "/etc/containers/certs.d",
        "/etc/containerd/certs.d",
    ] {
        let what = match dir.contains("containerd") {
            true => "mirrors by host",
            false => "certificates by host",
        };
        add(Path::new(dir).to_owned(), what);
    }
    files
}

/// Proxies as they are set, without their passwords.
fn proxies(env: &Environment) -> Vec<(&'static str, String)> {
    PROXIES
        .iter()
        .filter_map(|name| {
            let value = env.get(*name).filter(|value| !value.is_empty())?;
            Some((*name, without_login(value)))
        })
        .collect()
}

/// A proxy's address, which may have no scheme and no sound form at all.
fn without_login(address: &str) -> String {
    let Some((login, host)) = address.rsplit_once('@') else {
        return address.to_owned();
    };
    match login.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://{host}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_where_they_come_from() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("g.toml");
        std::fs::write(
            &file,
            "[build]\nprogress = \"plain\"\n[registry.\"docker.io\"]\nmirrors = [\"m:5000\"]\n\
             [frontend.\"gateway.v0\"]\nmaxRefs = 7\n[worker.oci]\ngc = false\nsnapshotter = \"native\"\n[grpc]\nuid = 1\n",
        )
        .unwrap();
        let env = Environment::from([
            ("HOME".to_owned(), "/home/me".to_owned()),
            ("GATEWAY_ROOT".to_owned(), "/srv/store".to_owned()),
            (
                "HTTPS_PROXY".to_owned(),
                "http://me:secret@proxy:3128".to_owned(),
            ),
        ]);
        let layers = Layers::find(Some(&file), &env).unwrap();
        let args = Show {
            format: Form::Toml,
            root: None,
            registries: RegistryArgs {
                offline: true,
                ..RegistryArgs::default()
            },
        };
        let entries = entries(&args, &layers, &env).unwrap();
        let text =
            toml_text(&entries, &layers, &env, None).replace(dir.path().to_str().unwrap(), "/d");
        let text = text.replace(" (not there)", "");
        insta::assert_snapshot!(text);
        let json: serde_json::Value =
            serde_json::from_str(&json_text(&entries, &layers, &env)).unwrap();
        assert!(!json.to_string().contains("secret"), "{json}");
        let of = |key: &[&str]| {
            let mut values = json["values"].as_array().unwrap().iter();
            values
                .find(|value| value["key"] == json!(key))
                .unwrap()
                .clone()
        };
        assert_eq!(of(&["gateway", "offline"])["from"], "flag");
        assert_eq!(of(&["gateway", "root"])["name"], "GATEWAY_ROOT");
        assert_eq!(of(&["registry", "docker.io", "mirrors"])["from"], "file");
        assert_eq!(without_login("me:secret@proxy:1"), "proxy:1");
        assert_eq!(without_login("http://a@b:c@p:1"), "http://p:1");
        assert!(text.parse::<toml::Table>().is_ok(), "it is a file again");
    }
}
