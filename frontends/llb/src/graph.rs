//! Reading a definition: every op with its bytes, its digest, its metadata.
//!
//! What a definition must obey and the words in which it is refused are BuildKit's: clients show
//! them, scripts match them. Nothing here recurses: a definition may be as deep as it is long.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;

use crate::{caps, digest_of, pb};

/// The most ops in one definition. BuildKit has no limit but its message size (16 MiB); a vertex
/// of ours costs at least about 100 bytes on the wire, so this is out of reach for what is honest.
pub const MAX_OPS: usize = 200_000;

/// Why a definition was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// No ops at all.
    #[error("invalid empty definition")]
    Empty,
    /// More than [`MAX_OPS`].
    #[error("invalid definition with {0} vertexes: more than {MAX_OPS}")]
    TooMany(usize),
    /// An op that is no message.
    #[error("failed to parse llb proto op: {0}")]
    Parse(String),
    /// A lone op cannot be both work and result.
    #[error("invalid LLB with {0} vertexes")]
    Alone(usize),
    /// The last op must name the result.
    #[error("invalid LLB with no inputs on last vertex")]
    NoResult,
    /// An input that is not there.
    #[error("invalid missing input digest {0}")]
    MissingInput(String),
    /// A negative output number.
    #[error("invalid input {input} output index {index}")]
    InputIndex {
        /// Which input of the op.
        input: usize,
        /// The number.
        index: i64,
    },
    /// A capability that nobody knows.
    #[error("unknown API capability {0}")]
    UnknownCap(String),
    /// An op that lacks a part.
    #[error("{0}")]
    Op(String),
}

/// One vertex: an op as it came, read, and what may be known of it.
#[derive(Clone, Debug)]
pub struct Vertex {
    digest: String,
    raw: Vec<u8>,
    op: pb::Op,
    metadata: pb::OpMetadata,
}

impl Vertex {
    /// `sha256:` and the hash of the op's bytes.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The op's bytes as they came.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The op.
    pub fn op(&self) -> &pb::Op {
        &self.op
    }

    /// Names, caps and hints.
    pub fn metadata(&self) -> &pb::OpMetadata {
        &self.metadata
    }

    /// The name that the frontend gave it.
    pub fn custom_name(&self) -> Option<&str> {
        self.metadata
            .description
            .get(crate::constraints::CUSTOM_NAME)
            .map(String::as_str)
    }
}

/// A definition that was read and found good.
#[derive(Clone, Debug)]
pub struct Graph {
    vertices: HashMap<String, Vertex>,
    order: Vec<String>,
    result: pb::Input,
    source: Option<pb::Source>,
}

impl Graph {
    /// Reads and checks a definition.
    ///
    /// # Errors
    /// In BuildKit's words, when it is no graph. Ops that the result does not need must be
    /// readable and have their inputs, but are not checked further.
    pub fn load(definition: &pb::Definition) -> Result<Graph, LoadError> {
        if definition.def.is_empty() {
            return Err(LoadError::Empty);
        }
        if definition.def.len() > MAX_OPS {
            return Err(LoadError::TooMany(definition.def.len()));
        }
        for metadata in definition.metadata.values() {
            for cap in metadata.caps.keys() {
                if !caps::ALL.contains(&cap.as_str()) {
                    return Err(LoadError::UnknownCap(cap.clone()));
                }
            }
        }
        let mut vertices = HashMap::with_capacity(definition.def.len());
        let mut terminal = String::new();
        for raw in &definition.def {
            let op = pb::Op::decode(raw.as_slice()).map_err(|e| LoadError::Parse(e.to_string()))?;
            let digest = digest_of(raw);
            terminal.clone_from(&digest);
            let metadata = definition
                .metadata
                .get(&digest)
                .cloned()
                .unwrap_or_default();
            vertices.insert(
                digest.clone(),
                Vertex {
                    digest,
                    raw: raw.clone(),
                    op,
                    metadata,
                },
            );
        }
        for vertex in vertices.values() {
            for (number, input) in vertex.op.inputs.iter().enumerate() {
                if input.index < 0 {
                    return Err(LoadError::InputIndex {
                        input: number,
                        index: input.index,
                    });
                }
            }
        }
        if vertices.len() < 2 {
            return Err(LoadError::Alone(vertices.len()));
        }
        let result = vertices
            .get(&terminal)
            .and_then(|last| last.op.inputs.first().cloned())
            .ok_or(LoadError::NoResult)?;
        for vertex in vertices.values() {
            for input in &vertex.op.inputs {
                if !vertices.contains_key(&input.digest) {
                    return Err(LoadError::MissingInput(input.digest.clone()));
                }
            }
        }
        vertices.remove(&terminal);
        let order = order(&vertices, &result.digest);
        for digest in &order {
            if let Some(vertex) = vertices.get(digest) {
                check(&vertex.op)?;
            }
        }
        Ok(Graph {
            vertices,
            order,
            result,
            source: definition.source.clone(),
        })
    }

    /// The vertex and output that the definition stands for.
    pub fn result(&self) -> &pb::Input {
        &self.result
    }

    /// A vertex by its digest.
    pub fn get(&self, digest: &str) -> Option<&Vertex> {
        self.vertices.get(digest)
    }

    /// All vertices that the result needs, inputs before those who use them.
    pub fn vertices(&self) -> impl Iterator<Item = &Vertex> {
        self.order.iter().filter_map(|d| self.vertices.get(d))
    }

    /// How many vertices the result needs.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Never true: a graph has a result.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The build files and where each vertex came from.
    pub fn source(&self) -> Option<&pb::Source> {
        self.source.as_ref()
    }

    /// The file and line ranges that a vertex came from.
    pub fn locations(&self, digest: &str) -> Vec<(&pb::SourceInfo, &[pb::Range])> {
        let Some(source) = &self.source else {
            return Vec::new();
        };
        let Some(places) = source.locations.get(digest) else {
            return Vec::new();
        };
        places
            .locations
            .iter()
            .filter_map(|place| {
                let index = usize::try_from(place.source_index).ok()?;
                Some((source.infos.get(index)?, place.ranges.as_slice()))
            })
            .collect()
    }

    /// The definition again, with the bytes as they came.
    pub fn to_definition(&self) -> pb::Definition {
        let terminal = pb::Op {
            inputs: vec![self.result.clone()],
            ..pb::Op::default()
        };
        let metadata: BTreeMap<String, pb::OpMetadata> = self
            .vertices()
            .map(|v| (v.digest.clone(), v.metadata.clone()))
            .collect();
        pb::Definition {
            def: self
                .vertices()
                .map(|v| v.raw.clone())
                .chain([terminal.encode_to_vec()])
                .collect(),
            metadata,
            source: self.source.clone(),
        }
    }
}

/// The vertices that `root` needs, inputs first. Inputs are hashes, so there is no circle.
fn order(vertices: &HashMap<String, Vertex>, root: &str) -> Vec<String> {
    let mut order = Vec::new();
    let mut done = std::collections::HashSet::new();
    let mut stack = vec![(root, false)];
    while let Some((digest, inputs_done)) = stack.pop() {
        if done.contains(digest) {
            continue;
        }
        let Some(vertex) = vertices.get(digest) else {
            continue;
        };
        if inputs_done {
            done.insert(digest);
            order.push(digest.to_owned());
            continue;
        }
        stack.push((digest, true));
        for input in vertex.op.inputs.iter().rev() {
            stack.push((&input.digest, false));
        }
    }
    order
}

fn check(op: &pb::Op) -> Result<(), LoadError> {
    let refuse = |text: &str| Err(LoadError::Op(text.to_owned()));
    let inputs = op.inputs.len() as i64;
    match &op.op {
        Some(pb::op::Op::Exec(exec)) => {
            let Some(meta) = &exec.meta else {
                return refuse("invalid exec op with no meta");
            };
            if meta.args.is_empty() {
                return refuse("invalid exec op with no args");
            }
            if exec.mounts.is_empty() {
                return refuse("invalid exec op with no mounts");
            }
            if !exec.mounts.iter().any(|m| m.dest == "/") {
                return refuse("invalid exec op with no rootfs");
            }
        }
        Some(pb::op::Op::File(file)) if file.actions.is_empty() => {
            return refuse("invalid file op with no actions");
        }
        Some(pb::op::Op::Diff(diff)) => {
            let (Some(lower), Some(upper)) = (&diff.lower, &diff.upper) else {
                return refuse("invalid diff op with nil lower or upper input");
            };
            for index in [lower.input, upper.input] {
                if index >= inputs || index < -1 {
                    return refuse(&format!("invalid diff input index {index}"));
                }
            }
        }
        Some(pb::op::Op::Passthrough(op)) => {
            if op.id.is_empty() {
                return refuse("invalid passthrough op with no id");
            }
            if op.outputs.is_empty() {
                return refuse("invalid passthrough op with no outputs");
            }
            if let Some(index) = op.outputs.iter().find(|i| **i >= inputs || **i < -1) {
                return refuse(&format!("invalid passthrough output input index {index}"));
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Constraints, ImageSource, MarshalOptions, State};

    fn image() -> State {
        ImageSource::new("docker.io/library/busybox:latest").state(Constraints::new().name("[x]"))
    }

    fn refusal(definition: &pb::Definition) -> String {
        Graph::load(definition).unwrap_err().to_string()
    }

    fn of(ops: &[pb::Op]) -> pb::Definition {
        pb::Definition {
            def: ops.iter().map(|op| op.encode_to_vec()).collect(),
            ..pb::Definition::default()
        }
    }

    fn result_of(op: &pb::Op) -> pb::Op {
        pb::Op {
            inputs: vec![pb::Input {
                digest: digest_of(&op.encode_to_vec()),
                index: 0,
            }],
            ..pb::Op::default()
        }
    }

    #[test]
    fn a_definition_of_ours_loads_and_keeps_its_bytes() {
        let state = image().dir("/").run(["true"]).root();
        let definition = state.marshal(&MarshalOptions::default()).unwrap();
        let graph = Graph::load(&definition).unwrap();
        assert_eq!(graph.len(), 2);
        let raws: Vec<&[u8]> = graph.vertices().map(Vertex::raw).collect();
        assert_eq!(raws, [&definition.def[0][..], &definition.def[1][..]]);
        assert_eq!(graph.vertices().next().unwrap().custom_name(), Some("[x]"));
        assert_eq!(graph.to_definition().def, definition.def);
        let exec = graph.result().digest.clone();
        assert_eq!(crate::vertex_name(&graph, &exec), "true");
    }

    #[test]
    fn refusals_have_the_reference_words() {
        assert_eq!(refusal(&of(&[])), "invalid empty definition");
        assert_eq!(
            refusal(&of(&[pb::Op::default()])),
            "invalid LLB with 1 vertexes"
        );
        let work = pb::Op {
            op: Some(pb::op::Op::File(pb::FileOp::default())),
            ..pb::Op::default()
        };
        assert_eq!(
            refusal(&of(&[work.clone(), pb::Op::default()])),
            "invalid LLB with no inputs on last vertex"
        );
        assert_eq!(
            refusal(&of(&[work.clone(), result_of(&work)])),
            "invalid file op with no actions"
        );
        let mut lost = result_of(&work);
        lost.inputs[0].digest = "sha256:00".into();
        assert_eq!(
            refusal(&of(&[work.clone(), lost])),
            "invalid missing input digest sha256:00"
        );
        let mut negative = result_of(&work);
        negative.inputs[0].index = -2;
        assert_eq!(
            refusal(&of(&[work.clone(), negative])),
            "invalid input 0 output index -2"
        );
        for (exec, words) in [
            (pb::ExecOp::default(), "invalid exec op with no meta"),
            (
                pb::ExecOp {
                    meta: Some(pb::Meta::default()),
                    ..pb::ExecOp::default()
                },
                "invalid exec op with no args",
            ),
        ] {
            let op = pb::Op {
                op: Some(pb::op::Op::Exec(exec)),
                ..pb::Op::default()
            };
            assert_eq!(refusal(&of(&[op.clone(), result_of(&op)])), words);
        }
        let broken = pb::Definition {
            def: vec![vec![0xff]],
            ..pb::Definition::default()
        };
        assert!(refusal(&broken).starts_with("failed to parse llb proto op: "));
    }

    #[test]
    fn an_unknown_capability_is_refused() {
        let mut definition = image().marshal(&MarshalOptions::default()).unwrap();
        let entry = definition.metadata.values_mut().next().unwrap();
        entry.caps.insert("nope.cap".into(), true);
        assert_eq!(refusal(&definition), "unknown API capability nope.cap");
    }

    #[test]
    fn a_graph_of_many_levels_needs_no_deep_stack() {
        let mut state = image().dir("/");
        for i in 0..20_000 {
            state = state.run(["true".to_owned(), i.to_string()]).root();
        }
        let definition = state.marshal(&MarshalOptions::default()).unwrap();
        assert_eq!(Graph::load(&definition).unwrap().len(), 20_001);
        drop(state);
    }
}
