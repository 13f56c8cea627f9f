//! What clients send to a daemon: directories of very many small files and a large file, the first time, unchanged,
//! and with one file edited. The same client, buildctl, drives our daemon and BuildKit's in turn; CPU seconds of both
//! sides, wall seconds, and the daemon's peak memory.
//!
//!   cargo build --release -p gateway
//!   GATEWAY=target/release/gateway BUILDKITD=/path/buildkitd BUILDCTL=/path/buildctl \
//!       cargo bench -p gateway-tests --bench sessions
//!
//! Every build copies what it gets (`COPY . /`); the last of each exports it to a folder of the client. `RUNS=3` sets the
//! runs of each, each with a daemon that is new; `FILES=100000` and `MB=1000` set the sizes. Also: how long a build of
//! nothing takes.

use std::fs;
use std::io::Write;
use std::path::Path;

use bollard_buildkit_proto::moby::buildkit::v1 as api;
use gateway_proto::frontend as bridge;
use gateway_tests::calls::{Driven, of};
use gateway_tests::measure::{BuildKit, Cost, count_descendants, median, median_cost};
use gateway_tests::registry::Registry;
use tonic::transport::Endpoint;

fn number(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn small_files(dir: &Path, count: usize) {
    for number in 0..count {
        let below = dir.join(format!("d{:04}", number / 100));
        if number % 100 == 0 {
            fs::create_dir(&below).expect("a directory");
        }
        fs::write(below.join(format!("f{}", number % 100)), number.to_string())
            .expect("writing a file");
    }
}

/// Nothing that compresses or has holes.
fn large_file(dir: &Path, megabytes: usize) {
    let mut state = 1_u64;
    let block: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(1_000_000)
    .collect();
    let mut file = fs::File::create(dir.join("large")).expect("a file");
    for _ in 0..megabytes {
        file.write_all(&block).expect("writing a file");
    }
}

/// What is measured of each context.
const MOMENTS: [&str; 4] = ["first", "unchanged", "one edited", "exported"];

fn builds(daemon: &BuildKit, context: &Path, costs: &mut [Vec<Cost>; 4]) {
    let out = tempfile::tempdir().expect("a temporary folder");
    let output = format!("type=local,dest={}", out.path().display());
    for (number, costs) in costs.iter_mut().enumerate() {
        if number == 2 {
            fs::write(context.join("edited"), "as it is now").expect("writing a file");
        }
        let more: &[&str] = match number {
            3 => &["--output", &output],
            _ => &[],
        };
        costs.push(daemon.build(context, more));
    }
    fs::write(context.join("edited"), "").expect("writing a file");
}

/// Milliseconds of a build of nothing, as clients make one to learn what a daemon can do: the median of many.
fn internal(daemon: &BuildKit) -> f64 {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::try_from(daemon.address().to_owned()).expect("an address");
        let channel = endpoint.connect().await.expect("the daemon");
        let mut times = Vec::new();
        for number in 0..200 {
            let began = std::time::Instant::now();
            let request = api::SolveRequest {
                internal: true,
                ..Default::default()
            };
            let mut driven = Driven::over(channel.clone(), request, &format!("internal{number}"));
            let ping = bridge::PingRequest::default();
            let pong = driven.client.ping(of(&driven.name, ping)).await;
            pong.expect("an answer");
            let nothing = bridge::Result::default();
            driven.end(nothing).await.expect("the build");
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        median(times)
    })
}

fn main() {
    count_descendants();
    let registry = Registry::start();
    let probe = (BuildKit::ours(&registry), BuildKit::start(&registry));
    let (ours, theirs) = (probe.0.is_some(), probe.1.is_some());
    for (name, daemon) in [("gateway", &probe.0), ("buildkitd", &probe.1)] {
        if let Some(daemon) = daemon {
            println!(
                "an internal build of nothing: {name} {:.2} ms",
                internal(daemon)
            );
        }
    }
    drop(probe);
    if !ours {
        println!("GATEWAY and BUILDCTL are not set: see the head of this file");
        return;
    }
    let (files, megabytes) = (number("FILES", 100_000), number("MB", 1000));
    let room = tempfile::tempdir().expect("a temporary folder");
    let contexts = [
        (format!("{files} small files"), "files"),
        (format!("a file of {megabytes} MB"), "large"),
    ];
    for (_, name) in &contexts {
        let dir = room.path().join(name);
        fs::create_dir(&dir).expect("a folder");
        fs::write(dir.join("Dockerfile"), "FROM scratch\nCOPY . /\n").expect("a Dockerfile");
        fs::write(dir.join("edited"), "").expect("writing a file");
    }
    small_files(&room.path().join("files"), files);
    large_file(&room.path().join("large"), megabytes);
    for (title, name) in &contexts {
        let context = room.path().join(name);
        let (mut own, mut peer) = (<[Vec<Cost>; 4]>::default(), <[Vec<Cost>; 4]>::default());
        for _ in 0..number("RUNS", 3) {
            if let Some(daemon) = BuildKit::ours(&registry) {
                builds(&daemon, &context, &mut own);
            }
            if let Some(daemon) = BuildKit::start(&registry).filter(|_| theirs) {
                builds(&daemon, &context, &mut peer);
            }
        }
        for (moment, (own, peer)) in MOMENTS.iter().zip(own.iter().zip(&peer)) {
            println!("{title}, {moment}");
            let shown = |name: &str, cost: Option<Cost>| {
                if let Some(cost) = cost {
                    println!(
                        "  {name:<10} {:>8.2} cpu s {:>8.2} wall s {:>7.0} MiB",
                        cost.cpu, cost.wall, cost.memory
                    );
                }
            };
            let (own, peer) = (median_cost(own), median_cost(peer));
            shown("gateway", own);
            shown("buildkitd", peer);
            if let (Some(own), Some(peer)) = (own, peer) {
                println!(
                    "  {:.2} x cpu, {:.2} x wall",
                    own.cpu / peer.cpu,
                    own.wall / peer.wall
                );
            }
        }
    }
}
