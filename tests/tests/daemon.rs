//! `gateway daemon` driven by Debian's docker, which knows nothing of it: a client of 2020 that asks for
//! builds over HTTP and gives its files, secrets and agents over a session.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::daemon::{Daemon, said};
use gateway_tests::program::{Home, binary, run, stderr};
use gateway_tests::registry::Registry;
use gateway_tests::remains::nothing_left_behind;
use gateway_tests::tls::{Authority, ServerFiles};

struct Rig {
    registry: Registry,
    daemon: Daemon,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new(more: &[&str]) -> Rig {
        let registry = Registry::with_base_images();
        let daemon = Daemon::start(&registry.as_docker_hub(), more);
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("context")).expect("a context");
        Rig {
            registry,
            daemon,
            dir,
        }
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.dir.path().join("context").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// `docker build` of the context, progress as lines.
    fn build(&self, more: &[&str]) -> Command {
        let mut build = self.daemon.docker(&self.dir.path().join("docker"));
        build.args(["build", "--progress=plain"]).args(more);
        build.arg(self.dir.path().join("context"));
        build
    }

    /// The same into the folder `out`; what was said.
    fn exported(&self, more: &[&str]) -> (bool, String) {
        let out = self.dir.path().join("out").display().to_string();
        let output = run(self
            .build(&[&["--output", &out], more].concat())
            .stdin(Stdio::null()));
        (output.status.success(), said(&output))
    }

    fn read(&self, name: &str) -> String {
        let path = self.dir.path().join("out").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A build whose step runs until it is stopped; given when it runs.
    fn endless(&mut self) -> Child {
        self.write(
            "Dockerfile",
            "FROM busybox\nRUN echo $((6*7)) begun; sleep 100000\n",
        );
        let log = self.dir.path().join("said");
        let child = self
            .build(&["--no-cache"])
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .expect("docker");
        self.daemon.wait("the step runs", |_| {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("42 begun"))
        });
        child
    }
}

#[test]
fn p14_p19_p26_p37_p57_debians_docker_builds_its_context_with_arguments_secrets_and_links() {
    let rig = Rig::new(&[]);
    rig.write("dir/kept.txt", "kept");
    rig.write("dir/left.md", "left");
    rig.write("ünïcode dir/ü", "umlaut");
    rig.write(".dockerignore", "**/*.md\n");
    let context = rig.dir.path().join("context");
    std::os::unix::fs::symlink("kept.txt", context.join("dir/link")).unwrap();
    fs::hard_link(context.join("dir/kept.txt"), context.join("dir/twin")).unwrap();
    fs::write(rig.dir.path().join("token"), "hush").unwrap();
    rig.write(
        "Dockerfile",
        "FROM busybox AS base
ARG WHO=nobody
RUN --mount=type=secret,id=token echo \"hello $WHO $(wc -c < /run/secrets/token)\" > /greeting
RUN --mount=type=secret,id=other test ! -e /run/secrets/other
FROM scratch
COPY --from=base /greeting /
COPY dir /dir
COPY [\"ünïcode dir\", \"/uni\"]
",
    );
    let secret = format!("id=token,src={}", rig.dir.path().join("token").display());
    let (ok, text) = rig.exported(&["--secret", &secret, "--build-arg", "WHO=you"]);
    assert!(ok, "{text}");
    assert_eq!(rig.read("greeting"), "hello you 4\n");
    assert_eq!(rig.read("dir/link"), "kept");
    assert_eq!(rig.read("uni/ü"), "umlaut");
    assert!(!rig.dir.path().join("out/dir/left.md").exists());
    let inode = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(rig.dir.path().join("out/dir").join(name))
            .unwrap()
            .ino()
    };
    assert_eq!(inode("kept.txt"), inode("twin"));
    assert!(
        text.contains("[base 2/3] RUN --mount=type=secret"),
        "{text}"
    );
    assert!(!text.contains("hush"));

    let (ok, again) = rig.exported(&["--secret", &secret, "--build-arg", "WHO=you"]);
    assert!(ok, "{again}");
    assert!(again.contains("CACHED"), "{again}");
    // An edit of the same size in the same second is seen.
    rig.write("dir/kept.txt", "tpek");
    let (ok, text) = rig.exported(&["--secret", &secret]);
    assert!(ok, "{text}");
    assert_eq!(rig.read("dir/kept.txt"), "tpek");
}

#[test]
fn p17_p18_a_failed_step_is_told_with_what_it_said() {
    let rig = Rig::new(&[]);
    rig.write(
        "Dockerfile",
        "FROM busybox\nRUN echo out; echo err >&2; exit 3\n",
    );
    let (ok, text) = rig.exported(&[]);
    assert!(!ok);
    assert!(text.contains("exit code: 3"), "{text}");
    assert!(text.contains(" out\n") && text.contains(" err\n"), "{text}");
    rig.write("Dockerfile", "FROM scratch\nCOPPY a /\n");
    let (ok, text) = rig.exported(&[]);
    assert!(!ok);
    assert!(text.contains("unknown instruction: COPPY"), "{text}");
}

#[test]
fn p21_p46_an_image_goes_into_the_store_and_by_push_into_a_registry() {
    let rig = Rig::new(&[]);
    rig.write("Dockerfile", "FROM busybox\nRUN echo made > /made\n");
    let output = run(&mut rig.build(&["-q", "-t", "mine/app:1", "--label", "a=b"]));
    assert!(output.status.success(), "{}", said(&output));
    let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(id.starts_with("sha256:"), "{id:?}");
    let images = run(&mut rig.daemon.home.command(&["images"]));
    let listed = String::from_utf8_lossy(&images.stdout).into_owned();
    assert!(listed.contains("mine/app:1"), "{listed}{}", stderr(&images));

    let name = format!("{}/pushed/app:1", rig.registry.address);
    let to = format!("type=image,name={name},push=true");
    let output = run(&mut rig.build(&["-o", &to]));
    assert!(output.status.success(), "{}", said(&output));
    let copied = rig.dir.path().join("copied");
    let certificates = format!(
        "--src-cert-dir={}",
        rig.registry.certificate_dir().display()
    );
    gateway_tests::program::tool(
        "skopeo",
        &[
            "copy",
            &certificates,
            &format!("docker://{name}"),
            &format!("dir:{}", copied.display()),
        ],
    );
    assert!(copied.join("manifest.json").exists());
}

#[test]
fn p20_an_archive_of_files_arrives_whole() {
    let rig = Rig::new(&[]);
    rig.write("Dockerfile", "FROM busybox\nRUN echo made > /made\n");
    let files = rig.dir.path().join("files.tar");
    let to = format!("type=tar,dest={}", files.display());
    let output = run(&mut rig.build(&["-o", &to]));
    assert!(output.status.success(), "{}", said(&output));
    let listed = gateway_tests::program::tool("tar", &["tf", &files.display().to_string()]);
    assert!(listed.lines().any(|line| line == "made"), "{listed}");
}

#[test]
fn p57_archives_of_images_are_loaded_by_debians_docker() {
    let rig = Rig::new(&[]);
    rig.write("Dockerfile", "FROM busybox\nRUN echo loaded > /made\n");
    for (kind, gzip) in [("docker", false), ("oci", false), ("docker", true)] {
        let name = format!("loaded/{kind}-{gzip}:1");
        // Of another builder: the command line with a store of its own.
        let other = gateway_tests::program::Home::new(&rig.registry.as_docker_hub());
        let archive = other.dir.path().join("archive");
        let to = format!("type={kind},dest={}", archive.display());
        let mut build = other.command(&["build", "--output", &to, "--tag", &name]);
        build.arg(rig.dir.path().join("context"));
        let built = run(&mut build);
        assert!(built.status.success(), "{}", said(&built));
        if gzip {
            gateway_tests::program::tool("gzip", &[&archive.display().to_string()]);
            fs::rename(archive.with_extension("gz"), &archive).unwrap();
        }
        let mut load = rig.daemon.docker(&rig.dir.path().join("docker"));
        load.args(["load", "--input"]).arg(&archive);
        let loaded = run(&mut load);
        assert!(loaded.status.success(), "{}", said(&loaded));
        let expected = format!("Loaded image: {name}");
        assert!(said(&loaded).contains(&expected), "{}", said(&loaded));
        let images = run(&mut rig.daemon.home.command(&["images"]));
        assert!(
            said(&images).contains(&name.replace(":1", "")),
            "{}",
            said(&images)
        );
    }
    // What is no image is refused, with the reason.
    let nonsense = rig.dir.path().join("nonsense");
    fs::write(&nonsense, "nonsense").unwrap();
    let mut load = rig.daemon.docker(&rig.dir.path().join("docker"));
    let refused = run(load.args(["load", "--input"]).arg(&nonsense));
    assert!(!refused.status.success(), "{}", said(&refused));
    assert!(
        said(&refused).contains("loading images"),
        "{}",
        said(&refused)
    );
}

#[test]
fn p62_the_socket_belongs_to_the_group_that_was_asked_for() {
    // By number and by a name that every system has.
    for (group, number) in [("12345", 12345), ("daemon", 1)] {
        let daemon = Daemon::start("", &["--group", group]);
        let socket = fs::metadata(daemon.socket()).expect("the socket");
        assert_eq!(socket.gid(), number, "{group}");
        assert_eq!(socket.permissions().mode() & 0o777, 0o660, "{group}");
    }
    let home = Home::new("");
    let mut command = home.command(&["daemon", "--group", "nobody-has-this"]);
    let address = format!("unix://{}", home.dir.path().join("socket").display());
    let refused = run(command.args(["--addr", &address]));
    assert!(!refused.status.success());
    assert!(
        said(&refused).contains("nobody-has-this"),
        "{}",
        said(&refused)
    );
}

#[test]
fn p62_a_program_called_gatewayd_is_the_daemon() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let alias = dir.path().join("gatewayd");
    std::os::unix::fs::symlink(binary(), &alias).expect("a link");
    let words = ["--help", "--no-such-flag"];
    for word in words {
        let theirs = run(Command::new(&alias).arg(word));
        let ours = run(Command::new(binary()).args(["daemon", word]));
        assert_eq!(theirs.status.code(), ours.status.code(), "{word}");
        assert!(said(&theirs).contains("daemon"), "{}", said(&theirs));
    }
    let help = run(Command::new(&alias).arg("--help"));
    assert!(said(&help).contains("--idle-timeout"), "{}", said(&help));
}

#[test]
fn p57_images_are_pushed_by_debians_docker() {
    let rig = Rig::new(&[]);
    rig.write("Dockerfile", "FROM busybox\nRUN echo pushed > /made\n");
    let name = format!("{}/pushed/app:1", rig.registry.address);
    let built = run(&mut rig.build(&["-t", &name]));
    assert!(built.status.success(), "{}", said(&built));
    let docker = |args: &[&str]| {
        let mut command = rig.daemon.docker(&rig.dir.path().join("docker"));
        run(command.args(args))
    };
    let pushed = docker(&["push", &name]);
    assert!(pushed.status.success(), "{}", said(&pushed));
    let held = run(&mut rig.daemon.home.command(&["inspect", &name]));
    assert!(held.status.success(), "{}", said(&held));
    // Older buildx asks for the image then.
    let format = ["image", "inspect", "--format", "{{.RepoTags}}", &name];
    let asked = docker(&format);
    assert!(said(&asked).contains(&name), "{}", said(&asked));
    let unknown = docker(&["image", "inspect", "nothing:here"]);
    assert!(
        said(&unknown).contains("No such image"),
        "{}",
        said(&unknown)
    );
    // What is not here, and all tags at once, are refused with the reason.
    let missing = docker(&["push", &name.replace(":1", ":2")]);
    assert!(!missing.status.success(), "{}", said(&missing));
    assert!(
        said(&missing).contains("there is no image"),
        "{}",
        said(&missing)
    );
    let all = docker(&["push", "--all-tags", &name.replace(":1", "")]);
    assert!(!all.status.success(), "{}", said(&all));
    assert!(said(&all).contains("tag"), "{}", said(&all));
}

#[test]
fn p27_keys_of_the_client_are_forwarded_and_never_here() {
    let rig = Rig::new(&[]);
    let key = rig.dir.path().join("key");
    let key = key.display().to_string();
    gateway_tests::program::tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    // The real client of agents, with what it is linked to.
    let libraries = gateway_tests::program::tool("ldd", &["/usr/bin/ssh-add"]);
    let libraries = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/usr/bin/ssh-add"]) {
        let to = rig
            .dir
            .path()
            .join("context/root")
            .join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    rig.write(
        "Dockerfile",
        "FROM busybox\nCOPY root /\nRUN --mount=type=ssh,id=mine,required /usr/bin/ssh-add -L > /keys && /usr/bin/ssh-add -L\n",
    );
    let (ok, text) = rig.exported(&["--ssh", &format!("mine={key}")]);
    assert!(ok, "{text}");
    let public = fs::read_to_string(format!("{key}.pub")).unwrap();
    let public = public.split(' ').nth(1).unwrap();
    assert!(rig.read("keys").contains(public), "{text}");
    let (ok, text) = rig.exported(&["--no-cache"]);
    assert!(!ok);
    assert!(text.contains("no SSH key"), "{text}");
}

#[test]
fn p39_what_the_daemon_does_not_grant_is_refused_by_name() {
    let rig = Rig::new(&[]);
    rig.write("Dockerfile", "FROM busybox\nRUN true\n");
    let (ok, text) = rig.exported(&["--network=host"]);
    assert!(!ok);
    let refusal = "granting entitlement network.host is not allowed by build daemon configuration";
    assert!(text.contains(refusal), "{text}");
    let granted = Rig::new(&["--allow-insecure-entitlement", "network.host"]);
    granted.write("Dockerfile", "FROM busybox\nRUN true\n");
    let (ok, text) = granted.exported(&["--network=host"]);
    assert!(ok, "{text}");
}

#[test]
fn p23_p24_a_client_that_vanishes_leaves_nothing_running() {
    let mut rig = Rig::new(&[]);
    let mut client = rig.endless();
    let daemon = rig.daemon.pid();
    assert!(steps_of(daemon) > 0);
    client.kill().unwrap();
    client.wait().unwrap();
    rig.daemon
        .wait("the step has ended", |_| steps_of(daemon) == 0);
    // And it builds on.
    rig.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let (ok, text) = rig.exported(&[]);
    assert!(ok, "{text}");
}

#[test]
fn a_daemon_that_is_asked_to_end_ends_its_builds_and_leaves_nothing_mounted() {
    let mut rig = Rig::new(&[]);
    let mut client = rig.endless();
    assert!(rig.daemon.stop(), "{}", rig.daemon.log());
    assert!(!client.wait().unwrap().success());
    let said = fs::read_to_string(rig.dir.path().join("said")).unwrap();
    assert!(said.contains("its daemon is being stopped"), "{said}");
    assert!(!rig.daemon.socket().exists());
    nothing_left_behind(&rig.daemon.home.store());
}

/// The first signal asks, the second does not.
#[test]
fn a_daemon_that_is_asked_twice_ends_at_once_and_its_store_is_whole() {
    let mut rig = Rig::new(&[]);
    let mut client = rig.endless();
    let pid = rig.daemon.pid().to_string();
    let signal = |name: &str| gateway_tests::program::tool("kill", &[name, &pid]);
    // Both are there when it goes on: neither is the other's.
    signal("-STOP");
    signal("-INT");
    signal("-TERM");
    signal("-CONT");
    rig.daemon.ended();
    assert!(!client.wait().unwrap().success());
    let home = &rig.daemon.home;
    gateway_tests::remains::nothing_left_running(&home.store());
    let mut verify = home.command(&["store", "verify"]);
    let verified = run(verify.arg("--root").arg(home.store()));
    assert!(verified.status.success(), "{}", stderr(&verified));
    rig.write("Dockerfile", "FROM busybox\nRUN true\n");
    let built = run(home.build().arg(rig.dir.path().join("context")));
    assert!(built.status.success(), "{}", stderr(&built));
    nothing_left_behind(&home.store());
}

#[test]
fn p24_connections_that_say_nothing_do_not_keep_a_daemon_that_shall_end() {
    let mut daemon = Daemon::start("", &[]);
    let silent = UnixStream::connect(daemon.socket()).unwrap();
    // One that has had its answer, and may ask more.
    let mut asked = UnixStream::connect(daemon.socket()).unwrap();
    asked
        .write_all(b"GET /_ping HTTP/1.1\r\nhost: d\r\n\r\n")
        .unwrap();
    let mut answer = [0; 12];
    asked.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"HTTP/1.1 200");
    let began = Instant::now();
    assert!(daemon.stop(), "{}", daemon.log());
    // It gives builds twenty.
    assert!(began.elapsed() < Duration::from_secs(18));
    drop((silent, asked));
}

#[test]
fn a_daemon_that_nobody_uses_ends_by_itself_if_it_was_told_to() {
    let mut daemon = Daemon::start("", &["--idle-timeout", "100ms"]);
    assert!(daemon.ended(), "{}", daemon.log());
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A daemon behind TLS, and those who come to it.
struct Far {
    rig: Rig,
    /// As clients write it.
    address: String,
    keys: tempfile::TempDir,
    client: ServerFiles,
    stranger: ServerFiles,
}

impl Far {
    fn new() -> Far {
        let keys = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let dir = keys.path().join(name);
            fs::create_dir(&dir).unwrap();
            dir
        };
        let (ours, strangers) = (Authority::new("ours"), Authority::new("somebody else's"));
        let ca = keys.path().join("ca.pem");
        ours.write_ca(&ca);
        let server = ours.server(&dir("server"), &["127.0.0.1"]);
        let client = ours.server(&dir("client"), &["client"]);
        let stranger = strangers.server(&dir("stranger"), &["client"]);
        let mut rig = Rig::new(&[
            "--addr",
            "tcp://127.0.0.1:0",
            "--tlscert",
            &shown(&server.certificate),
            "--tlskey",
            &shown(&server.key),
            "--tlscacert",
            &shown(&ca),
        ]);
        rig.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
        let address = |daemon: &Daemon| {
            let log = daemon.log();
            log.lines()
                .find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()))
        };
        rig.daemon.wait("it says where it listens", |daemon| {
            address(daemon).is_some()
        });
        let address = address(&rig.daemon).unwrap();
        assert!(address.starts_with("tcp://127.0.0.1:"), "{address}");
        Far {
            rig,
            address,
            keys,
            client,
            stranger,
        }
    }

    /// A build by who has these files, and what was said.
    fn build(&self, with: Option<&ServerFiles>) -> (bool, String) {
        let mut docker = Command::new("/usr/bin/docker");
        let ca = shown(&self.keys.path().join("ca.pem"));
        docker
            .env("DOCKER_BUILDKIT", "1")
            .env("DOCKER_CONFIG", self.rig.dir.path().join("docker"))
            .args(["--host", &self.address, "--tlsverify", "--tlscacert", &ca]);
        if let Some(files) = with {
            docker.args([
                "--tlscert",
                &shown(&files.certificate),
                "--tlskey",
                &shown(&files.key),
            ]);
        }
        docker
            .args(["build", "-q"])
            .arg(self.rig.dir.path().join("context"));
        let output = run(docker.stdin(Stdio::null()));
        (output.status.success(), said(&output))
    }
}

#[test]
fn p55_over_tcp_only_the_holders_of_certificates_build() {
    let far = Far::new();
    let (ok, text) = far.build(Some(&far.client));
    assert!(ok, "{text}");
    let (ok, text) = far.build(Some(&far.stranger));
    assert!(!ok, "{text}");
    let (ok, text) = far.build(None);
    assert!(!ok, "{text}");
}

/// What one address may have on its way.
const UNPROVEN: usize = 256;

#[test]
fn p55_connections_that_prove_nothing_keep_nobody_out() {
    let far = Far::new();
    let address = far.address.trim_start_matches("tcp://");
    let mut silent: Vec<TcpStream> = (0..UNPROVEN + 100)
        .map(|_| TcpStream::connect(address).expect("a connection"))
        .collect();
    // Those that came first had to go; reading waits until they did.
    for first in silent.drain(..100) {
        let mut first = first;
        assert_eq!(first.read(&mut [0]).expect("an end"), 0);
    }
    let (ok, text) = far.build(Some(&far.client));
    assert!(ok, "{text}");
}

#[test]
fn p55_tcp_without_certificates_is_refused_by_name() {
    let output = run(Command::new(gateway_tests::program::binary())
        .args(["daemon", "--addr", "tcp://127.0.0.1:0", "--root"])
        .arg(tempfile::tempdir().unwrap().path().join("store"))
        .stdin(Stdio::null()));
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("--allow-unauthenticated-tcp"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn p62_keys_that_nobody_knows_are_told_and_end_nothing() {
    let daemon = Daemon::start(
        "surprise = 1\n[grpc]\nmore = 2\n[history]\nmaxEntries = 3\n",
        &[],
    );
    let log = daemon.log();
    assert!(log.contains("unknown key surprise"), "{log}");
    assert!(log.contains("unknown key grpc.more"), "{log}");
}

#[test]
fn builds_of_many_clients_at_once_leave_no_descriptors_behind() {
    let rig = Rig::new(&[]);
    rig.write(
        "Dockerfile",
        "ARG NUMBER\nFROM busybox\nARG NUMBER\nRUN echo $NUMBER > /number\n",
    );
    let descriptors = || {
        fs::read_dir(format!("/proc/{}/fd", rig.daemon.pid()))
            .unwrap()
            .count()
    };
    let round = |name: &str| {
        std::thread::scope(|scope| {
            for client in 0..5 {
                let rig = &rig;
                scope.spawn(move || {
                    for number in 0..2 {
                        let number = format!("NUMBER={name}-{client}-{number}");
                        let output = run(&mut rig.build(&["--build-arg", &number]));
                        assert!(output.status.success(), "{}", said(&output));
                    }
                });
            }
        });
    };
    // The first round opens what stays open: the launcher, the database, connections.
    round("first");
    let before = descriptors();
    round("second");
    let started = std::time::Instant::now();
    while descriptors() > before + 2 {
        assert!(
            started.elapsed().as_secs() < 60,
            "{} descriptors, {before} before",
            descriptors()
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Sleeping steps among the descendants of a process.
fn steps_of(pid: u32) -> usize {
    let mut children: Vec<(u32, u32, String)> = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(Path::new("/proc").join(number.to_string()).join("stat"))
        else {
            continue;
        };
        let parent = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        let command = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        children.push((number, parent.unwrap_or(0), command));
    }
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        let next = children.iter().filter(|(_, of, _)| *of == parent);
        family.extend(next.map(|(number, ..)| *number));
        at += 1;
    }
    let sleeping = children
        .iter()
        .filter(|(number, _, command)| family.contains(number) && command.contains("sleep 100000"));
    sleeping.count()
}
