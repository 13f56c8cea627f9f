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
        let home = Home::new(config);
        let log = std::fs::File::create(home.dir.path().join("log")).expect("a log file");
        let process = Command::new(binary())
            .arg("daemon")
            .arg("--addr")
            .arg(format!(
                "unix://{}",
                home.dir.path().join("socket").display()
            ))
            .arg("--root")
            .arg(home.store())
            .arg("--config")
            .arg(home.dir.path().join("config.toml"))
            .args(more)
            .env("DOCKER_CONFIG", home.dir.path().join("nobody"))
            .env("XDG_CONFIG_HOME", home.dir.path().join("nobody"))
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
            cgroups: cgroups(Path::new("/sys/fs/cgroup"), &self.pid().to_string()),
            files: ["daemon/tmp", "tmp", "ingest", "blobs/ingest"]
                .iter()
                .map(|dir| count(store.join(dir)))
                .sum(),
        }
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
    pub cgroups: usize,
    /// Temporary files and directories.
    pub files: usize,
}

/// Directories of control groups below this one that have the text in their names.
fn cgroups(dir: &Path, text: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let dirs = entries.flatten().filter(|entry| entry.path().is_dir());
    dirs.map(|entry| {
        let named = entry.file_name().to_string_lossy().contains(text);
        usize::from(named) + cgroups(&entry.path(), text)
    })
    .sum()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(Some(_))) {
            self.signal(Signal::TERM);
            let _ = self.process.wait();
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
