//! Further processes in a sandbox that runs.

mod common;

use common::{Rig, pipe, read_all};
use gateway_sandbox::{Error, Network, ProcessSpec, Running, Stdio};

async fn exec(running: &Running, script: &str, user: &str) -> (i32, String) {
    let (stdout, stdout_end) = pipe();
    let process = ProcessSpec {
        args: vec!["/bin/sh".into(), "-c".into(), script.into()],
        user: user.into(),
        cwd: "/tmp".into(),
        ..ProcessSpec::default()
    };
    let stdio = Stdio {
        stdout: Some(stdout_end),
        ..Stdio::default()
    };
    let stdout = tokio::task::spawn_blocking(move || read_all(stdout));
    let mut further = running.exec(process, stdio).await.expect("exec");
    let status = further.wait().await.expect("wait");
    (status.exit_code(), stdout.await.expect("reader"))
}

#[tokio::test]
async fn a_further_process_shares_namespaces_and_confinement_with_the_first() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("echo first > /tmp/shared; sleep 1000; true");
    spec.network = Network::None;
    spec.hostname = "together".into();
    let mut first = rig.start(spec).await;
    let (code, seen) = exec(
        &first,
        "while ! grep -s first /tmp/shared; do :; done; hostname; pwd; id -u; \
         grep -e ^CapEff -e ^Seccomp: /proc/self/status; ls /sys/class/net | grep -x lo; \
         cat /proc/1/comm; ls /proc/$$/fd; exit 7",
        "",
    )
    .await;
    assert_eq!(
        seen,
        "first\ntogether\n/tmp\n0\nCapEff:\t00000000a80425fb\nSeccomp:\t2\nlo\nsh\n0\n1\n2\n"
    );
    assert_eq!(code, 7);
    let (_, user) = exec(&first, "id -u; echo $HOME", "app").await;
    assert_eq!(user, "1000\n/home/app\n");
    first.kill();
    assert_eq!(first.wait().await.expect("wait").signal, Some(9));
}

#[tokio::test]
async fn further_processes_end_with_the_first() {
    let rig = Rig::new().await;
    let mut first = rig.start(rig.spec(&["sleep", "1000"])).await;
    let process = ProcessSpec {
        args: vec!["sleep".into(), "2000".into()],
        ..ProcessSpec::default()
    };
    let mut further = first
        .exec(process.clone(), Stdio::default())
        .await
        .expect("exec");
    first.kill();
    assert_eq!(further.wait().await.expect("wait").signal, Some(9));
    first.wait().await.expect("wait");
    let error = first
        .exec(process, Stdio::default())
        .await
        .expect_err("nothing left to join");
    assert!(error.to_string().contains("has ended"), "{error}");
}

#[tokio::test]
async fn a_further_process_alone_can_be_killed_and_others_start_afterwards() {
    let rig = Rig::new().await;
    let mut first = rig.start(rig.shell("sleep 1000 & wait")).await;
    let process = |args: &[&str]| ProcessSpec {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        ..ProcessSpec::default()
    };
    let mut further = first
        .exec(process(&["sleep", "2000"]), Stdio::default())
        .await
        .expect("exec");
    further.kill();
    assert_eq!(further.wait().await.expect("wait").signal, Some(9));
    let error = first
        .exec(process(&["/no/such/program"]), Stdio::default())
        .await
        .expect_err("missing");
    assert!(matches!(&error, Error::Setup(_)), "{error}");
    assert_eq!(error.step_exit_code(), Some(1));
    // New sandboxes are still made beside it, not inside.
    assert_eq!(rig.launcher_output("echo /proc/[0-9]*").await, "/proc/1\n");
    first.kill();
    first.wait().await.expect("wait");
}
