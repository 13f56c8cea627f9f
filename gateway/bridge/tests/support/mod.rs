//! The raw frontend, compiled as an image would hold it: one static file.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub fn raw_frontend() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // Of a test that runs as somebody who could not build it.
        if let Some(program) = std::env::var_os("GATEWAY_TEST_RAW_FRONTEND") {
            return program.into();
        }
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/raw_frontend.rs");
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("raw_frontend_static");
        let made = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
        let parts = ["hostile.rs", "breaking.rs", "container.rs"];
        let part = |name: &str| made(&Path::new(source).with_extension("").join(name));
        let newest = parts.into_iter().map(part).max().flatten();
        if made(&program) < made(Path::new(source)).max(newest) {
            // Built aside and renamed: tests may run as several processes.
            let own = program.with_extension(std::process::id().to_string());
            std::fs::create_dir_all(&own).unwrap();
            let aside = own.join("raw_frontend");
            let status = std::process::Command::new("rustc")
                .args([
                    "--edition",
                    "2024",
                    "-O",
                    "-C",
                    "target-feature=+crt-static",
                ])
                .arg(source)
                .arg("-o")
                .arg(&aside)
                .status()
                .unwrap();
            assert!(status.success());
            std::fs::rename(aside, &program).unwrap();
            std::fs::remove_dir_all(own).unwrap();
        }
        program
    })
}
