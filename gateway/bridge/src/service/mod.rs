//! LLBBridge as a gRPC service over any [`Gateway`]: one frontend call on one connection. Turns
//! messages into calls and back, keeps the table of refs the frontend may name, and takes its
//! Return. Nothing a frontend sends can end more than its own call: parts may be missing, and a
//! handler that panics is an error of that request.

mod builds;
mod containers;
mod exec;
mod health;
mod outcome;
mod refs;

use std::future::Future;
use std::panic::AssertUnwindSafe;
// The messages have a `Result` too.
use std::result::Result;
use std::sync::Arc;

use base64::Engine as _;
use futures_util::FutureExt;
use gateway_api::{BuildResult, Code, Error, Gateway, Ref, Refs};
use gateway_proto::convert::{caps, definition, files, request, result, source};
use gateway_proto::error::{from_rpc, to_status};
use gateway_proto::frontend::llb_bridge_server::LlbBridge;
use gateway_proto::frontend::*;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status, Streaming};

use crate::host::FrontendLimits;
use crate::host::conduct::{Conduct, Forms, ReturnForm};
use crate::transport::{Activity, Answers};
pub use builds::{Announcement, BUILD_ID, Builds};
use containers::ContainerTable;
pub use health::HealthService;
pub use outcome::Outcome;
use refs::RefTable;

/// Answers a gRPC client of before 2024 can take: its library's default, which frontends did not
/// raise yet.
const OLD_CLIENT_MESSAGE_BYTES: usize = 4 << 20;

/// grpc-go 1.x up to this x counts as such a client.
const LAST_OLD_GRPC_GO: u32 = 59;

/// One frontend call's service.
pub struct BridgeService {
    gateway: Arc<dyn Gateway>,
    refs: RefTable,
    containers: ContainerTable,
    outcome: Arc<Outcome>,
    activity: Arc<Activity>,
    answers: Answers,
    limits: FrontendLimits,
    conduct: Option<Arc<Conduct>>,
}

impl BridgeService {
    /// `outcome` receives what the frontend returns. Of `limits` those of what it may hold here count.
    pub fn new(gateway: Arc<dyn Gateway>, outcome: Arc<Outcome>, limits: &FrontendLimits) -> Self {
        BridgeService {
            gateway,
            refs: RefTable::new(limits.refs, limits.definition_bytes),
            containers: ContainerTable::new(limits.containers),
            outcome,
            activity: Arc::default(),
            answers: Answers::new(limits.buffered_bytes, limits.message_bytes),
            limits: limits.clone(),
            conduct: None,
        }
    }

    /// As a host that is not itself.
    #[must_use]
    pub fn with_conduct(mut self, conduct: Option<Arc<Conduct>>) -> Self {
        self.conduct = conduct;
        self
    }

    /// Where the work of calls is reported.
    pub(crate) fn report_to(&mut self, activity: Arc<Activity>) {
        self.activity = activity;
    }

    pub(crate) fn limits(&self) -> &FrontendLimits {
        &self.limits
    }

    /// Work that the frontend waits for.
    async fn work<T>(&self, work: impl Future<Output = T>) -> T {
        let _working = self.activity.work();
        work.await
    }

    /// Runs the handler of a call: its error becomes a status, and so does its panic.
    async fn answer<T: Message>(
        &self,
        call: &str,
        handler: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let answer = guarded(call, self.work(handler)).await;
        self.sendable(answer, None).await
    }

    /// The same for an answer that may be as large as a message: made only when there is room for
    /// it. `ready` is what may take long before it can be made.
    async fn large_answer<R, T: Message>(
        &self,
        call: &str,
        ready: impl Future<Output = Result<R, Error>>,
        make: impl AsyncFnOnce(R) -> Result<T, Error>,
    ) -> Result<Response<T>, Status> {
        let mut reserved = None;
        let answer = guarded(call, async {
            let ready = self.work(ready).await?;
            reserved = Some(self.answers.reserve().await?);
            self.work(make(ready)).await
        })
        .await;
        self.sendable(answer, reserved).await
    }

    /// An answer as it may be sent: of a size that can be received, and counted while it is held.
    async fn sendable<T: Message>(
        &self,
        answer: Result<T, Error>,
        reserved: Option<OwnedSemaphorePermit>,
    ) -> Result<Response<T>, Status> {
        let message = answer.map_err(|error| to_status(&error))?;
        let (size, limit) = (message.encoded_len(), self.limits.message_bytes);
        if size > limit {
            return Err(Status::resource_exhausted(format!(
                "grpc: trying to send message larger than max ({size} vs. {limit})"
            )));
        }
        let room = self.answers.room(reserved, size).await;
        let room = room.map_err(|error| to_status(&error))?;
        let mut response = Response::new(message);
        response.extensions_mut().insert(room);
        Ok(response)
    }

    async fn do_solve(&self, old_client: bool, call: SolveRequest) -> Result<SolveResponse, Error> {
        let accepts = self.accepted(result::Accepts {
            result: call.allow_result_return,
            array_ref: call.allow_result_array_ref,
        });
        let last = call.r#final.then(|| call.exporter_attr.clone());
        self.refs
            .charge(call.definition.as_ref().map_or(0, Message::encoded_len))?;
        let call = request::solve_from_wire(call);
        if call.definition.is_some() && !call.frontend.is_empty() {
            return Err(Error::unknown(
                "cannot solve with both Definition and Frontend specified",
            ));
        }
        let solved = if call.definition.is_none() && call.frontend.is_empty() {
            BuildResult {
                refs: Refs::Single(Ref::scratch()),
                ..BuildResult::default()
            }
        } else {
            self.gateway.solve(call).await?
        };
        self.refs.add(&solved)?;
        if let Some(attributes) = last {
            self.finish_inline(solved.clone(), &attributes)?;
        }
        let mut response = result::solve_response(solved, accepts)?;
        match self.conduct.as_ref().map(|conduct| conduct.forms) {
            Some(Forms::WithoutDefinitions) => without_definitions(&mut response),
            Some(Forms::FirstId) => response.result = None,
            _ if old_client && response.encoded_len() > OLD_CLIENT_MESSAGE_BYTES => {
                without_definitions(&mut response);
            }
            _ => {}
        }
        Ok(response)
    }

    /// In which form a result is answered: as it is asked for, unless the host is not itself.
    fn accepted(&self, asked: result::Accepts) -> result::Accepts {
        let Some(conduct) = &self.conduct else {
            return asked;
        };
        if !asked.result || !asked.array_ref {
            conduct.note(|seen| seen.narrow_solves += 1);
        }
        match conduct.forms {
            Forms::Asked | Forms::WithoutDefinitions => asked,
            Forms::Ids => result::Accepts {
                array_ref: false,
                ..asked
            },
            Forms::FirstId => result::Accepts {
                result: false,
                array_ref: false,
            },
        }
    }

    /// How a build ended before there was Return: the last Solve carries metadata.
    fn finish_inline(&self, mut solved: BuildResult, attributes: &[u8]) -> Result<(), Error> {
        let invalid = |error: &dyn std::fmt::Display| {
            Error::invalid(format!("invalid exporter attributes: {error}"))
        };
        let given: Option<std::collections::BTreeMap<String, String>> =
            serde_json::from_slice(attributes).map_err(|error| invalid(&error))?;
        for (key, value) in given.unwrap_or_default() {
            let value = base64::engine::general_purpose::STANDARD
                .decode(value)
                .map_err(|error| invalid(&error))?;
            solved.metadata.entry(key).or_insert(value);
        }
        self.outcome.set(Ok(solved))
    }

    /// A ref whose work is done: reading of it takes no longer than reading.
    async fn evaluated(&self, id: &str) -> Result<Arc<Ref>, Error> {
        let reference = self.refs.get(id)?;
        self.gateway.evaluate(&reference).await?;
        Ok(reference)
    }

    async fn do_return(&self, call: ReturnRequest) -> Result<ReturnResponse, Error> {
        if let Some(conduct) = &self.conduct {
            let form = call.result.as_ref().and_then(|r| r.result.as_ref());
            conduct.note(|seen| seen.returned = Some(return_form(form)));
        }
        let returned = match (call.result, call.error) {
            (_, Some(error)) => Err(from_rpc(error)),
            (Some(returned), None) => Ok(self.refs.resolve(result::from_wire(returned))?),
            (None, None) => {
                return Err(Error::invalid("return must be either result or error"));
            }
        };
        self.outcome.set(returned)?;
        Ok(ReturnResponse {})
    }
}

/// Leaves the definitions out of an answer: an old client that could not receive all of it can do without them, but
/// not without the answer.
fn without_definitions(response: &mut SolveResponse) {
    use gateway_proto::frontend::result::Result as Form;
    match response.result.as_mut().and_then(|r| r.result.as_mut()) {
        Some(Form::Ref(reference)) => reference.def = None,
        Some(Form::Refs(map)) => map
            .refs
            .iter_mut()
            .filter_map(|r| r.value.as_mut())
            .for_each(|r| r.def = None),
        _ => {}
    }
}

fn return_form(form: Option<&gateway_proto::frontend::result::Result>) -> ReturnForm {
    use gateway_proto::frontend::result::Result as Form;
    match form {
        None => ReturnForm::None,
        Some(Form::RefDeprecated(_) | Form::RefsDeprecated(_)) => ReturnForm::Ids,
        Some(Form::Ref(_) | Form::Refs(_)) => ReturnForm::Messages,
    }
}

fn is_old_client<T>(request: &Request<T>) -> bool {
    request
        .metadata()
        .get("user-agent")
        .and_then(|agent| agent.to_str().ok())
        .and_then(|agent| agent.split("grpc-go/1.").nth(1))
        .and_then(|version| version.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|minor| minor.parse::<u32>().ok())
        .is_some_and(|minor| minor <= LAST_OLD_GRPC_GO)
}

/// A handler that panics fails its own call only.
async fn guarded<T>(
    call: &str,
    handler: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let outcome = AssertUnwindSafe(handler).catch_unwind().await;
    outcome.unwrap_or_else(|_| {
        Err(Error::new(
            Code::Internal,
            format!("{call} could not be handled: internal failure"),
        ))
    })
}

#[tonic::async_trait]
impl LlbBridge for BridgeService {
    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PongResponse>, Status> {
        let invocation = self.gateway.invocation();
        let mute = self.conduct.as_ref().is_some_and(|conduct| conduct.mute);
        self.answer("Ping", async {
            if mute {
                std::future::pending::<()>().await;
            }
            Ok(PongResponse {
                frontend_api_caps: caps::to_wire(&invocation.frontend_caps),
                llb_caps: caps::to_wire(&invocation.llb_caps),
                workers: invocation
                    .workers
                    .iter()
                    .map(caps::worker_to_wire)
                    .collect(),
            })
        })
        .await
    }

    async fn solve(
        &self,
        request: Request<SolveRequest>,
    ) -> Result<Response<SolveResponse>, Status> {
        let old_client = is_old_client(&request);
        self.answer("Solve", self.do_solve(old_client, request.into_inner()))
            .await
    }

    async fn r#return(
        &self,
        request: Request<ReturnRequest>,
    ) -> Result<Response<ReturnResponse>, Status> {
        self.answer("Return", self.do_return(request.into_inner()))
            .await
    }

    async fn inputs(&self, _: Request<InputsRequest>) -> Result<Response<InputsResponse>, Status> {
        let make = async |()| {
            let inputs = self.gateway.inputs().await?;
            Ok(InputsResponse {
                definitions: definition::to_entries(inputs),
            })
        };
        self.large_answer("Inputs", async { Ok(()) }, make).await
    }

    async fn resolve_image_config(
        &self,
        request: Request<ResolveImageConfigRequest>,
    ) -> Result<Response<ResolveImageConfigResponse>, Status> {
        self.answer("ResolveImageConfig", async {
            let call = source::image_request_from_wire(request.into_inner());
            let config = self.gateway.resolve_image_config(call).await?;
            Ok(source::image_config_to_wire(config))
        })
        .await
    }

    async fn resolve_source_meta(
        &self,
        request: Request<ResolveSourceMetaRequest>,
    ) -> Result<Response<ResolveSourceMetaResponse>, Status> {
        self.answer("ResolveSourceMeta", async {
            let call = source::meta_request_from_wire(request.into_inner())
                .ok_or_else(|| Error::invalid("source is required"))?;
            let meta = self.gateway.resolve_source_meta(call).await?;
            Ok(source::meta_to_wire(meta))
        })
        .await
    }

    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<ReadFileResponse>, Status> {
        let call = request.into_inner();
        let make = async |reference: Arc<Ref>| {
            let range = call.range.map(files::range_from_wire);
            let read = self.gateway.read_file(&reference, &call.file_path, range);
            Ok(ReadFileResponse { data: read.await? })
        };
        let ready = self.evaluated(&call.r#ref);
        self.large_answer("ReadFile", ready, make).await
    }

    async fn read_dir(
        &self,
        request: Request<ReadDirRequest>,
    ) -> Result<Response<ReadDirResponse>, Status> {
        let call = request.into_inner();
        let make = async |reference: Arc<Ref>| {
            let include = Some(call.include_pattern.as_str()).filter(|text| !text.is_empty());
            let read = self.gateway.read_dir(&reference, &call.dir_path, include);
            let entries = read.await?.into_iter().map(files::stat_to_wire).collect();
            Ok(ReadDirResponse { entries })
        };
        let ready = self.evaluated(&call.r#ref);
        self.large_answer("ReadDir", ready, make).await
    }

    async fn stat_file(
        &self,
        request: Request<StatFileRequest>,
    ) -> Result<Response<StatFileResponse>, Status> {
        self.answer("StatFile", async {
            let call = request.into_inner();
            let reference = self.refs.get(&call.r#ref)?;
            let stat = self.gateway.stat_file(&reference, &call.path).await?;
            let stat = Some(files::stat_to_wire(stat));
            Ok(StatFileResponse { stat })
        })
        .await
    }

    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        self.answer("Evaluate", async {
            let reference = self.refs.get(&request.into_inner().r#ref)?;
            self.gateway.evaluate(&reference).await?;
            Ok(EvaluateResponse {})
        })
        .await
    }

    async fn warn(&self, request: Request<WarnRequest>) -> Result<Response<WarnResponse>, Status> {
        self.answer("Warn", async {
            let warning = request::warning_from_wire(request.into_inner());
            self.gateway.warn(warning).await?;
            Ok(WarnResponse {})
        })
        .await
    }

    async fn new_container(
        &self,
        request: Request<NewContainerRequest>,
    ) -> Result<Response<NewContainerResponse>, Status> {
        self.answer("NewContainer", async {
            let gateway = self.gateway.as_ref();
            self.containers
                .create(gateway, request.into_inner())
                .await?;
            Ok(NewContainerResponse {})
        })
        .await
    }

    async fn release_container(
        &self,
        request: Request<ReleaseContainerRequest>,
    ) -> Result<Response<ReleaseContainerResponse>, Status> {
        self.answer("ReleaseContainer", async {
            let id = request.into_inner().container_id;
            self.containers.release(&id).await?;
            Ok(ReleaseContainerResponse {})
        })
        .await
    }

    type ExecProcessStream = exec::Answers;

    async fn exec_process(
        &self,
        request: Request<Streaming<ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        if let Some(conduct) = &self.conduct {
            conduct.note(|seen| seen.process_streams += 1);
        }
        let answers = exec::serve(
            self.containers.clone(),
            self.activity.clone(),
            self.conduct.clone(),
            request.into_inner(),
        );
        Ok(Response::new(answers))
    }

    async fn read_file_container(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<ReadFileResponse>, Status> {
        let call = request.into_inner();
        let make = async |()| {
            let (container, mount) = self
                .containers
                .get_for_mount(&call.r#ref, call.mount_index)?;
            let range = call.range.map(files::range_from_wire);
            let data = container.read_file(mount, &call.file_path, range).await?;
            Ok(ReadFileResponse { data })
        };
        self.large_answer("ReadFileContainer", async { Ok(()) }, make)
            .await
    }

    async fn read_dir_container(
        &self,
        request: Request<ReadDirRequest>,
    ) -> Result<Response<ReadDirResponse>, Status> {
        let call = request.into_inner();
        let make = async |()| {
            let (container, mount) = self
                .containers
                .get_for_mount(&call.r#ref, call.mount_index)?;
            let include = Some(call.include_pattern.as_str()).filter(|text| !text.is_empty());
            let entries = container.read_dir(mount, &call.dir_path, include).await?;
            let entries = entries.into_iter().map(files::stat_to_wire).collect();
            Ok(ReadDirResponse { entries })
        };
        self.large_answer("ReadDirContainer", async { Ok(()) }, make)
            .await
    }

    async fn stat_file_container(
        &self,
        request: Request<StatFileRequest>,
    ) -> Result<Response<StatFileResponse>, Status> {
        self.answer("StatFileContainer", async {
            let call = request.into_inner();
            let (container, mount) = self
                .containers
                .get_for_mount(&call.r#ref, call.mount_index)?;
            let stat = container.stat_file(mount, &call.path).await?;
            let stat = Some(files::stat_to_wire(stat));
            Ok(StatFileResponse { stat })
        })
        .await
    }
}
