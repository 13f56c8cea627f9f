//! Points 73 and 74: whatever ends the caller or the run ends all of it.

use std::fs;
use std::process::Child;

use gateway_sandbox::SandboxSpec;

use crate::places::{Bench, Place, marked, wait_until};

/// A payload that leaves processes behind in every way there is: in other
/// sessions, orphaned, deaf, stopped by a tracer.
fn clinging(bench: &Bench, marker: &str) -> SandboxSpec {
    bench.shell(&format!(
        "trap '' TERM INT HUP; \
         (trap '' TERM INT HUP; setsid sleep {marker} &) ; \
         (setsid sh -c '(sleep {marker} &)' &) ; \
         /bin/probe try stop_traced {marker} & \
         sleep {marker}; sleep {marker}"
    ))
}

/// The three sleeping, and the probe's three.
const CLINGING: usize = 6;

fn start(bench: &Bench, marker: &str) -> Child {
    let child = bench
        .command(&clinging(bench, marker))
        .spawn()
        .expect("spawn");
    wait_until(|| marked(marker) >= CLINGING, "all of them run");
    child
}

fn marker(place: Place, test: u32) -> String {
    format!("{}{}{:06}", test, place as u32 + 1, std::process::id())
}

#[test]
fn s73_killing_the_caller_ends_everything_and_leaves_no_mount_or_group() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        let marker = marker(place, 73);
        let mut child = start(&bench, &marker);
        child.kill().expect("kill");
        child.wait().expect("wait");
        wait_until(|| marked(&marker) == 0, "none is left");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let path = bench.path("").display().to_string();
        assert!(
            !mounts.contains(path.trim_end_matches('/')),
            "{place:?}: {mounts}"
        );
        // The same directories serve again at once.
        assert_eq!(bench.output(&bench.shell("echo on")), "on\n", "{place:?}");
    }
}

#[test]
fn s74_a_cancelled_run_takes_every_child_along() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        let marker = marker(place, 74);
        let mut child = start(&bench, &marker);
        let pid = rustix::process::Pid::from_child(&child);
        // What a cancelled build does: the caller lets go of the sandbox and lives on.
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).expect("signal");
        wait_until(|| marked(&marker) == 0, "none is left");
        assert_eq!(child.wait().expect("wait").code(), Some(137), "{place:?}");
    }
}
