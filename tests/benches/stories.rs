//! What people tell of builders, timed: each story is a sentence with a number behind it.
//!
//!   cargo build -p gateway && cargo build --release -p gateway
//!   GATEWAY=target/release/gateway cargo bench -p gateway-tests --bench stories
//!
//! - A cache mount makes rebuilding a C project of 200 files after one edit so many times faster (needs gcc and make).
//! - A build of several stages is so many times faster than with a builder that goes step by step (`DOCKER=/usr/bin/docker
//!   DOCKERD=/usr/sbin/dockerd` names one).
//! - Twenty equal builds at once cost hardly more than one.
//! - A `# syntax` line costs so much where the frontend runs, and so much where its answers are replayed.
//!
//! With `BUILDKITD` and `BUILDCTL` a BuildKit builds the same. `RUNS=5` sets the runs, `ONLY=cache` chooses.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

use gateway_tests::base_images::{Layout, Tar};
use gateway_tests::dockerd::ClassicBuilder;
use gateway_tests::measure::{
    BuildKit, Cost, Ours, children_cpu, count_descendants, median_cost, own_children,
    reap_descendants,
};
use gateway_tests::registry::Registry;

type Story = fn(&Bench);

/// Files of the C project.
const FILES: usize = 200;

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
    let only = std::env::var("ONLY").unwrap_or_default();
    let registry = Registry::with_base_images();
    let Some(ours) = Ours::of(&registry) else {
        println!("GATEWAY is not set: name the release binary (see the head of this file)");
        return;
    };
    let bench = Bench {
        ours,
        peer: BuildKit::start(&registry),
        registry,
        runs,
    };
    let stories: [(&str, Story); 4] = [
        ("cache mount", cache_mount),
        ("stages", stages),
        ("twenty", twenty),
        ("syntax", syntax),
    ];
    for (name, story) in stories {
        if name.contains(&only) {
            story(&bench);
        }
    }
}

struct Bench {
    ours: Ours,
    peer: Option<BuildKit>,
    registry: Registry,
    runs: usize,
}

impl Bench {
    /// The median of some runs after one that is not counted.
    fn median(&self, mut run: impl FnMut(usize) -> Cost) -> Cost {
        let costs: Vec<Cost> = (0..=self.runs).map(&mut run).skip(1).collect();
        median_cost(&costs).expect("at least one run")
    }
}

fn tell(name: &str, cost: Cost) {
    let Cost { cpu, wall, .. } = cost;
    println!("  {name:<44} {cpu:>8.3} cpu s {wall:>8.3} wall s");
}

fn ratio(name: &str, slow: Cost, fast: Cost) {
    let (cpu, wall) = (slow.cpu / fast.cpu, slow.wall / fast.wall);
    println!("  {name:<44} {cpu:>7.2} x cpu {wall:>8.2} x wall");
}

/// Each story's image output for a BuildKit: it makes what a local image needs.
const IMAGE: [&str; 2] = ["--output", "type=image,name=bench"];

fn cache_mount(bench: &Bench) {
    println!("one edit in a C project of {FILES} files");
    if !push_toolchain(&bench.registry) {
        println!("  not measured: no gcc and make on this machine");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    c_project(dir.path());
    let with = "FROM library/toolchain\nRUN --mount=type=bind,target=/src --mount=type=cache,target=/obj \
                make -s -j2 -C /obj -f /src/Makefile && cp /obj/app /app\n";
    let without = "FROM library/toolchain\nCOPY . /src\nWORKDIR /obj\nRUN make -s -j2 -f /src/Makefile && cp app /app\n";
    let mut edit = 0;
    let mut edited = |dockerfile: &str| {
        edit += 1;
        write(dir.path(), "Dockerfile", dockerfile);
        write(dir.path(), "f7.c", &c_file(7, edit));
    };
    let slow = bench.median(|_| {
        edited(without);
        bench.ours.build(dir.path(), &[])
    });
    let fast = bench.median(|_| {
        edited(with);
        bench.ours.build(dir.path(), &[])
    });
    tell("without a cache mount", slow);
    tell("with it", fast);
    ratio("faster", slow, fast);
    if let Some(peer) = &bench.peer {
        let slow = bench.median(|_| {
            edited(without);
            peer.build(dir.path(), &IMAGE)
        });
        let fast = bench.median(|_| {
            edited(with);
            peer.build(dir.path(), &IMAGE)
        });
        tell("BuildKit without", slow);
        tell("BuildKit with it", fast);
        ratio("faster", slow, fast);
    }
}

fn c_project(dir: &Path) {
    for i in 0..FILES {
        write(dir, &format!("f{i}.c"), &c_file(i, 0));
    }
    let calls: String = (0..FILES)
        .map(|i| format!("  sum += f{i}(sum);\n"))
        .collect();
    let names: String = (0..FILES).map(|i| format!("int f{i}(int);\n")).collect();
    let main = format!("{names}int main(void) {{\n  int sum = 0;\n{calls}  return sum == 1;\n}}\n");
    write(dir, "main.c", &main);
    let objects: String = (0..FILES).map(|i| format!(" f{i}.o")).collect();
    let makefile =
        format!("app: main.o{objects}\n\tgcc -o $@ $^\n%.o: /src/%.c\n\tgcc -O2 -c -o $@ $<\n");
    write(dir, "Makefile", &makefile);
    write(dir, ".dockerignore", "Dockerfile\n");
}

/// Some functions over what every program includes.
fn c_file(number: usize, edit: usize) -> String {
    let body: String = (0..30)
        .map(|i| {
            format!(
                "static int g{i}(int x) {{\n  char text[64];\n  for (int i = 0; i < x % 7; i++) x += i * {i};\n  \
                 snprintf(text, sizeof text, \"%d\", x);\n  return (int)strlen(text) + x;\n}}\n"
            )
        })
        .collect();
    let calls: String = (0..30).map(|i| format!("  x += g{i}(x);\n")).collect();
    format!(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n#include <sys/types.h>\n\
         {body}int f{number}(int x) {{\n{calls}  return x + {edit};\n}}\n"
    )
}

/// This machine's gcc, make and what they need, as an image. `false` where there are none.
fn push_toolchain(registry: &Registry) -> bool {
    let asked = |name: &str| {
        let output = Command::new("gcc").arg(format!("-print-{name}")).output();
        let output = output.ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        std::fs::canonicalize(text.trim()).ok()
    };
    let of_path = |name: &str| {
        let path = Command::new("sh")
            .args(["-c", &format!("command -v {name}")])
            .output();
        let text = String::from_utf8(path.ok()?.stdout).ok()?;
        Some(PathBuf::from(text.trim())).filter(|path| path.is_absolute())
    };
    let mut programs = Vec::new();
    for name in ["gcc", "make", "sh", "cp", "as", "ld"] {
        let Some(path) = of_path(name) else {
            return false;
        };
        programs.push(path);
    }
    let Some(library) = asked("file-name=libgcc.a") else {
        return false;
    };
    let mut files = std::collections::BTreeSet::new();
    let mut folders = vec![
        library.parent().expect("a folder").to_owned(),
        PathBuf::from("/usr/include"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            // Of the compilers only C's.
            let name = entry.file_name().to_string_lossy().into_owned();
            let skipped = [
                "cc1plus", "lto1", "lto-dump", "c++", "plugin", "f951", "d21", "gnat1",
            ];
            match path.is_dir() && !path.is_symlink() {
                _ if skipped.contains(&name.as_str()) => {}
                true => folders.push(path),
                false => drop(files.insert(path)),
            }
        }
    }
    for name in [
        "crt1.o",
        "crti.o",
        "crtn.o",
        "Scrt1.o",
        "libc.so",
        "libc_nonshared.a",
        "libm.so.6",
        "libc.so.6",
        "libgcc_s.so.1",
    ] {
        files.extend(asked(&format!("file-name={name}")));
    }
    let cc1 = asked("prog-name=cc1");
    for program in programs.iter().chain(&cc1) {
        let listed = Command::new("ldd").arg(program).output();
        let text = listed.map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let needed = text.split_whitespace().filter(|word| word.starts_with('/'));
        files.extend(needed.map(PathBuf::from));
    }
    files.extend(programs);
    let mut tar = Tar::default();
    let owner = |mode| (mode, 0, 0);
    for name in ["bin", "lib", "lib64"] {
        tar = tar.symlink(name, &format!("usr/{name}"));
    }
    // Each under the name by which it is asked for; links are followed.
    for path in files {
        let Ok(bytes) = std::fs::read(&path) else {
            continue;
        };
        let name = path.display().to_string();
        let name = name.trim_start_matches('/');
        let name = match name.starts_with("usr/") {
            true => name.to_owned(),
            false => format!("usr/{name}"),
        };
        tar = tar.file(&name, &bytes, owner(0o755));
    }
    tar = tar.dir("tmp/", owner(0o1777));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut layout = Layout::create(dir.path()).expect("a layout");
    let config = serde_json::json!({"Env": ["PATH=/usr/bin:/bin"]});
    let image = layout.image(&[tar.bytes()], config, "amd64");
    layout.name(image.expect("an image"), "toolchain");
    layout.close().expect("a layout");
    registry.push_layout(dir.path(), "toolchain", "library/toolchain:latest");
    true
}

/// Downloads are sleeps here: what waits for a network costs nobody's CPU.
const STAGES: &str = "\
FROM busybox AS tools
RUN sleep 1; echo tools > /tools
FROM busybox AS libraries
RUN sleep 1; echo libraries > /libraries
FROM busybox AS assets
RUN sleep 0.8; echo assets > /assets
FROM tools AS tests
RUN sleep 1.5; echo passed > /passed
FROM tools AS program
COPY --from=libraries /libraries /
RUN cat /tools /libraries > /program
FROM busybox
COPY --from=program /program /
COPY --from=assets /assets /
RUN cat /program /assets > /all
";

fn stages(bench: &Bench) {
    println!("five stages, one of them not needed");
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), "Dockerfile", STAGES);
    let fast = bench.median(|_| bench.ours.build(dir.path(), &["--no-cache"]));
    tell("gateway", fast);
    if let Some(classic) = ClassicBuilder::start(&bench.registry) {
        let slow = bench.median(|_| classic.build(dir.path()));
        tell("docker's classic builder", slow);
        ratio("faster", slow, fast);
    } else {
        println!("  docker's classic builder is not measured: DOCKER and DOCKERD name it");
    }
    if let Some(peer) = &bench.peer {
        let more = [&IMAGE[..], &["--no-cache"]].concat();
        let slow = bench.median(|_| peer.build(dir.path(), &more));
        tell("BuildKit", slow);
        ratio("faster", slow, fast);
    }
}

fn twenty(bench: &Bench) {
    println!("twenty equal builds at once");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let text = "FROM busybox\nCOPY f /\nRUN echo one > /one\nRUN echo two > /two\n";
    write(dir.path(), "Dockerfile", text);
    let ours = bench.median(|run| {
        write(dir.path(), "f", &format!("edit {run}"));
        at_once(|| bench.ours.command(dir.path(), &[]))
    });
    tell("gateway", ours);
    if let Some(peer) = &bench.peer {
        let theirs = bench.median(|run| {
            write(dir.path(), "f", &format!("edit {run}"));
            let before = peer.cpu();
            let mut cost = at_once(|| peer.command(dir.path(), &IMAGE));
            cost.cpu += peer.cpu() - before;
            cost
        });
        tell("BuildKit", theirs);
        ratio("faster", theirs, ours);
    }
}

/// Twenty of a command, as one cost.
fn at_once(command: impl Fn() -> Command) -> Cost {
    let null = std::process::Stdio::null;
    let others = own_children();
    let started = Instant::now();
    let before = children_cpu();
    let children: Vec<Child> = (0..20)
        .map(|_| {
            command()
                .stdin(null())
                .stdout(null())
                .stderr(null())
                .spawn()
        })
        .map(|child| child.expect("starting a build"))
        .collect();
    for mut child in children {
        assert!(child.wait().expect("waiting for a build").success());
    }
    let wall = started.elapsed().as_secs_f64();
    reap_descendants(&others);
    Cost {
        cpu: children_cpu() - before,
        wall,
        memory: 0.0,
    }
}

fn syntax(bench: &Bench) {
    println!("what a syntax line adds to an unchanged build");
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    bench
        .registry
        .build_and_push(&project, "docker/dockerfile:1");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let plain = "FROM busybox\nRUN echo one > /one\n";
    let named = format!("# syntax = docker/dockerfile:1\n{plain}");
    let added = |with: Cost, without: Cost| Cost {
        cpu: with.cpu - without.cpu,
        wall: with.wall - without.wall,
        memory: 0.0,
    };
    write(dir.path(), "Dockerfile", plain);
    let without = bench.median(|_| bench.ours.build(dir.path(), &[]));
    let theirs = bench
        .peer
        .as_ref()
        .map(|peer| bench.median(|_| peer.build(dir.path(), &IMAGE)));
    write(dir.path(), "Dockerfile", &named);
    let replayed = added(bench.median(|_| bench.ours.build(dir.path(), &[])), without);
    let flags = ["--verify-replay"];
    let ran = added(
        bench.median(|_| bench.ours.build(dir.path(), &flags)),
        without,
    );
    tell("replayed", replayed);
    tell("run, and compared with the replay", ran);
    if let (Some(peer), Some(before)) = (&bench.peer, theirs) {
        let theirs = added(bench.median(|_| peer.build(dir.path(), &IMAGE)), before);
        tell("BuildKit", theirs);
        ratio("less, replayed", theirs, replayed);
        ratio("less, run", theirs, ran);
    }
}
