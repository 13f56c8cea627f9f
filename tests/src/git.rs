//! Repositories made by the real git and served by its daemon on a loopback port.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starting takes well below a second; this is for machines under load.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Runs git with nothing of this machine's configuration; gives its output.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.com")
        .env("GIT_AUTHOR_DATE", "2020-02-02T02:02:02Z")
        .env("GIT_COMMITTER_NAME", "a")
        .env("GIT_COMMITTER_EMAIL", "a@example.com")
        .env("GIT_COMMITTER_DATE", "2020-02-02T02:02:02Z")
        .output()
        .expect("git, of Debian's package of that name");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {text}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `git daemon` over one folder of repositories, ended when dropped.
pub struct GitDaemon {
    process: Child,
    pub address: SocketAddr,
    dir: tempfile::TempDir,
}

impl GitDaemon {
    pub fn start() -> GitDaemon {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let address = crate::registry::free_port();
        let process = Command::new("git")
            .args([
                "daemon",
                "--export-all",
                "--reuseaddr",
                "--listen=127.0.0.1",
            ])
            .arg(format!("--port={}", address.port()))
            .arg(format!("--base-path={}", dir.path().display()))
            .arg(dir.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("git, of Debian's package of that name");
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(
                started.elapsed() < START_LIMIT,
                "git daemon does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        GitDaemon {
            process,
            address,
            dir,
        }
    }

    /// A new repository on branch `main`, with these files in its first commit.
    pub fn repository(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).expect("a folder");
        git(&dir, &["init", "--quiet", "--initial-branch=main"]);
        self.commit(&dir, files);
        dir
    }

    /// One more commit; gives its name.
    pub fn commit(&self, dir: &Path, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        git(dir, &["add", "-A"]);
        git(dir, &["commit", "--quiet", "-m", "change"]);
        git(dir, &["rev-parse", "HEAD"])
    }

    pub fn url(&self, name: &str) -> String {
        format!("git://{}/{name}", self.address)
    }
}

impl Drop for GitDaemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
