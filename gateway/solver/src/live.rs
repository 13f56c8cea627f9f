//! The live graph of a build: the vertices of all its definitions, each once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use gateway_api::{Cause, Code, Detail, Error, error::SolveDetail};
use gateway_llb::graph::LoadError;
use gateway_llb::{Graph, pb, vertex_name};

use crate::key::OpKey;
use crate::ops::exec::granted_device as granted;
use crate::report;
use crate::shared::SharedWork;
use crate::store::Snapshot;

/// A vertex with the states of its outputs.
pub struct LiveVertex {
    /// The digest of the op's bytes.
    pub digest: String,
    pub op: pb::Op,
    pub metadata: pb::OpMetadata,
    pub name: String,
    /// Where each input is found in the live graph, and which output it is.
    pub inputs: Vec<(String, i64)>,
    pub states: Mutex<States>,
    /// Held by the output that the op runs for: the others then find what it made.
    pub at_work: tokio::sync::Mutex<()>,
    /// What a source turned out to be: the commit, the digest of a file.
    pub pin: OnceLock<String>,
    /// What a step used when it ran in this build, when that is counted.
    pub usage: OnceLock<serde_json::Value>,
    /// The op read the private copy of a local source, and not the files that were hashed in
    /// place: what it made must be stored under the copy's digest.
    pub used_copy: AtomicBool,
}

/// What is being done or was done for a vertex. By output where outputs differ.
#[derive(Default)]
pub struct States {
    pub key: Option<SharedWork<Arc<VertexKey>>>,
    pub known: BTreeMap<i64, SharedWork<Arc<Known>>>,
    pub found: BTreeMap<i64, SharedWork<Arc<Known>>>,
    pub done: BTreeMap<i64, SharedWork<Arc<Done>>>,
    pub outputs: Option<SharedWork<Arc<Vec<Snapshot>>>>,
    pub content: BTreeMap<usize, SharedWork<Arc<String>>>,
}

/// What a vertex is known by.
pub enum VertexKey {
    /// A source: one or more root keys, by op digest.
    Source(Vec<String>),
    Op(OpKey),
}

/// An output before any work: the keys that lead to it, and what is stored under them.
#[derive(Clone)]
pub struct Known {
    pub keys: Vec<String>,
    pub hit: Option<Snapshot>,
}

/// A finished output.
pub struct Done {
    pub keys: Vec<String>,
    pub snapshot: Snapshot,
}

impl LiveVertex {
    pub fn states(&self) -> std::sync::MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error with the vertex it came from, once.
    pub fn blame(&self, mut error: Error) -> Error {
        if error.vertex().is_some() || error.code == Code::Canceled {
            return error;
        }
        let mut known = SolveDetail::default();
        let mut others = Vec::new();
        for detail in error.details.drain(..) {
            match detail {
                Detail::Solve(solve) => known = solve,
                detail => others.push(detail),
            }
        }
        error.details = vec![
            Detail::Solve(SolveDetail {
                op: Some(Box::new(self.op.clone())),
                description: self.metadata.description.clone(),
                ..known
            }),
            Detail::Vertex {
                digest: self.digest.clone(),
            },
        ];
        error.details.extend(others);
        error
    }
}

/// All vertices of a build.
#[derive(Default)]
pub struct LiveGraph(Mutex<HashMap<String, Arc<LiveVertex>>>);

/// A definition in the live graph.
pub struct Loaded {
    /// Terminal vertex and output.
    pub result: (String, i64),
    /// New vertices, inputs first, for the progress stream.
    pub announced: Vec<gateway_api::progress::Vertex>,
}

/// The twin of a vertex that must not use the cache.
const IGNORE_CACHE: &str = "-ignorecache";

/// A definition that is not worked on.
pub struct Refused {
    pub error: Error,
    /// It is no graph, or of what nobody knows; else it asks for more than the build may do.
    pub broken: bool,
}

impl LiveGraph {
    pub fn get(&self, key: &str) -> Result<Arc<LiveVertex>, Error> {
        let vertices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        vertices
            .get(key)
            .cloned()
            .ok_or_else(|| Error::new(Code::Internal, format!("vertex {key} was never loaded")))
    }

    /// The digests of all build ops that a vertex needs, itself included.
    pub fn builds_below(&self, key: &str) -> Result<BTreeSet<String>, Error> {
        let mut builds = BTreeSet::new();
        let mut seen = BTreeSet::from([key.to_owned()]);
        let mut todo = vec![key.to_owned()];
        while let Some(key) = todo.pop() {
            let vertex = self.get(&key)?;
            if matches!(vertex.op.op, Some(pb::op::Op::Build(_))) {
                builds.insert(vertex.digest.clone());
            }
            for (input, _) in &vertex.inputs {
                if seen.insert(input.clone()) {
                    todo.push(input.clone());
                }
            }
        }
        Ok(builds)
    }

    /// Reads a definition and merges it into the graph.
    ///
    /// # Errors
    /// In BuildKit's words: no graph, or more asked for than the build may do.
    pub fn load(
        &self,
        definition: &pb::Definition,
        entitlements: &BTreeSet<String>,
    ) -> Result<Loaded, Refused> {
        let graph = Graph::load(definition).map_err(|error| Refused {
            error: match error {
                LoadError::UnknownCap(_) => Error::unknown(error.to_string()),
                error => Error::unknown(format!("failed to load LLB: {error}")),
            },
            broken: true,
        })?;
        for vertex in graph.vertices() {
            allowed(vertex.op(), entitlements).map_err(|(text, consent)| {
                let digest = vertex.digest().to_owned();
                let error = Error::unknown(format!("failed to load LLB: {text}"))
                    .caused_by(Cause::Policy)
                    .with_help(format!(
                        "The step needs more than builds may do. Let it, if you trust the build file: {consent}\n"
                    ));
                Refused {
                    error: error.with(Detail::Vertex { digest }),
                    broken: false,
                }
            })?;
        }
        let mut vertices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys: HashMap<String, String> = HashMap::new();
        let mut announced = Vec::new();
        for vertex in graph.vertices() {
            let twin = format!("{}{IGNORE_CACHE}", vertex.digest());
            let ignore = vertex.metadata().ignore_cache;
            // One that runs without the cache serves those who would take a cached one as well.
            let key = if vertices.contains_key(&twin) || ignore {
                twin
            } else {
                vertex.digest().to_owned()
            };
            keys.insert(vertex.digest().to_owned(), key.clone());
            let inputs: Vec<(String, i64)> = vertex
                .op()
                .inputs
                .iter()
                .map(|input| {
                    let key = keys.get(&input.digest).unwrap_or(&input.digest);
                    (key.clone(), input.index)
                })
                .collect();
            let name = vertex
                .custom_name()
                .filter(|name| !name.is_empty())
                .map_or_else(|| vertex_name(&graph, vertex.digest()), str::to_owned);
            announced.push(report::vertex(
                vertex.digest(),
                &name,
                vertex
                    .op()
                    .inputs
                    .iter()
                    .map(|i| i.digest.clone())
                    .collect(),
                vertex.metadata().progress_group.as_ref(),
            ));
            vertices.entry(key).or_insert_with(|| {
                Arc::new(LiveVertex {
                    digest: vertex.digest().to_owned(),
                    op: vertex.op().clone(),
                    metadata: vertex.metadata().clone(),
                    name,
                    inputs,
                    states: Mutex::default(),
                    at_work: tokio::sync::Mutex::default(),
                    pin: OnceLock::new(),
                    usage: OnceLock::new(),
                    used_copy: AtomicBool::new(false),
                })
            });
        }
        let result = graph.result();
        let key = keys.get(&result.digest).unwrap_or(&result.digest);
        Ok(Loaded {
            result: (key.clone(), result.index),
            announced,
        })
    }
}

/// What is missing, and the flag that grants it.
fn allowed(op: &pb::Op, entitlements: &BTreeSet<String>) -> Result<(), (String, String)> {
    let Some(pb::op::Op::Exec(exec)) = &op.op else {
        return Ok(());
    };
    let need = |name: &str, wanted: bool| match wanted && !entitlements.contains(name) {
        true => Err((format!("{name} is not allowed"), format!("--allow {name}"))),
        false => Ok(()),
    };
    need("network.host", exec.network() == pb::NetMode::Host)?;
    need(
        "security.insecure",
        exec.security() == pb::SecurityMode::Insecure,
    )?;
    let mut required = exec.cdi_devices.iter().filter(|device| !device.optional);
    match required.find(|device| granted(entitlements, &device.name).is_none()) {
        Some(device) => Err((
            format!(
                "device {} is requested by the build but not allowed",
                device.name
            ),
            "--allow device".to_owned(),
        )),
        None => Ok(()),
    }
}
