//! The cache config of a foreign cache: which keys lead where, and what layers came of it.
//!
//! Pure reading of outside bytes. Format: `application/vnd.buildkit.cacheconfig.v0`, as observed.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway_images::digest::Digest;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A result on more layers is passed over: overlayfs takes no more.
const MAX_CHAIN: usize = 500;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the cache config is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the cache inside the image is not valid base64: {0}")]
    Base64(base64::DecodeError),
    #[error("the cache config names {what} {index}, which it does not have")]
    Missing { what: &'static str, index: i64 },
    #[error("cache layer {0} with missing {1}")]
    Unannotated(Digest, &'static str),
    #[error("invalid looping layer {0}")]
    LoopingLayer(usize),
    #[error("invalid looping record {0}")]
    LoopingRecord(usize),
    #[error("invalid empty input for record {0}")]
    EmptyInput(usize),
}

/// A record: one key, by what leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Hash of the op's digest and the output.
    pub digest: String,
    /// By input of the op, the records that lead here; none of a root.
    pub inputs: Vec<Vec<Link>>,
    pub results: Vec<Chain>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Place of the other record in the list.
    pub record: usize,
    /// Empty: none.
    pub selector: String,
}

/// A result: blobs, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub blobs: Vec<Digest>,
    /// Nanoseconds since the epoch; 0 where it is not said.
    pub created_at: i64,
}

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default, deserialize_with = "null_as_default")]
    layers: Vec<LayerJson>,
    #[serde(default, deserialize_with = "null_as_default")]
    records: Vec<RecordJson>,
}

#[derive(Deserialize)]
struct LayerJson {
    blob: Digest,
    /// Left out when it is 0; -1: none.
    #[serde(default)]
    parent: i64,
    /// In configs that no manifest goes with.
    #[serde(default)]
    annotations: Option<AnnotationsJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnnotationsJson {
    #[serde(default)]
    media_type: String,
    #[serde(default, rename = "diffID")]
    diff_id: String,
    #[serde(default)]
    size: u64,
}

/// A layer of a config that no manifest goes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotated {
    pub blob: Digest,
    pub media_type: String,
    pub diff_id: String,
    pub size: u64,
}

#[derive(Deserialize)]
struct RecordJson {
    digest: String,
    #[serde(default, deserialize_with = "null_as_default")]
    layers: Vec<ResultJson>,
    #[serde(default, deserialize_with = "null_as_default")]
    chains: Vec<ChainJson>,
    #[serde(default, deserialize_with = "null_as_default")]
    inputs: Vec<Vec<LinkJson>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResultJson {
    #[serde(default)]
    layer: i64,
    #[serde(default)]
    created_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChainJson {
    #[serde(default, deserialize_with = "null_as_default")]
    layers: Vec<i64>,
    #[serde(default)]
    created_at: String,
}

#[derive(Deserialize)]
struct LinkJson {
    #[serde(default)]
    selector: String,
    #[serde(default)]
    link: i64,
}

/// Go writes an empty list as null.
fn null_as_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The records in an order in which inputs come before what they lead to.
///
/// # Errors
/// For anything but a graph without loops whose parts are all there.
pub fn parse(bytes: &[u8]) -> Result<Vec<Record>, ConfigError> {
    read(serde_json::from_slice(bytes)?)
}

/// The layers of a config that no manifest goes with, once each.
///
/// # Errors
/// For a layer without what has to be known of it.
pub fn layers(bytes: &[u8]) -> Result<Vec<Annotated>, ConfigError> {
    let config: ConfigJson = serde_json::from_slice(bytes)?;
    let mut seen = BTreeSet::new();
    let mut layers = Vec::new();
    for layer in config.layers {
        let Some(said) = layer.annotations else {
            return Err(ConfigError::Unannotated(layer.blob, "annotations"));
        };
        if said.diff_id.is_empty() {
            return Err(ConfigError::Unannotated(layer.blob, "diffID"));
        }
        if seen.insert(layer.blob.clone()) {
            layers.push(Annotated {
                blob: layer.blob,
                media_type: said.media_type,
                diff_id: said.diff_id,
                size: said.size,
            });
        }
    }
    Ok(layers)
}

/// The same of the cache inside an image, which has no list of layers: they are the image's own.
///
/// # Errors
/// As `parse`.
pub fn parse_inline(records: &[u8], blobs: Vec<Digest>) -> Result<Vec<Record>, ConfigError> {
    let records: Option<Vec<RecordJson>> = serde_json::from_slice(records)?;
    let layer = |(parent, blob)| LayerJson {
        blob,
        parent,
        annotations: None,
    };
    read(ConfigJson {
        layers: (-1..).zip(blobs).map(layer).collect(),
        records: records.unwrap_or_default(),
    })
}

/// The cache inside an image.
pub struct Inside {
    pub records: Vec<u8>,
    /// Of the image's layers, lowest first.
    pub diff_ids: Vec<String>,
}

/// What the config of an image has of a cache; `None` without one.
///
/// # Errors
/// For what is no image config.
pub fn inside(config: &[u8]) -> Result<Option<Inside>, ConfigError> {
    #[derive(Deserialize)]
    struct ImageJson {
        #[serde(default, deserialize_with = "null_as_default")]
        rootfs: RootFs,
        #[serde(rename = "moby.buildkit.cache.v0")]
        cache: Option<String>,
    }
    #[derive(Deserialize, Default)]
    struct RootFs {
        #[serde(default, deserialize_with = "null_as_default")]
        diff_ids: Vec<String>,
    }
    let image: ImageJson = serde_json::from_slice(config)?;
    let Some(cache) = image.cache else {
        return Ok(None);
    };
    let records = STANDARD.decode(cache).map_err(ConfigError::Base64)?;
    Ok(Some(Inside {
        records,
        diff_ids: image.rootfs.diff_ids,
    }))
}

fn read(config: ConfigJson) -> Result<Vec<Record>, ConfigError> {
    let depths = depths(&config.layers)?;
    let order = order(&config.records)?;
    // Where each record of the file is in the answer.
    let places: BTreeMap<usize, usize> = order
        .iter()
        .enumerate()
        .map(|(place, record)| (*record, place))
        .collect();
    let mut records = Vec::with_capacity(order.len());
    for index in order {
        let Some(record) = config.records.get(index) else {
            continue;
        };
        let mut inputs = Vec::with_capacity(record.inputs.len());
        for links in &record.inputs {
            let link = |link: &LinkJson| Link {
                record: places
                    .get(&usize::try_from(link.link).unwrap_or(usize::MAX))
                    .copied()
                    .unwrap_or_default(),
                selector: link.selector.clone(),
            };
            inputs.push(links.iter().map(link).collect());
        }
        records.push(Record {
            digest: record.digest.clone(),
            inputs,
            results: results(record, &config.layers, &depths)?,
        });
    }
    Ok(records)
}

fn checked(what: &'static str, index: i64, count: usize) -> Result<usize, ConfigError> {
    usize::try_from(index)
        .ok()
        .filter(|index| *index < count)
        .ok_or(ConfigError::Missing { what, index })
}

/// By layer, how many layers it has below it and itself.
fn depths(layers: &[LayerJson]) -> Result<Vec<usize>, ConfigError> {
    let mut depths = vec![0_usize; layers.len()];
    for start in 0..layers.len() {
        // Down to one whose depth is known, or to the lowest.
        let mut path = vec![];
        let mut below = 0;
        let mut current = Some(start);
        while let Some(index) = current {
            match depths.get(index) {
                Some(0) => {}
                known => {
                    below = known.copied().unwrap_or_default();
                    break;
                }
            }
            if path.len() >= layers.len() {
                return Err(ConfigError::LoopingLayer(start));
            }
            path.push(index);
            current = match layers.get(index).map_or(-1, |layer| layer.parent) {
                -1 => None,
                parent => Some(checked("layer", parent, layers.len())?),
            };
        }
        for index in path.into_iter().rev() {
            below += 1;
            if let Some(depth) = depths.get_mut(index) {
                *depth = below;
            }
        }
    }
    Ok(depths)
}

/// Places of the records, inputs first. No recursion: chains are as long as build files.
fn order(records: &[RecordJson]) -> Result<Vec<usize>, ConfigError> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut inputs: Vec<Vec<usize>> = Vec::with_capacity(records.len());
    for (index, record) in records.iter().enumerate() {
        let mut all = Vec::new();
        for links in &record.inputs {
            if links.is_empty() {
                return Err(ConfigError::EmptyInput(index));
            }
            for link in links {
                all.push(checked("record", link.link, records.len())?);
            }
        }
        inputs.push(all);
    }
    let mut states = vec![State::New; records.len()];
    let mut order = Vec::with_capacity(records.len());
    for start in 0..records.len() {
        let mut stack = vec![(start, 0)];
        while let Some((index, next)) = stack.pop() {
            let (Some(state), Some(inputs)) = (states.get_mut(index), inputs.get(index)) else {
                continue;
            };
            if next == 0 {
                match state {
                    State::Done => continue,
                    State::Open => return Err(ConfigError::LoopingRecord(index)),
                    State::New => *state = State::Open,
                }
            }
            match inputs.get(next) {
                Some(input) => {
                    stack.push((index, next + 1));
                    stack.push((*input, 0));
                }
                None => {
                    *state = State::Done;
                    order.push(index);
                }
            }
        }
    }
    Ok(order)
}

fn results(
    record: &RecordJson,
    layers: &[LayerJson],
    depths: &[usize],
) -> Result<Vec<Chain>, ConfigError> {
    let mut results = Vec::new();
    for result in &record.layers {
        let top = checked("layer", result.layer, layers.len())?;
        if depths.get(top).is_some_and(|depth| *depth > MAX_CHAIN) {
            continue;
        }
        let mut blobs = Vec::new();
        let mut current = layers.get(top);
        while let Some(layer) = current {
            blobs.push(layer.blob.clone());
            current = usize::try_from(layer.parent)
                .ok()
                .and_then(|parent| layers.get(parent));
        }
        blobs.reverse();
        results.push(Chain {
            blobs,
            created_at: nanoseconds(&result.created_at),
        });
    }
    for chain in &record.chains {
        let mut blobs = Vec::new();
        for index in &chain.layers {
            let layer = layers.get(checked("layer", *index, layers.len())?);
            blobs.extend(layer.map(|layer| layer.blob.clone()));
        }
        if !blobs.is_empty() && blobs.len() <= MAX_CHAIN {
            results.push(Chain {
                blobs,
                created_at: nanoseconds(&chain.created_at),
            });
        }
    }
    Ok(results)
}

fn nanoseconds(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339).map_or(0, |time| {
        i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(letter: char) -> String {
        format!("sha256:{}", letter.to_string().repeat(64))
    }

    fn read_texts(layers: &str, records: &str) -> Result<Vec<Record>, ConfigError> {
        parse(format!(r#"{{"layers":{layers},"records":{records}}}"#).as_bytes())
    }

    #[test]
    fn inputs_come_first_and_an_absent_parent_is_layer_0() {
        let layers = format!(
            r#"[{{"blob":"{}","parent":-1}},{{"blob":"{}"}}]"#,
            blob('a'),
            blob('b')
        );
        let records = read_texts(
            &layers,
            r#"[{"digest":"user","inputs":[[{"selector":"s","link":1},{"link":1}]],
                 "layers":[{"layer":1,"createdAt":"1970-01-01T00:00:01Z"}]},
                {"digest":"root","inputs":null}]"#,
        )
        .unwrap();
        let (root, user) = (&records[0], &records[1]);
        assert_eq!((root.digest.as_str(), root.inputs.len()), ("root", 0));
        assert_eq!(user.inputs[0][0].record, 0);
        assert_eq!(user.inputs[0][0].selector, "s");
        assert_eq!(user.inputs[0][1].selector, "");
        let blobs: Vec<String> = user.results[0]
            .blobs
            .iter()
            .map(|b| b.to_string())
            .collect();
        assert_eq!(blobs, [blob('a'), blob('b')]);
        assert_eq!(user.results[0].created_at, 1_000_000_000);
    }

    #[test]
    fn the_layers_of_a_cache_in_an_image_are_the_image_s() {
        let records = r#"[{"digest":"d","layers":[{"layer":1}],"chains":[{"layers":[1]}]}]"#;
        let config = serde_json::json!({
            "rootfs": {"diff_ids": ["one", "two"]},
            "moby.buildkit.cache.v0": STANDARD.encode(records),
        });
        let inside = inside(config.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!(inside.diff_ids, ["one", "two"]);
        let blobs: Vec<Digest> = ['a', 'b'].map(|c| blob(c).parse().unwrap()).to_vec();
        let records = parse_inline(&inside.records, blobs.clone()).unwrap();
        let chains: Vec<_> = records[0].results.iter().map(|r| r.blobs.clone()).collect();
        assert_eq!(chains, [blobs.clone(), blobs[1..].to_vec()]);
        let none = super::inside(br#"{"rootfs":{"diff_ids":null}}"#).unwrap();
        assert!(none.is_none());
        let broken = br#"{"moby.buildkit.cache.v0":"!"}"#;
        assert!(matches!(super::inside(broken), Err(ConfigError::Base64(_))));
    }

    #[test]
    fn broken_graphs_are_refused() {
        let layer = |parent: i64| format!(r#"[{{"blob":"{}","parent":{parent}}}]"#, blob('a'));
        for (layers, records, problem) in [
            (layer(0), "[]", "invalid looping layer 0"),
            (layer(7), "[]", "the cache config names layer 7"),
            (
                layer(-1),
                r#"[{"digest":"d","inputs":[[{"link":0}]]}]"#,
                "invalid looping record 0",
            ),
            (
                layer(-1),
                r#"[{"digest":"d","inputs":[[]]}]"#,
                "invalid empty input for record 0",
            ),
            (
                layer(-1),
                r#"[{"digest":"d","inputs":[[{"link":1}]]}]"#,
                "the cache config names record 1",
            ),
            (
                layer(-1),
                r#"[{"digest":"d","layers":[{"layer":1}]}]"#,
                "the cache config names layer 1",
            ),
        ] {
            let error = read_texts(&layers, records).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_graph_is_read_or_refused(
            parents in prop::collection::vec(-2_i64..6, 0..6),
            links in prop::collection::vec(prop::collection::vec(0_i64..6, 0..3), 0..6),
        ) {
            let layers: Vec<String> = parents
                .iter()
                .map(|parent| format!(r#"{{"blob":"{}","parent":{parent}}}"#, blob('a')))
                .collect();
            let records: Vec<String> = links
                .iter()
                .map(|links| {
                    let inputs: Vec<String> =
                        links.iter().map(|link| format!(r#"[{{"link":{link}}}]"#)).collect();
                    format!(r#"{{"digest":"d","inputs":[{}]}}"#, inputs.join(","))
                })
                .collect();
            let read = read_texts(
                &format!("[{}]", layers.join(",")),
                &format!("[{}]", records.join(",")),
            );
            if let Ok(records) = read {
                for (place, record) in records.iter().enumerate() {
                    for link in record.inputs.iter().flatten() {
                        prop_assert!(link.record < place);
                    }
                }
            }
        }
    }
}
