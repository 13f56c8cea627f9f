//! What is found again by another process, and what is not.

use gateway_llb::{CacheSharing, Constraints, Mount, State};

use crate::Bench;
use crate::bench::{base, copy_in, sh};

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_build_runs_nothing() {
    let bench = Bench::new();
    bench.write("f", "1");
    let state = sh(&copy_in(&base(), "/f", "/f"), "cat /f > /g");
    bench.build(&state).await.unwrap();
    assert_eq!(bench.ran(), ["base", "copy /f", "/bin/sh -c cat /f > /g"]);
    bench.build(&state).await.unwrap();
    assert_eq!(bench.ran(), [""; 0]);
    assert_eq!(bench.file(&state, "/g").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_file_reruns_what_uses_it_and_the_old_content_is_found_again() {
    let bench = Bench::new();
    bench.write("f", "1");
    bench.write("other", "1");
    let state = sh(&copy_in(&base(), "/f", "/f"), "cat /f > /g");
    bench.build(&state).await.unwrap();
    bench.ran();
    bench.write("other", "2");
    bench.build(&state).await.unwrap();
    assert_eq!(bench.ran(), [""; 0]);
    bench.write("f", "2");
    assert_eq!(bench.file(&state, "/g").await, "2");
    assert_eq!(bench.ran(), ["copy /f", "/bin/sh -c cat /f > /g"]);
    bench.write("f", "1");
    assert_eq!(bench.file(&state, "/g").await, "1");
    assert_eq!(bench.ran(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_is_run_again() {
    let bench = Bench::new();
    let state = sh(&base(), "exit 1");
    bench.build(&state).await.unwrap_err();
    bench.ran();
    bench.build(&state).await.unwrap_err();
    assert_eq!(bench.ran(), ["/bin/sh -c exit 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_without_cache_runs_and_its_user_is_found_by_content() {
    let bench = Bench::new();
    let build = |ignore: bool| {
        let constraints = match ignore {
            true => Constraints::new().ignore_cache(),
            false => Constraints::new(),
        };
        let made = base()
            .run(["/bin/sh", "-c", "echo same > /made"])
            .with(constraints)
            .root();
        State::scratch().file(
            gateway_llb::FileActions::new().copy(
                &made,
                "/made",
                "/made",
                gateway_llb::Copy::default(),
            ),
            Constraints::new().name("take"),
        )
    };
    bench.build(&build(false)).await.unwrap();
    bench.ran();
    bench.build(&build(true)).await.unwrap();
    assert_eq!(bench.ran(), ["/bin/sh -c echo same > /made"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_builds_at_once_run_a_step_once() {
    let bench = Bench::new();
    let runs = |script: &str| {
        let kept = Mount::cache("/c", &State::scratch(), "runs", CacheSharing::Shared);
        let run = base().run(["/bin/sh", "-c", script]).mount(kept);
        run.root()
    };
    let state = runs("sleep 0.3; echo run >> /c/f");
    let builds = (0..4).map(|_| bench.build(&state));
    for outcome in futures_util::future::join_all(builds).await {
        outcome.unwrap();
    }
    // Each build shows the step at work, as it waited for it; one process did it.
    assert_eq!(bench.file(&runs("cp /c/f /seen"), "/seen").await, "run\n");
}
