//! The config of an exported image, from the frontend's config and the layers that the build really made.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::{ConfigError, History, ImageConfig, Timestamp, to_json};
use crate::digest::Digest;
use crate::platform::Platform;

/// The comment on history entries that the exporter adds.
const COMMENT: &str = "buildkit.exporter.image.v0";
/// Should not be seen; stands where a layer has no description.
const NO_DESCRIPTION: &str = "created by buildkit";
/// Where an inline cache is kept in the config.
const INLINE_CACHE_KEY: &str = "moby.buildkit.cache.v0";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A layer of the image, as the build knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    pub diff_id: Digest,
    pub created: Option<Timestamp>,
    /// The step that made it (`RUN make`), used where the frontend gave no history entry.
    pub description: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct FinishOptions<'a> {
    /// No time in the config may be later, those of the base image aside.
    pub epoch: Option<Timestamp>,
    /// The config of the base image: its history entries keep their times.
    pub base: Option<&'a [u8]>,
    /// The inline cache to embed.
    pub inline_cache: Option<&'a [u8]>,
}

/// Makes the final config. Without one from the frontend it is the default config for `platform`.
pub fn finish(
    frontend_config: Option<&[u8]>,
    layers: &[LayerInfo],
    platform: &Platform,
    options: &FinishOptions<'_>,
) -> Result<Vec<u8>, ConfigError> {
    let mut config: Map<String, Value> = match frontend_config.filter(|bytes| !bytes.is_empty()) {
        Some(bytes) => serde_json::from_slice::<Option<_>>(bytes)?.ok_or(ConfigError::Null)?,
        None => default_config(platform),
    };
    let given = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    if given("os").is_empty() {
        return Err(ConfigError::MissingOs);
    }
    if given("architecture").is_empty() {
        return Err(ConfigError::MissingArchitecture);
    }
    let mut history: Vec<History> = match config.get("history") {
        Some(value) => serde_json::from_value::<Option<_>>(value.clone())?.unwrap_or_default(),
        None => Vec::new(),
    };
    align(&mut history, layers);
    fill_times(&mut history, layers);
    if let Some(epoch) = options.epoch {
        clamp(&mut history, epoch, options.base)?;
    }
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
    config.insert(
        "rootfs".into(),
        json!({"type": "layers", "diff_ids": or_null(&diff_ids)}),
    );
    set_created(&mut config, &history, options.epoch)?;
    config.insert("history".into(), or_null(&history));
    if let Some(cache) = options.inline_cache {
        let encoded = base64::engine::general_purpose::STANDARD.encode(cache);
        config.insert(INLINE_CACHE_KEY.into(), encoded.into());
    }
    let sorted: BTreeMap<&String, &Value> = config.iter().collect();
    Ok(to_json(&sorted)?)
}

/// An empty list is `null`, as Go writes it.
fn or_null<T: serde::Serialize>(list: &[T]) -> Value {
    if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    }
}

fn default_config(platform: &Platform) -> Map<String, Value> {
    let platform = platform.normalized();
    let mut run = Map::new();
    if platform.os != "windows" {
        run.insert("Env".into(), json!([DEFAULT_PATH]));
    }
    run.insert("WorkingDir".into(), "/".into());
    let mut config = Map::new();
    config.insert("architecture".into(), platform.architecture.into());
    config.insert("os".into(), platform.os.into());
    for (key, value) in [
        ("os.version", json!(platform.os_version)),
        ("os.features", json!(platform.os_features)),
        ("variant", json!(platform.variant)),
    ] {
        if value != json!("") && value != json!([]) {
            config.insert(key.into(), value);
        }
    }
    config.insert("config".into(), run.into());
    config
}

/// Gives each layer its one non-empty entry: surplus entries become empty, missing ones are added.
fn align(history: &mut Vec<History>, layers: &[LayerInfo]) {
    let mut seen = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        if seen == layers.len() {
            entry.empty_layer = true;
        } else {
            seen += 1;
        }
    }
    for layer in &layers[seen..] {
        history.push(History {
            created: layer.created,
            created_by: layer
                .description
                .clone()
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| NO_DESCRIPTION.to_owned()),
            comment: COMMENT.to_owned(),
            ..History::default()
        });
    }
}

/// Entries without a time get their layer's; those that made no layer get the time of the next new layer after them,
/// or else of the one before.
fn fill_times(history: &mut [History], layers: &[LayerInfo]) {
    let of_layers = history.iter_mut().filter(|entry| !entry.empty_layer);
    for (entry, layer) in of_layers.zip(layers) {
        if entry.created.is_none() {
            entry.created = layer.created;
        }
    }
    let mut current = None;
    let mut gap = false;
    for entry in history.iter() {
        match entry.created {
            Some(time) => {
                current = Some(time);
                if gap {
                    break;
                }
            }
            None => gap = true,
        }
    }
    gap = false;
    for entry in history.iter_mut() {
        match entry.created {
            Some(time) if gap => current = Some(time),
            Some(_) => {}
            None => {
                gap = true;
                entry.created = current;
            }
        }
    }
}

fn clamp(
    history: &mut [History],
    epoch: Timestamp,
    base: Option<&[u8]>,
) -> Result<(), ConfigError> {
    let base = match base {
        Some(bytes) => ImageConfig::parse(bytes)?.history,
        None => Vec::new(),
    };
    let own = history
        .iter()
        .zip(&base)
        .take_while(|(ours, theirs)| ours == theirs)
        .count();
    for entry in &mut history[own..] {
        if entry.created.is_none_or(|time| time > epoch) {
            entry.created = Some(epoch);
        }
    }
    Ok(())
}

fn set_created(
    config: &mut Map<String, Value>,
    history: &[History],
    epoch: Option<Timestamp>,
) -> Result<(), ConfigError> {
    let Some(given) = config.get("created") else {
        let last = history.iter().rev().find_map(|entry| entry.created);
        config.insert("created".into(), json!(last));
        return Ok(());
    };
    if let (Some(epoch), Some(text)) = (epoch, given.as_str())
        && text.parse::<Timestamp>()? > epoch
    {
        config.insert("created".into(), json!(epoch));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_unix(seconds).unwrap()
    }

    fn layer(n: u8, seconds: i64) -> LayerInfo {
        LayerInfo {
            diff_id: Digest::from_bytes([n; 32]),
            created: Some(time(seconds)),
            description: Some(format!("step {n}")),
        }
    }

    fn run(config: Value, layers: &[LayerInfo], options: &FinishOptions<'_>) -> Value {
        let bytes = config.to_string().into_bytes();
        let platform = Platform::new("linux", "amd64", "");
        let done = finish(Some(&bytes), layers, &platform, options).unwrap();
        serde_json::from_slice(&done).unwrap()
    }

    fn history(config: &Value) -> Vec<(i64, String, bool)> {
        let history: Vec<History> = serde_json::from_value(config["history"].clone()).unwrap();
        history
            .into_iter()
            .map(|h| (h.created.unwrap().unix(), h.created_by, h.empty_layer))
            .collect()
    }

    fn given(entries: Value) -> Value {
        json!({"os": "linux", "architecture": "amd64", "history": entries})
    }

    #[test]
    fn without_a_frontends_config_the_default_is_written() {
        let platform = Platform::new("linux", "arm", "v7");
        let done = finish(None, &[layer(1, 100)], &platform, &FinishOptions::default()).unwrap();
        insta::assert_snapshot!(String::from_utf8(done).unwrap(), @r#"{"architecture":"arm","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},"created":"1970-01-01T00:01:40Z","history":[{"created":"1970-01-01T00:01:40Z","created_by":"step 1","comment":"buildkit.exporter.image.v0"}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:0101010101010101010101010101010101010101010101010101010101010101"]},"variant":"v7"}"#);
    }

    #[test]
    fn missing_entries_are_added_and_surplus_ones_become_empty() {
        let one = given(json!([{"created_by": "A"}]));
        let done = run(
            one,
            &[layer(1, 10), layer(2, 20)],
            &FinishOptions::default(),
        );
        assert_eq!(
            history(&done),
            [(10, "A".into(), false), (20, "step 2".into(), false)]
        );
        let three = given(json!([{"created_by": "A"}, {"created_by": "B"}, {"created_by": "C"}]));
        let done = run(three, &[layer(1, 10)], &FinishOptions::default());
        assert_eq!(
            history(&done),
            [
                (10, "A".into(), false),
                (10, "B".into(), true),
                (10, "C".into(), true)
            ]
        );
    }

    #[test]
    fn steps_without_layer_take_the_time_of_the_next_new_layer() {
        let config = given(json!([
            {"created": "1970-01-01T00:00:05Z", "created_by": "base"},
            {"created_by": "ENV", "empty_layer": true},
            {"created_by": "RUN"},
            {"created_by": "CMD", "empty_layer": true},
        ]));
        let done = run(
            config,
            &[layer(1, 10), layer(2, 20)],
            &FinishOptions::default(),
        );
        let times: Vec<i64> = history(&done).iter().map(|h| h.0).collect();
        assert_eq!(times, [5, 20, 20, 20]);
        assert_eq!(done["created"], json!("1970-01-01T00:00:20Z"));
    }

    #[test]
    fn an_epoch_clamps_all_but_the_base_images_entries() {
        let base = json!({"history": [{"created": "1970-01-01T00:05:00Z", "created_by": "base"}]});
        let mut config = given(json!([
            {"created": "1970-01-01T00:05:00Z", "created_by": "base"},
            {"created_by": "RUN"},
        ]));
        config["created"] = json!("2026-01-01T00:00:00Z");
        let base = base.to_string().into_bytes();
        let options = FinishOptions {
            epoch: Some(time(100)),
            base: Some(&base),
            inline_cache: None,
        };
        let done = run(config, &[layer(1, 10), layer(2, 20000)], &options);
        let times: Vec<i64> = history(&done).iter().map(|h| h.0).collect();
        assert_eq!(times, [300, 100]);
        assert_eq!(done["created"], json!("1970-01-01T00:01:40Z"));
    }

    #[test]
    fn unknown_fields_stay_and_keys_are_sorted() {
        let config =
            br#"{"zeta":{"b":1,"a":"x<y"},"os":"linux","architecture":"amd64","alpha":[1.5]}"#;
        let options = FinishOptions {
            inline_cache: Some(b"cache"),
            ..FinishOptions::default()
        };
        let platform = Platform::new("linux", "amd64", "");
        let done = finish(Some(config), &[], &platform, &options).unwrap();
        insta::assert_snapshot!(String::from_utf8(done).unwrap(), @r#"{"alpha":[1.5],"architecture":"amd64","created":null,"history":null,"moby.buildkit.cache.v0":"Y2FjaGU=","os":"linux","rootfs":{"type":"layers","diff_ids":null},"zeta":{"b":1,"a":"x\u003cy"}}"#);
    }

    #[test]
    fn broken_configs_are_refused_in_the_known_words() {
        let platform = Platform::new("linux", "amd64", "");
        for (config, error) in [
            ("null", "invalid null image config for export"),
            ("{}", "invalid image config for export: missing os"),
            (
                r#"{"os":"linux"}"#,
                "invalid image config for export: missing architecture",
            ),
        ] {
            let result = finish(
                Some(config.as_bytes()),
                &[],
                &platform,
                &FinishOptions::default(),
            );
            assert_eq!(result.unwrap_err().to_string(), error);
        }
    }

    /// The config of an image that BuildKit exported with an epoch and an inline cache.
    #[test]
    fn an_exported_config_is_made_again_byte_for_byte() {
        let exported = include_bytes!("../../testdata/exported-config.json").trim_ascii_end();
        let mut given: Map<String, Value> = serde_json::from_slice(exported).unwrap();
        let diff_ids = ImageConfig::parse(exported).unwrap().rootfs.diff_ids;
        let cache = given.remove(INLINE_CACHE_KEY).unwrap();
        let cache = base64::engine::general_purpose::STANDARD
            .decode(cache.as_str().unwrap())
            .unwrap();
        // What the frontend does not know.
        given.remove("rootfs");
        given.remove("created");
        for entry in given["history"].as_array_mut().unwrap() {
            entry.as_object_mut().unwrap().remove("created");
        }
        let layers: Vec<LayerInfo> = diff_ids
            .into_iter()
            .map(|diff_id| LayerInfo {
                diff_id,
                created: Some(time(1_800_000_000)),
                description: None,
            })
            .collect();
        let options = FinishOptions {
            epoch: Some(time(1_600_000_000)),
            base: None,
            inline_cache: Some(&cache),
        };
        let given = serde_json::to_vec(&given).unwrap();
        let platform = Platform::new("linux", "amd64", "");
        let done = finish(Some(&given), &layers, &platform, &options).unwrap();
        assert_eq!(
            String::from_utf8(done).unwrap(),
            String::from_utf8(exported.to_vec()).unwrap()
        );
    }
}
