//! From a state to a definition: the bytes of its ops in an order in which inputs come first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::state::{Output, Vertex, VertexOp, resolve};
use crate::{Constraints, SourceMap, State, caps, digest_of, encode_op, pb, platform};

/// What a definition is marshalled for.
#[derive(Clone, Debug)]
pub struct MarshalOptions {
    /// Platform of ops that have none of their own.
    pub platform: pb::Platform,
    /// The builder sets a default `PATH` by itself, so ops need not carry one.
    pub sets_default_path: bool,
    /// Makes local sources without a session unique to this build.
    pub local_unique_id: String,
}

impl MarshalOptions {
    /// For a builder with all capabilities.
    pub fn new(platform: pb::Platform) -> Self {
        Self {
            platform,
            sets_default_path: true,
            local_unique_id: String::new(),
        }
    }
}

/// A graph that cannot be marshalled: a mistake of the frontend that built it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarshalError {
    /// A slot that was never filled.
    #[error("a part of the graph was never filled in")]
    EmptySlot,
    /// An op that lacks something.
    #[error("{0}")]
    Incomplete(&'static str),
}

/// Default search path, for builders that set none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl State {
    /// The graph of this state. Scratch gives an empty definition.
    ///
    /// # Errors
    /// When a slot is empty or an op incomplete.
    pub fn marshal(&self, options: &MarshalOptions) -> Result<pb::Definition, MarshalError> {
        let mut writer = Writer {
            options,
            out: pb::Definition::default(),
            seen: HashSet::new(),
            done: HashMap::new(),
            maps: Vec::new(),
            locations: BTreeMap::new(),
            foreign: Vec::new(),
        };
        let Some((vertex, index)) = self.follow()? else {
            return Ok(writer.out);
        };
        writer.write_all(vertex)?;
        writer.finish(vertex, index)
    }

    fn follow(&self) -> Result<Option<(&Arc<Vertex>, i64)>, MarshalError> {
        match &self.output {
            None => Ok(None),
            Some(output) => resolve(output).map_err(|()| MarshalError::EmptySlot),
        }
    }
}

struct Writer<'a> {
    options: &'a MarshalOptions,
    out: pb::Definition,
    /// Digests that are written.
    seen: HashSet<String>,
    /// Digests of vertices by address: every vertex is encoded once.
    done: HashMap<*const Vertex, String>,
    maps: Vec<Arc<SourceMap>>,
    locations: BTreeMap<String, pb::Locations>,
    foreign: Vec<pb::Source>,
}

impl Writer<'_> {
    /// Writes a vertex after its inputs. A stack of our own: graphs may be deeper than the
    /// thread's stack allows.
    fn write_all(&mut self, root: &Arc<Vertex>) -> Result<(), MarshalError> {
        let mut stack: Vec<(&Arc<Vertex>, bool)> = vec![(root, false)];
        while let Some((vertex, inputs_done)) = stack.pop() {
            let address = Arc::as_ptr(vertex);
            if self.done.contains_key(&address) {
                continue;
            }
            if inputs_done {
                let digest = self.write(vertex)?;
                self.done.insert(address, digest);
                continue;
            }
            stack.push((vertex, true));
            let first = stack.len();
            for output in outputs_of(&vertex.op) {
                if let Some((input, _)) = resolve(output).map_err(|()| MarshalError::EmptySlot)? {
                    stack.push((input, false));
                }
            }
            stack[first..].reverse();
        }
        Ok(())
    }

    fn input(&self, output: Option<&Output>) -> Result<Option<pb::Input>, MarshalError> {
        let Some(output) = output else {
            return Ok(None);
        };
        let Some((vertex, index)) = resolve(output).map_err(|()| MarshalError::EmptySlot)? else {
            return Ok(None);
        };
        Ok(Some(pb::Input {
            digest: self
                .done
                .get(&Arc::as_ptr(vertex))
                .cloned()
                .unwrap_or_default(),
            index,
        }))
    }

    fn write(&mut self, vertex: &Vertex) -> Result<String, MarshalError> {
        if let VertexOp::Foreign(foreign) = &vertex.op {
            for (digest, bytes) in &foreign.ops {
                if self.seen.insert(digest.clone()) {
                    self.out.def.push(bytes.clone());
                }
                if let Some(metadata) = foreign.metadata.get(digest) {
                    merge_metadata(
                        self.out.metadata.entry(digest.clone()).or_default(),
                        metadata,
                    );
                }
            }
            self.foreign.extend(foreign.source.clone());
            return Ok(foreign.result.digest.clone());
        }

        let mut metadata = vertex.constraints.metadata.clone();
        let mut op = self.surround(&vertex.constraints);
        let mut inputs = Inputs::default();
        match &vertex.op {
            VertexOp::Source(source) => {
                let mut source_op = source.to_op();
                if source.identifier.starts_with("local://")
                    && !source.attrs.contains_key("local.session")
                {
                    source_op
                        .attrs
                        .insert("local.unique".into(), self.options.local_unique_id.clone());
                    metadata.caps.insert(caps::SOURCE_LOCAL_UNIQUE.into(), true);
                }
                if !source.platform_specific() {
                    op.platform = None;
                }
                op.op = Some(pb::op::Op::Source(source_op));
            }
            VertexOp::Exec(exec) => {
                if vertex.constraints.platform.is_none()
                    && let Some(platform) = &exec.settings.meta.platform
                {
                    op.platform = Some(platform.clone());
                }
                let mut numbers = Vec::new();
                for mount in &exec.mounts {
                    numbers.push(inputs.add(self.input(mount.source.as_ref())?));
                }
                let path = if self.options.sets_default_path {
                    metadata
                        .caps
                        .insert(caps::EXEC_META_SETS_DEFAULT_PATH.into(), true);
                    None
                } else if op.platform.as_ref().is_some_and(|p| p.os == "windows") {
                    None
                } else {
                    Some(DEFAULT_PATH)
                };
                let exec_op = exec
                    .to_op(&numbers, path)
                    .map_err(MarshalError::Incomplete)?;
                op.op = Some(pb::op::Op::Exec(exec_op));
            }
            VertexOp::File(actions) => {
                op.platform = None;
                let base = inputs.add(self.input(actions.base.as_ref())?).unwrap_or(-1);
                let mut numbers = Vec::new();
                for source in actions.sources() {
                    numbers.push(inputs.add(self.input(source)?).unwrap_or(-1));
                }
                let file_op = actions
                    .to_op(base, &numbers, inputs.list.len() as i64)
                    .map_err(MarshalError::Incomplete)?;
                op.op = Some(pb::op::Op::File(file_op));
            }
            VertexOp::Merge(outputs) => {
                op.platform = None;
                let mut merge = pb::MergeOp::default();
                for output in outputs {
                    let number = inputs.push(self.input(Some(output))?);
                    merge.inputs.push(pb::MergeInput { input: number });
                }
                op.op = Some(pb::op::Op::Merge(merge));
            }
            VertexOp::Diff { lower, upper } => {
                op.platform = None;
                let lower = inputs.push(self.input(lower.as_ref())?);
                let upper = inputs.push(self.input(upper.as_ref())?);
                op.op = Some(pb::op::Op::Diff(pb::DiffOp {
                    lower: Some(pb::LowerDiffInput { input: lower }),
                    upper: Some(pb::UpperDiffInput { input: upper }),
                }));
            }
            VertexOp::Foreign(_) => {}
        }
        op.inputs = inputs.list;
        Ok(self.push(&op, metadata, &vertex.constraints))
    }

    fn surround(&self, constraints: &Constraints) -> pb::Op {
        let platform = constraints
            .platform
            .clone()
            .unwrap_or_else(|| self.options.platform.clone());
        pb::Op {
            inputs: Vec::new(),
            platform: Some(platform),
            constraints: Some(pb::WorkerConstraints {
                filter: constraints.filters.clone(),
            }),
            op: None,
        }
    }

    fn push(&mut self, op: &pb::Op, metadata: pb::OpMetadata, constraints: &Constraints) -> String {
        let bytes = encode_op(op);
        let digest = digest_of(&bytes);
        if self.seen.insert(digest.clone()) {
            self.out.def.push(bytes);
        }
        merge_metadata(
            self.out.metadata.entry(digest.clone()).or_default(),
            &metadata,
        );
        // An op without a location has an empty list, as with the reference.
        self.locations.entry(digest.clone()).or_default();
        for (map, ranges) in &constraints.locations {
            let index = self.map_index(map);
            let place = pb::Location {
                source_index: index,
                ranges: ranges.clone(),
            };
            if let Some(places) = self.locations.get_mut(&digest) {
                places.locations.push(place);
            }
        }
        digest
    }

    fn map_index(&mut self, map: &Arc<SourceMap>) -> i32 {
        let known = self
            .maps
            .iter()
            .position(|m| Arc::ptr_eq(m, map))
            .or_else(|| self.maps.iter().position(|m| m == map));
        let index = known.unwrap_or_else(|| {
            self.maps.push(Arc::clone(map));
            self.maps.len() - 1
        });
        i32::try_from(index).unwrap_or(i32::MAX)
    }

    fn finish(mut self, vertex: &Arc<Vertex>, index: i64) -> Result<pb::Definition, MarshalError> {
        let digest = self
            .done
            .get(&Arc::as_ptr(vertex))
            .cloned()
            .ok_or(MarshalError::EmptySlot)?;
        let terminal = encode_op(&pb::Op {
            inputs: vec![pb::Input { digest, index }],
            ..pb::Op::default()
        });
        let mut needed: BTreeMap<String, bool> = [caps::CONSTRAINTS, caps::PLATFORM]
            .map(|cap| (cap.to_owned(), true))
            .into();
        for metadata in self.out.metadata.values() {
            if metadata.ignore_cache {
                needed.insert(caps::META_IGNORE_CACHE.into(), true);
            }
            if !metadata.description.is_empty() {
                needed.insert(caps::META_DESCRIPTION.into(), true);
            }
            if metadata.export_cache.is_some() {
                needed.insert(caps::META_EXPORT_CACHE.into(), true);
            }
        }
        self.out.metadata.insert(
            digest_of(&terminal),
            pb::OpMetadata {
                caps: needed,
                ..pb::OpMetadata::default()
            },
        );
        self.out.def.push(terminal);

        let mut source = pb::Source {
            locations: self.locations,
            infos: self.maps.iter().map(|map| map.to_info()).collect(),
        };
        for foreign in self.foreign {
            let offset = i32::try_from(source.infos.len()).unwrap_or(i32::MAX);
            source.infos.extend(foreign.infos);
            for (digest, mut places) in foreign.locations {
                for place in &mut places.locations {
                    place.source_index = place.source_index.saturating_add(offset);
                }
                let entry = source.locations.entry(digest).or_default();
                entry.locations.extend(places.locations);
            }
        }
        self.out.source = Some(source);
        Ok(self.out)
    }
}

/// The inputs of an op under construction.
#[derive(Default)]
struct Inputs {
    list: Vec<pb::Input>,
    /// The numbers of those that may be shared: a command may have thousands of mounts.
    numbers: HashMap<(String, i64), usize>,
}

impl Inputs {
    /// The number of an input, shared with an equal one.
    fn add(&mut self, input: Option<pb::Input>) -> Option<i64> {
        let input = input?;
        let next = self.list.len();
        let key = (input.digest.clone(), input.index);
        let at = *self.numbers.entry(key).or_insert_with(|| {
            self.list.push(input);
            next
        });
        Some(at as i64)
    }

    /// The number of a new input; -1 for scratch.
    fn push(&mut self, input: Option<pb::Input>) -> i64 {
        match input {
            None => -1,
            Some(input) => {
                self.list.push(input);
                self.list.len() as i64 - 1
            }
        }
    }
}

fn outputs_of(op: &VertexOp) -> Vec<&Output> {
    match op {
        VertexOp::Source(_) | VertexOp::Foreign(_) => Vec::new(),
        VertexOp::Exec(exec) => exec
            .mounts
            .iter()
            .filter_map(|m| m.source.as_ref())
            .collect(),
        VertexOp::File(actions) => actions
            .base
            .iter()
            .chain(actions.sources().into_iter().flatten())
            .collect(),
        VertexOp::Merge(inputs) => inputs.iter().collect(),
        VertexOp::Diff { lower, upper } => lower.iter().chain(upper).collect(),
    }
}

/// Two vertices with one digest are one: what either says holds, the later word wins.
fn merge_metadata(into: &mut pb::OpMetadata, from: &pb::OpMetadata) {
    into.ignore_cache |= from.ignore_cache;
    into.description
        .extend(from.description.iter().map(|(k, v)| (k.clone(), v.clone())));
    into.caps
        .extend(from.caps.keys().map(|k| (k.clone(), true)));
    if from.export_cache.is_some() {
        into.export_cache = from.export_cache;
    }
    if from.progress_group.is_some() {
        into.progress_group = from.progress_group.clone();
    }
    if from.linux_resources.is_some() {
        into.linux_resources = from.linux_resources.clone();
    }
}

impl Default for MarshalOptions {
    fn default() -> Self {
        Self::new(platform::host())
    }
}
