//! Ctrl-C at every station of a build: it ends soon, with its exit code, and leaves nothing running, mounted or
//! half written.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::program::{Home, run, stderr, tool};
use gateway_tests::registry::Registry;
use gateway_tests::remains::nothing_left_behind;
use gateway_tests::stalling::{Dead, Stalling};

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

fn interrupted(child: Child, home: &Home) {
    tool("kill", &["-INT", &child.id().to_string()]);
    ends(child, home);
}

/// The end of what was interrupted.
fn ends(mut child: Child, home: &Home) {
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

/// What the frontend of this program itself does with it, in this process. When it is done all the same, a registry
/// that never answers is asked.
#[test]
fn while_a_large_build_file_is_converted() {
    let silent = Silent::start();
    let home = Home::new(&format!("[registry.{:?}]\nhttp = true\n", silent.address()));
    let lines: String = (0..200_000).map(|i| format!("ARG A{i}=$B{i}\n")).collect();
    let dir = context(&format!("{lines}FROM {}/x:1\n", silent.address()));
    let mut command = home.build();
    command.arg("--progress=plain").arg(dir.path());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("gateway");
    let mut progress = BufReader::new(child.stderr.take().expect("its progress"));
    let mut line = String::new();
    while !line.contains("transferring dockerfile") && !line.contains("DONE") {
        line.clear();
        let read = progress.read_line(&mut line).expect("a line");
        assert_ne!(read, 0, "the build file was not read");
    }
    let rest = std::thread::spawn(move || {
        let mut text = String::new();
        progress.read_to_string(&mut text).map(|_| text)
    });
    tool("kill", &["-TERM", &child.id().to_string()]);
    until("it does not end", || {
        child.try_wait().expect("its state").is_some()
    });
    let text = rest.join().expect("a thread").expect("its words");
    let status = child.wait().expect("its end");
    assert_eq!(status.code(), Some(130), "{text}");
    assert!(text.ends_with("error: interrupted\n"), "{text}");
    nothing_left_behind(&home.store());
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

/// Names of what is in a folder.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a folder").flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn begun(command: &mut Command) -> Child {
    let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("gateway")
}

/// What the base image's layer does not fit into: the configuration does.
const PART: usize = 16 << 10;

#[test]
fn while_a_layer_is_pulled() {
    let registry = Registry::with_base_images().without_tls_for_good();
    let line = Stalling::before(registry.address, Dead::Fetching(PART));
    let home = Home::new(&line.table());
    let name = format!("{}/library/busybox:latest", line.address);
    let child = begun(&mut home.command(&["pull", &name]));
    line.wait();
    interrupted(child, &home);
    assert!(
        !String::from_utf8_lossy(&run(&mut home.command(&["images"])).stdout).contains("busybox")
    );
}

#[test]
fn while_a_layer_is_pushed_and_while_one_is_copied() {
    let registry = Registry::with_base_images().without_tls_for_good();
    let line = Stalling::before(registry.address, Dead::Uploading);
    let table = format!("[registry.\"{}\"]\nhttp = true\n", registry.address);
    let home = Home::new(&format!("{table}{}", line.table()));
    let name = format!("{}/library/busybox:latest", registry.address);
    let pulled = run(&mut home.command(&["pull", &name]));
    assert!(pulled.status.success(), "{}", stderr(&pulled));
    let target = format!("{}/me/pushed:1", line.address);
    let child = begun(&mut home.command(&["push", &name, &target]));
    line.wait();
    interrupted(child, &home);

    let line = Stalling::before(registry.address, Dead::Uploading);
    let home = Home::new(&format!("{table}{}", line.table()));
    let target = format!("{}/me/copied:1", line.address);
    let child = begun(&mut home.command(&["copy", &format!("store:{name}"), &target]));
    // This store has no such image.
    let output = child.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(1));
    let child = begun(&mut home.command(&["copy", &name, &target]));
    line.wait();
    interrupted(child, &home);
}

#[test]
fn while_an_image_is_copied_into_an_archive_or_exported_to_one() {
    let registry = Registry::with_base_images().without_tls_for_good();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("big.tar");

    let line = Stalling::before(registry.address, Dead::Fetching(PART));
    let home = Home::new(&line.table());
    let name = format!("{}/library/busybox:latest", line.address);
    let target = format!("oci-archive:{}", file.display());
    let child = begun(&mut home.command(&["copy", &name, &target]));
    line.wait();
    interrupted(child, &home);
    assert!(
        names(folder.path()).is_empty(),
        "{:?}",
        names(folder.path())
    );

    let line = Stalling::before(registry.address, Dead::Fetching(PART));
    let home = Home::new(&line.table());
    // Nothing but an export needs the layer.
    let dir = context(&format!("FROM {}/library/busybox:latest\n", line.address));
    let mut build = home.build();
    build.arg(format!("--output=type=oci,dest={}", file.display()));
    let child = started(&mut build, dir.path());
    line.wait();
    interrupted(child, &home);
    assert!(
        names(folder.path()).is_empty(),
        "{:?}",
        names(folder.path())
    );
}

#[test]
fn while_files_are_exported() {
    const FILES: usize = 2500;
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let dir = context(&format!(
        "FROM busybox AS made\nRUN mkdir /f && cd /f && for i in $(seq {FILES}); do echo content > $i; done\n\
         FROM scratch\nCOPY --from=made /f /\n"
    ));
    let built = run(home.build().arg("--output=type=cacheonly").arg(dir.path()));
    assert!(built.status.success(), "{}", stderr(&built));
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A machine may be quicker than the look at the folder.
    for attempt in 0.. {
        assert!(attempt < 20, "the export was over each time");
        let dest = folder.path().join(attempt.to_string());
        let mut build = home.build();
        build.arg(format!("--output=type=local,dest={}", dest.display()));
        let mut child = started(&mut build, dir.path());
        let id = child.id().to_string();
        until("nothing is exported", || {
            dest.is_dir() && !names(&dest).is_empty()
                || child.try_wait().is_ok_and(|end| end.is_some())
        });
        if child.try_wait().expect("its state").is_some() {
            continue;
        }
        tool("kill", &["-STOP", &id]);
        let so_far = names(&dest).len();
        tool("kill", &["-INT", &id]);
        tool("kill", &["-CONT", &id]);
        if so_far > FILES / 2 {
            let _ = child.wait();
            continue;
        }
        ends(child, &home);
        let left = names(&dest);
        assert!(left.len() < FILES, "all of it was exported");
        for name in left {
            assert!(name.parse::<usize>().is_ok(), "an unfinished file: {name}");
            let text = std::fs::read_to_string(dest.join(&name)).expect("a file");
            assert_eq!(text, "content\n", "{name}");
        }
        return;
    }
}

#[test]
fn while_a_registry_is_examined_and_logged_in_to() {
    use std::io::Write as _;
    for words in [
        vec!["registry", "check", "HOST/x:1"],
        vec!["inspect", "HOST/x:1"],
        vec!["login", "--username=me", "--password-stdin", "HOST"],
    ] {
        let silent = Silent::start();
        let home = Home::new(&format!("[registry.{:?}]\nhttp = true\n", silent.address()));
        let words: Vec<String> = words
            .iter()
            .map(|word| word.replace("HOST", &silent.address()))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = home.command(&words);
        let mut child = begun(command.stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().expect("its stdin");
        // Whoever asks for no password does not read.
        let _ = stdin.write_all(b"hunter2\n");
        drop(stdin);
        let held = silent.somebody();
        interrupted(child, &home);
        drop(held);
        assert!(!home.dir.path().join("docker/config.json").exists());
    }
}

#[test]
fn while_a_blob_is_verified() {
    let home = Home::new("");
    let dir = context("FROM scratch\nCOPY Dockerfile /\n");
    let built = run(home.build().args(["-t", "me/app"]).arg(dir.path()));
    assert!(built.status.success(), "{}", stderr(&built));
    // Nothing on disk, and much to read.
    let blobs = home.store().join("blobs/sha256");
    assert!(blobs.is_dir());
    let large = std::fs::File::create(blobs.join("0".repeat(64))).expect("a blob");
    large.set_len(64 << 30).expect("its length");
    let mut command = home.command(&["store", "verify"]);
    let child = begun(command.arg("--root").arg(home.store()));
    let io = format!("/proc/{}/io", child.id());
    until("nothing is read", || {
        let text = std::fs::read_to_string(&io).unwrap_or_default();
        let read = text.lines().find_map(|line| line.strip_prefix("rchar: "));
        read.is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count > 64 << 20))
    });
    interrupted(child, &home);
    assert!(blobs.join("0".repeat(64)).exists());
}

/// Takes one page, and then no more until it is read.
fn short_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    rustix::pipe::fcntl_setpipe_size(&writer, PAGE).expect("its size");
    (reader, writer)
}

const PAGE: usize = 4096;
/// The longest line of what is removed.
const LINE: u64 = 200;

/// Interrupts a command that tells of everything it removes, when it waits for somebody to read that.
fn interrupted_while_it_tells(command: &mut Command, home: &Home) {
    let (reader, writer) = short_pipe();
    let mut child = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .expect("gateway");
    // The command has its own writing end.
    command.stdout(Stdio::null());
    until("it does not tell enough to wait", || {
        rustix::io::ioctl_fionread(&reader).is_ok_and(|bytes| bytes > PAGE as u64 - LINE)
    });
    assert!(child.try_wait().expect("its state").is_none(), "it is done");
    interrupted(child, home);
}

/// The store is whole, and serves.
fn whole(home: &Home, dir: &Path) {
    let mut verify = home.command(&["store", "verify"]);
    let verified = run(verify.arg("--root").arg(home.store()));
    assert!(verified.status.success(), "{}", stderr(&verified));
    let built = run(home.build().arg("--output=type=cacheonly").arg(dir));
    assert!(built.status.success(), "{}", stderr(&built));
}

#[test]
fn while_what_is_not_used_is_removed() {
    let home = Home::new("");
    let copies: String = (0..80).map(|i| format!("COPY Dockerfile /{i}\n")).collect();
    let dir = context(&format!("FROM scratch\n{copies}"));
    let built = run(home.build().arg("--output=type=cacheonly").arg(dir.path()));
    assert!(built.status.success(), "{}", stderr(&built));
    let mut prune = home.command(&["prune", "--force"]);
    prune.arg("--root").arg(home.store());
    interrupted_while_it_tells(&mut prune, &home);
    whole(&home, dir.path());

    // Blobs of nobody.
    let blobs = home.store().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a folder of blobs");
    for i in 0..80 {
        let content = format!("blob {i}");
        let name = gateway_tests::client::content::digest(content.as_bytes());
        let name = name.strip_prefix("sha256:").expect("a digest");
        std::fs::write(blobs.join(name), content).expect("a blob");
    }
    let mut prune = home.command(&["store", "prune"]);
    prune.arg("--root").arg(home.store());
    interrupted_while_it_tells(&mut prune, &home);
    whole(&home, dir.path());
    // The rest goes the next time.
    let done = run(&mut prune);
    assert!(done.status.success(), "{}", stderr(&done));
    assert_eq!(names(&blobs), Vec::<String>::new());
}

#[test]
fn while_a_definition_is_read() {
    use std::os::unix::process::ExitStatusExt as _;
    let home = Home::new("");
    for words in [["llb", "dump"], ["llb", "graph"], ["llb", "lint"]] {
        let mut command = Command::new(gateway_tests::program::binary());
        let mut child = begun(command.args(words).stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().expect("its stdin");
        std::io::Write::write_all(&mut stdin, &[10, 3]).expect("a piece");
        until("it does not read", || {
            rustix::io::ioctl_fionread(&stdin).is_ok_and(|bytes| bytes == 0)
        });
        tool("kill", &["-INT", &child.id().to_string()]);
        let status = child.wait().expect("its end");
        // It holds nothing that has to be cleaned up.
        assert_eq!(status.signal(), Some(2), "{words:?}");
        nothing_left_behind(&home.store());
    }
}

/// Ten megabytes of it: to read, to convert and to solve it takes long, and none of that is waited for.
#[test]
fn while_the_largest_of_build_files_is_built() {
    let home = Home::new("");
    let line = "RUN echo this is a line of a build file that nobody ever wrote by hand\n";
    let lines = line.repeat((10 << 20) / line.len());
    let dir = context(&format!("FROM scratch\n{lines}"));
    let mut command = home.build();
    command.arg("--progress=plain").arg(dir.path());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("gateway");
    let mut progress = BufReader::new(child.stderr.take().expect("its progress"));
    let mut text = String::new();
    while !text.contains("transferring dockerfile") {
        let read = progress.read_line(&mut text).expect("a line");
        assert_ne!(read, 0, "the build file was not read");
    }
    tool("kill", &["-INT", &child.id().to_string()]);
    progress.read_to_string(&mut text).expect("its words");
    assert_eq!(child.wait().expect("its end").code(), Some(130), "{text}");
    // Not one step of it was made known.
    assert!(!text.contains("RUN echo"), "it was built");
    assert!(text.ends_with("error: interrupted\n"), "{text}");
    nothing_left_behind(&home.store());
}

/// Runs a command on a terminal, presses Ctrl-C at this text; gives what was shown. The shell tells how the command
/// ended, and how the terminal is then.
fn ctrl_c_on_a_terminal(command: &str, at: &str) -> String {
    use std::io::{Read as _, Write as _};
    let command = format!("trap : INT; {command}; echo rc=$?; stty -a");
    let mut child = Command::new("script")
        .args(["-q", "-e", "-c", &command, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script");
    let mut stdin = child.stdin.take().expect("its stdin");
    let mut stdout = child.stdout.take().expect("its stdout");
    let (mut text, mut pressed) = (Vec::new(), false);
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stdout.read(&mut piece) {
        text.extend_from_slice(&piece[..count]);
        if !pressed && String::from_utf8_lossy(&text).contains(at) {
            stdin.write_all(b"\x03").expect("a key");
            pressed = true;
        }
    }
    drop(stdin);
    let _ = child.wait();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(pressed, "{text}");
    text
}

#[test]
fn while_a_question_waits_for_its_answer() {
    let home = Home::new("");
    let config = home.dir.path().join("config.toml").display().to_string();
    let program = gateway_tests::program::binary().display().to_string();
    let login = format!("'{program}' login --config '{config}' --username me registry.example");
    let prune = format!(
        "'{program}' prune --config '{config}' --root '{}'",
        home.store().display()
    );
    for (command, question) in [(login, "Password: "), (prune, "Go on? [y/N] ")] {
        let text = ctrl_c_on_a_terminal(&command, question);
        assert!(text.contains("error: interrupted"), "{text}");
        assert!(text.contains("rc=130"), "{text}");
        let shows = text.split_whitespace().any(|word| word == "echo");
        assert!(shows, "what is typed is not shown any more: {text}");
    }
    assert!(!home.store().exists());
}
