//! What is asked for and kept once a result is known: more exporters, and provenance for a history.

use std::collections::BTreeMap;

use async_trait::async_trait;
use gateway_api::Error;
use gateway_api::result::metadata;
use gateway_images::digest::Digest;
use gateway_solver::{AttestationContent, Exporter, Predicate, SolvedRefs, SolvedResult};

/// Someone who names outputs only when the result is there.
#[async_trait]
pub trait LateExporters: Send + Sync {
    /// Exporters beside those of the request. `results` are names of the result's refs.
    ///
    /// # Errors
    /// End the build.
    async fn find(
        &self,
        metadata: &BTreeMap<String, Vec<u8>>,
        results: Vec<String>,
    ) -> Result<Vec<Exporter>, Error>;
}

/// What one result was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The result's key where there are several, a platform mostly.
    pub key: Option<String>,
    pub predicate_type: String,
    /// JSON.
    pub predicate: Vec<u8>,
}

/// The attestations that were added last, one of each platform: with its key, its type, and what
/// it says.
pub(super) fn provenance(result: &SolvedResult) -> Vec<(Option<String>, String, Predicate)> {
    let several = matches!(result.refs, SolvedRefs::Map(_));
    let last = result.attestations.iter().filter_map(|(key, list)| {
        let last = list.last()?;
        match &last.content {
            AttestationContent::Engine(predicate) => Some((
                several.then(|| key.clone()),
                last.attestation.in_toto_predicate_type.clone(),
                predicate.clone(),
            )),
            _ => None,
        }
    });
    last.collect()
}

/// Takes those off again.
pub(super) fn without_last(result: &mut SolvedResult) {
    for list in result.attestations.values_mut() {
        if matches!(
            list.last().map(|last| &last.content),
            Some(AttestationContent::Engine(_))
        ) {
            list.pop();
        }
    }
    result.attestations.retain(|_, list| !list.is_empty());
}

/// Whether exporters could take it. What a frontend answers to questions may have results without
/// platforms, which nothing is recorded of.
pub(super) fn is_exportable(result: &SolvedResult) -> bool {
    match &result.refs {
        SolvedRefs::None => false,
        SolvedRefs::Single(result) => result.is_some(),
        SolvedRefs::Map(_) => result.metadata.contains_key(metadata::PLATFORMS),
    }
}

/// A name for each ref: the digest of the last op of its definition.
pub(super) fn names(result: &SolvedResult) -> Vec<String> {
    let refs: Vec<_> = match &result.refs {
        SolvedRefs::None => Vec::new(),
        SolvedRefs::Single(result) => result.iter().collect(),
        SolvedRefs::Map(map) => map.values().flatten().collect(),
    };
    let last = refs
        .into_iter()
        .filter_map(|result| result.definition().def.last());
    last.map(|op| Digest::of(op).to_string()).collect()
}
