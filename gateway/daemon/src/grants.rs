//! What the builds of which client may be granted: by the daemon's configuration, before a client's own wish counts.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::peer::{Credentials, Peer};

const HOST_NETWORK: &str = "network.host";
const INSECURE: &str = "security.insecure";
const DEVICE: &str = "device";

/// What a build may do only if it is granted. Written as clients write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entitlement {
    /// `network.host`
    HostNetwork,
    /// `security.insecure`
    Insecure,
    /// `device`: all of them; `device=NAME`: this one, or those of this kind.
    Device(Option<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown entitlement {0:?}: network.host, security.insecure, device and device=NAME are known"
)]
pub struct UnknownEntitlement(String);

impl FromStr for Entitlement {
    type Err = UnknownEntitlement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            HOST_NETWORK => return Ok(Entitlement::HostNetwork),
            INSECURE => return Ok(Entitlement::Insecure),
            DEVICE => return Ok(Entitlement::Device(None)),
            _ => {}
        }
        let name = text.strip_prefix(DEVICE).and_then(|r| r.strip_prefix('='));
        // What follows a comma is how a build calls the device, which is the build's to say.
        match name.filter(|name| !name.is_empty() && !name.contains(',')) {
            Some(name) => Ok(Entitlement::Device(Some(name.to_owned()))),
            None => Err(UnknownEntitlement(text.to_owned())),
        }
    }
}

impl Entitlement {
    /// Whether a build that asks for this, in the words of clients, asks for no more than is granted.
    fn covers(&self, wanted: &str) -> bool {
        let device = wanted
            .strip_prefix(DEVICE)
            .and_then(|rest| rest.strip_prefix('='));
        match self {
            Entitlement::HostNetwork => wanted == HOST_NETWORK,
            Entitlement::Insecure => wanted == INSECURE,
            Entitlement::Device(None) => wanted == DEVICE || device.is_some(),
            Entitlement::Device(Some(granted)) => device.is_some_and(|device| {
                let name = device.split(',').next().unwrap_or_default();
                let kind = name.split('=').next().unwrap_or_default();
                [name, kind].contains(&granted.as_str())
            }),
        }
    }
}

/// The SHA-256 of a client certificate, as it is transferred (DER).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no fingerprint: write the 64 hexadecimal digits of the certificate's SHA-256, with or without colons \
     (openssl x509 -noout -fingerprint -sha256 -in FILE)"
)]
pub struct NoFingerprint(String);

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let prefix = "sha256:";
        let digits = match text.get(..prefix.len()) {
            Some(start) if start.eq_ignore_ascii_case(prefix) => text.get(prefix.len()..),
            _ => Some(text),
        };
        let digits = digits.unwrap_or_default().replace(':', "");
        match digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(Fingerprint(digits.to_ascii_lowercase())),
            false => Err(NoFingerprint(text.to_owned())),
        }
    }
}

/// A name that a client certificate has: `CN=…` of its subject, or an alternative name as `DNS:…`, `URI:…`, `email:…`
/// or `IP:…`. Names of hosts in any case of letters, all others to the letter; nothing stands for many.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a certificate: write CN=NAME, DNS:NAME, URI:NAME, email:NAME or IP:ADDRESS"
)]
pub struct NoCertificateName(String);

impl FromStr for CertificateName {
    type Err = NoCertificateName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NoCertificateName(text.to_owned());
        let (kind, name) = text.split_once([':', '=']).ok_or_else(wrong)?;
        let separator = text.get(kind.len()..=kind.len());
        let name = match (kind, separator) {
            ("CN", Some("=")) | ("URI" | "email", Some(":")) if !name.is_empty() => text.to_owned(),
            ("DNS", Some(":")) if !name.is_empty() && !name.contains('*') => {
                text.to_ascii_lowercase().replacen("dns", "DNS", 1)
            }
            ("IP", Some(":")) => {
                let address: std::net::IpAddr = name.parse().map_err(|_| wrong())?;
                format!("IP:{address}")
            }
            _ => return Err(wrong()),
        };
        Ok(CertificateName(name))
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Some clients, and what their builds may be granted. A client that any of the lists names is meant.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// User ids, as this process sees them.
    pub users: BTreeSet<u32>,
    /// Group ids, as this process sees them: any of the groups that a client's process has.
    pub groups: BTreeSet<u32>,
    pub certificates: BTreeSet<Fingerprint>,
    pub names: BTreeSet<CertificateName>,
    pub entitlements: Vec<Entitlement>,
}

impl Rule {
    fn means(&self, peer: &Peer, credentials: &Credentials) -> bool {
        let who = match peer {
            Peer::User(user) => self.users.contains(user),
            Peer::Certificate(digest) => {
                let mut certificates = self.certificates.iter();
                certificates.any(|certificate| certificate.0 == *digest)
            }
            Peer::Anyone => false,
        };
        let of = |group| self.groups.contains(group);
        who || credentials.groups.iter().any(of)
            || credentials.names.iter().any(|name| {
                // What is written in a certificate and is no name here can be meant by nobody.
                name.parse().is_ok_and(|name| self.names.contains(&name))
            })
    }
}

/// Who may be granted what.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// The first that means a client counts, and no other.
    pub rules: Vec<Rule>,
    /// Of clients that no rule means.
    pub others: Vec<Entitlement>,
}

/// What the builds of one client may be granted. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Granted(Arc<[Entitlement]>);

impl Grants {
    pub(crate) fn of(&self, peer: &Peer, credentials: &Credentials) -> Granted {
        let mut rules = self.rules.iter();
        let rule = rules.find(|rule| rule.means(peer, credentials));
        let entitlements = rule.map_or(&self.others, |rule| &rule.entitlements);
        Granted(entitlements.as_slice().into())
    }
}

impl Granted {
    pub(crate) fn covers(&self, wanted: &str) -> bool {
        self.0.iter().any(|entitlement| entitlement.covers(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entitlements(texts: &[&str]) -> Vec<Entitlement> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn p39_an_entitlement_covers_what_clients_ask_for_and_no_more() {
        for (granted, wanted, covered) in [
            ("network.host", "network.host", true),
            ("network.host", "security.insecure", false),
            ("network.host", "network.host=x", false),
            ("security.insecure", "security.insecure", true),
            ("device", "device", true),
            ("device", "device=v.com/gpu=0", true),
            ("device", "devices", false),
            ("device=v.com/gpu=0", "device", false),
            ("device=v.com/gpu=0", "device=v.com/gpu", false),
            ("device=v.com/gpu=0", "device=v.com/gpu=0", true),
            ("device=v.com/gpu=0", "device=v.com/gpu=0,alias=g", true),
            (
                "device=v.com/gpu=0",
                "device=v.com/gpu=1,alias=v.com/gpu=0",
                false,
            ),
            ("device=v.com/gpu", "device=v.com/gpu=1", true),
            ("device=v.com/gpu", "device=v.com/gpus=1", false),
            ("network.host", "device", false),
        ] {
            let entitlement: Entitlement = granted.parse().unwrap();
            assert_eq!(entitlement.covers(wanted), covered, "{granted} {wanted}");
        }
        for wrong in ["", "network", "device=", "device=a,alias=b", "Network.Host"] {
            let error = wrong.parse::<Entitlement>().unwrap_err().to_string();
            assert!(error.contains("network.host, security.insecure"), "{error}");
        }
    }

    #[test]
    fn p39_the_first_rule_that_means_a_client_counts_and_others_get_what_is_for_all() {
        let digits = "ab".repeat(32);
        let grants = Grants {
            rules: vec![
                Rule {
                    users: [7].into(),
                    ..Rule::default()
                },
                Rule {
                    users: [8].into(),
                    groups: [50].into(),
                    entitlements: entitlements(&["security.insecure"]),
                    ..Rule::default()
                },
                Rule {
                    certificates: [digits.parse().unwrap()].into(),
                    names: ["DNS:ci.example".parse().unwrap(), "CN=Ci".parse().unwrap()].into(),
                    entitlements: entitlements(&["device"]),
                    ..Rule::default()
                },
            ],
            others: entitlements(&["network.host"]),
        };
        let user = |user, groups: &[u32]| {
            let credentials = Credentials {
                groups: groups.to_vec(),
                names: Vec::new(),
            };
            grants.of(&Peer::User(user), &credentials)
        };
        let holder = |digest: &str, names: &[&str]| {
            let credentials = Credentials {
                groups: Vec::new(),
                names: names.iter().map(|name| (*name).to_owned()).collect(),
            };
            grants.of(&Peer::Certificate(digest.to_owned()), &credentials)
        };
        let anyone = grants.of(&Peer::Anyone, &Credentials::default());
        for (who, granted, expected) in [
            ("of no rule", user(9, &[9]), [true, false, false]),
            ("granted nothing", user(7, &[]), [false; 3]),
            ("of a later rule too", user(7, &[50]), [false; 3]),
            ("by id", user(8, &[]), [false, true, false]),
            ("by group", user(9, &[9, 50]), [false, true, false]),
            (
                "an id that is a group's",
                user(50, &[]),
                [true, false, false],
            ),
            ("by fingerprint", holder(&digits, &[]), [false, false, true]),
            (
                "by name",
                holder("00", &["DNS:CI.example"]),
                [false, false, true],
            ),
            ("by subject", holder("00", &["CN=Ci"]), [false, false, true]),
            (
                "another subject",
                holder("00", &["CN=ci"]),
                [true, false, false],
            ),
            (
                "another kind",
                holder("00", &["email:ci.example"]),
                [true, false, false],
            ),
            (
                "a fingerprint as name",
                holder("00", &[&digits]),
                [true, false, false],
            ),
            ("nobody known", anyone, [true, false, false]),
        ] {
            let found = ["network.host", "security.insecure", "device"];
            assert_eq!(
                found.map(|wanted| granted.covers(wanted)),
                expected,
                "{who}"
            );
        }
    }

    #[test]
    fn p39_fingerprints_are_read_as_openssl_and_others_write_them() {
        let plain = "0a".repeat(32);
        let colons = vec!["0A"; 32].join(":");
        for text in [
            &plain,
            &colons,
            &format!("sha256:{plain}"),
            &format!("SHA256:{colons}"),
        ] {
            assert_eq!(text.parse::<Fingerprint>().unwrap().0, plain);
        }
        for text in [
            "",
            "sha256:",
            "ab",
            &format!("{plain}0a"),
            &"zz".repeat(32),
            "ü",
        ] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }

    #[test]
    fn p39_names_of_certificates_say_what_they_are_names_of() {
        for (text, name) in [
            ("CN=Build Bot", "CN=Build Bot"),
            ("DNS:CI.Example", "DNS:ci.example"),
            ("URI:spiffe://a/b=c", "URI:spiffe://a/b=c"),
            ("email:A@b.example", "email:A@b.example"),
            ("IP:::1", "IP:::1"),
            ("IP:10.0.0.1", "IP:10.0.0.1"),
        ] {
            let parsed: CertificateName = text.parse().unwrap();
            assert_eq!(parsed.to_string(), name);
        }
        for text in [
            "ci",
            "CN:ci",
            "DNS=ci",
            "DNS:*.example",
            "CN=",
            "IP:x",
            "O=us",
            "",
        ] {
            assert!(text.parse::<CertificateName>().is_err(), "{text}");
        }
    }
}
