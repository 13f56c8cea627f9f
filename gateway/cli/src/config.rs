//! Where things are: the store, the configuration file, the docker credentials. The only place that
//! reads the environment for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway_images::registry::{
    DockerConfig, ProxyConfig, Registries, RegistriesConfig, SystemTrust, parse_buildkitd_toml,
};

use crate::build::secrets::Environment;
use crate::error::CliError;

/// The store: `--root`, else `$GATEWAY_ROOT`, else the usual place for root or for a user.
pub fn store_root(
    flag: Option<&Path>,
    env: &Environment,
    is_root: bool,
) -> Result<PathBuf, CliError> {
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty());
    if let Some(root) = flag
        .map(Path::to_owned)
        .or_else(|| set("GATEWAY_ROOT").map(PathBuf::from))
    {
        return std::path::absolute(&root).map_err(|source| CliError::Write { path: root, source });
    }
    if is_root {
        return Ok(PathBuf::from("/var/lib/gateway"));
    }
    let data = match (set("XDG_DATA_HOME"), set("HOME")) {
        (Some(data), _) => PathBuf::from(data),
        (None, Some(home)) => Path::new(home).join(".local/share"),
        (None, None) => return Err(CliError::NoHome),
    };
    Ok(data.join("gateway"))
}

/// The registry client from `--config` and docker's credentials; warnings are for stderr.
pub fn registries(
    config: Option<&Path>,
    env: &Environment,
) -> Result<(Registries, Vec<String>), CliError> {
    let mut warnings = Vec::new();
    let mut settings = RegistriesConfig::default();
    if let Some(path) = config {
        let text = std::fs::read_to_string(path).map_err(|source| CliError::ConfigFile {
            path: path.to_owned(),
            source,
        })?;
        let wrong = |problem: String| CliError::Config {
            path: path.to_owned(),
            problem,
        };
        let (hosts, notes) =
            parse_buildkitd_toml(&text).map_err(|error| wrong(error.to_string()))?;
        settings.hosts = hosts;
        warnings.extend(
            notes
                .into_iter()
                .map(|note| format!("{}: {note}", path.display())),
        );
    }
    let var = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
    if let Some(file) = var("SSL_CERT_FILE") {
        settings.system_trust = SystemTrust::Files(vec![PathBuf::from(file)]);
    }
    let proxy = ProxyConfig {
        http: var("HTTP_PROXY").or_else(|| var("http_proxy")),
        https: var("HTTPS_PROXY").or_else(|| var("https_proxy")),
        no_proxy: var("NO_PROXY").or_else(|| var("no_proxy")),
    };
    if proxy.http.is_some() || proxy.https.is_some() {
        settings.proxy = Some(proxy);
    }
    let docker = var("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| var("HOME").map(|home| Path::new(&home).join(".docker")))
        .map(|dir| dir.join("config.json"))
        .filter(|path| path.exists());
    if let Some(path) = docker {
        let credentials = DockerConfig::read(&path).map_err(|error| CliError::Credentials {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        settings.credentials = Arc::new(credentials);
    }
    let registries = Registries::new(settings).map_err(|error| CliError::Config {
        path: config.map(Path::to_owned).unwrap_or_default(),
        problem: error.to_string(),
    })?;
    Ok((registries, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_flag_beats_the_environment_beats_the_usual_place() {
        let vars = env(&[("GATEWAY_ROOT", "/from/env"), ("HOME", "/home/me")]);
        let root = |flag: Option<&str>, env: &Environment, is_root| {
            store_root(flag.map(Path::new), env, is_root).unwrap()
        };
        assert_eq!(root(Some("/flag"), &vars, true), Path::new("/flag"));
        assert_eq!(root(None, &vars, true), Path::new("/from/env"));
        assert_eq!(root(None, &env(&[]), true), Path::new("/var/lib/gateway"));
        assert_eq!(
            root(None, &env(&[("HOME", "/home/me")]), false),
            Path::new("/home/me/.local/share/gateway")
        );
        assert!(store_root(None, &env(&[]), false).is_err());
    }
}
