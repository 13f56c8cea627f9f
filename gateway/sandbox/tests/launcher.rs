//! What a caller sees when the launcher process itself is in trouble.

mod common;

use std::fs;

use common::Rig;
use gateway_sandbox::{Error, Launcher, LauncherOptions};

/// The zygote is the only grandchild of this process: it is this file's only
/// test with a launcher.
fn zygote() -> rustix::process::Pid {
    let parent = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(')')?;
        after_name.split_whitespace().nth(1).map(str::to_owned)
    };
    let ours = std::process::id().to_string();
    let mut found = fs::read_dir("/proc")
        .expect("proc")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| parent(pid).and_then(|p| parent(&p)).as_ref() == Some(&ours));
    let pid = found.next().expect("a zygote").parse().expect("a number");
    assert_eq!(found.next(), None);
    rustix::process::Pid::from_raw(pid).expect("a process")
}

#[tokio::test]
async fn the_end_of_the_launcher_process_ends_its_sandboxes_and_is_reported() {
    let rig = Rig::new().await;
    let mut running = rig.start(rig.spec(&["sleep", "1000"])).await;
    let payload = running.pid().expect("a pid");
    rustix::process::kill_process(zygote(), rustix::process::Signal::KILL).expect("kill");
    let error = running.wait().await.expect_err("the zygote is gone");
    assert!(matches!(error, Error::LauncherGone), "{error}");
    while fs::metadata(format!("/proc/{payload}")).is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let error = rig.try_run(rig.spec(&["true"])).await.expect_err("gone");
    assert!(matches!(error, Error::LauncherGone), "{error}");
}

#[tokio::test]
async fn a_program_that_is_no_launcher_is_an_error() {
    let start = |program: &str| {
        Launcher::start(LauncherOptions {
            program: program.into(),
        })
    };
    let error = start("/no/such/program").await.expect_err("missing");
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    let error = start("/bin/true").await.expect_err("not a launcher");
    assert!(matches!(error, Error::LauncherGone), "{error}");
}
