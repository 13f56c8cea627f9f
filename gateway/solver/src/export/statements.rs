//! Statements beside exported files: `provenance.json`, `sbom.spdx.json`, about every file there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway_api::Error;
use sha2::{Digest as _, Sha256};

use super::attestation::{Attested, Subject};
use crate::shared::Outcome;
use crate::solve::internal;

/// Readable for the owner only, as the reference writes them.
pub const MODE: u32 = 0o600;

/// What is attested of the files of one result, and how the files that say so are named.
#[derive(Clone)]
pub struct Statements {
    attested: Arc<[Attested]>,
    prefix: String,
    /// Put before the extension, where several results share a directory.
    platform: Option<String>,
}

impl Statements {
    /// # Errors
    /// The prefix is more than the beginning of a name.
    pub fn new(
        attested: &Arc<[Attested]>,
        attrs: &BTreeMap<String, String>,
        platform: Option<String>,
    ) -> Outcome<Statements> {
        let prefix = attrs.get("attestation-prefix").cloned().unwrap_or_default();
        if prefix.contains('/') {
            return Err(Error::invalid(format!(
                "attestation-prefix {prefix:?}: the beginning of a file's name cannot have a slash"
            )));
        }
        Ok(Statements {
            attested: attested.clone(),
            prefix,
            platform,
        })
    }

    /// The files with their names, about all regular files below `root`.
    pub fn files(&self, root: &Path) -> Outcome<Vec<(String, Vec<u8>)>> {
        let mut wanted = self.attested.iter().filter(|a| !a.inline_only).peekable();
        if wanted.peek().is_none() {
            return Ok(Vec::new());
        }
        let subjects = subjects(root).map_err(internal)?;
        let mut names = BTreeSet::new();
        let mut files = Vec::new();
        for attested in wanted {
            let name = self.name(attested)?;
            if !names.insert(name.clone()) {
                return Err(Error::unknown(format!(
                    "duplicate attestation path name {name}"
                )));
            }
            files.push((name, attested.statement(&subjects)?.to_file()?));
        }
        Ok(files)
    }

    fn name(&self, attested: &Attested) -> Outcome<String> {
        let base = attested.file_name();
        if matches!(base, "" | "." | "..") || base.contains('\0') {
            return Err(Error::unknown(format!(
                "attestation path {:?} has no name for a file",
                attested.path
            )));
        }
        let name = format!("{}{base}", self.prefix);
        let Some(platform) = &self.platform else {
            return Ok(name);
        };
        let platform = platform.replace('/', "_");
        Ok(match name.rsplit_once('.') {
            Some((stem, extension)) => format!("{stem}.{platform}.{extension}"),
            None => format!("{name}.{platform}"),
        })
    }
}

/// All regular files with their digests, in the order of a walk.
fn subjects(root: &Path) -> io::Result<Vec<Subject>> {
    let mut found = Vec::new();
    // Paths are kept reversed: the next one is at the end.
    let mut todo = children(root, Path::new(""))?;
    while let Some((path, is_dir)) = todo.pop() {
        if is_dir {
            todo.extend(children(root, &path)?);
            continue;
        }
        let mut hasher = Sha256::new();
        io::copy(&mut File::open(root.join(&path))?, &mut hasher)?;
        found.push(Subject {
            name: path.to_string_lossy().into_owned(),
            digest: [("sha256".to_owned(), hex::encode(hasher.finalize()))].into(),
        });
    }
    Ok(found)
}

/// Directories and regular files; links are neither.
fn children(root: &Path, dir: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(root.join(dir))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() || kind.is_file() {
            entries.push((dir.join(entry.file_name()), kind.is_dir()));
        }
    }
    entries.sort_by(|a, b| b.cmp(a));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_the_regular_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("b/c")).unwrap();
        for name in ["z", "b/c/2", "b/1", "a"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let subjects = subjects(dir.path()).unwrap();
        let names: Vec<&str> = subjects.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["a", "b/1", "b/c/2", "z"]);
        assert_eq!(
            subjects[0].digest["sha256"],
            "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
        );
    }

    #[test]
    fn a_prefix_cannot_lead_elsewhere() {
        let attrs = BTreeMap::from([("attestation-prefix".to_owned(), "../".to_owned())]);
        let none: Arc<[Attested]> = Vec::new().into();
        assert!(Statements::new(&none, &attrs, None).is_err());
    }
}
