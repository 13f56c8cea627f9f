//! The same specifications run by OCI runtimes instead of this crate's own
//! stages.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{RUNTIMES, Rig, tree};
use gateway_sandbox::{
    Error, Mount, MountKind, Network, ProcessSpec, Resources, SecretBytes, Stage, Stdio, Ulimit,
};

fn runtimes() -> Vec<PathBuf> {
    for path in RUNTIMES {
        assert!(Path::new(path).exists(), "the tests need {path}");
    }
    RUNTIMES.map(PathBuf::from).to_vec()
}

#[tokio::test]
async fn a_step_runs_under_a_runtime_as_it_does_without() {
    for runtime in runtimes() {
        let rig = Rig::new().await;
        fs::create_dir(rig.path("src")).expect("mkdir");
        fs::write(rig.path("src/a"), "alpha\n").expect("write");
        let mut spec = rig.shell(
            "cat /in/a /run/secret; hostname; pwd; id; echo $HOME $A; tail -n 1 /etc/hosts; \
             ulimit -n; echo x > /in/b 2>/dev/null || echo read-only; touch /kept; \
             df -k /dev/shm | tail -n 1 | awk '{print $2}'; ip -o link | wc -l; exit 7",
        );
        spec.mounts = vec![
            Mount {
                dest: "/dev/shm".into(),
                kind: MountKind::Tmpfs {
                    size_bytes: 32 << 20,
                },
            },
            Mount {
                dest: "/in".into(),
                kind: MountKind::Bind {
                    source: rig.path("src"),
                    selector: String::new(),
                    readonly: true,
                },
            },
            Mount {
                dest: "/run/secret".into(),
                kind: MountKind::SecretFile {
                    data: SecretBytes(b"s3cret\n".to_vec()),
                    uid: 1000,
                    gid: 0,
                    mode: 0o400,
                },
            },
        ];
        spec.cwd = "/site".into();
        spec.user = "app".into();
        spec.env = vec!["A=1".into()];
        spec.hostname = "builder".into();
        spec.extra_hosts = vec![("db".into(), "10.1.2.3".into())];
        spec.network = Network::None;
        spec.ulimits = vec![Ulimit {
            name: "nofile".into(),
            soft: 123,
            hard: 456,
        }];
        fs::create_dir_all(rig.path("layer/kept-dir")).expect("mkdir");
        let own = rig.run(spec.clone()).await;
        fs::remove_dir_all(rig.path("upper")).expect("rm");
        fs::create_dir(rig.path("upper")).expect("mkdir");
        spec.runtime = Some(runtime.clone());
        let theirs = rig.run(spec).await;
        assert_eq!(theirs.stdout, own.stdout, "{runtime:?}: {}", theirs.stderr);
        assert!(own.stdout.contains("10.1.2.3\tdb\n123\nread-only\n"));
        assert_eq!(theirs.status.exit_code(), 7);
        let mut left = tree(&rig.path("upper"));
        left.retain(|name| !["proc", "dev", "sys"].contains(&name.as_str()));
        assert_eq!(left, ["etc", "site"], "{runtime:?}");
    }
}

#[tokio::test]
async fn a_runtime_that_is_missing_or_cannot_run_the_program_says_so() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("true");
    spec.runtime = Some("/no/such/runtime".into());
    let error = rig.try_run(spec).await.expect_err("missing").to_string();
    assert!(
        error.contains("the OCI runtime /no/such/runtime") && error.contains("no such file"),
        "{error}"
    );
    for runtime in runtimes() {
        let mut spec = rig.spec(&["/no/such/program"]);
        spec.runtime = Some(runtime);
        let error = rig.try_run(spec).await.expect_err("missing");
        assert!(
            matches!(&error, Error::Setup(e) if e.stage == Stage::Exec),
            "{error}"
        );
        assert_eq!(error.step_exit_code(), Some(1));
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}

#[tokio::test]
async fn a_container_of_a_runtime_can_be_killed_and_leaves_no_group_behind() {
    let groups = || {
        let all = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        all.flatten()
            .filter_map(|h| fs::read_dir(h.path().join("gateway-runtimes")).ok())
            .map(|group| group.flatten().filter(|e| e.path().is_dir()).count())
            .sum::<usize>()
    };
    for runtime in runtimes() {
        let rig = Rig::new().await;
        let mut spec = rig.shell("(trap '' TERM; sleep 1000) & sleep 1000");
        spec.runtime = Some(runtime);
        spec.cgroup_parent = Some("gateway-runtimes".into());
        let mut running = rig.start(spec).await;
        running.kill();
        assert_eq!(running.wait().await.expect("wait").exit_code(), 137);
        assert_eq!(groups(), 0);
    }
}

#[tokio::test]
async fn further_processes_join_a_container_of_a_runtime() {
    for runtime in runtimes() {
        let rig = Rig::new().await;
        let mut spec = rig.shell("echo first > /tmp/shared; sleep 1000; true");
        spec.network = Network::None;
        spec.hostname = "together".into();
        spec.runtime = Some(runtime.clone());
        let mut first = rig.start(spec).await;
        let (stdout, stdout_end) = common::pipe();
        let script = "while ! grep -s first /tmp/shared; do :; done; hostname; id -u; \
                      grep -e ^CapBnd -e ^Seccomp: /proc/self/status; ip -o link | wc -l; exit 7";
        let process = ProcessSpec {
            args: vec!["/bin/sh".into(), "-c".into(), script.into()],
            user: "app".into(),
            cwd: "/tmp".into(),
            ..ProcessSpec::default()
        };
        let stdio = Stdio {
            stdout: Some(stdout_end),
            ..Stdio::default()
        };
        let stdout = tokio::task::spawn_blocking(move || common::read_all(stdout));
        let mut further = first.exec(process, stdio).await.expect("exec");
        assert_eq!(further.wait().await.expect("wait").exit_code(), 7);
        assert_eq!(
            stdout.await.expect("reader"),
            "first\ntogether\n1000\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n1\n",
            "{runtime:?}"
        );
        let process = ProcessSpec {
            args: vec!["sleep".into(), "2000".into()],
            ..ProcessSpec::default()
        };
        let mut further = first.exec(process, Stdio::default()).await.expect("exec");
        further.kill();
        assert_eq!(further.wait().await.expect("wait").exit_code(), 137);
        first.kill();
        assert_eq!(first.wait().await.expect("wait").exit_code(), 137);
    }
}

#[tokio::test]
async fn a_runtime_enforces_limits_and_an_end_for_want_of_memory_is_seen() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("dd if=/dev/zero of=/dev/null bs=128M count=1 2>/dev/null");
    spec.resources = Resources {
        memory: Some(32 << 20),
        ..Resources::default()
    };
    spec.runtime = runtimes().into_iter().next();
    match rig.try_run(spec).await {
        Ok(outcome) => {
            assert!(!outcome.status.success(), "{outcome:?}");
            assert!(outcome.status.oom_killed, "{outcome:?}");
        }
        // A machine whose hierarchy cannot be written.
        Err(error) => assert!(error.to_string().contains("cgroup"), "{error}"),
    }
}
