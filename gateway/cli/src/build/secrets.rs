//! `--secret` and `--ssh`: what a build may use and never keeps.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gateway_session::ssh::{Agent, AgentSource, Keys};
use gateway_session::{Secret, SecretSource};

use super::keys;
use crate::environment::Environment;
use crate::error::UsageError;
use gateway_frontend::csv;

/// The agent that steps use when they name none.
pub const DEFAULT_AGENT: &str = "default";

/// One `--secret`: its id and where its value comes from; `notes` gets what may not be meant.
pub fn secret(
    text: &str,
    env: &Environment,
    notes: &mut Vec<String>,
) -> Result<(String, SecretSource), UsageError> {
    let wrong = |problem: String| UsageError::new("--secret", text, problem);
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in csv::pairs(text).map_err(wrong)? {
        let value = value.ok_or_else(|| wrong(format!("{key:?} needs a value: {key}=...")))?;
        match key.to_lowercase().as_str() {
            "source" => fields.insert("src".into(), value),
            known @ ("id" | "src" | "env" | "type") => fields.insert(known.into(), value),
            other => {
                let hint = keys::hint(other, &["id", "src", "source", "env", "type"]);
                return Err(wrong(format!(
                    "unknown key {other:?}: id, src, env and type are known{hint}"
                )));
            }
        };
    }
    let id = fields
        .remove("id")
        .filter(|id| !id.is_empty())
        .ok_or_else(|| wrong("no id: write id=ID,src=FILE".into()))?;
    let mut variable = |name: String| {
        // Empty then, as everywhere; many builds have secrets that only some of their users are given.
        if !env.contains_key(&name) {
            notes.push(format!(
                "--secret {text:?}: {name} is not set: the secret is empty"
            ));
        }
        let value = env.get(&name).cloned().unwrap_or_default();
        SecretSource::Value(Secret::new(value.into_bytes()))
    };
    let (kind, src, name) = (
        fields.remove("type"),
        fields.remove("src"),
        fields.remove("env"),
    );
    let source = match (kind.as_deref(), src, name) {
        (_, Some(_), Some(_)) => {
            return Err(wrong("both a file and a variable are named".into()));
        }
        (None | Some("env"), None, Some(name)) | (Some("env"), Some(name), None) => variable(name),
        (Some("env"), None, None) => variable(id.clone()),
        (None | Some("file"), Some(path), None) => file(path, wrong)?,
        (None, None, None) if env.contains_key(&id) => variable(id.clone()),
        (None | Some("file"), None, None) => file(id.clone(), wrong)?,
        (Some(kind), _, _) => {
            return Err(wrong(format!(
                "unknown type {kind:?} for what is given: file or env"
            )));
        }
    };
    Ok((id, source))
}

/// Checked at once, so that a typing error does not show an hour into the build.
fn file(path: String, wrong: impl Fn(String) -> UsageError) -> Result<SecretSource, UsageError> {
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Err(wrong(format!("{path} is a directory"))),
        Ok(_) => Ok(SecretSource::File(PathBuf::from(path))),
        Err(error) => Err(wrong(format!("{path}: {error}"))),
    }
}

/// One `--ssh`: `default`, `ID`, `ID=SOCKET` or `ID=KEYFILE,KEYFILE`; with `,raw=true` any socket.
pub fn agent(text: &str, env: &Environment) -> Result<Agent, UsageError> {
    let wrong = |problem: String| UsageError::new("--ssh", text, problem);
    let (id, rest) = match text.split_once('=') {
        // As the reference's clients read it.
        Some(("", rest)) => (DEFAULT_AGENT, rest),
        Some(parts) => parts,
        None => (text, ""),
    };
    let mut raw = false;
    let mut paths = Vec::new();
    for field in rest.split(',').filter(|field| !field.is_empty()) {
        match field {
            "raw=true" => raw = true,
            "raw=false" => raw = false,
            path => paths.push(path.to_owned()),
        }
    }
    if paths.is_empty() {
        let socket = env.get("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
        let problem = "no agent: SSH_AUTH_SOCK is not set; write ID=SOCKET or ID=KEYFILE";
        paths.push(socket.cloned().ok_or_else(|| wrong(problem.into()))?);
    }
    let source = source(&paths, raw).map_err(wrong)?;
    Ok(Agent {
        id: id.to_owned(),
        source,
    })
}

/// One socket, or keys.
fn source(paths: &[String], raw: bool) -> Result<AgentSource, String> {
    use std::os::unix::fs::FileTypeExt;
    let mut keys = Vec::new();
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(|error| format!("{path}: {error}"))?;
        if !metadata.file_type().is_socket() {
            keys.push(PathBuf::from(path));
            continue;
        }
        if paths.len() > 1 {
            return Err(format!("{path} is a socket, which must stand alone"));
        }
        let path = PathBuf::from(path);
        return Ok(match raw {
            true => AgentSource::Raw(path),
            false => AgentSource::Socket(path),
        });
    }
    if raw {
        return Err("raw=true needs a socket".into());
    }
    Keys::read(&keys)
        .map(AgentSource::Keys)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_bare_id_is_a_variable_if_there_is_one() {
        let secret = |text: &str, env: &Environment| secret(text, env, &mut Vec::new());
        let (id, source) = secret("id=TOKEN", &env(&[("TOKEN", "x")])).unwrap();
        assert_eq!(id, "TOKEN");
        assert!(matches!(source, SecretSource::Value(_)));
        assert!(
            secret("id=TOKEN", &env(&[])).is_err(),
            "no such file either"
        );
    }

    #[test]
    fn a_variable_that_is_not_set_is_an_empty_secret_and_told() {
        let mut notes = Vec::new();
        let (_, source) = secret("id=a,env=NOPE", &env(&[]), &mut notes).unwrap();
        assert!(matches!(source, SecretSource::Value(secret) if secret.expose().is_empty()));
        let told = "--secret \"id=a,env=NOPE\": NOPE is not set: the secret is empty";
        assert_eq!(notes, [told]);
    }

    #[test]
    fn keys_that_are_none_are_refused_with_the_one_that_was_meant() {
        let wrong = secret("id=a,scr=x", &env(&[]), &mut Vec::new()).unwrap_err();
        assert!(wrong.to_string().ends_with("; src is like it"), "{wrong}");
    }

    #[test]
    fn a_missing_file_is_refused_at_once_and_named() {
        let error = secret("id=a,src=/no/such/file", &env(&[]), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }

    #[test]
    fn an_agent_needs_a_socket_or_keys() {
        assert!(agent("default", &env(&[])).is_err());
        let error = agent("default=/etc/passwd", &env(&[])).unwrap_err();
        assert!(error.to_string().contains("/etc/passwd"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let path = path.to_str().unwrap();
        let found = agent("default", &env(&[("SSH_AUTH_SOCK", path)])).unwrap();
        assert!(matches!(found.source, AgentSource::Socket(_)));
        let found = agent(&format!("x={path},raw=true"), &env(&[])).unwrap();
        assert!(matches!(found.source, AgentSource::Raw(_)), "{}", found.id);
        assert!(agent(&format!("x={path},/etc/passwd"), &env(&[])).is_err());
    }
}
