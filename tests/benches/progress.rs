//! What showing progress costs: the same builds in every form of progress, beside a build that shows nothing.
//!
//!   cargo build --release -p gateway
//!   GATEWAY=target/release/gateway cargo bench -p gateway-tests --bench progress
//!
//! The steps of the first workload write 100,000 lines as fast as they can, 2 bytes each, which is what the limit of
//! a step's output lets through in a second. The second is a warm build of 1,000 vertices.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gateway_tests::measure::{Cost, count_descendants, median_cost, timed};
use gateway_tests::registry::Registry;

/// Forms of progress; `tty` on a terminal that `script` makes, which costs a process more.
const FORMS: [&str; 5] = ["quiet", "plain", "plain=2018", "rawjson", "tty"];

struct Setup {
    binary: PathBuf,
    dir: tempfile::TempDir,
}

impl Setup {
    fn build(&self, context: &Path, form: &str, no_cache: bool) -> Cost {
        let mut words = vec![
            self.binary.display().to_string(),
            "build".to_owned(),
            format!("--root={}", self.dir.path().join("store").display()),
            format!("--config={}", self.dir.path().join("config.toml").display()),
            format!("--progress={form}"),
            "--output=type=cacheonly".to_owned(),
        ];
        if no_cache {
            words.push("--no-cache".to_owned());
        }
        words.push(context.display().to_string());
        let mut command = match form {
            "tty" => {
                let mut command = Command::new("script");
                command.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]);
                command
            }
            _ => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        };
        timed(command.stdin(Stdio::null()))
    }
}

fn main() {
    count_descendants();
    let runs: usize = std::env::var("RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(5);
    let Some(binary) = std::env::var_os("GATEWAY").map(PathBuf::from) else {
        println!("GATEWAY is not set: name the release binary (see the head of this file)");
        return;
    };
    let binary = binary.canonicalize().expect("the binary named by GATEWAY");
    let registry = Registry::with_base_images();
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("config.toml"), registry.as_docker_hub())
        .expect("writing configuration");
    let setup = Setup { binary, dir };
    let lines = "FROM busybox\nRUN yes x | head -n 100000\n".to_owned();
    let stage = |i: usize| -> String {
        let copies = (0..100).map(|j| format!("COPY Dockerfile /s{i}c{j}\n"));
        format!("FROM scratch AS s{i}\n{}", copies.collect::<String>())
    };
    let stages: String = (0..10).map(stage).collect();
    let last: String = (0..10)
        .map(|i| format!("COPY --from=s{i} / /s{i}/\n"))
        .collect();
    println!(
        "{:<36} {:<12} {:>10} {:>10} {:>12}",
        "median of each", "progress", "cpu s", "wall s", "memory MiB"
    );
    for (name, text, no_cache) in [
        ("100,000 lines of one step", lines, true),
        (
            "1,000 vertices, unchanged",
            format!("{stages}FROM scratch\n{last}"),
            false,
        ),
    ] {
        let context = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(context.path().join("Dockerfile"), text).expect("writing the build file");
        for form in FORMS {
            let mut costs = Vec::new();
            for run in 0..=runs {
                let cost = setup.build(context.path(), form, no_cache);
                // The first one warms up: pulls the base image, fills the cache.
                if run > 0 {
                    costs.push(cost);
                }
            }
            let Some(cost) = median_cost(&costs) else {
                continue;
            };
            println!(
                "{name:<36} {form:<12} {:>10.3} {:>10.3} {:>12.1}",
                cost.cpu, cost.wall, cost.memory
            );
        }
    }
}
