//! Commits and tags as policies see them.

use gateway_api::GitMeta;
use gateway_solver::signature::{Signer, signer};
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// `null` for what was not asked for or is not there.
#[derive(Debug, Default, PartialEq)]
pub struct Objects {
    pub commit: Value,
    pub tag: Value,
}

pub fn of(meta: &GitMeta) -> Objects {
    let commit = read(&meta.commit_object).map(|object| {
        let one = |key: &str| object.first(key).map_or(Value::Null, Value::from);
        let mut commit = json!({
            "tree": one("tree"),
            "author": actor(object.first("author")),
            "committer": actor(object.first("committer")),
            "message": object.message,
        });
        let parents = object.all("parent");
        if !parents.is_empty() {
            commit["parents"] = json!(parents);
        }
        let name_length = meta.commit_checksum.len().max(meta.checksum.len());
        let header = match name_length {
            64 => "gpgsig-sha256",
            _ => "gpgsig",
        };
        sign(&mut commit, object.first(header).unwrap_or_default());
        commit
    });
    let tag = read(&meta.tag_object).map(|object| {
        let one = |key: &str| object.first(key).map_or(Value::Null, Value::from);
        // Of a tag the signature is the end of its message.
        let end = [
            "-----BEGIN PGP SIGNATURE-----",
            "-----BEGIN SSH SIGNATURE-----",
        ]
        .iter()
        .find_map(|mark| object.message.find(mark));
        let (message, signature) = object.message.split_at(end.unwrap_or(object.message.len()));
        let mut tag = json!({
            "object": one("object"),
            "type": one("type"),
            "tag": one("tag"),
            "tagger": actor(object.first("tagger")),
            "message": message,
        });
        sign(&mut tag, signature);
        tag
    });
    Objects {
        commit: commit.unwrap_or_default(),
        tag: tag.unwrap_or_default(),
    }
}

/// Who says to have signed; whether it is so a policy asks with a key.
fn sign(object: &mut Value, signature: &str) {
    match signer(signature) {
        Some(Signer::Pgp { version, key }) => {
            object["pgpSignature"] = match key {
                Some(key) => json!({"version": version, "keyID": key}),
                None => json!({"version": version}),
            };
        }
        Some(Signer::Ssh { version, key }) => {
            object["sshSignature"] = json!({"version": version, "pubKey": key});
        }
        None => {}
    }
}

struct Object {
    head: Vec<(String, String)>,
    message: String,
}

impl Object {
    fn first(&self, key: &str) -> Option<&str> {
        let found = self.head.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    fn all(&self, key: &str) -> Vec<&str> {
        let own = self.head.iter().filter(|(name, _)| name == key);
        own.map(|(_, value)| value.as_str()).collect()
    }
}

fn read(raw: &[u8]) -> Option<Object> {
    let text = String::from_utf8_lossy(raw);
    let (head, message) = text.split_once("\n\n")?;
    let mut lines: Vec<(String, String)> = Vec::new();
    for line in head.split('\n') {
        match (line.strip_prefix(' '), lines.last_mut()) {
            // A value that goes on.
            (Some(more), Some((_, value))) => {
                value.push('\n');
                value.push_str(more);
            }
            _ => {
                let (key, value) = line.split_once(' ').unwrap_or((line, ""));
                lines.push((key.to_owned(), value.to_owned()));
            }
        }
    }
    Some(Object {
        head: lines,
        message: message.to_owned(),
    })
}

/// `Name <mail> seconds zone`.
fn actor(line: Option<&str>) -> Value {
    let mut actor = Map::new();
    let line = line.unwrap_or_default();
    let (name, rest) = line.split_once('<').unwrap_or((line, ""));
    let (mail, time) = rest.split_once('>').unwrap_or((rest, ""));
    for (key, value) in [("name", name.trim()), ("email", mail)] {
        if !value.is_empty() {
            actor.insert(key.to_owned(), value.into());
        }
    }
    if let Some(when) = when(time.trim()) {
        actor.insert("when".to_owned(), when.into());
    }
    Value::Object(actor)
}

fn when(text: &str) -> Option<String> {
    let (seconds, zone) = text.split_once(' ')?;
    let time = OffsetDateTime::from_unix_timestamp(seconds.parse().ok()?).ok()?;
    let number: i32 = zone.parse().ok()?;
    let offset = UtcOffset::from_whole_seconds((number / 100 * 60 + number % 100) * 60).ok()?;
    time.checked_to_offset(offset)?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_its_head_and_its_message() {
        let commit = "tree aa\nparent bb\nparent cc\nauthor A B <a@b> 1700000000 +0130\n\
                      committer C <c@d> 1700000001 -0800\ngpgsig -----BEGIN SSH SIGNATURE-----\n more\n\nsubject\n\nbody\n";
        let meta = GitMeta {
            checksum: "0".repeat(40),
            commit_object: commit.into(),
            ..GitMeta::default()
        };
        let objects = of(&meta);
        assert_eq!(
            objects.commit,
            json!({
                "tree": "aa",
                "parents": ["bb", "cc"],
                "author": {"name": "A B", "email": "a@b", "when": "2023-11-14T23:43:20+01:30"},
                "committer": {"name": "C", "email": "c@d", "when": "2023-11-14T14:13:21-08:00"},
                "message": "subject\n\nbody\n",
            })
        );
        assert_eq!(objects.tag, Value::Null);
    }

    /// The key by its fingerprint, as `ssh-keygen -l` tells it.
    #[test]
    fn a_signature_of_ssh_names_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let run = |args: &[&str]| {
            let output = std::process::Command::new("ssh-keygen")
                .args(args)
                .arg("-f")
                .arg(&key)
                .output();
            let output = output.expect("ssh-keygen (package openssh-client)");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["-q", "-t", "ed25519", "-N", ""]);
        let told = run(&["-l", "-E", "sha256"]);
        let fingerprint = told.split(' ').nth(1).unwrap();
        let tag = "object 00\ntype commit\ntag v1\ntagger A <a@b> 1700000000 +0000\n\none\n";
        let file = dir.path().join("tag");
        std::fs::write(&file, tag).unwrap();
        let signed = std::process::Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", "git", "-f"])
            .args([&key, &file])
            .status();
        assert!(signed.unwrap().success());
        let signature = std::fs::read_to_string(file.with_extension("sig")).unwrap();
        let head = tag.split("\n\n").next().unwrap();
        let continued = signature.trim_end().replace('\n', "\n ");
        let meta = GitMeta {
            checksum: "0".repeat(40),
            tag_object: format!("{tag}{signature}").into_bytes(),
            commit_object: format!("{head}\ngpgsig {continued}\n\nsubject\n").into_bytes(),
            ..GitMeta::default()
        };
        let objects = of(&meta);
        let expected = json!({"version": 1, "pubKey": fingerprint});
        assert_eq!(objects.tag["sshSignature"], expected);
        assert_eq!(objects.tag["message"], "one\n");
        assert_eq!(objects.commit["sshSignature"], expected);
    }
}
