//! containerd's `certs.d/HOST/hosts.toml`: mirrors with capabilities, paths, headers and certificates of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Header, HostConfig, KeyPair, Mirror, MirrorPath};

/// Largest hosts.toml that is read.
const MAX_FILE: u64 = 1 << 20;

/// Reads one hosts.toml; relative paths are below `dir`. The second value are warnings about unknown keys.
///
/// # Errors
/// What is wrong, without the file's name.
pub fn parse_hosts_toml(text: &str, dir: &Path) -> Result<(HostConfig, Vec<String>), String> {
    // The order of the [host."…"] tables counts, which a parsed table does not keep.
    let document: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| e.message().to_owned())?;
    let mut warnings = Vec::new();
    let mut host = HostConfig::default();
    let mut own = toml::Table::new();
    let mut mirrors: Vec<(usize, Mirror)> = Vec::new();
    for (key, value) in &document {
        match key.as_str() {
            "server" => {
                let server = value.as_str().ok_or("server must be a URL")?;
                host.server = Some(Box::new(mirror(
                    server,
                    &toml::Table::new(),
                    dir,
                    &mut warnings,
                )?));
            }
            "host" => {
                let tables = value
                    .as_table()
                    .ok_or("host must hold tables: [host.\"URL\"]")?;
                for (url, table) in tables {
                    let table = table
                        .as_table()
                        .ok_or_else(|| format!("host.{url:?} must be a table"))?;
                    let found = mirror(url, table, dir, &mut warnings)
                        .map_err(|problem| format!("host.{url:?}: {problem}"))?;
                    mirrors.push((place(text, url), found));
                }
            }
            _ => {
                own.insert(key.clone(), value.clone());
            }
        }
    }
    mirrors.sort_by_key(|(at, _)| *at);
    host.mirrors = mirrors.into_iter().map(|(_, mirror)| mirror).collect();
    // Settings at the top are those of the server.
    let server = host.server.take();
    let url = server.map_or_else(String::new, |server| {
        let scheme = match server.settings.as_ref().and_then(|s| s.http) {
            Some(true) => "http",
            _ => "https",
        };
        let path = match &server.path {
            MirrorPath::Prefix(path) if !path.is_empty() => format!("/{path}"),
            _ => String::new(),
        };
        format!("{scheme}://{}{path}", server.host)
    });
    if !url.is_empty() {
        host.server = Some(Box::new(mirror(&url, &own, dir, &mut warnings)?));
    } else if !own.is_empty() {
        let settings = mirror("server", &own, dir, &mut warnings)?.settings;
        if let Some(settings) = settings {
            host = HostConfig {
                mirrors: host.mirrors,
                http: None,
                ..*settings
            };
        }
    }
    Ok((host, warnings))
}

/// Where in the file a host's table begins; one that is written in another way comes last.
fn place(text: &str, url: &str) -> usize {
    [format!("\"{url}\""), format!("'{url}'")]
        .iter()
        .filter_map(|quoted| text.find(quoted.as_str()))
        .min()
        .unwrap_or(usize::MAX)
}

fn mirror(
    url: &str,
    table: &toml::Table,
    dir: &Path,
    warnings: &mut Vec<String>,
) -> Result<Mirror, String> {
    let mut found = Mirror::new(url);
    if found.host.is_empty() {
        return Err("names no host".into());
    }
    found.push = true;
    let mut settings = HostConfig {
        http: Some(url.starts_with("http://")),
        ..HostConfig::default()
    };
    let mut override_path = false;
    for (key, value) in table {
        match key.as_str() {
            "capabilities" => {
                let named =
                    super::strings(value).ok_or("capabilities must be a list of strings")?;
                let has = |name: &str| named.iter().any(|n| n == name);
                (found.pull, found.resolve, found.push) =
                    (has("pull"), has("resolve"), has("push"));
                for other in &named {
                    if !matches!(other.as_str(), "pull" | "resolve" | "push" | "referrers") {
                        return Err(format!("unknown capability {other:?}"));
                    }
                }
            }
            "ca" => {
                settings.ca = files(value, dir).ok_or("ca must be a file or a list of files")?
            }
            "client" => settings.keypair = pairs(value, dir).ok_or(
                "client must be a file, a list of files, or a list of pairs of certificate and key",
            )?,
            "skip_verify" => {
                settings.insecure =
                    Some(value.as_bool().ok_or("skip_verify must be true or false")?);
            }
            "override_path" => {
                override_path = value
                    .as_bool()
                    .ok_or("override_path must be true or false")?;
            }
            "header" => {
                let lines = value.as_table().ok_or("header must be a table")?;
                for (name, value) in lines {
                    let values = match value {
                        toml::Value::String(one) => vec![one.clone()],
                        many => super::strings(many)
                            .ok_or("a header's value must be a string or a list of strings")?,
                    };
                    settings
                        .headers
                        .extend(values.into_iter().map(|value| Header {
                            name: name.clone(),
                            value,
                        }));
                }
            }
            "dial_timeout" => {
                let text = value
                    .as_str()
                    .ok_or("dial_timeout must be a string such as \"10s\"")?;
                settings.connect = Some(
                    duration(text).ok_or_else(|| format!("dial_timeout {text:?} is no time"))?,
                );
            }
            other => warnings.push(format!("the key {other:?} is not known and has no effect")),
        }
    }
    if override_path && let MirrorPath::Prefix(path) = &found.path {
        found.path = MirrorPath::Instead(match path.as_str() {
            "" => String::new(),
            path => format!("/{path}"),
        });
    } else if let MirrorPath::Prefix(path) = &found.path {
        // The API's version at the end of the URL is understood, as containerd does.
        let bare = path.strip_suffix("/v2").or((path == "v2").then_some(""));
        if let Some(bare) = bare {
            found.path = match bare {
                "" => MirrorPath::Prefix(String::new()),
                bare => MirrorPath::Instead(format!("/{bare}/v2")),
            };
        } else if !path.is_empty() {
            // containerd puts the version behind the path.
            found.path = MirrorPath::Instead(format!("/{path}/v2"));
        }
    }
    found.settings = Some(Box::new(settings));
    Ok(found)
}

fn files(value: &toml::Value, dir: &Path) -> Option<Vec<PathBuf>> {
    match value {
        toml::Value::String(one) => Some(vec![dir.join(one)]),
        many => Some(
            super::strings(many)?
                .iter()
                .map(|file| dir.join(file))
                .collect(),
        ),
    }
}

/// A lone file holds certificate and key.
fn pairs(value: &toml::Value, dir: &Path) -> Option<Vec<KeyPair>> {
    let one = |file: &str| KeyPair {
        key: dir.join(file),
        cert: dir.join(file),
    };
    match value {
        toml::Value::String(file) => Some(vec![one(file)]),
        toml::Value::Array(list) => list
            .iter()
            .map(|entry| match entry {
                toml::Value::String(file) => Some(one(file)),
                toml::Value::Array(pair) => match pair.as_slice() {
                    [file, key] if key.as_str() == Some("") => Some(one(file.as_str()?)),
                    [cert, key] => Some(KeyPair {
                        cert: dir.join(cert.as_str()?),
                        key: dir.join(key.as_str()?),
                    }),
                    [file] => Some(one(file.as_str()?)),
                    _ => None,
                },
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// Go's durations of one unit: `500ms`, `10s`, `1.5m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// Adds every `DIR/HOST/hosts.toml`. Hosts that are in `hosts` already keep their settings whole. A file that cannot be
/// used is an error of its host once that is asked. `_default` is for hosts without a file. Gives warnings.
pub fn add_hosts_dir(
    hosts: &mut BTreeMap<String, HostConfig>,
    default_host: &mut Option<HostConfig>,
    dir: &Path,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return warnings;
    };
    for entry in entries.flatten() {
        let file = entry.path().join("hosts.toml");
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !file.is_file() {
            continue;
        }
        let read = std::fs::metadata(&file)
            .map_err(|e| e.to_string())
            .and_then(|m| match m.len() > MAX_FILE {
                true => Err(format!("larger than {MAX_FILE} bytes")),
                false => std::fs::read_to_string(&file).map_err(|e| e.to_string()),
            })
            .and_then(|text| parse_hosts_toml(&text, &entry.path()));
        let host = match read {
            Ok((host, notes)) => {
                let named = notes
                    .iter()
                    .map(|note| format!("{}: {note}", file.display()));
                warnings.extend(named);
                host
            }
            Err(problem) => HostConfig {
                broken: Some(format!("{}: {problem}", file.display())),
                ..HostConfig::default()
            },
        };
        match host_of(&name) {
            None => *default_host = Some(host),
            Some(name) if hosts.contains_key(&name) => warnings.push(format!(
                "{}: not used, because another configuration has settings for {name}",
                file.display()
            )),
            Some(name) => {
                hosts.insert(name, host);
            }
        }
    }
    warnings
}

/// `HOST_PORT_` is `HOST:PORT` where file systems take no colons. `None` is for all hosts.
fn host_of(folder: &str) -> Option<String> {
    if folder == "_default" {
        return None;
    }
    if let Some(bare) = folder.strip_suffix('_')
        && let Some((host, port)) = bare.rsplit_once('_')
        && !port.is_empty()
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Some(format!("{host}:{port}"));
    }
    Some(folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_80_a_hosts_toml_gives_mirrors_in_file_order_with_their_own_settings() {
        let text = r#"
            server = "https://registry.example"
            [host."https://z.example"]
              capabilities = ["pull", "resolve"]
              ca = ["z.crt", "/etc/other.crt"]
              client = [["z.cert", "z.key"], ["both.pem", ""]]
            [host."http://a.example:5000/proxy"]
              capabilities = ["pull"]
              skip_verify = true
              dial_timeout = "1500ms"
              [host."http://a.example:5000/proxy".header]
                x-custom = ["one", "two"]
            [host."https://m.example/base/x"]
              override_path = true
              colour = "blue"
        "#;
        let (host, warnings) = parse_hosts_toml(text, Path::new("/d")).unwrap();
        let names: Vec<_> = host.mirrors.iter().map(|m| m.host.as_str()).collect();
        assert_eq!(names, ["z.example", "a.example:5000", "m.example"]);
        assert_eq!(
            warnings,
            ["the key \"colour\" is not known and has no effect"]
        );
        let z = host.mirrors[0].settings.as_ref().unwrap();
        assert_eq!(
            z.ca,
            [PathBuf::from("/d/z.crt"), PathBuf::from("/etc/other.crt")]
        );
        assert_eq!(z.keypair[0].key, PathBuf::from("/d/z.key"));
        assert!(host.mirrors[0].resolve && !host.mirrors[0].push);
        let a = host.mirrors[1].settings.as_ref().unwrap();
        assert!(!host.mirrors[1].resolve && host.mirrors[1].pull);
        assert_eq!((a.http, a.insecure), (Some(true), Some(true)));
        assert_eq!(a.connect, Some(Duration::from_millis(1500)));
        assert_eq!((a.headers.len(), a.headers[1].value.as_str()), (2, "two"));
        assert_eq!(
            host.mirrors[1].path,
            MirrorPath::Instead("/proxy/v2".into())
        );
        assert_eq!(host.mirrors[2].path, MirrorPath::Instead("/base/x".into()));
        assert_eq!(host.server.unwrap().host, "registry.example");
    }

    #[test]
    fn check_80_a_folder_of_hosts_is_read_and_a_broken_file_is_its_hosts_own_trouble() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("h.example_5000_", "[host.\"https://m.example\"]\n"),
            ("_default", "[host.\"https://all.example\"]\n"),
            ("broken.example", "server = 7\n"),
            ("kept.example", "server = \"https://other.example\"\n"),
        ] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
        }
        let mut hosts = BTreeMap::from([("kept.example".to_owned(), HostConfig::default())]);
        let mut default_host = None;
        let warnings = add_hosts_dir(&mut hosts, &mut default_host, dir.path());
        assert_eq!(hosts["h.example:5000"].mirrors[0].host, "m.example");
        assert_eq!(default_host.unwrap().mirrors[0].host, "all.example");
        let broken = hosts["broken.example"].broken.as_ref().unwrap();
        assert!(
            broken.ends_with("hosts.toml: server must be a URL"),
            "{broken}"
        );
        assert_eq!(hosts["kept.example"], HostConfig::default());
        assert!(warnings[0].contains("not used"), "{warnings:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_hosts_toml_is_read_or_refused(text in "(server|ca|client|\\[host\\.\"x\"\\]\ncapabilities|header) ?= ?\\PC{0,40}") {
            let _ = parse_hosts_toml(&text, Path::new("/d"));
        }
    }
}
