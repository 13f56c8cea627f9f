//! A frontend's result with the results behind its refs: between frontends, and before exporters.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::Attestation;
use gateway_solver::{AttestationContent, ResultRef, SolvedAttestation, SolvedRefs, SolvedResult};

use super::provenance::Origin;

#[derive(Clone, Default)]
pub(crate) struct Solved {
    pub refs: SolvedRefs,
    /// The frontend call whose definitions the refs are.
    pub origin: Option<Arc<Origin>>,
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// Without refs of their own: those are beside them.
    pub attestations: BTreeMap<String, Vec<(Attestation, Option<ResultRef>)>>,
}

impl Solved {
    /// The same results as those of a frontend, which their errors then name.
    pub fn of_frontend(self, name: &str, source: &str) -> Solved {
        let of = |result: ResultRef| result.of_frontend(name, source);
        Solved {
            refs: match self.refs {
                SolvedRefs::None => SolvedRefs::None,
                SolvedRefs::Single(result) => SolvedRefs::Single(result.map(of)),
                SolvedRefs::Map(map) => SolvedRefs::Map(
                    map.into_iter()
                        .map(|(key, result)| (key, result.map(of)))
                        .collect(),
                ),
            },
            ..self
        }
    }

    pub fn results(&self) -> Vec<&ResultRef> {
        match &self.refs {
            SolvedRefs::None => Vec::new(),
            SolvedRefs::Single(result) => result.iter().collect(),
            SolvedRefs::Map(map) => map.values().flatten().collect(),
        }
    }

    /// For exporters.
    pub fn into_exportable(self) -> SolvedResult {
        let solved = |(attestation, result): (Attestation, Option<ResultRef>)| SolvedAttestation {
            attestation,
            content: result.map_or(AttestationContent::Missing, AttestationContent::Result),
        };
        let attestations = self.attestations.into_iter();
        SolvedResult {
            refs: self.refs,
            metadata: self.metadata,
            attestations: attestations
                .map(|(key, list)| (key, list.into_iter().map(solved).collect()))
                .collect(),
        }
    }
}
