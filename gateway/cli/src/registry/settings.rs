//! How registries are reached: flags, the files that users already have, the environment. The only place that looks for
//! them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use gateway_images::registry::{
    Credentials, DockerConfig, FirstOf, ProxyConfig, RegistriesConfig, SystemTrust, add_certs_d,
    add_daemon_json, add_hosts_dir, parse_buildkitd_toml, parse_registries_conf, unused_tables,
};

use crate::config::Layers;
use crate::config::layers::user_config;
use crate::environment::Environment;
use crate::error::{CliError, UsageError};

/// How registries are reached.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryArgs {
    /// The configuration file [default: gateway.toml of the user and the system, and BuildKit's]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Use what another tool is configured with besides: docker (daemon.json) or podman (registries.conf)
    #[arg(long = "registries-from", value_name = "TOOL[=FILE]")]
    pub registries_from: Vec<String>,

    /// Ask no registry: use what is in the store
    #[arg(long)]
    pub offline: bool,
}

/// Folders with certificates, and with hosts.toml, by host.
const DOCKER_CERTS: &str = "docker/certs.d";
const CONTAINERS_CERTS: &str = "containers/certs.d";
const CONTAINERD_HOSTS: &str = "containerd/certs.d";
const ETC: &str = "/etc";

fn var(env: &Environment, name: &str) -> Option<String> {
    env.get(name).filter(|value| !value.is_empty()).cloned()
}

/// A user's own files come before the system's.
fn places(env: &Environment, name: &str) -> Vec<PathBuf> {
    let own = user_config(env);
    own.into_iter()
        .chain([PathBuf::from(ETC)])
        .map(|dir| dir.join(name))
        .collect()
}

/// Puts together what is known of registries. Gives warnings besides.
pub fn registries(
    args: &RegistryArgs,
    layers: &Layers,
    env: &Environment,
) -> Result<(RegistriesConfig, Vec<String>), CliError> {
    let mut warnings = Vec::new();
    let mut config = RegistriesConfig {
        offline: args.offline,
        ..RegistriesConfig::default()
    };
    for file in &layers.files {
        let (_, notes) = parse_buildkitd_toml(&file.text).map_err(|error| CliError::Config {
            path: file.path.clone(),
            problem: error.to_string(),
        })?;
        warnings.extend(
            notes
                .into_iter()
                .map(|note| format!("{}: {note}", file.path.display())),
        );
    }
    if let Some(strongest) = layers.files.first() {
        let wrong = |problem: String| CliError::Config {
            path: strongest.path.clone(),
            problem,
        };
        let hosts = match layers.files.as_slice() {
            [one] => parse_buildkitd_toml(&one.text),
            _ => {
                let merged = toml::to_string(&layers.merged()).map_err(|e| wrong(e.to_string()))?;
                parse_buildkitd_toml(&merged)
            }
        };
        let (hosts, _) = hosts.map_err(|error| wrong(error.to_string()))?;
        let notes = unused_tables(&hosts);
        warnings.extend(
            notes
                .into_iter()
                .map(|note| format!("{}: {note}", strongest.path.display())),
        );
        config.hosts = hosts;
    }
    for from in &args.registries_from {
        warnings.extend(from_tool(&mut config, from, env)?);
    }
    for dir in places(env, CONTAINERD_HOSTS) {
        warnings.extend(add_hosts_dir(
            &mut config.hosts,
            &mut config.default_host,
            &dir,
        ));
    }
    // The folder that error pages tell users to put certificates into comes first.
    config.certs_dirs = vec![Path::new(ETC).join(DOCKER_CERTS)];
    let own = user_config(env).map(|dir| dir.join(DOCKER_CERTS));
    if !rustix::process::geteuid().is_root() || crate::is_rootless() {
        config.certs_dirs.splice(0..0, own);
    }
    for name in [DOCKER_CERTS, CONTAINERS_CERTS] {
        for dir in places(env, name) {
            warnings.extend(add_certs_d(&mut config.hosts, &dir));
        }
    }
    config.system_trust = system_trust(env);
    let proxy = ProxyConfig {
        http: var(env, "HTTP_PROXY").or_else(|| var(env, "http_proxy")),
        https: var(env, "HTTPS_PROXY").or_else(|| var(env, "https_proxy")),
        no_proxy: var(env, "NO_PROXY").or_else(|| var(env, "no_proxy")),
    };
    if proxy.http.is_some() || proxy.https.is_some() {
        config.proxy = Some(proxy);
    }
    config.credentials = credentials(env, &mut warnings)?;
    Ok((config, warnings))
}

/// The certificates that this machine trusts.
pub fn system_trust(env: &Environment) -> SystemTrust {
    match var(env, "SSL_CERT_FILE") {
        Some(file) => SystemTrust::Files(vec![PathBuf::from(file)]),
        None => SystemTrust::Native,
    }
}

fn from_tool(
    config: &mut RegistriesConfig,
    from: &str,
    env: &Environment,
) -> Result<Vec<String>, CliError> {
    let (tool, file) = match from.split_once('=') {
        Some((tool, file)) => (tool, Some(PathBuf::from(file))),
        None => (from, None),
    };
    let places = match (tool, &file) {
        (_, Some(file)) => vec![file.clone()],
        ("docker", None) => places(env, "docker/daemon.json"),
        ("podman", None) => places(env, "containers/registries.conf"),
        _ => Vec::new(),
    };
    if !matches!(tool, "docker" | "podman") {
        let problem = "known are docker and podman".to_owned();
        return Err(UsageError::new("--registries-from", from, problem).into());
    }
    let Some(path) = places.iter().find(|path| path.is_file()) else {
        let shown: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
        let problem = format!("there is no {}", shown.join(" and no "));
        return Err(UsageError::new("--registries-from", from, problem).into());
    };
    let mut files = vec![path.clone()];
    if tool == "podman" && file.is_none() {
        files.extend(drop_ins(&path.with_extension("conf.d")));
    }
    let mut warnings = Vec::new();
    for path in files {
        let text = std::fs::read(&path).map_err(|source| CliError::ConfigFile {
            path: path.clone(),
            source,
        })?;
        let notes = match tool {
            "docker" => add_daemon_json(config, &text),
            _ => parse_registries_conf(&String::from_utf8_lossy(&text), &mut config.rules),
        };
        let notes = notes.map_err(|problem| CliError::Config {
            path: path.clone(),
            problem,
        })?;
        warnings.extend(
            notes
                .into_iter()
                .map(|note| format!("{}: {note}", path.display())),
        );
    }
    Ok(warnings)
}

/// The `*.conf` files of a folder, in order.
fn drop_ins(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "conf"))
        .collect();
    files.sort();
    files
}

/// Where `login` keeps logins: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
pub fn login_file(env: &Environment) -> Option<PathBuf> {
    var(env, "DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| var(env, "HOME").map(|home| Path::new(&home).join(".docker")))
        .map(|dir| dir.join("config.json"))
}

/// `DOCKER_AUTH_CONFIG`, then docker's file, then podman's.
fn credentials(
    env: &Environment,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Credentials>, CliError> {
    const VARIABLE: &str = "DOCKER_AUTH_CONFIG";
    let mut all: Vec<Arc<dyn Credentials>> = Vec::new();
    if let Some(json) = var(env, VARIABLE) {
        match DockerConfig::parse(json.as_bytes(), Path::new(VARIABLE)) {
            Ok(config) => all.push(Arc::new(config)),
            Err(error) => warnings.push(format!("{error}; the variable is not used")),
        }
    }
    let run = var(env, "XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("containers/auth.json"));
    let own = user_config(env).map(|dir| dir.join("containers/auth.json"));
    let podman = match var(env, "REGISTRY_AUTH_FILE") {
        Some(file) => vec![PathBuf::from(file)],
        None => run.into_iter().chain(own).collect(),
    };
    for path in login_file(env).into_iter().chain(podman) {
        if !path.exists() {
            continue;
        }
        let config = DockerConfig::read(&path).map_err(|error| CliError::Credentials {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        all.push(Arc::new(config));
    }
    Ok(Arc::new(FirstOf(all)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &Path)]) -> Environment {
        let pair = |(key, value): &(&str, &Path)| ((*key).to_owned(), value.display().to_string());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn sentence_4_files_of_buildkit_containerd_and_docker_are_read_without_being_asked() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            (
                "buildkit/buildkitd.toml",
                "[registry.\"a.example\"]\nmirrors = [\"m.example\"]\n",
            ),
            (
                "containerd/certs.d/b.example/hosts.toml",
                "[host.\"https://n.example\"]\n",
            ),
            ("docker/certs.d/c.example:5000/ca.crt", ""),
            (
                "docker/daemon.json",
                "{\"registry-mirrors\":[\"https://d.example\"]}",
            ),
        ] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let env = env(&[("XDG_CONFIG_HOME", dir.path())]);
        let args = RegistryArgs::default();
        let layers = Layers::find(None, &env).unwrap();
        let (config, _) = registries(&args, &layers, &env).unwrap();
        assert_eq!(config.hosts["a.example"].mirrors[0].host, "m.example");
        assert_eq!(config.hosts["b.example"].mirrors[0].host, "n.example");
        assert_eq!(config.hosts["c.example:5000"].ca.len(), 1);
        assert!(
            !config.hosts.contains_key("docker.io"),
            "daemon.json is read on request only"
        );

        let args = RegistryArgs {
            registries_from: vec!["docker".into()],
            ..RegistryArgs::default()
        };
        let (config, _) = registries(&args, &Layers::default(), &env).unwrap();
        assert_eq!(config.hosts["docker.io"].mirrors[0].host, "d.example");
        let unknown = RegistryArgs {
            registries_from: vec!["rkt".into()],
            ..RegistryArgs::default()
        };
        assert!(registries(&unknown, &Layers::default(), &env).is_err());
    }
}
