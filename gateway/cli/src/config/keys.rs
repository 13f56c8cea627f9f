//! The keys of the configuration file that are this program's own, each with the variables and the flag that
//! beat it. The one list that reading, `gateway config` and the documentation follow.

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A path; a relative one counts from the file's folder.
    Path,
    Switch,
    /// Texts; in a variable with commas between.
    List,
    /// As a list; relative ones count from the file's folder.
    Paths,
    Number,
}

impl Kind {
    /// For errors.
    pub fn told(self) -> &'static str {
        match self {
            Kind::Text => "a text",
            Kind::Path => "a path",
            Kind::Switch => "true or false",
            Kind::List => "a list of texts",
            Kind::Paths => "a list of paths",
            Kind::Number => "a number",
        }
    }
}

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Table and key, with a dot between.
    pub name: &'static str,
    /// The first one that is set and not empty counts.
    pub variables: &'static [&'static str],
    /// Empty for none.
    pub flag: &'static str,
    pub kind: Kind,
    /// As TOML; empty when nothing is set by itself.
    pub default: &'static str,
}

impl Key {
    /// The key inside its table.
    pub fn table_and_key(&self) -> (&'static str, &'static str) {
        self.name.rsplit_once('.').unwrap_or(("", self.name))
    }
}

const fn key(
    name: &'static str,
    kind: Kind,
    variables: &'static [&'static str],
    flag: &'static str,
    default: &'static str,
) -> Key {
    Key {
        name,
        variables,
        flag,
        kind,
        default,
    }
}

/// All of them, by table.
pub const KEYS: [Key; 15] = [
    key("gateway.root", Kind::Path, &["GATEWAY_ROOT"], "--root", ""),
    key(
        "gateway.offline",
        Kind::Switch,
        &["GATEWAY_OFFLINE"],
        "--offline",
        "false",
    ),
    key(
        "gateway.registries-from",
        Kind::List,
        &["GATEWAY_REGISTRIES_FROM"],
        "--registries-from",
        "[]",
    ),
    key(
        "build.progress",
        Kind::Text,
        &["GATEWAY_PROGRESS", "BUILDKIT_PROGRESS"],
        "--progress",
        "\"auto\"",
    ),
    key(
        "build.debug",
        Kind::Switch,
        &["GATEWAY_DEBUG"],
        "--debug",
        "false",
    ),
    key(
        "build.platforms",
        Kind::List,
        &["DOCKER_DEFAULT_PLATFORM"],
        "--platform",
        "[]",
    ),
    key(
        "build.pull",
        Kind::Switch,
        &["GATEWAY_PULL"],
        "--pull",
        "false",
    ),
    key("build.cache-from", Kind::List, &[], "--cache-from", "[]"),
    key("build.cache-to", Kind::List, &[], "--cache-to", "[]"),
    key("build.sbom", Kind::Text, &[], "--sbom", "\"false\""),
    key(
        "build.provenance",
        Kind::Text,
        &[],
        "--provenance",
        "\"false\"",
    ),
    key("build.allow", Kind::List, &[], "--allow", "[]"),
    key(
        "build.source-policies",
        Kind::Paths,
        &["EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"],
        "--source-policy",
        "[]",
    ),
    key(
        "progress.colors",
        Kind::Text,
        &["BUILDKIT_COLORS"],
        "",
        "\"\"",
    ),
    key(
        "progress.log-lines",
        Kind::Number,
        &["BUILDKIT_TTY_LOG_LINES"],
        "",
        "6",
    ),
];

/// Keys of BuildKit's worker that mean something here.
pub const WORKER: [&str; 11] = [
    "binary",
    "networkMode",
    "maxProcesses",
    "gc",
    "gckeepstorage",
    "reservedSpace",
    "maxUsedSpace",
    "minFreeSpace",
    "gcpolicy",
    "max-parallelism",
    "enabled",
];

/// What the daemon alone goes by; builds of the command line have no clients.
pub const DAEMON: [&str; 5] = ["root", "insecure-entitlements", "grpc", "history", "client"];

/// Top-level names of a buildkitd.toml: no mistakes, even where they mean nothing here.
pub const BUILDKIT: [&str; 18] = [
    "root",
    "debug",
    "trace",
    "log",
    "insecure-entitlements",
    "grpc",
    "otel",
    "cdi",
    "history",
    "worker",
    "registry",
    "dns",
    "frontend",
    "system",
    "cache",
    "provenanceEnvDir",
    "proxyNetwork",
    // Not BuildKit's: a daemon's, as those are.
    "client",
];
