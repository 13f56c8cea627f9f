//! Source policies: what they forbid is not used, what they convert is replaced, and one that is
//! not understood stops the build.

use std::path::{Path, PathBuf};

use gateway_tests::image::{images, read_archive};
use gateway_tests::program::{Home, run, stderr, tool};
use gateway_tests::raw_frontend::{self, RAW};
use gateway_tests::registry::Registry;
use gateway_tests::web::{Page, Web};

/// A context with this build file, and a policy beside it.
struct Trial {
    dir: tempfile::TempDir,
}

impl Trial {
    fn new(dockerfile: &str, policy: &str) -> Trial {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("context")).expect("making the context");
        let trial = Trial { dir };
        std::fs::write(trial.context().join("Dockerfile"), dockerfile).expect("writing");
        std::fs::write(trial.policy(), policy).expect("writing");
        trial
    }

    fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    fn policy(&self) -> PathBuf {
        self.dir.path().join("policy.json")
    }

    fn archive(&self) -> PathBuf {
        self.dir.path().join("out.tar")
    }

    fn build(&self, home: &Home) -> std::process::Output {
        run(home
            .build()
            .arg("--source-policy")
            .arg(self.policy())
            .arg("--output")
            .arg(format!("type=oci,dest={}", self.archive().display()))
            .arg(self.context()))
    }

    /// The text of a file of the image.
    fn file(&self, home: &Home, path: &str) -> String {
        let output = self.build(home);
        assert!(output.status.success(), "{}", stderr(&output));
        let image = images(&read_archive(&self.archive())).remove(0);
        String::from_utf8_lossy(&image.files[path].data).into_owned()
    }

    /// Refused by the policy.
    fn fails(&self, home: &Home, wanted: &[&str]) {
        self.fails_with(4, home, wanted);
    }

    fn fails_with(&self, code: i32, home: &Home, wanted: &[&str]) {
        let output = self.build(home);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        for wanted in wanted {
            assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
        }
        assert!(!Path::new(&self.archive()).exists());
    }
}

fn deny(identifier: &str) -> String {
    format!(r#"{{"rules": [{{"action": "DENY", "selector": {{"identifier": "{identifier}"}}}}]}}"#)
}

fn convert(from: &str, to: &str) -> String {
    format!(
        r#"{{"rules": [{{"action": "CONVERT", "selector": {{"identifier": "{from}"}}, "updates": {{"identifier": "{to}"}}}}]}}"#
    )
}

#[test]
fn a_denied_base_image_stops_the_build_at_its_line() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let trial = Trial::new(
        "FROM busybox AS one\nFROM alpine\nCOPY --from=one /bin/busybox /x\n",
        &deny("docker-image://docker.io/library/alpine:*"),
    );
    trial.fails(
        &home,
        &[
            "   2 | >>> FROM alpine\n",
            "could not resolve image due to policy: source \"docker-image://docker.io/library/alpine:latest\" denied by policy: source denied by policy",
            "rule 1 of ",
            "policy.json denies it: DENY docker-image://docker.io/library/alpine:*",
        ],
    );
    std::fs::write(
        trial.policy(),
        deny("docker-image://docker.io/library/debian:*"),
    )
    .expect("writing");
    trial.file(&home, "etc/os-release");
}

#[test]
fn a_source_that_no_metadata_was_asked_of_is_denied_as_well() {
    let home = Home::new("");
    let trial = Trial::new(
        "FROM scratch\nADD https://127.0.0.1:1/file /\n",
        &deny("https://127.0.0.1:1/*"),
    );
    trial.fails(
        &home,
        &[
            "   2 | >>> ADD https://127.0.0.1:1/file /\n",
            "failed to load LLB: error evaluating the source policy: source \"https://127.0.0.1:1/file\" denied by policy",
        ],
    );
    let trial = Trial::new("FROM scratch\nCOPY Dockerfile /\n", &deny("local://*"));
    trial.fails(&home, &["source \"local://", "denied by policy"]);
}

#[test]
fn a_tag_is_converted_to_a_digest_and_to_another_image() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let name = format!("docker://{}/library/busybox:latest", registry.address);
    let certificates = registry.certificate_dir();
    let digest = tool(
        "skopeo",
        &[
            "--insecure-policy".to_owned(),
            "inspect".to_owned(),
            format!("--cert-dir={}", certificates.display()),
            "--format={{.Digest}}".to_owned(),
            name,
        ],
    );
    let dockerfile = "FROM alpine\nRUN . /etc/os-release && echo from $ID > /base\n";
    let pinned = format!("docker-image://docker.io/library/busybox@{}", digest.trim());
    for to in [&pinned, "docker-image://docker.io/library/busybox:${1}"] {
        let trial = Trial::new(
            dockerfile,
            &convert("docker-image://docker.io/library/alpine:*", to),
        );
        assert_eq!(trial.file(&home, "base"), "from busybox\n", "{to}");
    }
    // Without a policy the same build is another.
    let trial = Trial::new(dockerfile, "{}");
    assert_eq!(trial.file(&home, "base"), "from alpine\n");
    // An image that is not there under its own name.
    let trial = Trial::new(
        "FROM nowhere.example/gone:1\n",
        &convert("docker-image://nowhere.example/*:1", &pinned),
    );
    assert!(trial.file(&home, "etc/os-release").contains("busybox"));
}

#[test]
fn a_file_of_the_web_is_held_to_the_checksum_of_the_policy() {
    let home = Home::new("");
    let server = Web::start();
    let page = Page {
        body: b"content".to_vec(),
        ..Page::default()
    };
    server.put("/file", page);
    let trial = Trial::new(
        &format!("FROM scratch\nADD {} /\n", server.url("/file")),
        &format!(
            r#"{{"rules": [{{"action": "CONVERT", "selector": {{"identifier": "{0}"}},
                "updates": {{"attrs": {{"http.checksum": "sha256:{1:064}"}}}}}}]}}"#,
            server.url("/file"),
            0
        ),
    );
    trial.fails_with(1, &home, &["digest mismatch"]);
}

#[test]
fn the_frontend_image_of_a_syntax_line_is_judged_too() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let dockerfile = format!("# syntax = {RAW}\nanything\n");
    let trial = Trial::new(&dockerfile, &deny("docker-image://docker.io/test/*"));
    std::fs::write(trial.context().join("hello.txt"), "hello\n").expect("writing");
    trial.fails(
        &home,
        &[
            "   1 | >>> # syntax = test/raw:1\n",
            "source \"docker-image://docker.io/test/raw:1\" denied by policy",
        ],
    );
    // What its own sources are is judged in the same way.
    std::fs::write(trial.policy(), deny("local://context")).expect("writing");
    trial.fails(&home, &["source \"local://context\" denied by policy"]);
    // Another frontend in its place.
    let dockerfile = "# syntax = corporate.example/frontend:1\nanything\n";
    let trial = Trial::new(
        dockerfile,
        &convert(
            "docker-image://corporate.example/frontend:*",
            "docker-image://docker.io/test/raw:${1}",
        ),
    );
    std::fs::write(trial.context().join("hello.txt"), "hello\n").expect("writing");
    assert_eq!(trial.file(&home, "hello.txt"), "hello\n");
}

#[test]
fn a_configuration_of_frontends_that_is_not_understood_stops_the_build() {
    let home =
        Home::new("[frontend.\"gateway.v0\"]\nallowedRepository = [\"docker/dockerfile\"]\n");
    let trial = Trial::new("FROM scratch\nCOPY Dockerfile /\n", "{}");
    let output = trial.build(&home);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(text.contains("unknown key allowedRepository"), "{text}");
    assert!(!home.store().exists());
}

#[test]
fn a_policy_that_is_not_understood_stops_the_build() {
    let home = Home::new("");
    let trial = Trial::new(
        "FROM scratch\nCOPY Dockerfile /\n",
        r#"{"rules": [{"action": "DENNY"}]}"#,
    );
    let by_flag = trial.build(&home);
    let by_variable = run(home
        .build()
        .env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", trial.policy())
        .arg(trial.context()));
    for output in [by_flag, by_variable] {
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("rule 1"), "{text}");
        assert!(
            text.contains(&trial.policy().display().to_string()),
            "{text}"
        );
    }
    assert!(!home.store().exists());
}
