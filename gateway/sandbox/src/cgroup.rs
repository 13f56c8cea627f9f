//! Control groups: limits of memory, processors and processes. Used only when
//! limits are asked for; a machine without a writable hierarchy then cannot
//! run the sandbox, and says so.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::error::{At, SetupError, Stage};
use crate::spec::{Resources, SandboxSpec};

const ROOT: &str = "/sys/fs/cgroup";
/// Parent of our groups when the caller names none.
const DEFAULT_PARENT: &str = "gateway";

/// Whether version 2 is the only hierarchy.
pub(crate) fn is_pure_version_2() -> bool {
    Path::new(ROOT).join("cgroup.subtree_control").exists()
}

/// A sandbox's own group; removed when dropped.
#[derive(Default)]
pub(crate) struct Group {
    /// One per hierarchy used.
    dirs: Vec<PathBuf>,
    memory: Option<PathBuf>,
    /// Where version 2 counts what its members use.
    counted: Option<PathBuf>,
}

/// What is counted only where a controller is switched on.
const COUNTING: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// Files that a process writes `0` to in order to enter the group.
pub(crate) type Entrances = Vec<OwnedFd>;

/// `(controller, file, value)` in the version at hand.
type Setting = (&'static str, &'static str, String);

/// Makes a group with the limits of `spec`; `None` when it has none, and needs none to be measured
/// either. `name` must be unique on this machine.
pub(crate) fn create(
    spec: &SandboxSpec,
    name: &str,
) -> Result<Option<(Group, Entrances)>, SetupError> {
    let limited = with_limits(spec, name)?;
    if !spec.measure || !is_pure_version_2() {
        return Ok(limited);
    }
    let (group, entrances) = match limited {
        Some((group, entrances)) => (group, Some(entrances)),
        None => (Group::default(), None),
    };
    let relative = relative(spec, name)?;
    // No step fails for want of numbers.
    let group = group.counting(&relative);
    match entrances {
        Some(entrances) => Ok(Some((group, entrances))),
        None if group.dirs.is_empty() => Ok(None),
        None => Ok(group.entrances().ok().map(|entrances| (group, entrances))),
    }
}

fn with_limits(spec: &SandboxSpec, name: &str) -> Result<Option<(Group, Entrances)>, SetupError> {
    if spec.resources.is_empty() {
        let Some(pids) = spec.default_pids else {
            return Ok(None);
        };
        // Nobody asked for it: where it cannot be had, it is not.
        let resources = Resources {
            pids: Some(pids),
            ..Resources::default()
        };
        return Ok(limit(spec, &resources, name).ok());
    }
    let mut resources = spec.resources.clone();
    if resources.pids.is_none() && spec.default_pids.is_some() {
        resources.pids = spec.default_pids;
        if let Ok(limited) = limit(spec, &resources, name) {
            return Ok(Some(limited));
        }
    }
    limit(spec, &spec.resources, name).map(Some)
}

fn limit(
    spec: &SandboxSpec,
    resources: &Resources,
    name: &str,
) -> Result<(Group, Entrances), SetupError> {
    let version_2 = is_pure_version_2();
    let settings = if version_2 {
        settings_2(resources)
    } else {
        settings_1(resources)
    };
    let relative = relative(spec, name)?;
    let mut group = Group::default();
    for (controller, file, value) in settings {
        let base = if version_2 {
            PathBuf::from(ROOT)
        } else {
            Path::new(ROOT).join(controller)
        };
        let dir = base.join(&relative);
        let what = || format!("setting {controller} limits in {}", dir.display());
        if !group.dirs.contains(&dir) {
            make(&base, &relative, version_2, controller).at(Stage::Cgroup, what)?;
            group.dirs.push(dir.clone());
        }
        if controller == "memory" {
            group.memory = Some(dir.clone());
        }
        fs::write(dir.join(file), value).at(Stage::Cgroup, || {
            format!("writing {}", dir.join(file).display())
        })?;
    }
    let entrances = group.entrances()?;
    Ok((group, entrances))
}

/// The group of a sandbox, relative to the hierarchy's root.
pub(crate) fn relative(spec: &SandboxSpec, name: &str) -> Result<PathBuf, SetupError> {
    let parent = spec.cgroup_parent.as_deref().unwrap_or(DEFAULT_PARENT);
    let relative = Path::new(parent.trim_matches('/')).join(name);
    if relative
        .components()
        .any(|c| !matches!(c, std::path::Component::Normal(_)))
    {
        let detail = format!("{parent} is not the name of a control group");
        return Err(SetupError::new(Stage::Cgroup, 0, detail));
    }
    Ok(relative)
}

/// The group that an OCI runtime will make, for looking at it and removing it
/// afterwards: the runtime has no part in the container's end.
pub(crate) fn of_runtime(spec: &SandboxSpec, name: &str) -> Result<Group, SetupError> {
    let relative = relative(spec, name)?;
    let mut dirs = vec![Path::new(ROOT).join(&relative)];
    if !is_pure_version_2() {
        let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten();
        dirs = hierarchies.map(|h| h.path().join(&relative)).collect();
    }
    let memory = if is_pure_version_2() {
        Path::new(ROOT).join(&relative)
    } else {
        Path::new(ROOT).join("memory").join(&relative)
    };
    let counted = is_pure_version_2() && spec.measure;
    Ok(Group {
        counted: counted.then(|| memory.clone()),
        dirs,
        memory: Some(memory),
    })
}

/// Makes the group and its parents, passing the controller down (version 2)
/// or the processors and memory nodes (cpuset of version 1).
fn make(base: &Path, relative: &Path, version_2: bool, controller: &str) -> io::Result<()> {
    if !base.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    let mut dir = base.to_owned();
    for component in relative {
        if version_2 {
            fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
        let parent = dir.clone();
        dir.push(component);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !version_2 && controller == "cpuset" {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if fs::read_to_string(dir.join(file))?.trim().is_empty() {
                    fs::write(dir.join(file), fs::read_to_string(parent.join(file))?)?;
                }
            }
        }
    }
    Ok(())
}

fn settings_1(resources: &Resources) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |controller, file, value: Option<String>| {
        if let Some(value) = value {
            settings.push((controller, file, value));
        }
    };
    let text = |value: Option<i64>| value.map(|v| v.to_string());
    set("memory", "memory.limit_in_bytes", text(resources.memory));
    set(
        "memory",
        "memory.memsw.limit_in_bytes",
        text(resources.memory_swap),
    );
    set(
        "cpu",
        "cpu.shares",
        resources.cpu_shares.map(|v| v.to_string()),
    );
    set(
        "cpu",
        "cpu.cfs_period_us",
        resources.cpu_period.map(|v| v.to_string()),
    );
    set("cpu", "cpu.cfs_quota_us", text(resources.cpu_quota));
    set("cpuset", "cpuset.cpus", resources.cpuset_cpus.clone());
    set("cpuset", "cpuset.mems", resources.cpuset_mems.clone());
    set("pids", "pids.max", resources.pids.map(|v| v.to_string()));
    settings
}

fn settings_2(resources: &Resources) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |controller, file, value: Option<String>| {
        if let Some(value) = value {
            settings.push((controller, file, value));
        }
    };
    let limit = |value: i64| match value {
        ..0 => "max".to_owned(),
        value => value.to_string(),
    };
    set("memory", "memory.max", resources.memory.map(limit));
    // Version 2 counts swap by itself, the specification both together.
    let swap = resources.memory_swap.map(|both| match both {
        ..0 => "max".to_owned(),
        both => both
            .saturating_sub(resources.memory.unwrap_or(0))
            .max(0)
            .to_string(),
    });
    set("memory", "memory.swap.max", swap);
    // 2..262144 to 1..10000, as every runtime converts.
    let weight = resources
        .cpu_shares
        .map(|shares| 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142);
    set("cpu", "cpu.weight", weight.map(|w| w.to_string()));
    if resources.cpu_quota.is_some() || resources.cpu_period.is_some() {
        let quota = resources.cpu_quota.filter(|q| *q > 0);
        let quota = quota.map_or("max".to_owned(), |q| q.to_string());
        let period = resources.cpu_period.unwrap_or(100_000);
        set("cpu", "cpu.max", Some(format!("{quota} {period}")));
    }
    set("cpuset", "cpuset.cpus", resources.cpuset_cpus.clone());
    set("cpuset", "cpuset.mems", resources.cpuset_mems.clone());
    set("pids", "pids.max", resources.pids.map(|v| v.to_string()));
    settings
}

impl Group {
    /// With as many of the kernel's counters as can be had.
    fn counting(mut self, relative: &Path) -> Group {
        let dir = Path::new(ROOT).join(relative);
        for controller in COUNTING {
            let _ = make(Path::new(ROOT), relative, true, controller);
        }
        if dir.is_dir() {
            if !self.dirs.contains(&dir) {
                self.dirs.push(dir.clone());
            }
            self.counted = Some(dir);
        }
        self
    }

    /// Where its members' use of the machine can be read while they run.
    pub(crate) fn counted(&self) -> Option<&Path> {
        self.counted.as_deref()
    }

    pub(crate) fn entrances(&self) -> Result<Entrances, SetupError> {
        let open = |dir: &PathBuf| {
            let procs = dir.join("cgroup.procs");
            let file = fs::OpenOptions::new().write(true).open(&procs);
            file.map(OwnedFd::from)
                .at(Stage::Cgroup, || procs.display().to_string())
        };
        self.dirs.iter().map(open).collect()
    }

    /// Whether the kernel killed a member for want of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let Some(dir) = &self.memory else {
            return false;
        };
        ["memory.events", "memory.oom_control"]
            .iter()
            .filter_map(|file| fs::read_to_string(dir.join(file)).ok())
            .any(|text| counts_an_oom_kill(&text))
    }
}

fn counts_an_oom_kill(events: &str) -> bool {
    events
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .any(|count| count.trim() != "0")
}

impl Drop for Group {
    fn drop(&mut self) {
        for dir in &self.dirs {
            // Not empty only if a member survived SIGKILL for a moment; an
            // empty group left behind costs nothing.
            let _ = fs::remove_dir(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oom_kill_is_read_from_both_versions_files() {
        assert!(counts_an_oom_kill(
            "low 0\noom 1\noom_kill 1\noom_group_kill 0\n"
        ));
        assert!(!counts_an_oom_kill(
            "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"
        ));
        assert!(counts_an_oom_kill(
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
        ));
    }

    #[test]
    fn swap_counts_without_memory_in_version_2() {
        let resources = Resources {
            memory: Some(100),
            memory_swap: Some(150),
            cpu_shares: Some(2),
            cpu_quota: Some(5),
            ..Resources::default()
        };
        let values: Vec<_> = settings_2(&resources)
            .into_iter()
            .map(|(_, file, value)| format!("{file}={value}"))
            .collect();
        let expected = [
            "memory.max=100",
            "memory.swap.max=50",
            "cpu.weight=1",
            "cpu.max=5 100000",
        ];
        assert_eq!(values, expected);
    }
}
