//! Policies asked as a build asks them.

use gateway_api::{GitMeta, HttpMeta, ImageMeta};

use super::*;

const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

fn policy(text: &str) -> Result<Policy, UsageError> {
    policy_in(text, Files { context: None })
}

fn policy_in(text: &str, files: Files) -> Result<Policy, UsageError> {
    let module = Module {
        name: "Dockerfile.rego".into(),
        text: text.into(),
    };
    let env = serde_json::json!({"depth": 0, "args": {"A": "1"}, "filename": "Dockerfile"});
    Policy::new(vec![module], files, env, Level::Debug)
}

fn source(identifier: &str) -> SourceMeta {
    SourceMeta {
        source: pb::SourceOp {
            identifier: identifier.into(),
            ..pb::SourceOp::default()
        },
        ..SourceMeta::default()
    }
}

fn platform() -> pb::Platform {
    pb::Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        ..pb::Platform::default()
    }
}

fn asked(policy: &Policy, source: &SourceMeta) -> Verdict {
    let shown = policy.verdict(source, &platform());
    shown.verdict.unwrap_or_else(|error| panic!("{error:?}"))
}

#[test]
fn a_policy_allows_and_denies_with_reasons() {
    let policy = policy(
        r#"
package docker

default allow := false

allow if input.local
allow if {
    input.image.repo == "alpine"
    input.image.host == "docker.io"
    input.image.fullRepo == "docker.io/library/alpine"
    input.image.tag == "3"
    input.image.platform == "linux/amd64"
    input.env.args.A == "1"
}
allow if {
    input.http.schema == "https"
    input.http.host == "files.example"
    startswith(input.http.path, "/releases/")
    input.http.query.v == ["1"]
}
allow if input.git.host == "git.example"

deny_msg contains msg if {
    not allow
    msg := sprintf("use alpine:3, not %s", [input.image.ref])
}

decision := {"allow": allow, "deny_msg": deny_msg}
"#,
    )
    .unwrap();
    for (identifier, allowed) in [
        ("docker-image://docker.io/library/alpine:3", true),
        ("docker-image://registry.example/library/alpine:3", false),
        ("local://context", true),
        ("https://files.example/releases/a%20b?v=1", true),
        ("http://files.example/releases/a?v=1", false),
        ("git://git.example/me/app.git#main", true),
        ("git://elsewhere.example/me/app.git", false),
    ] {
        let verdict = asked(&policy, &source(identifier));
        assert_eq!(
            verdict == Verdict::Allow,
            allowed,
            "{identifier}: {verdict:?}"
        );
    }
    let denied = asked(
        &policy,
        &source("docker-image://docker.io/library/busybox:1"),
    );
    let reason = "use alpine:3, not docker.io/library/busybox:1".to_owned();
    assert_eq!(denied, Verdict::Deny(vec![reason]));
}

#[test]
fn the_default_policy_takes_no_tag_that_should_be_signed() {
    let policy = options::default(serde_json::json!({})).unwrap();
    let dockerfile = "docker.io/docker/dockerfile";
    for (name, allowed) in [
        (format!("{dockerfile}:1"), false),
        (format!("{dockerfile}:1.21"), false),
        (format!("{dockerfile}:1.30.2-labs"), false),
        (format!("{dockerfile}:2"), false),
        (format!("{dockerfile}:latest"), false),
        ("docker.io/docker/dockerfile-upstream:master".into(), false),
        ("docker.io/docker/buildkit-syft-scanner:1".into(), false),
        (
            "docker.io/docker/buildkit-syft-scanner:1.10.0".into(),
            false,
        ),
        ("docker.io/moby/buildkit:v0.27.0-rootless".into(), false),
        ("docker.io/moby/buildkit:buildx-stable-1".into(), false),
        (format!("{dockerfile}:1.20"), true),
        (format!("{dockerfile}:1.4.0"), true),
        (format!("{dockerfile}:mine"), true),
        (format!("{dockerfile}:1@{DIGEST}"), true),
        ("docker.io/docker/buildkit-syft-scanner:1.9".into(), true),
        ("docker.io/moby/buildkit:v0.26.3".into(), true),
        ("docker.io/moby/buildkit:master-cache".into(), true),
        ("docker.io/library/alpine:latest".into(), true),
        ("registry.example/docker/dockerfile:1".into(), true),
    ] {
        let verdict = asked(&policy, &source(&format!("docker-image://{name}")));
        match verdict {
            Verdict::Allow => assert!(allowed, "{name}"),
            Verdict::Deny(reasons) => {
                assert!(!allowed, "{name}");
                let reason = format!("image {name} is not allowed by default policy");
                assert!(reasons[0].starts_with(&reason), "{reasons:?}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    for other in [
        "local://context",
        "git://git.example/me/app.git",
        "https://f.example/x",
    ] {
        assert_eq!(asked(&policy, &source(other)), Verdict::Allow, "{other}");
    }
}

#[test]
fn what_a_policy_names_is_found_out_before_it_is_asked() {
    let policy = policy(
        "package docker\ndecision := {\"allow\": allow}\ndefault allow := false\n\
         allow if input.image.labels.team == \"ours\"\nallow if input.git.commit.author.email == \"me@example\"\n\
         allow if startswith(input.http.checksum, \"sha256:1\")\n",
    )
    .unwrap();
    let mut image = source("docker-image://docker.io/library/alpine:3");
    let Verdict::Ask(request) = asked(&policy, &image) else {
        panic!("it has not been told of labels");
    };
    assert_eq!(request.source, image.source);
    assert_eq!(request.platform, Some(platform()));
    assert!(!request.image.as_ref().unwrap().attestation_chain);
    for (team, allowed) in [("ours", true), ("theirs", false)] {
        image.image = Some(ImageMeta {
            digest: DIGEST.into(),
            config: format!(r#"{{"config":{{"Labels":{{"team":"{team}"}}}}}}"#).into_bytes(),
            attestation_chain: None,
        });
        assert_eq!(asked(&policy, &image) == Verdict::Allow, allowed, "{team}");
    }

    let mut git = source("git://git.example/a.git#main");
    let Verdict::Ask(request) = asked(&policy, &git) else {
        panic!("it has not been told of commits");
    };
    assert!(request.git_return_object);
    git.git = Some(GitMeta {
        checksum: "a".repeat(40),
        commit_object: b"tree b\nauthor Me <me@example> 0 +0000\ncommitter Me <m> 0 +0000\n\nx\n"
            .to_vec(),
        ..GitMeta::default()
    });
    assert_eq!(asked(&policy, &git), Verdict::Allow);

    let mut http = source("https://h/f");
    assert!(matches!(asked(&policy, &http), Verdict::Ask(_)));
    http.http = Some(HttpMeta {
        checksum: DIGEST.into(),
        ..HttpMeta::default()
    });
    assert_eq!(asked(&policy, &http), Verdict::Allow);
    // Nothing of a directory is unknown.
    assert_eq!(
        asked(&policy, &source("local://context")),
        Verdict::Deny(vec![])
    );
}

#[test]
fn images_are_pinned_to_digests_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("pins.json"),
        format!(r#"{{"alpine": "{DIGEST}"}}"#),
    )
    .unwrap();
    let files = Files {
        context: Some(dir.path().to_owned()),
    };
    let policy = policy_in(
        "package docker\npins := load_json(\"pins.json\")\ndefault allow := false\n\
         allow if pin_image(input.image, pins[input.image.repo])\ndecision := {\"allow\": allow}\n",
        files,
    )
    .unwrap();
    let with_config = |identifier: &str| SourceMeta {
        image: Some(ImageMeta {
            digest: format!("sha256:{}", "2".repeat(64)),
            ..ImageMeta::default()
        }),
        ..source(identifier)
    };
    let image = with_config("docker-image://docker.io/library/alpine:3");
    match asked(&policy, &image) {
        Verdict::Convert(source) => assert_eq!(
            source.identifier,
            format!("docker-image://docker.io/library/alpine:3@{DIGEST}")
        ),
        other => panic!("{other:?}"),
    }
    let other = with_config("docker-image://docker.io/library/busybox:1");
    assert_eq!(asked(&policy, &other), Verdict::Deny(vec![]));
}

#[test]
fn a_policy_that_is_not_understood_is_refused() {
    for (text, part) in [
        ("package docker\ndecision := {", "Dockerfile.rego:2"),
        ("package docker\nallow := true\n", "no rule \"decision\""),
        (
            "package docker\ndecision := {\"allow\": true} if input.never\n",
            "zero result",
        ),
        ("package docker\ndecision := 7\n", "is no object"),
        (
            "package docker\ndecision := {\"allow\": \"yes\"}\n",
            "no boolean",
        ),
        (
            "package docker\ndecision := {\"allow\": true, \"caps\": {\"exec.proxy\": input.env.capsRequest}}\n",
            "exec.proxy",
        ),
        (
            "package docker\nallow if some s in input.image.signatures\ndecision := {\"allow\": allow}\n",
            "signatures is not known here",
        ),
        (
            "package docker\nimport data.lib\ndecision := {\"allow\": true}\n",
            "cwd://lib.rego",
        ),
    ] {
        let error = policy(text).err().map(|error| error.to_string());
        assert!(
            error.as_ref().is_some_and(|error| error.contains(part)),
            "{text}: {error:?}"
        );
    }
}

#[test]
fn a_function_that_is_not_known_stops_the_build_that_gets_there() {
    let policy = policy(
        "package docker\ndecision := {\"allow\": allow}\ndefault allow := false\n\
         allow if {\n  input.local\n  net.lookup_ip_addr(\"h\")\n}\n",
    )
    .unwrap();
    let shown = policy.verdict(&source("local://context"), &platform());
    let error = shown.verdict.unwrap_err();
    assert!(error.message.contains("net.lookup_ip_addr"), "{error:?}");
}

#[test]
fn print_and_the_input_are_told() {
    let policy = policy("package docker\ndecision := {\"allow\": allow}\nallow if print(\"seen\", input.local.name)\n").unwrap();
    let shown = policy.verdict(&source("local://context"), &platform());
    let text: Vec<String> = shown.lines.into_iter().map(|(_, line)| line).collect();
    let text = text.join("\n");
    for part in [
        "checking policy for source local://context",
        "\"name\": \"context\"",
        "Dockerfile.rego:3: seen context",
        "ALLOW",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn ages_can_be_judged() {
    let policy = policy(
        "package docker\ndefault allow := false\ndecision := {\"allow\": allow}\n\
         allow if time.now_ns() - time.parse_rfc3339_ns(input.image.createdTime) < time.parse_duration_ns(\"24h\")\n",
    )
    .unwrap();
    let made = |created: String| SourceMeta {
        image: Some(ImageMeta {
            digest: DIGEST.into(),
            config: format!(r#"{{"created":"{created}"}}"#).into_bytes(),
            attestation_chain: None,
        }),
        ..source("docker-image://docker.io/library/alpine:3")
    };
    let now = OffsetDateTime::now_utc();
    let now = now.format(&time::format_description::well_known::Rfc3339);
    assert_eq!(asked(&policy, &made(now.unwrap())), Verdict::Allow);
    let old = made("2001-02-03T04:05:06.7Z".into());
    assert_eq!(asked(&policy, &old), Verdict::Deny(vec![]));
}

#[test]
fn a_file_of_the_web_is_held_to_its_signature() {
    use sha2::Digest as _;
    let dir = tempfile::tempdir().unwrap();
    let signature = include_str!("../../../solver/src/signature/testdata/ed.sig");
    let keys = include_str!("../../../solver/src/signature/testdata/ed.pub");
    let content = include_str!("../../../solver/src/signature/testdata/content");
    let others = include_str!("../../../solver/src/signature/testdata/rsa.pub");
    for (name, text) in [
        ("app.asc", signature),
        ("ours.pub", keys),
        ("theirs.pub", others),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let asking = |keys: &str| {
        let text = format!(
            "package docker\ndefault allow := false\ndecision := {{\"allow\": allow}}\n\
             allow if verify_http_pgp_signature(input.http, \"app.asc\", \"{keys}\")\n"
        );
        let files = Files {
            context: Some(dir.path().to_owned()),
        };
        policy_in(&text, files).unwrap()
    };
    let ours = asking("ours.pub");
    let mut file = source("https://h.example/app");
    let Verdict::Ask(request) = asked(&ours, &file) else {
        panic!("it has not been told of the file");
    };
    assert_eq!(request.source, file.source);
    let question = request.http_checksum.unwrap();
    let mut answer = |content: &str| {
        let bytes = [content.as_bytes(), &question.suffix].concat();
        let (name, digest) = match question.algorithm {
            0 => ("sha256", sha2::Sha256::digest(bytes).to_vec()),
            1 => ("sha384", sha2::Sha384::digest(bytes).to_vec()),
            _ => ("sha512", sha2::Sha512::digest(bytes).to_vec()),
        };
        file.http = Some(HttpMeta {
            checksum: DIGEST.into(),
            checksum_response: Some((
                format!("{name}:{}", hex::encode(digest)),
                question.suffix.clone(),
            )),
            ..HttpMeta::default()
        });
        file.clone()
    };
    assert_eq!(asked(&ours, &answer(content)), Verdict::Allow);
    assert_eq!(asked(&ours, &answer("other\n")), Verdict::Deny(vec![]));
    // Not signed by this key: nothing has to be asked for that.
    let theirs = asked(&asking("theirs.pub"), &source("https://h.example/app"));
    assert_eq!(theirs, Verdict::Deny(vec![]));
    let local = asked(&ours, &source("local://context"));
    assert_eq!(local, Verdict::Deny(vec![]));
}
