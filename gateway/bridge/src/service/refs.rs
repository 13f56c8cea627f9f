//! The refs that a frontend was given: ids are valid until its call ends, in its own call only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gateway_api::{BuildResult, Code, Error, Ref, Refs};

/// Ids listed in the error for an unknown one.
const MAX_LISTED_IDS: usize = 20;

#[derive(Debug)]
pub struct RefTable {
    /// Shared: with each goes a definition, which may be as large as a message.
    refs: Mutex<BTreeMap<String, Arc<Ref>>>,
    max_refs: usize,
    max_definition_bytes: usize,
    /// Of all requests so far: what refs keep.
    definition_bytes: AtomicUsize,
}

impl RefTable {
    pub fn new(max_refs: usize, max_definition_bytes: usize) -> Self {
        RefTable {
            refs: Mutex::default(),
            max_refs,
            max_definition_bytes,
            definition_bytes: AtomicUsize::new(0),
        }
    }

    /// Counts a definition of this size.
    ///
    /// # Errors
    /// Together with those before it, it is too much.
    pub fn charge(&self, bytes: usize) -> Result<(), Error> {
        let before = self.definition_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.max_definition_bytes {
            return Ok(());
        }
        self.definition_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Err(Error::new(
            Code::ResourceExhausted,
            format!(
                "the frontend solved definitions of more than {} bytes",
                self.max_definition_bytes
            ),
        ))
    }

    /// Remembers all refs of a result, those of attestations too.
    ///
    /// # Errors
    /// There would be too many.
    pub fn add(&self, result: &BuildResult) -> Result<(), Error> {
        let attestations = result.attestations.values().flatten();
        let attested = attestations.filter_map(|attestation| attestation.reference.as_ref());
        let refs = result.refs.iter().map(|(_, reference)| reference);
        let mut table = self.refs.lock().unwrap_or_else(PoisonError::into_inner);
        for reference in refs.chain(attested).filter(|r| !r.is_scratch()) {
            if table.len() >= self.max_refs {
                return Err(Error::new(
                    Code::ResourceExhausted,
                    format!("the frontend has more than {} refs", self.max_refs),
                ));
            }
            table.insert(reference.id.clone(), Arc::new(reference.clone()));
        }
        Ok(())
    }

    pub fn get(&self, id: &str) -> Result<Arc<Ref>, Error> {
        let table = self.refs.lock().unwrap_or_else(PoisonError::into_inner);
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
        let table = self.refs.lock().unwrap_or_else(PoisonError::into_inner);
        let resolve = |reference: &mut Ref| {
            *reference = if reference.is_scratch() {
                Ref::scratch()
            } else {
                let known = table.get(&reference.id).ok_or_else(|| {
                    Error::unknown(format!("return reference {} not found", reference.id))
                })?;
                known.as_ref().clone()
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
