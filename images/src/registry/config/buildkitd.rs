//! The `[registry."HOST"]` tables of a buildkitd.toml.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{HostConfig, KeyPair, Mirror, add_certificate_dir, strings};
use crate::registry::error::ConfigError;

/// Reads the registry tables of a buildkitd.toml. Other tables are left alone; unknown keys of a registry come back as warnings.
/// Relative paths are taken as they stand.
/// Two keys are ours: `fallback = false` keeps the host itself from being asked, `http2 = true` offers it HTTP/2.
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
                    let mirrors =
                        strings(value).ok_or_else(|| wrong(key, "must be a list of hosts"))?;
                    entry.mirrors = mirrors.iter().map(|mirror| Mirror::new(mirror)).collect();
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
                "fallback" => {
                    entry.fallback = Some(
                        value
                            .as_bool()
                            .ok_or_else(|| wrong(key, "must be true or false"))?,
                    );
                }
                "http2" => {
                    entry.http2 = Some(
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
