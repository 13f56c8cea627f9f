//! The files of policies: below the context, or with `cwd://` before their name below the current directory, and
//! nowhere else.

use std::path::{Component, Path, PathBuf};

use crate::error::UsageError;

/// Longest file that is read, in bytes: a table of allowed things is smaller.
const MAX_FILE: u64 = 8 << 20;
/// Modules that one policy may consist of.
const MAX_MODULES: usize = 256;
const CWD: &str = "cwd://";

/// A file of Rego.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    pub name: String,
    pub text: String,
}

/// Where files of policies are.
#[derive(Debug, Clone)]
pub struct Files {
    /// Of a context that is a directory.
    pub context: Option<PathBuf>,
}

impl Files {
    /// # Errors
    /// It is not there, not below its root, or too large; in words.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let (root, path) = match name.strip_prefix(CWD) {
            Some(path) => (Path::new("."), path),
            None => {
                let Some(context) = &self.context else {
                    return Err(format!(
                        "the context is no directory: write {CWD}{name} for a file below the current directory"
                    ));
                };
                (context.as_path(), name)
            }
        };
        let path = Path::new(path);
        // An absolute name of a file in there is as good.
        let path = path.strip_prefix(root).unwrap_or(path);
        let leads_out =
            |part: Component<'_>| !matches!(part, Component::Normal(_) | Component::CurDir);
        let outside = || format!("it is not below {}", root.display());
        if path.components().any(leads_out) {
            return Err(outside());
        }
        let found = std::fs::canonicalize(root.join(path)).map_err(|error| error.to_string())?;
        let root = std::fs::canonicalize(root).map_err(|error| error.to_string())?;
        if !found.starts_with(&root) {
            return Err(outside());
        }
        let metadata = std::fs::metadata(&found).map_err(|error| error.to_string())?;
        if metadata.len() > MAX_FILE {
            return Err(format!("it is larger than {MAX_FILE} bytes"));
        }
        std::fs::read(&found).map_err(|error| error.to_string())
    }

    /// # Errors
    /// As [`Files::read`], or it is no text.
    pub fn module(&self, name: &str) -> Result<Module, UsageError> {
        let wrong = |problem: String| UsageError::new("--policy", name, problem);
        let bytes = self.read(name).map_err(wrong)?;
        let text = String::from_utf8(bytes).map_err(|_| wrong("it is no text".into()))?;
        Ok(Module {
            name: name.to_owned(),
            text,
        })
    }

    /// These, and all that they import: `import data.a.b` is the file `a/b.rego`, whatever package it says it is.
    ///
    /// # Errors
    /// One is not there, or there are too many.
    pub fn with_imports(&self, modules: Vec<Module>) -> Result<Vec<Module>, UsageError> {
        let mut all = modules;
        let mut next = 0;
        while let Some(module) = all.get(next) {
            for package in imports(&module.text) {
                let name = format!("{}.rego", package.replace('.', "/"));
                if all.iter().any(|module| module.name == name) {
                    continue;
                }
                let mut imported = self.module(&name)?;
                imported.text = in_package(&imported.text, &package);
                all.push(imported);
            }
            if all.len() > MAX_MODULES {
                let first = all.first().map_or("", |module| module.name.as_str());
                let problem = format!("it imports more than {MAX_MODULES} modules");
                return Err(UsageError::new("--policy", first, problem));
            }
            next += 1;
        }
        Ok(all)
    }
}

fn imports(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let way = line.trim().strip_prefix("import ")?.trim_start();
            let way = way.strip_prefix("data.")?;
            let end = way.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '.');
            Some(way[..end.unwrap_or(way.len())].to_owned())
        })
        .collect()
}

/// The text with another package; its lines keep their numbers.
fn in_package(text: &str, package: &str) -> String {
    let mut renamed = false;
    let lines = text.lines().map(|line| {
        if !renamed && line.trim_start().starts_with("package ") {
            renamed = true;
            return format!("package {package}\n");
        }
        format!("{line}\n")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_below_the_context_only() {
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().join("context");
        std::fs::create_dir_all(context.join("sub")).unwrap();
        std::fs::write(context.join("sub/a.json"), "1").unwrap();
        std::fs::write(dir.path().join("outside"), "2").unwrap();
        std::os::unix::fs::symlink("../outside", context.join("link")).unwrap();
        let files = Files {
            context: Some(context.clone()),
        };
        assert_eq!(files.read("sub/a.json").unwrap(), b"1");
        assert_eq!(files.read("./sub/a.json").unwrap(), b"1");
        let absolute = context.join("sub/a.json");
        assert_eq!(files.read(absolute.to_str().unwrap()).unwrap(), b"1");
        for name in ["../outside", "link", "/etc/hostname", "sub/../../outside"] {
            let error = files.read(name).unwrap_err();
            assert!(error.contains("not below"), "{name}: {error}");
        }
        let remote = Files { context: None };
        assert!(remote.read("a").unwrap_err().contains("cwd://a"));
    }

    #[test]
    fn imports_are_files_in_their_own_packages() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lib")).unwrap();
        let at = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        at("lib/names.rego", "package other\nimport data.more as m\n");
        at("more.rego", "package more\n");
        let files = Files {
            context: Some(dir.path().to_owned()),
        };
        let first = Module {
            name: "p.rego".into(),
            text: "package docker\nimport data.lib.names\nimport rego.v1\n".into(),
        };
        let all = files.with_imports(vec![first.clone()]).unwrap();
        let names: Vec<&str> = all.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["p.rego", "lib/names.rego", "more.rego"]);
        assert!(all[1].text.starts_with("package lib.names\n"));
        std::fs::remove_file(dir.path().join("more.rego")).unwrap();
        assert!(files.with_imports(vec![first]).is_err());
    }
}
