//! Measures how long a sandbox takes from its request to its reported end:
//! `latency LAYER RUNS [OCI RUNTIME]`, where LAYER is a directory with
//! `/bin/true`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use gateway_sandbox::{Launcher, LauncherOptions, Network, Root, SandboxSpec, Stdio};

/// User and system time in `/proc/self/stat`, this process's and that of
/// children that were waited for; counted from the third field.
const OWN: [usize; 2] = [11, 12];
const CHILDREN: [usize; 2] = [13, 14];

/// Hundredths of a second.
fn cpu_ticks(fields: [usize; 2]) -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let numbers: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| numbers[at].parse::<u64>().expect("a number");
    fields.into_iter().map(number).sum()
}

fn main() {
    gateway_sandbox::maybe_run_zygote();
    let mut args = std::env::args().skip(1);
    let layer = args.next().expect("a layer");
    let runs: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(100);
    let oci = args.next().map(PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(measure(Path::new(&layer), runs, oci));
}

async fn measure(layer: &Path, runs: usize, oci: Option<PathBuf>) {
    let state = tempfile::tempdir().expect("tempdir");
    let start = Instant::now();
    let launcher = Launcher::start(LauncherOptions::default())
        .await
        .expect("launcher");
    println!("launcher ready: {:?}", start.elapsed());
    let own = cpu_ticks(OWN);
    for network in [Network::Host, Network::None] {
        let (mut started, mut ended) = (Vec::new(), Vec::new());
        for n in 0..runs {
            let dir = state.path().join(format!("{network:?}{n}"));
            let root = Root::Overlay {
                lowers: vec![layer.to_owned()],
                upper: dir.join("upper"),
                work: dir.join("work"),
            };
            std::fs::create_dir_all(dir.join("upper")).expect("mkdir");
            std::fs::create_dir_all(dir.join("work")).expect("mkdir");
            let mut spec = SandboxSpec::new(root, vec!["/bin/true".into()]);
            spec.network = network.clone();
            spec.runtime = oci.clone();
            let start = Instant::now();
            let mut running = launcher.spawn(spec, Stdio::default()).await.expect("spawn");
            started.push(start.elapsed());
            let status = running.wait().await.expect("wait");
            ended.push(start.elapsed());
            assert!(status.success());
        }
        for (what, times) in [("program runs", &mut started), ("end reported", &mut ended)] {
            times.sort();
            println!(
                "{network:?} network, {what}: median {:?}, 90% {:?}",
                times[runs / 2],
                times[runs * 9 / 10]
            );
        }
    }
    drop(launcher);
    // Ends with its last user, and is reaped by the runtime then.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    println!(
        "CPU of one run: {} us in the launcher and below, {} us here",
        cpu_ticks(CHILDREN) * 10_000 / (2 * runs as u64),
        (cpu_ticks(OWN) - own) * 10_000 / (2 * runs as u64)
    );
}
