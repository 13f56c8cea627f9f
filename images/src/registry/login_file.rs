//! Keeping and forgetting logins in Docker's config.json, or with the credential helper that it names.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::credentials::{HUB_KEY, is_hub, run_helper_for};
use super::error::CredentialsError;

/// Where a login went or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginPlace {
    /// In the file itself, where whoever reads the file reads the password.
    File,
    /// With `docker-credential-NAME`.
    Helper(String),
}

/// Keeps a login for a registry. What else is in the file stays as it is.
///
/// # Errors
/// When the file can't be read as a Docker config or written, or the helper fails.
pub async fn keep_login(
    file: &Path,
    host: &str,
    username: &str,
    password: &str,
    helper_path: Option<&std::ffi::OsStr>,
) -> Result<LoginPlace, CredentialsError> {
    let mut config = read(file)?;
    let key = key_of(host);
    if let Some(helper) = helper_of(&config, host) {
        let login = json!({ "ServerURL": key, "Username": username, "Secret": password });
        run_helper_for(&helper, "store", &login.to_string(), helper_path).await?;
        // What `docker login` leaves beside a store.
        auths(&mut config).insert(key.to_owned(), json!({}));
        write(file, &config)?;
        return Ok(LoginPlace::Helper(helper));
    }
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    auths(&mut config).insert(key.to_owned(), json!({ "auth": pair }));
    write(file, &config)?;
    Ok(LoginPlace::File)
}

/// Forgets the login of a registry; false when there was none in the file.
///
/// # Errors
/// As for [`keep_login`].
pub async fn forget_login(
    file: &Path,
    host: &str,
    helper_path: Option<&std::ffi::OsStr>,
) -> Result<bool, CredentialsError> {
    let mut config = read(file)?;
    let key = key_of(host);
    if let Some(helper) = helper_of(&config, host) {
        run_helper_for(&helper, "erase", key, helper_path).await?;
    }
    let auths = auths(&mut config);
    let matching: Vec<String> = auths
        .keys()
        .filter(|held| *held == key || super::credentials::reduced(held) == host)
        .cloned()
        .collect();
    for held in &matching {
        auths.remove(held);
    }
    if !matching.is_empty() {
        write(file, &config)?;
    }
    Ok(!matching.is_empty())
}

fn key_of(host: &str) -> &str {
    if is_hub(host) { HUB_KEY } else { host }
}

fn read(file: &Path) -> Result<Map<String, Value>, CredentialsError> {
    let wrong = |problem: String| CredentialsError::Config {
        path: file.to_owned(),
        problem,
    };
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(wrong(error.to_string())),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        // serde's message may quote a secret.
        _ => Err(wrong("not a Docker config; nothing was changed".into())),
    }
}

fn helper_of(config: &Map<String, Value>, host: &str) -> Option<String> {
    let own = config
        .get("credHelpers")
        .and_then(|helpers| helpers.get(key_of(host)).or_else(|| helpers.get(host)));
    let helper = own.or_else(|| config.get("credsStore"))?.as_str()?;
    (!helper.is_empty()).then(|| helper.to_owned())
}

fn auths(config: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let auths = config
        .entry("auths")
        .or_insert_with(|| Value::Object(Map::new()));
    if !auths.is_object() {
        *auths = Value::Object(Map::new());
    }
    match auths {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// Written beside its place for its owner alone, and renamed: a reader sees the old file or the new one.
fn write(file: &Path, config: &Map<String, Value>) -> Result<(), CredentialsError> {
    let wrong = |problem: String| CredentialsError::Config {
        path: file.to_owned(),
        problem,
    };
    // A link is written through, so that a file kept elsewhere stays there.
    let target = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let dir = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(|e| wrong(e.to_string()))?;
    let text = serde_json::to_string_pretty(config).map_err(|e| wrong(e.to_string()))?;
    let mut temporary = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(|e| wrong(e.to_string()))?;
    temporary
        .write_all(text.as_bytes())
        .and_then(|()| temporary.as_file().sync_all())
        .map_err(|e| wrong(e.to_string()))?;
    temporary
        .persist(&target)
        .map(drop)
        .map_err(|e| wrong(e.error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sentence_6_a_login_is_kept_beside_what_is_in_the_file_and_forgotten_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sub/config.json");
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        std::fs::write(
            &file,
            r#"{"proxies":{"a":1},"auths":{"other":{"auth":"eDp5"}}}"#,
        )
        .unwrap();
        let place = keep_login(&file, "docker.io", "u", "p:q", None)
            .await
            .unwrap();
        assert_eq!(place, LoginPlace::File);
        let value: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(
            value["auths"]["https://index.docker.io/v1/"]["auth"],
            "dTpwOnE="
        );
        assert_eq!(value["auths"]["other"]["auth"], "eDp5");
        assert_eq!(value["proxies"]["a"], 1);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(forget_login(&file, "docker.io", None).await.unwrap());
        assert!(!forget_login(&file, "docker.io", None).await.unwrap());
        let value: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(value["auths"].as_object().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn sentence_6_a_file_that_is_no_config_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, "hunter2").unwrap();
        let error = keep_login(&file, "h", "u", "p", None).await.unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), b"hunter2");
    }

    #[tokio::test]
    async fn sentence_6_a_login_goes_to_the_helper_that_the_file_names() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-fake");
        let script = format!(
            "#!/bin/sh\necho \"$1 $(cat)\" >> {}/log\n",
            dir.path().display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, r#"{"credsStore":"fake"}"#).unwrap();
        let path = Some(dir.path().as_os_str());
        let place = keep_login(&file, "h.example:5000", "u", "secret", path)
            .await
            .unwrap();
        assert_eq!(place, LoginPlace::Helper("fake".into()));
        assert!(forget_login(&file, "h.example:5000", path).await.unwrap());
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(
            log.starts_with("store {\"Secret\":\"secret\"")
                || log.starts_with("store {\"ServerURL\""),
            "{log}"
        );
        assert!(log.ends_with("erase h.example:5000\n"), "{log}");
        assert!(!std::fs::read_to_string(&file).unwrap().contains("secret"));
    }
}
