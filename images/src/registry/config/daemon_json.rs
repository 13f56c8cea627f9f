//! Docker's daemon.json: mirrors of Docker Hub, insecure registries, proxies. Read on request only, because it says for
//! another program whom to trust.

use serde::Deserialize;

use super::{Mirror, Network, ProxyConfig, RegistriesConfig};
use crate::reference::HUB;

#[derive(Deserialize, Default)]
struct File {
    #[serde(rename = "registry-mirrors", default)]
    mirrors: Vec<String>,
    #[serde(rename = "insecure-registries", default)]
    insecure: Vec<String>,
    #[serde(rename = "max-concurrent-downloads")]
    downloads: Option<usize>,
    proxies: Option<Proxies>,
}

#[derive(Deserialize, Default)]
struct Proxies {
    #[serde(rename = "http-proxy")]
    http: Option<String>,
    #[serde(rename = "https-proxy")]
    https: Option<String>,
    #[serde(rename = "no-proxy")]
    none: Option<String>,
}

/// Most parallel downloads that are believed.
const MOST_DOWNLOADS: usize = 64;

/// Adds what the file says about registries; what is configured already stays. Gives warnings.
///
/// # Errors
/// What is wrong, without the file's name.
pub fn add_daemon_json(config: &mut RegistriesConfig, text: &[u8]) -> Result<Vec<String>, String> {
    // serde's message may quote a proxy's login.
    let file: File = serde_json::from_slice(text).map_err(|e| {
        format!(
            "not a daemon.json at line {} column {}",
            e.line(),
            e.column()
        )
    })?;
    let mut warnings = Vec::new();
    if !file.mirrors.is_empty() {
        let hub = config.hosts.entry(HUB.to_owned()).or_default();
        if hub.mirrors.is_empty() {
            for url in &file.mirrors {
                let Some((scheme @ ("http" | "https"), _)) = url.split_once("://") else {
                    return Err("registry-mirrors: a mirror is not an http or https URL".into());
                };
                let mirror = Mirror::new(url);
                if mirror.host.is_empty() || mirror.host.contains('@') {
                    return Err("registry-mirrors: a mirror names no usable host".into());
                }
                hub.mirrors.push(mirror);
                let plain = scheme == "http";
                let host = hub
                    .mirrors
                    .last()
                    .map(|m| m.host.clone())
                    .unwrap_or_default();
                warnings.extend(
                    plain.then(|| {
                        format!("{host} is asked in plain http, as registry-mirrors says")
                    }),
                );
            }
            let plain: Vec<String> = file
                .mirrors
                .iter()
                .filter(|url| url.starts_with("http://"))
                .map(|url| Mirror::new(url).host)
                .collect();
            for host in plain {
                config
                    .hosts
                    .entry(host)
                    .or_default()
                    .http
                    .get_or_insert(true);
            }
        } else {
            warnings.push("registry-mirrors: not used, docker.io has mirrors already".into());
        }
    }
    for entry in &file.insecure {
        if let Some(network) = Network::parse(entry) {
            config.insecure_networks.push(network);
            warnings.push(format!(
                "insecure-registries: {entry} is used for registries named by address; names are not looked up for it"
            ));
            continue;
        }
        let host = Mirror::new(entry).host;
        let host = config.hosts.entry(host).or_default();
        host.insecure.get_or_insert(true);
        host.http.get_or_insert(true);
    }
    if let Some(downloads) = file.downloads.filter(|n| (1..=MOST_DOWNLOADS).contains(n)) {
        config.limits.blobs_per_host = downloads;
    }
    if let Some(proxies) = file.proxies
        && config.proxy.is_none()
    {
        config.proxy = Some(ProxyConfig {
            http: proxies.http.filter(|p| !p.is_empty()),
            https: proxies.https.filter(|p| !p.is_empty()),
            no_proxy: proxies.none,
        });
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_4_a_daemon_json_gives_mirrors_of_docker_hub_and_insecure_hosts() {
        let mut config = RegistriesConfig::default();
        let text = br#"{"registry-mirrors":["http://m.example:5000/","https://n.example"],
            "insecure-registries":["dev.example:5000","10.0.0.0/8"],"max-concurrent-downloads":7,
            "proxies":{"https-proxy":"http://p:1","no-proxy":"a"},"debug":true}"#;
        let warnings = add_daemon_json(&mut config, text).unwrap();
        let names: Vec<_> = config.hosts[HUB].mirrors.iter().map(|m| &m.host).collect();
        assert_eq!(names, ["m.example:5000", "n.example"]);
        assert_eq!(config.hosts["m.example:5000"].http, Some(true));
        assert!(!config.hosts.contains_key("n.example"));
        assert_eq!(config.hosts["dev.example:5000"].insecure, Some(true));
        assert_eq!(
            (config.insecure_networks.len(), config.limits.blobs_per_host),
            (1, 7)
        );
        assert_eq!(config.proxy.unwrap().https.as_deref(), Some("http://p:1"));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn sentence_3_a_broken_daemon_json_is_refused_without_quoting_it() {
        let text = br#"{"proxies":{"http-proxy":["http://u:hunter2@p"]}}"#;
        let error = add_daemon_json(&mut RegistriesConfig::default(), text).unwrap_err();
        assert!(
            error.contains("line 1") && !error.contains("hunter2"),
            "{error}"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_daemon_json_is_read_or_refused(text in "\\{\"(registry-mirrors|insecure-registries|proxies)\": ?\\PC{0,40}") {
            let _ = add_daemon_json(&mut RegistriesConfig::default(), text.as_bytes());
        }
    }
}
