//! Where things are: the store, the configuration files, the docker credentials. The only place that
//! reads the environment for them.

mod fill;
pub mod keys;
pub mod layers;
pub mod show;

use std::path::{Path, PathBuf};

use gateway_bridge::{FrontendLimits, FrontendPolicy};
use gateway_images::registry::Registries;
use gateway_solver::StepOptions;

use crate::collection::CollectionSettings;
use crate::environment::Environment;
use crate::error::CliError;
use crate::registry::settings::{self, RegistryArgs};
use crate::worker;
pub use fill::{filled, number, registry_args, text};
pub use layers::Layers;

/// The store: `--root`, else what the environment or a file says, else the usual place for root or for a user.
pub fn store_root(
    flag: Option<&Path>,
    layers: &Layers,
    env: &Environment,
    is_root: bool,
) -> Result<PathBuf, CliError> {
    if let Some(root) = flag {
        let root = root.to_owned();
        return std::path::absolute(&root).map_err(|source| CliError::Write { path: root, source });
    }
    if let Some(root) = fill::text(layers, env, "gateway.root")? {
        return Ok(PathBuf::from(root));
    }
    if is_root {
        return Ok(PathBuf::from("/var/lib/gateway"));
    }
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let data = match (set("XDG_DATA_HOME"), set("HOME")) {
        (Some(data), _) => PathBuf::from(data),
        (None, Some(home)) => Path::new(home).join(".local/share"),
        (None, None) => return Err(CliError::NoHome),
    };
    Ok(data.join("gateway"))
}

/// What flags, environment and files say, put together.
pub struct Settings {
    pub registries: Registries,
    pub policy: FrontendPolicy,
    pub limits: FrontendLimits,
    pub collection: CollectionSettings,
    /// Steps that run at once; 0 for the usual number.
    pub max_parallelism: usize,
    pub steps: StepOptions,
    /// For stderr.
    pub warnings: Vec<String>,
}

/// # Errors
/// When something in a file is not understood that guards something.
pub fn settings(
    args: &RegistryArgs,
    layers: &Layers,
    env: &Environment,
) -> Result<Settings, CliError> {
    // Each file by itself first, so that an error names the one that has it.
    for file in &layers.files {
        let wrong = |problem| CliError::Config {
            path: file.path.clone(),
            problem,
        };
        frontend_settings(&file.table).map_err(wrong)?;
        CollectionSettings::parse(&file.table).map_err(wrong)?;
        parallelism(&file.table).map_err(wrong)?;
        worker::parse(&file.table).map_err(wrong)?;
    }
    let merged = layers.merged();
    let wrong = |problem| CliError::Config {
        path: layers
            .files
            .first()
            .map(|f| f.path.clone())
            .unwrap_or_default(),
        problem,
    };
    let (policy, limits) = frontend_settings(&merged).map_err(wrong)?;
    let collection = CollectionSettings::parse(&merged).map_err(wrong)?;
    let max_parallelism = parallelism(&merged).map_err(wrong)?;
    let steps = worker::parse(&merged).map_err(wrong)?;
    let (registries, warnings) =
        settings::registries(&registry_args(args, layers, env)?, layers, env)?;
    Ok(Settings {
        registries: Registries::new(registries),
        policy,
        limits,
        collection,
        max_parallelism,
        steps,
        warnings,
    })
}

/// `max-parallelism` of `[worker.oci]`, as in a buildkitd.toml.
fn parallelism(document: &toml::Table) -> Result<usize, String> {
    let worker = document.get("worker").and_then(|worker| worker.get("oci"));
    let Some(value) = worker.and_then(|worker| worker.get("max-parallelism")) else {
        return Ok(0);
    };
    size(value, 0, MOST_STEPS).ok_or_else(|| {
        format!("worker.oci: max-parallelism must be a number of steps, 0 to {MOST_STEPS}")
    })
}

/// Docker's configuration file of this user, if there is one.
pub fn docker_config(env: &Environment) -> Option<PathBuf> {
    settings::login_file(env).filter(|path| path.exists())
}

/// Longest time that may be set for a frontend's start, in seconds.
const LONGEST_START: i64 = 24 * 60 * 60;

/// Longest timeout other than none, in seconds: a month.
const LONGEST_TIMEOUT: i64 = 31 * 24 * 60 * 60;

/// Below this not even the start of a process succeeds, and its failure would not tell why.
const LEAST_MEMORY: u64 = 16 << 20;

/// Smaller messages than any build file's definition.
const LEAST_MESSAGE: usize = 64 << 10;

/// Larger ones no client takes.
const MOST_MESSAGE: usize = 256 << 20;

/// What may wait in memory for one frontend.
const MOST_BUFFERED: usize = 64 << 30;

/// Steps at once that no machine runs.
const MOST_STEPS: usize = 1 << 20;

/// A number in a range.
fn size(value: &toml::Value, least: usize, most: usize) -> Option<usize> {
    let number = usize::try_from(value.as_integer()?).ok()?;
    (least..=most).contains(&number).then_some(number)
}

/// The `[frontend."..."]` tables. They guard what may run, so whatever is not understood is an error.
fn frontend_settings(document: &toml::Table) -> Result<(FrontendPolicy, FrontendLimits), String> {
    let mut policy = FrontendPolicy::default();
    let mut limits = FrontendLimits::default();
    let Some(frontends) = document.get("frontend") else {
        return Ok((policy, limits));
    };
    let frontends = frontends
        .as_table()
        .ok_or("frontend must hold tables: [frontend.\"gateway.v0\"]")?;
    for (name, table) in frontends {
        let table = table
            .as_table()
            .ok_or_else(|| format!("frontend.{name:?} must be a table"))?;
        for (key, value) in table {
            let wrong = |kind: &str| format!("frontend.{name:?}: {key} must be {kind}");
            match (name.as_str(), key.as_str()) {
                ("gateway.v0", "enabled") => {
                    policy.gateway_enabled =
                        value.as_bool().ok_or_else(|| wrong("true or false"))?;
                }
                ("dockerfile.v0", "enabled") => {
                    policy.dockerfile_enabled =
                        value.as_bool().ok_or_else(|| wrong("true or false"))?;
                }
                ("gateway.v0", "allowedRepositories") => {
                    policy.allowed_repositories = value
                        .as_array()
                        .and_then(|list| {
                            list.iter()
                                .map(|entry| entry.as_str().map(str::to_owned))
                                .collect()
                        })
                        .ok_or_else(|| wrong("a list of repositories"))?;
                }
                ("gateway.v0", "startTimeout") => {
                    let seconds = value
                        .as_integer()
                        .filter(|seconds| (1..=LONGEST_START).contains(seconds))
                        .ok_or_else(|| wrong("a number of seconds"))?;
                    limits.start_timeout = std::time::Duration::from_secs(seconds.unsigned_abs());
                }
                ("gateway.v0", "timeout") => {
                    let seconds = value
                        .as_integer()
                        .filter(|seconds| (0..=LONGEST_TIMEOUT).contains(seconds))
                        .ok_or_else(|| wrong("a number of seconds, 0 for no limit"))?;
                    let limit = std::time::Duration::from_secs(seconds.unsigned_abs());
                    limits.timeout = Some(limit).filter(|limit| !limit.is_zero());
                }
                ("gateway.v0", "maxMemory") => {
                    limits.memory_bytes = value
                        .as_integer()
                        .and_then(|bytes| u64::try_from(bytes).ok())
                        .filter(|bytes| *bytes >= LEAST_MEMORY)
                        .ok_or_else(|| wrong("a number of bytes, 16 MiB or more"))?;
                }
                ("gateway.v0", "maxProcesses") => {
                    limits.processes = value
                        .as_integer()
                        .and_then(|count| u64::try_from(count).ok())
                        .filter(|count| *count > 0)
                        .ok_or_else(|| wrong("a number of processes"))?;
                }
                ("gateway.v0", "idleTimeout") => {
                    let seconds = value
                        .as_integer()
                        .filter(|seconds| (0..=LONGEST_TIMEOUT).contains(seconds))
                        .ok_or_else(|| wrong("a number of seconds, 0 for no limit"))?;
                    let limit = std::time::Duration::from_secs(seconds.unsigned_abs());
                    limits.idle_timeout = Some(limit).filter(|limit| !limit.is_zero());
                }
                ("gateway.v0", "maxMessage") => {
                    limits.message_bytes = size(value, LEAST_MESSAGE, MOST_MESSAGE)
                        .ok_or_else(|| wrong("a number of bytes, 64 KiB to 256 MiB"))?;
                }
                ("gateway.v0", "maxDefinitions") => {
                    limits.definition_bytes =
                        size(value, 1, usize::MAX).ok_or_else(|| wrong("a number of bytes"))?;
                }
                ("gateway.v0", "maxBuffered") => {
                    limits.buffered_bytes = size(value, LEAST_MESSAGE, MOST_BUFFERED)
                        .ok_or_else(|| wrong("a number of bytes, 64 KiB to 64 GiB"))?;
                }
                ("gateway.v0", "maxRefs") => {
                    limits.refs =
                        size(value, 1, usize::MAX).ok_or_else(|| wrong("a number of refs"))?;
                }
                ("gateway.v0", "maxContainers") => {
                    limits.containers = size(value, 0, usize::MAX)
                        .ok_or_else(|| wrong("a number of containers"))?;
                }
                ("gateway.v0" | "dockerfile.v0", _) => {
                    return Err(format!("frontend.{name:?}: unknown key {key}"));
                }
                _ => return Err(format!("unknown frontend {name:?}")),
            }
        }
    }
    Ok((policy, limits))
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

    fn of_text(text: &str) -> Result<(FrontendPolicy, FrontendLimits), String> {
        frontend_settings(&text.parse().unwrap())
    }

    #[test]
    fn the_number_of_steps_at_once_is_read_or_refused() {
        assert_eq!(
            parallelism(&"[worker.oci]\ngc = true\n".parse().unwrap()),
            Ok(0)
        );
        assert_eq!(
            parallelism(&"[worker.oci]\nmax-parallelism = 4\n".parse().unwrap()),
            Ok(4)
        );
        for wrong in ["-1", "\"4\"", "99999999"] {
            let text = format!("[worker.oci]\nmax-parallelism = {wrong}\n");
            let problem = parallelism(&text.parse().unwrap()).unwrap_err();
            assert!(problem.contains("max-parallelism"), "{problem}");
        }
    }

    #[test]
    fn the_flag_beats_the_environment_beats_the_usual_place() {
        let vars = env(&[("GATEWAY_ROOT", "/from/env"), ("HOME", "/home/me")]);
        let root = |flag: Option<&str>, env: &Environment, is_root| {
            store_root(flag.map(Path::new), &Layers::default(), env, is_root).unwrap()
        };
        assert_eq!(root(Some("/flag"), &vars, true), Path::new("/flag"));
        assert_eq!(root(None, &vars, true), Path::new("/from/env"));
        assert_eq!(root(None, &env(&[]), true), Path::new("/var/lib/gateway"));
        assert_eq!(
            root(None, &env(&[("HOME", "/home/me")]), false),
            Path::new("/home/me/.local/share/gateway")
        );
        assert!(store_root(None, &Layers::default(), &env(&[]), false).is_err());
    }

    #[test]
    fn frontend_tables_set_policy_and_limits() {
        let (policy, limits) = of_text(
            "[frontend.\"gateway.v0\"]\nenabled = false\nallowedRepositories = [\"docker/dockerfile\"]\nstartTimeout = 2\ntimeout = 0\nmaxMemory = 16777216\nmaxProcesses = 9\nidleTimeout = 7\nmaxMessage = 65536\nmaxDefinitions = 5\nmaxBuffered = 1048576\nmaxRefs = 4\nmaxContainers = 0\n",
        )
        .unwrap();
        assert!(!policy.gateway_enabled);
        assert_eq!(policy.allowed_repositories, ["docker/dockerfile"]);
        assert_eq!(limits.start_timeout.as_secs(), 2);
        assert_eq!(limits.timeout, None);
        assert_eq!(limits.memory_bytes, 16 << 20);
        assert_eq!(limits.processes, 9);
        assert_eq!(limits.idle_timeout.unwrap().as_secs(), 7);
        assert_eq!(limits.message_bytes, 65536);
        assert_eq!(limits.definition_bytes, 5);
        assert_eq!(limits.buffered_bytes, 1 << 20);
        assert_eq!((limits.refs, limits.containers), (4, 0));
    }

    #[test]
    fn what_is_not_understood_of_a_guard_is_an_error() {
        for text in [
            "[frontend.\"gateway.v0\"]\nallowedRepos = []\n",
            "[frontend.\"gateway.v0\"]\nenabled = \"no\"\n",
            "[frontend.\"gateway.v1\"]\nenabled = false\n",
            "[frontend.\"gateway.v0\"]\nstartTimeout = -1\n",
            "[frontend.\"gateway.v0\"]\ntimeout = -1\n",
            "[frontend.\"gateway.v0\"]\nmaxMemory = \"1g\"\n",
            "[frontend.\"gateway.v0\"]\nmaxMemory = 1\n",
            "[frontend.\"gateway.v0\"]\nmaxProcesses = 0\n",
            "[frontend.\"gateway.v0\"]\nmaxMessage = 1\n",
            "[frontend.\"gateway.v0\"]\nidleTimeout = \"never\"\n",
        ] {
            assert!(of_text(text).is_err(), "{text}");
        }
    }
}
