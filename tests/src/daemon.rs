//! The daemon with a store of its own, ended by its process id.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::program::{Home, binary};

/// It starts at once; this is for machines under load.
const LIMIT: Duration = Duration::from_secs(120);

pub struct Daemon {
    pub home: Home,
    process: Child,
}

impl Daemon {
    /// `more` arguments follow the address of the socket, the store and the configuration.
    pub fn start(config: &str, more: &[&str]) -> Daemon {
        Daemon::start_with(config, more, &[])
    }

    /// What is started.
    pub fn command(home: &Home, more: &[&str]) -> Command {
        let path = |name: &str| home.dir.path().join(name);
        let mut command = Command::new(binary());
        command
            .arg("daemon")
            .arg("--addr")
            .arg(format!("unix://{}", path("socket").display()))
            .arg("--root")
            .arg(home.store())
            .arg("--config")
            .arg(path("config.toml"))
            .args(more)
            .env("DOCKER_CONFIG", path("nobody"))
            .env("XDG_CONFIG_HOME", path("nobody"));
        command
    }

    /// With variables of the environment.
    pub fn start_with(config: &str, more: &[&str], variables: &[(&str, &str)]) -> Daemon {
        let home = Home::new(config);
        let log = std::fs::File::create(home.dir.path().join("log")).expect("a log file");
        let process = Daemon::command(&home, more)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("gateway daemon");
        let mut daemon = Daemon { home, process };
        daemon.wait("it listens", |daemon| {
            std::os::unix::net::UnixStream::connect(daemon.socket()).is_ok()
        });
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.home.dir.path().join("socket")
    }

    /// Anybody may open the socket.
    pub fn open_to_all(&self) {
        use std::os::unix::fs::PermissionsExt;
        for (path, mode) in [
            (self.home.dir.path().to_owned(), 0o755),
            (self.socket(), 0o666),
        ] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, mode).expect("setting a mode");
        }
    }

    /// What it has open, mounted and running, in numbers.
    pub fn holds(&self) -> Holds {
        let process = PathBuf::from(format!("/proc/{}", self.pid()));
        let count = |path: PathBuf| std::fs::read_dir(path).map_or(0, Iterator::count);
        let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            number.unwrap_or(0)
        };
        let lines = |path: PathBuf| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().count()
        };
        let store = self.home.store();
        Holds {
            descriptors: count(process.join("fd")),
            threads: number("Threads:"),
            memory: number("VmRSS:") >> 10,
            mounts: lines(process.join("mountinfo")),
            children: lines(process.join(format!("task/{}/children", self.pid()))),
            cgroups: groups(&self.cgroup_parent()),
            files: ["daemon/tmp", "tmp", "ingest", "blobs/ingest"]
                .iter()
                .map(|dir| count(store.join(dir)))
                .sum(),
        }
    }

    /// The control group whose groups are counted: builds that are to be watched name it (`cgroup-parent`).
    pub fn cgroup_parent(&self) -> String {
        format!("gateway-tests-{}", self.pid())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.dir.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Until something is so. The daemon must be alive meanwhile.
    pub fn wait(&mut self, what: &str, is_so: impl Fn(&Daemon) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!("the daemon ended with {status}: {}", self.log());
            }
            assert!(started.elapsed() < LIMIT, "not so: {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Debian's docker with this daemon as its host.
    pub fn docker(&self, config: &Path) -> Command {
        // Whatever else is called docker here.
        let mut docker = Command::new("/usr/bin/docker");
        docker
            .env("DOCKER_BUILDKIT", "1")
            .env("DOCKER_CONFIG", config)
            .env_remove("DOCKER_HOST")
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .stdin(Stdio::null());
        docker
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to end, and waits until it has; whether it ended well.
    pub fn stop(&mut self) -> bool {
        self.signal(Signal::TERM);
        self.process.wait().is_ok_and(|status| status.success())
    }

    /// Waits for an end that nobody asked for.
    pub fn ended(&mut self) -> bool {
        self.process.wait().is_ok_and(|status| status.success())
    }
}

/// What a daemon holds at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Holds {
    pub descriptors: usize,
    pub threads: usize,
    /// MiB in memory.
    pub memory: usize,
    pub mounts: usize,
    /// Processes.
    pub children: usize,
    /// Control groups of steps, of builds that name [`Daemon::cgroup_parent`].
    pub cgroups: usize,
    /// Temporary files and directories.
    pub files: usize,
}

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Whether this machine lets us make control groups that limit processes.
pub fn has_control_groups() -> bool {
    ["", "pids"].iter().any(|hierarchy| {
        let hierarchy = Path::new(CONTROL_GROUPS).join(hierarchy);
        let dir = hierarchy.join(format!("gateway-tests-probe-{}", std::process::id()));
        let made = std::fs::create_dir(&dir).is_ok();
        // A hierarchy has files of its own in every directory.
        let is_group = dir.join("cgroup.procs").exists();
        made && std::fs::remove_dir(&dir).is_ok() && is_group
    })
}

/// The group of this name in every hierarchy: version 2 has one, version 1 several below.
fn hierarchies(parent: &str) -> Vec<PathBuf> {
    let below = std::fs::read_dir(CONTROL_GROUPS).into_iter().flatten();
    let below = below.flatten().map(|entry| entry.path().join(parent));
    let all = below.chain([Path::new(CONTROL_GROUPS).join(parent)]);
    all.filter(|path| path.is_dir()).collect()
}

/// Groups inside of that.
fn groups(parent: &str) -> usize {
    let count = |dir: &PathBuf| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    };
    hierarchies(parent).iter().map(count).sum()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(Some(_))) {
            self.signal(Signal::TERM);
            let _ = self.process.wait();
        }
        // Groups that are empty; others are a test's failure.
        for group in hierarchies(&self.cgroup_parent()) {
            let _ = std::fs::remove_dir(group);
        }
    }
}

/// What a client printed, both streams.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
