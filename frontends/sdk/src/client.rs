//! The `Gateway` trait over a connection: what an in-process frontend gets by a function call, one
//! in a container gets by gRPC. Falls back to older calls where the host is older.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_api::caps::{CapSet, FROZEN_FRONTEND_CAPS};
use gateway_api::{
    BuildResult, Code, Container, ContainerRequest, Error, FileRange, Gateway, ImageConfig,
    ImageMeta, Invocation, Ref, ResolveImageConfigRequest, ResolveSourceMetaRequest, SolveRequest,
    SourceMeta, Stat, Warning,
};
use gateway_llb::pb;
use gateway_proto::convert::container::container_to_wire;
use gateway_proto::convert::{caps as cap_convert, definition, files, request, result, source};
use gateway_proto::error::{from_status, to_rpc};
use gateway_proto::frontend::llb_bridge_client::LlbBridgeClient;
use gateway_proto::frontend::{self as wire};
use gateway_proto::limits;

use crate::answer::open;
use crate::caps::{FROZEN_LLB_CAPS, missing_llb_cap, require};
use crate::container::{Abilities, ExecStream, RemoteContainer};
use crate::invocation::Environment;
use crate::transport::Channel;

/// The engine's side of the connection, seen from a frontend.
pub struct Client {
    bridge: LlbBridgeClient<Channel>,
    exec: Arc<ExecStream>,
    invocation: Invocation,
    /// The requests behind refs, for hosts without Return: there the last Solve is sent again.
    solved: Mutex<BTreeMap<String, wire::SolveRequest>>,
}

impl Client {
    /// Asks the host what it can do.
    ///
    /// # Errors
    /// No answer in [`limits::PING_TIMEOUT`], or none that makes sense.
    pub(crate) async fn connect(
        channel: Channel,
        environment: Environment,
    ) -> Result<Client, Error> {
        let origin = http::Uri::from_static("http://localhost");
        let bridge = LlbBridgeClient::with_origin(channel, origin)
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        let mut ping = tonic::Request::new(wire::PingRequest {});
        ping.set_timeout(limits::PING_TIMEOUT);
        let pong = tokio::time::timeout(limits::PING_TIMEOUT, bridge.clone().ping(ping))
            .await
            .map_err(|_| Error::new(Code::DeadlineExceeded, "the build server does not answer"))?
            .map_err(|status| from_status(&status))?
            .into_inner();
        let or_frozen = |caps: CapSet, frozen: &[&str]| match caps.is_empty() {
            true => CapSet::enabled(frozen.iter().copied()),
            false => caps,
        };
        let workers = match environment.workers.is_empty() {
            true => pong
                .workers
                .into_iter()
                .map(cap_convert::worker_from_wire)
                .collect(),
            false => environment.workers,
        };
        let invocation = Invocation {
            opts: environment.opts,
            session_id: environment.session_id,
            product: environment.product,
            workers,
            frontend_caps: or_frozen(
                cap_convert::from_wire(pong.frontend_api_caps),
                &FROZEN_FRONTEND_CAPS,
            ),
            llb_caps: or_frozen(cap_convert::from_wire(pong.llb_caps), &FROZEN_LLB_CAPS),
        };
        Ok(Client {
            exec: Arc::new(ExecStream::new(bridge.clone())),
            bridge,
            invocation,
            solved: Mutex::default(),
        })
    }

    fn supports(&self, cap: &str) -> bool {
        self.invocation.frontend_caps.supports(cap)
    }

    fn require(&self, cap: &str) -> Result<(), Error> {
        require(
            cap,
            &self.invocation.frontend_caps,
            &self.invocation.product,
        )
    }

    /// Gives the host the frontend's result or error: the last thing a frontend does.
    ///
    /// # Errors
    /// The host does not take it.
    pub async fn finish(&self, returned: Result<BuildResult, Error>) -> Result<(), Error> {
        if !self.supports("return") {
            // Such a host learns of an error by our exit code.
            return self.finish_inline(returned?).await;
        }
        let mut call = wire::ReturnRequest::default();
        match returned {
            Ok(returned) => {
                let array_ref = self.supports("proto.refarray");
                let mut returned = returned;
                forget_definitions(&mut returned);
                call.result = Some(result::to_wire(returned, array_ref));
            }
            Err(error) => call.error = Some(to_rpc(&error)),
        }
        let answer = self.bridge.clone().r#return(call).await;
        answer.map(|_| ()).map_err(|status| from_status(&status))
    }

    async fn finish_inline(&self, returned: BuildResult) -> Result<(), Error> {
        let id = match &returned.refs {
            gateway_api::Refs::None => String::new(),
            gateway_api::Refs::Single(reference) => reference.id.clone(),
            gateway_api::Refs::Map(_) => {
                return Err(Error::unknown(
                    "the build server takes a single result only, please update it",
                ));
            }
        };
        let known = self
            .solved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned();
        let mut call = known.unwrap_or_default();
        call.r#final = true;
        call.exporter_attr = metadata_json(&returned.metadata);
        let answer = self.bridge.clone().solve(call).await;
        answer.map(|_| ()).map_err(|status| from_status(&status))
    }
}

/// Only ids matter in a Return.
fn forget_definitions(returned: &mut BuildResult) {
    match &mut returned.refs {
        gateway_api::Refs::None => {}
        gateway_api::Refs::Single(reference) => reference.def = None,
        gateway_api::Refs::Map(map) => map.values_mut().for_each(|r| r.def = None),
    }
}

fn metadata_json(metadata: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    use base64::Engine as _;
    let encode = |value: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(value);
    let object: serde_json::Map<String, serde_json::Value> = metadata
        .iter()
        .map(|(key, value)| (key.clone(), encode(value).into()))
        .collect();
    serde_json::Value::Object(object).to_string().into_bytes()
}

#[async_trait]
impl Gateway for Client {
    fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, Error> {
        if !self.supports("frontend.inputs") {
            return Ok(BTreeMap::new());
        }
        let answer = self.bridge.clone().inputs(wire::InputsRequest {}).await;
        Ok(definition::from_entries(open(answer)?.definitions))
    }

    async fn solve(&self, mut call: SolveRequest) -> Result<BuildResult, Error> {
        let definitions = call.definition.iter().chain(call.frontend_inputs.values());
        for definition in definitions {
            let host = &self.invocation.llb_caps;
            if let Some(error) = missing_llb_cap(definition, host, &self.invocation.product) {
                return Err(error);
            }
        }
        if !call.frontend_inputs.is_empty() {
            self.require("frontend.inputs")?;
        }
        if !call.cache_imports.is_empty() {
            self.require("importcaches")?;
        }
        if !call.frontend.is_empty() {
            for key in ["cache-imports", "cache-from"] {
                if let Some(value) = self.invocation.opts.get(key) {
                    let opt = call.frontend_opts.entry(key.to_owned());
                    opt.or_insert_with(|| value.clone());
                }
            }
        }
        let evaluate_after = call.evaluate && !self.supports("gateway.solve.evaluate");
        call.evaluate &= !evaluate_after;
        let message = request::solve_to_wire(call);
        let inline = (!self.supports("return")).then(|| message.clone());
        let solved = result::from_solve_response(open(self.bridge.clone().solve(message).await)?);
        if let (Some(message), gateway_api::Refs::Single(reference)) = (inline, &solved.refs) {
            self.solved
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(reference.id.clone(), message);
        }
        if evaluate_after {
            for (_, reference) in solved.refs.iter().filter(|(_, r)| !r.is_scratch()) {
                self.evaluate(reference).await?;
            }
        }
        Ok(solved)
    }

    async fn resolve_image_config(
        &self,
        call: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        self.require("resolveimage")?;
        let message = source::image_request_to_wire(call);
        let answer = self.bridge.clone().resolve_image_config(message).await;
        Ok(source::image_config_from_wire(open(answer)?))
    }

    async fn resolve_source_meta(
        &self,
        call: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        if self.supports("source.metaresolver") {
            let message = source::meta_request_to_wire(call);
            let answer = self.bridge.clone().resolve_source_meta(message).await;
            return Ok(source::meta_from_wire(open(answer)?));
        }
        let Some(reference) = call.source.identifier.strip_prefix("docker-image://") else {
            // There is nothing more to know of other sources from such a host.
            return Ok(SourceMeta {
                source: call.source,
                ..SourceMeta::default()
            });
        };
        let config = self
            .resolve_image_config(ResolveImageConfigRequest {
                reference: reference.to_owned(),
                platform: call.platform,
                resolve_mode: call.resolve_mode,
                log_name: call.log_name,
                source_policies: call.source_policies,
                ..ResolveImageConfigRequest::default()
            })
            .await?;
        let mut resolved = call.source.clone();
        if !config.reference.is_empty() {
            resolved.identifier = format!("docker-image://{}", config.reference);
        }
        Ok(SourceMeta {
            source: resolved,
            image: Some(ImageMeta {
                digest: config.digest,
                config: config.config,
                ..ImageMeta::default()
            }),
            ..SourceMeta::default()
        })
    }

    async fn read_file(
        &self,
        reference: &Ref,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        let call = wire::ReadFileRequest {
            r#ref: reference.id.clone(),
            file_path: path.to_owned(),
            range: range.map(files::range_to_wire),
            mount_index: 0,
        };
        Ok(open(self.bridge.clone().read_file(call).await)?.data)
    }

    async fn read_dir(
        &self,
        reference: &Ref,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        self.require("readdir")?;
        let call = wire::ReadDirRequest {
            r#ref: reference.id.clone(),
            dir_path: path.to_owned(),
            include_pattern: include.unwrap_or_default().to_owned(),
            mount_index: 0,
        };
        let entries = open(self.bridge.clone().read_dir(call).await)?.entries;
        Ok(entries.into_iter().map(files::stat_from_wire).collect())
    }

    async fn stat_file(&self, reference: &Ref, path: &str) -> Result<Stat, Error> {
        self.require("statfile")?;
        let call = wire::StatFileRequest {
            r#ref: reference.id.clone(),
            path: path.to_owned(),
            mount_index: 0,
        };
        let stat = open(self.bridge.clone().stat_file(call).await)?.stat;
        Ok(files::stat_from_wire(stat.unwrap_or_default()))
    }

    async fn evaluate(&self, reference: &Ref) -> Result<(), Error> {
        if !self.supports("gateway.evaluate") {
            return self.stat_file(reference, ".").await.map(|_| ());
        }
        let call = wire::EvaluateRequest {
            r#ref: reference.id.clone(),
        };
        open(self.bridge.clone().evaluate(call).await).map(|_| ())
    }

    async fn warn(&self, mut warning: Warning) -> Result<(), Error> {
        if !self.supports("gateway.warnings") {
            return Ok(());
        }
        warning.level = warning.level.max(1);
        let call = request::warning_to_wire(warning);
        open(self.bridge.clone().warn(call).await).map(|_| ())
    }

    async fn new_container(&self, request: ContainerRequest) -> Result<Box<dyn Container>, Error> {
        self.require("gateway.exec")?;
        if !request.extra_hosts.is_empty() {
            self.require("gateway.exec.extrahosts")?;
        }
        let id = format!("container-{}", self.exec.next_id());
        let call = container_to_wire(id.clone(), request);
        open(self.bridge.clone().new_container(call).await)?;
        let can = Abilities {
            filesystem: self.require("gateway.exec.filesystem"),
            secret_env: self.require("gateway.exec.secretenv"),
            signals: self.require("gateway.exec.signals"),
        };
        let (bridge, exec) = (self.bridge.clone(), self.exec.clone());
        Ok(Box::new(RemoteContainer::new(id, bridge, exec, can)))
    }
}
