//! Caches in directories, and their records in a form that two builders can be compared by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What a record says, with digests for numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub digest: String,
    /// By input: selectors and records, sorted.
    pub inputs: Vec<Vec<(String, String)>>,
    /// By result: diffIDs, lowest first.
    pub results: Vec<Vec<String>>,
}

/// A cache in a directory.
pub struct Cache {
    pub manifest: Value,
    pub config: Value,
}

fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

fn blob(dir: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest");
    dir.join("blobs").join(digest.replace(':', "/"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap_or_default()).expect("a place")
}

impl Cache {
    /// The cache that the layout in `dir` has under a tag.
    pub fn read(dir: &Path, tag: &str) -> Cache {
        let index = json(&dir.join("index.json"));
        let named =
            |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == tag;
        let top = list(&index["manifests"]).iter().find(named);
        let manifest = json(&blob(dir, top.expect("the tag")));
        let config = match manifest.get("config") {
            Some(config) => config,
            None => list(&manifest["manifests"]).last().expect("a config"),
        };
        Cache {
            config: json(&blob(dir, config)),
            manifest,
        }
    }

    /// Descriptors of the layers, in an image manifest or in an index.
    pub fn layers(&self) -> &[Value] {
        match self.manifest.get("layers") {
            Some(layers) => list(layers),
            None => list(&self.manifest["manifests"])
                .split_last()
                .map_or(&[], |(_, layers)| layers),
        }
    }

    /// All records, sorted.
    pub fn records(&self) -> Vec<Record> {
        let diff_ids: BTreeMap<String, String> = self
            .layers()
            .iter()
            .map(|layer| {
                let diff_id = &layer["annotations"]["containerd.io/uncompressed"];
                (text(&layer["digest"]), text(diff_id))
            })
            .collect();
        let layers = list(&self.config["layers"]);
        let chain = |top: usize| {
            let mut chain = Vec::new();
            let mut at = Some(top);
            while let Some(place) = at {
                let layer = &layers[place];
                chain.push(diff_ids[&text(&layer["blob"])].clone());
                at = (layer["parent"] != -1).then(|| number(&layer["parent"]));
            }
            chain.reverse();
            chain
        };
        records(&self.config["records"], chain)
    }
}

/// Records of a list, sorted; `chain` knows the layers of a result by the topmost.
pub fn records(all: &Value, chain: impl Fn(usize) -> Vec<String>) -> Vec<Record> {
    let all = list(all);
    let link = |link: &Value| {
        let digest = &all[number(&link["link"])]["digest"];
        (text(&link["selector"]), text(digest))
    };
    let mut records: Vec<Record> = all
        .iter()
        .map(|record| Record {
            digest: text(&record["digest"]),
            inputs: list(&record["inputs"])
                .iter()
                .map(|links| {
                    let mut links: Vec<_> = list(links).iter().map(link).collect();
                    links.sort();
                    links
                })
                .collect(),
            results: list(&record["layers"])
                .iter()
                .map(|result| chain(number(&result["layer"])))
                .collect(),
        })
        .collect();
    records.sort();
    records
}
