//! Caches that are services: logins that the flag leaves out, and texts of flags without the logins in them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gateway_api::parse_bool;
use gateway_frontend::csv;

use crate::environment::Environment;

/// Attributes that are secrets.
const SECRETS: [&str; 4] = ["secret_access_key", "session_token", "token", "ghtoken"];
/// A larger file of logins is not read.
const MAX_FILE: u64 = 1 << 20;

/// The text of a flag as errors and warnings may show it.
pub fn shown(text: &str) -> String {
    let Ok(pairs) = csv::pairs(text) else {
        // What cannot be read is not told apart either.
        let secret = SECRETS.iter().any(|key| text.to_lowercase().contains(key));
        return if secret {
            "...".to_owned()
        } else {
            text.to_owned()
        };
    };
    let is_secret = |key: &str, value: &str| {
        let key = key.trim().to_lowercase();
        SECRETS.contains(&key.as_str()) || (key == "account_url" && value.contains('?'))
    };
    let hidden = pairs
        .iter()
        .any(|(key, value)| value.as_ref().is_some_and(|value| is_secret(key, value)));
    if !hidden {
        return text.to_owned();
    }
    let parts = pairs.iter().map(|(key, value)| match value {
        Some(value) if is_secret(key, value) => format!("{key}=..."),
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    });
    parts.collect::<Vec<_>>().join(",")
}

/// Adds what the environment and files say, as `docker buildx` does. Gives what is missing where a cache has no effect
/// without it: that of GitHub Actions anywhere else.
pub fn fill(
    kind: &str,
    attrs: &mut BTreeMap<String, String>,
    env: &Environment,
) -> Option<&'static str> {
    match kind {
        "gha" => github(attrs, env),
        "s3" => {
            aws(attrs, env);
            None
        }
        _ => None,
    }
}

fn github(attrs: &mut BTreeMap<String, String>, env: &Environment) -> Option<&'static str> {
    let variable = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
    let switched =
        variable("ACTIONS_CACHE_SERVICE_V2").is_some_and(|value| parse_bool(&value) == Some(true));
    let second = match attrs.get("version") {
        Some(version) => version == "2",
        None => switched,
    };
    let mut add = |key: &str, value: Option<String>| {
        if let (None, Some(value)) = (attrs.get(key), value) {
            attrs.insert(key.to_owned(), value);
        }
    };
    add("token", variable("ACTIONS_RUNTIME_TOKEN"));
    if second {
        add("url_v2", variable("ACTIONS_RESULTS_URL"));
    }
    let first = variable("ACTIONS_CACHE_URL").or_else(|| variable("ACTIONS_RESULTS_URL"));
    add("url", first);
    let has = |key: &str| attrs.get(key).is_some_and(|value| !value.is_empty());
    if !has("token") {
        return Some("there is no token, and ACTIONS_RUNTIME_TOKEN is not set");
    }
    match has("url") || has("url_v2") {
        true => None,
        false => Some("there is no url_v2, and ACTIONS_RESULTS_URL is not set"),
    }
}

/// Variables come first, then the profile in the file of logins. Roles of machines and of clusters are not asked for.
fn aws(attrs: &mut BTreeMap<String, String>, env: &Environment) {
    let variable = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
    if attrs.contains_key("access_key_id") || attrs.contains_key("secret_access_key") {
        return;
    }
    let set = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(variable);
    if set.iter().all(Option::is_some) {
        // The cache reads these itself, with the session's token.
        return;
    }
    let file = variable("AWS_SHARED_CREDENTIALS_FILE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".aws/credentials")));
    let Some(file) = file else {
        return;
    };
    let small = std::fs::metadata(&file).is_ok_and(|file| file.len() <= MAX_FILE);
    let Ok(text) = (match small {
        true => std::fs::read_to_string(&file),
        false => return,
    }) else {
        return;
    };
    let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    let keys = profile_of(&text, &profile);
    for (name, key) in [
        ("aws_access_key_id", "access_key_id"),
        ("aws_secret_access_key", "secret_access_key"),
        ("aws_session_token", "session_token"),
    ] {
        if let Some(value) = keys.get(name) {
            attrs.insert(key.to_owned(), value.clone());
        }
    }
}

/// The keys of a profile in a file of AWS logins.
fn profile_of(text: &str, profile: &str) -> BTreeMap<String, String> {
    let mut inside = false;
    let mut keys = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            keys.insert(key.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        let pairs = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        pairs.collect()
    }

    #[test]
    fn secrets_of_a_flag_are_not_shown() {
        for (text, expected) in [
            (
                "type=s3,bucket=b,secret_access_key=hunter2,Session_Token=hunter2",
                "type=s3,bucket=b,secret_access_key=...,Session_Token=...",
            ),
            ("type=gha,token=hunter2", "type=gha,token=..."),
            (
                "type=azblob,account_url=https://a.example?sig=hunter2",
                "type=azblob,account_url=...",
            ),
            ("type=gha,\"token=hunter2", "..."),
            ("type=local,dest=a", "type=local,dest=a"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn outside_of_github_actions_its_cache_has_no_effect() {
        let mut attrs = BTreeMap::new();
        let missing = fill("gha", &mut attrs, &env(&[])).unwrap();
        assert!(missing.contains("ACTIONS_RUNTIME_TOKEN"), "{missing}");
        let token = ("ACTIONS_RUNTIME_TOKEN", "t");
        let missing = fill("gha", &mut attrs, &env(&[token])).unwrap();
        assert!(missing.contains("ACTIONS_RESULTS_URL"), "{missing}");
        let set = [
            token,
            ("ACTIONS_RESULTS_URL", "https://a.example/"),
            ("ACTIONS_CACHE_SERVICE_V2", "True"),
        ];
        assert_eq!(fill("gha", &mut attrs, &env(&set)), None);
        assert_eq!(attrs["url_v2"], "https://a.example/");
        assert_eq!(attrs["token"], "t");
    }

    #[test]
    fn a_login_is_that_of_a_profile_unless_another_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        let text = "[default]\naws_access_key_id = D\naws_secret_access_key=d=\n# no\n[ team ]\nAWS_ACCESS_KEY_ID=T\naws_secret_access_key=t\naws_session_token=s\n";
        std::fs::write(&file, text).unwrap();
        let file = ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
        let filled = |pairs: &[(&str, &str)]| {
            let mut attrs = BTreeMap::new();
            fill("s3", &mut attrs, &env(pairs));
            attrs
        };
        let default = filled(&[file]);
        assert_eq!(
            (&*default["access_key_id"], &*default["secret_access_key"]),
            ("D", "d=")
        );
        let team = filled(&[file, ("AWS_PROFILE", "team")]);
        assert_eq!(
            (&*team["access_key_id"], &*team["session_token"]),
            ("T", "s")
        );
        let set = [
            file,
            ("AWS_ACCESS_KEY_ID", "E"),
            ("AWS_SECRET_ACCESS_KEY", "e"),
        ];
        assert!(filled(&set).is_empty());
        let mut given = BTreeMap::from([("access_key_id".to_owned(), "G".to_owned())]);
        fill("s3", &mut given, &env(&[file]));
        assert_eq!(given.len(), 1);
    }
}
