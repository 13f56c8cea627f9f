//! A cache inside an image: the records of its own layers, in its config.

use std::collections::HashMap;

use super::collect::Collected;
use super::config::{self, Blobs};
use crate::shared::Outcome;
use crate::solve::internal;
use crate::store::Snapshot;

/// The records whose results are made of the image's layers; `None` when there is none.
pub fn records(collected: &Collected, image: &Snapshot) -> Outcome<Option<Vec<u8>>> {
    let places: HashMap<&str, usize> = image
        .layers
        .iter()
        .enumerate()
        .map(|(place, layer)| (layer.id.as_str(), place))
        .collect();
    let records = collected.chains.records();
    let mut blobs = HashMap::new();
    for (number, record) in records.iter().enumerate() {
        let Some(found) = record.result.as_ref() else {
            continue;
        };
        let layers = found.snapshot.layers.iter();
        let own: Option<Vec<usize>> = layers
            .map(|layer| places.get(layer.id.as_str()).copied())
            .collect();
        if let Some(own) = own.filter(|own| !own.is_empty()) {
            blobs.insert(number, Blobs::Image(own));
        }
    }
    config::inline(records, &blobs).map_err(internal)
}
