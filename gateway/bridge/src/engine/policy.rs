//! Which frontends may run.

use gateway_api::Error;
use gateway_images::reference::Reference;

/// As configured by whoever owns the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendPolicy {
    /// Whether frontend images run at all.
    pub gateway_enabled: bool,
    /// Whether the built-in Dockerfile frontend runs.
    pub dockerfile_enabled: bool,
    /// Repositories of frontend images; empty allows all. Tag and digest of an entry do not count.
    pub allowed_repositories: Vec<String>,
}

impl Default for FrontendPolicy {
    fn default() -> Self {
        FrontendPolicy {
            gateway_enabled: true,
            dockerfile_enabled: true,
            allowed_repositories: Vec::new(),
        }
    }
}

impl FrontendPolicy {
    pub(super) fn allows(&self, frontend: &str) -> bool {
        match frontend {
            "gateway.v0" => self.gateway_enabled,
            "dockerfile.v0" => self.dockerfile_enabled,
            _ => true,
        }
    }

    /// Judges the name as the user wrote it, not what a named context makes of it.
    ///
    /// # Errors
    /// It is not in the list, or cannot be a name of anything in it.
    pub(super) fn check_source(&self, source: &str) -> Result<(), Error> {
        if self.allowed_repositories.is_empty() {
            return Ok(());
        }
        let name = |text: &str| Reference::parse(text).ok().map(|parsed| parsed.name());
        let wanted = name(source);
        let allowed = self.allowed_repositories.iter().map(|entry| name(entry));
        if wanted.is_some() && allowed.into_iter().any(|entry| entry == wanted) {
            return Ok(());
        }
        Err(
            Error::unknown(format!("'{source}' is not an allowed gateway source"))
                .caused_by(gateway_api::Cause::Policy)
                .with_help(format!(
                    "the configuration allows frontends of these repositories only: {}\n",
                    self.allowed_repositories.join(", ")
                )),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p17_the_list_compares_whole_names_without_tag_and_digest() {
        let policy = FrontendPolicy {
            allowed_repositories: vec![
                "docker/dockerfile:1".to_owned(),
                "example.com/team/frontend".to_owned(),
            ],
            ..FrontendPolicy::default()
        };
        for allowed in [
            "docker/dockerfile",
            "docker.io/docker/dockerfile:1.4-labs",
            "example.com/team/frontend:9",
        ] {
            assert!(policy.check_source(allowed).is_ok(), "{allowed}");
        }
        for refused in [
            "docker/dockerfile-upstream",
            "example.com/docker/dockerfile",
            "team/frontend",
            "Not a name",
        ] {
            let error = policy.check_source(refused).unwrap_err();
            assert_eq!(
                error.message,
                format!("'{refused}' is not an allowed gateway source")
            );
        }
        assert!(FrontendPolicy::default().check_source("any/thing").is_ok());
    }
}
