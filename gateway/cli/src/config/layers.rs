//! The configuration files, one laid over the other: key by key the strongest that says something counts.
//!
//! `--config FILE` or `GATEWAY_CONFIG` name the only one. Else, the strongest first: the user's `gateway.toml`,
//! the system's, and BuildKit's `buildkitd.toml`.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::keys::{BUILDKIT, KEYS, Key, Kind, WORKER};
use crate::environment::Environment;
use crate::error::CliError;

/// Names the configuration file, as `--config` does.
pub const VARIABLE: &str = "GATEWAY_CONFIG";
const OWN: &str = "gateway/gateway.toml";
const BUILDKITD: &str = "buildkit/buildkitd.toml";
const ETC: &str = "/etc";

/// One file that was found.
#[derive(Debug)]
pub struct ConfigFile {
    pub path: PathBuf,
    pub text: String,
    pub table: Table,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Flag(&'static str),
    Variable(&'static str),
    File(PathBuf),
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Flag(name) | Origin::Variable(name) => f.write_str(name),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// The files, the strongest first.
#[derive(Debug, Default)]
pub struct Layers {
    pub files: Vec<ConfigFile>,
    /// Places that were looked at and have none.
    pub missing: Vec<PathBuf>,
}

/// `$XDG_CONFIG_HOME`, else `~/.config`.
pub fn user_config(env: &Environment) -> Option<PathBuf> {
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty());
    set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(home).join(".config")))
}

impl Layers {
    /// Reads what is there.
    ///
    /// # Errors
    /// When a file that is named is missing, and when one cannot be read or understood.
    pub fn find(flag: Option<&Path>, env: &Environment) -> Result<Layers, CliError> {
        let named = flag.map(Path::to_owned).or_else(|| {
            let set = env.get(VARIABLE).filter(|value| !value.is_empty());
            set.map(PathBuf::from)
        });
        let mut layers = Layers::default();
        if let Some(path) = named {
            layers.files.push(ConfigFile::read(&path, false)?);
            return Ok(layers);
        }
        let own = user_config(env);
        let places = |name: &str| {
            let own = own.iter().map(|dir| dir.join(name));
            own.chain([Path::new(ETC).join(name)]).collect::<Vec<_>>()
        };
        for path in places(OWN) {
            match path.is_file() {
                true => layers.files.push(ConfigFile::read(&path, false)?),
                false => layers.missing.push(path),
            }
        }
        // As for BuildKit itself, a user's file stands in for the system's.
        let mut found = false;
        for path in places(BUILDKITD) {
            if !found && path.is_file() {
                layers.files.push(ConfigFile::read(&path, true)?);
                found = true;
            } else if !found {
                layers.missing.push(path);
            }
        }
        Ok(layers)
    }

    /// The same for the daemon, whose file is BuildKit's also when it is named: what is not known in it
    /// is told and ends nothing.
    ///
    /// # Errors
    /// As for [`Layers::find`].
    pub fn of_daemon(flag: Option<&Path>, env: &Environment) -> Result<Layers, CliError> {
        let Some(path) = flag else {
            return Layers::find(None, env);
        };
        Ok(Layers {
            files: vec![ConfigFile::read(path, true)?],
            ..Layers::default()
        })
    }

    /// All files as one.
    pub fn merged(&self) -> Table {
        let mut merged = Table::new();
        for file in self.files.iter().rev() {
            lay_over(&mut merged, &file.table);
        }
        merged
    }

    /// What the environment, else a file says of one of our own keys.
    ///
    /// # Errors
    /// When a variable has no such value. Files were looked through when they were read.
    pub fn value(&self, key: &Key, env: &Environment) -> Result<Option<(Value, Origin)>, CliError> {
        for name in key.variables {
            if let Some(text) = env.get(*name).filter(|text| !text.is_empty()) {
                let value = of_variable(key.kind, text).ok_or_else(|| {
                    let problem = format!("must be {}", key.kind.told());
                    crate::error::UsageError::new(*name, text, problem)
                })?;
                return Ok(Some((value, Origin::Variable(name))));
            }
        }
        let (table, name) = key.table_and_key();
        Ok(self.files.iter().find_map(|file| {
            let value = file.table.get(table)?.get(name)?;
            let value = file.resolved(key.kind, value);
            Some((value, Origin::File(file.path.clone())))
        }))
    }

    /// The file that says what counts at this place.
    pub fn origin(&self, place: &[String]) -> Option<&Path> {
        self.files
            .iter()
            .find(|file| {
                let mut table = Some(&file.table);
                let Some((last, tables)) = place.split_last() else {
                    return false;
                };
                for name in tables {
                    table = table.and_then(|t| t.get(name)).and_then(Value::as_table);
                }
                table.is_some_and(|table| table.contains_key(last))
            })
            .map(|file| file.path.as_path())
    }
}

impl ConfigFile {
    /// Of a `foreign` file, one of BuildKit's own, unknown tables are no mistake that we would have to tell.
    fn read(path: &Path, foreign: bool) -> Result<ConfigFile, CliError> {
        let text = std::fs::read_to_string(path).map_err(|source| CliError::ConfigFile {
            path: path.to_owned(),
            source,
        })?;
        let wrong = |problem: String| CliError::Config {
            path: path.to_owned(),
            problem,
        };
        let table = text
            .parse::<Table>()
            .map_err(|error| wrong(error.to_string()))?;
        check(&table, foreign).map_err(wrong)?;
        Ok(ConfigFile {
            path: path.to_owned(),
            text,
            table,
        })
    }

    /// What of the file means nothing here, for `gateway config`.
    pub fn unused(&self) -> Vec<String> {
        let used = |name: &str| {
            matches!(name, "registry" | "frontend" | "worker" | "cdi") || is_own_table(name)
        };
        let mut unused: Vec<String> = self
            .table
            .keys()
            .filter(|name| !used(name))
            .cloned()
            .collect();
        let workers = self.table.get("worker").and_then(Value::as_table);
        for (name, worker) in workers.into_iter().flatten() {
            let keys = worker.as_table().into_iter().flatten();
            let unknown = keys
                .map(|(key, _)| key)
                .filter(|key| name != "oci" || !WORKER.contains(&key.as_str()));
            unused.extend(unknown.map(|key| format!("worker.{name}.{key}")));
        }
        unused
    }

    /// Relative paths count from the file's folder.
    fn resolved(&self, kind: Kind, value: &Value) -> Value {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let absolute = |value: &Value| match value.as_str() {
            Some(text) => {
                let path = dir.join(text);
                let path = std::path::absolute(&path).unwrap_or(path);
                Value::String(path.to_string_lossy().into_owned())
            }
            None => value.clone(),
        };
        match (kind, value) {
            (Kind::Path, value) => absolute(value),
            (Kind::Paths, Value::Array(list)) => Value::Array(list.iter().map(absolute).collect()),
            (_, value) => value.clone(),
        }
    }
}

/// Whether a table is this program's, not of BuildKit's file.
pub fn is_own_table(name: &str) -> bool {
    KEYS.iter().any(|key| key.table_and_key().0 == name)
}

/// Our own tables hold what is known, each of its kind, and no table has a name that nobody knows.
fn check(table: &Table, foreign: bool) -> Result<(), String> {
    for (name, value) in table {
        if !is_own_table(name) {
            if foreign || BUILDKIT.contains(&name.as_str()) {
                continue;
            }
            return Err(format!(
                "unknown {name:?}: there are [gateway], [build], [progress], and the tables of buildkitd.toml"
            ));
        }
        let entries = value
            .as_table()
            .ok_or_else(|| format!("{name} must be a table: [{name}]"))?;
        for (entry, value) in entries {
            let known = |key: &&Key| key.table_and_key() == (name.as_str(), entry.as_str());
            let Some(key) = KEYS.iter().find(known) else {
                let own = KEYS.iter().map(Key::table_and_key);
                let names: Vec<&str> = own
                    .filter(|(table, _)| table == name)
                    .map(|(_, key)| key)
                    .collect();
                return Err(format!(
                    "[{name}]: unknown key {entry}: {} are known",
                    names.join(", ")
                ));
            };
            if !fits(key.kind, value) {
                return Err(format!("[{name}]: {entry} must be {}", key.kind.told()));
            }
        }
    }
    Ok(())
}

fn fits(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Text | Kind::Path => value.is_str(),
        Kind::Switch => value.is_bool(),
        Kind::Number => value.as_integer().is_some_and(|number| number >= 0),
        Kind::List | Kind::Paths => value
            .as_array()
            .is_some_and(|list| list.iter().all(Value::is_str)),
    }
}

fn of_variable(kind: Kind, text: &str) -> Option<Value> {
    Some(match kind {
        Kind::Text => Value::String(text.to_owned()),
        Kind::Path | Kind::Paths => {
            let path = std::path::absolute(text).ok()?;
            let path = Value::String(path.to_string_lossy().into_owned());
            match kind {
                Kind::Path => path,
                _ => Value::Array(vec![path]),
            }
        }
        Kind::Switch => Value::Boolean(match text {
            "1" | "true" => true,
            "0" | "false" => false,
            _ => return None,
        }),
        Kind::List => {
            let words = text.split(',').map(|word| word.trim().to_owned());
            Value::Array(words.map(Value::String).collect())
        }
        Kind::Number => Value::Integer(i64::from(text.parse::<u32>().ok()?)),
    })
}

/// Key by key; lists are values.
fn lay_over(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, Environment) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let home = dir.path().to_str().unwrap().to_owned();
        (
            dir,
            Environment::from([("XDG_CONFIG_HOME".to_owned(), home)]),
        )
    }

    fn own(name: &str) -> &'static Key {
        KEYS.iter().find(|key| key.name == name).unwrap()
    }

    #[test]
    fn our_file_lies_over_buildkits_key_by_key() {
        let (dir, env) = written(&[
            (
                OWN,
                "[registry.\"h\"]\nhttp = true\n[build]\npull = true\n[gateway]\nroot = \"store\"\n",
            ),
            (
                BUILDKITD,
                "root = \"/x\"\ncolour = 1\n[registry.\"h\"]\nhttp = false\nca = [\"/c\"]\n[grpc]\nuid = 1\n",
            ),
        ]);
        let layers = Layers::find(None, &env).unwrap();
        let merged = layers.merged();
        assert_eq!(merged["registry"]["h"]["http"].as_bool(), Some(true));
        assert_eq!(merged["registry"]["h"]["ca"][0].as_str(), Some("/c"));
        let place = |key: &str| ["registry", "h", key].map(str::to_owned);
        assert!(layers.origin(&place("http")).unwrap().ends_with(OWN));
        assert!(layers.origin(&place("ca")).unwrap().ends_with(BUILDKITD));
        assert_eq!(layers.origin(&place("no")), None);
        let (value, origin) = layers.value(own("build.pull"), &env).unwrap().unwrap();
        assert_eq!(value.as_bool(), Some(true));
        assert_eq!(origin, Origin::File(dir.path().join(OWN)));
        let (root, _) = layers.value(own("gateway.root"), &env).unwrap().unwrap();
        assert_eq!(
            root.as_str(),
            dir.path().join("gateway/store").to_str(),
            "BuildKit's root is its own"
        );
        assert_eq!(layers.files[1].unused(), ["colour", "grpc", "root"]);
    }

    #[test]
    fn a_variable_beats_files_and_a_named_file_stands_alone() {
        let (dir, mut env) = written(&[
            (
                OWN,
                "[build]\nprogress = \"plain\"\nplatforms = [\"linux/arm64\"]\n",
            ),
            ("other.toml", "[build]\nprogress = \"tty\"\n"),
        ]);
        env.insert("BUILDKIT_PROGRESS".into(), "rawjson".into());
        env.insert(
            "DOCKER_DEFAULT_PLATFORM".into(),
            "linux/amd64, linux/386".into(),
        );
        let value = |layers: &Layers, env: &Environment, name: &str| {
            let found = layers.value(own(name), env).unwrap();
            found.map(|(value, origin)| (value.to_string(), origin.to_string()))
        };
        let layers = Layers::find(None, &env).unwrap();
        let expected = ("\"rawjson\"".to_owned(), "BUILDKIT_PROGRESS".to_owned());
        assert_eq!(value(&layers, &env, "build.progress"), Some(expected));
        let platforms = value(&layers, &env, "build.platforms").unwrap().0;
        assert_eq!(platforms, "[\"linux/amd64\", \"linux/386\"]");

        env.remove("BUILDKIT_PROGRESS");
        let other = dir.path().join("other.toml");
        let named = Layers::find(Some(&other), &env).unwrap();
        assert_eq!(named.files.len(), 1);
        assert_eq!(value(&named, &env, "build.progress").unwrap().0, "\"tty\"");
        env.insert(VARIABLE.into(), other.to_str().unwrap().into());
        let named = Layers::find(None, &env).unwrap();
        assert_eq!(value(&named, &env, "build.progress").unwrap().0, "\"tty\"");
        env.insert("GATEWAY_PULL".into(), "perhaps".into());
        let error = named
            .value(own("build.pull"), &env)
            .unwrap_err()
            .to_string();
        assert!(error.contains("GATEWAY_PULL \"perhaps\""), "{error}");
    }

    #[test]
    fn mistakes_in_our_own_tables_are_told_with_what_is_known() {
        for (text, told) in [
            ("[build]\npul = true\n", "unknown key pul: progress, debug,"),
            ("[build]\npull = 1\n", "pull must be true or false"),
            ("[biuld]\n", "unknown \"biuld\""),
            ("build = 1\n", "must be a table"),
            ("[progress]\nlog-lines = -1\n", "must be a number"),
            ("[build\n", "line 1"),
        ] {
            let (dir, env) = written(&[(OWN, text)]);
            let error = Layers::find(None, &env).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
            assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
        }
        assert!(Layers::find(Some(Path::new("/no/such")), &Environment::new()).is_err());
    }

    #[test]
    fn every_key_has_a_default_of_its_kind() {
        for key in &KEYS {
            if key.default.is_empty() {
                continue;
            }
            let table: Table = format!("x = {}", key.default).parse().unwrap();
            assert!(fits(key.kind, &table["x"]), "{}", key.name);
        }
    }
}
