//! The git program, away from everything that the user or the system configured for it.
//!
//! Addresses and logins go in by variables: an argument is seen by every user of the machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use gateway_api::{Code, Error};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::shared::Outcome;
use crate::solve::internal;

/// Where git and what it starts are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Largest output: refs asked for by name, or one object.
const MAX_OUTPUT: u64 = 64 << 20;
/// What is kept of the error output.
const MAX_ERROR: u64 = 64 << 10;
/// A transfer over HTTP that is slower than this, in bytes a second, for that many seconds, ends.
const LOW_SPEED: (&str, &str) = ("100", "60");

/// Settings of every call. The only transports are those that reach other machines; `file` is
/// for ourselves, and never for what a repository names.
const SETTINGS: [(&str, &str); 16] = [
    ("protocol.allow", "never"),
    ("protocol.https.allow", "always"),
    ("protocol.http.allow", "always"),
    ("protocol.git.allow", "always"),
    ("protocol.ssh.allow", "always"),
    ("protocol.file.allow", "user"),
    ("safe.directory", "*"),
    ("init.defaultBranch", "master"),
    ("core.hooksPath", "/dev/null"),
    ("core.logAllRefUpdates", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("credential.helper", ""),
    ("advice.detachedHead", "false"),
    ("http.lowSpeedLimit", LOW_SPEED.0),
    ("http.lowSpeedTime", LOW_SPEED.1),
];

/// How git is called: in which repository, with which login.
#[derive(Clone, Default)]
pub struct Program {
    /// Where it runs; no repository is looked for above it.
    pub dir: PathBuf,
    pub git_dir: Option<PathBuf>,
    pub work_tree: Option<PathBuf>,
    /// The address of `origin`.
    pub origin: Option<String>,
    /// For which addresses, and the whole header.
    pub login: Option<(String, String)>,
    pub ssh_agent: Option<PathBuf>,
    /// The file with the keys of known hosts; without one any host is taken.
    pub known_hosts: Option<PathBuf>,
    /// Never shown.
    pub secrets: Vec<String>,
}

/// A call that failed.
#[derive(Debug)]
pub struct Failure {
    /// What git said, without secrets.
    pub stderr: String,
}

impl Program {
    /// The same for another repository.
    pub fn of(&self, git_dir: &Path, work_tree: Option<&Path>) -> Program {
        Program {
            git_dir: Some(git_dir.to_owned()),
            work_tree: work_tree.map(Path::to_owned),
            dir: work_tree.unwrap_or(&self.dir).to_owned(),
            ..self.clone()
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .args(args)
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .env("HOME", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_SSH_COMMAND", self.ssh())
            .env(
                "GIT_CEILING_DIRECTORIES",
                self.dir.parent().unwrap_or(&self.dir),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(dir) = &self.git_dir {
            command.env("GIT_DIR", dir);
        }
        if let Some(dir) = &self.work_tree {
            command.env("GIT_WORK_TREE", dir);
        }
        if let Some(socket) = &self.ssh_agent {
            command.env("SSH_AUTH_SOCK", socket);
        }
        let mut settings: Vec<(String, &str)> = SETTINGS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        if let Some(url) = &self.origin {
            settings.push(("remote.origin.url".into(), url));
        }
        if let Some((scope, header)) = &self.login {
            settings.push((format!("http.{scope}.extraheader"), header));
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (at, (name, value)) in settings.iter().enumerate() {
            command
                .env(format!("GIT_CONFIG_KEY_{at}"), name)
                .env(format!("GIT_CONFIG_VALUE_{at}"), value);
        }
        command
    }

    /// The user's own keys and settings are not for builds: only a forwarded agent is.
    fn ssh(&self) -> String {
        let hosts = match &self.known_hosts {
            Some(path) => format!("-o UserKnownHostsFile={}", quoted(&path.to_string_lossy())),
            None => "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null".to_owned(),
        };
        format!(
            "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o ConnectTimeout=30 {hosts}"
        )
    }

    /// Runs git; gives its output. Killed with all that it started when this is dropped.
    ///
    /// # Errors
    /// With what git said, unless that has a better meaning.
    pub async fn run(&self, args: &[&str]) -> Outcome<Vec<u8>> {
        self.attempt(args)
            .await?
            .map_err(|failure| Error::unknown(format!("git stderr:\n{}", failure.stderr)))
    }

    /// The same as text, without the line end.
    pub async fn text(&self, args: &[&str]) -> Outcome<String> {
        let output = self.run(args).await?;
        Ok(String::from_utf8_lossy(&output).trim_end().to_owned())
    }

    /// Like `run`, with a failure of git itself as a value.
    pub async fn attempt(&self, args: &[&str]) -> Outcome<Result<Vec<u8>, Failure>> {
        let mut child = self
            .command(args)
            .spawn()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound if self.dir.is_dir() => Error::new(
                    Code::FailedPrecondition,
                    "git repositories need the program git, which is not installed \
                 (on Debian and Ubuntu: apt-get install git)",
                ),
                _ => internal(format!("starting git: {error}")),
            })?;
        let mut group = Group::of(&child);
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let (output, errors, status) = tokio::join!(
            limited(stdout.as_mut(), MAX_OUTPUT),
            limited(stderr.as_mut(), MAX_ERROR),
            child.wait()
        );
        group.ended();
        let status = status.map_err(internal)?;
        if status.success() {
            let output = output.map_err(internal)?;
            if output.len() as u64 > MAX_OUTPUT {
                return Err(Error::unknown(format!(
                    "git printed more than {MAX_OUTPUT} bytes"
                )));
            }
            return Ok(Ok(output));
        }
        let mut text = String::from_utf8_lossy(&errors.unwrap_or_default()).into_owned();
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "xxxxx");
        }
        if text.trim().is_empty() {
            text = status.to_string();
        }
        Ok(Err(Failure { stderr: text }))
    }
}

/// One byte more than the limit tells that it was reached; the rest is read and dropped, so that
/// the program does not wait for ever.
async fn limited(
    stream: Option<&mut (impl AsyncRead + Unpin)>,
    limit: u64,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        (&mut *stream)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .await?;
        tokio::io::copy(stream, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

/// In single quotes for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The program and its helpers: they do not end with it by themselves.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Group {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Group(id.and_then(Pid::from_raw))
    }

    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Not waited for yet, so the id is still its own.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path) -> Program {
        Program {
            dir: dir.to_owned(),
            login: Some(("https://h/".into(), "Authorization: basic SECRET".into())),
            origin: Some("https://u:SECRET@h/r".into()),
            secrets: vec!["SECRET".into()],
            ..Program::default()
        }
    }

    #[test]
    fn secrets_are_no_arguments() {
        let command = program(Path::new("/")).command(&["fetch", "origin"]);
        let args: Vec<_> = command.as_std().get_args().collect();
        assert_eq!(args, ["fetch", "origin"]);
    }

    #[tokio::test]
    async fn what_git_says_has_no_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let failure = program(dir.path())
            .attempt(&["no-such-command-SECRET"])
            .await
            .unwrap()
            .unwrap_err();
        assert!(
            failure.stderr.contains("no-such-command-xxxxx"),
            "{}",
            failure.stderr
        );
    }

    #[tokio::test]
    async fn only_remote_transports_are_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let git = program(dir.path());
        for url in ["ext::sh -c true", "fd::0"] {
            let failure = git.attempt(&["ls-remote", url]).await.unwrap().unwrap_err();
            assert!(failure.stderr.contains("not allowed"), "{}", failure.stderr);
        }
    }

    #[tokio::test]
    async fn a_dropped_call_leaves_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut git = program(dir.path());
        git.origin = None;
        let pid = dir.path().join("pid");
        let line = format!("alias.wait=!echo $$ > {}; sleep 600", pid.display());
        let args = ["-c", &line, "wait"];
        let call = tokio::time::timeout(std::time::Duration::from_secs(2), git.run(&args));
        assert!(call.await.is_err());
        let pid: i32 = std::fs::read_to_string(&pid)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        for _ in 0..100 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the helper still runs");
    }
}
