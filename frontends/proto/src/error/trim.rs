//! Keeps the details of an error under what every peer can receive.

use prost_types::Any;
use serde_json::Value;

use super::detail::{SOURCE, STACK};
use crate::limits::MAX_DETAIL_BYTES;

/// Drops stacks, then source text, then the largest details, until the rest fits.
pub fn trimmed(mut details: Vec<Any>) -> Vec<Any> {
    if total(&details) <= MAX_DETAIL_BYTES {
        return details;
    }
    details.retain(|any| any.type_url != STACK);
    if total(&details) > MAX_DETAIL_BYTES {
        for any in details.iter_mut().filter(|any| any.type_url == SOURCE) {
            drop_text(any);
        }
    }
    while total(&details) > MAX_DETAIL_BYTES {
        let largest = details
            .iter()
            .enumerate()
            .max_by_key(|(_, any)| any.value.len());
        match largest.map(|(index, _)| index) {
            Some(index) => drop(details.remove(index)),
            None => break,
        }
    }
    details
}

fn total(details: &[Any]) -> usize {
    details
        .iter()
        .map(|any| any.type_url.len() + any.value.len())
        .sum()
}

/// The location stays: file name and lines still say where.
fn drop_text(any: &mut Any) {
    let Ok(mut value) = serde_json::from_slice::<Value>(&any.value) else {
        return;
    };
    if let Some(info) = value.get_mut("info").and_then(Value::as_object_mut) {
        info.shift_remove("data");
        info.shift_remove("definition");
        any.value = value.to_string().into_bytes();
    }
}
