//! The project's frontend image under the BuildKit inside Debian's docker: an engine of 2020, as far as
//! its capabilities reach.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gateway_tests::base_images;
use gateway_tests::case::{Case, THEMES, cases};
use gateway_tests::expect::{Outcome, differences};
use gateway_tests::image::{Image, Node, read_archive, saved_images};
use gateway_tests::registry::Registry;
use serde_json::{Value, json};

/// A daemon starts in seconds; this is for machines under load.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Debian's dockerd with everything of its own, ended by its process id.
struct Docker {
    process: Child,
    dir: tempfile::TempDir,
}

impl Docker {
    fn start(more: &[&str]) -> Docker {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let log = fs::File::create(dir.path().join("log")).expect("a log file");
        let process = Command::new("/usr/sbin/dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args(["--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("socket"))])
            // No step of these builds needs a network of its own.
            .args(["--bridge=none", "--iptables=false"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd, of Debian's package docker.io");
        let mut docker = Docker { process, dir };
        let started = Instant::now();
        while !docker.command(&["version"]).status.success() {
            let log = || fs::read_to_string(docker.dir.path().join("log")).unwrap_or_default();
            if let Ok(Some(status)) = docker.process.try_wait() {
                panic!("dockerd ended with {status}: {}", log());
            }
            assert!(started.elapsed() < START_LIMIT, "no answer: {}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
        docker
    }

    fn command(&self, args: &[&str]) -> Output {
        // Debian's client, whatever else is called docker here.
        Command::new("/usr/bin/docker")
            .env("DOCKER_BUILDKIT", "1")
            .env("DOCKER_CONFIG", self.dir.path().join("config"))
            .arg("--host")
            .arg(format!(
                "unix://{}",
                self.dir.path().join("socket").display()
            ))
            .args(args)
            .output()
            .expect("docker, of Debian's package docker.io")
    }

    /// This daemon saves no image without layers; its configuration lies in its folder.
    fn image_without_layers(&self, tag: &str) -> Image {
        let found = self.command(&["image", "inspect", "--format={{.Id}}", tag]);
        let id = String::from_utf8_lossy(&found.stdout);
        let id = id.trim().trim_start_matches("sha256:");
        let drivers = fs::read_dir(self.dir.path().join("data/image")).expect("images");
        let path = drivers.flatten().map(|driver| driver.path());
        let path = path.map(|driver| driver.join("imagedb/content/sha256").join(id));
        let path = path.into_iter().find(|path| path.exists());
        let config = fs::read(path.expect("the configuration")).expect("the configuration");
        Image::without_layers(serde_json::from_slice(&config).expect("JSON"))
    }

    /// Builds `dir/context` into the folder `dir/out`; what was printed, and whether it worked.
    fn build(&self, dir: &Path, more: &[&str]) -> (bool, String) {
        let out = dir.join("out").display().to_string();
        let context = dir.join("context").display().to_string();
        let secret = format!("id=token,src={}", dir.join("token").display());
        let mut args = vec!["build", "--progress=plain", "--network=none", "--no-cache"];
        args.extend(["--secret", &secret, "--output", &out]);
        args.extend(more);
        args.push(&context);
        let output = self.command(&args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), text)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It unmounts and ends its own children when it is asked to.
        let pid = i32::try_from(self.process.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

#[test]
fn our_frontend_image_builds_under_debians_docker() {
    if !rustix::process::geteuid().is_root() {
        // The suite runs as root (scripts/test says so); nobody else can start dockerd.
        panic!("dockerd needs root");
    }
    let registry = Registry::with_base_images();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    registry.build_and_push(&project, "our/dockerfile:1");
    let docker = Docker::start(&["--storage-driver=vfs"]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let context = dir.path().join("context");
    fs::create_dir_all(context.join("dir")).unwrap();
    fs::write(dir.path().join("token"), "hush").unwrap();
    fs::write(context.join("dir/kept.txt"), "kept").unwrap();
    fs::write(context.join("dir/left.md"), "left").unwrap();
    fs::write(context.join(".dockerignore"), "**/*.md\n").unwrap();
    // Docker speaks to registries on loopback addresses without TLS.
    let plain = registry.without_tls();
    let address = plain.address;
    let file = |body: &str| {
        let text = format!("# syntax = {address}/our/dockerfile:1\n{body}");
        fs::write(context.join("Dockerfile"), text).unwrap();
    };

    file(&format!(
        "ARG BASE={address}/library/busybox
FROM ${{BASE%/}} AS base
ARG WHO=nobody
RUN --mount=type=cache,target=/cache --mount=type=secret,id=token <<SH
set -e
echo \"hello $WHO $(wc -c < /run/secrets/token)\" > /greeting
touch /cache/there
SH
FROM scratch
COPY --link --from=base --chmod=0600 /greeting /
COPY dir /dir
COPY <<TEXT /inline
${{WHO:-unset}} \\$kept
TEXT
WORKDIR /made
"
    ));
    let (ok, text) = docker.build(dir.path(), &["--build-arg", "WHO=you"]);
    assert!(ok, "{text}");
    let read = |name: &str| fs::read_to_string(dir.path().join("out").join(name)).unwrap();
    assert_eq!(read("greeting"), "hello you 4\n");
    assert_eq!(read("inline"), "unset $kept\n");
    assert_eq!(read("dir/kept.txt"), "kept");
    assert!(!dir.path().join("out/dir/left.md").exists());
    assert!(dir.path().join("out/made").is_dir());
    assert!(text.contains("[base 2/2] RUN --mount=type=cache"), "{text}");

    file("FROM scratch\nCOPPY a /\n");
    let (ok, text) = docker.build(dir.path(), &[]);
    assert!(!ok);
    assert!(
        text.contains(
            "dockerfile parse error on line 3: unknown instruction: COPPY (did you mean COPY?)"
        ),
        "{text}"
    );
}

/// Builds at once: steps sleep and sync more than they compute.
const WORKERS: usize = 4;

/// Cases that this engine or its client cannot build, or builds otherwise, each with the reason. They are
/// not run here.
const BEYOND: &[(&str, &str)] = &[
    (
        "copy/chown-chmod",
        "its copies lose the set-user-id bit to a change of owner",
    ),
    ("copy/link", "no mergeop: --link copies as without it"),
    (
        "copy/link-chown-name",
        "no mergeop: names of owners are those of the base",
    ),
    (
        "copy/from-bad-stage",
        "it asks Docker Hub for what a mirror lacks",
    ),
    (
        "stages/from-digest",
        "it asks Docker Hub for what a mirror lacks",
    ),
    (
        "stages/from-missing-image",
        "it asks Docker Hub for what a mirror lacks",
    ),
    ("net/hostname", "the client has no flag for it"),
    (
        "net/shm-and-ulimit",
        "the client does not hand these flags to BuildKit",
    ),
    (
        "run/mount-secret-default",
        "no exec.meta.removemountstubs.recursive: the step's own look at /run differs",
    ),
    ("run/user-numeric", "its runtime gives no additional group"),
    ("stages/multi-platform", "the client takes one platform"),
    (
        "stages/named-context-local",
        "the client has no --build-context",
    ),
    (
        "stages/named-context-replaces-image",
        "the client has no --build-context",
    ),
    (
        "stages/named-context-replaces-stage",
        "the client has no --build-context",
    ),
    ("stages/platform-bad", "the daemon reads the flag itself"),
];

/// Cases that fail here in words of this engine, or because our frontend refuses by name what this
/// engine would do otherwise.
const OWN_WORDS: &[(&str, &str)] = &[
    (
        "copy/chmod-symbolic",
        "requested feature file.copy.modestring is not supported by the build server, please update docker",
    ),
    (
        "copy/exclude",
        "requested feature file.copy.includeexcludepatterns is not supported by the build server, please update docker",
    ),
    (
        "copy/parents",
        "requested feature file.copy.includeexcludepatterns is not supported by the build server, please update docker",
    ),
    (
        "run/mount-secret-env",
        "requested feature exec.secretenv is not supported by the build server, please update docker",
    ),
    (
        "copy/missing-source",
        "failed to compute cache key: \"/nope.txt\" not found: not found",
    ),
    (
        "copy/outside-context",
        "failed to compute cache key: \"/outside\" not found: not found",
    ),
    (
        "lint/copy-ignored-file",
        "failed to compute cache key: \"/a.txt\" not found: not found",
    ),
    (
        "parse/missing-dockerfile",
        "failed to read dockerfile: open ",
    ),
    (
        "run/fail-command-not-found",
        "executor failed running [/no/such/program]: exit code: 1",
    ),
    (
        "run/fail-exit-code",
        "executor failed running [/bin/sh -c echo before && exit 7]: exit code: 7",
    ),
    (
        "run/fail-script",
        "executor failed running [/bin/sh -c echo \"a b\" >\t/dev/null\nexit 3\n]: exit code: 3",
    ),
    (
        "run/fail-unknown-user",
        "executor failed running [/bin/sh -c echo \"$HOME\"]: unable to find user nobody-here: no matching entries in passwd file",
    ),
    (
        "run/mount-secret-required-missing",
        "secret nope not found: not found",
    ),
    (
        "stages/platform-missing",
        "no match for platform in manifest",
    ),
];

/// One case; what differs.
fn build_case(
    docker: &Docker,
    syntax: &str,
    theme: &str,
    case: &Case,
    expected: &Value,
    base: &BTreeMap<String, Node>,
) -> Vec<String> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let context = case.write_context(scratch.path());
    let case_name = format!("{theme}/{}", case.name);
    let tag = format!("{theme}-{}:1", case.name);
    let syntax_arg = format!("BUILDKIT_SYNTAX={syntax}");
    let mut args = ["build", "--progress=plain", "--no-cache", "--tag", &tag]
        .map(str::to_owned)
        .to_vec();
    args.extend(["--build-arg".to_owned(), syntax_arg]);
    let mut network = "none".to_owned();
    let mut file = "Dockerfile".to_owned();
    for (key, value) in &case.opts {
        let (flag, value) = match key.split_once(':').unwrap_or((key, "")) {
            ("build-arg", name) => ("--build-arg", format!("{name}={value}")),
            ("label", name) => ("--label", format!("{name}={value}")),
            ("target" | "platform" | "shm-size" | "ulimit", _) => {
                args.push(format!("--{key}={value}"));
                continue;
            }
            ("add-hosts", _) => {
                for host in value.split(',') {
                    args.push(format!("--add-host={}", host.replacen('=', ":", 1)));
                }
                continue;
            }
            ("force-network-mode", _) => {
                network.clone_from(value);
                continue;
            }
            ("filename", _) => {
                file.clone_from(value);
                continue;
            }
            _ => return vec![format!("no flag for {key}")],
        };
        args.extend([flag.to_owned(), value]);
    }
    for (id, value) in &case.secrets {
        let path = scratch.path().join(format!("secret-{id}"));
        fs::write(&path, value).expect("writing a secret");
        args.push(format!("--secret=id={id},src={}", path.display()));
    }
    args.push(format!("--network={network}"));
    args.push(format!("--file={}", context.join(file).display()));
    args.push(context.display().to_string());
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    let started = started.expect("a clock after 1970").as_secs();
    let output = docker.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let ok = output.status.success();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if let Some((_, words)) = OWN_WORDS.iter().find(|(name, _)| *name == case_name) {
        return match !ok && text.contains(words) {
            true => Vec::new(),
            false => vec![format!("expected {words}, got {ok}\n{text}")],
        };
    }
    let images = if ok {
        let archive = scratch.path().join("image.tar").display().to_string();
        let saved = docker.command(&["save", "-o", &archive, &tag]);
        let why = String::from_utf8_lossy(&saved.stderr);
        if why.contains("empty export") {
            vec![docker.image_without_layers(&tag)]
        } else {
            assert!(saved.status.success(), "{why}");
            saved_images(&read_archive(Path::new(&archive)))
        }
    } else {
        Vec::new()
    };
    let outcome = Outcome {
        ok,
        stderr: as_events(&text, syntax),
        images,
        started,
    };
    let expected = without_what_came_later(expected);
    let mut differing = differences(&expected, &outcome, base);
    let mounts = text.contains("--mount=");
    differing.retain(|line| {
        // Builds that run at once share the step that brings a base; it has the name of one of them.
        let shared = line.starts_with("step ") && line.contains("] FROM docker.io/");
        // The engine's own steps: it looks for the frontend's image, and reads this file in any case.
        let own = line.ends_with("resolve image config for docker.io/you/your-frontend:1")
            || line == "step too many: [internal] load .dockerignore";
        // Mount points are left behind where exec.meta.removemountstubs.recursive is unknown.
        let stub = mounts && line.starts_with("file too many") && line.contains("\"type\":\"dir\"");
        !(shared || own || stub)
    });
    differing
}

/// Warnings and excerpts came to clients in 2021: of an error its last line is left.
fn without_what_came_later(expected: &Value) -> Value {
    let mut expected = expected.clone();
    expected["warnings"] = json!([]);
    if let Some(error) = expected["error"].as_str() {
        let last = error.trim_end().lines().last().unwrap_or_default();
        let last = last.trim_start_matches("error: ");
        expected["error"] = json!(last.trim_start_matches("failed to solve: "));
    }
    expected
}

/// The plain progress of 2020 as events, and its errors without the names of the frontends on the way.
fn as_events(text: &str, syntax: &str) -> String {
    let mut out = String::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let numbered = line.strip_prefix('#').and_then(|line| line.split_once(' '));
        let step = numbered.filter(|(number, _)| number.parse::<u32>().is_ok());
        let line = match step {
            Some((number, name)) if seen.insert(number) => {
                json!({"vertexes": [{"name": name}]}).to_string()
            }
            Some(_) => continue,
            None => line
                .replace(
                    "failed to solve with frontend dockerfile.v0: ",
                    "failed to solve: ",
                )
                .replace("failed to solve with frontend gateway.v0: ", "")
                .replace(
                    &format!("failed with build-arg:BUILDKIT_SYNTAX = {syntax}: "),
                    "",
                )
                .replace("rpc error: code = Unknown desc = ", ""),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[test]
fn recorded_cases_match_through_our_frontend_image_under_debians_docker() {
    const FRONTEND: &str = "you/your-frontend:1";
    let registry = Registry::with_base_images();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    registry.build_and_push(&project, FRONTEND);
    // Docker speaks to registries on loopback addresses without TLS.
    let plain = registry.without_tls();
    let mirror = format!("--registry-mirror=http://{}", plain.address);
    let docker = Docker::start(&[&mirror]);
    let layout = tempfile::tempdir().expect("a temporary folder");
    let base = base_images::busybox_files(layout.path());
    let only = std::env::var("ORACLE_CASE").ok();
    let all: Vec<(&str, Case, Value)> = THEMES
        .iter()
        .flat_map(|theme| {
            cases(theme)
                .into_iter()
                .map(|(case, want)| (*theme, case, want))
        })
        .filter(|(_, case, _)| only.as_ref().is_none_or(|only| case.name == *only))
        .collect();
    let next = AtomicUsize::new(0);
    let report = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((theme, case, want)) = all.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let name = format!("{theme}/{}", case.name);
                    if BEYOND.iter().any(|(case, _)| *case == name) {
                        continue;
                    }
                    let differing = build_case(&docker, FRONTEND, theme, case, want, &base);
                    if differing.is_empty() {
                        continue;
                    }
                    let wrong = differing.join("\n");
                    let mut report = report.lock().expect("no panic holds the lock");
                    report.insert(name, wrong);
                }
            });
        }
    });
    let report = report.into_inner().expect("no panic holds the lock");
    let lines = report
        .iter()
        .map(|(name, wrong)| format!("== {name}\n{wrong}\n"));
    let (count, text) = (report.len(), lines.collect::<String>());
    for (case, _) in BEYOND.iter().chain(OWN_WORDS) {
        let known = all
            .iter()
            .any(|(theme, known, _)| format!("{theme}/{}", known.name) == *case);
        assert!(known || only.is_some(), "there is no case {case}");
    }
    assert!(report.is_empty(), "{count} of {} cases:\n{text}", all.len());
}
