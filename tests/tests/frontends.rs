//! What a frontend image is given and may ask, through real `# syntax` lines: where its image comes
//! from, what it is told of its build file, what the host knows of sources. The raw frontend says on
//! stderr what it saw.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use gateway_tests::base_images::{Layout, Tar};
use gateway_tests::git::{GitDaemon, git};
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::raw_frontend::{self, RAW};
use gateway_tests::registry::Registry;
use gateway_tests::web::{Page, Web};
use serde_json::json;

/// Builds a folder with this build file; all that was shown, and whether it succeeded.
fn build(home: &Home, dockerfile: &str, args: &[&str]) -> (bool, String) {
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(context.path().join("Dockerfile"), dockerfile).expect("the build file");
    let output = run(home
        .build()
        .args(["--progress=plain", "--output", "type=oci,dest=/dev/null"])
        .args(args)
        .arg(context.path()));
    (output.status.success(), stderr(&output))
}

fn built(home: &Home, dockerfile: &str, args: &[&str]) -> String {
    let (built, text) = build(home, dockerfile, args);
    assert!(built, "{args:?}:\n{text}");
    text
}

fn failed(home: &Home, dockerfile: &str, args: &[&str]) -> String {
    let (built, text) = build(home, dockerfile, args);
    assert!(!built, "{args:?}:\n{text}");
    text
}

fn contains(text: &str, wanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

const ECHO: &str = "--build-arg=MODE=echo";
const META: &str = "--build-arg=MODE=meta";

fn file() -> String {
    format!("# syntax = {RAW}\nFROM nothing\n")
}

fn config(release: &str) -> serde_json::Value {
    json!({
        "Entrypoint": ["/frontend"],
        "Labels": {"moby.buildkit.frontend.network.none": "true"},
        "Env": [format!("RELEASE={release}")],
    })
}

#[test]
fn p04_the_build_argument_beats_the_file_and_its_failure_says_so() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let other = "# syntax = docker/none:7\nFROM nothing\n";
    let syntax = format!("--build-arg=BUILDKIT_SYNTAX={RAW} and more");
    let text = built(&home, other, &[ECHO, &syntax]);
    let told = format!("source=Some(\"{RAW}\") cmdline=Some(\"{RAW} and more\")");
    contains(&text, &[&told]);
    let missing = ["--build-arg=BUILDKIT_SYNTAX=docker/none:8 x"];
    let text = failed(&home, &file(), &missing);
    contains(
        &text,
        &[
            "failed with build-arg:BUILDKIT_SYNTAX = docker/none:8 x: ",
            "docker.io/docker/none:8: not found",
        ],
    );
    assert!(!text.contains(">>>"), "{text}");
}

#[test]
fn p03_p06_p08_the_frontend_reads_the_file_as_it_is_and_its_own_line() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let file = format!("# syntax = {RAW} some words=x\r\n# escape=`\nFROM nothing\n");
    let text = built(&home, &file, &[ECHO]);
    let told = format!("source=Some(\"{RAW}\") cmdline=Some(\"{RAW} some words=x\")");
    contains(&text, &[&format!("the file is {file:?}"), &told]);
    // It ran once: what was forwarded is not forwarded again.
    assert_eq!(text.matches("the file is").count(), 1, "{text}");
}

#[test]
fn p15_a_tag_is_resolved_anew_for_the_host_and_pinned_by_digest() {
    let registry = Registry::start();
    let home = Home::new(&registry.as_docker_hub());
    let mut pinned = Vec::new();
    for release in ["one", "two"] {
        raw_frontend::push_as(&registry, RAW, config(release));
        let text = built(&home, &file(), &[ECHO, "--platform=linux/arm64"]);
        let told = format!("release=\"{release}\"");
        let resolved = format!("resolve image config for docker-image://docker.io/{RAW}");
        contains(&text, &[&told, &resolved]);
        let pin = format!("docker-image://docker.io/{RAW}@sha256:");
        let line = text.lines().find(|line| line.contains(&pin));
        pinned.push(
            line.unwrap_or_else(|| panic!("{pin} is not in:\n{text}"))
                .to_owned(),
        );
    }
    assert_ne!(pinned[0], pinned[1]);
    raw_frontend::push_index(&registry, RAW);
    let text = built(&home, &file(), &[ECHO, "--platform=linux/arm64"]);
    contains(&text, &["release=\"of the host\""]);
}

#[test]
fn p16_named_contexts_of_every_form_stand_for_the_frontends_image() {
    // The registry does not hold what the line names.
    let registry = Registry::start();
    raw_frontend::push_as(&registry, "other/name:2", config("other image"));
    let home = Home::new(&registry.as_docker_hub());
    let layout = home.dir.path().join("layout");
    raw_frontend::write_layout(&layout, "x", config("of a layout"));
    let with = |value: &str| format!("--build-context={RAW}={value}");
    for (value, wanted) in [
        (
            "docker-image://other/name:2".to_owned(),
            "release=\"other image\"",
        ),
        (
            format!("oci-layout://{}:x", layout.display()),
            "release=\"of a layout\"",
        ),
    ] {
        let text = built(&home, &file(), &[ECHO, &with(&value)]);
        contains(&text, &[wanted, "the file is"]);
    }
    // Files without a config are run as /run.
    let program = raw_frontend::program();
    let dir = home.dir.path().join("program");
    std::fs::create_dir(&dir).expect("a folder");
    std::fs::copy(program, dir.join("run")).expect("copying the program");
    let daemon = GitDaemon::start();
    let repository = daemon.repository("frontend", &[("README", "a frontend\n")]);
    std::fs::create_dir(repository.join("sub")).expect("a folder");
    std::fs::copy(program, repository.join("sub/run")).expect("copying the program");
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "--quiet", "-m", "the program"]);
    let web = Web::start();
    let page = |body| Page {
        body,
        ..Page::default()
    };
    let bytes = std::fs::read(program).expect("the program");
    let archive = gateway_tests::base_images::Tar::default()
        .file("run", &bytes, (0o755, 0, 0))
        .bytes();
    web.put("/frontend.tar", page(archive));
    web.put("/frontend", page(bytes));
    for value in [
        dir.display().to_string(),
        format!("{}#main:sub", daemon.url("frontend")),
        web.url("/frontend.tar"),
        web.url("/frontend"),
    ] {
        let text = built(&home, &file(), &[ECHO, &with(&value)]);
        contains(&text, &["release=\"\"", "the file is"]);
    }
    // A context for the host's platform is nearer than one for all.
    let host = format!(
        "--opt=context:{RAW}::linux/{}=docker-image://docker.io/other/name:2",
        "amd64"
    );
    let text = built(
        &home,
        &file(),
        &[ECHO, &with("docker-image://docker/none:1"), &host],
    );
    contains(&text, &["release=\"other image\""]);
    let text = failed(&home, &file(), &[&with("docker-image://docker/none:1")]);
    contains(&text, &["docker/none:1", ">>> # syntax = "]);
}

/// What follows `key=` in what the frontend said.
fn told<'a>(text: &'a str, key: &str) -> &'a str {
    let mut lines = text.lines();
    let found = lines.find_map(|line| Some(line.split_once(&format!(" {key}="))?.1));
    found.unwrap_or_else(|| panic!("{key}= is not in:\n{text}"))
}

#[test]
fn p36_both_calls_tell_the_same_digest_of_an_image() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    raw_frontend::push_index(&registry, "test/index:1");
    let home = Home::new(&registry.as_docker_hub());
    let ask = |source: &str, args: &[&str]| {
        let source = format!("--build-arg=SOURCE=docker-image://{source}");
        built(&home, &file(), &[&[META, &source], args].concat())
    };
    let mut digests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let arg = format!("--build-arg=ARCHITECTURE={architecture}");
        let single = ask("test/raw:1", &[&arg]);
        // One manifest is taken whatever platform is asked for.
        contains(told(&single, "config"), &["\"architecture\":\"amd64\""]);
        let index = ask("docker.io/test/index:1", &[&arg]);
        let wanted = format!("\"architecture\":\"{architecture}\"");
        contains(told(&index, "config"), &[&wanted]);
        for (text, name) in [(&single, "raw"), (&index, "index")] {
            let (digest, reference) = told(text, "config digest")
                .split_once(" ref=")
                .expect("a reference");
            assert_eq!(told(text, "image.1"), format!("{digest:?}"), "{text}");
            assert_eq!(reference, format!("docker.io/test/{name}:1"));
            let source = format!("docker-image://docker.io/test/{name}:1");
            assert_eq!(told(text, "source"), source);
            digests.push(digest.to_owned());
        }
    }
    // The digest is that of what the tag names, not of the platform's part of it.
    assert_eq!(digests[0], digests[2]);
    assert_eq!(digests[1], digests[3]);
}

/// A layout whose image has an attestation, and the signature of that as what refers to it.
fn signed(dir: &std::path::Path) -> (Vec<String>, String) {
    let digest = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        digest.to_owned()
    };
    let mut layout = Layout::create(dir).expect("a layout");
    let blob = |value: serde_json::Value, kind: &str| {
        let blob = layout.blob(value.to_string().as_bytes(), kind);
        blob.expect("a blob")
    };
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const IN_TOTO: &str = "application/vnd.in-toto+json";
    const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let mut image = layout
        .image(
            &[Tar::default().file("f", b"x", (0o644, 0, 0)).bytes()],
            json!({}),
            "amd64",
        )
        .expect("an image");
    image["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let said = |predicate: &str| {
        let mut statement = blob(json!({"predicateType": predicate}), IN_TOTO);
        statement["annotations"] = json!({"in-toto.io/predicate-type": predicate});
        statement
    };
    let wanted = said("https://slsa.dev/provenance/v1");
    let config = blob(json!({}), "application/vnd.oci.image.config.v1+json");
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
        "layers": [said("https://spdx.dev/Document"), wanted]});
    let mut attestation = blob(manifest, MANIFEST);
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image["digest"],
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [image.clone(), attestation.clone()]});
    let index = blob(index, INDEX);
    let bundle = blob(json!({"signature": "as if"}), BUNDLE);
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE,
        "config": config, "layers": [bundle.clone()], "subject": attestation});
    let mut signature = blob(manifest, MANIFEST);
    signature["artifactType"] = json!(BUNDLE);
    let referrers =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [signature.clone()]});
    let referrers = blob(referrers, INDEX);
    let parts = [&index, &image, &attestation, &signature, &bundle, &wanted].map(digest);
    layout.name(index, "signed");
    layout.name(referrers, "referrers");
    layout.close().expect("a layout");
    let tag = parts[2].replace(':', "-");
    (parts.into(), tag)
}

#[test]
fn p37_what_vouches_for_an_image_is_told_with_the_attestations_asked_for() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (parts, tag) = signed(dir.path());
    registry.push_layout(dir.path(), "signed", "test/signed:1");
    let home = Home::new(&registry.as_docker_hub());
    // skopeo of that age leaves the types of artifacts out.
    let pushed = run(Home::new(&registry.table())
        .command(&["copy"])
        .arg(format!("oci:{}:referrers", dir.path().display()))
        .arg(format!("{}/test/signed:{tag}", registry.address)));
    assert!(pushed.status.success(), "{}", stderr(&pushed));
    let ask = |source: &str| {
        let source = format!("--build-arg=SOURCE=docker-image://{source}");
        let predicate = "--build-arg=PREDICATE=https://slsa.dev/provenance/v1";
        built(&home, &file(), &[META, &source, predicate])
    };
    let text = ask("test/signed:1");
    for (number, part) in parts.iter().take(4).enumerate() {
        assert_eq!(told(&text, &format!("chain.{}", number + 1)), part);
    }
    assert_eq!(told(&text, "image.1"), format!("{:?}", parts[0]));
    let blobs: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once("chain blob ")?.1.split_once(' '))
        .map(|(digest, rest)| {
            assert!(rest.ends_with(" right=true"), "{rest}");
            digest
        })
        .collect();
    // The image's own manifest proves nothing.
    let mut expected: Vec<&str> = parts.iter().map(String::as_str).collect();
    expected.remove(1);
    expected.sort_unstable();
    assert_eq!(blobs, expected, "{text}");
    let plain = ask("test/raw:1");
    assert_eq!(told(&plain, "chain.1"), "", "{plain}");
}

#[test]
fn a_blob_of_a_registry_or_a_layout_is_a_file() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (parts, _) = signed(dir.path());
    registry.push_layout(dir.path(), "signed", "test/signed:1");
    let home = Home::new(&registry.as_docker_hub());
    let (blob, hex) = (&parts[5], parts[5].trim_start_matches("sha256:"));
    let content = std::fs::read(dir.path().join("blobs/sha256").join(hex)).expect("the blob");
    let layout = format!(
        "--build-context=store=oci-layout://{}:signed",
        dir.path().display()
    );
    let make = |source: &str, attrs: &str, out: &str| {
        let out = home.dir.path().join(out);
        let context = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(context.path().join("Dockerfile"), file()).expect("the build file");
        let output = run(home
            .build()
            .args(["--progress=plain", "--build-arg=MODE=source", &layout])
            .arg(format!("--build-arg=SOURCE={source}"))
            .arg(format!("--build-arg=ATTRS={attrs}"))
            .arg(format!("--output=type=local,dest={}", out.display()))
            .arg(context.path()));
        (output.status.success(), stderr(&output), out)
    };
    let of_registry = format!("docker-image+blob://docker.io/test/signed@{blob}");
    let (ended, text, out) = make(&of_registry, "", "one");
    assert!(ended, "{text}");
    let found = out.join(hex);
    assert_eq!(std::fs::read(&found).expect("the file"), content);
    let metadata = std::fs::metadata(&found).expect("the file");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert_eq!(metadata.mtime(), 0);

    // The same blob, named otherwise, needs no registry any more; then nothing at all.
    let other = "http.filename=dir/statement.json,http.perm=0644";
    let (ended, text, out) = make(&of_registry, other, "two");
    assert!(ended, "{text}");
    let found = out.join("statement.json");
    assert_eq!(std::fs::read(&found).expect("the file"), content);
    let metadata = std::fs::metadata(&found).expect("the file");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o644);
    let (ended, text, _) = make(&of_registry, other, "two-again");
    assert!(ended && text.contains("CACHED"), "{text}");

    let of_layout = format!("oci-layout+blob://any@{}", parts[4]);
    let (ended, text, out) = make(&of_layout, "oci.store=STORE", "three");
    assert!(ended, "{text}");
    let hex = parts[4].trim_start_matches("sha256:");
    assert!(out.join(hex).is_file(), "{text}");

    let missing = format!(
        "docker-image+blob://docker.io/test/signed@sha256:{}",
        "0".repeat(64)
    );
    for (source, attrs, why) in [
        (missing.as_str(), "", "404 Not Found"),
        (
            &missing.replace("docker-image", "oci-layout"),
            "",
            "requires store id",
        ),
        (
            &missing.replace("docker-image", "oci-layout"),
            "oci.store=STORE",
            "0000",
        ),
        (
            "docker-image+blob://docker.io/test/signed:1",
            "",
            "names no digest",
        ),
    ] {
        let (ended, text, _) = make(source, attrs, "failed");
        assert!(!ended && text.contains(why), "{source}: {text}");
    }
}

#[test]
fn p37_git_http_and_local_sources_tell_what_is_known_of_them() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let ask = |source: &str, args: &[&str]| {
        let source = format!("--build-arg=SOURCE={source}");
        built(&home, &file(), &[&[META, &source], args].concat())
    };

    let daemon = GitDaemon::start();
    let dir = daemon.repository("r", &[("a", "a")]);
    git(&dir, &["tag", "-a", "-m", "a tag", "v1"]);
    let commit = git(&dir, &["rev-parse", "HEAD"]);
    let tag = git(&dir, &["rev-parse", "v1"]);
    let url = daemon.url("r");
    let full = format!("--build-arg=GITURL={url}");
    let text = ask(&url, &[&full]);
    assert_eq!(told(&text, "git.1"), format!("{commit:?}"));
    assert_eq!(told(&text, "git.2"), "\"refs/heads/main\"");
    let text = ask(&format!("{url}#v1"), &[&full]);
    assert_eq!(told(&text, "git.1"), format!("{tag:?}"));
    assert_eq!(told(&text, "git.2"), "\"refs/tags/v1\"");
    assert_eq!(told(&text, "git.3"), format!("{commit:?}"));
    let object = |kind: &str, name: &str| {
        // The bytes, with the end of the line that the helper takes away.
        let text = git(&dir, &["cat-file", kind, name]);
        format!("{:?}", format!("{text}\n"))
    };
    assert_eq!(told(&text, "git.4"), object("commit", &commit));
    assert_eq!(told(&text, "git.5"), object("tag", &tag));

    let web = Web::start();
    web.put(
        "/dir/file.txt",
        Page {
            body: b"hello".to_vec(),
            ..Page::default()
        },
    );
    let text = ask(&web.url("/dir/file.txt"), &["--build-arg=SUFFIX=!"]);
    // By Debian's sha256sum and sha512sum of `hello` and `hello!`.
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let sha512 = "c6f81db0e9f8206c971c9e5826e3ba823ffbb1a3a900f8047652a8bf78ea98fdfc745855a3853a635675458eb6d1aaf1209e88ead2d192382b5c4cbdd6850e02";
    assert_eq!(told(&text, "http.1"), format!("\"sha256:{sha256}\""));
    assert_eq!(told(&text, "http.2"), "\"file.txt\"");
    assert_eq!(told(&text, "http.4"), format!("\"sha512:{sha512}\""));
    assert_eq!(told(&text, "source"), web.url("/dir/file.txt"));

    let text = ask("local://context", &[]);
    assert_eq!(told(&text, "source"), "local://context");
    for part in ["image.1", "git.1", "http.1"] {
        assert!(!text.contains(&format!(" {part}=")), "{text}");
    }
    // The frontend gives up when it is told nothing.
    failed(&home, &file(), &[META, "--build-arg=SOURCE=nope://x"]);
}

#[test]
fn a_frontend_that_falls_silent_is_ended_and_one_that_waits_is_not() {
    let registry = Registry::with_base_images();
    raw_frontend::push(&registry);
    let home = Home::new(&format!(
        "{}\n[frontend.\"gateway.v0\"]\nidleTimeout = 2\n",
        registry.as_docker_hub()
    ));
    let text = failed(&home, &file(), &["--build-arg=MODE=silent-later"]);
    contains(
        &text,
        &[
            "frontend test/raw:1: it was silent for 2 seconds",
            "idleTimeout of frontend.\"gateway.v0\"",
            ">>> # syntax = ",
        ],
    );
    // Its one request takes longer than that.
    built(&home, &file(), &["--build-arg=MODE=slow-step"]);
}

#[test]
fn a_directory_that_is_no_repository_is_refused_as_a_frontend() {
    let home = Home::new("");
    let missing = home.dir.path().join("none");
    let value = format!("--build-context={RAW}=git://127.0.0.1:1/none#main:../up");
    assert!(!missing.exists());
    let text = failed(&home, &file(), &[&value]);
    contains(
        &text,
        &["lies outside of the repository", ">>> # syntax = "],
    );
}
