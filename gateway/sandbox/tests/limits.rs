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
