//! Frontends that attack their host: each ends in an error that names it, in bounded time and memory,
//! and leaves nothing behind.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gateway_tests::program::Home;
use gateway_tests::raw_frontend::{self, RAW};
use gateway_tests::registry::Registry;
use gateway_tests::remains::nothing_left_behind;
use serde_json::json;

/// Limits so low that what waits for them does not make the tests long.
const LIMITS: &str = "\n[frontend.\"gateway.v0\"]\nmaxMemory = 268435456\nmaxProcesses = 64\n";

/// Seconds for a frontend that has work to do, until its first word and altogether: on a loaded machine it takes
/// long, and another limit is what it is to meet.
const TIMEOUT: u32 = 120;
const START_TIMEOUT: u32 = 60;
/// Seconds for one that only waits.
const SHORT_TIMEOUT: u32 = 4;
const SHORT_START_TIMEOUT: u32 = 5;

/// From the command to its end, on a loaded machine.
const LONGEST: Duration = Duration::from_secs(200);

/// Resident memory of `gateway` at its most, in KiB. A build of a frontend takes about 40 MiB; requests
/// may hold 256 MiB, and what they are decoded into as much again.
const MOST_MEMORY: u64 = 800 << 10;

struct Rig {
    _registry: Registry,
    home: Home,
}

impl Rig {
    fn new(timeout: u32) -> Rig {
        Rig::starting_within(START_TIMEOUT, timeout)
    }

    fn starting_within(start: u32, timeout: u32) -> Rig {
        let registry = Registry::start();
        raw_frontend::push(&registry);
        let home = Home::new(&format!(
            "{}{LIMITS}startTimeout = {start}\ntimeout = {timeout}\n",
            registry.as_docker_hub()
        ));
        Rig {
            _registry: registry,
            home,
        }
    }

    /// What the build says when the frontend behaves like this; it must fail for that.
    fn fails(&self, image: &str, mode: &str) -> String {
        let text = self.ends(image, mode, 1);
        let excerpt = format!("   1 | >>> # syntax = {image}");
        for wanted in [format!("frontend {image}: "), excerpt] {
            assert!(
                text.contains(&wanted),
                "{mode}: {wanted:?} is not in:\n{text}"
            );
        }
        text
    }

    /// What a build says that ends with this code.
    fn ends(&self, image: &str, mode: &str, code: i32) -> String {
        let built = self.build(image, mode);
        assert_eq!(built.code, Some(code), "{mode}: {}", built.text);
        built.text
    }

    fn build(&self, image: &str, mode: &str) -> Built {
        let context = tempfile::tempdir().expect("a temporary folder");
        write_context(context.path(), image);
        let log = context.path().join("log");
        let stderr = std::fs::File::create(&log).expect("a log file");
        let started = Instant::now();
        let mut child = self
            .home
            .build()
            .args(["--progress=plain", "--build-arg", &format!("MODE={mode}")])
            .args(["--output", "type=oci,dest=/dev/null"])
            .arg(context.path())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("starting the build");
        let mut peak = 0;
        let status = loop {
            peak = peak.max(peak_memory(child.id()));
            if let Some(status) = child.try_wait().expect("the build's state") {
                break Some(status);
            }
            if started.elapsed() > LONGEST {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = String::from_utf8_lossy(&std::fs::read(&log).expect("the log")).into_owned();
        let tail: String = text
            .chars()
            .rev()
            .take(3000)
            .collect::<Vec<_>>()
            .iter()
            .rev()
            .collect();
        eprintln!(
            "{mode}: {:?}, at most {} MiB",
            started.elapsed(),
            peak >> 10
        );
        let status = status.unwrap_or_else(|| panic!("{mode} does not end:\n{tail}"));
        assert!(
            peak < MOST_MEMORY,
            "{mode}: gateway took {} MiB",
            peak >> 10
        );
        nothing_left_behind(&self.home.store());
        Built {
            code: status.code(),
            text,
        }
    }
}

struct Built {
    code: Option<i32>,
    text: String,
}

fn write_context(dir: &Path, image: &str) {
    let file = format!("# syntax = {image}\nFROM scratch\n");
    std::fs::write(dir.join("Dockerfile"), file).expect("writing the build file");
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, dir.join(name)).expect("a link");
    };
    link("/etc/passwd", "absolute");
    link("../../../../../../../../etc/passwd", "relative");
    link("/etc", "dir");
    let big = std::fs::File::create(dir.join("big")).expect("a file");
    big.set_len(15 << 20).expect("its size");
}

/// KiB; 0 once it has ended.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

fn all_fail(timeout: u32, cases: &[(&str, &str)]) {
    let rig = Rig::new(timeout);
    let mut wrong = Vec::new();
    for (mode, wanted) in cases {
        let text = rig.fails(RAW, mode);
        if !text.contains(wanted) {
            wrong.push(format!("{mode}: {wanted:?} is not in:\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn p22_p33_requests_that_are_no_requests_end_in_clear_errors() {
    all_fail(
        TIMEOUT,
        &[
            ("empty-return", "no result for incomplete build"),
            ("truncated", "no result for incomplete build"),
            ("not-protobuf", "no result for incomplete build"),
            ("return-exit", "exit code: 5"),
            ("no-return-exit", "exit code: 3"),
            ("text", "hello, this is not HTTP/2"),
            ("garbage", "frontend"),
            ("exit", "exit code: 7"),
        ],
    );
    let rig = Rig::starting_within(SHORT_START_TIMEOUT, TIMEOUT);
    let text = rig.fails(RAW, "silent");
    assert!(text.contains("within 5 seconds"), "{text}");
}

#[test]
fn p24_attacks_on_the_transport_break_their_own_connection_only() {
    all_fail(
        TIMEOUT,
        &[
            ("rapid-reset", "HTTP/2"),
            ("continuation-flood", "HTTP/2"),
            ("window-bomb", "HTTP/2"),
            ("huge-frame", "HTTP/2"),
            ("bad-hpack", "HTTP/2"),
        ],
    );
    // Some of these go on until their time is over.
    all_fail(
        SHORT_TIMEOUT,
        &[
            // Its message is refused and its stream reset; what it has sent by then may break the
            // window of the connection. Either end is right.
            ("huge-message", "failed to solve: frontend test/raw:1: "),
            ("open-streams", "frontend"),
            ("header-bomb", "frontend"),
            ("ping-flood", "frontend"),
            ("settings-flood", "frontend"),
            ("window-overflow", "frontend"),
            ("empty-data-flood", "frontend"),
            ("priority-flood", "frontend"),
            ("huge-headers", "frontend"),
        ],
    );
}

#[test]
fn p24_frontends_that_never_end_hold_little_and_are_ended() {
    all_fail(
        SHORT_TIMEOUT,
        &[
            ("log-forever", "did not end within 4 seconds"),
            ("half-open", "did not end within 4 seconds"),
            ("half-closed", "frontend"),
            ("deaf", "frontend"),
            ("unfinished-messages", "frontend"),
            ("unread-answers", "did not end within 4 seconds"),
        ],
    );
}

#[test]
fn p26_graphs_made_to_hurt_are_errors_of_the_build() {
    all_fail(
        TIMEOUT,
        &[
            ("garbage-llb", "failed to load LLB"),
            ("missing-vertex", "failed to load LLB"),
            ("cyclic", "failed to load LLB: invalid missing input digest"),
            ("million-vertices", "200000"),
        ],
    );
    let rig = Rig::new(TIMEOUT);
    for mode in ["output-of-nothing", "deep-graph"] {
        // The frontend is done by then: a registry does not have what it returned.
        let text = rig.ends(RAW, mode, 3);
        for wanted in [
            "error: failed to solve: frontend test/raw:1: ",
            "docker.io/test/none:1: not found",
        ] {
            assert!(text.contains(wanted), "{mode}: {text}");
        }
    }
}

#[test]
fn p30_p34_p51_refs_and_paths_of_others_are_out_of_reach() {
    let rig = Rig::new(TIMEOUT);
    let text = rig.fails(RAW, "unknown-refs");
    assert!(text.contains("no result for incomplete build"), "{text}");
    let built = rig.build(RAW, "escape");
    assert!(!built.text.contains("ESCAPED"), "{}", built.text);
    assert_eq!(built.code, Some(0), "{}", built.text);
}

#[test]
fn floods_of_calls_and_memory_stop_at_their_limits() {
    all_fail(
        TIMEOUT,
        &[
            // All answered, or too much for the connection.
            ("many-calls", "failed to solve: frontend test/raw:1: "),
            ("many-refs", "refused after 10000 refs"),
            ("many-definitions", "refused after 17 definitions"),
            (
                "memory",
                "exit code: 137 (killed: out of memory); frontends may take 256 MiB",
            ),
            ("disk", "exit code: 137 (killed: out of memory)"),
            ("forks", "refused after "),
        ],
    );
}

#[test]
fn s76_a_frontend_that_takes_too_long_or_too_much_is_told_which_limit_it_met() {
    for (timeout, mode, wanted) in [
        (SHORT_TIMEOUT, "log-forever", "did not end within 4 seconds"),
        (
            TIMEOUT,
            "memory",
            "exit code: 137 (killed: out of memory); frontends may take 256 MiB",
        ),
    ] {
        let text = Rig::new(timeout).fails(RAW, mode);
        assert!(text.contains(wanted), "{mode}: {text}");
    }
}

#[test]
fn scripts_that_fork_and_eat_end_at_their_limits() {
    let rig = Rig::starting_within(SHORT_START_TIMEOUT, TIMEOUT);
    raw_frontend::push_as(
        &rig._registry,
        "test/bomb:1",
        json!({"Entrypoint": ["/bin/busybox", "sh", "-c", "b() { b | b & }; b; sleep 3600"]}),
    );
    raw_frontend::push_as(
        &rig._registry,
        "test/hog:1",
        json!({"Entrypoint": ["/bin/busybox", "tail", "/dev/zero"]}),
    );
    for image in ["test/bomb:1", "test/hog:1"] {
        rig.fails(image, "-");
    }
}
