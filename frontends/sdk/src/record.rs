//! A frontend's conversation with its host, kept and played back: what a real build asked and was
//! answered becomes a unit test that needs no host.
//!
//! [`Recorder`] stands between a frontend and its gateway; `gateway build --record DIR` puts one
//! before every frontend of a build. [`Replay`] answers from the recording:
//!
//! ```no_run
//! # async fn build(_: std::sync::Arc<dyn gateway_frontend::api::Gateway>) -> Result<gateway_frontend::api::BuildResult, gateway_frontend::api::Error> { unimplemented!() }
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use gateway_frontend::record::{Recording, Replay};
//!
//! let recording = Recording::read("tests/data/1-dockerfile.v0.json".as_ref())?;
//! let replay = Replay::new(recording).shared();
//! let returned = build(replay.clone()).await;
//! assert_eq!(returned, replay.returned());
//! assert!(replay.unasked().is_empty());
//! # Ok(()) }
//! ```
//!
//! Calls are matched by what they ask, not by their order. A recording holds the options and all
//! files that the frontend read; secrets of steps are not among them. Containers are not recorded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use base64::Engine as _;
use gateway_api::{
    BuildResult, Code, Container, ContainerRequest, Error, FileRange, Gateway, ImageConfig,
    Invocation, Ref, ResolveImageConfigRequest, ResolveSourceMetaRequest, SolveRequest, SourceMeta,
    Stat, Warning,
};
use gateway_llb::pb;
use gateway_proto::convert::{caps, definition, files, request, result, source};
use gateway_proto::error::{from_rpc, to_rpc};
use gateway_proto::frontend as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

/// The form of recordings that this code writes and reads.
const VERSION: u32 = 1;

/// Why a recording could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot read the recording: {0}")]
    Read(std::io::Error),
    #[error("cannot write the recording: {0}")]
    Write(std::io::Error),
    #[error("this is no recording of a frontend: {0}")]
    Form(serde_json::Error),
    #[error("this recording has version {0}; version {VERSION} is known")]
    Version(u32),
}

/// A whole conversation. Requests and answers are the messages of the wire, in base64.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    version: u32,
    opts: BTreeMap<String, String>,
    session: String,
    product: String,
    /// Capabilities and workers.
    host: String,
    calls: Vec<Call>,
    returned: Answer,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Call {
    method: String,
    /// For readers.
    about: String,
    request: String,
    answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ok(String),
    Error { message: String, status: String },
}

impl Default for Answer {
    fn default() -> Self {
        Answer::Ok(String::new())
    }
}

impl Answer {
    fn new<T: Message>(answer: Result<T, &Error>) -> Self {
        match answer {
            Ok(message) => Answer::Ok(BASE64.encode(message.encode_to_vec())),
            Err(error) => Answer::Error {
                message: error.message.clone(),
                status: BASE64.encode(to_rpc(error).encode_to_vec()),
            },
        }
    }

    fn open<T: Message + Default>(&self) -> Result<T, Error> {
        match self {
            Answer::Ok(text) => decode(text),
            Answer::Error { status, .. } => Err(from_rpc(decode(status)?)),
        }
    }
}

fn decode<T: Message + Default>(text: &str) -> Result<T, Error> {
    let broken = |why: String| Error::new(Code::DataLoss, format!("broken recording: {why}"));
    let bytes = BASE64.decode(text).map_err(|e| broken(e.to_string()))?;
    T::decode(bytes.as_slice()).map_err(|e| broken(e.to_string()))
}

impl Recording {
    /// Reads a file that [`Recording::write`] made.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        Self::parse(&std::fs::read(path).map_err(RecordError::Read)?)
    }

    /// Reads the content of such a file.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn parse(json: &[u8]) -> Result<Self, RecordError> {
        let recording: Self = serde_json::from_slice(json).map_err(RecordError::Form)?;
        match recording.version {
            VERSION => Ok(recording),
            other => Err(RecordError::Version(other)),
        }
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        let mut json = serde_json::to_vec_pretty(self).map_err(RecordError::Form)?;
        json.push(b'\n');
        std::fs::write(path, json).map_err(RecordError::Write)
    }

    /// The calls in their order, as `method: what about`.
    pub fn calls(&self) -> Vec<String> {
        let calls = self.calls.iter();
        calls
            .map(|call| format!("{}: {}", call.method, call.about))
            .collect()
    }

    fn invocation(&self) -> Invocation {
        let host: wire::PongResponse = decode(&self.host).unwrap_or_default();
        Invocation {
            opts: self.opts.clone(),
            session_id: self.session.clone(),
            product: self.product.clone(),
            workers: host
                .workers
                .into_iter()
                .map(caps::worker_from_wire)
                .collect(),
            frontend_caps: caps::from_wire(host.frontend_api_caps),
            llb_caps: caps::from_wire(host.llb_caps),
        }
    }
}

/// Passes calls on and remembers them.
pub struct Recorder {
    gateway: Arc<dyn Gateway>,
    calls: Mutex<Vec<Call>>,
}

impl Recorder {
    /// Before a gateway.
    pub fn new(gateway: Arc<dyn Gateway>) -> Arc<Self> {
        Arc::new(Self {
            gateway,
            calls: Mutex::default(),
        })
    }

    /// All calls so far, with what the frontend returned.
    pub fn finish(&self, returned: &Result<BuildResult, Error>) -> Recording {
        let invocation = self.gateway.invocation();
        let host = wire::PongResponse {
            frontend_api_caps: caps::to_wire(&invocation.frontend_caps),
            llb_caps: caps::to_wire(&invocation.llb_caps),
            workers: invocation
                .workers
                .iter()
                .map(caps::worker_to_wire)
                .collect(),
        };
        let returned = returned.as_ref().cloned();
        Recording {
            version: VERSION,
            opts: invocation.opts.clone(),
            session: invocation.session_id.clone(),
            product: invocation.product.clone(),
            host: BASE64.encode(host.encode_to_vec()),
            calls: lock(&self.calls).clone(),
            returned: Answer::new(returned.map(|result| result::to_wire(result, true))),
        }
    }

    fn note<T, M: Message>(
        &self,
        (method, about): (&str, &str),
        request: &impl Message,
        answer: &Result<T, Error>,
        convert: impl FnOnce(&T) -> M,
    ) {
        let call = Call {
            method: method.to_owned(),
            about: about.to_owned(),
            request: BASE64.encode(request.encode_to_vec()),
            answer: Answer::new(answer.as_ref().map(convert)),
        };
        lock(&self.calls).push(call);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn about_solve(call: &SolveRequest) -> String {
    match &call.definition {
        _ if !call.frontend.is_empty() => format!("frontend {}", call.frontend),
        None => "nothing".to_owned(),
        Some(definition) => gateway_llb::Graph::load(definition)
            .map(|graph| {
                let digest = &graph.result().digest;
                let custom = graph.get(digest).and_then(|vertex| vertex.custom_name());
                match custom {
                    Some(name) => name.to_owned(),
                    None => gateway_llb::vertex_name(&graph, digest),
                }
            })
            .unwrap_or_default(),
    }
}

fn read_request(reference: &Ref, path: &str, range: Option<FileRange>) -> wire::ReadFileRequest {
    wire::ReadFileRequest {
        r#ref: reference.id.clone(),
        file_path: path.to_owned(),
        range: range.map(files::range_to_wire),
        mount_index: 0,
    }
}

fn read_dir_request(reference: &Ref, path: &str, include: Option<&str>) -> wire::ReadDirRequest {
    wire::ReadDirRequest {
        r#ref: reference.id.clone(),
        dir_path: path.to_owned(),
        include_pattern: include.unwrap_or_default().to_owned(),
        mount_index: 0,
    }
}

fn stat_request(reference: &Ref, path: &str) -> wire::StatFileRequest {
    wire::StatFileRequest {
        r#ref: reference.id.clone(),
        path: path.to_owned(),
        mount_index: 0,
    }
}

fn evaluate_request(reference: &Ref) -> wire::EvaluateRequest {
    wire::EvaluateRequest {
        r#ref: reference.id.clone(),
    }
}

#[async_trait]
impl Gateway for Recorder {
    fn invocation(&self) -> &Invocation {
        self.gateway.invocation()
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, Error> {
        let answer = self.gateway.inputs().await;
        let convert = |inputs: &BTreeMap<_, _>| wire::InputsResponse {
            definitions: definition::to_entries(inputs.clone()),
        };
        self.note(("inputs", ""), &wire::InputsRequest {}, &answer, convert);
        answer
    }

    async fn solve(&self, call: SolveRequest) -> Result<BuildResult, Error> {
        let message = request::solve_to_wire(call.clone());
        let about = about_solve(&call);
        let answer = self.gateway.solve(call).await;
        let convert = |solved: &BuildResult| result::to_wire(solved.clone(), true);
        self.note(("solve", &about), &message, &answer, convert);
        answer
    }

    async fn resolve_image_config(
        &self,
        call: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        let message = source::image_request_to_wire(call.clone());
        let answer = self.gateway.resolve_image_config(call.clone()).await;
        let what = ("resolve_image_config", call.reference.as_str());
        self.note(what, &message, &answer, |config| {
            source::image_config_to_wire(config.clone())
        });
        answer
    }

    async fn resolve_source_meta(
        &self,
        call: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        let message = source::meta_request_to_wire(call.clone());
        let answer = self.gateway.resolve_source_meta(call.clone()).await;
        let what = ("resolve_source_meta", call.source.identifier.as_str());
        self.note(what, &message, &answer, |meta| {
            source::meta_to_wire(meta.clone())
        });
        answer
    }

    async fn read_file(
        &self,
        reference: &Ref,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        let message = read_request(reference, path, range);
        let answer = self.gateway.read_file(reference, path, range).await;
        let convert = |data: &Vec<u8>| wire::ReadFileResponse { data: data.clone() };
        self.note(("read_file", path), &message, &answer, convert);
        answer
    }

    async fn read_dir(
        &self,
        reference: &Ref,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        let message = read_dir_request(reference, path, include);
        let answer = self.gateway.read_dir(reference, path, include).await;
        let convert = |stats: &Vec<Stat>| wire::ReadDirResponse {
            entries: stats.iter().cloned().map(files::stat_to_wire).collect(),
        };
        self.note(("read_dir", path), &message, &answer, convert);
        answer
    }

    async fn stat_file(&self, reference: &Ref, path: &str) -> Result<Stat, Error> {
        let message = stat_request(reference, path);
        let answer = self.gateway.stat_file(reference, path).await;
        let convert = |stat: &Stat| wire::StatFileResponse {
            stat: Some(files::stat_to_wire(stat.clone())),
        };
        self.note(("stat_file", path), &message, &answer, convert);
        answer
    }

    async fn evaluate(&self, reference: &Ref) -> Result<(), Error> {
        let message = evaluate_request(reference);
        let answer = self.gateway.evaluate(reference).await;
        let what = ("evaluate", reference.id.as_str());
        self.note(what, &message, &answer, |()| wire::EvaluateResponse {});
        answer
    }

    async fn warn(&self, warning: Warning) -> Result<(), Error> {
        let message = request::warning_to_wire(warning.clone());
        let about = String::from_utf8_lossy(&warning.short).into_owned();
        let answer = self.gateway.warn(warning).await;
        let convert = |(): &()| wire::WarnResponse {};
        self.note(("warn", &about), &message, &answer, convert);
        answer
    }

    async fn new_container(&self, call: ContainerRequest) -> Result<Box<dyn Container>, Error> {
        self.gateway.new_container(call).await
    }
}

/// Answers from a recording.
pub struct Replay {
    recording: Recording,
    invocation: Invocation,
    asked: Mutex<Vec<bool>>,
}

impl Replay {
    /// Of a recording.
    pub fn new(recording: Recording) -> Self {
        Self {
            invocation: recording.invocation(),
            asked: Mutex::new(vec![false; recording.calls.len()]),
            recording,
        }
    }

    /// The form that frontends take.
    pub fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// What the frontend returned when it was recorded. Of refs only the ids are kept.
    ///
    /// # Errors
    /// The error that it returned.
    pub fn returned(&self) -> Result<BuildResult, Error> {
        self.recording.returned.open().map(result::from_wire)
    }

    /// Recorded calls that were not made, as `method: what about`.
    pub fn unasked(&self) -> Vec<String> {
        let asked = lock(&self.asked);
        let calls = self.recording.calls().into_iter().zip(asked.iter());
        calls
            .filter(|(_, asked)| !**asked)
            .map(|(c, _)| c)
            .collect()
    }

    fn find<T, M>(&self, method: &str, request: &M) -> Result<T, Error>
    where
        T: Message + Default,
        M: Message + std::fmt::Debug,
    {
        let wanted = BASE64.encode(request.encode_to_vec());
        let mut asked = lock(&self.asked);
        let mut last = None;
        for (index, call) in self.recording.calls.iter().enumerate() {
            if call.method != method || call.request != wanted {
                continue;
            }
            last = Some(call);
            // Equal calls are answered in their order, the last answer again and again.
            if let Some(asked) = asked.get_mut(index).filter(|asked| !**asked) {
                *asked = true;
                break;
            }
        }
        match last {
            Some(call) => call.answer.open(),
            None => Err(Error::new(
                Code::FailedPrecondition,
                format!("the recording has no such {method}: {request:?}"),
            )),
        }
    }
}

#[async_trait]
impl Gateway for Replay {
    fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, Error> {
        let found: wire::InputsResponse = self.find("inputs", &wire::InputsRequest {})?;
        Ok(definition::from_entries(found.definitions))
    }

    async fn solve(&self, call: SolveRequest) -> Result<BuildResult, Error> {
        let found = self.find("solve", &request::solve_to_wire(call))?;
        Ok(result::from_wire(found))
    }

    async fn resolve_image_config(
        &self,
        call: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        let message = source::image_request_to_wire(call);
        let found = self.find("resolve_image_config", &message)?;
        Ok(source::image_config_from_wire(found))
    }

    async fn resolve_source_meta(
        &self,
        call: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        let message = source::meta_request_to_wire(call);
        let found = self.find("resolve_source_meta", &message)?;
        Ok(source::meta_from_wire(found))
    }

    async fn read_file(
        &self,
        reference: &Ref,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        let message = read_request(reference, path, range);
        let found: wire::ReadFileResponse = self.find("read_file", &message)?;
        Ok(found.data)
    }

    async fn read_dir(
        &self,
        reference: &Ref,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        let message = read_dir_request(reference, path, include);
        let found: wire::ReadDirResponse = self.find("read_dir", &message)?;
        Ok(found
            .entries
            .into_iter()
            .map(files::stat_from_wire)
            .collect())
    }

    async fn stat_file(&self, reference: &Ref, path: &str) -> Result<Stat, Error> {
        let found: wire::StatFileResponse =
            self.find("stat_file", &stat_request(reference, path))?;
        Ok(files::stat_from_wire(found.stat.unwrap_or_default()))
    }

    async fn evaluate(&self, reference: &Ref) -> Result<(), Error> {
        let message = evaluate_request(reference);
        let _: wire::EvaluateResponse = self.find("evaluate", &message)?;
        Ok(())
    }

    async fn warn(&self, warning: Warning) -> Result<(), Error> {
        let message = request::warning_to_wire(warning);
        let _: wire::WarnResponse = self.find("warn", &message)?;
        Ok(())
    }

    async fn new_container(&self, _: ContainerRequest) -> Result<Box<dyn Container>, Error> {
        let text = "containers are not recorded";
        Err(Error::new(Code::Unimplemented, text))
    }
}
