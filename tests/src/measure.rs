//! What benchmarks measure: CPU seconds of everything that was started, wall seconds, peak memory, and the peer daemon
//! that the figures are compared with.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::registry::Registry;

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Seconds of all cores together.
    pub cpu: f64,
    /// Seconds.
    pub wall: f64,
    /// Most MiB that the process had resident, without its children's.
    pub memory: f64,
}

impl Cost {
    pub fn add(&mut self, other: Cost) {
        self.cpu += other.cpu;
        self.wall += other.wall;
        self.memory = self.memory.max(other.memory);
    }

    /// The mean of a sum of so many.
    pub fn over(self, times: usize) -> Cost {
        let times = times.max(1) as f64;
        Cost {
            cpu: self.cpu / times,
            wall: self.wall / times,
            memory: self.memory,
        }
    }
}

/// How often the memory of a running command is looked at; the kernel keeps the peak, so only the last moment is lost.
const LOOK: Duration = Duration::from_millis(10);

/// How long processes that a command left behind are waited for: launchers end with it, within moments.
const LINGERING: Duration = Duration::from_secs(10);

/// To be called once before anything is timed: processes that a command leaves behind are counted too.
pub fn count_descendants() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .expect("becoming the reaper of descendants");
}

/// Runs a command and everything it leaves behind to the end.
pub fn timed(command: &mut Command) -> Cost {
    let errors = tempfile::NamedTempFile::new().expect("a file for errors");
    let others = own_children();
    let before = children_cpu();
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors.reopen().expect("the file for errors"))
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A thread of its own, so that the end is not seen late.
    let pid = child.id();
    let watch = std::thread::spawn(move || {
        let mut peak: f64 = 0.0;
        while let Some(now) = peak_memory(pid) {
            peak = peak.max(now);
            std::thread::sleep(LOOK);
        }
        peak
    });
    let status = child.wait().expect("waiting for the command");
    let wall = start.elapsed().as_secs_f64();
    let memory = watch.join().expect("the watching thread");
    assert!(
        status.success(),
        "{command:?}\n{}",
        std::fs::read_to_string(errors.path()).unwrap_or_default()
    );
    reap_descendants(&others);
    Cost {
        cpu: children_cpu() - before,
        wall,
        memory,
    }
}

/// What commands did not wait for was handed to us; it is waited for, so that its CPU counts here and not
/// with the next one. `others` were there before.
pub fn reap_descendants(others: &BTreeSet<u32>) {
    let given_up = Instant::now() + LINGERING;
    loop {
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
        if own_children().is_subset(others) || Instant::now() > given_up {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// Processes whose parent is this one.
pub fn own_children() -> BTreeSet<u32> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        // One that has ended meanwhile is nobody's child.
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = text
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent == Some(own.as_str())
    })
    .collect()
}

/// Peak resident MiB of a running process.
fn peak_memory(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// CPU seconds of all children that ended and were waited for: utime and stime of /proc/self/stat.
pub fn children_cpu() -> f64 {
    let fields = stat("/proc/self/stat");
    ticks(&fields[13..15])
}

/// CPU seconds of a process and of its children that ended.
pub fn process_cpu(pid: u32) -> f64 {
    let fields = stat(&format!("/proc/{pid}/stat"));
    ticks(&fields[11..15])
}

/// Fields after the command's name, so that index 11 is `utime`.
fn stat(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("a process's figures");
    let (_, rest) = text.rsplit_once(')').expect("the command's name");
    rest.split_whitespace().map(str::to_owned).collect()
}

fn ticks(fields: &[String]) -> f64 {
    // Linux counts these in hundredths of a second on every architecture.
    let ticks: u64 = fields
        .iter()
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    ticks as f64 / 100.0
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The middle of each figure over several runs.
pub fn median_cost(costs: &[Cost]) -> Option<Cost> {
    let of = |part: fn(&Cost) -> f64| median(costs.iter().map(part).collect());
    (!costs.is_empty()).then(|| Cost {
        cpu: of(|c| c.cpu),
        wall: of(|c| c.wall),
        memory: of(|c| c.memory),
    })
}

/// The binary that is measured, with a store and a configuration of its own.
pub struct Ours {
    binary: PathBuf,
    dir: tempfile::TempDir,
}

impl Ours {
    /// `None` where `GATEWAY` does not name it. Images of docker.io come from `registry`.
    pub fn of(registry: &Registry) -> Option<Ours> {
        let binary = PathBuf::from(std::env::var_os("GATEWAY")?);
        let dir = tempfile::tempdir().expect("a temporary folder");
        // As installed: of what a linker wrote in small pieces the kernel maps a page at a time, and a short build
        // takes a fifth longer.
        let installed = dir.path().join("gateway");
        std::fs::copy(&binary, &installed).expect("copying the binary named by GATEWAY");
        let binary = installed;
        std::fs::write(dir.path().join("config.toml"), registry.as_docker_hub())
            .expect("writing configuration");
        Some(Ours { binary, dir })
    }

    /// `gateway build` of a context, with more arguments.
    pub fn command(&self, context: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["build", "--quiet", "--root"])
            .arg(self.dir.path().join("store"))
            .arg("--config")
            .arg(self.dir.path().join("config.toml"))
            .args(more)
            .arg(context);
        command
    }

    pub fn build(&self, context: &Path, more: &[&str]) -> Cost {
        timed(&mut self.command(context, more))
    }
}

/// A BuildKit daemon with a store of its own, named by `BUILDKITD` and `BUILDCTL`; ended when dropped.
pub struct BuildKit {
    daemon: Child,
    buildctl: PathBuf,
    address: String,
    _dir: tempfile::TempDir,
}

impl BuildKit {
    /// `None` where the variables are not set. Images of docker.io come from `registry`.
    pub fn start(registry: &Registry) -> Option<BuildKit> {
        let mut buildkitd = Command::new(std::env::var_os("BUILDKITD")?);
        buildkitd.arg("--oci-worker-net=host");
        BuildKit::serve(buildkitd, registry)
    }

    /// Our own daemon in its place: the binary that `GATEWAY` names.
    pub fn ours(registry: &Registry) -> Option<BuildKit> {
        let mut gateway = Command::new(std::env::var_os("GATEWAY")?);
        gateway.arg("daemon");
        BuildKit::serve(gateway, registry)
    }

    fn serve(mut daemon: Command, registry: &Registry) -> Option<BuildKit> {
        let buildctl = PathBuf::from(std::env::var_os("BUILDCTL")?);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("buildkitd.toml");
        std::fs::write(&config, registry.as_docker_hub()).expect("writing configuration");
        let address = format!("unix://{}/buildkitd.sock", dir.path().display());
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let daemon = daemon
            .args(["--addr", &address, "--root"])
            .arg(dir.path().join("root"))
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("starting the daemon");
        let peer = BuildKit {
            daemon,
            buildctl,
            address,
            _dir: dir,
        };
        for _ in 0..100 {
            let ready = peer
                .ctl()
                .args(["debug", "workers"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if ready.is_ok_and(|status| status.success()) {
                return Some(peer);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the daemon does not answer");
    }

    /// Where it listens, as clients write it.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn ctl(&self) -> Command {
        let mut command = Command::new(&self.buildctl);
        command.args(["--addr", &self.address]);
        command
    }

    /// CPU seconds of the daemon and its children that ended.
    pub fn cpu(&self) -> f64 {
        process_cpu(self.daemon.id())
    }

    /// A build of the Dockerfile in `context`, with more arguments.
    pub fn command(&self, context: &Path, more: &[&str]) -> Command {
        let mut command = self.ctl();
        command.args(["build", "--progress=plain", "--frontend", "dockerfile.v0"]);
        for name in ["context", "dockerfile"] {
            command
                .arg("--local")
                .arg(format!("{name}={}", context.display()));
        }
        command.args(more);
        command
    }

    /// Runs it.
    pub fn build(&self, context: &Path, more: &[&str]) -> Cost {
        let before = self.cpu();
        let mut cost = timed(&mut self.command(context, more));
        cost.cpu += self.cpu() - before;
        cost.memory = peak_memory(self.daemon.id()).unwrap_or_default();
        cost
    }
}

impl Drop for BuildKit {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .arg(self.daemon.id().to_string())
            .status();
        let _ = self.daemon.wait();
    }
}

/// buildah with a store of its own, named by `BUILDAH`: a builder without a daemon.
pub struct Buildah {
    program: PathBuf,
    dir: tempfile::TempDir,
}

impl Buildah {
    /// `None` where the variable is not set. Images of docker.io come from `registry`.
    pub fn of(registry: &Registry) -> Option<Buildah> {
        let program = PathBuf::from(std::env::var_os("BUILDAH")?);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = format!(
            "unqualified-search-registries = [\"docker.io\"]\n\n\
             [[registry]]\nprefix = \"docker.io\"\nlocation = \"{}\"\ninsecure = true\n",
            registry.address
        );
        std::fs::write(dir.path().join("registries.conf"), config).expect("writing configuration");
        Some(Buildah { program, dir })
    }

    /// Builds the Dockerfile in `context` with its layers kept, as it is told to for caching.
    pub fn build(&self, context: &Path, no_cache: bool) -> Cost {
        let mut command = Command::new(&self.program);
        command
            .env(
                "CONTAINERS_REGISTRIES_CONF",
                self.dir.path().join("registries.conf"),
            )
            .arg("--root")
            .arg(self.dir.path().join("root"))
            .arg("--runroot")
            .arg(self.dir.path().join("run"))
            .args(["build", "--layers", "--network=host", "-t", "bench"]);
        if no_cache {
            command.arg("--no-cache");
        }
        timed(command.arg(context))
    }
}
