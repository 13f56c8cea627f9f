//! The options of a build, read once from the map that a frontend is called with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::IntErrorKind;

pub use gateway_api::parse_bool;
use gateway_api::{CacheImport, Error, Invocation};
use gateway_llb::{ResolveMode, pb, platform};

use crate::csv;

use super::reference::ImageRef;

/// What the client asked for.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `build-arg:*`.
    pub build_args: BTreeMap<String, String>,
    /// `label:*`.
    pub labels: BTreeMap<String, String>,
    /// Prefix of cache mount ids.
    pub cache_id_namespace: String,
    /// Parent of the cgroups of commands.
    pub cgroup_parent: String,
    /// Lines for the hosts file of commands.
    pub extra_hosts: Vec<pb::HostIp>,
    /// Host name of commands.
    pub hostname: String,
    /// When registries are asked again.
    pub resolve_mode: ResolveMode,
    /// Network of commands that name none.
    pub network: pb::NetMode,
    /// Size of `/dev/shm` in bytes; 0 for the default.
    pub shm_size: i64,
    /// The stage to build; empty for the last.
    pub target: String,
    /// Resource limits of commands.
    pub ulimits: Vec<pb::Ulimit>,
    /// Memory and CPU limits of commands.
    pub linux_resources: Option<pb::LinuxResources>,
    /// Caches to look into.
    pub cache_imports: Vec<CacheImport>,
    /// What to build for; empty for the builder's own platform.
    pub target_platforms: Vec<pb::Platform>,
    /// What the builder runs, first its own.
    pub build_platforms: Vec<pb::Platform>,
    /// Return a map of results, even of one.
    pub multi_platform: bool,
    /// Stages without cache: none, all (an empty list), or these.
    pub no_cache: Option<Vec<String>>,
    /// Session ids by local name, where they are not the main one.
    pub local_sessions: BTreeMap<String, String>,
    /// Lint options that replace the directive of the file.
    pub check: Option<String>,
    /// The bill of materials that was asked for.
    pub sbom: Option<Sbom>,
}

/// A request for a bill of materials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sbom {
    /// The scanner's image.
    pub generator: String,
    /// What it is told.
    pub params: BTreeMap<String, String>,
}

impl Sbom {
    /// The request among a build's options. The other attestations are the engine's.
    ///
    /// # Errors
    /// In the words of the reference, when a request for an attestation cannot be read.
    pub fn of(opts: &BTreeMap<String, String>) -> Result<Option<Sbom>, Error> {
        const GENERATOR: &str = "docker/buildkit-syft-scanner:stable-1";
        let mut found = None;
        for (key, value) in opts {
            let kind = key
                .strip_prefix("attest:")
                .or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_"));
            let Some(kind) = kind.map(str::to_lowercase) else {
                continue;
            };
            if !matches!(kind.as_str(), "provenance" | "sbom") {
                return Err(Error::unknown(format!("unknown attestation type {kind:?}")));
            }
            let mut params = BTreeMap::new();
            let fields = match value.as_str() {
                "" => Vec::new(),
                value => csv::fields(value)
                    .map_err(|e| Error::unknown(format!("failed to parse {kind}: {e}")))?,
            };
            if kind == "provenance" {
                continue;
            }
            for field in fields.iter().filter(|field| !field.is_empty()) {
                let (key, value) = field.split_once('=').unwrap_or((field, ""));
                params.insert(key.to_owned(), value.to_owned());
            }
            let generator = params.remove("generator").unwrap_or(GENERATOR.to_owned());
            ImageRef::parse(&generator).map_err(|e| {
                Error::unknown(format!("failed to parse sbom scanner {generator}: {e}"))
            })?;
            found = Some(Sbom { generator, params });
        }
        Ok(found)
    }
}

impl Config {
    /// Reads the options.
    ///
    /// # Errors
    /// In the words of the reference frontend, when a value cannot be used.
    pub fn read(invocation: &Invocation) -> Result<Self, Error> {
        let opts = &invocation.opts;
        let get = |key: &str| opts.get(key).map(String::as_str).filter(|v| !v.is_empty());

        let own = invocation
            .workers
            .first()
            .and_then(|worker| worker.platforms.first())
            .cloned()
            .unwrap_or_else(|| platform::normalize(&platform::host()));
        let mut target_platforms = Vec::new();
        for text in get("platform").into_iter().flat_map(|v| v.split(',')) {
            let parsed = platform::parse(text).map_err(|e| {
                Error::unknown(format!("failed to parse target platform {text}: {e}"))
            })?;
            target_platforms.push(platform::normalize(&parsed));
        }

        // In the reference's order, so that of several bad options the same one is told.
        let resolve_mode = match opts.get("image-resolve-mode").map(String::as_str) {
            None | Some("" | "default") => ResolveMode::Default,
            Some("pull") => ResolveMode::ForcePull,
            Some("local") => ResolveMode::PreferLocal,
            Some(other) => {
                return Err(Error::unknown(format!(
                    "invalid image-resolve-mode: {other}"
                )));
            }
        };
        let extra_hosts = extra_hosts(get("add-hosts"))
            .map_err(|e| Error::unknown(format!("failed to parse additional hosts: {e}")))?;
        let shm_size = get("shm-size")
            .map_or(Ok(0), go_int)
            .map_err(|e| Error::unknown(format!("failed to parse shm size: {e}")))?;
        let ulimits = ulimits(get("ulimit"))
            .map_err(|e| Error::unknown(format!("failed to parse ulimit: {e}")))?;
        let linux_resources = linux_resources(opts)
            .map_err(|e| Error::unknown(format!("failed to parse resource limits: {e}")))?;
        let network = match get("force-network-mode") {
            None | Some("sandbox") => pb::NetMode::Unset,
            Some("none") => pb::NetMode::None,
            Some("host") => pb::NetMode::Host,
            Some(other) => return Err(Error::unknown(format!("invalid netmode {other}"))),
        };
        let mut multi_platform = target_platforms.len() > 1;
        if let Some(text) =
            get("build-arg:BUILDKIT_MULTI_PLATFORM").or_else(|| get("multi-platform"))
        {
            let wanted = parse_bool(text).ok_or_else(|| {
                Error::unknown(format!("invalid boolean value for multi-platform: {text}"))
            })?;
            if !wanted && multi_platform {
                return Err(Error::unknown(
                    "conflicting config: returning multiple target platforms is not allowed",
                ));
            }
            multi_platform = wanted;
        }

        Ok(Self {
            build_args: with_prefix(opts, "build-arg:"),
            labels: with_prefix(opts, "label:"),
            local_sessions: with_prefix(opts, "local-sessionid:"),
            cache_id_namespace: get("build-arg:BUILDKIT_CACHE_MOUNT_NS")
                .unwrap_or_default()
                .to_owned(),
            cgroup_parent: get("cgroup-parent").unwrap_or_default().to_owned(),
            extra_hosts,
            hostname: get("build-arg:BUILDKIT_SANDBOX_HOSTNAME")
                .or_else(|| get("hostname"))
                .unwrap_or_default()
                .to_owned(),
            resolve_mode,
            network,
            shm_size,
            target: get("target").unwrap_or_default().to_owned(),
            ulimits,
            linux_resources,
            cache_imports: cache_imports(get("cache-imports"), get("cache-from"))?,
            target_platforms,
            build_platforms: vec![own],
            multi_platform,
            no_cache: opts.get("no-cache").map(|value| {
                let names = value.split(',').filter(|_| !value.is_empty());
                names.map(str::to_owned).collect()
            }),
            check: opts.get("build-arg:BUILDKIT_DOCKERFILE_CHECK").cloned(),
            sbom: Sbom::of(opts)?,
        })
    }

    /// Whether a stage is built without cache.
    pub fn is_no_cache(&self, stage: &str) -> bool {
        self.no_cache.as_ref().is_some_and(|names| {
            names.is_empty() || names.iter().any(|n| n.eq_ignore_ascii_case(stage))
        })
    }
}

fn with_prefix(opts: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    opts.iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone())))
        .collect()
}

/// A number, or why it is none, in the words that users know from the reference.
fn go_int(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|e: std::num::ParseIntError| go_error("ParseInt", text, e.kind()))
}

/// The same for numbers that take no sign.
fn go_uint(text: &str) -> Result<u64, String> {
    match text.starts_with('+') {
        true => Err(go_error("ParseUint", text, &IntErrorKind::InvalidDigit)),
        false => text
            .parse()
            .map_err(|e: std::num::ParseIntError| go_error("ParseUint", text, e.kind())),
    }
}

fn go_error(call: &str, text: &str, kind: &IntErrorKind) -> String {
    let why = match kind {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{call}: parsing {text:?}: {why}")
}

fn extra_hosts(text: Option<&str>) -> Result<Vec<pb::HostIp>, String> {
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    csv::fields(text)?
        .into_iter()
        .map(|field| {
            let lower = field.to_lowercase();
            let (host, ip) = lower
                .split_once('=')
                .ok_or_else(|| format!("invalid key-value pair {field}"))?;
            let ip: IpAddr = ip.parse().map_err(|_| format!("failed to parse IP {ip}"))?;
            Ok(pb::HostIp {
                host: host.to_owned(),
                ip: ip.to_string(),
            })
        })
        .collect()
}

/// Limits that the kernel has for a process, as the option `ulimit` names them.
pub const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn ulimits(text: Option<&str>) -> Result<Vec<pb::Ulimit>, String> {
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    csv::fields(text)?
        .into_iter()
        .map(|field| {
            let invalid = || format!("invalid ulimit argument: {field}");
            let (name, limits) = field.split_once('=').ok_or_else(invalid)?;
            if !ULIMITS.contains(&name) {
                return Err(format!("invalid ulimit type: {name}"));
            }
            let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
            if hard.contains(':') {
                return Err(format!(
                    "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
                ));
            }
            let (hard, soft) = (go_int(hard)?, go_int(soft)?);
            const ORDER: &str = "ulimit soft limit must be less than or equal to hard limit";
            if hard != -1 && soft == -1 {
                return Err(format!("{ORDER}: soft: -1 (unlimited), hard: {hard}"));
            }
            if hard != -1 && soft > hard {
                return Err(format!("{ORDER}: {soft} > {hard}"));
            }
            Ok(pb::Ulimit {
                name: name.to_owned(),
                soft,
                hard,
            })
        })
        .collect()
}

fn linux_resources(opts: &BTreeMap<String, String>) -> Result<Option<pb::LinuxResources>, String> {
    let mut resources = pb::LinuxResources::default();
    let number = |key: &str, least: i64| -> Result<i64, String> {
        let Some(text) = opts.get(key).filter(|v| !v.is_empty()) else {
            return Ok(0);
        };
        let number = match key {
            "cpushares" | "cpuperiod" => {
                go_uint(text).map(|n| i64::try_from(n).unwrap_or(i64::MAX))
            }
            _ => go_int(text),
        };
        let value = number.map_err(|e| format!("invalid {key} value: {text}: {e}"))?;
        if value == 0 || value < least {
            let rule = if least < 0 {
                "must be -1 (unlimited) or > 0"
            } else {
                "must be > 0"
            };
            return Err(format!("invalid {key} value: {text}: {rule}"));
        }
        Ok(value)
    };
    let set = |key: &str| -> Result<String, String> {
        let text = opts.get(key).cloned().unwrap_or_default();
        match cpu_set(&text) {
            Ok(()) => Ok(text),
            Err(why) => Err(format!("invalid {key} value: {text}: {why}")),
        }
    };
    resources.memory = number("memory", 1)?;
    resources.memory_swap = number("memswap", -1)?;
    resources.cpu_shares = number("cpushares", 1)?.unsigned_abs();
    resources.cpu_period = number("cpuperiod", 1)?.unsigned_abs();
    resources.cpu_quota = number("cpuquota", 1)?;
    resources.cpuset_cpus = set("cpusetcpus")?;
    resources.cpuset_mems = set("cpusetmems")?;
    Ok((resources != pb::LinuxResources::default()).then_some(resources))
}

/// Whether a text is a list of processor numbers and ranges, or why it is none.
fn cpu_set(text: &str) -> Result<(), String> {
    /// The largest number that the reference takes.
    const LAST: u32 = 8192;
    let number = |text: &str| text.trim().parse::<u32>().ok();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (kind, last) = match part.split_once('-') {
            None => ("element", number(part)),
            Some((from, to)) => {
                let ends = number(from).zip(number(to));
                (
                    "range",
                    ends.filter(|(from, to)| from <= to).map(|(_, to)| to),
                )
            }
        };
        match last {
            None => return Err(format!("invalid cpuset {kind} {part:?}")),
            Some(last) if last > LAST => {
                return Err(format!("cpuset {kind} {part:?} exceeds maximum {LAST}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn cache_imports(new: Option<&str>, old: Option<&str>) -> Result<Vec<CacheImport>, Error> {
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(rename = "Type", alias = "type", default)]
        kind: Option<String>,
        #[serde(rename = "Attrs", alias = "attrs", default)]
        attrs: Option<BTreeMap<String, String>>,
    }
    let mut imports = Vec::new();
    if let Some(text) = new {
        // `null` is what clients without caches may send.
        let entries: Option<Vec<Entry>> = serde_json::from_str(text).map_err(|e| {
            Error::unknown(format!("failed to unmarshal cache-imports ({text:?}): {e}"))
        })?;
        let entries = entries.unwrap_or_default();
        imports.extend(entries.into_iter().map(|entry| CacheImport {
            kind: entry.kind.unwrap_or_default(),
            attrs: entry.attrs.unwrap_or_default(),
        }));
    }
    imports.extend(
        old.into_iter()
            .flat_map(|v| v.split(','))
            .map(|reference| CacheImport {
                kind: "registry".to_owned(),
                attrs: [("ref".to_owned(), reference.to_owned())].into(),
            }),
    );
    Ok(imports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(opts: &[(&str, &str)]) -> Result<Config, Error> {
        let opts = opts
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Config::read(&Invocation {
            opts,
            ..Invocation::default()
        })
    }

    #[test]
    fn no_cache_without_names_means_all_stages() {
        let all = read(&[("no-cache", "")]).unwrap();
        assert!(all.is_no_cache("x"));
        let one = read(&[("no-cache", "a,b")]).unwrap();
        assert!(one.is_no_cache("A") && !one.is_no_cache("c"));
        assert!(!read(&[]).unwrap().is_no_cache("a"));
    }

    #[test]
    fn refused_values_are_named() {
        for (key, value, words) in [
            ("force-network-mode", "x", "invalid netmode x"),
            ("image-resolve-mode", "x", "invalid image-resolve-mode: x"),
            (
                "memory",
                "0",
                "failed to parse resource limits: invalid memory value: 0: must be > 0",
            ),
            (
                "cpushares",
                "-1",
                "failed to parse resource limits: invalid cpushares value: -1: strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
            (
                "shm-size",
                "9223372036854775808",
                "failed to parse shm size: strconv.ParseInt: parsing \"9223372036854775808\": value out of range",
            ),
            (
                "ulimit",
                "nofile=1:x",
                "failed to parse ulimit: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                "ulimit",
                "nofile=1:2:3",
                "failed to parse ulimit: too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
            ),
            (
                "ulimit",
                "core=-1:5",
                "failed to parse ulimit: ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 5",
            ),
            (
                "add-hosts",
                "a=b",
                "failed to parse additional hosts: failed to parse IP b",
            ),
        ] {
            assert_eq!(read(&[(key, value)]).unwrap_err().message, words);
        }
        assert!(
            read(&[("cache-imports", "null")])
                .unwrap()
                .cache_imports
                .is_empty()
        );
        let several = [
            ("platform", "linux/amd64,linux/arm64"),
            ("multi-platform", "false"),
        ];
        assert!(
            read(&several)
                .unwrap_err()
                .message
                .starts_with("conflicting config")
        );
    }
}
