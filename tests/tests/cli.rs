//! The flags of `docker build` as people use them: build files and contexts on stdin, questions instead
//! of builds, limits, keys, and what a terminal shows.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use gateway_tests::program::{Home, binary, run, stderr, tool};
use gateway_tests::registry::Registry;

/// A registry with base images and a store that knows it as docker.io.
fn prepared() -> (Registry, Home) {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    (registry, home)
}

fn with_stdin(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gateway");
    let mut stdin = child.stdin.take().expect("its stdin");
    // One that refuses its stdin has said why on stderr.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("its end")
}

fn context(dockerfile: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).expect("writing the build file");
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).expect("writing the context");
    }
    dir
}

/// The lines that a build's local output has in one file.
fn exported(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn succeeded(output: Output) -> Output {
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

#[test]
fn no_more_steps_run_at_once_than_the_configuration_allows() {
    let registry = Registry::with_base_images();
    let limit = "[worker.oci]\nmax-parallelism = 1\n";
    let home = Home::new(&format!("{}{limit}", registry.as_docker_hub()));
    // Each step would see another one's mark.
    let stages: String = (0..4)
        .map(|i| {
            format!(
                "FROM busybox AS s{i}\nRUN --mount=type=cache,target=/c test ! -e /c/busy && \
                 touch /c/busy && sleep 0.1 && rm /c/busy && echo {i} > /done\n"
            )
        })
        .collect();
    let copies: String = (0..4)
        .map(|i| format!("COPY --from=s{i} /done /done{i}\n"))
        .collect();
    let dir = context(&format!("{stages}FROM scratch\n{copies}"), &[]);
    succeeded(run(home.build().arg(dir.path())));
}

#[test]
fn a_failing_step_is_shown_with_its_last_output_and_its_place_in_the_build_file() {
    let (_registry, home) = prepared();
    let dir = context(
        "FROM busybox\nENV A=1\nRUN for i in $(seq 1 50); do echo said $i; done; echo why >&2; exit 7\n",
        &[],
    );
    for mode in ["plain", "quiet"] {
        let progress = format!("--progress={mode}");
        let output = run(home.build().arg(progress).arg(dir.path()));
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        // Behind the step's name, and not only where it was said.
        let page = text.split("------\n").nth(1).unwrap_or_default();
        for part in [" > [2/2] RUN for i in", "said 50\n", "why"] {
            assert!(page.contains(part), "{mode}: {part}: {text}");
        }
        for part in ["Dockerfile:3", ">>> RUN for i in", "exit code: 7"] {
            assert!(text.contains(part), "{mode}: {part}: {text}");
        }
    }
}

#[test]
fn a_build_file_on_stdin_needs_no_context() {
    let (_registry, home) = prepared();
    let out = tempfile::tempdir().unwrap();
    let mut build = home.build();
    build.arg("-o").arg(out.path()).arg("-");
    let file = b"FROM busybox AS b\nRUN echo made > /made\nFROM scratch\nCOPY --from=b /made /\n";
    succeeded(with_stdin(&mut build, file));
    assert_eq!(exported(out.path(), "made"), "made\n");

    let empty = with_stdin(home.build().arg("-"), b"");
    assert_eq!(empty.status.code(), Some(2));
    assert!(stderr(&empty).contains("nothing came on stdin"));
}

#[test]
fn a_build_file_on_stdin_goes_with_a_directory() {
    let (_registry, home) = prepared();
    let dir = context(
        "FROM nothing-of-this-name\n",
        &[("a", "from the context\n")],
    );
    let out = tempfile::tempdir().unwrap();
    let mut build = home.build();
    build
        .args(["-f", "-", "-o"])
        .arg(out.path())
        .arg(dir.path());
    succeeded(with_stdin(&mut build, b"FROM scratch\nCOPY a /b\n"));
    assert_eq!(exported(out.path(), "b"), "from the context\n");

    let both = with_stdin(home.build().args(["-f", "-", "-"]), b"FROM scratch\n");
    assert_eq!(both.status.code(), Some(2), "{}", stderr(&both));
}

#[test]
fn an_archive_on_stdin_is_the_context_and_is_known_again() {
    let (_registry, home) = prepared();
    let dir = context(
        "FROM busybox\nRUN echo step\n",
        &[
            ("a", "in the archive\n"),
            (
                "other.Dockerfile",
                "FROM busybox AS b\nCOPY a /c\nRUN cat /c > /d\nFROM scratch\nCOPY --from=b /d /d\n",
            ),
        ],
    );
    let archive = dir.path().with_extension("tar.gz");
    let (from, to) = (dir.path().to_str().unwrap(), archive.to_str().unwrap());
    tool("tar", &["-czf", to, "-C", from, "."]);
    let bytes = std::fs::read(&archive).unwrap();
    std::fs::remove_file(&archive).unwrap();
    let out = tempfile::tempdir().unwrap();
    let build = || {
        let mut build = home.build();
        build
            .args(["-f", "other.Dockerfile", "--progress", "plain", "-o"])
            .arg(out.path())
            .arg("-");
        succeeded(with_stdin(&mut build, &bytes))
    };
    let first = stderr(&build());
    assert!(!first.contains("CACHED"), "{first}");
    assert_eq!(exported(out.path(), "d"), "in the archive\n");
    let second = stderr(&build());
    assert!(second.contains("RUN cat /c > /d\n#"), "{second}");
    assert!(second.matches("CACHED").count() >= 3, "{second}");
}

#[test]
fn a_check_answers_on_stdout_and_in_its_exit_code() {
    let (_registry, home) = prepared();
    let good = context("FROM busybox\nRUN exit 7\n", &[]);
    let answer = succeeded(run(home.build().arg("--check").arg(good.path())));
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout),
        "Check complete, no warnings found.\n"
    );
    let bad = context("FROM busybox\nMAINTAINER me\nCMD echo a\n", &[]);
    let answer = run(home.build().arg("--check").arg(bad.path()));
    assert_eq!(answer.status.code(), Some(1));
    insta::assert_snapshot!(String::from_utf8_lossy(&answer.stdout), @r"
    Check complete, 2 warnings have been found!

    WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/
    Maintainer instruction is deprecated in favor of using label
    Dockerfile:2
    --------------------
       1 |     FROM busybox
       2 | >>> MAINTAINER me
       3 |     CMD echo a
       4 |     
    --------------------

    WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/
    JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
    Dockerfile:3
    --------------------
       1 |     FROM busybox
       2 |     MAINTAINER me
       3 | >>> CMD echo a
       4 |     
    --------------------
    ");
    let text = stderr(&answer);
    assert!(!text.contains("error:"), "the answer says it all: {text}");
    assert!(!text.contains("warnings found"), "not twice: {text}");

    let json = run(home.build().arg("--call=check,format=json").arg(bad.path()));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["warnings"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_frontend_answers_questions_about_its_file() {
    let (_registry, home) = prepared();
    let dir = context(
        "# what is used\nARG VERSION=1\nFROM busybox AS base\nFROM base AS last\nARG VERSION\n",
        &[],
    );
    let targets = succeeded(run(home.build().arg("--call=targets").arg(dir.path())));
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    assert!(targets.contains("last (default)"), "{targets}");
    let outline = succeeded(run(home.build().arg("--call=outline").arg(dir.path())));
    let outline = String::from_utf8_lossy(&outline.stdout).into_owned();
    assert!(outline.contains("VERSION"), "{outline}");
    let unknown = run(home.build().arg("--call=no.such").arg(dir.path()));
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("no.such"), "{}", stderr(&unknown));
}

#[test]
fn limits_of_the_flags_hold_in_steps() {
    let (_registry, home) = prepared();
    let dir = context(
        "FROM busybox AS b\nRUN (ulimit -Sn; ulimit -Hn; df -k /dev/shm | tail -1 | awk '{print $2}'; \
         grep -w box /etc/hosts) > /limits\nFROM scratch\nCOPY --from=b /limits /\n",
        &[],
    );
    let out = tempfile::tempdir().unwrap();
    let flags = [
        "--ulimit",
        "nofile=123:456",
        "--shm-size",
        "2m",
        "--add-host",
        "box:host-gateway",
        "--rm",
        "--force-rm=true",
        "--builder",
        "default",
    ];
    succeeded(run(home
        .build()
        .args(flags)
        .arg("-o")
        .arg(out.path())
        .arg(dir.path())));
    assert_eq!(
        exported(out.path(), "limits"),
        "123\n456\n2048\n127.0.0.1\tbox\n"
    );
}

#[test]
fn stages_of_the_filter_run_again_and_no_others() {
    let (_registry, home) = prepared();
    let dir = context(
        "FROM busybox AS one\nRUN echo one > /one\nFROM busybox AS two\nRUN echo two > /two\n\
         FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
        &[],
    );
    let build = |flags: &[&str]| {
        let mut build = home.build();
        build.args(["--progress=plain", "-o", "type=cacheonly"]);
        stderr(&succeeded(run(build.args(flags).arg(dir.path()))))
    };
    build(&[]);
    let again = build(&["--no-cache-filter", "two"]);
    let state = |name: &str| {
        let line = again.lines().find(|line| line.ends_with(name)).unwrap();
        let number = line.split(' ').next().unwrap();
        again
            .lines()
            .rfind(|line| line.starts_with(&format!("{number} ")))
            .unwrap()
            .to_owned()
    };
    assert!(state("RUN echo one > /one").ends_with("CACHED"), "{again}");
    assert!(state("RUN echo two > /two").contains("DONE"), "{again}");
}

#[test]
fn a_key_file_is_an_agent_to_steps() {
    let (_registry, home) = prepared();
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    tool(
        "ssh-keygen",
        &["-q", "-t", "ed25519", "-N", "", "-f", key.to_str().unwrap()],
    );
    let dir = context(
        "FROM busybox\nRUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK\n\
         RUN --mount=type=ssh,id=other test ! -e $SSH_AUTH_SOCK\n",
        &[],
    );
    let spec = format!("default={}", key.display());
    let output = run(home
        .build()
        .args(["-o", "type=cacheonly", "--ssh", &spec])
        .arg(dir.path()));
    let text = stderr(&succeeded(output));
    assert!(!text.contains("PRIVATE"), "{text}");
}

#[test]
fn flags_that_cannot_be_done_are_refused_by_name() {
    let home = Home::new("");
    let dir = context("FROM scratch\n", &[]);
    for flags in [
        &["--squash"][..],
        &["--compress"],
        &["--isolation=hyperv"],
        &["--security-opt", "seccomp=unconfined"],
        &["--progress=tty"],
        &["--call=outline,format=xml"],
        &["--shm-size=lots"],
    ] {
        let output = run(home.build().args(flags).arg(dir.path()));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        let flag = flags[0].split('=').next().unwrap();
        assert!(text.contains(flag), "{flags:?}: {text}");
    }
}

/// Runs the words on a terminal of its own and gives what it showed.
fn on_a_terminal(command: &str, term: &str) -> (Option<i32>, String) {
    let output = run(Command::new("script")
        .args(["-q", "-e", "-c", command, "/dev/null"])
        .env("TERM", term)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text)
}

#[test]
fn a_terminal_shows_steps_in_place_and_gets_its_cursor_back() {
    let (_registry, home) = prepared();
    let dir = context("FROM busybox\nRUN echo hello; sleep 0.4; exit 3\n", &[]);
    let command = format!(
        "stty cols 100 rows 30; {} build --root {} --config {} {}",
        binary().display(),
        home.store().display(),
        home.dir.path().join("config.toml").display(),
        dir.path().display()
    );
    let (code, text) = on_a_terminal(&command, "xterm");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("[+] Building "), "{text}");
    assert!(text.contains(" => => # hello"), "live output: {text}");
    assert!(text.contains("\x1b[31m => ERROR [2/2] RUN"), "{text}");
    let last = text.rfind("\x1b[?25").map(|at| &text[at..at + 6]);
    assert_eq!(last, Some("\x1b[?25h"), "the cursor is visible again");

    let (_, text) = on_a_terminal(&command, "dumb");
    assert!(!text.contains("[+] Building"), "{text}");
    assert!(
        text.contains("#1 [internal] load build definition"),
        "{text}"
    );
}

#[test]
fn the_environment_chooses_the_progress_when_no_flag_does() {
    let home = Home::new("");
    let dir = context("FROM scratch\nCOPY Dockerfile /\n", &[]);
    let raw = succeeded(run(home
        .build()
        .env("BUILDKIT_PROGRESS", "rawjson")
        .arg(dir.path())));
    let text = stderr(&raw);
    assert!(text.lines().all(|line| line.starts_with('{')), "{text}");
    let flag = succeeded(run(home
        .build()
        .env("BUILDKIT_PROGRESS", "rawjson")
        .args(["--progress", "plain=2018"])
        .arg(dir.path())));
    assert!(stderr(&flag).contains("#1       digest: sha256:"));
    let wrong = run(home.build().env("GATEWAY_PROGRESS", "loud").arg(dir.path()));
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("GATEWAY_PROGRESS"));
}
