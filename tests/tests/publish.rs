//! Frontend images made, tested and published, by the program itself and seen by Debian's registry and skopeo. What is
//! packed is the project's own Dockerfile frontend and the raw one, so that nothing has to be compiled.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gateway_tests::base_images::{Layout, Tar};
use gateway_tests::program::{Home, binary, run, stderr};
use gateway_tests::raw_frontend;
use gateway_tests::registry::Registry;
use serde_json::{Value, json};

const CAPS: &str =
    "moby.buildkit.frontend.caps=moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests";

/// The static program of our Dockerfile frontend.
fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/frontend/dockerfile-frontend")
}

fn gateway(args: &[&str]) -> Output {
    run(Command::new(binary()).args(args))
}

/// An image of it at this version.
fn layout(dir: &Path, version: &str) -> String {
    layout_with(dir, version, CAPS)
}

fn layout_with(dir: &Path, version: &str, caps: &str) -> String {
    let place = dir.join(format!("layout-{version}")).display().to_string();
    let program = format!("--binary=linux/amd64={}", program().display());
    let version = format!("--label=org.opencontainers.image.version={version}");
    let caps = format!("--label={caps}");
    let made = gateway(&["frontend", "build", &program, &caps, &version, "-o", &place]);
    assert!(made.status.success(), "{}", stderr(&made));
    format!("oci:{place}")
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        stderr(output)
    )
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(output));
    text(output)
}

fn contains(text: &str, wanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

fn skopeo(registry: &Registry, name: &str, more: &[&str]) -> Output {
    run(Command::new("skopeo")
        .args(["--insecure-policy", "inspect", "--cert-dir"])
        .arg(registry.certificate_dir())
        .args(more)
        .arg(format!("docker://{}/{name}", registry.address)))
}

#[test]
fn a_frontend_image_is_one_static_file_with_its_labels_and_the_same_each_time() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = layout(dir.path(), "1.2.3");
    let again = tempfile::tempdir().expect("a temporary folder");
    let index = |place: &str| {
        std::fs::read(Path::new(&place["oci:".len()..]).join("index.json")).expect("an index")
    };
    assert_eq!(index(&place), index(&layout(again.path(), "1.2.3")));
    let shown = ok(&gateway(&["frontend", "inspect", "--json", &place]));
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let image = &shown["images"][0];
    assert_eq!(image["platform"], "linux/amd64");
    assert_eq!(image["layers"], 1);
    assert!(
        image["size"].as_u64().expect("a size") < 6_000_000,
        "{image}"
    );
    assert_eq!(image["entrypoint"], json!(["/frontend"]));
    assert_eq!(image["profile"], "strict");
    assert_eq!(
        image["labels"]["moby.buildkit.frontend.network.none"],
        "true"
    );
    assert_eq!(shown["version"], "1.2.3");
    let words = ok(&gateway(&["frontend", "inspect", &place]));
    contains(
        &words,
        &[
            "profile     strict: no network",
            "caps        moby.buildkit.frontend.inputs",
            "version     1.2.3",
        ],
    );
    // The second opinion.
    let place = format!("{place}:latest");
    let seen = run(Command::new("skopeo").args(["inspect", &place]));
    contains(&ok(&seen), &["moby.buildkit.frontend.network.none"]);
}

#[test]
fn what_no_host_could_run_is_refused_before_anything_is_pushed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = dir.path().join("layout").display().to_string();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").expect("a script");
    let script = format!("linux/amd64={}", script.display());
    let other = format!("linux/arm64={}", program().display());
    for (binary, wanted) in [
        (
            "linux/amd64=/usr/bin/env",
            ["is linked dynamically", "Link it statically"],
        ),
        (
            other.as_str(),
            [
                "is a program for amd64, not for linux/arm64",
                "name the right one",
            ],
        ),
        (script.as_str(), ["is no ELF program", "scratch"]),
        (
            "linux/amd64=/no/such/file",
            ["cannot read", "/no/such/file"],
        ),
    ] {
        let made = gateway(&["frontend", "build", "--binary", binary, "-o", &output]);
        contains(&refused(&made), &wanted);
    }
    let registry = Registry::start();
    let home = Home::new(&registry.table());
    let target = format!("{}/you/bad:1.0.0", registry.address);
    let publish = |from: &Path| {
        let from = format!("oci:{}", from.display());
        run(home
            .command(&["frontend", "publish"])
            .args(["--from", &from, &target]))
    };
    let nothing = dir.path().join("nothing");
    raw_frontend::write_layout(&nothing, "x", json!({"Labels": {}}));
    contains(
        &refused(&publish(&nothing)),
        &["linux/amd64: it has no ENTRYPOINT", "Write ENTRYPOINT"],
    );
    let elsewhere = dir.path().join("elsewhere");
    raw_frontend::write_layout(&elsewhere, "x", json!({"Entrypoint": ["/usr/bin/no"]}));
    contains(
        &refused(&publish(&elsewhere)),
        &["ENTRYPOINT /usr/bin/no is not in the image"],
    );
    // One that its own machine cannot load, and one for another machine than the index says.
    let image = |name: &str, program: &[u8], architecture: &str| {
        let place = dir.path().join(name);
        let files = Tar::default().file("frontend", program, (0o755, 0, 0));
        let mut layout = Layout::create(&place).expect("a layout");
        let config = json!({"Entrypoint": ["/frontend"]});
        let image = layout.image(&[files.bytes()], config, architecture);
        layout.name(image.expect("an image"), "x");
        layout.close().expect("closing the layout");
        place
    };
    let dynamic = std::fs::read("/usr/bin/env").expect("a program");
    contains(
        &refused(&publish(&image("dynamic", &dynamic, "amd64"))),
        &[
            "linux/amd64: /frontend is linked dynamically and needs /lib",
            "which is not in the image",
            "Link it statically",
        ],
    );
    let own = std::fs::read(program()).expect("a program");
    contains(
        &refused(&publish(&image("other", &own, "arm64"))),
        &[
            "linux/arm64: wrong platform: /frontend is a program for amd64",
            "Compile it for arm64",
        ],
    );
    let damaged = dir.path().join("damaged");
    raw_frontend::write_layout(&damaged, "x", json!({"Entrypoint": ["/frontend"]}));
    let blobs = std::fs::read_dir(damaged.join("blobs/sha256"))
        .expect("blobs")
        .flatten();
    let largest = blobs
        .max_by_key(|blob| blob.metadata().map_or(0, |m| m.len()))
        .expect("a blob");
    let mut bytes = std::fs::read(largest.path()).expect("a blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(largest.path(), bytes).expect("a flipped bit");
    contains(
        &refused(&publish(&damaged)),
        &[&largest.file_name().to_string_lossy()],
    );
    // What cannot be meant, of an image that could be published.
    let good = layout(dir.path(), "1.0.0");
    for (flags, wanted) in [
        (
            ["--platform", "linux/riscv64"],
            "is what a crate is built for",
        ),
        (["--check", "/no/such/folder"], "is no folder"),
    ] {
        let mut publish = home.command(&["frontend", "publish"]);
        let output = run(publish.args(["--from", &good, &target]).args(flags));
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        contains(&text(&output), &[flags[0], wanted]);
    }
    assert!(
        !skopeo(&registry, "you/bad:1.0.0", &[]).status.success(),
        "nothing was pushed"
    );
}

#[test]
fn a_version_is_published_with_the_tags_that_follow_it_and_none_goes_back() {
    let registry = Registry::start();
    let home = Home::new(&registry.table());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let name = format!("{}/you/frontend", registry.address);
    let publish = |version: &str, args: &[&str]| {
        let from = layout(dir.path(), version);
        run(home
            .command(&["frontend", "publish", "--from", &from])
            .args(args))
    };
    let digest = |tag: &str| {
        let shown = ok(&skopeo(
            &registry,
            &format!("you/frontend:{tag}"),
            &["--format", "{{.Digest}}"],
        ));
        shown.trim().to_owned()
    };
    let dry = ok(&publish("1.2.3", &["--dry-run", &name]));
    contains(
        &dry,
        &[
            ":1.2.3@sha256:",
            ":1.2@",
            ":1@",
            ":latest@",
            "would push",
            "(linux/amd64)",
        ],
    );
    assert!(
        !skopeo(&registry, "you/frontend:1", &[]).status.success(),
        "a dry run pushes nothing"
    );

    let said = ok(&publish("1.2.3", &[&name]));
    let first = digest("1.2.3");
    let line = format!("# syntax = {name}:1@{first}\n");
    contains(&said, &[&line]);
    for tag in ["1.2", "1", "latest"] {
        assert_eq!(digest(tag), first, "{tag}");
    }
    let second = ok(&publish("1.3.0", &[&name]));
    contains(&second, &[":1.3.0@", ":1.3@"]);
    assert_eq!((digest("1"), digest("1.2")), (digest("1.3.0"), first));
    let old = ok(&publish("1.2.4", &[&name]));
    contains(
        &old,
        &[
            "you/frontend:1 stays: it is at 1.3.0, which is newer",
            "you/frontend:latest stays",
        ],
    );
    assert_eq!(
        (digest("1"), digest("1.2")),
        (digest("1.3.0"), digest("1.2.4"))
    );

    let nightly = format!("{name}:nightly");
    let said = ok(&publish("2.0.0", &[&nightly]));
    contains(&said, &[&format!("# syntax = {name}:nightly@sha256:")]);
    assert!(
        !skopeo(&registry, "you/frontend:2.0.0", &[])
            .status
            .success(),
        "another tag is that alone"
    );

    // The published line builds a sample, from nothing but the registry.
    let sample = dir.path().join("sample");
    std::fs::create_dir_all(&sample).expect("a folder");
    std::fs::write(
        sample.join("Dockerfile"),
        "FROM scratch\nCOPY hello.txt /\n",
    )
    .expect("a build file");
    std::fs::write(sample.join("hello.txt"), "hello\n").expect("a file");
    let sample_flag = format!("--check={}", sample.display());
    contains(
        &ok(&publish("1.3.1", &[&sample_flag, &name])),
        &["checked: ", " builds with "],
    );
    std::fs::write(sample.join("Dockerfile"), "FRM scratch\n").expect("a build file");
    contains(
        &refused(&publish("1.3.2", &[&sample_flag, &name])),
        &["unknown instruction: FRM"],
    );
}

#[test]
fn docker_hub_is_reached_by_its_name_with_the_login_of_docker() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let layout = layout(dir.path(), "1.0.0");
    let sample = dir.path().join("sample");
    std::fs::create_dir_all(&sample).expect("a folder");
    std::fs::write(
        sample.join("Dockerfile"),
        "FROM scratch\nCOPY Dockerfile /\n",
    )
    .expect("a build file");
    let script = format!(
        "export SSL_CERT_FILE=$HUB/ca.crt DOCKER_CONFIG=$HUB/docker GATEWAY_ROOT=$HUB/store XDG_CONFIG_HOME=$HUB/xdg\n\
         if $GATEWAY frontend publish --from {layout} alice/frontend; then exit 9; fi\n\
         printf s3cret-pw | $GATEWAY login -u alice --password-stdin docker.io\n\
         $GATEWAY frontend publish --from {layout} --check {sample} alice/frontend\n\
         grep -q index.docker.io/v1 $HUB/docker/config.json\n\
         skopeo --insecure-policy inspect --authfile $HUB/docker/config.json --format 'seen {{{{.Digest}}}}' docker://docker.io/alice/frontend:1\n",
        sample = sample.display(),
    );
    let output = gateway_tests::hub::run(dir.path(), &script);
    contains(
        &ok(&output),
        &[
            "fix        gateway login docker.io",
            "pushed docker.io/alice/frontend:1.0.0@sha256:",
            "# syntax = alice/frontend:1@sha256:",
            "checked: ",
            "seen sha256:",
        ],
    );
}

#[test]
fn docker_hub_with_its_token_service_takes_the_login_of_its_old_name_and_of_a_helper() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let layout = layout(dir.path(), "1.0.0");
    // Base64 of the login. The helper speaks as docker's do.
    let script = format!(
        "export SSL_CERT_FILE=$HUB/ca.crt GATEWAY_ROOT=$HUB/store XDG_CONFIG_HOME=$HUB/xdg PATH=$HUB/bin:$PATH\n\
         mkdir -p $HUB/one $HUB/two $HUB/none $HUB/bin\n\
         echo '{{\"auths\": {{\"https://index.docker.io/v1/\": {{\"auth\": \"YWxpY2U6czNjcmV0LXB3\"}}}}}}' > $HUB/one/config.json\n\
         echo '{{\"credsStore\": \"trial\"}}' > $HUB/two/config.json\n\
         cat > $HUB/bin/docker-credential-trial <<'END'\n\
         #!/bin/sh\n\
         read -r server; echo \"$1 $server\" >> $HUB/helped\n\
         [ \"$1 $server\" = 'get https://index.docker.io/v1/' ] || exit 1\n\
         echo '{{\"ServerURL\": \"https://index.docker.io/v1/\", \"Username\": \"alice\", \"Secret\": \"s3cret-pw\"}}'\n\
         END\n\
         chmod +x $HUB/bin/docker-credential-trial\n\
         if DOCKER_CONFIG=$HUB/none $GATEWAY frontend publish --from {layout} alice/nobody; then exit 9; fi\n\
         DOCKER_CONFIG=$HUB/one $GATEWAY frontend publish --from {layout} alice/one docker.io/alice/also\n\
         DOCKER_CONFIG=$HUB/two $GATEWAY frontend publish --from {layout} alice/two\n\
         DOCKER_CONFIG=$HUB/two $GATEWAY frontend inspect alice/two:1.0\n\
         cat $HUB/helped\n\
         skopeo --insecure-policy inspect --authfile $HUB/one/config.json --format 'seen {{{{.Digest}}}}' docker://docker.io/alice/two:1\n",
    );
    let (output, scopes) = gateway_tests::hub::run_with_tokens(dir.path(), &script);
    let text = ok(&output);
    contains(
        &text,
        &[
            "alice/nobody",
            "gateway login docker.io",
            "pushed docker.io/alice/one:1.0.0@sha256:",
            "pushed docker.io/alice/also:latest@sha256:",
            "# syntax = alice/two:1@sha256:",
            "name        docker.io/alice/two:1.0",
            "get https://index.docker.io/v1/",
            "seen sha256:",
        ],
    );
    assert!(!text.contains("s3cret-pw"), "{text}");
    let asked = |wanted: &str| scopes.iter().any(|scope| scope.contains(wanted));
    assert!(asked("repository:alice/one:pull,push"), "{scopes:?}");
    assert!(asked("repository:alice/two:pull"), "{scopes:?}");
}

#[test]
fn the_rootless_user_tests_and_locks_as_well() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = layout(dir.path(), "1.0.0");
    let open = Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(dir.path())
        .status()
        .expect("chmod");
    assert!(open.success());
    let output = run(Command::new("su")
        .args(["gateway-test", "-c"])
        .arg(format!("{} frontend test {place}", binary().display())));
    contains(&ok(&output), &["ok    f01", " 0 failed"]);
}
