//! The config of an image: what the OCI and Docker image specifications name, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::Error;
use gateway_llb::{State, pb};
use serde::{Deserialize, Serialize};

/// The search path of images that set none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image config.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub author: String,
    /// Processor.
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// Operating system.
    #[serde(deserialize_with = "or_default")]
    pub os: String,
    /// Its version (Windows).
    #[serde(
        rename = "os.version",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub os_version: String,
    /// Its features (Windows).
    #[serde(
        rename = "os.features",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub os_features: Vec<String>,
    /// Variant of the processor.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub variant: String,
    /// Its layers.
    pub rootfs: RootFs,
    /// How it was made. Shared: a long file copies it for every stage.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub history: Vec<Arc<History>>,
    /// How it is run.
    pub config: ImageConfig,
}

/// The layers of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Digests of the uncompressed layers.
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<String>,
}

/// One step of an image's making.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The step.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub created_by: String,
    /// By whom.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub author: String,
    /// The frontend's name.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub comment: String,
    /// It made no layer.
    #[serde(skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

/// How an image is run. Fields in the order in which Docker writes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// User, with an optional group.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub user: String,
    /// `port/protocol`.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `KEY=VALUE`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// What is run.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or what is run.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Where data lives.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub volumes: BTreeMap<String, Empty>,
    /// Where it is run.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub working_dir: String,
    /// Free text by key.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub labels: BTreeMap<String, String>,
    /// What stops it.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub stop_signal: String,
    /// The command is escaped already (Windows).
    #[serde(skip_serializing_if = "is_false", deserialize_with = "or_default")]
    pub args_escaped: bool,
    /// How it is found to be well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for builds on top of it.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub on_build: Vec<String>,
    /// The shell of commands in shell form.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub shell: Vec<String>,
}

/// A health check; times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// The command and its kind.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Between checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Before failures count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between checks in that time.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that mean it is not well.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Docker writes `null` for empty lists and maps.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

impl History {
    /// A step of a build file; with its time where one is given (seconds since 1970).
    pub fn step(created_by: String, layer: bool, epoch: Option<i64>) -> Self {
        Self {
            created: epoch.map(rfc3339),
            created_by,
            comment: "buildkit.dockerfile.v0".to_owned(),
            empty_layer: !layer,
            ..Self::default()
        }
    }
}

impl Image {
    /// Reads a config.
    ///
    /// # Errors
    /// When it is no JSON of this form.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(json)
            .map_err(|e| Error::unknown(format!("failed to parse image config: {e}")))
    }

    /// The config as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and maps with string keys cannot fail to encode.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The image that `FROM scratch` starts with.
    pub fn scratch(platform: &pb::Platform) -> Self {
        let mut image = Self {
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: Vec::new(),
            },
            ..Self::default()
        };
        image.set_platform(platform);
        image.config.working_dir = "/".to_owned();
        if platform.os != "windows" {
            image.config.env = vec![format!("PATH={DEFAULT_PATH}")];
        }
        image
    }

    /// The platform that it says it is for.
    pub fn platform(&self) -> pb::Platform {
        pb::Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
    }

    /// Sets the platform.
    pub fn set_platform(&mut self, platform: &pb::Platform) {
        self.architecture.clone_from(&platform.architecture);
        self.os.clone_from(&platform.os);
        self.variant.clone_from(&platform.variant);
        self.os_version.clone_from(&platform.os_version);
        self.os_features.clone_from(&platform.os_features);
    }

    /// Environment, directory and platform of the image as settings of a state.
    pub fn apply_to(&self, state: &State) -> State {
        let named = self.env().filter(|(key, _)| !key.is_empty());
        let mut state = state.envs(named).dir(&self.config.working_dir);
        if !self.architecture.is_empty() && !self.os.is_empty() {
            state = state.platform(self.platform());
        }
        state
    }

    /// The environment as pairs.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.config
            .env
            .iter()
            .map(|entry| entry.split_once('=').unwrap_or((entry, "")))
    }

    /// Sets a variable, in its place when it has one.
    pub fn set_env(&mut self, key: &str, value: &str) {
        let entry = format!("{key}={value}");
        // The name of an entry ends at its first `=`, so none has a name with one.
        let named = |old: &String| {
            let rest = old.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        let mut entries = self.config.env.iter_mut();
        let place = entries.find(|old| !key.contains('=') && named(old));
        match place {
            Some(old) => *old = entry,
            None => self.config.env.push(entry),
        }
    }

    /// True when it has no layers at all.
    pub fn is_empty(&self) -> bool {
        self.rootfs.diff_ids.is_empty() && self.history.iter().all(|h| h.empty_layer)
    }

    /// Adds a step to the history.
    pub fn commit(&mut self, created_by: String, layer: bool, epoch: Option<i64>) {
        self.history
            .push(Arc::new(History::step(created_by, layer, epoch)));
    }
}

/// A time in seconds since 1970, as `2006-01-02T15:04:05Z`.
pub fn rfc3339(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400);
    let rest = seconds.rem_euclid(86_400);
    // Days to a date, counted in 400-year cycles from 1 March of year 0.
    let days = days + 719_468;
    let cycle = days.div_euclid(146_097);
    let day_of_cycle = days.rem_euclid(146_097);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524
        - day_of_cycle / 146_096)
        / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Reads standard base64; `None` when it is none.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let mut word = 0u32;
    let mut bits = 0;
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_600_000_000), "2020-09-13T12:26:40Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
    }

    #[test]
    fn null_lists_of_docker_are_empty() {
        let image =
            Image::parse(br#"{"os":"linux","config":{"Env":null,"OnBuild":null}}"#).unwrap();
        assert!(image.config.env.is_empty() && image.is_empty());
    }

    #[test]
    fn base64_is_read() {
        assert_eq!(decode_base64("Zm9vYg==").unwrap(), b"foob");
        assert!(decode_base64("*").is_none());
    }

    #[test]
    fn variables_are_replaced_in_place() {
        let mut image = Image::default();
        for (k, v) in [("A", "1"), ("B", "2"), ("A", "3")] {
            image.set_env(k, v);
        }
        assert_eq!(image.config.env, ["A=3", "B=2"]);
    }
}
