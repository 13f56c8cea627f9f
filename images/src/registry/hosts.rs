//! Which hosts serve a reference, in order, and the one HTTP client that each of them has.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use reqwest::Url;
use tokio::sync::Semaphore;

use super::auth::Token;
use super::challenge::Challenge;
use super::config::{HostConfig, RegistriesConfig};
use super::credentials::Credential;
use super::error::HostError;
use super::tls::{HostTls, TrustStore};
use crate::reference::{HUB, Reference, api_host};

/// One place to ask for a reference.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) client: Arc<HostClient>,
    /// The mirror's path in front of the repository, without slashes at the ends.
    pub(crate) prefix: String,
    /// The namespace that a mirror is told to stand in for.
    pub(crate) namespace: Option<String>,
}

impl Endpoint {
    pub(crate) fn is_mirror(&self) -> bool {
        self.namespace.is_some()
    }

    /// The repository as this host knows it.
    pub(crate) fn repository(&self, reference: &Reference) -> String {
        match self.prefix.as_str() {
            "" => reference.path().to_owned(),
            prefix => format!("{prefix}/{}", reference.path()),
        }
    }

    /// `/v2/<repository>/<tail>` on this host.
    pub(crate) fn url(&self, reference: &Reference, tail: &str) -> Result<Url, HostError> {
        let text = format!(
            "{}/v2/{}/{tail}",
            self.client.base(),
            self.repository(reference)
        );
        let mut url = Url::parse(&text).map_err(|e| HostError::Config(format!("{text}: {e}")))?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }
}

const UNDECIDED: u8 = 0;
const TLS: u8 = 1;
const PLAIN: u8 = 2;

/// A host: its connections, what it asked for, what is known about its oddities.
pub(crate) struct HostClient {
    /// `host[:port]`.
    pub(crate) host: String,
    pub(crate) http: reqwest::Client,
    /// For large bodies that we send: waiting for the answer begins before the body is out.
    pub(crate) upload: reqwest::Client,
    pub(crate) tls: HostTls,
    pub(crate) config: HostConfig,
    /// Plain HTTP is allowed here, also when TLS was tried.
    pub(crate) may_be_plain: bool,
    scheme: AtomicU8,
    pub(crate) challenge: Mutex<Option<Challenge>>,
    /// By login and scopes: a token is never used for another login than its own.
    pub(crate) tokens: tokio::sync::Mutex<HashMap<(Option<Credential>, String), Token>>,
    pub(crate) pinged: AtomicBool,
    pub(crate) head_unreliable: AtomicBool,
    failed: Mutex<Option<(Instant, HostError)>>,
    pub(crate) blobs: Arc<Semaphore>,
}

impl HostClient {
    /// `http://` or `https://` and the host.
    pub(crate) fn base(&self) -> String {
        let scheme = if self.is_plain() { "http" } else { "https" };
        format!("{scheme}://{}", self.host)
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.scheme.load(Ordering::Relaxed) == PLAIN
    }

    /// TLS did not work out and plain HTTP is allowed: remembered. False when nothing changed.
    pub(crate) fn fall_back_to_plain(&self) -> bool {
        self.may_be_plain
            && self
                .scheme
                .compare_exchange(UNDECIDED, PLAIN, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    pub(crate) fn has_port(&self) -> bool {
        split_port(&self.host).1.is_some()
    }

    /// The failure that still keeps this host from being asked.
    pub(crate) fn recent_failure(&self, config: &RegistriesConfig) -> Option<HostError> {
        let failed = self.failed.lock().unwrap_or_else(|e| e.into_inner());
        match &*failed {
            Some((when, error)) if when.elapsed() < config.limits.skip_failed_host => {
                Some(error.clone())
            }
            _ => None,
        }
    }

    pub(crate) fn remember_failure(&self, error: &HostError) {
        *self.failed.lock().unwrap_or_else(|e| e.into_inner()) =
            Some((Instant::now(), error.clone()));
    }
}

/// All clients, made when first needed.
pub(crate) struct Hosts {
    trust: Arc<TrustStore>,
    clients: Mutex<HashMap<String, Arc<HostClient>>>,
}

impl Hosts {
    pub(crate) fn new(config: &RegistriesConfig) -> Self {
        Hosts {
            trust: TrustStore::shared(&config.system_trust),
            clients: Mutex::default(),
        }
    }

    /// Mirrors in order, then the registry itself. An unusable configuration of one host is that host's attempt.
    pub(crate) fn endpoints(
        &self,
        config: &RegistriesConfig,
        reference: &Reference,
        push: bool,
    ) -> Vec<(String, bool, Result<Endpoint, HostError>)> {
        let domain = reference.domain();
        let own = config
            .hosts
            .get(domain)
            .or_else(|| config.hosts.get(reference.api_host()));
        let mut endpoints = Vec::new();
        for mirror in own.map(|h| h.mirrors.as_slice()).unwrap_or_default() {
            if push {
                break;
            }
            let bare = mirror
                .split_once("://")
                .map_or(mirror.as_str(), |(_, rest)| rest);
            let (host, prefix) = bare.split_once('/').unwrap_or((bare, ""));
            let settings = config.hosts.get(host).cloned().unwrap_or_default();
            let endpoint = self
                .client(config, api_host(host), &settings)
                .map(|client| Endpoint {
                    client,
                    prefix: prefix.trim_matches('/').to_owned(),
                    namespace: Some(domain.to_owned()),
                });
            endpoints.push((host.to_owned(), true, endpoint));
        }
        let settings = own.cloned().unwrap_or_default();
        let endpoint = self
            .client(config, reference.api_host(), &settings)
            .map(|client| Endpoint {
                client,
                prefix: String::new(),
                namespace: None,
            });
        endpoints.push((reference.api_host().to_owned(), false, endpoint));
        endpoints
    }

    /// The client of a host that a registry sent us to: with its own settings, else with those of the registry,
    /// because private registries keep their token service and storage behind the same private CA.
    pub(crate) fn client_for_url(
        &self,
        config: &RegistriesConfig,
        url: &Url,
        from: &HostClient,
    ) -> Result<Arc<HostClient>, HostError> {
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(HostError::Redirect(format!("no host in {}", redacted(url)))),
        };
        let domain = if api_host(HUB) == host { HUB } else { &host };
        match config.hosts.get(domain).or_else(|| config.hosts.get(&host)) {
            Some(settings) => self.client(config, &host, settings),
            None => self.client(
                config,
                &host,
                &HostConfig {
                    mirrors: Vec::new(),
                    ..from.config.clone()
                },
            ),
        }
    }

    /// The client of any host of the web, with that host's own settings if there are some.
    pub(crate) fn web_client(
        &self,
        config: &RegistriesConfig,
        url: &Url,
    ) -> Result<Arc<HostClient>, HostError> {
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(HostError::Config(format!("no host in {}", redacted(url)))),
        };
        let settings = config.hosts.get(&host).cloned().unwrap_or_default();
        self.client(config, &host, &settings)
    }

    fn client(
        &self,
        config: &RegistriesConfig,
        host: &str,
        settings: &HostConfig,
    ) -> Result<Arc<HostClient>, HostError> {
        // The settings are part of the key: a host reached through two registries may be trusted by two sets of files.
        let key = format!(
            "{host} {:?} {:?} {:?}",
            settings.insecure, settings.ca, settings.keypair
        );
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = Arc::new(self.build(config, host, settings)?);
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn build(
        &self,
        config: &RegistriesConfig,
        host: &str,
        settings: &HostConfig,
    ) -> Result<HostClient, HostError> {
        let insecure = settings.insecure == Some(true);
        let loopback = is_loopback(host);
        // Who names certificates for a loopback registry means TLS.
        let certificates = !settings.ca.is_empty() || !settings.keypair.is_empty();
        let plain = settings.http.unwrap_or(loopback && !certificates);
        let scheme = match (plain, insecure) {
            (true, false) => PLAIN,
            (true, true) => UNDECIDED,
            (false, _) => TLS,
        };
        let tls = HostTls::new(settings, &self.trust, insecure)?;
        let http = client(config, &tls, loopback, Some(config.limits.stall))?;
        let upload = client(config, &tls, loopback, None)?;
        Ok(HostClient {
            host: host.to_owned(),
            http,
            upload,
            tls,
            config: settings.clone(),
            may_be_plain: plain,
            scheme: AtomicU8::new(scheme),
            challenge: Mutex::default(),
            tokens: tokio::sync::Mutex::default(),
            pinged: AtomicBool::new(false),
            head_unreliable: AtomicBool::new(false),
            failed: Mutex::default(),
            blobs: Arc::new(Semaphore::new(config.limits.blobs_per_host.max(1))),
        })
    }
}

fn client(
    config: &RegistriesConfig,
    tls: &HostTls,
    loopback: bool,
    stall: Option<std::time::Duration>,
) -> Result<reqwest::Client, HostError> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.config.clone())
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .user_agent(config.user_agent.as_str())
        .connect_timeout(config.limits.connect)
        .tcp_nodelay(true)
        .no_proxy();
    if let Some(stall) = stall {
        builder = builder.read_timeout(stall);
    }
    if let Some(proxy) = config.proxy.as_ref().filter(|_| !loopback) {
        let except = proxy
            .no_proxy
            .as_deref()
            .and_then(reqwest::NoProxy::from_string);
        let wrong = |e: reqwest::Error| HostError::Config(format!("proxy: {}", e.without_url()));
        if let Some(url) = &proxy.http {
            builder = builder.proxy(
                reqwest::Proxy::http(url)
                    .map_err(wrong)?
                    .no_proxy(except.clone()),
            );
        }
        if let Some(url) = &proxy.https {
            builder = builder.proxy(reqwest::Proxy::https(url).map_err(wrong)?.no_proxy(except));
        }
    }
    builder
        .build()
        .map_err(|e| HostError::Config(format!("HTTP client: {e}")))
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// `localhost`, `127.0.0.0/8` and `::1`, which speak plain HTTP unless told otherwise.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = split_port(host).0;
    name == "localhost"
        || name == "[::1]"
        || name
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A URL that may be shown: without user info and without query, but for `ns`.
pub(crate) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // These fail only for URLs without a host, which have nothing to hide.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    let namespace = url
        .query_pairs()
        .find(|(k, _)| k == "ns")
        .map(|(_, v)| v.into_owned());
    match namespace {
        Some(namespace) => {
            shown
                .query_pairs_mut()
                .clear()
                .append_pair("ns", &namespace);
        }
        None => shown.set_query(None),
    }
    shown.to_string()
}
