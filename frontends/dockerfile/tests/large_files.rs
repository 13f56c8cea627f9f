//! Large files of every shape are read and built in time that grows with their size.

mod large;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use gateway_api::{BuildResult, Error};
use gateway_dockerfile::{build, parse};
use gateway_frontend::testing::MockGateway;

/// Far above what a megabyte takes without optimisation, far below what quadratic work takes.
const CEILING: Duration = Duration::from_secs(60);

/// What this thread has computed so far: other programs of the machine do not count.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

#[test]
fn a_megabyte_of_any_shape_is_read_in_time_that_grows_with_it() {
    let conversions = large::conversions(1_000_000);
    for (name, text) in large::shapes(1_000_000).into_iter().chain(conversions) {
        let start = cpu();
        let _ = parse::parse_lenient(text.as_bytes());
        let taken = cpu() - start;
        assert!(taken < CEILING, "{name}: {taken:?}");
    }
}

#[test]
fn large_files_of_any_shape_are_built_or_refused_in_time() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    // Of these some are refused only when they have become hundreds of megabytes.
    let conversions = large::conversions(20_000);
    for (name, text) in large::shapes(100_000).into_iter().chain(conversions) {
        let gateway = MockGateway::new().file("dockerfile", "Dockerfile", text.as_bytes());
        let start = cpu();
        let _ = runtime.block_on(build(gateway.shared()));
        let taken = cpu() - start;
        assert!(taken < CEILING, "{name}: {taken:?}");
    }
}

#[test]
fn a_megabyte_of_arguments_is_built_in_time_that_grows_with_it() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (_, text) = large::shapes(1_000_000)
        .into_iter()
        .find(|(name, _)| *name == "arguments")
        .unwrap();
    // And one command that is told them all.
    let text = format!("{text}RUN a\n");
    let gateway = MockGateway::new().file("dockerfile", "Dockerfile", text.as_bytes());
    let start = cpu();
    runtime.block_on(build(gateway.shared())).unwrap();
    let taken = cpu() - start;
    assert!(taken < CEILING, "{taken:?}");
}

fn run(text: &str) -> (Arc<MockGateway>, Result<BuildResult, Error>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let gateway = MockGateway::new().file("dockerfile", "Dockerfile", text.as_bytes());
    let gateway = gateway.shared();
    let result = runtime.block_on(build(gateway.clone()));
    (gateway, result)
}

#[test]
fn warnings_end_with_the_number_of_those_not_shown() {
    let text = (0..12_000).fold("FROM scratch\n".to_owned(), |text, i| {
        text + &format!("ARG A{i}=$B\n")
    });
    let (gateway, result) = run(&text);
    result.unwrap();
    let texts = gateway.warning_texts();
    assert_eq!(texts.len(), 10_001);
    assert_eq!(texts[10_000], "2000 more warnings are not shown");
}

/// Each place would name all lines of the instruction: 25 million.
#[test]
fn places_of_one_long_instruction_do_not_name_each_of_its_lines_forever() {
    let lines: String = (0..5_000).map(|i| format!(" A{i}=$B{i} \\\n")).collect();
    let (gateway, result) = run(&format!("FROM scratch\nENV{lines} Z=z\n"));
    result.unwrap();
    let warnings = gateway.warnings();
    assert_eq!(warnings.len(), 5_000);
    let named: usize = warnings.iter().map(|warning| warning.ranges.len()).sum();
    assert!(named <= (1 << 20) + 5_000, "{named}");
    let last = &warnings.last().unwrap().ranges;
    assert_eq!(last.len(), 1);
    assert_eq!(last[0].start.as_ref().map(|start| start.line), Some(2));
}

/// Stages that take over what others have share it: copied one by one, these variables would be more than may be.
#[test]
fn a_long_chain_of_stages_passes_on_its_variables_without_copying_them() {
    let stages: String = (0..4_000)
        .map(|i| format!("FROM s{i} AS s{}\nENV E{i}=v\n", i + 1))
        .collect();
    let (_, result) = run(&format!("FROM scratch AS s0\n{stages}"));
    let config = &result.unwrap().metadata["containerimage.config"];
    let config: serde_json::Value = serde_json::from_slice(config).unwrap();
    let env = config["config"]["Env"].as_array().unwrap();
    assert_eq!(env.len(), 4_001);
    assert_eq!(env[4_000], "E3999=v");
}

#[test]
fn what_would_become_too_large_is_refused_with_its_line() {
    let word = "x".repeat(60_000);
    let more = "$A".repeat(100);
    let runs = "RUN a\n".repeat(100);
    let (_, result) = run(&format!("FROM scratch\nENV A={word}\nENV B={more}\n{runs}"));
    let error = result.unwrap_err();
    assert!(error.message.contains("more than 256 MiB"), "{error:?}");
    let line = error.sources().next().unwrap().ranges[0]
        .start
        .unwrap()
        .line;
    assert!((4..104).contains(&line), "{line}");
}

#[test]
fn a_ring_of_many_stages_shows_some_of_them() {
    let stages: String = (0..100)
        .map(|i| format!("FROM scratch AS s{i}\nCOPY --from=s{} / /\n", (i + 1) % 100))
        .collect();
    let (_, result) = run(&stages);
    let error = result.unwrap_err();
    assert!(error.message.contains("circular dependency"), "{error:?}");
    assert_eq!(error.sources().count(), 16);
}

/// Others of the same thread: timers, signals, the connection.
#[tokio::test]
async fn a_conversion_gives_others_their_turn_and_ends_when_it_is_dropped() {
    let text = (0..20_000).fold("FROM scratch\n".to_owned(), |text, i| {
        text + &format!("ENV A{i}=b\n")
    });
    let gateway = MockGateway::new().file("dockerfile", "Dockerfile", text.as_bytes());
    let gateway = gateway.shared();
    let turns = Arc::new(AtomicUsize::new(0));
    let own = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            own.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
        }
    });
    build(gateway.clone()).await.unwrap();
    other.abort();
    let turns = turns.load(Relaxed);
    assert!(turns > 20_000 / 512, "{turns}");

    let solves = gateway.solves().len();
    let (mut dropped, mut polls) = (Box::pin(build(gateway.clone())), 0);
    std::future::poll_fn(|context| {
        polls += 1;
        assert!(dropped.as_mut().poll(context).is_pending(), "{polls}");
        if polls < turns / 4 {
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
    drop(dropped);
    // The build file was read; the graph was not asked for.
    assert_eq!(gateway.solves().len(), solves + 1);
}

/// A million bytes with a warning every twenty would be fifty thousand files of a megabyte.
#[test]
fn warnings_of_a_large_file_do_not_bring_it_along_each() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let lines: String = (0..5_000)
        .map(|i| format!("ARG V{i}=$U{i}{:100}\n", ""))
        .collect();
    let text = format!("FROM scratch\n{lines}");
    let gateway = MockGateway::new()
        .file("dockerfile", "Dockerfile", text.as_bytes())
        .shared();
    runtime.block_on(build(gateway.clone())).unwrap();
    let warnings = gateway.warnings();
    assert!(warnings.len() >= 5_000, "{}", warnings.len());
    assert!(warnings.iter().all(|warning| !warning.ranges.is_empty()));
    let infos = warnings.iter().filter_map(|warning| warning.info.as_ref());
    assert!(infos.clone().all(|info| info.filename == "Dockerfile"));
    let brought: usize = infos.clone().map(|info| info.data.len()).sum();
    assert!(brought <= 32 << 20, "{brought}");
    assert_eq!(infos.map(|info| info.data.len()).max(), Some(text.len()));
}
