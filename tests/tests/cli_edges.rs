//! The command line where it meets the rest of the machine: exit codes, configuration files, pipes that
//! close, signals, narrow terminals.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gateway_tests::image::{images, read_archive};
use gateway_tests::program::{Home, binary, run, stderr, tool};
use gateway_tests::registry::Registry;
use gateway_tests::remains::{nothing_left_behind, nothing_left_running};
use gateway_tests::web::{Page, Web};

fn prepared() -> (Registry, Home) {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    (registry, home)
}

fn context(dockerfile: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).expect("writing the build file");
    dir
}

#[test]
fn exit_codes_tell_who_is_at_fault() {
    let registry = Registry::with_base_images();
    let home = Home::new(&format!(
        "{}[frontend.\"gateway.v0\"]\nallowedRepositories = [\"docker/dockerfile\"]\n",
        registry.as_docker_hub()
    ));
    let policy = home.dir.path().join("policy.json");
    std::fs::write(
        &policy,
        r#"{"rules":[{"action":"DENY","selector":{"identifier":"docker-image://*"}}]}"#,
    )
    .unwrap();
    let policy = format!("--source-policy={}", policy.display());
    for (file, flags, code, told) in [
        ("FROM scratch\nCOPY Dockerfile /\n", &[][..], 0, ""),
        ("FROM busybox\nRUN exit 7\n", &[], 1, "exit code: 7"),
        ("FROM busybox\nRUM x\n", &[], 1, "unknown instruction: RUM"),
        ("FROM busybox\n", &["--no-such-flag"], 2, "--no-such-flag"),
        (
            "FROM busybox\n",
            &["--secret=id=a,src=/no/such"],
            2,
            "/no/such",
        ),
        ("FROM busybox:no-such-tag\n", &[], 3, "no-such-tag"),
        ("# syntax = you/frontend\n", &[], 4, "docker/dockerfile"),
        ("FROM busybox\n", &[policy.as_str()], 4, "denied by policy"),
        (
            "FROM busybox\nRUN --network=host true\n",
            &[],
            4,
            "--allow network.host",
        ),
    ] {
        let dir = context(file);
        let output = run(home.build().args(flags).arg(dir.path()));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{file}: {text}");
        assert!(text.contains(told), "{file}: {text}");
    }
    let pull = run(home.command(&["pull"]).arg("busybox:no-such-tag"));
    assert_eq!(pull.status.code(), Some(3), "{}", stderr(&pull));
}

#[test]
fn debug_tells_the_way_of_an_error_and_is_not_asked_for_by_itself() {
    let (_registry, home) = prepared();
    let dir = context("FROM busybox\nRUN exit 7\n");
    let plain = stderr(&run(home.build().arg(dir.path())));
    assert!(!plain.contains("debug:"), "{plain}");
    let text = stderr(&run(home.build().arg("--debug").arg(dir.path())));
    for part in [
        "debug: of the step sha256:",
        "debug: the process ended with 7",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_build_file_is_fetched_from_its_address() {
    let (_registry, home) = prepared();
    let web = Web::start();
    let body = b"FROM scratch\nCOPY kept /got\n".to_vec();
    web.put(
        "/files/app.Dockerfile",
        Page {
            body,
            ..Page::default()
        },
    );
    let dir = context("FROM no-such-image-anywhere\n");
    std::fs::write(dir.path().join("kept"), "from the context\n").unwrap();
    let out = tempfile::tempdir().unwrap();
    let fetched = |file: &str| {
        let mut build = home.build();
        build.args(["-f", &web.url(file), "-o"]).arg(out.path());
        build
    };
    let output = run(fetched("/files/app.Dockerfile").arg(dir.path()));
    assert!(output.status.success(), "{}", stderr(&output));
    let got = out.path().join("got");
    assert_eq!(std::fs::read_to_string(&got).unwrap(), "from the context\n");

    // Beside an archive on stdin just the same.
    std::fs::remove_file(&got).unwrap();
    let archive = dir.path().with_extension("tar");
    let (from, to) = (dir.path().to_str().unwrap(), archive.to_str().unwrap());
    tool("tar", &["-cf", to, "-C", from, "."]);
    let stdin = std::fs::File::open(&archive).unwrap();
    std::fs::remove_file(&archive).unwrap();
    let output = run(fetched("/files/app.Dockerfile").arg("-").stdin(stdin));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(&got).unwrap(), "from the context\n");

    let missing = run(fetched("/files/none").arg(dir.path()));
    let text = stderr(&missing);
    assert_eq!(missing.status.code(), Some(1), "{text}");
    assert!(
        text.contains("/files/none: the server answered 404"),
        "{text}"
    );
}

#[test]
fn files_of_the_user_are_configuration_and_are_shown_with_their_values() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let gateway = |words: &[&str]| {
        run(Command::new(binary())
            .args(words)
            .env("XDG_CONFIG_HOME", home.path())
            .env("DOCKER_CONFIG", home.path().join("docker"))
            .stdin(Stdio::null()))
    };
    at(
        "gateway/gateway.toml",
        "[gateway]\nroot = \"../store\"\n[build]\nprogress = \"plain=2018\"\n",
    );
    at(
        "buildkit/buildkitd.toml",
        "[registry.\"docker.io\"]\nmirrors = [\"mirror.example\"]\n",
    );
    let shown = gateway(&["config", "--format", "json", "--offline"]);
    assert!(shown.status.success(), "{}", stderr(&shown));
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let origin = |key: &[&str]| {
        let values = shown["values"].as_array().expect("values");
        let entry = values.iter().find(|entry| {
            let place = entry["key"].as_array().expect("a key");
            place
                .iter()
                .map(|part| part.as_str())
                .eq(key.iter().copied().map(Some))
        });
        let entry = entry.unwrap_or_else(|| panic!("{key:?} in {shown}"));
        format!("{} {}", entry["from"], entry["name"])
    };
    assert!(origin(&["gateway", "root"]).contains("gateway.toml"));
    assert!(origin(&["gateway", "offline"]).contains("flag"));
    assert!(origin(&["build", "pull"]).contains("default"));
    assert!(origin(&["registry", "docker.io", "mirrors"]).contains("buildkitd.toml"));

    // A build follows it: the store, and the form of its progress.
    let dir = context("FROM scratch\nCOPY Dockerfile /\n");
    let built = gateway(&["build", dir.path().to_str().unwrap()]);
    assert!(built.status.success(), "{}", stderr(&built));
    assert!(stderr(&built).contains("#1       digest: sha256:"));
    assert!(home.path().join("store/blobs").exists());

    at("gateway/gateway.toml", "[build]\nprogres = \"plain\"\n");
    for words in [&["config"][..], &["build", "."], &["images"]] {
        let wrong = gateway(words);
        let text = stderr(&wrong);
        assert_eq!(wrong.status.code(), Some(2), "{text}");
        assert!(
            text.contains("gateway.toml") && text.contains("progres"),
            "{text}"
        );
    }
}

#[test]
fn pipes_that_nobody_reads_hold_no_build_up() {
    let (_registry, home) = prepared();
    let dir = context("FROM busybox\nRUN seq 1 5000\n");
    for mode in ["plain", "rawjson", "quiet"] {
        let out = dir.path().join(format!("{mode}.tar"));
        let mut child = home
            .build()
            .args(["--no-cache", "--progress", mode, "-o"])
            .arg(format!("type=oci,dest={}", out.display()))
            .arg(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert!(child.wait().unwrap().success(), "{mode}");
        assert!(out.exists(), "{mode}");
    }
    // An answer that nobody reads is no failure either.
    let mut asked = home
        .build()
        .arg("--call=targets")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(asked.stdout.take());
    assert!(asked.wait().unwrap().success());
}

#[test]
fn closed_standard_streams_change_nothing() {
    let (_registry, home) = prepared();
    let dir =
        context("FROM busybox AS b\nRUN echo made > /made\nFROM scratch\nCOPY --from=b /made /\n");
    let out = dir.path().join("out");
    let script = format!(
        "exec {} build --root {} --config {} -o {} {} 0<&- 1>&- 2>&-",
        binary().display(),
        home.store().display(),
        home.dir.path().join("config.toml").display(),
        out.display(),
        dir.path().display()
    );
    let status = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(status.success(), "{status}");
    // What the descriptors' numbers were used for later got no progress into it.
    assert_eq!(std::fs::read_to_string(out.join("made")).unwrap(), "made\n");
}

fn signal(child: &Child) {
    tool("kill", &["-INT", &child.id().to_string()]);
}

#[test]
fn a_second_interrupt_ends_a_build_at_once_and_leaves_nothing_running() {
    let (_registry, home) = prepared();
    let dir = context("FROM busybox\nRUN trap '' INT TERM; echo started; sleep 4747\n");
    let mut child = home
        .build()
        .args(["--progress=plain", "-o", "type=cacheonly"])
        .arg(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.ends_with(" started"))));
    signal(&child);
    signal(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    nothing_left_running(&home.store());
}

/// What a terminal of this many columns shows of a build; `keys` are pressed once this text is there.
fn on_a_terminal(
    home: &Home,
    dir: &Path,
    columns: u16,
    keys: &[u8],
    after: &str,
) -> (Option<i32>, String) {
    let command = format!(
        "stty cols {columns} rows 20; {} build --root {} --config {} {}",
        binary().display(),
        home.store().display(),
        home.dir.path().join("config.toml").display(),
        dir.display()
    );
    let mut child = Command::new("script")
        .args(["-q", "-e", "-c", &command, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (mut text, mut pressed) = (Vec::new(), keys.is_empty());
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stdout.read(&mut piece) {
        text.extend_from_slice(&piece[..count]);
        if !pressed && String::from_utf8_lossy(&text).contains(after) {
            stdin.write_all(keys).unwrap();
            pressed = true;
        }
    }
    drop(stdin);
    let text = String::from_utf8_lossy(&text).into_owned();
    (child.wait().unwrap().code(), text)
}

/// Text without the sequences that steer a terminal.
fn printed(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => {
                rest.find(|c| c.is_ascii_alphabetic());
            }
            c => plain.push(c),
        }
    }
    plain
}

#[test]
fn interrupted_on_a_terminal_a_build_gives_the_cursor_back() {
    let (_registry, home) = prepared();
    let dir = context("FROM busybox\nRUN echo started; sleep 4848\n");
    let (code, text) = on_a_terminal(&home, dir.path(), 100, b"\x03", "# started");
    assert_eq!(code, Some(130), "{text}");
    let last = text.rfind("\x1b[?25").map(|at| &text[at..at + 6]);
    assert_eq!(last, Some("\x1b[?25h"), "{text}");
    assert!(printed(&text).contains("error: interrupted"), "{text}");
    nothing_left_behind(&home.store());
}

#[test]
fn forty_columns_are_never_exceeded_while_steps_run() {
    let (_registry, home) = prepared();
    let dir = context(
        "FROM busybox\nRUN echo a line of output that is much wider than any narrow terminal ever is; sleep 0.3\n",
    );
    let (code, text) = on_a_terminal(&home, dir.path(), 40, b"", "");
    assert_eq!(code, Some(0), "{text}");
    let text = printed(&text);
    assert!(text.contains("[+] Building"), "{text}");
    for line in text.split(['\r', '\n']) {
        assert!(line.chars().count() <= 40, "{line:?}");
    }
}

#[test]
fn tables_fit_into_forty_columns_and_are_whole_where_nobody_looks() {
    let home = Home::new("");
    let dir = context("FROM scratch\nCOPY Dockerfile /\n");
    let name = "registry.example.com/a/long/name/of/an/image:1.2.3";
    let built = run(home.build().args(["-q", "-t", name]).arg(dir.path()));
    assert!(built.status.success(), "{}", stderr(&built));
    for words in ["du", "images", "store list"] {
        let line = format!(
            "{} {words} --root {}",
            binary().display(),
            home.store().display()
        );
        let shown = |columns: u16| {
            let command = format!("stty cols {columns} rows 20; {line}");
            let output =
                run(Command::new("script").args(["-q", "-e", "-c", &command, "/dev/null"]));
            assert!(output.status.success(), "{words}: {}", stderr(&output));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let narrow = shown(40);
        for line in narrow.lines() {
            assert!(line.trim_end().chars().count() <= 40, "{words}: {line}");
        }
        assert!(narrow.contains('…'), "{words}: {narrow}");
        let wide = shown(200);
        assert!(wide.contains(name), "{words}: {wide}");
        let piped = run(Command::new("sh").args(["-c", &line]));
        let piped = String::from_utf8_lossy(&piped.stdout).into_owned();
        assert!(piped.contains(name) && !piped.contains('…'), "{piped}");
    }
}

#[test]
fn the_tools_own_image_is_its_program_with_certificates_to_trust() {
    let home = Home::new("");
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::copy(root.join("Dockerfile"), dir.path().join("Dockerfile")).unwrap();
    std::fs::copy(root.join(".dockerignore"), dir.path().join(".dockerignore")).unwrap();
    // As scripts/release leaves them; what the program is makes no difference to its image.
    let dist = dir.path().join("target/dist");
    std::fs::create_dir_all(&dist).unwrap();
    std::fs::write(dist.join("gateway"), "the program\n").unwrap();
    std::fs::write(dist.join("ca-certificates.crt"), "certificates\n").unwrap();
    tool("chmod", &["755", dist.join("gateway").to_str().unwrap()]);
    let archive = dir.path().join("tool.tar");
    let output = run(home
        .build()
        .args(["--target", "tool", "-o"])
        .arg(format!("type=oci,dest={}", archive.display()))
        .arg(dir.path()));
    assert!(output.status.success(), "{}", stderr(&output));
    let image = images(&read_archive(&archive)).remove(0);
    assert_eq!(image.config["config"]["Entrypoint"][0], "/bin/gateway");
    assert!(image.config["config"]["Volumes"]["/var/lib/gateway"].is_object());
    let program = &image.files["bin/gateway"];
    assert_eq!(
        (program.data.as_slice(), program.mode & 0o777),
        (&b"the program\n"[..], 0o755)
    );
    assert_eq!(
        image.files["etc/ssl/certs/ca-certificates.crt"].data,
        b"certificates\n"
    );
    assert!(!image.files.contains_key("bin/dockerfile-frontend"));
}

#[test]
fn an_answer_of_a_build_that_is_lost_fails() {
    let home = Home::new("");
    let context = context("FROM scratch\nCOPY Dockerfile /\n");
    let build = format!(
        "build --root '{}' '{}'",
        home.store().display(),
        context.path().display()
    );
    for words in [
        format!("{build} --quiet"),
        format!("{build} --check"),
        "completion bash".to_owned(),
        "--help".to_owned(),
        "build --help".to_owned(),
        "--version".to_owned(),
    ] {
        let line = format!("'{}' {words} >/dev/full", binary().display());
        let output = run(Command::new("bash").args(["-c", &line]));
        assert_eq!(output.status.code(), Some(1), "{words}");
        let told = "error: cannot write to stdout: No space left on device";
        let said = stderr(&output);
        assert!(said.contains(told), "{words}: {said}");
    }
}

#[test]
fn a_configuration_that_builds_would_refuse_is_refused_when_it_is_shown() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("gateway.toml");
    for (text, told) in [
        ("progress = \"foo\"", "build.progress in "),
        ("cache-from = [\"type=nope\"]", "unknown type \"nope\""),
        ("cache-to = [\"type=nope\"]", "unknown type \"nope\""),
    ] {
        std::fs::write(&path, format!("[build]\n{text}\n")).expect("a configuration");
        let output = run(Command::new(binary())
            .args(["config", "--config"])
            .arg(&path));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}: {said}");
        assert!(said.contains(told) && output.stdout.is_empty(), "{said}");
    }
}

#[test]
fn a_file_that_cannot_be_written_in_the_end_stops_a_build_at_once() {
    let home = Home::new("");
    let context = context("FROM scratch\nCOPY Dockerfile /\n");
    for flag in ["--iidfile", "--metadata-file"] {
        let flag = format!("{flag}=/no/such/folder/file");
        let output = run(home.build().arg(flag).arg(context.path()));
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            stderr(&output),
            "error: cannot write /no/such/folder/file: No such file or directory (os error 2)\n"
        );
    }
    // Folders on the way to an output are made, where they can be.
    let output = "--output=type=oci,dest=/proc/no/such/folder/file";
    let output = run(home.build().arg(output).arg(context.path()));
    let said = stderr(&output);
    let told = "error: failed to solve: cannot write /proc/no/such/folder/file: No such file or directory (os error 2)\n";
    assert!(said.ends_with(told), "{said}");
}

#[test]
fn an_answer_that_is_lost_fails_and_a_notice_that_is_lost_does_not() {
    let (registry, home) = prepared();
    let name = format!("{}/library/busybox:latest", registry.address);
    // The table of this host is used by nobody: a notice.
    let config = home.dir.path().join("config.toml");
    let text = format!(
        "{}[registry.\"https://x.example\"]\nca = []\n",
        registry.table()
    );
    std::fs::write(&config, text).expect("a configuration");
    let script = |words: &str, redirection: &str| {
        let script = format!(
            "'{}' {words} --config '{}' {redirection}",
            binary().display(),
            config.display()
        );
        run(Command::new("bash").args(["-c", &script]))
    };
    let store = home.store().display().to_string();
    let pull = format!("pull --root '{store}' {name}");
    for words in [
        pull.clone(),
        format!("inspect {name}"),
        format!("registry check {name}"),
    ] {
        let output = script(&words, ">/dev/full");
        assert_eq!(output.status.code(), Some(1), "{words}");
        let told = "error: cannot write to stdout: No space left on device";
        assert!(
            stderr(&output).contains(told),
            "{words}: {}",
            stderr(&output)
        );
        let output = script(&words, "2>/dev/full");
        assert!(output.status.success(), "{words}: {output:?}");
    }
    let piped = script(
        &format!("inspect {name}"),
        "| head -c 1; exit ${PIPESTATUS[0]}",
    );
    assert!(piped.status.success(), "{piped:?}");
    // A name that is none is a mistake of the command line, everywhere.
    for words in ["pull Alpine", "inspect Alpine", "registry check Alpine"] {
        let output = script(words, "");
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(
            stderr(&output).contains("must be lowercase"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn values_that_no_flag_takes_are_told_before_anything_is_done() {
    let home = Home::new("");
    let dir = context("FROM scratch\nCOPY Dockerfile /\n");
    for (flag, told) in [
        (
            "--check=maybe",
            "--check \"maybe\": is a switch: --check for yes, --check=false for no",
        ),
        ("--pull=maybe", "--pull \"maybe\": not one of true, false"),
        (
            "--progress=fancy",
            "--progress \"fancy\": not one of auto, tty, plain, plain=2018, rawjson, quiet, none",
        ),
        (
            "--cach-from=x",
            "--cach-from: there is no such flag, --cache-from is like it",
        ),
        (
            "--output=type=oci,dest=",
            "--output \"type=oci,dest=\": dest= names no place: dest=FILE, or dest=DIR",
        ),
        (
            "--output=type=oci,dset=x",
            "--output \"type=oci,dset=x\": unknown key \"dset\": dest is like it",
        ),
        (
            "--output=type=local",
            "--output \"type=local\": needs a directory: dest=DIR",
        ),
        (
            "--output=type=iamge",
            "--output \"type=iamge\": unknown type \"iamge\": image, registry, oci, docker, tar, local, \
             cacheonly are known; image is like it",
        ),
        (
            "--secret=id=x,scr=y",
            "--secret \"id=x,scr=y\": unknown key \"scr\": id, src, env and type are known; src is like it",
        ),
        (
            "--ssh=default=/no/such/key",
            "--ssh \"default=/no/such/key\": /no/such/key: No such file",
        ),
        (
            "--sbom=generator=",
            "--sbom \"generator=\": generator= names no image: generator=IMAGE, or leave it out",
        ),
        (
            "--attest=type=sbom,generator=A:B:C",
            "--attest \"type=sbom,generator=A:B:C\": ",
        ),
        (
            "--attest=type=foo",
            "--attest \"type=foo\": unknown attestation foo: sbom and provenance are known",
        ),
        (
            "--attest=type=sbom,disabled=maybe",
            "--attest \"type=sbom,disabled=maybe\": disabled is true or false, not \"maybe\"",
        ),
        (
            "--call=outline,fromat=json",
            "--call \"outline,fromat=json\": unknown key \"fromat\": write METHOD, METHOD,format=json or \
             METHOD,ignorestatus=true; format is like it",
        ),
        (
            "--cache-to=type=local,dest=c,mode=maximal",
            "--cache-to \"type=local,dest=c,mode=maximal\": mode is min or max, not \"maximal\"",
        ),
        (
            "--cache-from=type=registry",
            "--cache-from \"type=registry\": needs ref=...",
        ),
        (
            "--allow=netowrk.host",
            "--allow \"netowrk.host\": unknown entitlement: network.host, security.insecure, device, \
             buildx.local.delete are known; network.host is like it",
        ),
        ("--build-context=UPPER=.", "--build-context \"UPPER=.\": "),
        (
            "--attest=",
            "--attest: a value is missing: `gateway build --help` shows its forms",
        ),
        (
            "--provenance=mode=most",
            "--provenance \"mode=most\": invalid mode \"most\"",
        ),
        (
            "--attest=type=provenance,mode=most",
            "--attest: invalid mode \"most\"",
        ),
        ("--platform=foo", "--platform \"foo\": "),
        (
            "--platform=linux/amd64,,",
            "--platform \"linux/amd64,,\": there is nothing between two commas",
        ),
        (
            "--ulimit=nofile",
            "--ulimit \"nofile\": write NAME=SOFT or NAME=SOFT:HARD, with numbers",
        ),
        (
            "--ulimit=nofile=x",
            "--ulimit \"nofile=x\": write NAME=SOFT or NAME=SOFT:HARD, with numbers",
        ),
        (
            "--ulimit=nofile=2:1",
            "--ulimit \"nofile=2:1\": the first number, 2, is above the second, 1",
        ),
        (
            "--ulimit=files=1",
            "--ulimit \"files=1\": unknown limit \"files\": as, core, ",
        ),
        (
            "--resource=memory=x",
            "--resource \"memory=x\": write a size like 2g",
        ),
        (
            "--resource=disk=1",
            "--resource \"disk=1\": unknown resource \"disk\": memory, ",
        ),
        (
            "--cpu-shares=x",
            "--cpu-shares \"x\": write a number, 0 or more",
        ),
    ] {
        let output = run(home.build().arg(flag).arg(dir.path()));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{flag}: {text}");
        assert!(
            text.starts_with(&format!("error: {told}")),
            "{flag}: {text}"
        );
        assert!(output.stdout.is_empty(), "{flag}");
    }
    assert!(!home.store().exists());
    // What docker takes is taken.
    for flag in [
        "--platform=",
        "--platform=local",
        "--ulimit=nofile=1024",
        "--ulimit=core=-1",
        "--network=",
        "--allow=device=vendor.example/gpu=0",
        "--build-context=docker.io/library/base:latest=docker-image://x",
    ] {
        let output = run(home
            .build()
            .arg(flag)
            .arg("--output=type=cacheonly")
            .arg(dir.path()));
        assert!(output.status.success(), "{flag}: {}", stderr(&output));
    }
}

#[test]
fn what_docker_passes_over_is_passed_over_with_a_warning() {
    let home = Home::new("");
    let dir = context("FROM scratch\nCOPY Dockerfile /\n");
    let folder = dir.path().display();
    for (flags, told) in [
        (
            vec!["--output=type=image,nmae=me/app".to_owned()],
            "--output \"type=image,nmae=me/app\": \"nmae\" has no effect; name is like it",
        ),
        (
            vec![format!(
                "--output=type=oci,dest={folder}/a.tar,compresion=zstd"
            )],
            "\"compresion\" has no effect; compression is like it",
        ),
        (
            vec![format!("--output=type=local,dest={folder}/out,name=x")],
            "\"name\" has no effect\n",
        ),
        (
            vec!["--output=".to_owned()],
            "--output: is empty and has no effect\n",
        ),
        (
            vec!["--cache-from=".to_owned(), "--cache-to=".to_owned()],
            "--cache-to: is empty and has no effect\n",
        ),
        (
            vec![format!(
                "--cache-to=type=local,dest={folder}/cache,mdoe=max"
            )],
            "\"mdoe\" has no effect; mode is like it",
        ),
        (
            vec![format!(
                "--cache-from=type=local,src={folder}/cache,mode=max"
            )],
            "\"mode\" has no effect\n",
        ),
        (
            vec!["--secret=id=x,env=NO_SUCH_VARIABLE".to_owned()],
            "--secret \"id=x,env=NO_SUCH_VARIABLE\": NO_SUCH_VARIABLE is not set: the secret is empty",
        ),
        (
            vec!["--provenance=mode=min,buidler-id=x".to_owned()],
            "\"buidler-id\" has no effect; builder-id is like it",
        ),
        (
            vec!["--sbom=".to_owned(), "--provenance=".to_owned()],
            "--sbom: is empty and has no effect",
        ),
    ] {
        let output = run(home.build().args(&flags).arg(dir.path()));
        let text = stderr(&output);
        assert!(output.status.success(), "{flags:?}: {text}");
        let said = text.contains("warning: ") && text.contains(told);
        assert!(said, "{flags:?}: {text}");
    }
    // Nothing is said of what is known.
    for flag in [
        format!("--output=type=oci,dest={folder}/sub/folder/b.tar,annotation.a=b,unknown.x=1"),
        "--output=type=image,name=me/app,annotation.a=b,compression=zstd".to_owned(),
        "--cache-from=me/a,me/b".to_owned(),
    ] {
        let output = run(home.build().arg(&flag).arg(dir.path()));
        let text = stderr(&output);
        assert!(output.status.success(), "{flag}: {text}");
        let unknown = flag.contains("unknown.x");
        let warned = text.lines().any(|line| line.starts_with("warning: --"));
        assert_eq!(warned, unknown, "{flag}: {text}");
    }
    assert!(dir.path().join("sub/folder/b.tar").exists());
}

#[test]
fn a_question_that_no_frontend_answers_is_told_with_those_that_are() {
    let home = Home::new("");
    let dir = context("FROM scratch AS one\n");
    for (call, told) in [
        (
            "foo",
            "error: failed to solve: unsupported request frontend.foo\n--call=subrequests.describe tells which \
             questions the frontend of this build file answers.\n",
        ),
        (
            "outlne",
            "error: failed to solve: unsupported request frontend.outlne\nDid you mean --call=outline? \
             --call=subrequests.describe tells which questions the frontend of this build file answers.\n",
        ),
    ] {
        let output = run(home.build().arg("--call").arg(call).arg(dir.path()));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.ends_with(told), "{text}");
    }
    // The judgement of a check can be left out of the exit code.
    std::fs::write(dir.path().join("Dockerfile"), "FROM scratch as one\n").unwrap();
    let check = |call: &str| run(home.build().args(["--call", call]).arg(dir.path()));
    assert_eq!(check("check").status.code(), Some(1));
    let ignored = check("check,ignorestatus=true");
    assert!(ignored.status.success(), "{}", stderr(&ignored));
    assert!(String::from_utf8_lossy(&ignored.stdout).contains("FromAsCasing"));
}

#[test]
fn quiet_prints_the_id_and_none_nothing() {
    let home = Home::new("");
    let dir = context("FROM scratch\nCOPY Dockerfile /\n");
    let printed = |flags: &[&str]| {
        let output = run(home.build().args(flags).arg(dir.path()));
        assert!(output.status.success(), "{flags:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{flags:?}");
        output.stdout
    };
    let id = printed(&["-q"]);
    assert!(id.starts_with(b"sha256:") && id.len() == 72, "{id:?}");
    assert_eq!(printed(&["--progress=quiet"]), id);
    assert_eq!(printed(&["--progress=none"]), b"");
    // An archive on stdout stays one.
    let archive = printed(&["-q", "--output=type=oci,dest=-"]);
    assert!(
        archive.ends_with(&[0; 1024]),
        "something is behind the archive"
    );
}
