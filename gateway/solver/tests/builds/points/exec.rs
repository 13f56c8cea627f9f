//! What steps see and leave.

use std::time::{Duration, Instant};

use gateway_llb::{CacheSharing, Mount, Secret, State};
use gateway_solver::policy::SourcePolicies;

use crate::Bench;
use crate::bench::{base, definition, files_below, sh};

/// A step with a cache mount at `/c`.
fn cached(script: &str, sharing: CacheSharing) -> State {
    base()
        .run(["/bin/sh", "-c", script])
        .mount(Mount::cache("/c", &State::scratch(), "id", sharing))
        .root()
}

/// Builds of several processes at once: each has a solver of its own.
async fn at_once(bench: &Bench, states: &[State]) {
    let builds = states.iter().map(|state| bench.build(state));
    for built in futures_util::future::join_all(builds).await {
        built.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s43_an_optional_secret_that_is_absent_leaves_no_file() {
    let bench = Bench::new();
    let secret = |optional| Secret {
        id: "nosuch".into(),
        target: Some("/s/f".into()),
        env: None,
        uid: 0,
        gid: 0,
        mode: 0o400,
        optional,
    };
    let state = base()
        .run(["/bin/sh", "-c", "test ! -e /s/f && echo none > /out"])
        .secret(secret(true))
        .root();
    assert_eq!(bench.file(&state, "/out").await, "none\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_has_the_mode_and_owner_that_were_asked_for() {
    let bench = Bench::new();
    let state = base()
        .run([
            "/bin/busybox",
            "sh",
            "-c",
            "busybox stat -c '%a %u %g' /s > /out; cat /s >/dev/null",
        ])
        .secret(Secret {
            id: "token".into(),
            target: Some("/s".into()),
            env: None,
            uid: 12,
            gid: 34,
            mode: 0o440,
            optional: false,
        })
        .root();
    assert_eq!(bench.file(&state, "/out").await, "440 12 34\n");
    // The name in the root stays as little as the value.
    let after = sh(&state, "ls / > /list");
    let list = bench.file(&after, "/list").await;
    assert!(!list.lines().any(|name| name == "s"), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s44_a_tmpfs_has_its_size_and_stays_out_of_the_layer() {
    let bench = Bench::new();
    let script = "busybox dd if=/dev/zero of=/t/f bs=64k count=64 2>/dev/null; \
                  busybox stat -c %s /t/f > /size";
    let state = base()
        .run(["/bin/busybox", "sh", "-c", script])
        .mount(Mount::tmpfs("/t", 1 << 20))
        .root();
    assert_eq!(bench.file(&state, "/size").await, "1048576\n");
    let (job, result) = bench.build(&state).await.unwrap();
    assert!(job.stat_file(&result, "/t").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn s46_a_locked_cache_has_one_user_at_a_time_across_processes() {
    let bench = Bench::new();
    // Each leaves a mark while it is there, and would see another's.
    let script = |i: usize| {
        format!(
            "test ! -e /c/busy && echo {i} > /c/busy && sleep 0.2 && rm /c/busy && echo {i} >> /c/log"
        )
    };
    let states: Vec<State> = (0..3)
        .map(|i| cached(&script(i), CacheSharing::Locked))
        .collect();
    at_once(&bench, &states).await;
    let seen = cached("cat /c/log > /out", CacheSharing::Locked);
    let log = bench.file(&seen, "/out").await;
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0", "1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn s46_a_shared_cache_has_many_users_and_a_private_one_is_not_shared() {
    let bench = Bench::new();
    // Both wait for the other's file: together they go on.
    let meet = |own: &str, other: &str| {
        format!(
            "echo 1 > /c/{own}; i=0; while test ! -e /c/{other}; do i=$((i+1)); test $i -lt 300 || exit 9; sleep 0.1; done"
        )
    };
    let states = [
        cached(&meet("a", "b"), CacheSharing::Shared),
        cached(&meet("b", "a"), CacheSharing::Shared),
    ];
    at_once(&bench, &states).await;

    let bench = Bench::new();
    // The second starts while the first is there, and sees nothing of it.
    let first = cached("echo 1 > /c/f; echo up; sleep 1.5", CacheSharing::Private);
    let second = cached("test ! -e /c/f && echo empty > /out", CacheSharing::Private);
    let job = bench.job().await;
    let result = job.load(definition(&first), &SourcePolicies::default());
    let running = tokio::spawn(async move { job.evaluate(&result).await });
    while !bench.logs().contains("up") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(bench.file(&second, "/out").await, "empty\n");
    running.await.unwrap().unwrap();
    // One after the other use the same.
    let third = cached("cat /c/f > /out", CacheSharing::Private);
    let text = bench.file(&third, "/out").await;
    assert_eq!(text, "1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn s48_s49_outputs_come_in_the_order_of_mounts_and_a_read_only_one_is_its_input() {
    let bench = Bench::new();
    let one = sh(&base(), "mkdir /d; echo one > /d/f");
    let exec = base()
        .run(["/bin/sh", "-c", "echo new > /a/f; cat /b/d/f > /a/seen"])
        .mount(Mount::bind("/a", &State::scratch()))
        .mount(Mount::bind("/b", &one).readonly())
        .exec();
    assert_eq!(bench.file(exec.mount("/a").unwrap(), "/f").await, "new\n");
    assert_eq!(
        bench.file(exec.mount("/a").unwrap(), "/seen").await,
        "one\n"
    );
    let input = exec.mount("/b").unwrap_or(&one);
    assert_eq!(bench.file(input, "/d/f").await, "one\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn s50_a_failing_step_leaves_nothing_that_a_later_build_sees() {
    let bench = Bench::new();
    let script = "test ! -e /half && echo half > /half && exit 3";
    for _ in 0..2 {
        let error = bench.build(&sh(&base(), script)).await.unwrap_err();
        assert_eq!(error.exit_code(), Some(3));
    }
    let after = sh(&base(), "test ! -e /half && echo clean > /out");
    assert_eq!(bench.file(&after, "/out").await, "clean\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn s51_s52_a_missing_directory_is_made_and_a_path_is_given() {
    let bench = Bench::new();
    let state = base().dir("/new/dir");
    let state = sh(&state, "pwd > /out; echo $PATH >> /out");
    assert_eq!(
        bench.file(&state, "/out").await,
        "/new/dir\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_reaches_children_that_left_their_parent() {
    let bench = Bench::new();
    let cancel = tokio_util::sync::CancellationToken::new();
    let job = bench.job_with(&bench.solver().await, cancel.clone());
    // A session of its own, signals ignored, the parent gone: only the sandbox holds it still.
    let script = "trap '' TERM INT HUP; (busybox setsid sh -c \"trap '' TERM INT HUP; \
                  while :; do echo x >> /c/alive; sleep 0.05; done\" &) ; \
                  until test -e /c/alive; do sleep 0.05; done; echo up; sleep 600";
    let state = cached(script, CacheSharing::Shared);
    let result = job.load(definition(&state), &SourcePolicies::default());
    let running = tokio::spawn(async move { job.evaluate(&result).await });
    while !bench.logs().contains("up") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let started = Instant::now();
    cancel.cancel();
    running.await.unwrap().unwrap_err();
    // At once, or when the sleep is over.
    assert!(started.elapsed() < Duration::from_secs(10));
    let alive = files_below(&bench.store());
    let alive = alive.iter().find(|path| path.ends_with("alive")).unwrap();
    let size = || std::fs::metadata(alive).unwrap().len();
    // What was killed writes no more.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = size();
    assert!(before > 0);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(size(), before);
}
