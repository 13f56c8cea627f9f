//! A root file system made of busybox, and a short way to run something in it.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use gateway_sandbox::{
    Error, ExitStatus, Launcher, LauncherOptions, Root, Running, SandboxSpec, Stdio,
};
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";

/// Applets that the tests call by name.
const APPLETS: [&str; 41] = [
    "sh", "cat", "ls", "id", "env", "echo", "touch", "mkdir", "rm", "rmdir", "stat", "sleep",
    "hostname", "true", "false", "mount", "umount", "mknod", "grep", "sort", "wc", "kill", "chmod",
    "chown", "ip", "dd", "mv", "ln", "df", "awk", "tail", "printf", "pwd", "unshare", "head", "tr",
    "test", "nc", "setsid", "stty", "tty",
];

/// A layer with busybox and an upper directory over it.
pub struct Rig {
    pub dir: TempDir,
    pub launcher: Launcher,
}

/// What a run left.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

pub fn make_layer(layer: &Path) {
    fs::create_dir_all(layer.join("bin")).expect("mkdir");
    fs::create_dir_all(layer.join("etc")).expect("mkdir");
    fs::create_dir_all(layer.join("tmp")).expect("mkdir");
    fs::copy(BUSYBOX, layer.join("bin/busybox"))
        .expect("the tests need /bin/busybox of the package busybox-static");
    for applet in APPLETS {
        symlink("busybox", layer.join("bin").join(applet)).expect("symlink");
    }
    fs::write(
        layer.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
    )
    .expect("write");
    fs::write(
        layer.join("etc/group"),
        "root:x:0:\napp:x:1000:\nstaff:x:50:\nextra:x:2000:app\n",
    )
    .expect("write");
}

/// OCI runtimes: Debian's packages of these names.
pub const RUNTIMES: [&str; 2] = ["/usr/sbin/runc", "/usr/bin/crun"];

pub async fn launcher() -> Launcher {
    let options = LauncherOptions {
        program: PathBuf::from(env!("CARGO_BIN_EXE_sandbox-run")),
    };
    Launcher::start(options).await.expect("launcher")
}

impl Rig {
    pub async fn new() -> Rig {
        let dir = tempfile::tempdir().expect("tempdir");
        make_layer(&dir.path().join("layer"));
        for name in ["upper", "work"] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        Rig {
            dir,
            launcher: launcher().await,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn upper(&self, name: &str) -> PathBuf {
        self.path("upper").join(name)
    }

    pub fn spec(&self, args: &[&str]) -> SandboxSpec {
        let root = Root::Overlay {
            lowers: vec![self.path("layer")],
            upper: self.path("upper"),
            work: self.path("work"),
        };
        SandboxSpec::new(root, args.iter().map(|a| (*a).to_owned()).collect())
    }

    pub fn shell(&self, script: &str) -> SandboxSpec {
        self.spec(&["/bin/sh", "-c", script])
    }

    pub async fn run(&self, spec: SandboxSpec) -> Outcome {
        self.try_run(spec).await.expect("run")
    }

    pub async fn try_run(&self, spec: SandboxSpec) -> Result<Outcome, Error> {
        let (stdout, stdout_end) = pipe();
        let (stderr, stderr_end) = pipe();
        let stdio = Stdio {
            stdin: None,
            stdout: Some(stdout_end),
            stderr: Some(stderr_end),
        };
        let stdout = tokio::task::spawn_blocking(move || read_all(stdout));
        let stderr = tokio::task::spawn_blocking(move || read_all(stderr));
        let mut running = self.launcher.spawn(spec, stdio).await?;
        let status = running.wait().await?;
        Ok(Outcome {
            status,
            stdout: stdout.await.expect("reader"),
            stderr: stderr.await.expect("reader"),
        })
    }

    pub async fn output(&self, script: &str) -> String {
        let outcome = self.run(self.shell(script)).await;
        assert!(outcome.status.success(), "{script}: {outcome:?}");
        outcome.stdout
    }

    /// As `output`, in a root of its own.
    pub async fn launcher_output(&self, script: &str) -> String {
        let mut spec = self.shell(script);
        spec.root = Root::Throwaway {
            lowers: vec![self.path("layer")],
            size_bytes: 0,
        };
        let outcome = self.run(spec).await;
        assert!(outcome.status.success(), "{script}: {outcome:?}");
        outcome.stdout
    }

    pub async fn start(&self, spec: SandboxSpec) -> Running {
        self.launcher
            .spawn(spec, Stdio::default())
            .await
            .expect("start")
    }
}

pub fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe")
}

pub fn read_all(fd: OwnedFd) -> String {
    let mut text = Vec::new();
    fs::File::from(fd).read_to_end(&mut text).expect("read");
    String::from_utf8_lossy(&text).into_owned()
}

/// Names below a directory, sorted, relative to it.
pub fn tree(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).expect("read_dir").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(dir).expect("below").display().to_string();
            names.push(name);
            if entry.file_type().expect("type").is_dir() {
                todo.push(path);
            }
        }
    }
    names.sort();
    names
}
