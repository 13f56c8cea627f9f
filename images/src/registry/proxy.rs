//! Which proxy a host is asked through: the rules of `NO_PROXY` as Go reads them.

use std::net::IpAddr;

use reqwest::Url;

use super::config::{Network, ProxyConfig};
use super::tls::socks::{self, is_socks};

/// The proxy for a host, or none. Loopback hosts have none, whatever is configured.
pub(crate) fn proxy_for<'a>(
    config: &'a ProxyConfig,
    scheme: &str,
    host: &str,
    port: u16,
) -> Option<&'a str> {
    let name = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let address: Option<IpAddr> = name.parse().ok();
    if name == "localhost" || address.is_some_and(|a| a.is_loopback()) {
        return None;
    }
    let except = config.no_proxy.as_deref().unwrap_or_default();
    if except
        .split(',')
        .any(|entry| excepts(entry.trim(), &name, address, port))
    {
        return None;
    }
    match scheme {
        "http" => config.http.as_deref(),
        _ => config.https.as_deref(),
    }
}

fn excepts(entry: &str, name: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry.is_empty() {
        return false;
    }
    if entry == "*" {
        return true;
    }
    let entry = entry.to_ascii_lowercase();
    if let (Some(network), Some(address)) = (Network::parse(&entry), address) {
        return network.contains(address);
    }
    let (entry, wanted) = match entry.rsplit_once(':') {
        // Of more colons than one, only a bracketed address has a port.
        Some((host, digits)) if !host.contains(':') || host.ends_with(']') => {
            match digits.parse::<u16>() {
                Ok(digits) => (host.to_owned(), Some(digits)),
                Err(_) => (entry.clone(), None),
            }
        }
        _ => (entry.clone(), None),
    };
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    let entry = entry.trim_matches(['[', ']']);
    if let Ok(excepted) = entry.parse::<IpAddr>() {
        return address == Some(excepted);
    }
    let entry = entry.strip_prefix('*').unwrap_or(entry);
    match entry.strip_prefix('.') {
        // A leading dot is for names below only.
        Some(domain) => name
            .strip_suffix(domain)
            .is_some_and(|left| left.ends_with('.')),
        None => {
            name == entry
                || name
                    .strip_suffix(entry)
                    .is_some_and(|left| left.ends_with('.'))
        }
    }
}

/// The proxy as the HTTP client takes it. Go leaves the lookup of names to a SOCKS proxy, whichever of its two schemes is
/// written; to that client they are two.
pub(crate) fn for_client(proxy: &str) -> String {
    match proxy.split_once("://") {
        Some((_, rest)) if is_socks(proxy) => format!("socks5h://{rest}"),
        _ => proxy.to_owned(),
    }
}

/// `host:port` of a proxy's URL: without its login.
pub(crate) fn shown(proxy: &str) -> String {
    let url = match proxy.contains("://") {
        true => Url::parse(proxy),
        false => Url::parse(&format!("http://{proxy}")),
    };
    let default = if is_socks(proxy) { socks::PORT } else { 80 };
    match url {
        Ok(url) => format!(
            "{}:{}",
            url.host_str().unwrap_or_default(),
            url.port_or_known_default().unwrap_or(default)
        ),
        Err(_) => "the configured proxy".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_47_no_proxy_takes_names_domains_addresses_networks_and_ports() {
        let config = |no_proxy: &str| ProxyConfig {
            http: Some("http://plain:1".into()),
            https: Some("http://proxy:1".into()),
            no_proxy: Some(no_proxy.into()),
        };
        let direct = |no_proxy: &str, host: &str, port| {
            proxy_for(&config(no_proxy), "https", host, port).is_none()
        };
        for (no_proxy, host, port, expected) in [
            ("", "r.example", 443, false),
            ("*", "r.example", 443, true),
            ("example", "r.example", 443, true),
            ("r.example", "R.example", 443, true),
            ("r.example", "xr.example", 443, false),
            (".example", "r.example", 443, true),
            (".r.example", "r.example", 443, false),
            ("*.example", "r.example", 443, true),
            ("a, r.example:5000", "r.example", 5000, true),
            ("r.example:5000", "r.example", 443, false),
            ("10.0.0.0/8", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("10.1.2.3", "10.1.2.3", 443, true),
            ("[fd00::1]:5000", "[fd00::1]", 5000, true),
            ("fd00::1", "[fd00::1]", 5000, true),
            ("", "localhost", 443, true),
            ("", "127.0.0.9", 443, true),
            ("", "[::1]", 443, true),
        ] {
            assert_eq!(
                direct(no_proxy, host, port),
                expected,
                "{no_proxy} {host}:{port}"
            );
        }
        assert_eq!(
            proxy_for(&config(""), "http", "r.example", 80),
            Some("http://plain:1")
        );
        assert_eq!(shown("http://u:hunter2@proxy:3128/"), "proxy:3128");
        assert_eq!(shown("socks5://u:hunter2@proxy"), "proxy:1080");
        assert_eq!(for_client("socks5://u@proxy"), "socks5h://u@proxy");
        assert_eq!(for_client("http://proxy"), "http://proxy");
    }
}
