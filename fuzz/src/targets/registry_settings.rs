//! Settings that users and other tools write, chosen by the first byte: Docker's config file with its logins, the
//! registries of buildkitd.toml, containerd's hosts.toml, Docker's daemon.json, podman's registries.conf.

use std::path::Path;
use std::sync::LazyLock;

use gateway_images::registry::{
    Credentials, DockerConfig, RegistriesConfig, add_daemon_json, parse_buildkitd_toml,
    parse_hosts_toml, parse_registries_conf, unused_tables,
};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
});

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else {
        return;
    };
    let text = std::str::from_utf8(body);
    match (choice % 5, text) {
        (0, _) => {
            let Ok(config) = DockerConfig::parse(body, Path::new("config.json")) else {
                return;
            };
            // No helper is ever found, and so none run.
            let config = config.with_helper_path("/nonexistent");
            for host in ["docker.io", "example.org", "example.org:5000"] {
                let _ = RUNTIME.block_on(config.login(host));
            }
        }
        (1, Ok(text)) => match parse_buildkitd_toml(text) {
            Ok((hosts, _)) => drop(unused_tables(&hosts)),
            Err(error) => drop(error.to_string()),
        },
        (2, Ok(text)) => drop(parse_hosts_toml(text, Path::new("/d"))),
        (3, _) => drop(add_daemon_json(&mut RegistriesConfig::default(), body)),
        (4, Ok(text)) => {
            let mut rules = Vec::new();
            drop(parse_registries_conf(text, &mut rules));
        }
        _ => {}
    }
}
