//! What to run: one plain value that says everything about a sandbox. It is
//! also what travels to the zygote, hence the serde derives.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One process in one root file system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The root file system.
    pub root: Root,
    /// Whether the payload may not write to the root. Mount points can still
    /// be made before the payload starts.
    pub root_readonly: bool,
    /// Mounts in the order in which they are made: parents before children.
    pub mounts: Vec<Mount>,
    /// Program and arguments. A program name without `/` is looked up in the
    /// `PATH` of [`SandboxSpec::env`], inside the root.
    pub args: Vec<String>,
    /// Environment, `NAME=value` each. `PATH` and `HOME` are added when absent.
    pub env: Vec<String>,
    /// Working directory; made, owned by the user, when missing. Empty means `/`.
    pub cwd: String,
    /// `user[:group]` as in an image's configuration; names are looked up in
    /// the root's `/etc/passwd` and `/etc/group`. Empty means root.
    pub user: String,
    /// Host name; empty means [`SandboxSpec::DEFAULT_HOSTNAME`].
    pub hostname: String,
    /// `(host, address)` pairs added to `/etc/hosts`.
    pub extra_hosts: Vec<(String, String)>,
    /// What `/etc/resolv.conf` says.
    pub resolv_conf: ResolvConf,
    /// The network the payload sees.
    pub network: Network,
    /// Whether the payload is confined.
    pub security: Security,
    /// Resource limits by name.
    pub ulimits: Vec<Ulimit>,
    /// Control group under which the sandbox's own is made; relative to the
    /// hierarchy's root.
    pub cgroup_parent: Option<String>,
    /// Limits enforced by the control group.
    pub resources: Resources,
    /// Whether to run without those limits where no control group can be
    /// made, instead of refusing to run.
    pub resources_optional: bool,
    /// Processes and threads when [`Resources::pids`] says nothing, on machines
    /// where a control group can be made; elsewhere it has no effect.
    pub default_pids: Option<u64>,
    /// Whether what the payload uses is to be counted: [`crate::Running::usage`].
    pub measure: bool,
    /// Which set of privileges and system mounts the payload gets.
    pub profile: Profile,
    /// Whether gaining privileges by set-id programs is switched off.
    /// [`Profile::FrontendStrict`] and [`Profile::FrontendCompat`] imply it.
    pub no_new_privs: bool,
    /// Which mount points made for the run are removed afterwards.
    pub remove_mount_stubs: StubRemoval,
    /// Whether the payload gets stdin as its controlling terminal.
    pub terminal: bool,
    /// An OCI runtime (the path of runc, crun, ...) that makes the container
    /// instead of this crate's own stages.
    pub runtime: Option<PathBuf>,
}

impl SandboxSpec {
    /// Host name of a step that asks for none, as observed in BuildKit.
    pub const DEFAULT_HOSTNAME: &'static str = "buildkitsandbox";

    /// A step with BuildKit's defaults: root user, `/`, host network.
    pub fn new(root: Root, args: Vec<String>) -> Self {
        SandboxSpec {
            root,
            root_readonly: false,
            mounts: Vec::new(),
            args,
            env: Vec::new(),
            cwd: String::new(),
            user: String::new(),
            hostname: String::new(),
            extra_hosts: Vec::new(),
            resolv_conf: ResolvConf::Host,
            network: Network::Host,
            security: Security::Sandbox,
            ulimits: Vec::new(),
            cgroup_parent: None,
            resources: Resources::default(),
            resources_optional: false,
            default_pids: None,
            measure: false,
            profile: Profile::Step,
            no_new_privs: false,
            remove_mount_stubs: StubRemoval::Recursive,
            terminal: false,
            runtime: None,
        }
    }

    pub(crate) fn hostname(&self) -> &str {
        if self.hostname.is_empty() {
            Self::DEFAULT_HOSTNAME
        } else {
            &self.hostname
        }
    }

    pub(crate) fn wants_no_new_privs(&self) -> bool {
        self.no_new_privs || self.profile != Profile::Step
    }
}

/// A further process in a sandbox that runs. It shares everything else, also
/// its confinement, with the first one and ends with it at the latest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProcessSpec {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub terminal: bool,
}

impl ProcessSpec {
    /// This process with everything else as in `common`.
    pub(crate) fn over(self, common: SandboxSpec) -> SandboxSpec {
        SandboxSpec {
            args: self.args,
            env: self.env,
            cwd: self.cwd,
            user: self.user,
            terminal: self.terminal,
            ..common
        }
    }
}

/// Where the root file system comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Root {
    /// Layers, topmost first, with a directory that takes the changes.
    /// Without lowers `upper` itself is the root.
    Overlay {
        lowers: Vec<PathBuf>,
        upper: PathBuf,
        /// Scratch directory on the same file system as `upper`; emptied by
        /// the caller before it is used again.
        work: PathBuf,
    },
    /// Layers, topmost first, whose changes are kept in memory and thrown
    /// away at the end. `size_bytes` limits them (0: half of the memory).
    Throwaway {
        lowers: Vec<PathBuf>,
        size_bytes: u64,
    },
    /// A directory as it is.
    Dir { path: PathBuf, readonly: bool },
}

/// Something mounted over a path of the root.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the root; missing parts are made. Symbolic links
    /// are followed inside the root.
    pub dest: String,
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MountKind {
    /// A directory, file or socket of the host. `selector` is a path inside
    /// `source`, followed without ever leaving it.
    Bind {
        source: PathBuf,
        selector: String,
        readonly: bool,
    },
    /// Layers, topmost first. Without `upper` and `work` the mount is
    /// read-only.
    Overlay {
        lowers: Vec<PathBuf>,
        upper: Option<PathBuf>,
        work: Option<PathBuf>,
        selector: String,
        readonly: bool,
    },
    /// Layers, topmost first, whose changes are thrown away at the end.
    Throwaway {
        lowers: Vec<PathBuf>,
        selector: String,
    },
    /// A device node of the host; the one thing besides the usual ones of `/dev`
    /// that can be opened as a device.
    Device { source: PathBuf },
    /// An empty file system in memory; 0 means no size limit of its own.
    Tmpfs { size_bytes: u64 },
    /// A read-only file that exists only in memory and only in this sandbox.
    SecretFile {
        data: SecretBytes,
        uid: u32,
        gid: u32,
        mode: u32,
    },
}

/// Bytes which never show up in debug output.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct SecretBytes(pub Vec<u8>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

/// Content of `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResolvConf {
    /// The host's, adapted to the sandbox's network.
    Host,
    /// These bytes.
    Given(Vec<u8>),
    /// Whatever the root contains.
    Untouched,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The network namespace the launcher runs in.
    Host,
    /// A new one with nothing but `lo`.
    None,
    /// One that all sandboxes of the launcher share, with a way out through
    /// pasta or slirp4netns; the host's loopback is out of reach.
    Isolated,
    /// An existing one, as `/proc/PID/ns/net` or `/run/netns/NAME`.
    Namespace(PathBuf),
}

impl Network {
    /// Whether the launcher's user namespace owns it.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Network::None | Network::Isolated)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Default capabilities, system call filter, masked kernel interfaces.
    Sandbox,
    /// All capabilities the launcher has, no filter, no masks.
    Insecure,
}

/// A named set of privileges and system mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// As a build step under BuildKit.
    Step,
    /// No capabilities, no new privileges, no sysfs, `/proc` with processes
    /// only, a small `/dev`.
    FrontendStrict,
    /// The mounts of a step, without capabilities and new privileges.
    FrontendCompat,
}

/// `name` as in `nofile`, without the `RLIMIT_` prefix, in any case; -1 means
/// unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

/// Control group limits; all absent means that a missing control group
/// hierarchy is no error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together; -1 means unlimited.
    pub memory_swap: Option<i64>,
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds of each period.
    pub cpu_quota: Option<i64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Resources {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Resources::default()
    }
}

/// Which of the mount points that did not exist before are removed after the
/// run, if they are still empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StubRemoval {
    Off,
    /// The mount points themselves.
    Leaf,
    /// Their missing parents as well.
    Recursive,
}
