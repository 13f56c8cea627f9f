//! Runs the real binary with a store and configuration of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The `gateway` binary of this build.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("the test's own path");
    // target/debug/deps/TEST -> target/debug/gateway
    let path = own
        .parent()
        .and_then(Path::parent)
        .map(|dir| dir.join("gateway"))
        .expect("the target folder");
    assert!(
        path.exists(),
        "{} is missing: build the workspace first (cargo build --workspace)",
        path.display()
    );
    path
}

/// One store and its configuration, gone when dropped.
pub struct Home {
    pub dir: tempfile::TempDir,
}

impl Home {
    pub fn new(config: &str) -> Home {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("config.toml"), config).expect("writing configuration");
        Home { dir }
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// `gateway COMMAND` with this configuration, logins of its own and, where the command has one, this store.
    pub fn command(&self, command: &[&str]) -> Command {
        let mut program = Command::new(binary());
        program
            .args(command)
            .arg("--config")
            .arg(self.dir.path().join("config.toml"))
            .env("DOCKER_CONFIG", self.dir.path().join("docker"))
            .env("XDG_CONFIG_HOME", self.dir.path().join("xdg"))
            .stdin(Stdio::null());
        if matches!(
            command.first(),
            Some(&("pull" | "push" | "copy" | "images" | "save" | "lock" | "vendor"))
        ) {
            program.arg("--root").arg(self.store());
        }
        program
    }

    /// `gateway build` with this store and configuration, more arguments to follow.
    pub fn build(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .arg("build")
            .arg("--root")
            .arg(self.store())
            .arg("--config")
            .arg(self.dir.path().join("config.toml"))
            .stdin(Stdio::null());
        command
    }
}

/// Runs to the end and gives status, stdout and stderr.
pub fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()))
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a tool that must succeed; gives its stdout.
pub fn tool<S: AsRef<OsStr>>(program: &str, args: &[S]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
