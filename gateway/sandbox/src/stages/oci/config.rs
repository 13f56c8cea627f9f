//! A specification as the `config.json` of the OCI runtime specification, with
//! what a build step has under BuildKit. Pure: paths come from the caller.

use serde_json::{Map, Value, json};

use super::seccomp;
use crate::host::Host;
use crate::seccomp::Policy;
use crate::spec::{Profile, SandboxSpec, Security};
use crate::stages::kernel_fs::{DEV_SIZE, MASKED, READ_ONLY};
use crate::stages::privileges::STEP_CAPABILITIES;
use crate::stages::user::User;

/// Capabilities by number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What the rendering needs besides the specification.
pub(super) struct Surroundings<'a> {
    pub host: &'a Host,
    pub user: &'a User,
    /// Completed environment.
    pub env: &'a [String],
    /// Capabilities that can be given.
    pub permitted: u64,
    /// Where the root file system is mounted.
    pub root: &'a str,
    /// `(destination, path to bind)` in order.
    pub binds: &'a [(String, String)],
    /// The group to make, relative to the hierarchy's root.
    pub cgroup: &'a str,
    /// Devices for an unconfined payload: `(name, major, minor, mode)`.
    pub devices: &'a [(String, u32, u32)],
    /// Devices among the binds: `b` or `c`, major, minor.
    pub lent: &'a [(char, u32, u32)],
}

/// The whole file.
pub(super) fn render(spec: &SandboxSpec, around: &Surroundings<'_>) -> Value {
    let insecure = spec.security == Security::Insecure;
    let default_pids = spec.default_pids.filter(|_| !around.host.user_namespace);
    let mut linux = json!({
        "namespaces": [
            {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
        ],
        "cgroupsPath": format!("/{}", around.cgroup),
        "resources": resources(spec, default_pids, around.lent, insecure),
        "rootfsPropagation": "rprivate",
    });
    if let Some(linux) = linux.as_object_mut() {
        if insecure {
            linux.insert("devices".into(), devices(around.devices));
        } else {
            linux.insert("maskedPaths".into(), absolute(&MASKED));
            linux.insert("readonlyPaths".into(), absolute(&READ_ONLY));
            let policy = match spec.profile {
                Profile::FrontendStrict => Policy::Frontend,
                Profile::Step | Profile::FrontendCompat => Policy::Step,
            };
            linux.insert("seccomp".into(), seccomp::render(policy));
        }
    }
    json!({
        "ociVersion": "1.0.2",
        "process": process(spec, around),
        "root": {"path": around.root, "readonly": spec.root_readonly},
        "hostname": spec.hostname(),
        "mounts": mounts(spec, around),
        "linux": linux,
    })
}

/// The process alone, as `exec` of a runtime takes it.
pub(super) fn process(spec: &SandboxSpec, around: &Surroundings<'_>) -> Value {
    let user = around.user;
    let mut ids = json!({"uid": user.uid, "gid": user.gid, "umask": 0o022});
    if around.host.setgroups
        && let Some(ids) = ids.as_object_mut()
    {
        ids.insert("additionalGids".into(), json!(user.groups));
    }
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    let rlimits: Vec<Value> = spec
        .ulimits
        .iter()
        .map(|limit| {
            // -1 becomes RLIM_INFINITY.
            json!({
                "type": format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
                "soft": limit.soft as u64,
                "hard": limit.hard as u64,
            })
        })
        .collect();
    json!({
        "terminal": spec.terminal,
        "user": ids,
        "args": spec.args,
        "env": around.env,
        "cwd": cwd,
        "capabilities": capabilities(spec, around),
        "rlimits": rlimits,
        "noNewPrivileges": spec.wants_no_new_privs(),
    })
}

fn capabilities(spec: &SandboxSpec, around: &Surroundings<'_>) -> Value {
    let insecure = spec.security == Security::Insecure;
    let keep = match spec.profile {
        _ if insecure => around.permitted,
        Profile::Step => STEP_CAPABILITIES & around.permitted,
        Profile::FrontendStrict | Profile::FrontendCompat => 0,
    };
    let names: Vec<String> = CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| keep & (1 << number) != 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect();
    let inherited: &[String] = if insecure { &names } else { &[] };
    json!({
        "bounding": names,
        "effective": names,
        "permitted": names,
        "inheritable": inherited,
        "ambient": inherited,
    })
}

fn absolute(paths: &[&str]) -> Value {
    paths.iter().map(|path| format!("/{path}")).collect()
}

fn mount(dest: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": dest, "type": kind, "source": source, "options": options})
}

fn mounts(spec: &SandboxSpec, around: &Surroundings<'_>) -> Value {
    let size = format!("size={DEV_SIZE}");
    let mut terminals = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    if around.host.tty_group {
        terminals.push("gid=5");
    }
    let private = ["nosuid", "noexec", "nodev"];
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &private),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", &size],
        ),
        mount("/dev/pts", "devpts", "devpts", &terminals),
    ];
    if !spec.mounts.iter().any(|m| m.dest == "/dev/shm") {
        let options = ["nosuid", "noexec", "nodev", "mode=1777", &size];
        mounts.push(mount("/dev/shm", "tmpfs", "shm", &options));
    }
    mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &private));
    for (dest, source) in around.binds {
        // The source has the attributes; more options would replace them.
        mounts.push(mount(dest, "bind", source, &["rbind"]));
    }
    Value::Array(mounts)
}

fn devices(devices: &[(String, u32, u32)]) -> Value {
    let node = |(name, major, minor): &(String, u32, u32)| {
        let kind = if name.starts_with("loop") && name != "loop-control" {
            "b"
        } else {
            "c"
        };
        json!({
            "path": format!("/dev/{name}"), "type": kind, "major": major, "minor": minor,
            "fileMode": 0o660, "uid": 0, "gid": 0,
        })
    };
    devices.iter().map(node).collect()
}

/// Only what was asked for: a runtime fails on what its hierarchy lacks.
fn resources(
    spec: &SandboxSpec,
    default_pids: Option<u64>,
    lent: &[(char, u32, u32)],
    insecure: bool,
) -> Value {
    let asked = &spec.resources;
    let mut all = Map::new();
    let mut devices = vec![json!({"allow": insecure, "access": "rwm"})];
    devices.extend(lent.iter().map(|(kind, major, minor)| {
        json!({
            "allow": true, "access": "rw", "type": kind.to_string(), "major": major, "minor": minor,
        })
    }));
    all.insert("devices".into(), Value::Array(devices));
    let mut put = |group: &str, key: &str, value: Option<Value>| {
        if let Some(value) = value
            && let Some(group) = all
                .entry(group)
                .or_insert_with(|| json!({}))
                .as_object_mut()
        {
            group.insert(key.into(), value);
        }
    };
    put("memory", "limit", asked.memory.map(Value::from));
    put("memory", "swap", asked.memory_swap.map(Value::from));
    put("cpu", "shares", asked.cpu_shares.map(Value::from));
    put("cpu", "period", asked.cpu_period.map(Value::from));
    put("cpu", "quota", asked.cpu_quota.map(Value::from));
    put("cpu", "cpus", asked.cpuset_cpus.clone().map(Value::from));
    put("cpu", "mems", asked.cpuset_mems.clone().map(Value::from));
    // A default only where root can enforce it: elsewhere a runtime would fail.
    let pids = asked.pids.or(default_pids);
    put("pids", "limit", pids.map(Value::from));
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Resources, Root};

    fn host() -> Host {
        Host {
            user_namespace: false,
            setgroups: true,
            tty_group: false,
            pure_cgroup2: false,
            step_filter: Vec::new(),
            frontend_filter: Vec::new(),
            instance: String::new(),
            isolated: None,
        }
    }

    fn rendered(change: impl FnOnce(&mut SandboxSpec)) -> Value {
        let root = Root::Dir {
            path: "/r".into(),
            readonly: false,
        };
        let mut spec = SandboxSpec::new(root, vec!["sh".into()]);
        change(&mut spec);
        let user = User {
            uid: 7,
            gid: 8,
            groups: vec![8, 9],
            home: "/".into(),
        };
        let around = Surroundings {
            host: &host(),
            user: &user,
            env: &["A=1".to_owned()],
            permitted: 0x1ff_ffff_ffff,
            root: "/root",
            binds: &[("/etc/hosts".into(), "/staged/1".into())],
            cgroup: "gateway/x",
            devices: &[],
            lent: &[('c', 10, 229)],
        };
        render(&spec, &around)
    }

    #[test]
    fn a_step_has_the_capabilities_of_a_step_and_nothing_inherited() {
        let config = rendered(|_| {});
        let capabilities = &config["process"]["capabilities"];
        let bounding = capabilities["bounding"].as_array().expect("names");
        assert_eq!(bounding.len(), 14);
        assert!(bounding.contains(&json!("CAP_AUDIT_WRITE")));
        assert_eq!(capabilities["ambient"], json!([]));
        assert_eq!(config["process"]["user"]["additionalGids"], json!([8, 9]));
        assert_eq!(config["linux"]["maskedPaths"][2], "/proc/kcore");
    }

    #[test]
    fn an_unconfined_payload_has_no_masks_and_no_filter() {
        let config = rendered(|spec| spec.security = Security::Insecure);
        let linux = config["linux"].as_object().expect("an object");
        assert!(!linux.contains_key("seccomp") && !linux.contains_key("maskedPaths"));
        assert_eq!(
            config["process"]["capabilities"]["ambient"]
                .as_array()
                .map(Vec::len),
            Some(41)
        );
    }

    #[test]
    fn limits_are_written_only_if_asked_for() {
        let config = rendered(|_| {});
        assert_eq!(
            config["linux"]["resources"],
            json!({"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "access": "rw", "type": "c", "major": 10, "minor": 229},
            ]})
        );
        let config = rendered(|spec| {
            spec.resources = Resources {
                memory: Some(5),
                pids: Some(6),
                ..Resources::default()
            };
        });
        let resources = &config["linux"]["resources"];
        assert_eq!(resources["memory"], json!({"limit": 5}));
        assert_eq!(resources["pids"], json!({"limit": 6}));
    }
}
