//! The content of `/etc/hosts` and `/etc/resolv.conf` in a sandbox.

use std::path::Path;

use crate::isolated::NAME_SERVER;
use crate::spec::{Network, ResolvConf, SandboxSpec};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What systemd-resolved itself asks, for hosts that only name its stub.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
const RESOLVED_STUB: &str = "127.0.0.53";

/// Public servers for a network that cannot reach any of the host's, the same
/// as BuildKit's.
const DEFAULT_SERVERS: &str = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n\
    nameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n";

/// `/etc/hosts`, byte for byte as observed in a BuildKit step.
pub(crate) fn hosts(spec: &SandboxSpec) -> Vec<u8> {
    let mut text = format!(
        "127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        spec.hostname()
    );
    for (host, address) in &spec.extra_hosts {
        text.push_str(&format!("{address}\t{host}\n"));
    }
    text.into_bytes()
}

/// `/etc/resolv.conf`; `None` leaves the root's.
pub(crate) fn resolv_conf(spec: &SandboxSpec) -> Option<Vec<u8>> {
    match &spec.resolv_conf {
        ResolvConf::Untouched => None,
        ResolvConf::Given(content) => Some(content.clone()),
        ResolvConf::Host => {
            // A host without the file has no name servers to offer.
            let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
            let mut text = read(RESOLV_CONF);
            if nameservers(&text).eq([RESOLVED_STUB]) {
                text = read(RESOLVED_CONF);
            }
            Some(for_network(&text, &spec.network).into_bytes())
        }
    }
}

fn nameservers(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .map(str::trim)
}

/// The host's own loopback is somebody else's in another network.
fn for_network(text: &str, network: &Network) -> String {
    if *network == Network::Host {
        return text.to_owned();
    }
    let is_loopback =
        |line: &str| nameservers(line).any(|server| server.starts_with("127.") || server == "::1");
    let mut kept: String = text
        .lines()
        .filter(|line| !is_loopback(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    if nameservers(&kept).next().is_none() {
        match network {
            Network::Isolated => kept.push_str(&format!("nameserver {NAME_SERVER}\n")),
            _ => kept.push_str(DEFAULT_SERVERS),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Root;

    fn spec() -> SandboxSpec {
        let root = Root::Dir {
            path: "/".into(),
            readonly: true,
        };
        SandboxSpec::new(root, Vec::new())
    }

    #[test]
    fn hosts_has_the_default_name_and_the_extra_hosts() {
        let mut spec = spec();
        spec.extra_hosts = vec![("db".into(), "10.1.2.3".into())];
        assert_eq!(
            String::from_utf8(hosts(&spec)).expect("text"),
            "127.0.0.1\tlocalhost buildkitsandbox\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             10.1.2.3\tdb\n"
        );
    }

    #[test]
    fn the_host_network_gets_the_file_as_it_is() {
        let text = "# c\nnameserver 127.0.0.1\n";
        assert_eq!(for_network(text, &Network::Host), text);
    }

    #[test]
    fn another_network_gets_no_loopback_server() {
        let text = "search x\nnameserver 127.0.0.1\nnameserver 10.0.0.1\n";
        assert_eq!(
            for_network(text, &Network::None),
            "search x\nnameserver 10.0.0.1\n"
        );
        let alone = for_network("nameserver ::1\n", &Network::None);
        assert_eq!(alone, DEFAULT_SERVERS);
        let helper = for_network("nameserver 127.0.0.1\n", &Network::Isolated);
        assert_eq!(helper, "nameserver 10.0.2.3\n");
    }
}
