//! Debian's dockerd with everything of its own, ended by its process id.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{Cost, process_cpu, timed};
use crate::registry::Registry;

/// A daemon starts in seconds; this is for machines under load.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A daemon whose classic builder runs one step after the other.
pub struct ClassicBuilder {
    daemon: Child,
    client: PathBuf,
    dir: tempfile::TempDir,
}

impl ClassicBuilder {
    /// `None` where `DOCKERD` and `DOCKER` do not name the programs. It gets busybox from `registry`.
    pub fn start(registry: &Registry) -> Option<ClassicBuilder> {
        let program = std::env::var_os("DOCKERD")?;
        let client = PathBuf::from(std::env::var_os("DOCKER")?);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let log = fs::File::create(dir.path().join("log")).expect("a log file");
        let daemon = Command::new(program)
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args(["--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("socket"))])
            // No step of these builds needs a network of its own.
            .args(["--bridge=none", "--iptables=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program named by DOCKERD");
        let builder = ClassicBuilder {
            daemon,
            client,
            dir,
        };
        let started = Instant::now();
        let answers = || builder.command(&["version"]).output();
        while !answers().is_ok_and(|output| output.status.success()) {
            assert!(
                started.elapsed() < START_LIMIT,
                "dockerd does not answer: {}",
                fs::read_to_string(builder.dir.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        let archive = builder.dir.path().join("busybox.tar");
        let certificates = registry.certificate_dir().display().to_string();
        crate::program::tool(
            "skopeo",
            &[
                "--insecure-policy",
                "copy",
                "--quiet",
                "--src-cert-dir",
                &certificates,
                &format!("docker://{}/library/busybox", registry.address),
                &format!("docker-archive:{}:busybox:latest", archive.display()),
            ],
        );
        let loaded = builder
            .command(&["load", "--quiet", "--input"])
            .arg(&archive)
            .status();
        assert!(loaded.is_ok_and(|status| status.success()), "docker load");
        Some(builder)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CONFIG", self.dir.path().join("config"))
            .arg("--host")
            .arg(format!(
                "unix://{}",
                self.dir.path().join("socket").display()
            ))
            .args(args);
        command
    }

    /// A build of the Dockerfile in `context`, everything anew.
    pub fn build(&self, context: &Path) -> Cost {
        let before = process_cpu(self.daemon.id());
        let mut command = self.command(&["build", "--no-cache", "--network=none"]);
        let mut cost = timed(command.arg(context));
        cost.cpu += process_cpu(self.daemon.id()) - before;
        cost
    }
}

impl Drop for ClassicBuilder {
    fn drop(&mut self) {
        // It unmounts and ends its own children when it is asked to.
        let pid = i32::try_from(self.daemon.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.daemon.wait();
    }
}
