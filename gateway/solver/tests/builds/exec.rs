//! Steps: what they see, what stays of them, how they fail.

use std::time::{Duration, Instant};

use gateway_api::{Code, Detail};
use gateway_llb::{CacheSharing, Mount, Secret, State};
use gateway_solver::policy::SourcePolicies;
use tokio_util::sync::CancellationToken;

use crate::Bench;
use crate::bench::{base, copy_in, definition, files_below, sh};

#[tokio::test(flavor = "multi_thread")]
async fn a_step_writes_a_file_that_the_next_one_reads() {
    let bench = Bench::new();
    let state = sh(&sh(&base(), "echo one > /a"), "cat /a > /b; echo two >> /b");
    assert_eq!(bench.file(&state, "/b").await, "one\ntwo\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_tells_its_command_code_and_vertex() {
    let bench = Bench::new();
    let state = sh(&base(), "echo before; exit 42");
    let error = bench.build(&state).await.unwrap_err();
    assert_eq!(
        error.message,
        "process \"/bin/sh -c echo before; exit 42\" did not complete successfully: exit code: 42"
    );
    assert_eq!(error.exit_code(), Some(42));
    assert!(error.vertex().is_some());
    assert!(
        matches!(error.details.first(), Some(Detail::Solve(solve)) if solve.op.is_some()),
        "{:?}",
        error.details
    );
    assert_eq!(bench.logs(), "before\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_fails_the_step() {
    let bench = Bench::new();
    let state = base().run(["/nosuch"]).root();
    let error = bench.build(&state).await.unwrap_err();
    assert_eq!(
        error.message,
        "process \"/nosuch\" did not complete successfully: exit code: 1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_described_device_reaches_the_step_that_asks_for_it_if_it_is_allowed() {
    let mut bench = Bench::new();
    let dir = bench.dir.path().join("cdi");
    std::fs::create_dir(&dir).unwrap();
    let description = r#"{"cdiVersion": "0.6.0", "kind": "example.com/zero", "devices": [
        {"name": "first", "containerEdits": {"env": ["ZERO=/dev/of-zeros"],
         "deviceNodes": [{"path": "/dev/of-zeros", "hostPath": "/dev/zero"}]}}]}"#;
    std::fs::write(dir.join("zero.json"), description).unwrap();
    let with = |name: &str, optional: bool| {
        let script = "echo ${ZERO:-none} > /out; : < ${ZERO:-/out} && echo opened >> /out";
        base()
            .run(["/bin/sh", "-c", script])
            .device(name, optional)
            .root()
    };
    let first = with("example.com/zero=first", false);
    let error = bench.build(&first).await.unwrap_err().to_string();
    assert!(error.contains("not allowed"), "{error}");
    // An optional one is left away where it is not allowed.
    let optional = with("example.com/zero", true);
    assert_eq!(bench.file(&optional, "/out").await, "none\nopened\n");
    bench.entitlements.insert("device".to_owned());
    let seen = bench.file(&first, "/out").await;
    assert_eq!(seen, "/dev/of-zeros\nopened\n");
    let missing = with("example.com/none", false);
    let error = bench.build(&missing).await.unwrap_err().to_string();
    assert!(error.contains("is not registered"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_exit_codes_are_success_and_zero_is_not_implied() {
    let bench = Bench::new();
    let run = |code: &str| {
        base()
            .run(["/bin/sh", "-c", code])
            .valid_exit_codes(vec![7])
            .root()
    };
    assert!(bench.build(&run("exit 7")).await.is_ok());
    assert!(bench.build(&run("exit 0")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_run_at_the_same_time() {
    let bench = Bench::new();
    // Each waits for all others.
    let stages: Vec<State> = (0..4)
        .map(|i| {
            let script = format!(
                "echo > /c/{i}; for n in 0 1 2 3; do until [ -e /c/$n ]; do sleep 0.02; done; done; echo {i} > /out{i}"
            );
            let kept = Mount::cache("/c", &State::scratch(), "meeting", CacheSharing::Shared);
            base().run(["/bin/sh", "-c", &script]).mount(kept).root()
        })
        .collect();
    let mut run = base().run(["/bin/sh", "-c", "cat /s*/out* > /all"]);
    for (i, stage) in stages.iter().enumerate() {
        run = run.mount(Mount::bind(format!("/s{i}"), stage).readonly());
    }
    assert_eq!(bench.file(&run.root(), "/all").await, "0\n1\n2\n3\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_build_ends_its_steps_within_a_second() {
    let bench = Bench::new();
    let cancel = CancellationToken::new();
    let job = bench.job_with(&bench.solver().await, cancel.clone());
    let result = job.load(
        definition(&sh(&base(), "echo up; sleep 60")),
        &SourcePolicies::default(),
    );
    let running = tokio::spawn(async move { job.evaluate(&result).await });
    while !bench.logs().contains("up") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let started = Instant::now();
    cancel.cancel();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::Canceled);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_seen_by_its_step_and_by_nothing_else() {
    let bench = Bench::new();
    let secret = |id: &str, optional| Secret {
        id: id.into(),
        target: Some(format!("/run/secrets/{id}")),
        env: Some(id.to_uppercase()),
        uid: 0,
        gid: 0,
        mode: 0o400,
        optional,
    };
    let state = base()
        .run([
            "/bin/sh",
            "-c",
            "test \"$(cat /run/secrets/token)\" = \"$TOKEN\" && test ${#TOKEN} = 7 && echo ok > /ok",
        ])
        .secret(secret("token", false))
        .root();
    assert_eq!(bench.file(&state, "/ok").await, "ok\n");
    for path in files_below(&bench.store()) {
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(7).any(|window| window == b"hunter2");
        assert!(!found, "{}", path.display());
        assert!(!path.to_string_lossy().contains("run/secrets"));
    }
    let missing = base().run(["/bin/true"]).secret(secret("nosuch", false));
    let error = bench.build(&missing.root()).await.unwrap_err();
    assert_eq!(error.message, "secret nosuch: not found");
    let optional = base()
        .run([
            "/bin/sh",
            "-c",
            "test -z \"$NOSUCH\" && test ! -e /run/secrets/nosuch",
        ])
        .secret(secret("nosuch", true));
    assert!(bench.build(&optional.root()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_mount_survives_builds_and_is_in_no_layer() {
    let bench = Bench::new();
    let step = |script: &str| {
        base()
            .run(["/bin/sh", "-c", script])
            .mount(Mount::cache(
                "/c",
                &State::scratch(),
                "id",
                CacheSharing::Shared,
            ))
            .root()
    };
    bench.build(&step("echo kept > /c/f")).await.unwrap();
    let state = step("cat /c/f > /copy");
    assert_eq!(bench.file(&state, "/copy").await, "kept\n");
    let after = sh(&state, "test ! -e /c/f; echo $? > /gone");
    assert_eq!(bench.file(&after, "/gone").await, "0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_to_a_mount_without_output_are_thrown_away_and_mounts_leave_no_trace() {
    let bench = Bench::new();
    bench.write("d/f", "text");
    let source = copy_in(&State::scratch(), "/", "/");
    let state = base()
        .run([
            "/bin/sh",
            "-c",
            "echo x > /m/deep/d/new && cat /m/deep/d/f > /seen",
        ])
        .mount(Mount::bind("/m/deep", &source).no_output())
        .mount(Mount::tmpfs("/t", 1 << 20))
        .root();
    assert_eq!(bench.file(&state, "/seen").await, "text");
    let after = sh(&state, "ls / > /list");
    let list = bench.file(&after, "/list").await;
    assert!(
        !list.lines().any(|name| name == "m" || name == "t"),
        "{list}"
    );
    let (job, result) = bench.build(&source).await.unwrap();
    assert!(job.stat_file(&result, "/d/new").await.is_err());
}
