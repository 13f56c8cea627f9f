//! Which hosts serve a registry, and how each is spoken to, as values; and readers of the files in which users already
//! say so. Only files that are passed in are read.

mod buildkitd;
mod certs_d;
mod daemon_json;
mod hosts_toml;
mod registries_conf;
mod unused;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use buildkitd::parse_buildkitd_toml;
pub use certs_d::{add_certificate_dir, add_certs_d};
pub use daemon_json::add_daemon_json;
pub use hosts_toml::{add_hosts_dir, parse_hosts_toml};
pub use registries_conf::parse_registries_conf;
pub use unused::unused_tables;

use super::credentials::{Anonymous, Credentials};

/// Everything the registry client knows. Nothing is read from the environment.
#[derive(Clone)]
pub struct RegistriesConfig {
    /// By namespace (`docker.io`, `host[:port]`). A mirror's own settings stand under the mirror's host.
    pub hosts: BTreeMap<String, HostConfig>,
    /// For hosts that have no settings of their own.
    pub default_host: Option<HostConfig>,
    /// Rules by repository prefix, from podman's registries.conf; the longest that fits wins over `hosts`.
    pub rules: Vec<PrefixRule>,
    /// Hosts given as addresses in these networks may be insecure (docker's `insecure-registries`).
    pub insecure_networks: Vec<Network>,
    /// Folders with certificates by host (`/etc/docker/certs.d`), named in error pages. They are not read from here.
    pub certs_dirs: Vec<PathBuf>,
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
            default_host: None,
            rules: Vec::new(),
            insecure_networks: Vec::new(),
            certs_dirs: Vec::new(),
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostConfig {
    /// Asked in order before the host itself.
    pub mirrors: Vec<Mirror>,
    /// Plain HTTP. Unset is not false: loopback hosts are plain unless this or a certificate says otherwise.
    pub http: Option<bool>,
    /// Accept any certificate; with plain HTTP try TLS first.
    pub insecure: Option<bool>,
    /// PEM files, added to the system's certificates.
    pub ca: Vec<PathBuf>,
    pub keypair: Vec<KeyPair>,
    /// Sent with every request to this host, and to no other.
    pub headers: Vec<Header>,
    /// Instead of [`Limits::connect`].
    pub connect: Option<Duration>,
    /// HTTP/2 over TLS where the host offers it. All blobs share one connection then; without it each has its own.
    pub http2: Option<bool>,
    /// False: the host itself is never asked, only its mirrors (for networks without a way out).
    pub fallback: Option<bool>,
    /// The host that serves this namespace, when it is another (`server` of a hosts.toml).
    pub server: Option<Box<Mirror>>,
    /// Why the settings cannot be used: told when the host is.
    pub broken: Option<String>,
}

impl HostConfig {
    /// What of these settings holds for another host that this one sends us to.
    pub(crate) fn for_other_host(&self) -> HostConfig {
        HostConfig {
            mirrors: Vec::new(),
            headers: Vec::new(),
            server: None,
            ..self.clone()
        }
    }
}

/// A host that stands in for another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// `host[:port]`.
    pub host: String,
    pub path: MirrorPath,
    /// Tags may be asked here.
    pub resolve: bool,
    /// Content may be fetched here.
    pub pull: bool,
    /// Only there when it is allowed by name; pushes otherwise go to the registry itself.
    pub push: bool,
    /// Instead of what is configured for `host`.
    pub settings: Option<Box<HostConfig>>,
}

/// Where on the host the API is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MirrorPath {
    /// Below `/v2/`, in front of the repository.
    Prefix(String),
    /// Instead of `/v2` (`override_path` of a hosts.toml).
    Instead(String),
}

impl Mirror {
    /// Reads `host[:port][/path]`; a scheme is tolerated and dropped, as BuildKit does.
    pub fn new(text: &str) -> Self {
        let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        Mirror {
            host: host.to_owned(),
            path: MirrorPath::Prefix(path.trim_matches('/').to_owned()),
            resolve: true,
            pull: true,
            push: false,
            settings: None,
        }
    }
}

impl From<String> for Mirror {
    fn from(text: String) -> Self {
        Mirror::new(&text)
    }
}

/// A header line. Its value may be a login and is never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Header {
    pub name: String,
    pub value: String,
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: …", self.name)
    }
}

/// A client certificate and its key, PEM files. They may be one file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyPair {
    pub key: PathBuf,
    pub cert: PathBuf,
}

/// What a registries.conf says about the repositories below a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixRule {
    /// `host[:port][/path]`, or `*.domain`.
    pub prefix: String,
    /// Takes the prefix's place in the name; empty when the name stays.
    pub location: String,
    pub insecure: bool,
    pub blocked: bool,
    pub mirrors: Vec<PrefixMirror>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixMirror {
    pub location: String,
    pub insecure: bool,
    /// For references with a digest.
    pub by_digest: bool,
    /// For references with a tag alone.
    pub by_tag: bool,
}

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads `ADDRESS/BITS`; `None` when it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Network { address, bits })
    }

    pub fn contains(&self, other: IpAddr) -> bool {
        let wide = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        if self.address.is_ipv4() != other.is_ipv4() {
            return false;
        }
        let mask = u128::MAX
            .checked_shl(128 - u32::from(self.bits))
            .unwrap_or(0);
        wide(self.address) & mask == wide(other) & mask
    }
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
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    pub http: Option<String>,
    pub https: Option<String>,
    /// Hosts, `.domains`, addresses, networks, each with a port if wanted, or `*`; divided by commas.
    pub no_proxy: Option<String>,
}

/// A proxy's URL may hold a login.
impl fmt::Debug for ProxyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyConfig")
            .field("no_proxy", &self.no_proxy)
            .finish_non_exhaustive()
    }
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
    /// Bytes of one request when a registry refuses a blob in one piece.
    pub upload_chunk: u64,
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
            // Below the usual limit of 1 MB of front ends that limit at all, and GHCR's 4 MiB.
            upload_chunk: 1_000_000,
        }
    }
}

/// Every string of a list; `None` when it is no list of strings.
pub(crate) fn strings(value: &toml::Value) -> Option<Vec<String>> {
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
    fn networks_hold_the_addresses_that_share_their_bits() {
        let network = Network::parse("10.1.0.0/16").unwrap();
        assert!(network.contains("10.1.255.1".parse().unwrap()));
        assert!(!network.contains("10.2.0.1".parse().unwrap()));
        assert!(!network.contains("::1".parse().unwrap()));
        let all = Network::parse("0.0.0.0/0").unwrap();
        assert!(all.contains("192.0.2.1".parse().unwrap()));
        let one = Network::parse("2001:db8::1/128").unwrap();
        assert!(one.contains("2001:db8::1".parse().unwrap()));
        for wrong in ["10.1.0.0", "10.1.0.0/33", "x/8", "::/129"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn debug_forms_hide_headers_and_proxy_logins() {
        let header = Header {
            name: "Authorization".into(),
            value: "hunter2".into(),
        };
        let proxy = ProxyConfig {
            http: Some("http://u:hunter2@proxy:1".into()),
            ..ProxyConfig::default()
        };
        let text = format!("{header:?} {proxy:?}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
