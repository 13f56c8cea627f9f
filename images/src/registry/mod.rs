//! Registries: resolving references, fetching manifests and blobs, pushing; over TLS, with logins, through mirrors.
//!
//! Written on a plain HTTP client because the details are the product: which certificate was refused and why, which
//! mirror was passed over, and the oddities of registries that must work nevertheless. Called by whoever needs an image.

mod auth;
mod authority;
mod blob;
mod challenge;
mod check;
pub mod config;
pub mod credentials;
mod documents;
mod encoding;
pub mod error;
mod fetch;
mod foreign;
#[doc(hidden)]
pub mod fuzzing;
mod hosts;
mod login;
mod login_file;
mod measure;
mod page;
mod proxy;
mod push;
mod quirks;
mod referrers;
mod resolve;
mod tls;
mod transport;
mod web;
mod whole;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

pub use authority::{AuthorityFuture, GivenToken, TokenAuthority, TokenFuture, TokenRequest};
pub use blob::{BlobStream, blob_reader};
pub use check::{Check, CheckOptions, CheckStep, Verdict};
pub use config::{
    Header, HostConfig, KeyPair, Limits, Mirror, MirrorPath, Network, PrefixMirror, PrefixRule,
    ProxyConfig, RegistriesConfig, SystemTrust, add_certificate_dir, add_certs_d, add_daemon_json,
    add_hosts_dir, parse_buildkitd_toml, parse_hosts_toml, parse_registries_conf, unused_tables,
};
pub use credentials::{
    Anonymous, Credential, Credentials, DockerConfig, FirstOf, FixedCredentials, Login, LoginFuture,
};
pub use error::{Attempt, HostError, Kind, RegistryError, TransportError};
pub use login_file::{LoginPlace, forget_login, keep_login};
pub use page::{error_json, error_page};
pub use push::{BlobSource, PushOptions, Pushed, SourceFuture, SourceReader};
pub use quirks::Quirk;
pub use resolve::{PulledImageMeta, Resolved};
pub use tls::client_config;
pub use web::{WebCall, WebLogin, WebRequest, WebResponse, shown_url};
pub use whole::RegistrySource;

use crate::digest::Digest;
use hosts::{HostClient, Hosts};
use quirks::Notices;

/// The client of all registries. Cheap to clone; clones share connections, tokens and what is known about hosts.
#[derive(Clone)]
pub struct Registries(Arc<Inner>);

pub(crate) struct Inner {
    config: RegistriesConfig,
    hosts: Arc<Hosts>,
    /// Hosts that served wrong bytes for a digest: not asked for it again.
    bad_blobs: Arc<Mutex<HashSet<(String, Digest)>>>,
    /// What the user should hear, once for each login.
    notices: Notices,
}

impl Registries {
    /// Reads no file and opens no connection: a host's files are read when the host is first used.
    pub fn new(config: RegistriesConfig) -> Self {
        let hosts = Arc::new(Hosts::new(&config));
        Registries(Arc::new(Inner {
            config,
            hosts,
            bad_blobs: Arc::default(),
            notices: Notices::default(),
        }))
    }

    /// The same hosts and connections for somebody with other logins. Tokens are never shared between logins.
    pub fn with_credentials(&self, credentials: Arc<dyn Credentials>) -> Self {
        Registries(Arc::new(Inner {
            config: RegistriesConfig {
                credentials,
                ..self.0.config.clone()
            },
            hosts: self.0.hosts.clone(),
            bad_blobs: self.0.bad_blobs.clone(),
            notices: Notices::default(),
        }))
    }

    /// The same with one registry believed whatever its certificate is, and plain HTTP where it has none
    /// (`registry.insecure` of the exporters).
    pub fn with_insecure(&self, domain: &str) -> Self {
        let mut config = self.0.config.clone();
        let host = config.hosts.entry(domain.to_owned()).or_default();
        (host.insecure, host.http) = (Some(true), Some(true));
        Registries(Arc::new(Inner {
            config,
            hosts: self.0.hosts.clone(),
            bad_blobs: self.0.bad_blobs.clone(),
            notices: Notices::default(),
        }))
    }
}

impl Registries {
    /// What the user should hear and has not heard yet: mirrors passed over, oddities tolerated. Each line comes once.
    pub fn take_notices(&self) -> Vec<String> {
        self.0.notices.take()
    }

    /// No registry may be asked.
    pub fn is_offline(&self) -> bool {
        self.0.config.offline
    }

    /// The oddities of a host (`host[:port]`) that have shown so far.
    pub fn quirks_of(&self, host: &str) -> Vec<Quirk> {
        let used = self.0.hosts.used();
        let mut quirks: Vec<Quirk> = used
            .iter()
            .filter(|client| client.host == host)
            .flat_map(|client| client.quirks.all())
            .collect();
        quirks.sort();
        quirks.dedup();
        quirks
    }
}

impl Inner {
    /// Remembers an oddity, and tells it.
    fn quirk(&self, client: &HostClient, quirk: Quirk) {
        if quirk.is_told() {
            self.notices.add(quirk.notice(&client.host));
        }
        client.quirks.add(quirk);
    }
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registries")
            .field("hosts", &self.0.config.hosts)
            .finish_non_exhaustive()
    }
}
