//! Limits of a control group, on whatever hierarchy this machine has.

mod common;

use common::{Outcome, Rig};
use gateway_sandbox::{Error, Resources, Stage};

/// With a hierarchy that can be written the limit holds; without one the run
/// is refused, because it asked for a limit that nothing would enforce.
async fn run(rig: &Rig, script: &str, resources: Resources) -> Option<Outcome> {
    let mut spec = rig.shell(script);
    spec.resources = resources;
    match rig.try_run(spec).await {
        Ok(outcome) => Some(outcome),
        Err(Error::Setup(error)) => {
            assert_eq!(error.stage, Stage::Cgroup, "{error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_step_that_takes_too_much_memory_is_killed_and_says_so() {
    let rig = Rig::new().await;
    let resources = Resources {
        memory: Some(32 << 20),
        ..Resources::default()
    };
    // A string of 128 MiB.
    let script = "dd if=/dev/zero of=/dev/null bs=128M count=1 2>/dev/null";
    if let Some(outcome) = run(&rig, script, resources).await {
        assert!(!outcome.status.success(), "{outcome:?}");
        assert!(outcome.status.oom_killed, "{outcome:?}");
    }
}

#[tokio::test]
async fn the_number_of_processes_is_limited() {
    let rig = Rig::new().await;
    let resources = Resources {
        pids: Some(3),
        ..Resources::default()
    };
    let script = "for i in 1 2 3 4 5 6; do sleep 5 & done; echo all";
    if let Some(outcome) = run(&rig, script, resources).await {
        assert_eq!(outcome.stdout, "", "{outcome:?}");
    }
}

/// The value of a file of a running payload's group, in either version.
fn group_file(pid: u32, controller: &str, file: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
    let group = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let ours = controllers.split(',').any(|name| name == controller);
        (ours && path.contains("gateway-limits")).then(|| format!("{controller}{path}"))
    });
    let group = group.or_else(|| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        Some(path.trim_start_matches('/').to_owned())
    })?;
    let value = std::fs::read_to_string(format!("/sys/fs/cgroup/{group}/{file}")).ok()?;
    Some(value.trim().to_owned())
}

#[tokio::test]
async fn every_limit_is_written_to_the_payloads_own_group() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("sleep 1000");
    spec.cgroup_parent = Some("/gateway-limits".into());
    spec.resources = Resources {
        memory: Some(64 << 20),
        cpu_shares: Some(512),
        cpu_period: Some(50_000),
        cpu_quota: Some(25_000),
        cpuset_cpus: Some("0".into()),
        cpuset_mems: Some("0".into()),
        pids: Some(77),
        ..Resources::default()
    };
    for runtime in [None, Some("/usr/sbin/runc".into())] {
        spec.runtime = runtime;
        let running = rig.launcher.spawn(spec.clone(), Default::default()).await;
        let mut running = match running {
            Ok(running) => running,
            // A machine without a hierarchy that can be written.
            Err(error) => {
                assert!(error.to_string().contains("cgroup"), "{error}");
                continue;
            }
        };
        let mut pid = running.pid().expect("a pid");
        if spec.runtime.is_some() {
            // That of the process that keeps the container: the payload is its child.
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let children = children.expect("children");
            pid = children.trim().parse().expect("one child");
        }
        let either = |one: (&str, &str), two: (&str, &str)| {
            let value = |controller: &str, file: &str| group_file(pid, controller, file);
            let controller = one.0.split('.').next().expect("a controller");
            let found = [(one.0, one.1), (two.0, two.1)]
                .into_iter()
                .any(|(file, wanted)| value(controller, file).as_deref() == Some(wanted));
            let seen = (value(controller, one.0), value(controller, two.0));
            assert!(found, "{:?}: {one:?} or {two:?}: {seen:?}", spec.runtime);
        };
        either(
            ("memory.limit_in_bytes", "67108864"),
            ("memory.max", "67108864"),
        );
        either(("cpu.shares", "512"), ("cpu.weight", "20"));
        either(("cpu.cfs_period_us", "50000"), ("cpu.max", "25000 50000"));
        either(("cpu.cfs_quota_us", "25000"), ("cpu.max", "25000 50000"));
        either(("cpuset.cpus", "0"), ("cpuset.cpus", "0"));
        either(("cpuset.mems", "0"), ("cpuset.mems", "0"));
        either(("pids.max", "77"), ("pids.max", "77"));
        running.kill();
        running.wait().await.expect("wait");
    }
}

#[tokio::test]
async fn limits_that_cannot_be_enforced_are_refused_unless_optional() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("echo ran");
    spec.resources.pids = Some(100);
    // No group can be called so, on any machine.
    spec.cgroup_parent = Some("../outside".into());
    let error = rig
        .try_run(spec.clone())
        .await
        .expect_err("must be refused");
    assert!(error.to_string().contains("../outside"), "{error}");
    spec.resources_optional = true;
    assert_eq!(rig.run(spec).await.stdout, "ran\n");
}

#[tokio::test]
async fn what_a_payload_used_is_told_when_it_is_asked_for() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done");
    spec.measure = true;
    let mut running = rig
        .launcher
        .spawn(spec, gateway_sandbox::Stdio::default())
        .await
        .expect("starting");
    assert_eq!(running.usage(), None, "it has not ended");
    let status = running.wait().await.expect("its end");
    assert!(status.success(), "{status:?}");
    let usage = running.usage().expect("what it used").clone();
    let cpu = usage.cpu_stat.expect("time");
    assert!(cpu.usage_nanos > Some(0), "{cpu:?}");

    let mut running = rig
        .launcher
        .spawn(rig.shell("true"), gateway_sandbox::Stdio::default())
        .await
        .expect("starting");
    running.wait().await.expect("its end");
    assert_eq!(running.usage(), None, "nobody asked");
    assert!(running.gauge().is_none());
}
