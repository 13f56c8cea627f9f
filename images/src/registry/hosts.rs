//! Which hosts serve a reference, in order, and the one HTTP client that each of them has.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Semaphore;

use super::auth::{Token, TokenKey};
use super::challenge::Challenge;
use super::config::{HostConfig, Mirror, MirrorPath, PrefixRule, RegistriesConfig};
use super::error::HostError;
use super::proxy::{self, proxy_for};
use super::quirks::Quirks;
use super::tls::{HostTls, TrustStore};
use crate::digest::Digest;
use crate::reference::{HUB, Reference, api_host};

/// What a host is asked for: not every mirror serves everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What a tag names.
    Resolve,
    /// Content by digest.
    Fetch,
    Push,
}

/// One place to ask for a reference.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) client: Arc<HostClient>,
    /// The path of the API, without a slash at its end: `/v2`, and a mirror's own path.
    pub(crate) root: String,
    /// Put in front of the repository by a mirror that keeps several registries apart.
    prefix: String,
    /// The repository on this host, when it is another than the reference's.
    renamed: Option<String>,
    /// The namespace that a mirror is told to stand in for.
    namespace: Option<String>,
    /// Which of how many mirrors; `None` for the registry itself.
    pub(crate) mirror: Option<(usize, usize)>,
}

impl Endpoint {
    pub(crate) fn is_mirror(&self) -> bool {
        self.mirror.is_some()
    }

    /// The repository as this host knows it.
    pub(crate) fn repository(&self, reference: &Reference) -> String {
        match (&self.renamed, self.prefix.as_str()) {
            (Some(renamed), _) => renamed.clone(),
            (None, "") => reference.path().to_owned(),
            (None, prefix) => format!("{prefix}/{}", reference.path()),
        }
    }

    /// `/v2/<repository>/<tail>` on this host.
    pub(crate) fn url(&self, reference: &Reference, tail: &str) -> Result<Url, HostError> {
        let text = format!(
            "{}{}/{}/{tail}",
            self.client.base(),
            self.root,
            self.repository(reference)
        );
        let mut url = Url::parse(&text).map_err(|e| HostError::Config(format!("{text}: {e}")))?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }
}

/// A place to ask, or why it cannot be.
pub(crate) struct Candidate {
    pub(crate) host: String,
    pub(crate) mirror: Option<(usize, usize)>,
    pub(crate) endpoint: Result<Endpoint, HostError>,
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
    /// A token is never used for another login than its own.
    pub(crate) tokens: tokio::sync::Mutex<HashMap<TokenKey, Token>>,
    /// Fetches by authorities that are under way, each of which may take as long as it likes.
    pub(crate) turns: Mutex<HashMap<TokenKey, Weak<tokio::sync::Mutex<()>>>>,
    pub(crate) pinged: AtomicBool,
    pub(crate) head_unreliable: AtomicBool,
    failed: Mutex<Option<(Instant, HostError)>>,
    pub(crate) blobs: Arc<Semaphore>,
    pub(crate) quirks: Quirks,
    /// The URLs of the proxies that requests go through, for http and https. They may hold logins.
    proxies: [Option<String>; 2],
    /// The same as `host:port`.
    proxies_shown: [Option<String>; 2],
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

    /// Through which proxy a URL of this host is asked, `host:port`.
    pub(crate) fn proxy(&self, url: &Url) -> Option<&str> {
        self.proxies_shown[usize::from(url.scheme() == "https")].as_deref()
    }

    /// The URL of that proxy, with its login.
    pub(crate) fn proxy_url(&self) -> Option<&str> {
        self.proxies[usize::from(!self.is_plain())].as_deref()
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
    /// A host reached through two registries may be trusted by two sets of files.
    clients: Mutex<HashMap<(String, HostConfig), Arc<HostClient>>>,
    /// Repositories that have a blob, by host and digest, as far as this process saw.
    seen: Mutex<HashMap<(String, Digest), BTreeSet<String>>>,
}

/// Blobs and repositories that are remembered.
const MOST_SEEN: usize = 20_000;
const MOST_REPOSITORIES: usize = 8;

/// What is configured for a namespace or host.
pub(crate) fn settings_of(config: &RegistriesConfig, domain: &str) -> HostConfig {
    let own = config
        .hosts
        .get(domain)
        .or_else(|| config.hosts.get(api_host(domain)));
    match (own, &config.default_host) {
        (Some(own), _) => own.clone(),
        (None, Some(default)) => default.clone(),
        (None, None) => HostConfig::default(),
    }
}

impl Hosts {
    pub(crate) fn new(config: &RegistriesConfig) -> Self {
        Hosts {
            trust: TrustStore::shared(&config.system_trust),
            clients: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Remembers that a repository of a host has a blob.
    pub(crate) fn seen_in(&self, host: &str, repository: &str, digest: &Digest) {
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        let key = (host.to_owned(), digest.clone());
        if seen.len() >= MOST_SEEN && !seen.contains_key(&key) {
            return;
        }
        let repositories = seen.entry(key).or_default();
        if repositories.len() < MOST_REPOSITORIES {
            repositories.insert(repository.to_owned());
        }
    }

    pub(crate) fn repositories_with(&self, host: &str, digest: &Digest) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        let found = seen.get(&(host.to_owned(), digest.clone()));
        found.into_iter().flatten().cloned().collect()
    }

    /// Mirrors in order, then the registry itself. An unusable configuration of one host is that host's attempt.
    pub(crate) fn endpoints(
        &self,
        config: &RegistriesConfig,
        reference: &Reference,
        purpose: Purpose,
    ) -> Vec<Candidate> {
        let name = reference.name();
        let rule = config
            .rules
            .iter()
            .filter_map(|rule| Some((rule.covers(&name)?, rule)))
            .max_by_key(|(covered, _)| *covered);
        if let Some((_, rule)) = rule {
            return self.ruled(config, reference, rule, purpose);
        }
        let own = settings_of(config, reference.domain());
        let mirrors: Vec<&Mirror> = own
            .mirrors
            .iter()
            .filter(|mirror| match purpose {
                Purpose::Resolve => mirror.resolve && mirror.pull,
                Purpose::Fetch => mirror.pull,
                Purpose::Push => mirror.push,
            })
            .collect();
        let count = mirrors.len();
        let mut candidates: Vec<Candidate> = mirrors
            .into_iter()
            .enumerate()
            .map(|(at, mirror)| {
                let mut candidate = self.mirror(config, mirror, Some((at + 1, count)));
                if let Ok(endpoint) = &mut candidate.endpoint {
                    endpoint.namespace = Some(reference.domain().to_owned());
                }
                candidate
            })
            .collect();
        // A push goes to one place: a mirror only when it is named for that.
        if own.fallback == Some(false) && purpose != Purpose::Push {
            return candidates;
        }
        candidates.push(match &own.server {
            Some(server) => self.mirror(config, server, None),
            None => {
                let host = reference.api_host().to_owned();
                let endpoint = self.client(config, &host, &own).map(plain_endpoint);
                Candidate {
                    host,
                    mirror: None,
                    endpoint,
                }
            }
        });
        candidates
    }

    fn mirror(
        &self,
        config: &RegistriesConfig,
        mirror: &Mirror,
        place: Option<(usize, usize)>,
    ) -> Candidate {
        let settings = match &mirror.settings {
            Some(own) => merged(own, config.hosts.get(&mirror.host)),
            None => settings_by_host(config, &mirror.host),
        };
        let endpoint = self
            .client(config, api_host(&mirror.host), &settings)
            .map(|client| {
                let (root, prefix) = match &mirror.path {
                    MirrorPath::Prefix(prefix) => ("/v2".to_owned(), prefix.clone()),
                    MirrorPath::Instead(root) => (root.clone(), String::new()),
                };
                Endpoint {
                    root,
                    prefix,
                    mirror: place,
                    ..plain_endpoint(client)
                }
            });
        Candidate {
            host: mirror.host.clone(),
            mirror: place,
            endpoint,
        }
    }

    /// The hosts of a rule of registries.conf: names are rewritten, and nobody is told of the original.
    fn ruled(
        &self,
        config: &RegistriesConfig,
        reference: &Reference,
        rule: &PrefixRule,
        purpose: Purpose,
    ) -> Vec<Candidate> {
        let name = reference.name();
        if rule.blocked {
            let why = format!(
                "blocked by the rule for {:?} in registries.conf",
                rule.prefix
            );
            return vec![Candidate {
                host: reference.api_host().to_owned(),
                mirror: None,
                endpoint: Err(HostError::Config(why)),
            }];
        }
        let pinned = reference.digest().is_some();
        let fits = |m: &&super::config::PrefixMirror| {
            purpose != Purpose::Push && if pinned { m.by_digest } else { m.by_tag }
        };
        let mirrors: Vec<_> = rule.mirrors.iter().filter(fits).collect();
        let count = mirrors.len();
        let places = mirrors.iter().enumerate().map(|(at, mirror)| {
            (
                Some((at + 1, count)),
                mirror.location.as_str(),
                mirror.insecure,
            )
        });
        places
            .chain([(None, rule.location.as_str(), rule.insecure)])
            .filter_map(|(place, location, insecure)| {
                let full = rule.moved(&name, location)?;
                let (domain, path) = full.split_once('/')?;
                let mut settings = settings_by_host(config, domain);
                if insecure {
                    settings.insecure.get_or_insert(true);
                    settings.http.get_or_insert(true);
                }
                let host = api_host(domain).to_owned();
                let endpoint = self
                    .client(config, &host, &settings)
                    .map(|client| Endpoint {
                        renamed: Some(path.to_owned()),
                        mirror: place,
                        ..plain_endpoint(client)
                    });
                Some(Candidate {
                    host,
                    mirror: place,
                    endpoint,
                })
            })
            .collect()
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
            None => self.client(config, &host, &from.config.for_other_host()),
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

    /// Every host that was used.
    pub(crate) fn used(&self) -> Vec<Arc<HostClient>> {
        let clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        clients.values().cloned().collect()
    }

    fn client(
        &self,
        config: &RegistriesConfig,
        host: &str,
        settings: &HostConfig,
    ) -> Result<Arc<HostClient>, HostError> {
        let mut settings = HostConfig {
            mirrors: Vec::new(),
            server: None,
            ..settings.clone()
        };
        if let Ok(address) = split_port(host)
            .0
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            && config.insecure_networks.iter().any(|n| n.contains(address))
        {
            settings.insecure.get_or_insert(true);
            settings.http.get_or_insert(true);
        }
        let key = (host.to_owned(), settings);
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = Arc::new(self.build(config, host, &key.1)?);
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn build(
        &self,
        config: &RegistriesConfig,
        host: &str,
        settings: &HostConfig,
    ) -> Result<HostClient, HostError> {
        if let Some(problem) = &settings.broken {
            return Err(HostError::Config(problem.clone()));
        }
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
        let certs_dir = config
            .certs_dirs
            .first()
            .map(|dir| dir.join(if host == api_host(HUB) { HUB } else { host }));
        let tls = HostTls::new(settings, &self.trust, insecure, certs_dir)?;
        let mut proxies = [None, None];
        let mut shown = [None, None];
        if let Some(proxy) = &config.proxy {
            let (name, port) = split_port(host);
            let port = port.and_then(|port| port.parse::<u16>().ok());
            for (at, (scheme, default)) in [("http", 80), ("https", 443)].into_iter().enumerate() {
                let through = proxy_for(proxy, scheme, name, port.unwrap_or(default));
                shown[at] = through.map(proxy::shown);
                proxies[at] = through;
            }
        }
        let http = client(config, settings, &tls, proxies, Some(config.limits.stall))?;
        let upload = client(config, settings, &tls, proxies, None)?;
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
            turns: Mutex::default(),
            pinged: AtomicBool::new(false),
            head_unreliable: AtomicBool::new(false),
            failed: Mutex::default(),
            blobs: Arc::new(Semaphore::new(config.limits.blobs_per_host.max(1))),
            quirks: Quirks::default(),
            proxies: proxies.map(|proxy| proxy.map(str::to_owned)),
            proxies_shown: shown,
        })
    }
}

/// The registry itself, under its own name.
fn plain_endpoint(client: Arc<HostClient>) -> Endpoint {
    Endpoint {
        client,
        root: "/v2".into(),
        prefix: String::new(),
        renamed: None,
        namespace: None,
        mirror: None,
    }
}

/// What is configured under a mirror's own host.
fn settings_by_host(config: &RegistriesConfig, host: &str) -> HostConfig {
    config.hosts.get(host).cloned().unwrap_or_default()
}

/// A mirror's own settings, with the files that are known for its host besides.
fn merged(own: &HostConfig, known: Option<&HostConfig>) -> HostConfig {
    let mut settings = own.clone();
    if let Some(known) = known {
        settings.ca.extend(known.ca.iter().cloned());
        settings.keypair.extend(known.keypair.iter().cloned());
    }
    settings
}

/// Bytes of a blob that may be on their way: the gigabit of a network with 30 ms to the registry.
const HTTP2_STREAM_WINDOW: u32 = 4 << 20;
/// The same of all blobs at once.
const HTTP2_CONNECTION_WINDOW: u32 = 16 << 20;
/// Larger frames than the least that everybody takes: fewer wake-ups for the same bytes.
const HTTP2_FRAME: u32 = 256 << 10;

/// Connections to one host that are kept for later: as many as one build opens at once. A long-lived
/// process whose hundreds of builds asked at the same moment would keep theirs for minutes.
const IDLE: usize = 16;
/// And for how long: from one build of somebody who tries things out to the next.
const IDLE_FOR: std::time::Duration = std::time::Duration::from_secs(20);

fn client(
    config: &RegistriesConfig,
    settings: &HostConfig,
    tls: &HostTls,
    [http, https]: [Option<&str>; 2],
    stall: Option<std::time::Duration>,
) -> Result<reqwest::Client, HostError> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.config.clone())
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .user_agent(config.user_agent.as_str())
        .connect_timeout(settings.connect.unwrap_or(config.limits.connect))
        .tcp_nodelay(true)
        .pool_max_idle_per_host(IDLE)
        .pool_idle_timeout(IDLE_FOR)
        .no_proxy();
    builder = match tls.offers_http2() {
        // Room for what is under way on all blobs of the one connection: the default would make them wait.
        true => builder
            .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .http2_max_frame_size(HTTP2_FRAME),
        false => builder.http1_only(),
    };
    if let Some(stall) = stall {
        builder = builder.read_timeout(stall);
    }
    if !settings.headers.is_empty() {
        let mut headers = HeaderMap::new();
        for header in &settings.headers {
            // The value may be a secret, and so is not told.
            let wrong =
                || HostError::Config(format!("header {:?}: not a header line", header.name));
            let name = HeaderName::try_from(header.name.as_str()).map_err(|_| wrong())?;
            let mut value = HeaderValue::try_from(header.value.as_str()).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        builder = builder.default_headers(headers);
    }
    let wrong = |e: reqwest::Error| HostError::Config(format!("proxy: {}", e.without_url()));
    if let Some(url) = http {
        builder = builder.proxy(reqwest::Proxy::http(proxy::for_client(url)).map_err(wrong)?);
    }
    if let Some(url) = https {
        builder = builder.proxy(reqwest::Proxy::https(proxy::for_client(url)).map_err(wrong)?);
    }
    builder
        .build()
        .map_err(|e| HostError::Config(format!("HTTP client: {e}")))
}

pub(crate) fn split_port(host: &str) -> (&str, Option<&str>) {
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
