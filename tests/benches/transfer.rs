//! Image bytes on their way in and out: pulling and unpacking an image of one and of ten layers, and exporting a large
//! layer as gzip and as zstd. CPU seconds, wall seconds, peak memory; each in turn with the peers, with the ratios.
//!
//!   cargo build --release -p gateway
//!   GATEWAY=target/release/gateway BUILDKITD=/path/buildkitd BUILDCTL=/path/buildctl \
//!       cargo bench -p gateway-tests --bench transfer
//!
//! The content is this machine's /usr: programs, libraries and text, many small files and some large. skopeo and umoci
//! pull too where they are installed. `RUNS=5` sets the runs of each, `ONLY=pull` or `ONLY=export` chooses, `MB=400`
//! sets the size. `GATEWAYS=a:b` measures several of our binaries in turn, for a comparison.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use gateway_tests::base_images::Layout;
use gateway_tests::measure::{BuildKit, Cost, count_descendants, median_cost, timed};
use gateway_tests::registry::Registry;
use serde_json::json;

/// Larger files are left out: one of them alone would be the benchmark.
const LARGEST: u64 = 8 << 20;

/// Regular files below /usr of `bytes` together, from all of its directories in turn.
fn sample(bytes: u64) -> Vec<(PathBuf, u64)> {
    let mut all: Vec<Vec<(PathBuf, u64)>> = ["bin", "lib", "share", "include", "sbin"]
        .iter()
        .map(|dir| {
            let mut files = Vec::new();
            walk(&Path::new("/usr").join(dir), &mut files);
            files.sort();
            files.reverse();
            files
        })
        .collect();
    let (mut out, mut total) = (Vec::new(), 0);
    while total < bytes && all.iter().any(|files| !files.is_empty()) {
        for files in &mut all {
            // A run of neighbours each time, as in real layers.
            for (path, size) in files.drain(files.len().saturating_sub(50)..).rev() {
                if total < bytes {
                    total += size;
                    out.push((path, size));
                }
            }
        }
    }
    assert!(total >= bytes, "/usr has only {total} bytes");
    out.sort();
    out
}

fn walk(dir: &Path, files: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if metadata.is_dir() {
            walk(&entry.path(), files);
        } else if metadata.is_file() && metadata.len() <= LARGEST {
            files.push((entry.path(), metadata.len()));
        }
    }
}

/// The tar of some files with the directories above them.
fn layer(files: &[(PathBuf, u64)], first: bool) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.mode(tar::HeaderMode::Deterministic);
    let mut dirs = BTreeSet::new();
    if first {
        tar.append_path_with_name("/bin/busybox", "bin/sh")
            .expect("/bin/busybox, of the package busybox-static");
    }
    for (path, _) in files {
        let name = path.strip_prefix("/").expect("an absolute path");
        let parents: Vec<&Path> = name.ancestors().skip(1).collect();
        for dir in parents.iter().rev().filter(|d| !d.as_os_str().is_empty()) {
            if dirs.insert(dir.to_path_buf()) {
                tar.append_dir(dir, Path::new("/").join(dir))
                    .expect("adding a directory");
            }
        }
        tar.append_path_with_name(path, name)
            .expect("adding a file");
    }
    tar.into_inner().expect("ending the tar")
}

/// An image of the files in `count` layers of about equal size, gzipped as most images are, pushed as `name`.
fn push_image(registry: &Registry, files: &[(PathBuf, u64)], count: usize, name: &str) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut layout = Layout::create(dir.path()).expect("a layout");
    let whole: u64 = files.iter().map(|(_, size)| size).sum();
    let (mut layers, mut rest) = (Vec::new(), files);
    for n in 1..=count {
        let (mut bytes, mut end) = (0, 0);
        while end < rest.len() && (n == count || bytes < whole / count as u64) {
            bytes += rest[end].1;
            end += 1;
        }
        let (these, others) = rest.split_at(end);
        layers.push(layer(these, n == 1));
        rest = others;
    }
    let config = json!({"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
    let image = layout
        .image(&layers, config, "amd64")
        .expect("writing the image");
    layout.name(image, name);
    layout.close().expect("closing the layout");
    registry.push_layout(dir.path(), name, name);
}

struct Ours {
    binary: PathBuf,
    config: PathBuf,
}

impl Ours {
    fn build(&self, store: &Path, context: &Path, more: &[&str]) -> Cost {
        let mut command = Command::new(&self.binary);
        command
            .args(["build", "--quiet", "--root"])
            .arg(store)
            .arg("--config")
            .arg(&self.config)
            .args(more)
            .arg(context);
        timed(&mut command)
    }
}

struct Table {
    ours: Vec<(String, Ours)>,
    runs: usize,
}

impl Table {
    /// Prints the medians and, for each of our binaries, the ratios to the best of the peers.
    fn print(&self, title: &str, ours: Vec<Vec<Cost>>, peers: Vec<(&str, Vec<Cost>)>) {
        println!("{title}");
        let row = |name: &str, cost: Cost, note: &str| {
            println!(
                "  {name:<24} {:>8.2} cpu s {:>8.2} wall s {:>7.0} MiB  {note}",
                cost.cpu, cost.wall, cost.memory
            );
        };
        let peers: Vec<(&str, Cost)> = peers
            .iter()
            .filter_map(|(name, costs)| Some((*name, median_cost(costs)?)))
            .collect();
        let best = |part: fn(&Cost) -> f64| {
            let all = peers.iter().map(|(_, cost)| part(cost));
            all.min_by(f64::total_cmp)
        };
        let (cpu, wall) = (best(|c| c.cpu), best(|c| c.wall));
        for ((name, _), costs) in self.ours.iter().zip(ours) {
            let Some(cost) = median_cost(&costs) else {
                continue;
            };
            let note = match (cpu, wall) {
                (Some(cpu), Some(wall)) => {
                    format!(
                        "{:.2} x cpu, {:.2} x wall of the best",
                        cost.cpu / cpu,
                        cost.wall / wall
                    )
                }
                _ => String::new(),
            };
            row(name, cost, &note);
        }
        for (name, cost) in peers {
            row(name, cost, "");
        }
    }
}

/// What is removed only when all is measured: ext4 takes up to a fifth more CPU to make files within a minute after as
/// many were removed, and whoever comes next would pay.
type Kept = Vec<Box<dyn std::any::Any>>;

/// Pulls into a store that is empty before every run.
fn pull(table: &Table, registry: &Registry, name: &str, title: &str, kept: &mut Kept) {
    let context = tempfile::tempdir().expect("a temporary folder");
    // The step makes every builder unpack every layer.
    let dockerfile = format!("FROM {name}\nRUN exit 0\n");
    fs::write(context.path().join("Dockerfile"), dockerfile).expect("writing a Dockerfile");
    let mut ours = vec![Vec::new(); table.ours.len()];
    let (mut buildkit, mut umoci) = (Vec::new(), Vec::new());
    for _ in 0..table.runs {
        for ((_, ours), costs) in table.ours.iter().zip(&mut ours) {
            let store = tempfile::tempdir().expect("a temporary folder");
            let more = ["--output", "type=cacheonly"];
            costs.push(ours.build(store.path(), context.path(), &more));
            kept.push(Box::new(store));
        }
        if let Some(peer) = BuildKit::start(registry) {
            buildkit.push(peer.build(context.path(), &[]));
            kept.push(Box::new(peer));
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        umoci.extend(skopeo_and_umoci(registry, name, dir.path()));
        kept.push(Box::new(dir));
    }
    let peers = vec![("buildkitd", buildkit), ("skopeo and umoci", umoci)];
    table.print(title, ours, peers);
}

/// `None` where they are not installed.
fn skopeo_and_umoci(registry: &Registry, name: &str, dir: &Path) -> Option<Cost> {
    let there = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !there("skopeo") || !there("umoci") {
        return None;
    }
    let layout = format!("{}/layout:image", dir.display());
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--quiet", "--src-cert-dir"])
        .arg(registry.certificate_dir())
        .arg(format!("docker://{}/{name}", registry.address))
        .arg(format!("oci:{layout}"));
    let copied = timed(&mut copy);
    let mut unpack = Command::new("umoci");
    unpack
        .args(["unpack", "--image", &layout])
        .arg(dir.join("bundle"));
    let unpacked = timed(&mut unpack);
    Some(Cost {
        cpu: copied.cpu + unpacked.cpu,
        wall: copied.wall + unpacked.wall,
        memory: copied.memory.max(unpacked.memory),
    })
}

/// Exports one layer that is built and not yet packed.
fn export(table: &Table, registry: &Registry, files: &[(PathBuf, u64)], kind: &str, title: &str) {
    let room = tempfile::tempdir().expect("a temporary folder");
    let context = room.path().join("context");
    for (path, _) in files {
        let to = context.join(path.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(to.parent().expect("a folder")).expect("making a folder");
        fs::copy(path, to).expect("copying a file");
    }
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY usr /usr/\n")
        .expect("writing a Dockerfile");
    let peer = BuildKit::start(registry);
    let mut ours = vec![Vec::new(); table.ours.len()];
    let mut buildkit = Vec::new();
    let mut sizes = vec![0; table.ours.len() + 1];
    let archive = room.path().join("image.tar");
    let output = format!("type=oci,compression={kind},dest={}", archive.display());
    let stores: Vec<tempfile::TempDir> = table
        .ours
        .iter()
        .map(|_| tempfile::tempdir().expect("a temporary folder"))
        .collect();
    for run in 0..table.runs {
        // A layer that was never packed.
        fs::write(context.join("usr/run"), run.to_string()).expect("writing a file");
        for (at, (_, ours_)) in table.ours.iter().enumerate() {
            ours_.build(stores[at].path(), &context, &["--output", "type=cacheonly"]);
            ours[at].push(ours_.build(stores[at].path(), &context, &["--output", &output]));
            sizes[at] = largest_blob(&archive);
        }
        if let Some(peer) = &peer {
            peer.build(&context, &[]);
            buildkit.push(peer.build(&context, &["--output", &output]));
            sizes[table.ours.len()] = largest_blob(&archive);
        }
    }
    let mb: Vec<String> = sizes
        .iter()
        .map(|s| format!("{:.1}", *s as f64 / 1e6))
        .collect();
    let gzip_6 = match kind {
        "gzip" => format!(", gzip -6 {:.1}", gzip_6(&layer(files, false)) as f64 / 1e6),
        _ => String::new(),
    };
    table.print(title, ours, vec![("buildkitd", buildkit)]);
    println!("  size in MB, in this order: {}{gzip_6}", mb.join(", "));
}

/// Bytes of the layer in an OCI archive.
fn largest_blob(archive: &Path) -> u64 {
    let mut archive = tar::Archive::new(File::open(archive).expect("the archive"));
    let entries = archive.entries().expect("a tar archive");
    let sizes = entries.map(|entry| entry.expect("a tar entry").size());
    sizes.max().unwrap_or_default()
}

/// What gzip makes of the same at its default level.
fn gzip_6(tar: &[u8]) -> u64 {
    struct Count(u64);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut gzip = GzEncoder::new(BufWriter::new(Count(0)), Compression::new(6));
    gzip.write_all(tar).expect("compressing");
    gzip.finish()
        .expect("compressing")
        .into_inner()
        .unwrap_or_else(|_| panic!("counting cannot fail"))
        .0
}

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    count_descendants();
    let binaries = std::env::var("GATEWAYS").or_else(|_| std::env::var("GATEWAY"));
    let Ok(binaries) = binaries else {
        println!("GATEWAY is not set: name the release binary (see the head of this file)");
        return;
    };
    let only = std::env::var("ONLY").unwrap_or_default();
    let runs = number("RUNS", 3) as usize;
    let megabytes = number("MB", 400);
    let registry = Registry::start();
    let room = tempfile::tempdir().expect("a temporary folder");
    let config = room.path().join("config.toml");
    fs::write(&config, registry.as_docker_hub()).expect("writing configuration");
    let ours = binaries.split(':').map(|path| {
        let binary = Path::new(path)
            .canonicalize()
            .expect("the binary named by GATEWAY");
        let config = config.clone();
        (
            path.rsplit('/').next().unwrap_or(path).to_owned(),
            Ours { binary, config },
        )
    });
    let table = Table {
        ours: ours.collect(),
        runs,
    };
    let idle = {
        let context = tempfile::tempdir().expect("a temporary folder");
        fs::write(
            context.path().join("Dockerfile"),
            "FROM scratch\nCOPY Dockerfile /\n",
        )
        .expect("writing a Dockerfile");
        let store = tempfile::tempdir().expect("a temporary folder");
        let more = ["--output", "type=cacheonly"];
        table.ours[0].1.build(store.path(), context.path(), &more)
    };
    println!("memory of a build of nothing: {:.0} MiB", idle.memory);
    let mut kept = Kept::new();
    if "pull".contains(&only) {
        let files = sample(megabytes * 1_000_000);
        println!("{} files, {megabytes} MB", files.len());
        for layers in [1, 10] {
            let name = format!("library/bench-{layers}");
            push_image(&registry, &files, layers, &name);
            let title = format!("pull and unpack {megabytes} MB in {layers} layers");
            pull(&table, &registry, &name, &title, &mut kept);
        }
    }
    if "export".contains(&only) {
        let files = sample(megabytes * 1_250_000);
        println!("{} files, {} MB", files.len(), megabytes * 5 / 4);
        for kind in ["gzip", "zstd"] {
            let title = format!("export {} MB as {kind}", megabytes * 5 / 4);
            export(&table, &registry, &files, kind, &title);
        }
    }
}
