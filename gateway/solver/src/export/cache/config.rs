//! The cache config as it is written: `application/vnd.buildkit.cacheconfig.v0`.
//!
//! Pure functions. Equal records give equal bytes, in the order that other builders write.

use std::collections::{BTreeSet, HashMap};

use gateway_images::digest::Digest;
use gateway_images::media::Descriptor;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::CREATED_AT;
use super::chains::{Link, Record};
use crate::import::{DIFF_ID, MAX_DOCUMENT_BYTES};
use crate::remote::MAX_CONFIG_BYTES;

/// The result of a record.
pub enum Blobs {
    /// Blobs of the cache, lowest first.
    Chain(Vec<Descriptor>),
    /// Layers of the image that the cache is in, lowest first.
    Image(Vec<usize>),
}

/// What a config goes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A manifest, which says what the layers are.
    WithManifest,
    /// Nothing: it says so itself.
    Alone,
}

impl Form {
    /// Importers read no more, in bytes.
    pub fn limit(self) -> u64 {
        match self {
            Form::WithManifest => MAX_DOCUMENT_BYTES,
            Form::Alone => MAX_CONFIG_BYTES,
        }
    }
}

/// A config, and what it names.
pub struct Config {
    pub json: Vec<u8>,
    /// In the config's order, once each.
    pub layers: Vec<Descriptor>,
    /// Records left out because importers read no more.
    pub dropped: usize,
}

#[derive(Serialize)]
struct ConfigJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<LayerJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<RecordJson>,
}

#[derive(Serialize)]
struct LayerJson {
    blob: Digest,
    #[serde(skip_serializing_if = "is_zero")]
    parent: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<AnnotationsJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnnotationsJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    media_type: String,
    #[serde(rename = "diffID", skip_serializing_if = "String::is_empty")]
    diff_id: String,
    #[serde(skip_serializing_if = "is_nothing")]
    size: u64,
    created_at: String,
}

impl AnnotationsJson {
    fn of(blob: &Descriptor) -> AnnotationsJson {
        let said = |name: &str| blob.annotations.get(name).cloned();
        AnnotationsJson {
            media_type: blob.media_type.clone(),
            diff_id: said(DIFF_ID).unwrap_or_default(),
            size: blob.size,
            // Always in UTC; no time is year 1 to who reads it.
            created_at: said(CREATED_AT)
                .and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok())
                .and_then(|time| time.to_offset(UtcOffset::UTC).format(&Rfc3339).ok())
                .unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned()),
        }
    }
}

#[derive(Serialize)]
struct RecordJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<ResultJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chains: Vec<ChainJson>,
    digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<Vec<LinkJson>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultJson {
    layer: usize,
    created_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChainJson {
    layers: Vec<usize>,
    created_at: String,
}

#[derive(Serialize)]
struct LinkJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    selector: String,
    link: usize,
}

// As serde wants it.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

// As serde wants it.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_nothing(number: &u64) -> bool {
    *number == 0
}

/// The config of these records; `None` when no record has a result.
pub fn config(
    records: &[Record],
    blobs: &HashMap<usize, Blobs>,
    form: Form,
) -> Result<Option<Config>, serde_json::Error> {
    let mut kept: BTreeSet<usize> = useful(records, blobs);
    let count = kept.len();
    loop {
        let layers = Layers::of(&kept, blobs);
        if layers.nodes.is_empty() {
            return Ok(None);
        }
        let json = serde_json::to_vec(&ConfigJson {
            layers: layers.json(form),
            records: written(records, &kept, blobs, &layers),
        })?;
        if json.len() as u64 <= form.limit() {
            return Ok(Some(Config {
                json,
                layers: layers.descriptors(),
                dropped: count - kept.len(),
            }));
        }
        shrink(records, &mut kept, json.len(), form);
    }
}

/// The records alone, as they go into the config of the image whose layers they name.
pub fn inline(
    records: &[Record],
    blobs: &HashMap<usize, Blobs>,
) -> Result<Option<Vec<u8>>, serde_json::Error> {
    if blobs.is_empty() {
        return Ok(None);
    }
    let mut kept = useful(records, blobs);
    loop {
        let layers = Layers::default();
        let json = serde_json::to_vec(&written(records, &kept, blobs, &layers))?;
        if json.len() as u64 <= MAX_DOCUMENT_BYTES {
            return Ok(Some(json));
        }
        shrink(records, &mut kept, json.len(), Form::WithManifest);
    }
}

/// All but roots that lead nowhere.
fn useful(records: &[Record], blobs: &HashMap<usize, Blobs>) -> BTreeSet<usize> {
    let links = records.iter().flat_map(|r| r.inputs.iter().flatten());
    let used: BTreeSet<usize> = links.map(|link| link.record).collect();
    let all = records.iter().enumerate();
    all.filter(|(number, record)| {
        !record.inputs.is_empty() || used.contains(number) || blobs.contains_key(number)
    })
    .map(|(number, _)| number)
    .collect()
}

/// Leaves out those with most below them: the others still serve builds that begin alike.
fn shrink(records: &[Record], kept: &mut BTreeSet<usize>, size: usize, form: Form) {
    let depths = depths(records);
    let limit = usize::try_from(form.limit()).unwrap_or(usize::MAX);
    let excess = size.saturating_sub(limit).saturating_mul(kept.len());
    let mut count = (excess / size.max(1)).max(1);
    let mut by_depth: Vec<usize> = kept.iter().copied().collect();
    by_depth.sort_by_key(|number| std::cmp::Reverse(depths.get(*number).copied()));
    for number in by_depth {
        if count == 0 {
            break;
        }
        kept.remove(&number);
        count -= 1;
    }
}

/// By record, the length of the longest way down.
fn depths(records: &[Record]) -> Vec<usize> {
    let mut depths = vec![0_usize; records.len()];
    let mut left: Vec<BTreeSet<usize>> = records
        .iter()
        .map(|r| r.inputs.iter().flatten().map(|l| l.record).collect())
        .collect();
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); records.len()];
    for (number, below) in left.iter().enumerate() {
        for input in below {
            if let Some(users) = users.get_mut(*input) {
                users.push(number);
            }
        }
    }
    let roots = left
        .iter()
        .enumerate()
        .filter(|(_, below)| below.is_empty());
    let mut ready: Vec<usize> = roots.map(|(number, _)| number).collect();
    while let Some(number) = ready.pop() {
        let depth = depths.get(number).copied().unwrap_or_default() + 1;
        for user in users.get(number).into_iter().flatten() {
            if let (Some(own), Some(below)) = (depths.get_mut(*user), left.get_mut(*user)) {
                *own = depth.max(*own);
                below.remove(&number);
                if below.is_empty() {
                    ready.push(*user);
                }
            }
        }
    }
    depths
}

/// The blobs of all results as a tree: chains that begin alike share their beginning.
#[derive(Default)]
struct Layers {
    nodes: Vec<Node>,
    /// By record, its topmost node.
    tops: HashMap<usize, usize>,
    /// By node, its place in the list that is written.
    places: Vec<usize>,
}

struct Node {
    blob: Descriptor,
    parent: Option<usize>,
}

impl Layers {
    fn of(kept: &BTreeSet<usize>, blobs: &HashMap<usize, Blobs>) -> Layers {
        let mut layers = Layers::default();
        let mut known: HashMap<(Option<usize>, &Digest), usize> = HashMap::new();
        for number in kept {
            let Some(Blobs::Chain(chain)) = blobs.get(number) else {
                continue;
            };
            let mut top = None;
            for blob in chain {
                let node = known.entry((top, &blob.digest)).or_insert_with(|| {
                    layers.nodes.push(Node {
                        blob: blob.clone(),
                        parent: top,
                    });
                    layers.nodes.len() - 1
                });
                top = Some(*node);
            }
            layers.tops.extend(top.map(|top| (*number, top)));
        }
        layers.places = vec![0; layers.nodes.len()];
        for (place, node) in layers.order().into_iter().enumerate() {
            if let Some(slot) = layers.places.get_mut(node) {
                *slot = place;
            }
        }
        layers
    }

    /// Nodes in the order in which they are written: by their blob, then by the one below.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        let blob = |node: usize| self.nodes.get(node).map(|node| &node.blob.digest);
        order.sort_by_key(|node| {
            let parent = self.nodes.get(*node).and_then(|node| node.parent);
            (blob(*node), parent.and_then(blob), *node)
        });
        order
    }

    fn in_order(&self) -> impl Iterator<Item = &Node> {
        self.order()
            .into_iter()
            .filter_map(|node| self.nodes.get(node))
    }

    fn place(&self, node: usize) -> Option<usize> {
        self.places.get(node).copied()
    }

    fn json(&self, form: Form) -> Vec<LayerJson> {
        let parent = |node: &Node| {
            let place = self.place(node.parent?)?;
            i64::try_from(place).ok()
        };
        self.in_order()
            .map(|node| LayerJson {
                blob: node.blob.digest.clone(),
                parent: parent(node).unwrap_or(-1),
                annotations: (form == Form::Alone).then(|| AnnotationsJson::of(&node.blob)),
            })
            .collect()
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        let mut seen = BTreeSet::new();
        self.in_order()
            .filter(|node| seen.insert(&node.blob.digest))
            .map(|node| node.blob.clone())
            .collect()
    }
}

fn written(
    records: &[Record],
    kept: &BTreeSet<usize>,
    blobs: &HashMap<usize, Blobs>,
    layers: &Layers,
) -> Vec<RecordJson> {
    let digest = |number: usize| records.get(number).map_or("", |r| r.digest.as_str());
    // What links look like to a reader who cannot tell equal digests apart.
    let shown = |record: &Record| -> Vec<(usize, Vec<(String, String)>)> {
        let slot = |links: &BTreeSet<Link>| {
            let mut slot: Vec<(String, String)> = links
                .iter()
                .map(|link| (link.selector.clone(), digest(link.record).to_owned()))
                .collect();
            slot.sort();
            (slot.len(), slot)
        };
        record.inputs.iter().map(slot).collect()
    };
    let mut order: Vec<usize> = kept.iter().copied().collect();
    order.sort_by_cached_key(|number| {
        records
            .get(*number)
            .map(|record| (record.digest.clone(), record.inputs.len(), shown(record)))
    });
    let places: HashMap<usize, usize> = order
        .iter()
        .enumerate()
        .map(|(place, number)| (*number, place))
        .collect();
    let mut list = Vec::with_capacity(order.len());
    for number in order {
        let Some(record) = records.get(number) else {
            continue;
        };
        let slot = |links: &BTreeSet<Link>| {
            let mut slot: Vec<LinkJson> = links
                .iter()
                .filter_map(|link| {
                    Some(LinkJson {
                        selector: link.selector.clone(),
                        link: *places.get(&link.record)?,
                    })
                })
                .collect();
            slot.sort_by(|a, b| (a.link, &a.selector).cmp(&(b.link, &b.selector)));
            slot
        };
        let mut json = RecordJson {
            layers: Vec::new(),
            chains: Vec::new(),
            digest: record.digest.clone(),
            inputs: record.inputs.iter().map(slot).collect(),
        };
        let created_at = timestamp(record.result.as_ref().map_or(0, |found| found.created_at));
        match blobs.get(&number) {
            Some(Blobs::Chain(_)) => {
                let top = layers.tops.get(&number);
                let place = top.and_then(|top| layers.place(*top));
                let result = place.map(|layer| ResultJson { layer, created_at });
                json.layers.extend(result);
            }
            Some(Blobs::Image(list)) => match list.iter().copied().eq(0..list.len()) {
                true => {
                    let layer = list.len().saturating_sub(1);
                    json.layers.push(ResultJson { layer, created_at });
                }
                false => json.chains.push(ChainJson {
                    layers: list.clone(),
                    created_at,
                }),
            },
            None => {}
        }
        list.push(json);
    }
    list
}

/// RFC 3339 with as many digits as are needed.
pub fn timestamp(nanoseconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into())
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::cache::chains::{Chains, Found};
    use crate::store::Snapshot;

    fn blob(text: &str) -> Descriptor {
        Descriptor::of("layer", text.as_bytes())
    }

    fn links(records: &[usize]) -> BTreeSet<Link> {
        let link = |record: &usize| Link {
            record: *record,
            selector: format!("s{record}"),
        };
        records.iter().map(link).collect()
    }

    fn found() -> Found {
        Found {
            snapshot: Snapshot::scratch(),
            created_at: 1_500_000_000,
        }
    }

    #[test]
    fn records_and_layers_come_out_sorted_and_are_read_back() {
        let mut chains = Chains::default();
        let (b, a) = (chains.root("b"), chains.root("a"));
        chains.root("unused");
        let low = chains.add("z", vec![links(&[a, b])]).unwrap();
        let top = chains.add("c", vec![links(&[low])]).unwrap();
        for record in [low, top] {
            chains.set_result(record, found());
        }
        let (one, two) = (blob("one"), blob("two"));
        let blobs = HashMap::from([
            (low, Blobs::Chain(vec![one.clone()])),
            (top, Blobs::Chain(vec![one.clone(), two.clone()])),
        ]);
        let config = config(chains.records(), &blobs, Form::WithManifest)
            .unwrap()
            .unwrap();
        let mut expected = [one, two.clone()];
        expected.sort_by(|x, y| x.digest.cmp(&y.digest));
        assert_eq!(config.layers, expected);
        let json: serde_json::Value = serde_json::from_slice(&config.json).unwrap();
        let digests: Vec<_> = json["records"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| &r["digest"])
            .collect();
        assert_eq!(digests, ["a", "b", "c", "z"]);
        assert_eq!(
            json["records"][3]["inputs"],
            serde_json::json!([[{"selector": "s1", "link": 0}, {"selector": "s0", "link": 1}]])
        );
        assert_eq!(
            json["records"][3]["layers"][0]["createdAt"],
            "1970-01-01T00:00:01.5Z"
        );
        let read = crate::import::config::parse(&config.json).unwrap();
        let top = read.iter().find(|record| record.digest == "c").unwrap();
        let chain: Vec<&Digest> = top.results[0].blobs.iter().collect();
        assert_eq!(chain, [&blob("one").digest, &two.digest]);
    }

    #[test]
    fn without_a_result_there_is_no_cache() {
        let mut chains = Chains::default();
        let root = chains.root("a");
        chains.add("b", vec![links(&[root])]).unwrap();
        assert!(
            config(chains.records(), &HashMap::new(), Form::WithManifest)
                .unwrap()
                .is_none()
        );
        assert!(inline(chains.records(), &HashMap::new()).unwrap().is_none());
    }

    #[test]
    fn layers_that_are_not_the_lowest_of_the_image_are_named_one_by_one() {
        let mut chains = Chains::default();
        let root = chains.root("a");
        let low = chains.add("b", vec![links(&[root])]).unwrap();
        let top = chains.add("c", vec![links(&[low])]).unwrap();
        chains.set_result(low, found());
        let blobs = HashMap::from([
            (low, Blobs::Image(vec![0, 1])),
            (top, Blobs::Image(vec![0, 2])),
        ]);
        let json = inline(chains.records(), &blobs).unwrap().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json[1]["layers"][0]["layer"], 1);
        assert_eq!(json[2]["chains"][0]["layers"], serde_json::json!([0, 2]));
        assert!(json[2].get("layers").is_none());
    }

    #[test]
    fn a_config_that_importers_would_refuse_loses_what_builds_on_most() {
        let mut chains = Chains::default();
        let mut top = chains.root("sha256:root");
        let mut blobs = HashMap::new();
        for step in 0..9000 {
            let digest = Digest::of(format!("{step}").as_bytes()).to_string();
            top = chains.add(&digest, vec![links(&[top])]).unwrap();
            if step == 0 {
                chains.set_result(top, found());
                blobs.insert(top, Blobs::Chain(vec![blob("one")]));
            }
        }
        let config = config(chains.records(), &blobs, Form::WithManifest)
            .unwrap()
            .unwrap();
        assert!(config.json.len() as u64 <= MAX_DOCUMENT_BYTES);
        assert!(
            config.dropped > 0 && config.dropped < 8000,
            "{}",
            config.dropped
        );
        assert_eq!(config.layers.len(), 1);
        crate::import::config::parse(&config.json).unwrap();
    }
}
