//! What the environment of a frontend's process says, as values.

use std::collections::BTreeMap;

use gateway_api::Worker;
use gateway_llb::pb;
use serde::Deserialize;

const OPT_PREFIX: &str = "BUILDKIT_FRONTEND_OPT_";

/// What a host hands over in variables. All of it may be missing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Environment {
    pub opts: BTreeMap<String, String>,
    pub session_id: String,
    pub product: String,
    pub workers: Vec<Worker>,
}

impl Environment {
    /// Reads the variables of a frontend's process. Options come in no order; a value is what
    /// follows the first `=` and may hold `=` and line ends.
    pub fn parse(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut environment = Environment::default();
        for (name, value) in variables {
            match name.as_str() {
                "BUILDKIT_SESSION_ID" => environment.session_id = value,
                "BUILDKIT_EXPORTEDPRODUCT" => environment.product = value,
                "BUILDKIT_WORKERS" => environment.workers = workers(&value),
                _ if name.starts_with(OPT_PREFIX) => {
                    let (key, value) = value.split_once('=').unwrap_or((&value, ""));
                    environment.opts.insert(key.to_owned(), value.to_owned());
                }
                _ => {}
            }
        }
        environment
    }
}

/// Unreadable text means no workers: the answer to Ping lists them too.
fn workers(text: &str) -> Vec<Worker> {
    let records: Vec<Option<WorkerJson>> = serde_json::from_str(text).unwrap_or_default();
    let worker = |record: WorkerJson| Worker {
        id: record.id.unwrap_or_default(),
        labels: record.labels.unwrap_or_default(),
        platforms: record
            .platforms
            .unwrap_or_default()
            .into_iter()
            .flatten()
            .map(|platform| pb::Platform {
                architecture: platform.architecture.unwrap_or_default(),
                os: platform.os.unwrap_or_default(),
                variant: platform.variant.unwrap_or_default(),
                os_version: platform.os_version.unwrap_or_default(),
                os_features: platform.os_features.unwrap_or_default(),
            })
            .collect(),
    };
    records.into_iter().flatten().map(worker).collect()
}

/// Every part may be absent or null; others are ignored.
#[derive(Deserialize)]
struct WorkerJson {
    #[serde(default, alias = "ID")]
    id: Option<String>,
    #[serde(default, alias = "Labels")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platforms: Option<Vec<Option<PlatformJson>>>,
}

#[derive(Deserialize)]
struct PlatformJson {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, rename = "os.version")]
    os_version: Option<String>,
    #[serde(default, rename = "os.features")]
    os_features: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Environment {
        let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        Environment::parse(variables.iter().map(owned))
    }

    #[test]
    fn options_split_at_the_first_equals_sign_in_any_order_with_line_ends() {
        let environment = parse(&[
            ("BUILDKIT_FRONTEND_OPT_7", "build-arg:A=x=y\nz"),
            ("BUILDKIT_FRONTEND_OPT_0", "filename=Dockerfile"),
            ("BUILDKIT_FRONTEND_OPT_1", "no-cache"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(environment.opts["build-arg:A"], "x=y\nz");
        assert_eq!(environment.opts["filename"], "Dockerfile");
        assert_eq!(environment.opts["no-cache"], "");
        assert_eq!(environment.opts.len(), 3);
    }

    #[test]
    fn workers_read_with_unknown_missing_and_null_parts() {
        let text = r#"[{"id":"w","labels":null,"gcPolicy":null,"platforms":[{"architecture":"arm","os":"linux","variant":"v7","os.version":"1"},null]},{},null]"#;
        let environment = parse(&[("BUILDKIT_WORKERS", text)]);
        assert_eq!(environment.workers.len(), 2);
        assert_eq!(environment.workers[0].platforms[0].variant, "v7");
        assert_eq!(environment.workers[0].platforms[0].os_version, "1");
        assert_eq!(parse(&[("BUILDKIT_WORKERS", "[{")]).workers, []);
    }
}
