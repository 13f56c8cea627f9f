//! Proxies of docker's configuration file, which steps get as arguments as under docker.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::environment::Environment;
use crate::error::CliError;

/// Keys of the file by the arguments that they become, in both spellings.
const NAMES: [(&str, &str); 5] = [
    ("httpProxy", "HTTP_PROXY"),
    ("httpsProxy", "HTTPS_PROXY"),
    ("ftpProxy", "FTP_PROXY"),
    ("noProxy", "NO_PROXY"),
    ("allProxy", "ALL_PROXY"),
];

/// Adds what `proxies.default` of the file says, unless the flags said otherwise.
///
/// # Errors
/// When the file is there and not JSON.
pub fn options(env: &Environment, opts: &mut BTreeMap<String, String>) -> Result<(), CliError> {
    let Some(path) = crate::config::docker_config(env) else {
        return Ok(());
    };
    let wrong = |problem: String| CliError::Credentials {
        path: path.clone(),
        problem,
    };
    let text = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    let json: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    add(&json, opts);
    Ok(())
}

fn add(json: &Value, opts: &mut BTreeMap<String, String>) {
    let default = json.get("proxies").and_then(|all| all.get("default"));
    for (key, name) in NAMES {
        let value = default
            .and_then(|proxies| proxies.get(key))
            .and_then(Value::as_str)
            .filter(|value| !value.is_empty());
        let Some(value) = value else { continue };
        for name in [name.to_owned(), name.to_lowercase()] {
            opts.entry(format!("build-arg:{name}"))
                .or_insert_with(|| value.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_of_docker_are_arguments_unless_given() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("config.json"),
            r#"{"proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "a", "ftpProxy": ""}}}"#,
        )
        .unwrap();
        let env = Environment::from([(
            "DOCKER_CONFIG".to_owned(),
            dir.path().to_str().unwrap().to_owned(),
        )]);
        let given = ("build-arg:no_proxy".to_owned(), "mine".to_owned());
        let mut opts = BTreeMap::from([given]);
        options(&env, &mut opts).unwrap();
        let expected: BTreeMap<String, String> = [
            ("build-arg:HTTP_PROXY", "http://p:1"),
            ("build-arg:http_proxy", "http://p:1"),
            ("build-arg:NO_PROXY", "a"),
            ("build-arg:no_proxy", "mine"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        assert_eq!(opts, expected);
    }
}
