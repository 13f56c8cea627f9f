//! Build files from one place with contexts from another, and policies in Rego over what comes together.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use gateway_tests::git::GitDaemon;
use gateway_tests::program::{Home, run, stderr, tool};
use gateway_tests::registry::Registry;
use gateway_tests::web::{Page, Web};

const FILE: &[u8] = b"FROM scratch\nCOPY kept /got\n";

fn page(body: Vec<u8>) -> Page {
    Page {
        body,
        ..Page::default()
    }
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

/// Builds into a folder and gives what the build file copied there.
fn got(build: &mut Command, stdin: &[u8]) -> String {
    use std::io::Write as _;
    let out = tempfile::tempdir().expect("a temporary folder");
    let piped = || Stdio::piped();
    let build = build.arg("-o").arg(out.path());
    let build = build.stdin(piped()).stdout(piped()).stderr(piped());
    let mut child = build.spawn().expect("gateway");
    let mut input = child.stdin.take().expect("its stdin");
    input.write_all(stdin).expect("writing to it");
    drop(input);
    succeeded(&child.wait_with_output().expect("its end"));
    std::fs::read_to_string(out.path().join("got")).expect("what was copied")
}

#[test]
fn a_build_file_from_elsewhere_goes_with_a_context_that_is_fetched() {
    let home = Home::new("");
    let git = GitDaemon::start();
    git.repository(
        "app",
        &[
            ("kept", "from git\n"),
            ("Dockerfile", "FROM not-this-one\n"),
            ("sub/kept", "from a folder of git\n"),
        ],
    );
    let web = Web::start();
    web.put("/app.Dockerfile", page(FILE.to_vec()));
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("kept"), "from an archive\n").unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM not-this-one\n").unwrap();
    let archive = tempfile::NamedTempFile::new().expect("a file");
    let (to, from) = (
        archive.path().to_str().unwrap(),
        dir.path().to_str().unwrap(),
    );
    tool("tar", &["-czf", to, "-C", from, "."]);
    web.put(
        "/context.tar.gz",
        page(std::fs::read(archive.path()).unwrap()),
    );

    for (context, expected) in [
        (git.url("app"), "from git\n"),
        (
            format!("{}#main:sub", git.url("app")),
            "from a folder of git\n",
        ),
        (web.url("/context.tar.gz"), "from an archive\n"),
    ] {
        let build = |file: &str| {
            let mut build = home.build();
            build.args(["-f", file, &context]);
            build
        };
        assert_eq!(got(&mut build("-"), FILE), expected, "stdin, {context}");
        let address = web.url("/app.Dockerfile");
        assert_eq!(
            got(&mut build(&address), b""),
            expected,
            "an address, {context}"
        );
    }
}

/// As `docker build - < context.tar` takes it.
#[test]
fn archives_on_stdin_are_packed_as_they_like() {
    let home = Home::new("");
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("Dockerfile"), FILE).expect("a build file");
    let from = dir.path().display().to_string();
    for packed in ["", "--gzip", "--bzip2", "--xz", "--zstd"] {
        let name = format!("packed {packed}\n");
        std::fs::write(dir.path().join("kept"), &name).expect("a file");
        let mut tar = Command::new("tar");
        let tar = tar
            .arg("-c")
            .args(Some(packed).filter(|flag| !flag.is_empty()));
        let archive = run(tar.args(["-C", &from, "."]));
        succeeded(&archive);
        assert_eq!(got(home.build().arg("-"), &archive.stdout), name);
    }
}

/// A context with this policy beside its build file.
fn with_policy(file: &str, policy: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("Dockerfile"), file).unwrap();
    std::fs::write(dir.path().join("Dockerfile.rego"), policy).unwrap();
    dir
}

fn build(home: &Home, dir: &Path, flags: &[&str]) -> Output {
    run(home
        .build()
        .args(["--progress=plain", "-o", "type=cacheonly"])
        .args(flags)
        .arg(dir))
}

#[test]
fn a_policy_beside_the_build_file_judges_every_source() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let dir = with_policy(
        "FROM busybox\nCOPY Dockerfile /\n",
        "package docker\n\ndefault allow := false\n\nallow if input.local\nallow if input.image.repo in {\"busybox\"}\n\n\
         deny_msg contains msg if {\n  not allow\n  msg := sprintf(\"only busybox, not %s\", [input.image.ref])\n}\n\n\
         decision := {\"allow\": allow, \"deny_msg\": deny_msg}\n",
    );
    let allowed = build(&home, dir.path(), &[]);
    succeeded(&allowed);
    let text = stderr(&allowed);
    for part in [
        "loading policies Dockerfile.rego",
        "checking policy for source docker-image://docker.io/library/busybox:latest (linux/",
        "policy decision for source local://context: ALLOW",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // A frontend in a container is held to it, and so is its own image.
    std::fs::write(
        dir.path().join("Dockerfile"),
        "FROM busybox\nFROM alpine\nCOPY Dockerfile /\n",
    )
    .unwrap();
    let denied = build(&home, dir.path(), &[]);
    let text = stderr(&denied);
    assert_eq!(denied.status.code(), Some(4), "{text}");
    for part in [
        "not allowed by policy: action DENY",
        "only busybox, not docker.io/library/alpine:latest",
        "Dockerfile:2",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    std::fs::write(
        dir.path().join("Dockerfile"),
        "# syntax = me/frontend:1\nFROM busybox\n",
    )
    .unwrap();
    let denied = build(&home, dir.path(), &[]);
    assert_eq!(denied.status.code(), Some(4), "{}", stderr(&denied));
    assert!(stderr(&denied).contains("only busybox, not docker.io/me/frontend:1"));

    std::fs::write(
        dir.path().join("Dockerfile"),
        "FROM alpine\nCOPY Dockerfile /\n",
    )
    .unwrap();
    succeeded(&build(&home, dir.path(), &["--policy", "disabled=true"]));
}

#[test]
fn a_policy_is_told_of_labels_and_pins_images() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let base = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        base.path().join("Dockerfile"),
        "FROM scratch\nLABEL team=ours\nCOPY Dockerfile /\n",
    )
    .unwrap();
    registry.build_and_push(base.path(), "team/base:1");
    let digest = tool(
        "skopeo",
        &[
            "inspect",
            "--cert-dir",
            registry.certificate_dir().to_str().unwrap(),
            "--format",
            "{{.Digest}}",
            &format!("docker://{}/team/base:1", registry.address),
        ],
    );
    let labelled = "package docker\ndefault allow := false\nallow if not input.image\n\
                    allow if input.image.labels.team == \"ours\"\ndecision := {\"allow\": allow}\n";
    let dir = with_policy("FROM team/base:1\nCOPY Dockerfile /x\n", labelled);
    succeeded(&build(&home, dir.path(), &[]));
    std::fs::write(dir.path().join("Dockerfile"), "FROM busybox\n").unwrap();
    let denied = build(&home, dir.path(), &[]);
    assert_eq!(denied.status.code(), Some(4), "{}", stderr(&denied));

    let pins = "package docker\nallow if not input.image\nallow if pin_image(input.image, load_json(\"pins.json\")[input.image.repo])\n\
                decision := {\"allow\": allow}\n";
    let pinned = with_policy("FROM team/base:1\nCOPY Dockerfile /x\n", pins);
    let write = |digest: &str| {
        let text = format!("{{\"team/base\": {digest:?}}}");
        std::fs::write(pinned.path().join("pins.json"), text).unwrap();
    };
    write(digest.trim());
    succeeded(&build(&home, pinned.path(), &[]));
    write(&format!("sha256:{}", "0".repeat(64)));
    let missing = build(&home, pinned.path(), &[]);
    let text = stderr(&missing);
    assert_eq!(missing.status.code(), Some(3), "{text}");
    assert!(text.contains("sha256:0000"), "{text}");
}

#[test]
fn the_metadata_file_has_what_docker_buildx_writes() {
    let home = Home::new("");
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        dir.path().join("Dockerfile"),
        "FROM scratch\nMAINTAINER me\nCOPY Dockerfile /\n",
    )
    .unwrap();
    let file = home.dir.path().join("metadata.json");
    let metadata = |variables: &[(&str, &str)], flags: &[&str]| -> serde_json::Value {
        let mut build = home.build();
        build.args(["--progress=quiet", "-t", "me/app:1", "--metadata-file"]);
        build.arg(&file).args(flags).arg(dir.path());
        build.envs(variables.iter().copied());
        succeeded(&run(&mut build));
        serde_json::from_slice(&std::fs::read(&file).expect("the file")).expect("JSON")
    };
    let plain = metadata(&[], &[]);
    let id = plain["buildx.build.ref"].as_str().expect("its name");
    assert!(id.starts_with("gateway/gateway/") && id.len() > 30, "{id}");
    assert!(
        plain["containerimage.descriptor"]["digest"].is_string(),
        "{plain}"
    );
    assert!(plain.get("buildx.build.warnings").is_none(), "{plain}");
    // Recorded, and not attested: the image is the same.
    let recorded = &plain["buildx.build.provenance"];
    assert!(recorded["buildType"].is_string(), "{plain}");
    let mediatype = &plain["containerimage.descriptor"]["mediaType"];
    assert!(
        mediatype
            .as_str()
            .is_some_and(|kind| kind.contains("manifest")),
        "{plain}"
    );

    let warned = metadata(
        &[("BUILDX_METADATA_WARNINGS", "true")],
        &["--provenance=mode=min"],
    );
    let warning = &warned["buildx.build.warnings"][0];
    assert_eq!(warning["range"][0]["start"]["line"], 2, "{warned}");
    assert!(
        warning["url"]
            .as_str()
            .is_some_and(|url| url.contains("maintainer")),
        "{warned}"
    );
    let provenance = &warned["buildx.build.provenance"];
    assert_eq!(
        provenance["buildType"],
        "https://mobyproject.org/buildkit@v1"
    );
    assert!(provenance["invocation"]["environment"]["platform"].is_string());
    assert!(provenance.get("metadata").is_none(), "{provenance}");
    let all = metadata(
        &[("BUILDX_METADATA_PROVENANCE", "max")],
        &["--provenance=mode=min"],
    );
    assert!(
        all["buildx.build.provenance"]["metadata"]["buildStartedOn"].is_string(),
        "{all}"
    );
    let none = metadata(
        &[("BUILDX_METADATA_PROVENANCE", "disabled")],
        &["--provenance=mode=min"],
    );
    assert!(none.get("buildx.build.provenance").is_none(), "{none}");
}
