//! Graphs that others built, as parts of ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;

use crate::state::{Output, Vertex, VertexOp};
use crate::{Constraints, State, digest_of, pb};

/// Why a definition cannot be used as a state.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// The last op is not a message.
    #[error("failed to parse llb proto op: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The last op names no result.
    #[error("invalid LLB with no inputs on last vertex")]
    NoResult,
}

/// Ops with their bytes as they came: encoding them again could change their digests.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub ops: Vec<(String, Vec<u8>)>,
    pub metadata: BTreeMap<String, pb::OpMetadata>,
    pub source: Option<pb::Source>,
    pub result: pb::Input,
}

impl State {
    /// A state of a definition that came from elsewhere, such as an input of a frontend.
    ///
    /// # Errors
    /// When its last op cannot be read or names no result. An empty definition is scratch.
    pub fn from_definition(definition: &pb::Definition) -> Result<State, ForeignError> {
        let Some((last, ops)) = definition.def.split_last() else {
            return Ok(State::scratch());
        };
        let terminal = pb::Op::decode(last.as_slice())?;
        let result = terminal
            .inputs
            .into_iter()
            .next()
            .ok_or(ForeignError::NoResult)?;
        let index = result.index;
        let vertex = Vertex {
            op: VertexOp::Foreign(Foreign {
                ops: ops
                    .iter()
                    .map(|bytes| (digest_of(bytes), bytes.clone()))
                    .collect(),
                metadata: definition.metadata.clone(),
                source: definition.source.clone(),
                result,
            }),
            constraints: Constraints::default(),
        };
        Ok(State {
            output: Some(Output::Of(Arc::new(vertex), index)),
            meta: Arc::default(),
        })
    }
}
