//! Running as an ordinary user. Needs a user called `gateway-test` with ranges
//! in `/etc/subuid` and `/etc/subgid`, `newuidmap`, and to be started by root.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use gateway_sandbox::{Mount, MountKind, Network, Profile, Root, SandboxSpec, SecretBytes};
use tempfile::TempDir;

const USER: &str = "gateway-test";

/// A layer and an upper directory that belong to the user, and the program.
struct Rig {
    dir: TempDir,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path();
        common::make_layer(&path.join("layer"));
        for name in ["upper", "work"] {
            fs::create_dir(path.join(name)).expect("mkdir");
        }
        fs::copy(env!("CARGO_BIN_EXE_sandbox-run"), path.join("sandbox-run")).expect("copy");
        let chown = Command::new("chown")
            .args(["-R", &format!("{USER}:")])
            .arg(path)
            .status();
        assert!(
            chown.expect("chown").success(),
            "the tests need an ordinary user: useradd -m {USER}"
        );
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
        Rig { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn shell(&self, script: &str) -> SandboxSpec {
        let root = Root::Overlay {
            lowers: vec![self.path().join("layer")],
            upper: self.path().join("upper"),
            work: self.path().join("work"),
        };
        let args = ["/bin/sh", "-c", script];
        SandboxSpec::new(root, args.iter().map(|a| (*a).to_owned()).collect())
    }

    fn command(&self, options: &[&str], spec: &SandboxSpec) -> Command {
        let file = self.path().join("spec.json");
        fs::write(&file, serde_json::to_vec(spec).expect("json")).expect("write");
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", USER, "--regid", USER, "--init-groups", "--"])
            .arg(self.path().join("sandbox-run"))
            .args(options)
            .arg(file)
            .stdin(std::process::Stdio::null());
        command
    }

    fn run(&self, spec: &SandboxSpec) -> Output {
        self.command(&[], spec).output().expect("setpriv")
    }

    fn output(&self, spec: &SandboxSpec) -> String {
        let output = self.run(spec);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn an_ordinary_user_is_root_inside_and_its_ids_are_its_ranges() {
    let rig = Rig::new();
    let seen = rig.output(
        &rig.shell("id -u; touch /mine /theirs; chown 1000:50 /theirs; stat -c '%u %g' /theirs"),
    );
    assert_eq!(seen, "0\n1000 50\n");
    let owner = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(rig.path().join("upper").join(name))
            .expect("file")
            .uid()
    };
    assert_eq!(owner("mine"), {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(rig.path()).expect("dir").uid()
    });
    assert!(owner("theirs") >= 100_000, "{}", owner("theirs"));
}

#[test]
fn a_rootless_step_is_confined_like_any_other() {
    let rig = Rig::new();
    let status = rig.output(&rig.shell(
        "grep -e ^CapEff -e ^CapBnd -e ^Seccomp: /proc/self/status; ls /dev | wc -l; \
         echo x > /dev/null; head -c 1 /dev/zero | wc -c; touch /proc/sys/kernel/x 2>/dev/null || echo ro",
    ));
    assert_eq!(
        status,
        "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n14\n1\nro\n"
    );
}

#[test]
fn other_users_and_no_network_work_rootless() {
    let rig = Rig::new();
    let mut spec = rig.shell("id; ls /sys/class/net | grep -x lo");
    spec.user = "app".into();
    spec.network = Network::None;
    let seen = rig.output(&spec);
    assert_eq!(
        seen,
        "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)\nlo\n"
    );
}

#[test]
fn removing_a_directory_of_the_base_works_rootless() {
    let rig = Rig::new();
    let base = rig.path().join("layer/base/dir");
    fs::create_dir_all(&base).expect("mkdir");
    Command::new("chown")
        .args(["-R", USER])
        .arg(rig.path().join("layer/base"))
        .status()
        .expect("chown");
    let seen = rig.output(
        &rig.shell("rmdir /base/dir && rm -r /base && ls -d /base 2>/dev/null || echo gone"),
    );
    assert_eq!(seen, "gone\n");
}

#[test]
fn a_single_id_is_enough_for_a_step_that_runs_as_root() {
    let rig = Rig::new();
    let spec = rig.shell("id -u; mkdir /d && echo made; chown 1000 /d 2>/dev/null || echo refused");
    let output = rig
        .command(&["--single-id"], &spec)
        .output()
        .expect("setpriv");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "0\nmade\nrefused\n",
        "{stderr}"
    );
    let mut spec = rig.shell("true");
    spec.user = "app".into();
    let output = rig
        .command(&["--single-id"], &spec)
        .output()
        .expect("setpriv");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("only mapped ids exist"), "{stderr}");
}

#[test]
fn throw_away_roots_secrets_and_frontends_work_rootless() {
    let rig = Rig::new();
    let mut spec = rig.shell(
        "rm -r /etc/group && echo x > /y && cat /y /run/secret; grep ^CapPrm /proc/self/status",
    );
    spec.root = Root::Throwaway {
        lowers: vec![rig.path().join("layer")],
        size_bytes: 1 << 20,
    };
    spec.profile = Profile::FrontendStrict;
    spec.network = Network::None;
    spec.mounts = vec![Mount {
        dest: "/run/secret".into(),
        kind: MountKind::SecretFile {
            data: SecretBytes(b"s3cret\n".to_vec()),
            uid: 0,
            gid: 0,
            mode: 0o400,
        },
    }];
    assert_eq!(rig.output(&spec), "x\ns3cret\nCapPrm:\t0000000000000000\n");
}

#[test]
fn exit_codes_come_through_both_processes() {
    let rig = Rig::new();
    assert_eq!(rig.run(&rig.shell("exit 7")).status.code(), Some(7));
}

#[test]
fn killing_the_outer_process_leaves_none_behind() {
    let rig = Rig::new();
    let marker = format!("31{:05}", std::process::id());
    let mut child = rig
        .command(&[], &rig.shell(&format!("sleep {marker} & sleep {marker}")))
        .spawn()
        .expect("spawn");
    let sleepers = || {
        let mut count = 0;
        for entry in fs::read_dir("/proc").expect("proc").flatten() {
            let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if cmdline.split(|b| *b == 0).nth(1) == Some(marker.as_bytes()) {
                count += 1;
            }
        }
        count
    };
    wait_until(|| sleepers() == 2, "both payload processes run");
    child.kill().expect("kill");
    child.wait().expect("wait");
    wait_until(|| sleepers() == 0, "no payload process is left");
}

#[test]
fn a_partly_hidden_proc_outside_is_lent_with_a_warning() {
    let rig = Rig::new();
    let spec = rig.shell("cat /proc/self/comm; touch /proc/sys/kernel/x 2>/dev/null || echo ro");
    let inner = rig.command(&[], &spec);
    // As container engines hide it.
    let mut hiding = Command::new("unshare");
    hiding
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs none /proc/fs && exec \"$@\"")
        .arg("sh")
        .arg(inner.get_program())
        .args(inner.get_args());
    let output = hiding.output().expect("unshare");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "cat\nro\n",
        "{stderr}"
    );
    assert!(
        stderr.contains("warning: /proc is partly hidden"),
        "{stderr}"
    );
}

#[test]
fn a_signal_to_the_outer_process_ends_the_program_inside() {
    let rig = Rig::new();
    let mut child = rig
        .command(&[], &rig.shell("touch /started; sleep 1000"))
        .spawn()
        .expect("spawn");
    let started = rig.path().join("upper/started");
    wait_until(|| started.exists(), "the payload runs");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
    assert_eq!(child.wait().expect("wait").code(), Some(143));
}

fn wait_until(mut condition: impl FnMut() -> bool, what: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(
            std::time::Instant::now() < deadline,
            "not within 10 s: {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
