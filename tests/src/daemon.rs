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
