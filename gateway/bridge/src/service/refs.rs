//! The refs that a frontend was given: ids are valid until its call ends, in its own call only.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use gateway_api::{BuildResult, Error, Ref, Refs};

/// Ids listed in the error for an unknown one.
const MAX_LISTED_IDS: usize = 20;

#[derive(Debug, Default)]
pub struct RefTable(Mutex<BTreeMap<String, Ref>>);

impl RefTable {
    /// Remembers all refs of a result, those of attestations too.
    pub fn add(&self, result: &BuildResult) {
        let attestations = result.attestations.values().flatten();
        let attested = attestations.filter_map(|attestation| attestation.reference.as_ref());
        let refs = result.refs.iter().map(|(_, reference)| reference);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for reference in refs.chain(attested).filter(|r| !r.is_scratch()) {
            table.insert(reference.id.clone(), reference.clone());
        }
    }

    pub fn get(&self, id: &str) -> Result<Ref, Error> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(id).cloned().ok_or_else(|| {
            let ids: Vec<&str> = table
                .keys()
                .take(MAX_LISTED_IDS)
                .map(String::as_str)
                .collect();
            Error::unknown(format!("no such ref: {id}, all [{}]", ids.join(" ")))
        })
    }

    /// The refs of a returned result as they were given out: only the ids are the frontend's word.
    pub fn resolve(&self, mut returned: BuildResult) -> Result<BuildResult, Error> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let resolve = |reference: &mut Ref| {
            *reference = if reference.is_scratch() {
                Ref::scratch()
            } else {
                table.get(&reference.id).cloned().ok_or_else(|| {
                    Error::unknown(format!("return reference {} not found", reference.id))
                })?
            };
            Ok(())
        };
        match &mut returned.refs {
            Refs::None => {}
            Refs::Single(reference) => resolve(reference)?,
            Refs::Map(map) => map.values_mut().try_for_each(resolve)?,
        }
        returned
            .attestations
            .values_mut()
            .flatten()
            .filter_map(|attestation| attestation.reference.as_mut())
            .try_for_each(resolve)?;
        Ok(returned)
    }
}
