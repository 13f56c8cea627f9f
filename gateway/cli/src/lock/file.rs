//! The lock file: which digest, checksum or commit each name in a build stands for. TOML, so that people can read a
//! difference of two; written in one order, so that there is one only when something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gateway_images::digest::Digest;
use gateway_images::reference::Reference;
use gateway_solver::pins::{FilePin, GitPin, ImagePin, PinSet};

use crate::error::CliError;

/// The only version there is.
const VERSION: i64 = 1;
/// Largest lock file: some thousand pins.
const MAX_BYTES: u64 = 4 << 20;

/// What an image is in a build. Shown, and first things first; nothing else depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Of a `# syntax` line: it decides what everything else means.
    Frontend,
    Base,
    /// Of a `--build-context`.
    Context,
}

impl Role {
    const ALL: [(Role, &'static str); 3] = [
        (Role::Frontend, "frontend"),
        (Role::Base, "base"),
        (Role::Context, "context"),
    ];

    pub fn text(self) -> &'static str {
        let known = Role::ALL.iter().find(|(role, _)| *role == self);
        known.map_or("", |(_, text)| text)
    }
}

/// A lock file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    pub pins: PinSet,
    /// Of images by their names; a base when it is not here.
    pub roles: BTreeMap<String, Role>,
}

impl Lock {
    /// Reads the file; none when there is none.
    pub fn read(path: &Path) -> Result<Option<Lock>, CliError> {
        let wrong = |problem: String| CliError::Lock {
            path: path.to_owned(),
            problem,
        };
        let text = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return Err(wrong(format!("larger than {MAX_BYTES} bytes")));
            }
            _ => std::fs::read_to_string(path),
        };
        let text = text.map_err(|error| wrong(error.to_string()))?;
        Lock::parse(&text).map(Some).map_err(wrong)
    }

    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Lock, String> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e
                .span()
                .map(|span| text.get(..span.start).unwrap_or("").lines().count().max(1));
            match line {
                Some(line) => format!("line {line}: {}", e.message()),
                None => e.message().to_owned(),
            }
        })?;
        let version = table.get("version").and_then(toml::Value::as_integer);
        if version != Some(VERSION) {
            return Err(match version {
                Some(version) => format!("version {version} is not known, only {VERSION} is"),
                None => format!("it does not begin with version = {VERSION}"),
            });
        }
        let mut lock = Lock::default();
        for (kind, entries) in &table {
            if kind == "version" {
                continue;
            }
            let entries = entries
                .as_array()
                .ok_or_else(|| format!("{kind:?} is not known"))?;
            for (index, entry) in entries.iter().enumerate() {
                let entry = entry
                    .as_table()
                    .ok_or_else(|| format!("{kind:?} is not known"))?;
                let place = format!("{kind} {}", index + 1);
                lock.take(kind, Entry { entry })
                    .map_err(|problem| format!("{place}: {problem}"))?;
            }
        }
        Ok(lock)
    }

    fn take(&mut self, kind: &str, entry: Entry<'_>) -> Result<(), String> {
        let twice = |name: &str| format!("{name} is there twice");
        match kind {
            "image" => {
                entry.only(&["name", "digest", "use"])?;
                let text = entry.text("name")?;
                let name = Reference::parse(text).map_err(|e| format!("name {text:?}: {e}"))?;
                let name = name.to_string();
                let digest = digest(entry.text("digest")?)?;
                let role = match entry.entry.get("use") {
                    None => Role::Base,
                    Some(value) => {
                        let text = value.as_str().unwrap_or_default();
                        let known = Role::ALL.iter().find(|(_, known)| *known == text);
                        known.ok_or_else(|| format!("use {text:?} is not known"))?.0
                    }
                };
                let pin = ImagePin {
                    digest,
                    platforms: BTreeSet::new(),
                };
                self.roles.insert(name.clone(), role);
                match self.pins.images.insert(name.clone(), pin) {
                    Some(_) => Err(twice(&name)),
                    None => Ok(()),
                }
            }
            "file" => {
                entry.only(&["url", "checksum"])?;
                let url = entry.text("url")?.to_owned();
                let pin = FilePin {
                    checksum: digest(entry.text("checksum")?)?.to_string(),
                    ..FilePin::default()
                };
                match self.pins.files.insert(url.clone(), pin) {
                    Some(_) => Err(twice(&url)),
                    None => Ok(()),
                }
            }
            "git" => {
                entry.only(&["url", "ref", "resolved", "object", "commit"])?;
                let url = entry.text("url")?.to_owned();
                let reference = entry.text("ref")?.to_owned();
                let commit = entry.entry.get("commit").map(|_| entry.text("commit"));
                let commit = commit.transpose()?.map(str::to_owned);
                let pin = GitPin {
                    reference: entry.text("resolved")?.to_owned(),
                    checksum: entry.text("object")?.to_owned(),
                    commit,
                };
                for id in pin.commit.iter().chain([&pin.checksum]) {
                    let hex = id.bytes().all(|b| b.is_ascii_hexdigit());
                    if !hex || !matches!(id.len(), 40 | 64) {
                        return Err(format!("{id:?} is no commit"));
                    }
                }
                let shown = format!("{url}#{reference}");
                match self.pins.git.insert((url, reference), pin) {
                    Some(_) => Err(twice(&shown)),
                    None => Ok(()),
                }
            }
            other => Err(format!("{other:?} is not known")),
        }
    }

    pub fn role(&self, name: &str) -> Role {
        self.roles.get(name).copied().unwrap_or(Role::Base)
    }

    /// Images in the order in which they are written: frontends, bases, contexts.
    pub fn images(&self) -> Vec<(&String, &ImagePin)> {
        let mut images: Vec<_> = self.pins.images.iter().collect();
        images.sort_by_key(|(name, _)| (self.role(name), *name));
        images
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut out = String::from(
            "# What the names in a build file stand for. Written by `gateway lock`; `gateway build --locked` uses nothing else.\n",
        );
        out += &format!("version = {VERSION}\n");
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        for (name, pin) in self.images() {
            out += &format!(
                "\n[[image]]\nname = {}\ndigest = \"{}\"\nuse = \"{}\"\n",
                quoted(name),
                pin.digest,
                self.role(name).text()
            );
        }
        for (url, pin) in &self.pins.files {
            out += &format!(
                "\n[[file]]\nurl = {}\nchecksum = {}\n",
                quoted(url),
                quoted(&pin.checksum)
            );
        }
        for ((url, reference), pin) in &self.pins.git {
            out += &format!(
                "\n[[git]]\nurl = {}\nref = {}\nresolved = {}\nobject = {}\n",
                quoted(url),
                quoted(reference),
                quoted(&pin.reference),
                quoted(&pin.checksum)
            );
            if let Some(commit) = &pin.commit {
                out += &format!("commit = {}\n", quoted(commit));
            }
        }
        out
    }

    /// Every pin as a name and what it stands for, in the file's order.
    pub fn lines(&self) -> Vec<(String, String)> {
        let images = self.images().into_iter();
        let images = images.map(|(name, pin)| (name.clone(), pin.digest.to_string()));
        let files = self.pins.files.iter();
        let files = files.map(|(url, pin)| (url.clone(), pin.checksum.clone()));
        let git = self.pins.git.iter().map(|((url, reference), pin)| {
            let name = match reference.is_empty() {
                true => url.clone(),
                false => format!("{url}#{reference}"),
            };
            (
                name,
                pin.commit.clone().unwrap_or_else(|| pin.checksum.clone()),
            )
        });
        images.chain(files).chain(git).collect()
    }
}

/// A table of the file.
struct Entry<'a> {
    entry: &'a toml::Table,
}

impl Entry<'_> {
    fn text(&self, key: &str) -> Result<&str, String> {
        self.entry
            .get(key)
            .and_then(toml::Value::as_str)
            .ok_or_else(|| format!("has no {key}, or it is no text"))
    }

    fn only(&self, keys: &[&str]) -> Result<(), String> {
        match self.entry.keys().find(|key| !keys.contains(&key.as_str())) {
            Some(key) => Err(format!("{key:?} is not known")),
            None => Ok(()),
        }
    }
}

fn digest(text: &str) -> Result<Digest, String> {
    text.parse()
        .map_err(|e| format!("{text:?} is no digest: {e}"))
}

/// How two sets of pins differ, in the words of a report; empty when they do not.
pub fn difference(old: &Lock, new: &Lock) -> String {
    let before: BTreeMap<String, String> = old.lines().into_iter().collect();
    let mut out = String::new();
    for (name, now) in new.lines() {
        match before.get(&name) {
            Some(was) if *was == now => {}
            Some(was) => out += &format!("~ {name}\n    - {was}\n    + {now}\n"),
            None => out += &format!("+ {name}\n    + {now}\n"),
        }
    }
    let after: BTreeSet<String> = new.lines().into_iter().map(|(name, _)| name).collect();
    for (name, was) in old.lines() {
        if !after.contains(&name) {
            out += &format!("- {name}\n    - {was}\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
version = 1

[[image]]
name = "docker.io/library/alpine:3"
digest = "sha256:abababababababababababababababababababababababababababababababab"

[[image]]
name = "docker.io/you/frontend:1"
digest = "sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
use = "frontend"

[[file]]
url = "https://example.com/\"quoted\""
checksum = "sha256:efefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefef"

[[git]]
url = "https://example.com/r.git"
ref = "v1"
resolved = "refs/tags/v1"
object = "0123456789012345678901234567890123456789"
commit = "abcdefabcdabcdefabcdabcdefabcdabcdefabcd"
"#;

    #[test]
    fn a_lock_file_has_one_form_with_frontends_first() {
        let lock = Lock::parse(EXAMPLE).unwrap();
        let text = lock.text();
        insta::assert_snapshot!(text);
        assert_eq!(
            Lock::parse(&text).unwrap(),
            Lock {
                roles: lock.roles.clone(),
                ..lock.clone()
            }
        );
        assert_eq!(Lock::parse(&text).unwrap().text(), text);
    }

    #[test]
    fn an_edited_lock_file_is_refused_with_the_place() {
        for (from, to, wanted) in [
            ("version = 1", "version = 2", "version 2 is not known"),
            ("version = 1", "", "does not begin with version"),
            ("\"sha256:abab", "\"sha256:xyz", "image 1: \"sha256:xyz"),
            ("\"sha256:abab", "\"latest", "is no digest"),
            (
                "use = \"frontend\"",
                "use = \"what\"",
                "image 2: use \"what\" is not known",
            ),
            (
                "use = \"frontend\"",
                "pin = true",
                "image 2: \"pin\" is not known",
            ),
            ("alpine:3", "Alpine:3", "image 1: name"),
            ("docker.io/you/frontend:1", "alpine:3", "is there twice"),
            ("[[git]]", "[[svn]]", "svn 1: \"svn\" is not known"),
            ("object = \"0123", "object = \"main", "is no commit"),
            (
                "checksum = \"sha256:ef",
                "sum = \"sha256:ef",
                "file 1: \"sum\" is not known",
            ),
            ("[[image]]\nname", "[[image]\nname", "line "),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            let error = Lock::parse(&EXAMPLE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(wanted), "{to}: {error}");
        }
    }

    #[test]
    fn a_difference_shows_what_moved_came_and_went() {
        let old = Lock::parse(EXAMPLE).unwrap();
        let moved = EXAMPLE
            .replace("sha256:abab", "sha256:0bab")
            .replace("you/frontend:1", "you/frontend:2");
        let new = Lock::parse(&moved).unwrap();
        insta::assert_snapshot!(difference(&old, &new));
        assert_eq!(difference(&old, &old), "");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = Lock::parse(&text);
        }
    }
}
