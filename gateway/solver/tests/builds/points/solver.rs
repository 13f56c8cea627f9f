//! Many steps and many builds at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway_llb::{CacheSharing, Constraints, Copy, FileActions, Mount, State};
use gateway_solver::Job;
use gateway_solver::policy::SourcePolicies;
use tokio_util::sync::CancellationToken;

use crate::Bench;
use crate::bench::{base, definition, sh};

/// A step that says `up`, waits until the file `go` is in its cache mount, and counts its runs there.
fn waiting(script: &str) -> State {
    let whole = format!(
        "echo run >> /c/runs; echo up; i=0; while test ! -e /c/go; do i=$((i+1)); \
         test $i -lt 600 || exit 9; sleep 0.05; done; {script}"
    );
    base().run(["/bin/sh", "-c", &whole]).mount(cache()).root()
}

fn cache() -> Mount {
    Mount::cache("/c", &State::scratch(), "waiting", CacheSharing::Shared)
}

fn with_cache(script: &str) -> State {
    base().run(["/bin/sh", "-c", script]).mount(cache()).root()
}

fn start(job: Job, state: &State) -> tokio::task::JoinHandle<Result<(), gateway_api::Error>> {
    let result = job.load(definition(state), &SourcePolicies::default());
    tokio::spawn(async move { job.evaluate(&result).await })
}

async fn until_up(bench: &Bench, times: usize) {
    while bench.logs().matches("up\n").count() < times {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s68_s69_equal_builds_share_a_run_and_its_output_and_one_may_leave() {
    let bench = Bench::new();
    let solver = bench.solver().await;
    let state = waiting("echo done");
    let cancel = CancellationToken::new();
    let first = start(bench.job_with(&solver, cancel.clone()), &state);
    until_up(&bench, 1).await;
    let second = start(bench.job_with(&solver, CancellationToken::new()), &state);
    // The second shows what was said before it came.
    until_up(&bench, 2).await;
    cancel.cancel();
    let error = first.await.unwrap().unwrap_err();
    assert_eq!(error.code, gateway_api::Code::Canceled);
    bench.build(&with_cache("touch /c/go")).await.unwrap();
    second.await.unwrap().unwrap();
    assert!(bench.logs().contains("done\n"));
    // Found again, by whoever finished it.
    bench.ran();
    bench.build(&state).await.unwrap();
    assert_eq!(bench.ran(), [""; 0]);
}

/// A step of two outputs, its root and `/a`, that waits as [`waiting`] does.
fn of_two_outputs() -> (State, State) {
    let exec = base()
        .run([
            "/bin/sh",
            "-c",
            "echo run >> /c/runs; echo up; i=0; while test ! -e /c/go; do i=$((i+1)); \
             test $i -lt 600 || exit 9; sleep 0.05; done; echo one > /one; echo two > /a/two",
        ])
        .mount(cache())
        .mount(Mount::bind("/a", &State::scratch()))
        .exec();
    let other = exec.mount("/a").unwrap().clone();
    (exec.root().clone(), other)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_runs_once_for_builds_that_ask_for_different_outputs_of_it() {
    let bench = Bench::new();
    let (one, two) = of_two_outputs();
    // Two solvers know of each other as little as two processes do.
    let solvers = [bench.solver().await, bench.solver().await];
    let jobs = solvers.map(|solver| bench.job_with(&solver, CancellationToken::new()));
    let [first, second] = jobs;
    let first = start(first, &one);
    until_up(&bench, 1).await;
    let second = start(second, &two);
    until_up(&bench, 2).await;
    bench.build(&with_cache("touch /c/go")).await.unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(
        bench.file(&with_cache("wc -l < /c/runs > /n"), "/n").await,
        "1\n"
    );
    bench.ran();
    assert_eq!(bench.file(&two, "/two").await, "two\n");
    assert_eq!(bench.file(&one, "/one").await, "one\n");
    assert_eq!(bench.ran(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_nobody_asked_for_is_there_for_the_next_build() {
    let bench = Bench::new();
    bench.build(&with_cache("touch /c/go")).await.unwrap();
    let (one, two) = of_two_outputs();
    bench.build(&one).await.unwrap();
    bench.ran();
    assert_eq!(bench.file(&two, "/two").await, "two\n");
    assert_eq!(bench.ran(), [""; 0]);
    // Both in one build, from nothing.
    let bench = Bench::new();
    bench.build(&with_cache("touch /c/go")).await.unwrap();
    let both = one.file(
        FileActions::new().copy(&two, "/two", "/two", Copy::default()),
        Constraints::new(),
    );
    assert_eq!(bench.file(&both, "/two").await, "two\n");
    assert_eq!(
        bench.file(&with_cache("wc -l < /c/runs > /n"), "/n").await,
        "1\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s70_equal_builds_fail_alike_and_the_next_one_tries_again() {
    let bench = Bench::new();
    let solver = bench.solver().await;
    let state = waiting("exit 5");
    let builds: Vec<_> = (0..2)
        .map(|_| start(bench.job_with(&solver, CancellationToken::new()), &state))
        .collect();
    until_up(&bench, 2).await;
    bench.build(&with_cache("touch /c/go")).await.unwrap();
    for build in builds {
        assert_eq!(build.await.unwrap().unwrap_err().exit_code(), Some(5));
    }
    bench.ran();
    let error = bench.build(&state).await.unwrap_err();
    assert_eq!(error.exit_code(), Some(5));
    assert_eq!(bench.ran().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn s72_a_step_without_cache_begins_with_empty_cache_mounts() {
    let bench = Bench::new();
    bench.build(&with_cache("echo old > /c/f")).await.unwrap();
    let fresh = base()
        .run(["/bin/sh", "-c", "test ! -e /c/f && echo empty > /out"])
        .with(Constraints::new().ignore_cache())
        .mount(cache())
        .root();
    assert_eq!(bench.file(&fresh, "/out").await, "empty\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn s74_a_result_whose_files_are_gone_is_made_again() {
    let bench = Bench::new();
    let state = sh(&base(), "echo made > /out");
    let (job, result) = bench.build(&state).await.unwrap();
    drop((job, result));
    bench.ran();
    let layers = bench.store().join("layers");
    for entry in std::fs::read_dir(&layers).unwrap().flatten() {
        std::fs::remove_dir_all(entry.path()).unwrap();
    }
    assert_eq!(bench.file(&state, "/out").await, "made\n");
    assert!(!bench.ran().is_empty());
}

/// Never more steps at once than were allowed, seen by the steps themselves.
#[tokio::test(flavor = "multi_thread")]
async fn s75_no_more_steps_run_at_once_than_are_allowed() {
    let bench = Bench::new();
    let solver = bench.solver_of(2).await;
    let step = |i: usize| {
        base()
            .run([
                "/bin/sh",
                "-c",
                &format!("echo 1 > /c/{i}; ls /c > /out{i}; sleep 0.1; rm /c/{i}"),
            ])
            .mount(Mount::cache(
                "/c",
                &State::scratch(),
                "running",
                CacheSharing::Shared,
            ))
            .root()
    };
    let job = bench.job_with(&solver, CancellationToken::new());
    let most = Arc::new(AtomicUsize::new(0));
    let builds = (0..8).map(|i| {
        let (job, most) = (job.clone(), most.clone());
        async move {
            let result = job.load(definition(&step(i)), &SourcePolicies::default());
            let list = job.read_file(&result, &format!("/out{i}"), None).await;
            let list = String::from_utf8(list.unwrap()).unwrap();
            most.fetch_max(list.lines().count(), Ordering::Relaxed);
        }
    });
    futures_util::future::join_all(builds).await;
    let most = most.load(Ordering::Relaxed);
    assert!((1..=2).contains(&most), "{most} at once");
}
