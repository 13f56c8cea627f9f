//! Points 64 to 68: what must not be seen from inside, or stay afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use gateway_sandbox::{MountKind, Root, SecretBytes};

use crate::common::tree;
use crate::places::{Bench, Place, attempts, mount, wait_until};

#[test]
fn s64_a_payload_has_three_descriptors_however_many_its_caller_left_open() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        let inner = bench.command(&bench.shell("ls /proc/$$/fd; true"));
        let mut leaking = Command::new("sh");
        leaking
            .args([
                "-c",
                "exec 3</ 7</etc/passwd 9</proc/self/ns/net; exec \"$@\"",
                "sh",
            ])
            .arg(inner.get_program())
            .args(inner.get_args())
            .stdin(Stdio::null());
        let output = leaking.output().expect("sh");
        assert_eq!(output.stdout, b"0\n1\n2\n", "{place:?}: {output:?}");
    }
}

#[test]
fn s65_no_path_of_proc_leads_to_the_host() {
    attempts(&[
        ("same:/proc/1/root", "root"),
        ("same:/proc/self/root", "root"),
        ("same:/proc/self/cwd", "root"),
        ("link:/proc/1/cwd", "/"),
        ("link:/proc/1/exe", "/bin/probe"),
        ("same:/proc/1/cwd/..", "root"),
        ("list:/proc/self/fd/3", "ENOENT"),
        ("same:/proc/self/task/1/root", "root"),
    ]);
    for place in Place::ALL {
        let bench = Bench::new(place);
        let seen = bench.output(&bench.shell("ls -l /proc/1/fd/ | awk '{print $NF}'"));
        let host = seen.lines().filter(|line| line.starts_with('/'));
        let host: Vec<&str> = host.filter(|line| *line != "/dev/null").collect();
        assert_eq!(host, Vec::<&str>::new(), "{place:?}");
    }
}

#[test]
fn s66_the_launchers_program_cannot_be_changed_from_inside() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        let program = bench.path("sandbox-run");
        let before = fs::read(&program).expect("read");
        // The program that makes the sandbox, executed as its payload.
        let output = bench.run(&bench.spec(&["/proc/self/exe", "--version"]));
        assert!(!output.status.success(), "{place:?}: {output:?}");
        // A script whose interpreter it is.
        let script = "printf '#!/proc/self/exe\\n' > /s; chmod 755 /s; /s; echo; \
                      for f in /proc/*/exe; do echo x 2>/dev/null >> $f; done; true";
        bench.run(&bench.shell(script));
        assert!(before == fs::read(&program).expect("read"), "{place:?}");
    }
}

#[tokio::test]
async fn s66_a_process_that_joins_a_sandbox_does_not_show_its_program() {
    use gateway_sandbox::{ProcessSpec, Stdio};
    let bench = Bench::new(Place::Root);
    let program = env!("CARGO_BIN_EXE_sandbox-run");
    let before = fs::read(program).expect("read");
    let launcher = crate::common::launcher().await;
    let (stdout, stdout_end) = crate::common::pipe();
    let stdio = Stdio {
        stdout: Some(stdout_end),
        ..Stdio::default()
    };
    let mut hunter = launcher
        .spawn(bench.spec(&["/bin/probe", "hunt"]), stdio)
        .await
        .expect("start");
    wait_until(
        || bench.path("upper/tmp/hunting").exists(),
        "the hunt is on",
    );
    for n in 0..40 {
        let last = n == 39;
        let words: &[&str] = if last {
            &["touch", "/tmp/end"]
        } else {
            &["true"]
        };
        let process = ProcessSpec {
            args: words.iter().map(|w| (*w).to_owned()).collect(),
            ..ProcessSpec::default()
        };
        let mut further = hunter.exec(process, Stdio::default()).await.expect("exec");
        further.wait().await.expect("wait");
    }
    hunter.wait().await.expect("wait");
    let report = crate::common::read_all(stdout);
    assert_eq!(report, "seen 1 caught 0 written 0\n");
    assert!(before == fs::read(program).expect("read"));
}

#[test]
fn s67_the_callers_environment_does_not_reach_a_payload() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        let spec = bench.shell("cat /proc/1/environ | tr '\\0' '\\n'; env");
        let mut command = bench.command(&spec);
        command.env("REGISTRY_TOKEN", "t0ken-of-the-caller");
        let output = command.output().expect("run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("PATH="), "{place:?}: {output:?}");
        assert!(
            !text.contains("TOKEN") && !text.contains("t0ken"),
            "{place:?}: {text}"
        );
    }
}

#[test]
fn s68_a_secret_has_its_mode_and_owner_and_is_gone_afterwards() {
    const SECRET: &str = "s3cret-that-must-not-stay";
    for place in Place::ALL {
        let bench = Bench::new(place);
        let mut spec = bench.shell(
            "stat -c '%a %u %g' /run/keys/one; cat /run/keys/one | wc -c; \
             echo x 2>/dev/null > /run/keys/one || echo read-only",
        );
        spec.mounts = vec![mount(
            "/run/keys/one",
            MountKind::SecretFile {
                data: SecretBytes(SECRET.into()),
                uid: 1000,
                gid: 50,
                mode: 0o440,
            },
        )];
        assert_eq!(
            bench.output(&spec),
            "440 1000 50\n25\nread-only\n",
            "{place:?}"
        );
        fs::remove_file(bench.path("spec.json")).expect("rm");
        assert!(
            !tree(&bench.path("upper"))
                .iter()
                .any(|name| name.starts_with("run"))
        );
        let found = Command::new("grep")
            .args(["-r", "-l", "-a", SECRET])
            .arg(bench.path(""))
            .output()
            .expect("grep");
        assert_eq!(found.stdout, b"", "{place:?}");
        assert_eq!(
            bench.output(&bench.shell("ls /run/keys 2>/dev/null || echo gone")),
            "gone\n"
        );
    }
}

#[test]
fn s69_a_socket_has_its_owner_and_mode_and_only_its_run_has_it() {
    use std::os::unix::net::UnixListener;
    for place in Place::ALL {
        let bench = Bench::new(place);
        fs::create_dir(bench.path("agent")).expect("mkdir");
        let socket = bench.path("agent/s");
        let _listener = UnixListener::bind(&socket).expect("bind");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).expect("chmod");
        bench.hand_over();
        let mut spec = bench.shell("stat -c '%a %u %F' /run/agent.0; ls /run");
        spec.mounts = vec![mount(
            "/run/agent.0",
            MountKind::Bind {
                source: socket,
                selector: String::new(),
                readonly: false,
            },
        )];
        assert_eq!(bench.output(&spec), "600 0 socket\nagent.0\n", "{place:?}");
        assert!(
            !tree(&bench.path("upper"))
                .iter()
                .any(|name| name.contains("agent"))
        );
        // Another user of the same run has no way in.
        spec.args = bench.probe(&["connect:/run/agent.0"]).args;
        assert_eq!(
            bench.output(&spec),
            "connect:/run/agent.0 ok\n",
            "{place:?}"
        );
        spec.user = "app".into();
        assert_eq!(
            bench.output(&spec),
            "connect:/run/agent.0 EACCES\n",
            "{place:?}"
        );
        assert_eq!(
            bench.output(&bench.shell("ls /run 2>/dev/null || echo gone")),
            "gone\n"
        );
    }
}

#[test]
fn a_throwaway_root_leaves_nothing_on_disk() {
    for place in Place::OURS {
        let bench = Bench::new(place);
        let before = tree(&bench.path(""));
        let mut spec = bench.shell("echo x > /file; rm -r /etc; mkdir /d");
        spec.root = Root::Throwaway {
            lowers: vec![bench.path("layer")],
            size_bytes: 0,
        };
        bench.output(&spec);
        let after: Vec<String> = tree(Path::new(&bench.path("")));
        let new: Vec<&String> = after.iter().filter(|name| !before.contains(name)).collect();
        assert_eq!(new, ["spec.json"], "{place:?}");
    }
}
