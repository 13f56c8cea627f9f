//! Which hosts serve a registry, and how each is spoken to: the `[registry."HOST"]` tables of a buildkitd.toml as values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::credentials::{Anonymous, Credentials};
use super::error::ConfigError;

/// Everything the registry client knows. Nothing is read from the environment.
#[derive(Clone)]
pub struct RegistriesConfig {
    /// By namespace (`docker.io`, `host[:port]`). A mirror's own settings stand under the mirror's host.
    pub hosts: BTreeMap<String, HostConfig>,
    pub credentials: Arc<dyn Credentials>,
    pub system_trust: SystemTrust,
    pub user_agent: String,
    /// Refuse every request.
    pub offline: bool,
    pub proxy: Option<ProxyConfig>,
    pub limits: Limits,
}

impl Default for RegistriesConfig {
    fn default() -> Self {
        RegistriesConfig {
            hosts: BTreeMap::new(),
            credentials: Arc::new(Anonymous),
            system_trust: SystemTrust::Native,
            user_agent: format!(
                "gateway/{} (buildkit-compatible)",
                env!("CARGO_PKG_VERSION")
            ),
            offline: false,
            proxy: None,
            limits: Limits::default(),
        }
    }
}

/// How one host is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// `host[:port][/path]`, asked in order before the host itself. A scheme is tolerated and dropped.
    pub mirrors: Vec<String>,
    /// Plain HTTP. Unset is not false: loopback hosts are plain unless this or a certificate says otherwise.
    pub http: Option<bool>,
    /// Accept any certificate; with plain HTTP try TLS first.
    pub insecure: Option<bool>,
    /// PEM files, added to the system's certificates.
    pub ca: Vec<PathBuf>,
    pub keypair: Vec<KeyPair>,
}

/// A client certificate and its key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    pub key: PathBuf,
    pub cert: PathBuf,
}

/// Where the system's trusted certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemTrust {
    /// The operating system's store.
    Native,
    /// These PEM bundles (what SSL_CERT_FILE names).
    Files(Vec<PathBuf>),
    /// Nothing; only the hosts' own files.
    None,
}

/// HTTP proxies as values; loopback hosts are never asked through one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    pub http: Option<String>,
    pub https: Option<String>,
    pub no_proxy: Option<String>,
}

/// Limits in time and number.
#[derive(Clone, Debug)]
pub struct Limits {
    /// DNS, TCP and TLS together. BuildKit: 30 s and 10 s.
    pub connect: Duration,
    /// Until the headers come, and between two pieces of a body. BuildKit waits for ever.
    pub stall: Duration,
    /// First pause before a repeat; doubled each time.
    pub backoff: Duration,
    /// Longest `Retry-After` that is waited for.
    pub longest_pause: Duration,
    /// Parallel blobs of one registry.
    pub blobs_per_host: usize,
    /// How long a host that could not be reached is left alone.
    pub skip_failed_host: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            backoff: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            blobs_per_host: 4,
            skip_failed_host: Duration::from_secs(60),
        }
    }
}

/// Reads the registry tables of a buildkitd.toml. Other tables are left alone; unknown keys of a registry come back as warnings.
/// Relative paths are taken as they stand.
pub fn parse_buildkitd_toml(
    text: &str,
) -> Result<(BTreeMap<String, HostConfig>, Vec<String>), ConfigError> {
    let document: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| ConfigError::Toml(e.to_string()))?;
    let mut hosts = BTreeMap::new();
    let mut warnings = Vec::new();
    let Some(registry) = document.get("registry") else {
        return Ok((hosts, warnings));
    };
    let Some(registry) = registry.as_table() else {
        return Err(ConfigError::Toml(
            "`registry` must hold tables: [registry.\"host\"]".into(),
        ));
    };
    for (host, table) in registry {
        let wrong = |key: &str, problem: &str| ConfigError::Value {
            host: host.clone(),
            key: key.into(),
            problem: problem.into(),
        };
        let table = table
            .as_table()
            .ok_or_else(|| wrong("", "must be a table"))?;
        let mut entry = HostConfig::default();
        for (key, value) in table {
            match key.as_str() {
                "mirrors" => {
                    entry.mirrors =
                        strings(value).ok_or_else(|| wrong(key, "must be a list of hosts"))?
                }
                "http" => {
                    entry.http = Some(
                        value
                            .as_bool()
                            .ok_or_else(|| wrong(key, "must be true or false"))?,
                    )
                }
                "insecure" => {
                    entry.insecure = Some(
                        value
                            .as_bool()
                            .ok_or_else(|| wrong(key, "must be true or false"))?,
                    );
                }
                "ca" => {
                    let files =
                        strings(value).ok_or_else(|| wrong(key, "must be a list of PEM files"))?;
                    entry.ca = files.into_iter().map(PathBuf::from).collect();
                }
                "keypair" => {
                    let pairs = value
                        .as_array()
                        .ok_or_else(|| wrong(key, "must be a list of tables"))?;
                    for pair in pairs {
                        let file = |name: &str| {
                            pair.get(name)
                                .and_then(toml::Value::as_str)
                                .map(PathBuf::from)
                        };
                        match (file("key"), file("cert")) {
                            (Some(key), Some(cert)) => entry.keypair.push(KeyPair { key, cert }),
                            _ => return Err(wrong(key, "needs both `key` and `cert`")),
                        }
                    }
                }
                "tlsconfigdir" => {
                    let dirs =
                        strings(value).ok_or_else(|| wrong(key, "must be a list of folders"))?;
                    for dir in dirs {
                        warnings.extend(add_certificate_dir(&mut entry, Path::new(&dir)));
                    }
                }
                other => warnings.push(format!(
                    "registry.{host:?}: the key {other:?} is not known and has no effect"
                )),
            }
        }
        hosts.insert(host.clone(), entry);
    }
    Ok((hosts, warnings))
}

/// Adds what a folder in Docker's form holds: `*.crt` are CA files, `*.cert` with a `.key` of the same name are client
/// certificates. A missing folder holds nothing. Gives warnings.
pub fn add_certificate_dir(host: &mut HostConfig, dir: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return warnings,
        Err(error) => return vec![format!("{}: {error}", dir.display())],
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    files.sort();
    for file in &files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => host.ca.push(file.clone()),
            Some("cert") => {
                let key = file.with_extension("key");
                match files.contains(&key) {
                    true => host.keypair.push(KeyPair { key, cert: file.clone() }),
                    false => warnings.push(format!(
                        "missing key {} for client certificate {}. CA certificates must use the extension .crt",
                        key.display(),
                        file.display()
                    )),
                }
            }
            _ => {}
        }
    }
    warnings
}

/// Adds the hosts of a folder like Docker's `certs.d`, which holds one folder for each `host[:port]`.
/// Hosts that are configured keep their settings and get the files besides. Gives warnings.
pub fn add_certs_d(hosts: &mut BTreeMap<String, HostConfig>, certs_d: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(certs_d) else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        warnings.extend(add_certificate_dir(
            hosts.entry(name).or_default(),
            &entry.path(),
        ));
    }
    warnings
}

fn strings(value: &toml::Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|v| v.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_tables_are_read_and_unknown_keys_reported() {
        let text = r#"
            debug = true
            [worker.oci]
            enabled = true
            [registry."docker.io"]
            mirrors = ["mirror.example:5000/hub", "https://second.example"]
            [registry."mirror.example:5000"]
            http = false
            insecure = true
            ca = ["/etc/ca.pem"]
            colour = "blue"
            [[registry."mirror.example:5000".keypair]]
            key = "/etc/key.pem"
            cert = "/etc/cert.pem"
        "#;
        let (hosts, warnings) = parse_buildkitd_toml(text).unwrap();
        assert_eq!(hosts["docker.io"].mirrors.len(), 2);
        let mirror = &hosts["mirror.example:5000"];
        assert_eq!((mirror.http, mirror.insecure), (Some(false), Some(true)));
        assert_eq!(mirror.keypair[0].key, PathBuf::from("/etc/key.pem"));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("colour"), "{warnings:?}");
    }

    #[test]
    fn a_certs_d_folder_adds_files_and_reports_a_certificate_without_key() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("h.example:5000");
        std::fs::create_dir(&host).unwrap();
        for name in ["ca.crt", "client.cert", "client.key", "lonely.cert"] {
            std::fs::write(host.join(name), "").unwrap();
        }
        let mut hosts = BTreeMap::new();
        let warnings = add_certs_d(&mut hosts, folder.path());
        let found = &hosts["h.example:5000"];
        assert_eq!(found.ca, [host.join("ca.crt")]);
        assert_eq!(found.keypair[0].cert, host.join("client.cert"));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("lonely.key"), "{warnings:?}");
    }

    #[test]
    fn a_wrong_type_names_host_and_key() {
        let error = parse_buildkitd_toml("[registry.\"h\"]\nhttp = \"yes\"").unwrap_err();
        assert_eq!(
            error.to_string(),
            "registry.\"h\".http: must be true or false"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_configuration_is_read_or_refused(text in "(\\[registry\\.\"h\"\\]\n)?(mirrors|http|ca|keypair|x) ?= ?\\PC{0,40}") {
            let _ = parse_buildkitd_toml(&text);
        }
    }
}
