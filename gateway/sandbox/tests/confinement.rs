//! What a payload must not be able to do, and that it ends when it must.

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use common::Rig;
use gateway_sandbox::{Network, Profile, Root, SandboxSpec, Security, Stdio};

#[tokio::test]
async fn a_step_cannot_change_mounts_or_make_namespaces() {
    let rig = Rig::new().await;
    for attempt in [
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /proc/sys",
        "umount /proc/keys",
        "unshare -m true",
        "unshare -r true",
        "hostname other",
    ] {
        let outcome = rig.run(rig.shell(&format!("{attempt} 2>/dev/null"))).await;
        assert!(!outcome.status.success(), "{attempt}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_device_node_can_be_made_but_not_opened() {
    let rig = Rig::new().await;
    let seen = rig
        .output("for d in / /tmp /dev; do mknod $d/mine c 1 3 && cat $d/mine 2>/dev/null || echo refused; rm $d/mine; done")
        .await;
    assert_eq!(seen, "refused\nrefused\nrefused\n");
}

#[tokio::test]
async fn writes_to_kernel_interfaces_are_refused() {
    let rig = Rig::new().await;
    for path in [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/sys/kernel/mm/ksm/run",
    ] {
        let outcome = rig
            .run(rig.shell(&format!("echo x 2>/dev/null > {path}")))
            .await;
        assert!(!outcome.status.success(), "{path}");
    }
}

#[tokio::test]
async fn descriptors_of_the_caller_do_not_reach_the_payload() {
    let rig = Rig::new().await;
    // Inherited by every child that does not close it.
    let leak = fs::File::open("/").expect("open");
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).expect("fcntl");
    assert!(leak.as_raw_fd() > 2);
    let second = Rig::new().await;
    let fds = second.output("ls /proc/$$/fd; true").await;
    assert_eq!(fds, "0\n1\n2\n");
    let environment = second.output("cat /proc/1/environ | wc -c").await;
    assert!(
        environment.trim().parse::<usize>().expect("number") < 200,
        "{environment}"
    );
    drop((leak, rig));
}

#[tokio::test]
async fn the_hosts_files_and_mounts_are_out_of_reach() {
    let rig = Rig::new().await;
    let seen = rig
        .output("ls /proc/1/root/; ls -d /../proc/1 /../bin /../home 2>/dev/null; cat /proc/self/mountinfo | awk '{print $5}' | grep -v -e '^/proc' -e '^/dev' -e '^/sys' -e '^/etc' | wc -l")
        .await;
    assert_eq!(
        seen,
        "bin\ndev\netc\nproc\nsys\ntmp\n/../bin\n/../proc/1\n1\n"
    );
}

#[tokio::test]
async fn an_insecure_step_has_every_capability_and_no_filter() {
    let rig = Rig::new().await;
    let mut spec = rig.shell(
        "grep -e ^CapEff -e ^Seccomp: /proc/self/status; mount -t tmpfs none /tmp && echo mounted",
    );
    spec.security = Security::Insecure;
    let outcome = rig.run(spec).await;
    let lines: Vec<_> = outcome.stdout.lines().collect();
    let ours = fs::read_to_string("/proc/self/status").expect("status");
    let ours = ours
        .lines()
        .find(|l| l.starts_with("CapPrm"))
        .expect("CapPrm");
    assert_eq!(
        lines[0].trim_start_matches("CapEff"),
        ours.trim_start_matches("CapPrm")
    );
    assert_eq!(lines[1..], ["Seccomp:\t0", "mounted"]);
}

#[tokio::test]
async fn a_strict_frontend_has_no_privileges_and_sees_little() {
    let rig = Rig::new().await;
    let mut spec = rig.shell(
        "grep -e ^CapPrm -e ^CapBnd -e ^NoNewPrivs -e ^Seccomp: /proc/self/status; \
         ls /dev | sort | tr '\\n' ' '; ls /proc/cpuinfo /sys/class 2>/dev/null; \
         touch /x 2>/dev/null || echo read-only; ip -o link 2>/dev/null || echo no sockets",
    );
    spec.profile = Profile::FrontendStrict;
    spec.network = Network::None;
    spec.root = Root::Throwaway {
        lowers: vec![rig.path("layer")],
        size_bytes: 1 << 20,
    };
    spec.root_readonly = true;
    let outcome = rig.run(spec).await;
    assert_eq!(
        outcome.stdout,
        "CapPrm:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
         fd full null random stderr stdin stdout urandom zero read-only\nno sockets\n",
        "{}",
        outcome.stderr
    );
}

#[tokio::test]
async fn a_frontend_in_compatible_profile_may_write_to_a_root_that_is_thrown_away() {
    let rig = Rig::new().await;
    let mut spec =
        rig.shell("echo x > /x && cat /x; ls /proc/cpuinfo; grep ^CapEff /proc/self/status; cat");
    spec.profile = Profile::FrontendCompat;
    spec.root = Root::Throwaway {
        lowers: vec![rig.path("layer")],
        size_bytes: 0,
    };
    let (stdin_end, stdin) = common::pipe();
    let (stdout, stdout_end) = common::pipe();
    let stdio = Stdio {
        stdin: Some(stdin_end),
        stdout: Some(stdout_end),
        stderr: None,
    };
    let mut running = rig.launcher.spawn(spec, stdio).await.expect("start");
    fs::File::from(stdin)
        .write_all(b"through stdin\n")
        .expect("write");
    let stdout = tokio::task::spawn_blocking(move || common::read_all(stdout));
    assert!(running.wait().await.expect("wait").success());
    assert_eq!(
        stdout.await.expect("reader"),
        "x\n/proc/cpuinfo\nCapEff:\t0000000000000000\nthrough stdin\n"
    );
}

/// Processes of this machine that have `marker` as an argument.
fn marked(marker: &str) -> usize {
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    processes
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter(|cmdline| cmdline.split(|b| *b == 0).nth(1) == Some(marker.as_bytes()))
        .count()
}

fn wait_until(mut condition: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn dropping_a_running_sandbox_kills_everything_in_it() {
    let rig = Rig::new().await;
    let marker = format!("41{:05}", std::process::id());
    let script = format!("(trap '' TERM; sleep {marker}) & sleep {marker}");
    let running = rig.start(rig.shell(&script)).await;
    wait_until(|| marked(&marker) == 2, "both processes run");
    assert!(
        running
            .pid()
            .is_some_and(|pid| fs::metadata(format!("/proc/{pid}")).is_ok())
    );
    drop(running);
    wait_until(|| marked(&marker) == 0, "both processes are gone");
    assert_eq!(rig.output("echo on").await, "on\n");
}

#[test]
fn killing_the_caller_leaves_no_process_and_no_mount() {
    let dir = tempfile::tempdir().expect("tempdir");
    common::make_layer(&dir.path().join("layer"));
    for name in ["upper", "work"] {
        fs::create_dir(dir.path().join(name)).expect("mkdir");
    }
    let marker = format!("51{:05}", std::process::id());
    let root = Root::Overlay {
        lowers: vec![dir.path().join("layer")],
        upper: dir.path().join("upper"),
        work: dir.path().join("work"),
    };
    let script = format!("sleep {marker} & sleep {marker}");
    let spec = SandboxSpec::new(root, vec!["sh".into(), "-c".into(), script]);
    let file = dir.path().join("spec.json");
    fs::write(&file, serde_json::to_vec(&spec).expect("json")).expect("write");
    let mut caller = Command::new(env!("CARGO_BIN_EXE_sandbox-run"))
        .arg(&file)
        .spawn()
        .expect("spawn");
    wait_until(|| marked(&marker) == 2, "both processes run");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(
        !mounts.contains(dir.path().to_str().expect("text")),
        "{mounts}"
    );
    caller.kill().expect("kill");
    caller.wait().expect("wait");
    wait_until(|| marked(&marker) == 0, "both processes are gone");
}

#[tokio::test]
async fn sandboxes_of_one_launcher_run_side_by_side() {
    let rig = std::sync::Arc::new(Rig::new().await);
    let mut tasks = Vec::new();
    for n in 0..20 {
        let rig = rig.clone();
        tasks.push(tokio::spawn(async move {
            let mut spec = rig.shell(&format!("exit {n}"));
            spec.root = Root::Throwaway {
                lowers: vec![rig.path("layer")],
                size_bytes: 0,
            };
            rig.run(spec).await.status.code
        }));
    }
    for (n, task) in (0..).zip(tasks) {
        assert_eq!(task.await.expect("task"), Some(n));
    }
}
