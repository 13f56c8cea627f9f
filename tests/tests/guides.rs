//! The guides, as they are written: every `sh` block of them is run, one after the other, by a user with a home of their
//! own, beside a Docker Hub and a mirror that are Debian's docker-registry. In the end Debian's docker builds with the
//! frontend that was published.

use std::path::Path;

use gateway_tests::base_images;
use gateway_tests::program::stderr;

/// The `sh` blocks of a page.
fn blocks(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{page}: {e}"));
    let mut out = format!("echo '== {page}'\n");
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => out += &format!("{line}\n"),
            _ => {}
        }
    }
    out
}

/// A home with what the guides take for granted, and cargo as it is for the project's own tests: without network.
const SETUP: &str = r#"
export HOME="$HUB/home" CARGO_HOME="${CARGO_HOME:-$OLD_HOME/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$OLD_HOME/.rustup}"
export PATH="$HUB/bin:$CARGO_HOME/bin:$PATH" CARGO_NET_OFFLINE=true SSL_CERT_FILE="$HUB/ca.crt"
# As quick as it gets; the guides promise nothing about the speed of the result.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
export CARGO_PROFILE_DEV_DEBUG=false
unset XDG_CONFIG_HOME DOCKER_CONFIG GATEWAY_ROOT RUSTFLAGS || true
export GATEWAY_ROOT="$HUB/store"
mkdir -p "$HOME" "$HUB/bin"
ln -s "$GATEWAY" "$HUB/bin/gateway"
ln -s "$PROJECT" "$HOME/gateway"
printf s3cret-pw > "$HOME/docker-hub-token"
mkdir -p /etc/ssl && touch "$HUB/mirror-ca.pem" && cp "$HUB/ca.crt" "$HUB/mirror-ca.pem"
mount -t tmpfs none /etc/ssl && cp "$HUB/mirror-ca.pem" /etc/ssl/mirror-ca.pem
skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$HUB/bases:library/alpine:latest" docker://127.0.0.1:5000/library/alpine:latest
"#;

/// Docker of 2020 reads the published line; of its own network it has the registry on a loopback address.
const DOCKER: &str = r#"
echo '== docker'
mkdir -p "$HUB/docker" && cd "$HUB/docker"
/usr/sbin/dockerd --data-root "$PWD/data" --exec-root "$PWD/exec" --pidfile "$PWD/pid" --host "unix://$PWD/socket" \
    --storage-driver=vfs --bridge=none --iptables=false >"$PWD/log" 2>&1 </dev/null &
docker=$!
pids="$pids $docker"
docker() { DOCKER_BUILDKIT=1 DOCKER_CONFIG="$HUB/docker/config" /usr/bin/docker --host "unix://$HUB/docker/socket" "$@"; }
for _ in $(seq 600); do
    docker version >/dev/null 2>&1 && break
    kill -0 "$docker" || { cat log; exit 1; }
    sleep 0.2
done
mkdir context
printf '# syntax = 127.0.0.1:5000/alice/hello:0\necho built by docker > /greeting\n' > context/Dockerfile
mkdir other
printf '# syntax = 127.0.0.1:5000/alice/imagefile:0\nfrom 127.0.0.1:5000/library/alpine:latest\nenv WHO=docker\nrun echo "image file by $WHO" > /greeting\n' > other/Dockerfile
docker build --progress=plain --network=none --build-arg BASE=127.0.0.1:5000/library/alpine:latest --output out context
cat out/greeting
docker build --progress=plain --network=none --output out2 other
cat out2/greeting
kill -TERM "$docker"; wait "$docker" || true
"#;

#[test]
fn the_guides_work_as_they_are_written() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    base_images::write_layout(&dir.path().join("bases")).expect("writing base images");
    let project = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the project");
    let target = gateway_tests::program::binary();
    let target = target.ancestors().nth(2).expect("the target folder");
    let mut script = format!(
        "OLD_HOME=\"$HOME\"\nPROJECT={}\nexport CARGO_TARGET_DIR={}\n{SETUP}\n",
        project.display(),
        target.display()
    );
    for page in [
        "write-a-frontend.md",
        "pin-and-vendor.md",
        "private-mirror.md",
    ] {
        script += &blocks(page);
    }
    script += DOCKER;
    let output = gateway_tests::hub::run(dir.path(), &script);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", stderr(&output));
    for wanted in [
        "1 passed",
        "profile     strict",
        " 0 failed, 0 weak, 3 do not apply",
        "would push docker.io/alice/hello:0.1.0@sha256:",
        "pushed docker.io/alice/hello:latest@sha256:",
        "(linux/amd64, linux/arm64)",
        "checked: example builds with alice/hello:0@sha256:",
        "checked: example builds with alice/imagefile:0@sha256:",
        "name = \"docker.io/alice/hello:0\"",
        "name = \"docker.io/library/alpine:latest\"",
        "nothing moved",
        "# syntax = alice/hello:0@sha256:",
        "2 images, 0 files, 0 checkouts",
        "mirror.example",
        "built by docker",
        "image file by docker",
    ] {
        assert!(
            said.contains(wanted),
            "{wanted:?} is not in:\n{said}\n{}",
            stderr(&output)
        );
    }
}
