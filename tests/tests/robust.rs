//! Builds that are killed, starved, raced and lied to. Whatever happens: a clear end, no wrong image
//! later, and nothing left behind.

use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::image::{Image, images, read_archive};
use gateway_tests::program::{Home, binary, run, stderr, tool};
use gateway_tests::registry::Registry;

/// Time that a build of these tests may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn context(dockerfile: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).expect("writing the build file");
    dir
}

/// `gateway build` of a context into an archive.
fn command(home: &Home, context: &Path, archive: &Path) -> Command {
    let mut command = home.build();
    command
        .args(["--progress=plain", "--output"])
        .arg(format!("type=oci,dest={}", archive.display()))
        .arg(context);
    command
}

fn build(home: &Home, dockerfile: &str) -> Output {
    let context = context(dockerfile);
    run(&mut command(home, context.path(), Path::new("/dev/null")))
}

fn succeeded(output: &Output) -> String {
    let text = stderr(output);
    assert!(output.status.success(), "{text}");
    text
}

fn failed(output: &Output, wanted: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    }
}

fn only_image(archive: &Path) -> Image {
    let mut images = images(&read_archive(archive));
    assert_eq!(images.len(), 1);
    images.remove(0)
}

/// The step's own output, without numbers and times.
fn log(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .filter_map(|line| line.splitn(3, ' ').nth(2))
        .collect()
}

/// A build that does not outlive a failing test.
struct Building(Child);

impl Building {
    fn start(command: &mut Command) -> Building {
        let child = command.stderr(Stdio::piped()).spawn();
        Building(child.expect("starting the build"))
    }

    fn code(&mut self) -> Option<i32> {
        self.0.wait().expect("its end").code()
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until what a child prints to stderr has this line's end; gives the rest of the lines.
fn wait_for(child: &mut Building, end: &str) -> impl Iterator<Item = String> + use<> {
    let mut lines = BufReader::new(child.0.stderr.take().expect("stderr"))
        .lines()
        .map_while(Result::ok);
    let mut seen = Vec::new();
    let found = lines.by_ref().any(|line| {
        let found = line.ends_with(end);
        seen.push(line);
        found
    });
    assert!(found, "never said {end:?}: {seen:?}");
    lines
}

fn kill(signal: &str, pid: u32) {
    tool("kill", &[signal, &pid.to_string()]);
}

/// Processes that this one's threads started.
fn children_of(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let children: Vec<u32> = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            let pids: Vec<u32> = text.split_whitespace().flat_map(str::parse).collect();
            pids
        })
        .collect();
    assert!(!children.is_empty(), "{pid} has no children");
    children
}

fn files_below(dir: &Path) -> Vec<String> {
    let found = tool(
        "find",
        &[dir.as_os_str(), "-mindepth".as_ref(), "1".as_ref()],
    );
    found.lines().map(str::to_owned).collect()
}

/// Until `done`, for a process that ends in its own time.
fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "still {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether any process has this text in its command line.
fn is_running(text: &str) -> bool {
    let mut processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes.any(|entry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
    })
}

#[test]
fn equal_work_of_builds_at_once_is_done_once() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    // Two equal ones, and one that shares its first step only.
    let step = "RUN echo shared-ran; sleep 1; cat /proc/sys/kernel/random/uuid > /when";
    let same = format!("FROM busybox\n{step}\nRUN echo a\n");
    let other = format!("FROM busybox\n{step}\nRUN echo b\n");
    let contexts = [context(&same), context(&same), context(&other)];
    let children: Vec<Child> = contexts
        .iter()
        .map(|context| {
            command(&home, context.path(), &context.path().join("o.tar"))
                .stderr(Stdio::piped())
                .spawn()
                .expect("starting a build")
        })
        .collect();
    let texts: Vec<String> = children
        .into_iter()
        .map(|child| succeeded(&child.wait_with_output().expect("its end")))
        .collect();
    // Those who waited saw what the one who worked printed.
    for text in &texts {
        let shown = log(text)
            .iter()
            .filter(|line| **line == "shared-ran")
            .count();
        assert!(shown == 1 || text.contains("CACHED"), "{text}");
    }
    let when: Vec<Vec<u8>> = contexts
        .iter()
        .map(|context| {
            only_image(&context.path().join("o.tar")).files["when"]
                .data
                .clone()
        })
        .collect();
    assert!(when.iter().all(|one| *one == when[0]), "{when:?}");
}

#[test]
fn who_waits_for_a_step_sees_its_output_and_takes_over_when_its_build_is_killed() {
    let registry = Registry::with_base_images();
    for signal in ["-KILL", "-INT"] {
        let home = Home::new(&registry.as_docker_hub());
        // The first run waits for ever, the next one finds its mark.
        let step = "RUN --mount=type=cache,target=/c echo begun; \
             if ! test -e /c/mark; then touch /c/mark; sleep 4646; fi; echo second > /f\n";
        let context = context(&format!("FROM busybox\n{step}"));
        let (one, two) = (context.path().join("1.tar"), context.path().join("2.tar"));
        let mut first = Building::start(&mut command(&home, context.path(), &one));
        let _rest = wait_for(&mut first, " begun");
        let mut second = Building::start(&mut command(&home, context.path(), &two));
        // From before it joined.
        let rest = wait_for(&mut second, " begun");
        kill(signal, first.0.id());
        let rest: Vec<String> = rest.collect();
        assert_eq!(second.code(), Some(0), "{signal}: {rest:?}");
        assert!(
            rest.iter().any(|line| line.contains("it runs again")),
            "{rest:?}"
        );
        assert!(rest.iter().any(|line| line.ends_with(" begun")), "{rest:?}");
        assert_eq!(only_image(&two).files["f"].data, b"second\n");
        soon("running", || !is_running("sleep\u{0}4646"));
        assert_eq!(files_below(&home.store().join("logs")), [""; 0]);
    }
}

#[test]
fn a_build_killed_anywhere_leaves_nothing_and_a_store_that_works() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context(
        "FROM busybox AS a\nRUN for i in $(seq 200); do echo $i > /f$i; done; sleep 0.2\n\
         FROM busybox\nCOPY data /data\nRUN ls /data | wc -l > /count\nCOPY --from=a /f7 /f7\n",
    );
    let data = context.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    for i in 0..50 {
        std::fs::write(data.join(i.to_string()), vec![b'x'; 20_000]).expect("a file");
    }
    let archive = context.path().join("o.tar");
    let store = home.store();
    // Start, pull, steps, export: the pauses fall into different stages on any machine.
    for pause in [0, 30, 80, 150, 250, 350, 500, 700] {
        let mut child = command(&home, context.path(), &archive)
            .arg("--no-cache")
            .stderr(Stdio::null())
            .spawn()
            .expect("starting the build");
        std::thread::sleep(Duration::from_millis(pause));
        let _ = child.kill();
        child.wait().expect("its end");
        let text = store.to_string_lossy().into_owned();
        soon("running", || !is_running(&text));
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
        assert!(!mounts.contains(&text), "{mounts}");
    }
    succeeded(&run(&mut command(&home, context.path(), &archive)));
    let image = only_image(&archive);
    assert_eq!(image.files["count"].data, b"50\n");
    assert_eq!(image.files["f7"].data, b"7\n");
    assert_eq!(image.files["data/49"].data.len(), 20_000);
    // Sweeping goes on behind short builds; some of them see the end of it. Files of the blob store
    // that are younger than a minute are left alone, so these are made older.
    for path in files_below(&store.join("ingest")) {
        let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        let file = std::fs::File::options().write(true).open(path);
        file.and_then(|file| file.set_modified(hour_ago))
            .expect("making a file older");
    }
    soon("left over", || {
        succeeded(&run(&mut command(&home, context.path(), &archive)));
        files_below(&store.join("tmp")).is_empty() && files_below(&store.join("ingest")).is_empty()
    });
}

#[test]
fn without_its_launcher_a_build_ends_with_an_error() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context("FROM busybox\nRUN echo started; sleep 4343\n");
    let mut child = Building::start(&mut command(&home, context.path(), Path::new("/dev/null")));
    let rest = wait_for(&mut child, " started");
    // The process that starts sandboxes, below the one that watches it.
    for watcher in children_of(child.0.id()) {
        for launcher in children_of(watcher) {
            kill("-KILL", launcher);
        }
    }
    let rest: Vec<String> = rest.collect();
    assert_eq!(child.code(), Some(1), "{rest:?}");
    assert!(
        rest.iter().any(|line| line.contains("launcher is gone")),
        "{rest:?}"
    );
    soon("running", || !is_running("sleep\u{0}4343"));
}

#[test]
fn a_step_that_ignores_signals_does_not_outlive_ctrl_c() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context =
        context("FROM busybox\nRUN trap '' INT TERM HUP; echo started; sleep 4444; sleep 4444\n");
    for signal in ["-INT", "-TERM", "-HUP"] {
        let mut child =
            Building::start(&mut command(&home, context.path(), Path::new("/dev/null")));
        let rest = wait_for(&mut child, " started");
        kill(signal, child.0.id());
        let rest: Vec<String> = rest.collect();
        // A closed terminal ends it as the kernel does.
        let wanted = (signal != "-HUP").then_some(130);
        assert_eq!(child.code(), wanted, "{rest:?}");
        soon("running", || !is_running("sleep\u{0}4444"));
    }
}

#[test]
fn nobody_reading_the_progress_is_no_failure() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context("FROM busybox\nRUN echo one; sleep 0.3; echo two\n");
    for redirection in ["2>&-", "2>&1 >&- | head -1", ">/dev/full 2>/dev/full"] {
        let script = format!(
            "set -o pipefail; '{}' build --root '{}' --config '{}' --no-cache '{}' {redirection}",
            binary().display(),
            home.store().display(),
            home.dir.path().join("config.toml").display(),
            context.path().display(),
        );
        let output = run(Command::new("bash").args(["-c", &script]));
        assert!(
            output.status.success(),
            "{redirection}: {}",
            stderr(&output)
        );
    }
}

/// Runs a shell script with mounts of its own; `$STORE`, `$BUILD` (ends before the context).
fn with_own_mounts(home: &Home, context: &Path, script: &str) -> Output {
    let build = format!(
        "{} build --root {} --config {} --progress=plain {}",
        binary().display(),
        home.store().display(),
        home.dir.path().join("config.toml").display(),
        context.display(),
    );
    run(Command::new("unshare")
        .args(["-m", "bash", "-c", script])
        .env("STORE", home.store())
        .env("BUILD", build))
}

#[test]
fn a_full_disk_is_named_and_with_more_room_the_build_goes_on() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    std::fs::create_dir(home.store()).expect("the store's folder");
    let context = context("FROM busybox\nRUN head -c 12000000 /dev/zero > /big\n");
    // Too small for the base image, then for the step, then for neither.
    let output = with_own_mounts(
        &home,
        context.path(),
        "mount -t tmpfs -o size=600k tmpfs $STORE; $BUILD; echo rc=$?; \
         mount -o remount,size=8m $STORE; $BUILD; echo rc=$?; ls $STORE/tmp $STORE/ingest; \
         mount -o remount,size=64m $STORE; $BUILD; echo rc=$?; \
         mount -o remount,ro $STORE; $BUILD; echo rc=$?",
    );
    let (text, ends) = (stderr(&output), String::from_utf8_lossy(&output.stdout));
    let codes: Vec<&str> = ends
        .lines()
        .filter(|line| line.starts_with("rc="))
        .collect();
    assert_eq!(codes, ["rc=1", "rc=1", "rc=0", "rc=1"], "{text}\n{ends}");
    let store = home.store().display().to_string();
    let told = |what: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with("error: ") && line.contains(what));
        assert!(
            line.is_some_and(|line| line.contains(&store)),
            "{what}: {text}"
        );
    };
    told("No space left on device");
    told("Read-only file system");
    // The pull's vertex ends with it, although parts of it never ended.
    let pull_failed = |line: &str| line.contains(" ERROR: ") && line.contains("No space left");
    assert!(text.lines().any(pull_failed), "{text}");
}

#[test]
fn a_full_disk_of_an_output_is_not_taken_for_that_of_the_store() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let out = home.dir.path().join("out");
    std::fs::create_dir(&out).expect("the outputs' folder");
    let context = context("FROM busybox\nRUN head -c 12000000 /dev/urandom > /big\n");
    let out = out.display().to_string();
    let outputs = [
        (
            format!("-o type=oci,dest={out}/app.tar"),
            format!("{out}/app.tar"),
        ),
        (
            format!("-o type=docker,dest={out}/app.tar"),
            format!("{out}/app.tar"),
        ),
        (
            format!("-o type=oci,tar=false,dest={out}/layout"),
            format!("{out}/layout"),
        ),
        (
            format!("-o type=tar,dest={out}/files.tar"),
            format!("{out}/files.tar"),
        ),
        (
            format!("-o type=local,dest={out}/files"),
            format!("{out}/files"),
        ),
        (
            format!("-o type=cacheonly --cache-to type=local,dest={out}/cache"),
            format!("{out}/cache"),
        ),
        (
            format!("-o - > {out}/stdout"),
            "where stdout goes".to_owned(),
        ),
    ];
    for (flags, place) in outputs {
        let script = format!(
            "mount -t tmpfs -o size=1m tmpfs {out}; $BUILD {flags}; echo rc=$? >&2; ls -A {out} >&2"
        );
        let output = with_own_mounts(&home, context.path(), &script);
        let text = stderr(&output);
        let (told, left) = text
            .split_once("rc=1\n")
            .unwrap_or_else(|| panic!("{flags}: {text}"));
        let wanted = format!("The result did not fit there: make room at {place},");
        assert!(told.contains(&wanted), "{flags}: {text}");
        assert!(
            told.to_lowercase().contains("no space left on device"),
            "{flags}: {text}"
        );
        assert!(!told.contains("gateway prune"), "{flags}: {text}");
        // What others may look at is whole or not there.
        assert!(
            !left.contains("app.tar") && !left.contains("files.tar"),
            "{flags}: {text}"
        );
        assert!(!left.contains("layout"), "{flags}: {text}");
    }
}

#[test]
fn a_store_path_that_cannot_be_one_is_named() {
    let home = Home::new("");
    std::fs::write(home.store(), "a file").expect("writing a file");
    let output = build(&home, "FROM scratch\n");
    failed(
        &output,
        &[&home.store().display().to_string(), "Not a directory"],
    );
}

#[test]
fn strange_files_of_a_context_arrive_as_they_are() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context("FROM busybox\nCOPY in /c/\nRUN find /c | wc -l\n");
    let dir = context.path().join("in");
    std::fs::create_dir(&dir).expect("a folder");
    let long = "L".repeat(255);
    let names: [&[u8]; 4] = [b"a\nb", b"bad\xff\xfename", long.as_bytes(), b" .wh "];
    for name in names {
        std::fs::write(dir.join(std::ffi::OsStr::from_bytes(name)), name).expect("a file");
    }
    let deep: std::path::PathBuf = std::iter::repeat_n("d".repeat(200), 12).collect();
    std::fs::create_dir_all(dir.join(&deep)).expect("deep folders");
    tool("mkfifo", &[dir.join("fifo")]);
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("sock")).expect("a socket");
    for (name, target) in [
        ("loop1", "loop2"),
        ("loop2", "loop1"),
        ("root", "/"),
        ("self", "."),
    ] {
        std::os::unix::fs::symlink(target, dir.join(name)).expect("a link");
    }
    let sparse = std::fs::File::create(dir.join("sparse")).expect("a file");
    sparse.set_len(50 << 20).expect("its length");
    let archive = context.path().join("o.tar");
    let text = succeeded(&run(&mut command(&home, context.path(), &archive)));
    let lines = log(&text);
    // The name of two lines counts twice.
    assert!(lines.contains(&"25"), "{text}");
    let image = only_image(&archive);
    assert_eq!(image.files["c/a\nb"].data, b"a\nb");
    assert_eq!(image.files[&format!("c/{long}")].data, long.as_bytes());
    assert_eq!(image.files["c/fifo"].kind, "fifo");
    assert_eq!(image.files["c/loop1"].target, "loop2");
    assert_eq!(image.files["c/sparse"].data.len(), 50 << 20);
}

#[test]
fn build_files_that_are_none_end_at_once() {
    let home = Home::new("");
    let cases = [
        ("mkdir D", "is a directory"),
        ("mkfifo D", "not a regular file"),
        ("ln -s D D", "symbolic links"),
        (": > D", "cannot be empty"),
        ("echo '# nothing' > D", "no instructions"),
        ("head -c 3000 /dev/urandom > D", "error: "),
        ("true", "No such file"),
    ];
    for (make, wanted) in cases {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let made = run(Command::new("sh")
            .args(["-c", make])
            .current_dir(dir.path()));
        assert!(made.status.success(), "{make}");
        let started = Instant::now();
        let output = run(home
            .build()
            .arg("-f")
            .arg(dir.path().join("D"))
            .arg(dir.path()));
        let text = stderr(&output);
        assert!(!output.status.success(), "{make}: {text}");
        assert!(
            text.to_lowercase().contains(&wanted.to_lowercase()),
            "{make}: {text}"
        );
        assert!(started.elapsed() < PATIENCE, "{make} took too long");
    }
}

#[test]
fn steps_that_misbehave_hurt_themselves_only() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    // What to run, and what it must print or end with.
    let fine = [
        ("(sleep 4545 &); (while :; do :; done &); echo left", "left"),
        ("cat; echo stdin $?", "stdin 0"),
        ("kill -9 1; kill -STOP 1; echo alive", "alive"),
        ("rm -rf /* 2>/dev/null; echo gone", "gone"),
        ("echo x > /etc/resolv.conf || echo kept", "kept"),
        ("mknod /sda b 8 0; cat /sda || echo closed", "closed"),
        ("mount -t tmpfs x /mnt || echo no mount", "no mount"),
        ("unshare -U true || echo no namespace", "no namespace"),
        ("head -c 200M /dev/zero > /dev/shm/x || echo full", "full"),
        ("sh -c 'kill -9 $$'; echo $?", "137"),
    ];
    for (step, wanted) in fine {
        // What a shell complains of comes in pieces, with a line of the other stream between them.
        let step = format!("FROM busybox\nRUN exec 2>/dev/null; {step}\n");
        let text = succeeded(&build(&home, &step));
        assert!(log(&text).contains(&wanted), "{step}: {text}");
    }
    assert!(!is_running("sleep\u{0}4545"));
    let bad = [
        ("RUN exit 255", "exit code: 255"),
        ("RUN exit 137", "exit code: 137"),
        ("RUN [\"/none\"]", "stat /none: no such file or directory"),
        ("RUN [\"/etc\"]", "is a directory"),
        ("SHELL [\"/bin/none\", \"-c\"]\nRUN x", "/bin/none"),
        (
            "RUN echo x > /a; chmod +x /a\nRUN [\"/a\"]",
            "exec format error",
        ),
    ];
    for (step, wanted) in bad {
        failed(&build(&home, &format!("FROM busybox\n{step}\n")), &[wanted]);
    }
}

#[test]
fn a_flood_of_output_is_clipped_with_a_notice() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    for flood in [
        "yes | head -c 50000000",
        "head -c 5000000 /dev/zero | tr '\\0' x",
        "head -c 5000000 /dev/urandom",
    ] {
        let output = build(
            &home,
            &format!("FROM busybox\nRUN {flood}; echo; echo end\n"),
        );
        let text = succeeded(&output);
        assert!(text.contains("[output clipped, log limit "), "{flood}");
        assert!(text.len() < 10_000_000, "{flood}: {} bytes", text.len());
    }
}

#[test]
fn many_steps_and_many_stages_are_no_problem() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context("");
    let steps: String = (0..130)
        .map(|i| format!("COPY Dockerfile /f{i}\n"))
        .collect();
    let mut stages = "FROM busybox AS s0\n".to_owned();
    for i in 1..300 {
        stages += &format!("FROM s{} AS s{i}\nENV A{i}=1\n", i - 1);
    }
    let text = format!("FROM busybox\n{steps}RUN ls /f* | wc -l\n");
    std::fs::write(context.path().join("Dockerfile"), text).expect("writing the build file");
    let archive = context.path().join("o.tar");
    let text = succeeded(&run(&mut command(&home, context.path(), &archive)));
    assert!(log(&text).contains(&"130"), "{text}");
    assert_eq!(only_image(&archive).layers, 132);
    let text = succeeded(&build(&home, &(stages + "RUN env | grep -c ^A\n")));
    assert!(log(&text).contains(&"299"), "{text}");
}

#[test]
fn the_value_of_a_secret_is_nowhere() {
    const SECRET: &str = "s3cr3t-Zq81-unlikely";
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context(
        "FROM busybox\n\
         RUN --mount=type=secret,id=tok test \"$(wc -c < /run/secrets/tok)\" = 20\n\
         RUN --mount=type=secret,id=tok,env=TOK test ${#TOK} = 20; echo started; sleep 1\n\
         RUN --mount=type=secret,id=tok cp /run/secrets/tok /tmp/t && rm /tmp/t\n\
         RUN --mount=type=secret,id=tok test -s /run/secrets/tok && exit 9\n",
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), SECRET).expect("writing the secret");
    let mut child = Building::start(
        command(&home, context.path(), Path::new("/dev/null"))
            .arg(format!("--secret=id=tok,src={}", file.path().display())),
    );
    let mut rest = wait_for(&mut child, " started");
    // While the step has it in its environment, no other process does.
    let holders = holders_of(SECRET);
    let rest: Vec<String> = rest.by_ref().collect();
    assert_eq!(child.code(), Some(1), "{rest:?}");
    assert!(!holders.is_empty(), "the step has it");
    for holder in holders {
        assert!(holder.contains("sleep 1"), "{holder} has the secret");
    }
    assert!(rest.iter().all(|line| !line.contains(SECRET)), "{rest:?}");
    let found = run(Command::new("grep")
        .args(["-rlaF", SECRET])
        .arg(home.store()));
    assert_eq!(
        found.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&found.stdout)
    );
}

/// Command lines of processes with this in their environment or arguments.
fn holders_of(text: &str) -> Vec<String> {
    let has = |path: &Path| {
        std::fs::read(path).is_ok_and(|b| b.windows(text.len()).any(|w| w == text.as_bytes()))
    };
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .map(|entry| entry.path())
        .filter(|dir| has(&dir.join("environ")) || has(&dir.join("cmdline")))
        .map(|dir| {
            let line = std::fs::read(dir.join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ")
        })
        .collect()
}

#[test]
fn every_vertex_that_starts_ends_once_for_each_start() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context(
        "FROM busybox AS a\nRUN echo a\nFROM alpine AS lazy\nFROM busybox\n\
         COPY --from=lazy /etc/passwd /p\nCOPY --from=a /etc/passwd /q\n",
    );
    for round in 0..3 {
        if round == 2 {
            // Known by their keys, but their files are gone.
            std::fs::remove_dir_all(home.store().join("layers")).expect("removing the layers");
        }
        let output = run(home.build().arg("--progress=rawjson").arg(context.path()));
        let text = succeeded(&output);
        let mut open = std::collections::BTreeMap::<String, (String, i64)>::new();
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let event: serde_json::Value = serde_json::from_str(line).expect("an event");
            for vertex in event["vertexes"].as_array().into_iter().flatten() {
                let digest = vertex["digest"].as_str().expect("a digest").to_owned();
                let name = vertex["name"].as_str().expect("a name").to_owned();
                let entry = open.entry(digest).or_insert((name, 0));
                match (
                    vertex["started"].is_string(),
                    vertex["completed"].is_string(),
                ) {
                    (true, false) => entry.1 += 1,
                    (true, true) if entry.1 > 0 => entry.1 -= 1,
                    // Found: started and ended in one.
                    (true, true) => assert!(vertex["cached"] == true, "{vertex}"),
                    _ => {}
                }
                assert!((0..=1).contains(&entry.1), "round {round}: {vertex}");
            }
        }
        assert!(open.len() > 5, "{text}");
        assert!(
            open.values().all(|(_, open)| *open == 0),
            "round {round}: {open:?}"
        );
    }
}

#[test]
fn a_store_is_not_used_under_other_ids() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    succeeded(&build(&home, "FROM busybox\n"));
    let context = context("FROM busybox\n");
    // Root of a user namespace owns the files all the same, but they mean others.
    let output = run(Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(binary())
        .arg("build")
        .arg("--root")
        .arg(home.store())
        .arg("--config")
        .arg(home.dir.path().join("config.toml"))
        .arg(context.path()));
    failed(
        &output,
        &["carry the ids of another user", "use another store"],
    );
}
