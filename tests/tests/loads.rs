//! `--load` into the real programs, and the program as a plugin of the real docker command.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::program::{Home, binary, run, stderr};
use gateway_tests::registry::Registry;

/// A daemon starts in seconds; this is for machines under load.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A daemon with everything of its own, ended by its process id.
struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command, mut answers: impl FnMut() -> bool) -> Daemon {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let name = format!("{:?}", command.get_program());
        let child = command.stderr(Stdio::null()).spawn();
        let mut daemon = Daemon(child.unwrap_or_else(|error| panic!("{name}: {error}")));
        let started = Instant::now();
        while !answers() {
            if let Ok(Some(status)) = daemon.0.try_wait() {
                panic!("{name} ended with {status}");
            }
            assert!(started.elapsed() < START_LIMIT, "{name} does not answer");
            std::thread::sleep(Duration::from_millis(200));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It unmounts and ends its own children when it is asked to.
        let pid = i32::try_from(self.0.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

struct Stage {
    _registry: Registry,
    home: Home,
    context: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let registry = Registry::with_base_images();
        let home = Home::new(&registry.as_docker_hub());
        let context = tempfile::tempdir().expect("a temporary folder");
        let file = "FROM busybox\nRUN echo loaded > /said\nCMD [\"cat\", \"/said\"]\n";
        std::fs::write(context.path().join("Dockerfile"), file).expect("writing the build file");
        Stage {
            _registry: registry,
            home,
            context,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.dir.path().join(name)
    }

    /// A folder with this program alone, for PATH.
    fn only(&self, program: &str) -> PathBuf {
        let bin = self.path("bin");
        std::fs::create_dir_all(&bin).expect("making a folder");
        let name = Path::new(program).file_name().expect("a name");
        symlink(program, bin.join(name)).expect("making a link");
        bin
    }

    fn load(&self, bin: &Path, variable: &str, value: &str) {
        let output = run(self
            .home
            .build()
            .env("PATH", bin)
            .env(variable, value)
            .args(["--progress=plain", "-t", "me/app:1", "--load"])
            .arg(self.context.path()));
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

fn said(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn docker_runs_the_plugin_and_what_it_loads() {
    assert!(rustix::process::geteuid().is_root(), "dockerd needs root");
    let stage = Stage::new();
    let config = stage.path("docker");
    let plugins = config.join("cli-plugins");
    std::fs::create_dir_all(&plugins).expect("making a folder");
    symlink(binary(), plugins.join("docker-gateway")).expect("making a link");
    let at = |name: &str| stage.path(name).display().to_string();
    let address = format!("unix://{}", at("socket"));
    let docker = |words: &[&str]| {
        // Debian's client, whatever else is called docker here.
        let mut command = Command::new("/usr/bin/docker");
        command
            .env("DOCKER_CONFIG", &config)
            .env("DOCKER_HOST", &address);
        command
            .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")
            .args(words);
        command
    };
    let _daemon = Daemon::start(
        Command::new("/usr/sbin/dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args(["--pidfile", &at("pid"), "--host", &address])
            .args(["--storage-driver=vfs", "--bridge=none", "--iptables=false"]),
        || run(&mut docker(&["version"])).status.success(),
    );
    let help = said(&mut docker(&["--help"]));
    assert!(help.contains("gateway*"), "it is listed: {help}");

    let mut build = docker(&[
        "gateway",
        "build",
        "--progress=plain",
        "--load",
        "-t",
        "me/app:1",
    ]);
    build.arg("--root").arg(stage.home.store());
    build.arg("--config").arg(stage.path("config.toml"));
    let built = run(build.arg(stage.context.path()));
    assert!(built.status.success(), "{}", stderr(&built));
    let text = stderr(&built);
    assert!(text.contains("Loaded image: me/app:1"), "{text}");
    let ran = said(&mut docker(&["run", "--rm", "--network=none", "me/app:1"]));
    assert_eq!(ran, "loaded\n");

    // Its exit codes are those of the program.
    std::fs::write(
        stage.context.path().join("Dockerfile"),
        "FROM busybox\nRUN exit 7\n",
    )
    .unwrap();
    let mut build = docker(&[
        "gateway",
        "build",
        "--progress=quiet",
        "--no-such-flag",
        ".",
    ]);
    assert_eq!(run(&mut build).status.code(), Some(2));
}

#[test]
fn podman_has_what_was_loaded() {
    let stage = Stage::new();
    let conf = stage.path("storage.conf");
    let text = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
        stage.path("graph"),
        stage.path("run")
    );
    std::fs::write(&conf, text).expect("writing podman's configuration");
    let conf = conf.display().to_string();
    stage.load(
        &stage.only("/usr/bin/podman"),
        "CONTAINERS_STORAGE_CONF",
        &conf,
    );
    let mut inspect = Command::new("/usr/bin/podman");
    inspect.env("CONTAINERS_STORAGE_CONF", &conf);
    inspect.args([
        "image",
        "inspect",
        "--format",
        "{{.Config.Cmd}}",
        "me/app:1",
    ]);
    assert_eq!(said(&mut inspect), "[cat /said]\n");
}

#[test]
fn containerd_has_what_was_loaded() {
    assert!(
        rustix::process::geteuid().is_root(),
        "containerd needs root"
    );
    let stage = Stage::new();
    let at = |name: &str| stage.path(name).display().to_string();
    let config = stage.path("containerd.toml");
    let text = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {:?}\n",
        at("root"),
        at("state"),
        at("containerd.sock")
    );
    std::fs::write(&config, text).expect("writing containerd's configuration");
    let address = at("containerd.sock");
    let ctr = |words: &[&str]| {
        let mut command = Command::new("/usr/bin/ctr");
        command.env("CONTAINERD_ADDRESS", &address).args(words);
        command
    };
    let _daemon = Daemon::start(
        Command::new("/usr/bin/containerd")
            .arg("--config")
            .arg(&config),
        || run(&mut ctr(&["version"])).status.success(),
    );
    stage.load(&stage.only("/usr/bin/ctr"), "CONTAINERD_ADDRESS", &address);
    let images = said(&mut ctr(&["images", "list", "--quiet"]));
    assert_eq!(images, "docker.io/me/app:1\n");
}
