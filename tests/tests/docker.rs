//! The project's frontend image under the BuildKit inside Debian's docker: an engine of 2020, as far as
//! its capabilities reach.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::registry::Registry;

/// A daemon starts in seconds; this is for machines under load.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Debian's dockerd with everything of its own, ended by its process id.
struct Docker {
    process: Child,
    dir: tempfile::TempDir,
}

impl Docker {
    fn start() -> Docker {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let log = fs::File::create(dir.path().join("log")).expect("a log file");
        let process = Command::new("/usr/sbin/dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args(["--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("socket"))])
            // No step of these builds needs a network of its own.
            .args(["--storage-driver=vfs", "--bridge=none", "--iptables=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd, of Debian's package docker.io");
        let mut docker = Docker { process, dir };
        let started = Instant::now();
        while !docker.command(&["version"]).status.success() {
            let log = || fs::read_to_string(docker.dir.path().join("log")).unwrap_or_default();
            if let Ok(Some(status)) = docker.process.try_wait() {
                panic!("dockerd ended with {status}: {}", log());
            }
            assert!(started.elapsed() < START_LIMIT, "no answer: {}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
        docker
    }

    fn command(&self, args: &[&str]) -> Output {
        // Debian's client, whatever else is called docker here.
        Command::new("/usr/bin/docker")
            .env("DOCKER_BUILDKIT", "1")
            .env("DOCKER_CONFIG", self.dir.path().join("config"))
            .arg("--host")
            .arg(format!(
                "unix://{}",
                self.dir.path().join("socket").display()
            ))
            .args(args)
            .output()
            .expect("docker, of Debian's package docker.io")
    }

    /// Builds `dir/context` into the folder `dir/out`; what was printed, and whether it worked.
    fn build(&self, dir: &Path, more: &[&str]) -> (bool, String) {
        let out = dir.join("out").display().to_string();
        let context = dir.join("context").display().to_string();
        let secret = format!("id=token,src={}", dir.join("token").display());
        let mut args = vec!["build", "--progress=plain", "--network=none", "--no-cache"];
        args.extend(["--secret", &secret, "--output", &out]);
        args.extend(more);
        args.push(&context);
        let output = self.command(&args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), text)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It unmounts and ends its own children when it is asked to.
        let pid = i32::try_from(self.process.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

#[test]
fn our_frontend_image_builds_under_debians_docker() {
    if !rustix::process::geteuid().is_root() {
        // The suite runs as root (scripts/test says so); nobody else can start dockerd.
        panic!("dockerd needs root");
    }
    let registry = Registry::with_base_images();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    registry.build_and_push(&project, "our/dockerfile:1");
    let docker = Docker::start();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let context = dir.path().join("context");
    fs::create_dir_all(context.join("dir")).unwrap();
    fs::write(dir.path().join("token"), "hush").unwrap();
    fs::write(context.join("dir/kept.txt"), "kept").unwrap();
    fs::write(context.join("dir/left.md"), "left").unwrap();
    fs::write(context.join(".dockerignore"), "**/*.md\n").unwrap();
    // Docker speaks to registries on loopback addresses without TLS.
    let plain = registry.without_tls();
    let address = plain.address;
    let file = |body: &str| {
        let text = format!("# syntax = {address}/our/dockerfile:1\n{body}");
        fs::write(context.join("Dockerfile"), text).unwrap();
    };

    file(&format!(
        "ARG BASE={address}/library/busybox
FROM ${{BASE%/}} AS base
ARG WHO=nobody
RUN --mount=type=cache,target=/cache --mount=type=secret,id=token <<SH
set -e
echo \"hello $WHO $(wc -c < /run/secrets/token)\" > /greeting
touch /cache/there
SH
FROM scratch
COPY --link --from=base --chmod=0600 /greeting /
COPY dir /dir
COPY <<TEXT /inline
${{WHO:-unset}} \\$kept
TEXT
WORKDIR /made
"
    ));
    let (ok, text) = docker.build(dir.path(), &["--build-arg", "WHO=you"]);
    assert!(ok, "{text}");
    let read = |name: &str| fs::read_to_string(dir.path().join("out").join(name)).unwrap();
    assert_eq!(read("greeting"), "hello you 4\n");
    assert_eq!(read("inline"), "unset $kept\n");
    assert_eq!(read("dir/kept.txt"), "kept");
    assert!(!dir.path().join("out/dir/left.md").exists());
    assert!(dir.path().join("out/made").is_dir());
    assert!(text.contains("[base 2/2] RUN --mount=type=cache"), "{text}");

    file("FROM scratch\nCOPPY a /\n");
    let (ok, text) = docker.build(dir.path(), &[]);
    assert!(!ok);
    assert!(
        text.contains(
            "dockerfile parse error on line 3: unknown instruction: COPPY (did you mean COPY?)"
        ),
        "{text}"
    );
}
