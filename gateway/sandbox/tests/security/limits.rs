//! Points 71 and 72: processes and memory.

use gateway_sandbox::{Resources, Ulimit};

use crate::places::{Bench, Place};

/// As many background processes as the shell can make, a line for each.
const BOMB: &str = "i=0; while [ $i -lt 200 ]; do sleep 3 & i=$((i+1)); done 2>/dev/null; echo all";

#[test]
fn s71_a_frontend_that_forks_without_end_is_held() {
    for place in Place::OURS {
        let bench = Bench::new(place);
        let mut spec = bench.strict(bench.shell(BOMB));
        // As the host of frontends asks: a group where there can be one, else
        // what an ordinary user may have at all.
        spec.resources = Resources {
            pids: Some(40),
            ..Resources::default()
        };
        spec.resources_optional = true;
        spec.ulimits = vec![Ulimit {
            name: "nproc".into(),
            soft: 60,
            hard: 60,
        }];
        let output = bench.run(&spec);
        let has_group = place == Place::Root && writable("pids");
        // Root's own processes are not counted by the second limit.
        if has_group || place == Place::User {
            assert!(!output.stdout.starts_with(b"all"), "{place:?}: {output:?}");
        }
    }
}

#[test]
fn s71_a_step_that_forks_without_end_is_held_by_the_default_limit() {
    for place in [Place::Root, Place::Runc] {
        let bench = Bench::new(place);
        let mut spec = bench.shell(BOMB);
        spec.default_pids = Some(40);
        let output = bench.run(&spec);
        let held = !output.stdout.starts_with(b"all");
        assert_eq!(held, writable("pids"), "{place:?}: {output:?}");
        // A limit asked for comes before it.
        spec.resources.pids = Some(400);
        if writable("pids") {
            assert_eq!(bench.output(&spec), "all\n", "{place:?}");
        }
    }
    // Where no group can be made it is no error.
    let bench = Bench::new(Place::User);
    let mut spec = bench.shell("echo ran");
    spec.default_pids = Some(40);
    assert_eq!(bench.output(&spec), "ran\n");
}

/// Whether this machine's hierarchy lets root make groups with a controller.
fn writable(controller: &str) -> bool {
    let one = std::path::Path::new("/sys/fs/cgroup").join(controller);
    let two = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    one.exists() || two.split_whitespace().any(|name| name == controller)
}

#[test]
fn s72_a_payload_that_takes_all_memory_is_killed_and_that_is_known() {
    for place in [Place::Root, Place::Runc] {
        if !writable("memory") {
            continue;
        }
        let bench = Bench::new(place);
        let mut spec = bench.shell("dd if=/dev/zero of=/dev/null bs=256M count=1 2>/dev/null");
        spec.resources = Resources {
            memory: Some(48 << 20),
            ..Resources::default()
        };
        let output = bench.run(&spec);
        assert!(!output.status.success(), "{place:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("out of memory"), "{place:?}: {text}");
    }
    // Without a group the data of a process is limited.
    let bench = Bench::new(Place::User);
    let mut spec = bench.shell("dd if=/dev/zero of=/dev/null bs=256M count=1 2>&1");
    spec.ulimits = vec![Ulimit {
        name: "data".into(),
        soft: 48 << 20,
        hard: 48 << 20,
    }];
    let output = bench.run(&spec);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.to_lowercase().contains("memory"), "{text}");
}
