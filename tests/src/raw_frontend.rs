//! The raw frontend of the bridge as an image: a program of nothing but the standard library that
//! speaks as frontends of other years do, or misbehaves. `--build-arg MODE=..` says how.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::json;

use crate::base_images::{Layout, Tar};
use crate::registry::Registry;

/// The name of its image.
pub const RAW: &str = "test/raw:1";

/// Pushes its image, with busybox beside it for frontends that are scripts.
pub fn push(registry: &Registry) {
    push_as(
        registry,
        RAW,
        json!({"Entrypoint": ["/frontend"], "Labels": labels()}),
    );
}

/// Pushes the same files with another config.
pub fn push_as(registry: &Registry, name: &str, config: serde_json::Value) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write_layout(dir.path(), name, config);
    registry.push_layout(dir.path(), name, name);
}

/// Pushes an index whose image for this machine is the frontend, and whose other image is nothing
/// that could run.
pub fn push_index(registry: &Registry, name: &str) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config =
        json!({"Entrypoint": ["/frontend"], "Labels": labels(), "Env": ["RELEASE=of the host"]});
    let mut layout = Layout::create(dir.path()).expect("a layout");
    let own = layout.image(&[files()], config, "amd64").expect("an image");
    let other = layout.image(&[], json!({"Entrypoint": ["/none"]}), "arm64");
    let other = other.expect("an image");
    let index = layout.index(&[("arm64", other), ("amd64", own)]);
    layout.name(index.expect("an index"), name);
    layout.close().expect("closing the layout");
    registry.push_layout(dir.path(), name, name);
}

/// The same files as an OCI layout in a directory.
pub fn write_layout(dir: &Path, name: &str, config: serde_json::Value) {
    let mut layout = Layout::create(dir).expect("a layout");
    let image = layout.image(&[files()], config, "amd64").expect("an image");
    layout.name(image, name);
    layout.close().expect("closing the layout");
}

/// The frontend and busybox beside it.
fn files() -> Vec<u8> {
    let read = |path: &Path| {
        std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    Tar::default()
        .dir("bin", (0o755, 0, 0))
        .file(
            "bin/busybox",
            &read(Path::new("/bin/busybox")),
            (0o755, 0, 0),
        )
        .file("frontend", &read(program()), (0o755, 0, 0))
        .bytes()
}

fn labels() -> serde_json::Value {
    json!({"moby.buildkit.frontend.network.none": "true"})
}

/// The static program, compiled once for each version of its source.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../gateway/bridge/examples/raw_frontend.rs");
        let program = crate::program::binary().with_file_name("raw_frontend_static");
        let made = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
        let parts = ["hostile.rs", "breaking.rs", "container.rs"]
            .map(|part| source.with_extension("").join(part));
        let newest = parts.iter().map(|part| made(part)).max().flatten();
        if made(&program) < made(&source).max(newest) {
            // Built aside and renamed: tests may run as several processes.
            let own = program.with_extension(std::process::id().to_string());
            std::fs::create_dir_all(&own).expect("a folder for the program");
            let aside = own.join("raw_frontend");
            let status = std::process::Command::new("rustc")
                .args([
                    "--edition",
                    "2024",
                    "-O",
                    "-C",
                    "target-feature=+crt-static",
                ])
                .arg(&source)
                .arg("-o")
                .arg(&aside)
                .status()
                .expect("rustc");
            assert!(status.success(), "compiling {}", source.display());
            std::fs::rename(aside, &program).expect("renaming the program");
            std::fs::remove_dir_all(own).expect("removing the folder");
        }
        program
    })
}
