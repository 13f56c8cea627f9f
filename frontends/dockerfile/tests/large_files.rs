//! Large files of every shape are read and built in time that grows with their size.

mod large;

use std::time::{Duration, Instant};

use gateway_dockerfile::{build, parse};
use gateway_frontend::testing::MockGateway;

/// Far above what a megabyte takes without optimisation on a machine under load, far below what
/// quadratic work takes.
const CEILING: Duration = Duration::from_secs(60);

#[test]
fn a_megabyte_of_any_shape_is_read_in_time_that_grows_with_it() {
    for (name, text) in large::shapes(1_000_000) {
        let start = Instant::now();
        let _ = parse::parse_lenient(text.as_bytes());
        assert!(start.elapsed() < CEILING, "{name}: {:?}", start.elapsed());
    }
}

#[test]
fn large_files_of_any_shape_are_built_or_refused_in_time() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for (name, text) in large::shapes(100_000) {
        let gateway = MockGateway::new().file("dockerfile", "Dockerfile", text.as_bytes());
        let start = Instant::now();
        let _ = runtime.block_on(build(gateway.shared()));
        assert!(start.elapsed() < CEILING, "{name}: {:?}", start.elapsed());
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
    let text = format!("# check=skip=all\n{text}RUN a\n");
    let gateway = MockGateway::new().file("dockerfile", "Dockerfile", text.as_bytes());
    let start = Instant::now();
    runtime.block_on(build(gateway.shared())).unwrap();
    assert!(start.elapsed() < CEILING, "{:?}", start.elapsed());
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
