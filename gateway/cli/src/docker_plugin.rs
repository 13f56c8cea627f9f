//! The same program as a plugin of the docker command: installed as `docker-gateway` in a folder of
//! docker's plugins, `docker gateway build .` runs it.

use std::ffi::OsString;
use std::path::Path;

use serde_json::json;

/// Name of the file that makes a plugin of this program.
const FILE: &str = "docker-gateway";
/// The command's name under docker, which docker repeats as the first argument.
const NAME: &str = "gateway";
/// Other names of this program: `gateway daemon`, and what remote clients start.
const DAEMON: &str = "gatewayd";
const BUILDCTL: &str = "buildctl";
/// What docker asks a plugin first.
const METADATA: &str = "docker-cli-plugin-metadata";

/// How this run was started.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// Parse these words.
    Words(Vec<OsString>),
    /// Print this and end.
    Answer(String),
}

fn named(words: &[OsString], name: &str) -> bool {
    let program = words.first().map(Path::new);
    program
        .and_then(Path::file_name)
        .is_some_and(|file| file == name)
}

pub fn start(words: impl IntoIterator<Item = OsString>) -> Start {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let is_plugin = words
        .first()
        .and_then(|program| Path::new(program).file_name())
        .is_some_and(|name| name == FILE);
    match words.get(1).and_then(|word| word.to_str()) {
        Some(METADATA) if is_plugin => Start::Answer(metadata()),
        _ if named(&words, DAEMON) => {
            words.insert(1, "daemon".into());
            Start::Words(words)
        }
        // Remote clients of BuildKit run `buildctl [--addr ADDRESS] dial-stdio` on this machine.
        _ if named(&words, BUILDCTL) => {
            if let Some(at) = words.iter().position(|word| word == "dial-stdio") {
                let verb = words.remove(at);
                words.insert(1, verb);
            }
            Start::Words(words)
        }
        Some(NAME) if is_plugin => {
            words.remove(1);
            Start::Words(words)
        }
        _ => Start::Words(words),
    }
}

fn metadata() -> String {
    let metadata = json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "gateway",
        "Version": env!("CARGO_PKG_VERSION"),
        "ShortDescription": "Build images with frontends as container images, without a daemon",
    });
    format!("{metadata}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn docker_is_told_who_this_is() {
        let answer = start(words(&["/x/docker-gateway", METADATA]));
        let Start::Answer(text) = answer else {
            panic!("an answer");
        };
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["SchemaVersion"], "0.1.0");
    }

    #[test]
    fn dockers_repeated_name_is_no_command() {
        let plugin = start(words(&["/x/docker-gateway", "gateway", "build", "."]));
        assert_eq!(
            plugin,
            Start::Words(words(&["/x/docker-gateway", "build", "."]))
        );
        let plain = words(&["gateway", METADATA]);
        assert_eq!(start(plain.clone()), Start::Words(plain));
    }
}
