//! The places an attempt is made in: a sandbox made by root, one made by an
//! ordinary user, and, as the yardstick, one of the same specification made by
//! runc.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gateway_sandbox::{Mount, MountKind, Network, Profile, Root, SandboxSpec};
use tempfile::TempDir;

use crate::common;

/// Made by `scripts/test`, with subordinate ids.
const USER: &str = "gateway-test";
const RUNC: &str = "/usr/sbin/runc";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Root,
    User,
    Runc,
}

impl Place {
    pub const OURS: [Place; 2] = [Place::Root, Place::User];
    pub const ALL: [Place; 3] = [Place::Root, Place::User, Place::Runc];
}

/// A root file system with busybox and the probe, and what is needed to run
/// something in it in one of the places.
pub struct Bench {
    pub place: Place,
    dir: TempDir,
}

impl Bench {
    pub fn new(place: Place) -> Bench {
        let dir = tempfile::tempdir().expect("tempdir");
        let layer = dir.path().join("layer");
        common::make_layer(&layer);
        add_probe(&layer);
        for name in ["upper", "work"] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        fs::copy(
            env!("CARGO_BIN_EXE_sandbox-run"),
            dir.path().join("sandbox-run"),
        )
        .expect("copy");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let bench = Bench { place, dir };
        bench.hand_over();
        bench
    }

    /// Gives everything to who will run it.
    pub fn hand_over(&self) {
        if self.place == Place::User {
            let status = Command::new("chown")
                .args(["-R", "--no-dereference", &format!("{USER}:")])
                .arg(self.dir.path())
                .status();
            assert!(
                status.expect("chown").success(),
                "the tests need an ordinary user: useradd -m {USER}"
            );
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn spec(&self, args: &[&str]) -> SandboxSpec {
        let root = Root::Overlay {
            lowers: vec![self.path("layer")],
            upper: self.path("upper"),
            work: self.path("work"),
        };
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        SandboxSpec {
            runtime: (self.place == Place::Runc).then(|| RUNC.into()),
            ..SandboxSpec::new(root, args)
        }
    }

    pub fn shell(&self, script: &str) -> SandboxSpec {
        self.spec(&["/bin/sh", "-c", script])
    }

    pub fn probe(&self, attempts: &[&str]) -> SandboxSpec {
        self.spec(&[&["/bin/probe", "try"], attempts].concat())
    }

    /// As a frontend without network is run.
    pub fn strict(&self, spec: SandboxSpec) -> SandboxSpec {
        SandboxSpec {
            profile: Profile::FrontendStrict,
            network: Network::None,
            root: Root::Throwaway {
                lowers: vec![self.path("layer")],
                size_bytes: 1 << 20,
            },
            root_readonly: true,
            ..spec
        }
    }

    /// `sandbox-run` of a specification, as the place's user.
    pub fn command(&self, spec: &SandboxSpec) -> Command {
        let file = self.path("spec.json");
        fs::write(&file, serde_json::to_vec(spec).expect("json")).expect("write");
        let program = self.path("sandbox-run");
        let mut command = match self.place {
            Place::User => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--reuid", USER, "--regid", USER, "--init-groups", "--"])
                    .arg(program);
                command
            }
            Place::Root | Place::Runc => Command::new(program),
        };
        command.arg(file).stdin(Stdio::null());
        command
    }

    pub fn run(&self, spec: &SandboxSpec) -> Output {
        let output = self.command(spec).output();
        // What the run did with it is not the next one's.
        let _ = fs::remove_dir_all(self.path("work").join("work").join("incompat"));
        output.expect("sandbox-run")
    }

    /// What a run printed; it must succeed.
    pub fn output(&self, spec: &SandboxSpec) -> String {
        let output = self.run(spec);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let place = self.place;
        assert!(
            output.status.success(),
            "{place:?}: {}: {stderr}",
            output.status
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a run that never started said.
    pub fn refusal(&self, spec: &SandboxSpec) -> String {
        let output = self.run(spec);
        assert_eq!(
            output.status.code(),
            Some(125),
            "{:?}: {output:?}",
            self.place
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// The probe with the libraries it was linked with.
fn add_probe(layer: &Path) {
    let probe = env!("CARGO_BIN_EXE_sandbox-probe");
    fs::copy(probe, layer.join("bin/probe")).expect("copy");
    let libraries = Command::new("ldd").arg(probe).output().expect("ldd");
    let text = String::from_utf8_lossy(&libraries.stdout).into_owned();
    for path in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let inside = layer.join(path.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().expect("a folder")).expect("mkdir");
        fs::copy(path, inside).expect("copy");
    }
}

pub fn mount(dest: &str, kind: MountKind) -> Mount {
    Mount {
        dest: dest.into(),
        kind,
    }
}

pub fn tmpfs() -> MountKind {
    MountKind::Tmpfs { size_bytes: 0 }
}

/// Attempts with the answers that both of our places must give (several are
/// separated by `|`). What runc refuses must be among what is refused here.
pub fn attempts(expected: &[(&str, &str)]) {
    attempts_in(expected, |_, _| {});
}

/// The same after a change of bench and specification.
pub fn attempts_in(expected: &[(&str, &str)], change: impl Fn(&Bench, &mut SandboxSpec)) {
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let mut answers = Vec::new();
    for place in Place::ALL {
        let bench = Bench::new(place);
        let mut spec = bench.probe(&names);
        change(&bench, &mut spec);
        bench.hand_over();
        let text = bench.output(&spec);
        let given: Vec<String> = text
            .lines()
            .zip(&names)
            .map(|(line, name)| {
                let answer = line.strip_prefix(name).and_then(|l| l.strip_prefix(' '));
                answer
                    .unwrap_or_else(|| panic!("{line} is no answer for {name}"))
                    .to_owned()
            })
            .collect();
        assert_eq!(given.len(), names.len(), "{place:?}: {text}");
        answers.push(given);
    }
    let [root, user, runc] = answers.as_slice() else {
        panic!("three places");
    };
    for (((name, expected), runc), ours) in expected.iter().zip(runc).zip(root.iter().zip(user)) {
        for (place, answer) in Place::OURS.iter().zip([ours.0, ours.1]) {
            assert!(
                expected.split('|').any(|e| e == answer),
                "{name} as {place:?}: {answer} instead of {expected}"
            );
            assert!(
                !is_refusal(runc) || is_refusal(answer),
                "{name} as {place:?}: {answer}, but runc says {runc}"
            );
        }
    }
}

/// An error's name, alone or after what was possible before it.
fn is_refusal(answer: &str) -> bool {
    let last = answer.rsplit(' ').next().unwrap_or_default();
    last.len() > 1
        && last.starts_with('E')
        && last
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
}

pub fn wait_until(mut condition: impl FnMut() -> bool, what: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !condition() {
        assert!(
            std::time::Instant::now() < deadline,
            "not within 20 s: {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Processes of this machine that have `marker` as an argument.
pub fn marked(marker: &str) -> usize {
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    processes
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter(|cmdline| {
            cmdline
                .split(|b| *b == 0)
                .skip(1)
                .any(|a| a == marker.as_bytes())
        })
        .count()
}
