//! Whole builds, timed as processes: CPU seconds of everything that was started, and wall seconds.
//! Each workload runs in turn with a peer, when one is given, and the ratio is printed.
//!
//!   cargo build --release -p gateway
//!   GATEWAY=target/release/gateway cargo bench -p gateway-tests
//!
//! With a BuildKit beside it (its daemon is started and ended here, its CPU is read from /proc):
//!
//!   BUILDKITD=/path/buildkitd BUILDCTL=/path/buildctl GATEWAY=... cargo bench -p gateway-tests
//!
//! `BUILDAH=/usr/bin/buildah` adds a builder that has no daemon: a second line for each workload, with its ratio. (Its own
//! `BUILDAH_RUNTIME=runc` helps where crun does not like the control groups.)
//! `RUNS=9` sets the counted runs of each workload, `ONLY=no-op` chooses one, `FILES=10000` the number of many files.

use std::path::Path;

use gateway_tests::measure::{BuildKit, Buildah, Cost, Ours, count_descendants, median_cost};
use gateway_tests::registry::Registry;

/// One kind of build.
struct Workload {
    name: &'static str,
    /// What is in the context.
    prepare: fn(&Path),
    /// Every run builds anew; else the first, uncounted run fills the cache.
    no_cache: bool,
    /// Builds of one run, whose mean counts: CPU is told in steps of 10 ms.
    times: usize,
    /// With an image at the end; else the cache alone, and nothing is compressed.
    image: bool,
    /// Changes the context before each build.
    touch: Option<fn(&Path, usize)>,
}

const WORKLOADS: [Workload; 8] = [
    Workload {
        name: "no-op: small build, unchanged",
        prepare: |dir| {
            write(dir, "a.txt", "a");
            write(
                dir,
                "Dockerfile",
                "FROM busybox\nCOPY a.txt /\nRUN echo one > /one\nRUN echo two > /two\n",
            );
        },
        no_cache: false,
        times: 20,
        image: true,
        touch: None,
    },
    Workload {
        name: "run: 40 steps",
        prepare: |dir| {
            let steps: String = (0..40).map(|i| format!("RUN true {i}\n")).collect();
            write(dir, "Dockerfile", &format!("FROM busybox\n{steps}"));
        },
        no_cache: true,
        times: 1,
        image: true,
        touch: None,
    },
    Workload {
        name: "parallel: 64 stages, each sleeping 0.2 s",
        prepare: |dir| {
            let stages: String = (0..64)
                .map(|i| format!("FROM busybox AS s{i}\nRUN sleep 0.2; echo {i} > /f{i}\n"))
                .collect();
            let copies: String = (0..64)
                .map(|i| format!("COPY --from=s{i} /f{i} /\n"))
                .collect();
            write(
                dir,
                "Dockerfile",
                &format!("{stages}FROM busybox\n{copies}"),
            );
        },
        no_cache: true,
        times: 1,
        image: true,
        touch: None,
    },
    Workload {
        name: "context: many files, unchanged",
        prepare: many_files,
        no_cache: false,
        times: 4,
        image: true,
        touch: None,
    },
    Workload {
        name: "context: many files, first",
        prepare: many_files,
        no_cache: false,
        times: 1,
        image: true,
        // Every file is another one each time.
        touch: Some(|dir, run| {
            for d in 0..directories() {
                for f in 0..100 {
                    write(
                        dir,
                        &format!("d{d}/f{f}"),
                        &format!("{run} {d} {f}\n").repeat(100),
                    );
                }
            }
        }),
    },
    Workload {
        name: "context: many files, one edited",
        prepare: many_files,
        no_cache: false,
        times: 4,
        image: true,
        touch: Some(|dir, run| write(dir, "d3/f7", &format!("edit {run}"))),
    },
    Workload {
        name: "context: a file of 1 GB beside one edited",
        prepare: |dir| {
            // Nothing that compresses or has holes.
            let mut state = 1_u64;
            let block: Vec<u8> = std::iter::repeat_with(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .take(1 << 20)
            .collect();
            let mut large = std::fs::File::create(dir.join("large")).expect("a file");
            for _ in 0..1000 {
                std::io::Write::write_all(&mut large, &block).expect("writing a file");
            }
            // One step takes both: whoever copies anew copies the large one too.
            write(dir, "Dockerfile", "FROM busybox\nCOPY . /context/\n");
        },
        no_cache: false,
        // A peer may keep a copy of each.
        times: 3,
        image: false,
        touch: Some(|dir, run| write(dir, "small", &format!("edit {run}"))),
    },
    Workload {
        name: "warm: 1,000 instructions in 300 stages",
        prepare: |dir| {
            let stages: String = (0..300)
                .map(|i| format!("FROM busybox AS s{i}\nENV A={i}\nLABEL l={i}\n"))
                .collect();
            write(
                dir,
                "Dockerfile",
                &format!("{stages}FROM busybox\nENV B=1\n"),
            );
        },
        no_cache: false,
        times: 10,
        image: true,
        touch: None,
    },
];

/// Of a hundred files each.
fn directories() -> usize {
    let files = std::env::var("FILES").ok();
    let files: usize = files.and_then(|text| text.parse().ok()).unwrap_or(50_000);
    files / 100
}

fn many_files(dir: &Path) {
    for d in 0..directories() {
        for f in 0..100 {
            write(
                dir,
                &format!("d{d}/f{f}"),
                &format!("{d} {f}\n").repeat(100),
            );
        }
    }
    write(dir, "Dockerfile", "FROM busybox\nCOPY . /ctx/\n");
    write(dir, ".dockerignore", "Dockerfile\n");
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("making a folder");
    std::fs::write(path, text).expect("writing a file");
}

fn main() {
    count_descendants();
    let runs: usize = std::env::var("RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(5);
    let only = std::env::var("ONLY").ok();
    let registry = Registry::with_base_images();
    let Some(ours) = Ours::of(&registry) else {
        println!("GATEWAY is not set: name the release binary (see the head of this file)");
        return;
    };
    let peer = BuildKit::start(&registry);
    let buildah = Buildah::of(&registry);
    println!(
        "{:<44} {:>10} {:>10} {:>10} {:>10} {:>7} {:>7}",
        "median of each", "cpu s", "wall s", "peer cpu", "peer wall", "cpu x", "wall x"
    );
    // Removed when all is measured: ext4 makes files slowly within a minute after many were removed.
    let mut contexts = Vec::new();
    for workload in WORKLOADS {
        if only
            .as_ref()
            .is_some_and(|only| !workload.name.contains(only.as_str()))
        {
            continue;
        }
        let context = tempfile::tempdir().expect("a temporary folder");
        (workload.prepare)(context.path());
        let mut costs: [Vec<Cost>; 3] = [Vec::new(), Vec::new(), Vec::new()];
        for run in 0..=runs {
            // The first one warms up: pulls the base image, fills the cache.
            let times = if run == 0 { 1 } else { workload.times };
            let mut sums = [Cost::default(); 3];
            for time in 0..times {
                if let Some(touch) = workload.touch {
                    touch(context.path(), run * workload.times + time);
                }
                let mut record = |which: usize, cost: Cost| sums[which].add(cost);
                let no_cache: &[&str] = match workload.no_cache {
                    true => &["--no-cache"],
                    false => &[],
                };
                let (here, there): (&[&str], &[&str]) = match workload.image {
                    true => (&[], &["--output", "type=image,name=bench"]),
                    false => (&["--output", "type=cacheonly"], &[]),
                };
                record(0, ours.build(context.path(), &[here, no_cache].concat()));
                if let Some(peer) = &peer {
                    let more = [there, no_cache].concat();
                    record(1, peer.build(context.path(), &more));
                }
                if let Some(buildah) = &buildah {
                    record(2, buildah.build(context.path(), workload.no_cache));
                }
            }
            let measured = [true, peer.is_some(), buildah.is_some()];
            for (which, sum) in sums.into_iter().enumerate() {
                if run > 0 && measured[which] {
                    costs[which].push(sum.over(times));
                }
            }
        }
        contexts.push(context);
        let [ours, peers, others] = costs.map(|costs| median_cost(&costs));
        let line = |name: &str, peers: Option<Cost>| {
            let (cpu, wall) = (ours.map(|c| c.cpu), ours.map(|c| c.wall));
            let (peer_cpu, peer_wall) = (peers.map(|c| c.cpu), peers.map(|c| c.wall));
            println!(
                "{:<44} {:>10} {:>10} {:>10} {:>10} {:>7} {:>7}",
                name,
                number(cpu),
                number(wall),
                number(peer_cpu),
                number(peer_wall),
                ratio(cpu, peer_cpu),
                ratio(wall, peer_wall)
            );
        };
        line(workload.name, peers);
        if others.is_some() {
            line("  the same, with buildah as the peer", others);
        }
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |v| format!("{v:.3}"))
}

fn ratio(a: Option<f64>, b: Option<f64>) -> String {
    match (a, b) {
        (Some(a), Some(b)) if b > 0.0 => format!("{:.2}", a / b),
        _ => "-".to_owned(),
    }
}
