//! What is released, and its installation as README.md tells it: packed by scripts/release, installed by the lines of
//! the page in a machine of its own (other folders lie over the real ones there), used from the shell and under
//! Debian's docker. The program is the one under test; that a release is linked to nothing is scripts/release's matter.

use std::path::{Path, PathBuf};
use std::process::Command;

use gateway_tests::program::{binary, run, stderr, tool};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The first `sh` block of a section of README.md.
fn lines_of(section: &str) -> String {
    let text = std::fs::read_to_string(project().join("README.md")).expect("README.md");
    let (_, text) = text
        .split_once(&format!("\n## {section}\n"))
        .unwrap_or_else(|| panic!("README.md has no section {section}"));
    let (_, text) = text.split_once("```sh\n").expect("a block");
    let (block, _) = text.split_once("```").expect("the end of the block");
    block.to_owned()
}

/// What of the project goes into a release, in a folder of its own.
fn checkout(dir: &Path) {
    for name in [
        "scripts",
        "docs",
        "README.md",
        "LICENSE",
        "Dockerfile",
        ".dockerignore",
    ] {
        let from = project().join(name);
        tool(
            "cp",
            &[
                "-R",
                &from.display().to_string(),
                &dir.display().to_string(),
            ],
        );
    }
}

/// Folders of nobody else, where the lines write: everything below is seen by this process and its children alone.
const MACHINE: &str = r#"
set -eu
mount -t tmpfs none "$HERE/machine"
mkdir -p "$HERE/machine/etc" "$HERE/machine/work" "$HERE/machine/home" "$HERE/machine/tools"
mount -t overlay -o "lowerdir=/etc,upperdir=$HERE/machine/etc,workdir=$HERE/machine/work" overlay /etc
mkdir -p /etc/bash_completion.d
mount -t tmpfs none /usr/local
mkdir /usr/local/bin
printf '#!/bin/sh\nexec "$@"\n' >"$HERE/machine/tools/sudo"
chmod 755 "$HERE/machine/tools/sudo"
export HOME="$HERE/machine/home" GATEWAY_ROOT="$HERE/store" SOURCE_DATE_EPOCH=1700000000
export PATH="$HERE/machine/tools:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
unset DOCKER_CONFIG DOCKER_HOST XDG_CONFIG_HOME GATEWAY_CONFIG || true
cd "$HERE/project"
"#;

/// The installed program, used in every way that the page speaks of.
const USE: &str = r#"
echo "== used"
command -v gateway
gateway --version
gateway images
bash --norc -c '. /etc/bash_completion.d/gateway; complete -p gateway'
mandoc -Tascii /usr/local/share/man/man1/gateway-build.1 | grep -c gateway.build
mkdir "$HERE/context"
cd "$HERE/context"
printf 'FROM scratch\nCOPY Dockerfile /file\n' >Dockerfile
docker gateway build -t me/by-docker --output type=local,dest=out .
cmp Dockerfile out/file
echo "== by docker: $(readlink -f "$(command -v docker)")"
echo "== the archive"
mkdir "$HERE/archive"
cd "$HERE/archive"
tar xzf "$HERE"/project/target/dist/gateway-*-linux.tar.gz
cd gateway-*-linux
ls
./gateway --version
cmp gateway /usr/local/bin/gateway
cmp man/gateway-build.1 /usr/local/share/man/man1/gateway-build.1
"#;

#[test]
fn the_lines_of_the_page_install_what_was_released() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let here = dir.path().display().to_string();
    for name in ["project", "machine"] {
        std::fs::create_dir(dir.path().join(name)).expect("a folder");
    }
    checkout(&dir.path().join("project"));
    let program = dir.path().join("program");
    tool(
        "strip",
        &[
            "-o",
            &program.display().to_string(),
            &binary().display().to_string(),
        ],
    );
    let lines = lines_of("Install it");
    let release = format!("scripts/release --program {} ", program.display());
    let lines = lines.replacen("scripts/release ", &release, 1);
    assert!(lines.starts_with(&release), "{lines}");
    let script = format!("{MACHINE}\n{lines}\n{USE}");
    let output = run(Command::new("unshare")
        .args(["--mount", "--propagation=private", "sh", "-c", &script])
        .env("HERE", &here));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", stderr(&output));
    let version = env!("CARGO_PKG_VERSION");
    let machine = std::env::consts::ARCH;
    for wanted in [
        // scripts/release tells the sums, the page's line checks them.
        "gateway: OK\n",
        &format!("gateway-{version}-{machine}-linux.tar.gz: OK\n"),
        "== used\n/usr/local/bin/gateway\n",
        &format!("gateway {version}\n"),
        "docker.io/you/gateway:latest",
        "-F _gateway gateway\n",
        "== by docker: /usr/bin/docker\n",
        "LICENSE\nREADME.md\ncompletions\ndocs\ngateway\nman\n",
    ] {
        assert!(
            said.contains(wanted),
            "{wanted:?} is not in:\n{said}\n{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_release_of_what_is_not_there_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    checkout(dir.path());
    for words in [
        vec!["--program"],
        vec!["--program", "/no/such/program"],
        vec!["--functions", "/no/such/order"],
        vec!["--help", "x"],
    ] {
        let output = run(Command::new(dir.path().join("scripts/release")).args(&words));
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(
            stderr(&output).starts_with("usage: scripts/release"),
            "{}",
            stderr(&output)
        );
    }
    assert!(!dir.path().join("target").exists());
}

#[test]
fn what_everyday_use_runs_is_found_for_the_linker() {
    let order = run(Command::new(project().join("scripts/function-order")).arg(binary()));
    assert!(order.status.success(), "{}", stderr(&order));
    let order = String::from_utf8(order.stdout).expect("names");
    let names: Vec<&str> = order.lines().collect();
    let once: std::collections::HashSet<&str> = names.iter().copied().collect();
    assert_eq!(once.len(), names.len());
    let odd = names
        .iter()
        .find(|name| name.contains([' ', '\'']) || name.starts_with("0x"));
    assert_eq!(odd, None);
    // The command line, a frontend, the solver, C, a client of registries, and the daemon.
    for part in [
        "_ZN7gateway5build",
        "18gateway_dockerfile",
        "14gateway_solver",
        "sqlite3_step",
        "6rustls",
        "_ZN7gateway6daemon",
    ] {
        assert!(names.iter().any(|name| name.contains(part)), "{part}");
    }
}
