//! Ctrl-C at every station of a build: it ends soon, with its exit code, and leaves nothing running, mounted or
//! half written.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::program::{Home, run, stderr, tool};
use gateway_tests::registry::Registry;
use gateway_tests::remains::nothing_left_behind;

/// For machines under load; a build that does not end at all is what is looked for.
const LIMIT: Duration = Duration::from_secs(60);

/// Takes connections and never answers.
struct Silent {
    listener: TcpListener,
}

impl Silent {
    fn start() -> Silent {
        Silent {
            listener: TcpListener::bind("127.0.0.1:0").expect("a free port"),
        }
    }

    fn address(&self) -> String {
        self.listener.local_addr().expect("its address").to_string()
    }

    /// Returns when somebody has connected. The connection stays open as long as what is returned.
    fn somebody(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().expect("a connection");
        stream
    }
}

fn context(dockerfile: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).expect("writing the build file");
    dir
}

fn started(command: &mut Command, dir: &Path) -> Child {
    let command = command.args(["--progress=quiet"]).arg(dir);
    let command = command.stderr(Stdio::piped());
    command.spawn().expect("gateway")
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn interrupted(mut child: Child, home: &Home) {
    tool("kill", &["-INT", &child.id().to_string()]);
    until("it does not end", || {
        child.try_wait().expect("its state").is_some()
    });
    let output = child.wait_with_output().expect("its end");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.ends_with("error: interrupted\n"), "{text}");
    nothing_left_behind(&home.store());
}

/// Whether a program with exactly these arguments runs.
fn runs(words: &[&str]) -> bool {
    let wanted: Vec<u8> = words
        .iter()
        .flat_map(|word| [word.as_bytes(), b"\0"].concat())
        .collect();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut commands =
        processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands.any(|command| command.ends_with(&wanted))
}

#[test]
fn while_a_registry_is_asked() {
    let silent = Silent::start();
    let home = Home::new(&format!("[registry.{:?}]\nhttp = true\n", silent.address()));
    let dir = context(&format!("FROM {}/x:1\nRUN true\n", silent.address()));
    let child = started(&mut home.build(), dir.path());
    let held = silent.somebody();
    interrupted(child, &home);
    drop(held);
}

#[test]
fn while_a_frontend_thinks() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let frontend = context("FROM busybox\nENTRYPOINT [\"/bin/busybox\", \"sleep\", \"4951\"]\n");
    let archive = home.dir.path().join("frontend.tar");
    let output = run(home
        .build()
        .args(["-t", "me/slow:1", "-o"])
        .arg(format!("type=oci,dest={}", archive.display()))
        .arg(frontend.path()));
    assert!(output.status.success(), "{}", stderr(&output));
    registry.skopeo_push(&format!("oci-archive:{}", archive.display()), "me/slow:1");
    let dir = context("# syntax = me/slow:1\n");
    let child = started(&mut home.build(), dir.path());
    until("the frontend does not start", || runs(&["sleep", "4951"]));
    interrupted(child, &home);
    assert!(!runs(&["sleep", "4951"]), "the frontend still runs");
}

#[test]
fn while_a_step_runs() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let dir = context("FROM busybox\nRUN sleep 4952 & sleep 4952\n");
    let child = started(&mut home.build(), dir.path());
    until("the step does not start", || runs(&["sleep", "4952"]));
    interrupted(child, &home);
    assert!(!runs(&["sleep", "4952"]), "the step still runs");
}

#[test]
fn while_nobody_takes_the_archive() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    // More than a pipe holds.
    let dir = context("FROM busybox\nRUN dd if=/dev/urandom of=/large bs=1M count=2\n");
    let mut build = home.build();
    build.args(["-o", "type=oci,dest=-,compression=uncompressed"]);
    let mut child = started(build.stdout(Stdio::piped()), dir.path());
    let stdout = child.stdout.take().expect("its stdout");
    until("nothing is written", || {
        rustix::io::ioctl_fionread(&stdout).is_ok_and(|bytes| bytes > 0)
    });
    interrupted(child, &home);
}

#[test]
fn while_an_image_is_pushed() {
    let silent = Silent::start();
    let home = Home::new(&format!("[registry.{:?}]\nhttp = true\n", silent.address()));
    let dir = context("FROM scratch\nCOPY Dockerfile /\n");
    let mut build = home.build();
    build.args(["--push", "-t", &format!("{}/me/app:1", silent.address())]);
    let child = started(&mut build, dir.path());
    let held = silent.somebody();
    interrupted(child, &home);
    drop(held);
}
