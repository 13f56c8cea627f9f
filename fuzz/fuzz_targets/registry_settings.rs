//! Settings that users and other tools write: Docker's config file (first byte even) with its logins,
//! and the registries of buildkitd.toml (odd).

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use gateway_images::registry::{Credentials, DockerConfig, parse_buildkitd_toml};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
});

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, body)) = bytes.split_first() else {
        return;
    };
    if choice % 2 == 0 {
        let Ok(config) = DockerConfig::parse(body, Path::new("config.json")) else {
            return;
        };
        // No helper is ever found, and so none run.
        let config = config.with_helper_path("/nonexistent");
        for host in ["docker.io", "example.org", "example.org:5000"] {
            let _ = RUNTIME.block_on(config.login(host));
        }
    } else if let Ok(text) = std::str::from_utf8(body)
        && let Err(error) = parse_buildkitd_toml(text)
    {
        error.to_string();
    }
});
