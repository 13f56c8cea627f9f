//! Builds call by call, over the protobufs of other people: graphs, and a build that its client drives as buildctl
//! and buildx do.

use std::collections::BTreeMap;

use bollard_buildkit_proto::moby::buildkit::v1 as api;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use gateway_llb::{Constraints, FileActions, ImageSource, MarshalOptions, Mkfile, Run, State, pb};
use gateway_proto::frontend as bridge;
use gateway_proto::frontend::llb_bridge_client::LlbBridgeClient;
use gateway_proto::frontend::result::Result as Given;
use prost::Message;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::rig::Rig;

pub fn marshal(state: &State) -> pb::Definition {
    let options = MarshalOptions::new(gateway_llb::platform::host());
    state.marshal(&options).expect("a graph")
}

pub fn busybox() -> State {
    ImageSource::new("docker.io/library/busybox:latest").state(Constraints::new())
}

/// busybox with what a step made.
pub fn step(command: &str) -> pb::Definition {
    let run: Run = busybox().run(["/bin/sh", "-c", command]);
    marshal(&run.root())
}

/// A directory with one file.
pub fn file(name: &str, content: impl Into<Vec<u8>>) -> pb::Definition {
    let actions = FileActions::new().mkfile(
        &format!("/{name}"),
        Mkfile {
            data: content.into(),
            ..Mkfile::default()
        },
    );
    marshal(&State::scratch().file(actions, Constraints::new()))
}

/// The same message as others generated it.
pub fn theirs<T: Message + Default>(ours: &impl Message) -> T {
    T::decode(ours.encode_to_vec().as_slice()).expect("the same message")
}

/// A call of the build `name`.
pub fn of<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let name = name.parse().expect("a name");
    request
        .metadata_mut()
        .insert("buildkit-controlapi-buildid", name);
    request
}

pub fn exporter(kind: &str, attrs: &[(&str, &str)]) -> api::Exporter {
    let attrs = attrs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    api::Exporter {
        r#type: kind.to_owned(),
        attrs: attrs.collect(),
    }
}

/// A build that its client drives: begun, and ended by what the client returns.
pub struct Driven {
    pub name: String,
    pub client: LlbBridgeClient<Channel>,
    pub built: tokio::task::JoinHandle<Result<api::SolveResponse, Status>>,
}

impl Driven {
    pub async fn begin(rig: &Rig, request: api::SolveRequest, name: &str) -> Driven {
        Driven::over(rig.channel().await, request, name)
    }

    /// Over a connection that there is.
    pub fn over(channel: Channel, request: api::SolveRequest, name: &str) -> Driven {
        let mut control = ControlClient::new(channel.clone());
        let request = api::SolveRequest {
            r#ref: name.to_owned(),
            ..request
        };
        let built = tokio::spawn(async move { Ok(control.solve(request).await?.into_inner()) });
        let client = LlbBridgeClient::new(channel).max_decoding_message_size(16 << 20);
        Driven {
            name: name.to_owned(),
            client,
            built,
        }
    }

    /// Asks for what a request says.
    pub async fn solve(&mut self, request: bridge::SolveRequest) -> Result<bridge::Result, Status> {
        let request = bridge::SolveRequest {
            allow_result_return: true,
            allow_result_array_ref: true,
            ..request
        };
        let answer = self.client.solve(of(&self.name, request)).await?;
        Ok(answer.into_inner().result.expect("a result"))
    }

    /// Asks the built-in frontend, with a build file and a context that are graphs themselves.
    pub async fn dockerfile(
        &mut self,
        text: &str,
        opts: &[(&str, &str)],
        inputs: &[(&str, pb::Definition)],
    ) -> Result<bridge::Result, Status> {
        let mut inputs: BTreeMap<String, pb::Definition> = inputs
            .iter()
            .map(|(name, definition)| ((*name).to_owned(), definition.clone()))
            .collect();
        inputs.insert("dockerfile".to_owned(), file("Dockerfile", text));
        inputs.insert("context".to_owned(), file("in-context", "of the context"));
        let opts = opts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let request = bridge::SolveRequest {
            frontend: "dockerfile.v0".to_owned(),
            frontend_opt: opts.collect(),
            frontend_inputs: inputs
                .into_iter()
                .map(|(key, definition)| bridge::DefinitionEntry {
                    key,
                    value: Some(definition),
                })
                .collect(),
            ..Default::default()
        };
        self.solve(request).await
    }

    pub async fn end(mut self, result: bridge::Result) -> Result<api::SolveResponse, Status> {
        let back = bridge::ReturnRequest {
            result: Some(result),
            ..Default::default()
        };
        self.client.r#return(of(&self.name, back)).await?;
        self.built.await.expect("the call")
    }

    pub async fn read(&mut self, result: &bridge::Result, path: &str) -> Vec<u8> {
        let Some(Given::Ref(reference)) = &result.result else {
            panic!("{result:?}");
        };
        let read = bridge::ReadFileRequest {
            r#ref: reference.id.clone(),
            file_path: path.to_owned(),
            ..Default::default()
        };
        let read = self.client.read_file(of(&self.name, read)).await;
        read.expect("a file").into_inner().data
    }
}
