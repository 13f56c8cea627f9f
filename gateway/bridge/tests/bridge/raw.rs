//! The raw frontend as a real child process with real pipes: frontends of all ages reach their end,
//! and each way to end has its outcome.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gateway_api::progress::{Progress, Status};
use gateway_api::{BuildResult, Code, Error, Refs};
use gateway_bridge::host::FrontendLimits;
use gateway_bridge::host::life::{Call, Child, Exit, Process, host};
use gateway_bridge::host::stderr::StderrLog;
use tokio_util::sync::CancellationToken;

use crate::mock::Mock;
use crate::support::raw_frontend;

struct OsChild(tokio::process::Child, i32);

#[async_trait]
impl Child for OsChild {
    async fn wait(&mut self) -> Result<Exit, Error> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.0.wait().await.unwrap();
        Ok(Exit {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap()),
            oom_killed: false,
        })
    }

    fn kill(&self) {
        let pid = rustix::process::Pid::from_raw(self.1).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

struct Run {
    result: Result<BuildResult, Error>,
    log: Vec<u8>,
    took: Duration,
    mock: Arc<Mock>,
}

async fn run_with(mode: &str, limits: FrontendLimits, cancel: CancellationToken) -> Run {
    let mut mock = Mock::new();
    mock.files
        .insert("Dockerfile".to_owned(), b"FROM x".to_vec());
    let mock = Arc::new(mock);
    let mut child = tokio::process::Command::new(raw_frontend())
        .arg(mode)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let statuses = Arc::new(Mutex::new(Vec::<Status>::new()));
    let sink = statuses.clone();
    let progress = Progress::new(move |status| sink.lock().unwrap().push(status));
    let process = Process {
        stdin: child.stdin.take().unwrap(),
        stdout: child.stdout.take().unwrap(),
        stderr: child.stderr.take().unwrap(),
        child: {
            let pid = child.id().unwrap() as i32;
            OsChild(child, pid)
        },
    };
    let started = Instant::now();
    let result = host(
        process,
        Call {
            image: "example/raw:1",
            gateway: mock.clone(),
            limits: &limits,
            cancel: &cancel,
            log: StderrLog::new(progress, "example/raw:1", "1"),
            conduct: None,
        },
    )
    .await;
    let statuses = statuses.lock().unwrap();
    let logs = statuses.iter().flat_map(|status| &status.logs);
    Run {
        result,
        log: logs.flat_map(|log| log.data.clone()).collect(),
        took: started.elapsed(),
        mock,
    }
}

async fn run(mode: &str) -> Run {
    let limits = FrontendLimits {
        start_timeout: Duration::from_secs(20),
        exit_grace: Duration::from_millis(500),
        ..FrontendLimits::default()
    };
    run_with(mode, limits, CancellationToken::new()).await
}

fn single(result: &BuildResult) -> &str {
    match &result.refs {
        Refs::Single(reference) => &reference.id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p01_frontends_of_all_ages_reach_return_and_exit() {
    for mode in ["2018", "2019", "2020", "current"] {
        let run = run(mode).await;
        let result = run.result.unwrap_or_else(|error| panic!("{mode}: {error}"));
        assert!(
            result.metadata.contains_key("containerimage.config"),
            "{mode}"
        );
        let solved = run.mock.solved.lock().unwrap();
        let number: usize = single(&result)
            .strip_prefix("ref")
            .unwrap()
            .parse()
            .unwrap();
        let op = &solved[number].definition.as_ref().unwrap().def[0];
        assert!(
            String::from_utf8_lossy(op).contains("local://context"),
            "{mode}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p31_a_final_solve_completes_a_build() {
    let result = run("final").await.result.unwrap();
    let config = &result.metadata["containerimage.config"];
    assert!(config.starts_with(b"{\"architecture\""), "{config:?}");
    assert_eq!(single(&result), "ref2");
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_a_return_error_beats_any_exit_code() {
    let error = run("return-error").await.result.unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert_eq!(error.message, "my frontend error");
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_an_exit_code_beats_a_result() {
    let error = run("return-exit").await.result.unwrap_err();
    assert!(error.message.contains("exit code: 5"), "{error}");
    assert!(
        error.message.contains("raw frontend: return-exit"),
        "{error}"
    );
    assert_eq!(error.exit_code(), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_an_empty_return_is_an_empty_result() {
    let result = run("empty").await.result.unwrap();
    assert_eq!(result, BuildResult::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_no_return_and_exit_zero_is_no_result() {
    let error = run("no-return").await.result.unwrap_err();
    assert!(
        error.message.contains("no result for incomplete build"),
        "{error}"
    );
    assert!(error.message.contains("example/raw:1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_no_return_and_exit_three_is_the_exit_code() {
    let error = run("no-return-exit").await.result.unwrap_err();
    assert!(error.message.contains("exit code: 3"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_closing_stdout_means_nothing_until_the_exit() {
    let run = run("close").await;
    let error = run.result.unwrap_err();
    assert!(
        error.message.contains("no result for incomplete build"),
        "{error}"
    );
    assert!(run.took >= Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn p32_a_second_return_is_refused_and_the_first_stands() {
    let result = run("return-twice").await.result.unwrap();
    assert!(result.metadata.contains_key("frontend.raw"));
}

#[tokio::test(flavor = "multi_thread")]
async fn p32_a_return_of_an_unknown_ref_may_be_retried() {
    assert!(run("return-unknown").await.result.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_stays_after_its_return_is_killed_and_its_result_stands() {
    let run = run("return-linger").await;
    assert!(run.result.is_ok());
    assert!(run.took < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn p23_a_cancelled_build_kills_the_frontend_at_once() {
    let cancel = CancellationToken::new();
    let soon = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        soon.cancel();
    });
    raw_frontend();
    let run = run_with("silent", FrontendLimits::default(), cancel).await;
    assert_eq!(run.result.unwrap_err().code, Code::Canceled);
    assert!(run.took < Duration::from_millis(1200), "{:?}", run.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_text_on_stdout_is_quoted_and_never_hangs() {
    let error = run("text").await.result.unwrap_err();
    assert!(
        error
            .message
            .contains("frontend grpc server closed unexpectedly"),
        "{error}"
    );
    assert!(
        error.message.contains("hello, this is not HTTP/2"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_garbage_breaks_the_connection_and_the_process_is_killed() {
    let run = run("garbage").await;
    let error = run.result.unwrap_err();
    assert!(error.message.contains("closed unexpectedly"), "{error}");
    assert!(run.took < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_exits_at_once_is_an_exit_code_with_its_image() {
    let error = run("exit").await.result.unwrap_err();
    assert!(
        error
            .message
            .contains("frontend example/raw:1: exit code: 7"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_never_speaks_is_given_up() {
    let limits = FrontendLimits {
        start_timeout: Duration::from_millis(300),
        ..FrontendLimits::default()
    };
    let run = run_with("silent", limits, CancellationToken::new()).await;
    let error = run.result.unwrap_err();
    assert!(error.message.contains("did not start to speak"), "{error}");
    assert!(error.message.contains("example/raw:1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p51_p53_a_flood_of_stderr_is_shown_up_to_a_limit() {
    let run = run("flood").await;
    assert!(run.result.is_ok());
    assert!(run.log.starts_with(b"raw frontend: flood\nflood flood"));
    assert!(run.log.len() > 2 << 20 && run.log.len() < (2 << 20) + 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_the_outcome_does_not_depend_on_who_is_first() {
    for _ in 0..30 {
        assert!(run("2018").await.result.is_ok());
        let error = run("text").await.result.unwrap_err();
        assert!(error.message.contains("hello, this is not"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_falls_silent_after_it_began_is_given_up() {
    let limits = FrontendLimits {
        idle_timeout: Some(Duration::from_millis(300)),
        ..FrontendLimits::default()
    };
    let run = run_with("silent-later", limits, CancellationToken::new()).await;
    let error = run.result.unwrap_err();
    assert!(
        error
            .message
            .contains("frontend example/raw:1: it was silent for 0 seconds"),
        "{error}"
    );
    assert!(run.took < Duration::from_secs(10));
}
