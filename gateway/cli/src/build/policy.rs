//! `--source-policy` and the variable that BuildKit's clients read: files to policies.

use std::path::{Path, PathBuf};

use gateway_solver::policy::{Policy, SourcePolicies};

use crate::environment::Environment;
use crate::error::CliError;

const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";

/// Those of the environment first. All of them hold.
pub fn read(flags: &[PathBuf], env: &Environment) -> Result<SourcePolicies, CliError> {
    let variable = env.get(VARIABLE).filter(|path| !path.is_empty());
    let files = variable.map(Path::new).into_iter();
    let files = files.chain(flags.iter().map(PathBuf::as_path));
    let policies = files.map(file).collect::<Result<Vec<_>, CliError>>()?;
    Ok(SourcePolicies::new(policies))
}

fn file(path: &Path) -> Result<Policy, CliError> {
    let text = std::fs::read_to_string(path).map_err(|source| CliError::PolicyFile {
        path: path.to_owned(),
        source,
    })?;
    Policy::parse(path.display().to_string(), &text).map_err(|source| CliError::Policy {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_cannot_be_read_or_understood_stops_the_build() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        let env = Environment::from([(VARIABLE.to_owned(), path.to_string_lossy().into_owned())]);
        for env in [Environment::new(), env] {
            let flags: &[PathBuf] = match env.is_empty() {
                true => std::slice::from_ref(&path),
                false => &[],
            };
            let _ = std::fs::remove_file(&path);
            let error = read(flags, &env).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("cannot read the source policy")
            );
            std::fs::write(&path, r#"{"rules": [{"actoin": "DENY"}]}"#).unwrap();
            let error = read(flags, &env).unwrap_err().to_string();
            assert!(
                error.contains("rule 1: unknown member \"actoin\""),
                "{error}"
            );
            std::fs::write(&path, "{}").unwrap();
            assert!(!read(flags, &env).unwrap().is_empty());
        }
        assert!(read(&[], &Environment::new()).unwrap().is_empty());
    }
}
