//! LLBBridge as a gRPC service over any [`Gateway`]: one frontend call on one connection. Turns
//! messages into calls and back, keeps the table of refs the frontend may name, and takes its
//! Return. Nothing a frontend sends can end more than its own call: parts may be missing, and a
//! handler that panics is an error of that request.

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
use gateway_proto::convert::{caps, files, request, result, source};
use gateway_proto::error::{from_rpc, to_status};
use gateway_proto::frontend::llb_bridge_server::LlbBridge;
use gateway_proto::frontend::*;
use gateway_proto::limits;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::host::FrontendLimits;
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
}

impl BridgeService {
    /// `outcome` receives what the frontend returns.
    /// Of `limits` those of refs and definitions count here.
    pub fn new(gateway: Arc<dyn Gateway>, outcome: Arc<Outcome>, limits: &FrontendLimits) -> Self {
        BridgeService {
            gateway,
            refs: RefTable::new(limits.refs, limits.definition_bytes),
            containers: ContainerTable::default(),
            outcome,
        }
    }

    async fn do_solve(&self, old_client: bool, call: SolveRequest) -> Result<SolveResponse, Error> {
        let accepts = result::Accepts {
            result: call.allow_result_return,
            array_ref: call.allow_result_array_ref,
        };
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
        let response = result::solve_response(solved, accepts)?;
        Ok(match old_client {
            true => small_enough(response),
            false => response,
        })
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

    async fn do_return(&self, call: ReturnRequest) -> Result<ReturnResponse, Error> {
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

/// Leaves the definitions out of an answer that an old client could not receive: it can do without
/// them, but not without the answer.
fn small_enough(mut response: SolveResponse) -> SolveResponse {
    use gateway_proto::frontend::result::Result as Form;
    if response.encoded_len() > OLD_CLIENT_MESSAGE_BYTES {
        match response.result.as_mut().and_then(|r| r.result.as_mut()) {
            Some(Form::Ref(reference)) => reference.def = None,
            Some(Form::Refs(map)) => map.refs.values_mut().for_each(|r| r.def = None),
            _ => {}
        }
    }
    response
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

/// Runs one handler: its error becomes a status, and so does its panic.
async fn answer<T: Message>(
    handler: impl Future<Output = Result<T, Error>>,
) -> Result<Response<T>, Status> {
    let outcome = AssertUnwindSafe(handler).catch_unwind().await;
    let message = outcome
        .unwrap_or_else(|_| {
            Err(Error::new(
                Code::Internal,
                "the request could not be handled: internal failure",
            ))
        })
        .map_err(|error| to_status(&error))?;
    let size = message.encoded_len();
    if size > limits::MAX_MESSAGE_BYTES {
        return Err(Status::resource_exhausted(format!(
            "grpc: trying to send message larger than max ({size} vs. {})",
            limits::MAX_MESSAGE_BYTES
        )));
    }
    Ok(Response::new(message))
}

#[tonic::async_trait]
impl LlbBridge for BridgeService {
    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PongResponse>, Status> {
        let invocation = self.gateway.invocation();
        answer(async {
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
        answer(self.do_solve(old_client, request.into_inner())).await
    }

    async fn r#return(
        &self,
        request: Request<ReturnRequest>,
    ) -> Result<Response<ReturnResponse>, Status> {
        answer(self.do_return(request.into_inner())).await
    }

    async fn inputs(&self, _: Request<InputsRequest>) -> Result<Response<InputsResponse>, Status> {
        answer(async {
            Ok(InputsResponse {
                definitions: self.gateway.inputs().await?,
            })
        })
        .await
    }

    async fn resolve_image_config(
        &self,
        request: Request<ResolveImageConfigRequest>,
    ) -> Result<Response<ResolveImageConfigResponse>, Status> {
        answer(async {
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
        answer(async {
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
        answer(async {
            let call = request.into_inner();
            let reference = self.refs.get(&call.r#ref)?;
            let range = call.range.map(files::range_from_wire);
            let data = self
                .gateway
                .read_file(&reference, &call.file_path, range)
                .await?;
            Ok(ReadFileResponse { data })
        })
        .await
    }

    async fn read_dir(
        &self,
        request: Request<ReadDirRequest>,
    ) -> Result<Response<ReadDirResponse>, Status> {
        answer(async {
            let call = request.into_inner();
            let reference = self.refs.get(&call.r#ref)?;
            let include = Some(call.include_pattern.as_str()).filter(|text| !text.is_empty());
            let entries = self
                .gateway
                .read_dir(&reference, &call.dir_path, include)
                .await?;
            let entries = entries.into_iter().map(files::stat_to_wire).collect();
            Ok(ReadDirResponse { entries })
        })
        .await
    }

    async fn stat_file(
        &self,
        request: Request<StatFileRequest>,
    ) -> Result<Response<StatFileResponse>, Status> {
        answer(async {
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
        answer(async {
            let reference = self.refs.get(&request.into_inner().r#ref)?;
            self.gateway.evaluate(&reference).await?;
            Ok(EvaluateResponse {})
        })
        .await
    }

    async fn warn(&self, request: Request<WarnRequest>) -> Result<Response<WarnResponse>, Status> {
        answer(async {
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
        answer(async {
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
        answer(async {
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
        let answers = exec::serve(self.containers.clone(), request.into_inner());
        Ok(Response::new(answers))
    }

    async fn read_file_container(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<ReadFileResponse>, Status> {
        answer(async {
            let call = request.into_inner();
            let (container, mount) = self
                .containers
                .get_for_mount(&call.r#ref, call.mount_index)?;
            let range = call.range.map(files::range_from_wire);
            let data = container.read_file(mount, &call.file_path, range).await?;
            Ok(ReadFileResponse { data })
        })
        .await
    }

    async fn read_dir_container(
        &self,
        request: Request<ReadDirRequest>,
    ) -> Result<Response<ReadDirResponse>, Status> {
        answer(async {
            let call = request.into_inner();
            let (container, mount) = self
                .containers
                .get_for_mount(&call.r#ref, call.mount_index)?;
            let include = Some(call.include_pattern.as_str()).filter(|text| !text.is_empty());
            let entries = container.read_dir(mount, &call.dir_path, include).await?;
            let entries = entries.into_iter().map(files::stat_to_wire).collect();
            Ok(ReadDirResponse { entries })
        })
        .await
    }

    async fn stat_file_container(
        &self,
        request: Request<StatFileRequest>,
    ) -> Result<Response<StatFileResponse>, Status> {
        answer(async {
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
