//! The image of the tool itself, from the project's own build file: built, loaded into podman, and
//! used there to build, as README.md says, without a privileged container.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gateway_tests::program::{Home, binary, run, stderr, tool};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The binary under test without its debugging information, and what it is linked to: a release
/// is linked to nothing.
fn pack(context: &Path) {
    let dist = context.join("target/dist");
    let libraries = context.join("libraries");
    for dir in [&dist, &libraries] {
        std::fs::create_dir_all(dir).expect("a folder");
    }
    let packed = dist.join("gateway");
    let (from, to) = (binary().display().to_string(), packed.display().to_string());
    tool("strip", &["-o", &to, &from]);
    std::fs::write(dist.join("ca-certificates.crt"), "").expect("writing");
    let linked = run(Command::new("ldd").arg(binary()));
    let linked = stdout(&linked);
    for library in linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let to = libraries.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        std::fs::copy(library, &to).expect("copying a library");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Dockerfile");
    let file = std::fs::read_to_string(file).expect("the project's build file");
    let file = format!("{file}\nFROM tool AS linked\nCOPY libraries /\n");
    std::fs::write(context.join("Dockerfile"), file).expect("writing");
}

/// A podman with everything of its own.
struct Podman {
    conf: PathBuf,
    dir: tempfile::TempDir,
}

impl Podman {
    fn new() -> Podman {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let conf = dir.path().join("storage.conf");
        let text = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            dir.path().join("graph"),
            dir.path().join("run")
        );
        std::fs::write(&conf, text).expect("writing podman's configuration");
        Podman { conf, dir }
    }

    fn command(&self, words: &[&str]) -> Output {
        // Works with any form of control groups, and without a right to raise limits.
        let mut podman = Command::new("/usr/bin/podman");
        podman
            .env("CONTAINERS_STORAGE_CONF", &self.conf)
            .args(["--runtime=/usr/sbin/runc", "--cgroup-manager=cgroupfs"])
            .args(words);
        run(&mut podman)
    }

    /// The tool in a container of its own, with a volume for its store and the context.
    fn gateway(&self, context: &Path, words: &[&str]) -> Output {
        let context = format!("{}:/context:ro", context.display());
        let mut all = vec![
            "run",
            "--rm",
            "--pull=never",
            "--network=none",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            "--security-opt=seccomp=unconfined",
            "--volume=store:/var/lib/gateway",
            "--volume",
            &context,
            "test/gateway",
        ];
        all.extend(words);
        self.command(&all)
    }
}

#[test]
fn the_image_of_the_tool_builds_in_a_container_without_privileges() {
    let home = Home::new("");
    let podman = Podman::new();
    let context = podman.dir.path().join("tool");
    pack(&context);
    let archive = podman.dir.path().join("tool.tar");
    let output = format!("--output=type=docker,dest={}", archive.display());
    let built = run(home
        .build()
        .args(["--target=linked", "-t=test/gateway", &output])
        .arg(&context));
    assert!(built.status.success(), "{}", stderr(&built));
    let loaded = podman.command(&["load", "--quiet", "-i", &archive.display().to_string()]);
    assert!(loaded.status.success(), "{}", stderr(&loaded));

    let context = podman.dir.path().join("context");
    std::fs::create_dir(&context).expect("a folder");
    std::fs::copy("/bin/busybox", context.join("busybox")).expect("busybox");
    std::fs::write(
        context.join("Dockerfile"),
        "FROM scratch\nCOPY busybox /bin/sh\nRUN echo built $((40 + 2))\n",
    )
    .expect("writing");
    let words = ["build", "--progress=plain", "-t=me/app", "/context"];
    let built = podman.gateway(&context, &words);
    let said = stderr(&built);
    assert!(built.status.success(), "{said}");
    assert!(said.contains("built 42"), "{said}");

    // What was built is on the volume: the next container has it.
    let again = podman.gateway(&context, &words);
    let said = stderr(&again);
    assert!(again.status.success() && said.contains("CACHED"), "{said}");
    let images = podman.gateway(&context, &["images"]);
    assert!(stdout(&images).contains("me/app"), "{}", stderr(&images));
}
