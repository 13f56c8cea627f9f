//! Registries: resolving references, fetching manifests and blobs, pushing; over TLS, with logins, through mirrors.
//!
//! Written on a plain HTTP client because the details are the product: which certificate was refused and why, which
//! mirror was passed over, and the oddities of registries that must work nevertheless. Called by whoever needs an image.

mod auth;
mod blob;
mod challenge;
pub mod config;
pub mod credentials;
mod documents;
pub mod error;
mod fetch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hosts;
mod page;
mod push;
mod resolve;
mod tls;
mod transport;
mod web;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

pub use blob::{BlobStream, blob_reader};
pub use config::{
    HostConfig, KeyPair, Limits, ProxyConfig, RegistriesConfig, SystemTrust, add_certificate_dir,
    add_certs_d, parse_buildkitd_toml,
};
pub use credentials::{Anonymous, Credential, Credentials, DockerConfig, FixedCredentials, Login};
pub use error::{Attempt, HostError, Kind, RegistryError, TransportError};
pub use page::{error_json, error_page};
pub use push::{BlobSource, Pushed, SourceFuture, SourceReader};
pub use resolve::{PulledImageMeta, Resolved};
pub use web::{WebLogin, WebRequest, WebResponse, shown_url};

use crate::digest::Digest;
use hosts::Hosts;

/// The client of all registries. Cheap to clone; clones share connections, tokens and what is known about hosts.
#[derive(Clone)]
pub struct Registries(Arc<Inner>);

pub(crate) struct Inner {
    config: RegistriesConfig,
    hosts: Arc<Hosts>,
    /// Hosts that served wrong bytes for a digest: not asked for it again.
    bad_blobs: Arc<Mutex<HashSet<(String, Digest)>>>,
}

impl Registries {
    /// Reads no file and opens no connection: a host's files are read when the host is first used.
    pub fn new(config: RegistriesConfig) -> Self {
        let hosts = Arc::new(Hosts::new(&config));
        Registries(Arc::new(Inner {
            config,
            hosts,
            bad_blobs: Arc::default(),
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
        }))
    }
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registries")
            .field("hosts", &self.0.config.hosts)
            .finish_non_exhaustive()
    }
}
