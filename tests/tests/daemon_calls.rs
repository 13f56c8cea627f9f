//! `gateway daemon` call by call, over the protobufs of other people: a client that drives its build
//! itself as buildctl and buildx do, asks what there is to know, and answers what it is asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1 as api;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bytes::Bytes;
use gateway_llb::{Constraints, ImageSource, MarshalOptions, pb};
use gateway_proto::frontend as bridge;
use gateway_proto::frontend::llb_bridge_client::LlbBridgeClient;
use gateway_proto::frontend::result::Result as Given;
use gateway_tests::calls::{of, step, theirs};
use gateway_tests::program::{Home, binary};
use gateway_tests::registry::Registry;
use gateway_tests::rig::Rig;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// One call of a service that nobody generated here.
async fn call<Q, A>(channel: &Channel, path: &'static str, message: Q) -> Result<A, Status>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("the daemon");
    let path = http::uri::PathAndQuery::from_static(path);
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let answer = grpc.unary(Request::new(message), path, codec).await?;
    Ok(answer.into_inner())
}

async fn history(control: &mut ControlClient<Channel>, name: &str) -> Vec<api::BuildHistoryRecord> {
    let request = api::BuildHistoryRequest {
        r#ref: name.to_owned(),
        early_exit: true,
        ..Default::default()
    };
    let answer = control.listen_build_history(request).await;
    let answer = answer.expect("the history");
    assert!(answer.metadata().contains_key("buildkit-current-timestamp"));
    let mut events = answer.into_inner();
    let mut records = Vec::new();
    while let Some(event) = events.message().await.expect("an event") {
        records.extend(event.record);
    }
    records
}

/// All that a build said, from the beginning to its end.
async fn said(control: &mut ControlClient<Channel>, name: &str) -> api::StatusResponse {
    let request = api::StatusRequest {
        r#ref: name.to_owned(),
    };
    let answer = control.status(request).await.expect("the status");
    assert!(answer.metadata().contains_key("buildkit-current-timestamp"));
    let mut stream = answer.into_inner();
    let mut all = api::StatusResponse::default();
    while let Some(status) = stream.message().await.expect("a status") {
        all.vertexes.extend(status.vertexes);
        all.logs.extend(status.logs);
        all.warnings.extend(status.warnings);
    }
    all
}

#[derive(Clone, PartialEq, Message)]
struct InfoRequest {
    #[prost(string, tag = "1")]
    digest: String,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    size: i64,
}

#[derive(Clone, PartialEq, Message)]
struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    info: Option<Info>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

/// A blob of the daemon, as buildx reads it.
async fn blob(channel: &Channel, digest: &str) -> Vec<u8> {
    let request = || InfoRequest {
        digest: digest.to_owned(),
    };
    const INFO: &str = "/containerd.services.content.v1.Content/Info";
    let info = call::<_, InfoResponse>(channel, INFO, request()).await;
    let size = info.expect("the blob").info.expect("its size").size;
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("the daemon");
    let path = http::uri::PathAndQuery::from_static("/containerd.services.content.v1.Content/Read");
    let codec = tonic_prost::ProstCodec::<InfoRequest, Piece>::default();
    let answer = grpc
        .server_streaming(Request::new(request()), path, codec)
        .await;
    let mut pieces = answer.expect("the blob").into_inner();
    let mut all = Vec::new();
    while let Some(piece) = pieces.message().await.expect("a piece") {
        all.extend(piece.data);
    }
    assert_eq!(i64::try_from(all.len()).unwrap(), size);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn p07_p08_p10_p11_p12_p41_p42_p52_p53_a_client_drives_its_build() {
    let rig = Rig::new();
    let name = "driven";
    let mut client = LlbBridgeClient::new(rig.channel().await);
    // It asks before there is anything to ask about.
    let mut early = client.clone();
    let ping = tokio::spawn(async move { early.ping(of(name, bridge::PingRequest {})).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut control = rig.control().await;
    let mut building = control.clone();
    let built = tokio::spawn(async move {
        let mut request = Request::new(api::SolveRequest {
            r#ref: name.to_owned(),
            ..Default::default()
        });
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        request
            .metadata_mut()
            .insert("traceparent", trace.parse().unwrap());
        building.solve(request).await
    });
    let pong = ping.await.unwrap().expect("an answer").into_inner();
    let caps = |list: &[gateway_proto::apicaps::ApiCap]| -> Vec<String> {
        list.iter().map(|cap| cap.id.clone()).collect()
    };
    for cap in ["return", "solve.base", "readfile"] {
        assert!(
            caps(&pong.frontend_api_caps).contains(&cap.to_owned()),
            "{cap}"
        );
    }
    for cap in [
        "source.local",
        "exec.meta.base",
        "file.base",
        "exporter.multiple",
    ] {
        assert!(caps(&pong.llb_caps).contains(&cap.to_owned()), "{cap}");
    }
    assert!(!pong.workers.is_empty());

    let solve = bridge::SolveRequest {
        definition: Some(step("echo from the step; echo made > /made")),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    };
    let solved = client.solve(of(name, solve)).await.expect("a result");
    let result = solved.into_inner().result.expect("a result");
    let Some(Given::Ref(reference)) = &result.result else {
        panic!("{result:?}");
    };
    assert!(reference.def.is_some());
    let id = reference.id.clone();
    let evaluate = bridge::EvaluateRequest { r#ref: id.clone() };
    client.evaluate(of(name, evaluate)).await.expect("the work");
    let read = bridge::ReadFileRequest {
        r#ref: id.clone(),
        file_path: "/made".to_owned(),
        ..Default::default()
    };
    let read = client.read_file(of(name, read)).await.expect("a file");
    assert_eq!(read.into_inner().data, b"made\n");
    let list = bridge::ReadDirRequest {
        r#ref: id.clone(),
        dir_path: "/".to_owned(),
        ..Default::default()
    };
    let list = client.read_dir(of(name, list)).await.expect("a directory");
    let names: Vec<String> = list
        .into_inner()
        .entries
        .into_iter()
        .map(|e| e.path)
        .collect();
    assert!(names.contains(&"made".to_owned()), "{names:?}");
    let stat = bridge::StatFileRequest {
        r#ref: id.clone(),
        path: "/made".to_owned(),
        ..Default::default()
    };
    let stat = client.stat_file(of(name, stat)).await.expect("a file");
    assert_eq!(stat.into_inner().stat.map(|stat| stat.size), Some(5));
    let config = bridge::ResolveImageConfigRequest {
        r#ref: "docker.io/library/busybox:latest".to_owned(),
        ..Default::default()
    };
    let config = client.resolve_image_config(of(name, config)).await;
    assert!(
        config
            .expect("an image")
            .into_inner()
            .digest
            .starts_with("sha256:")
    );
    let warning = bridge::WarnRequest {
        level: 1,
        short: b"mind this".to_vec(),
        url: "https://docs.example/mind".to_owned(),
        ..Default::default()
    };
    client.warn(of(name, warning)).await.expect("the warning");
    // A build that nobody began has no answers.
    let nobody = client.ping(of("nobody", bridge::PingRequest {})).await;
    assert!(nobody.is_err());

    let back = bridge::ReturnRequest {
        result: Some(result),
        ..Default::default()
    };
    client.r#return(of(name, back)).await.expect("taken");
    built.await.unwrap().expect("the build");

    // What it said is still there.
    let said = said(&mut control, name).await;
    assert!(
        said.vertexes
            .iter()
            .any(|vertex| vertex.name.contains("echo made"))
    );
    let logs: Vec<u8> = said.logs.into_iter().flat_map(|log| log.msg).collect();
    assert!(String::from_utf8_lossy(&logs).contains("from the step"));
    let warnings: Vec<&str> = said.warnings.iter().map(|w| w.url.as_str()).collect();
    assert_eq!(warnings, ["https://docs.example/mind"]);
    // And what it was made of.
    let channel = rig.channel().await;
    let records = history(&mut control, name).await;
    let [record] = &records[..] else {
        panic!("{records:?}");
    };
    let result = record.result.as_ref().expect("a result");
    let [attestation] = &result.attestations[..] else {
        panic!("{result:?}");
    };
    let predicate: serde_json::Value =
        serde_json::from_slice(&blob(&channel, &attestation.digest).await).expect("JSON");
    let made_of = &predicate["buildDefinition"]["resolvedDependencies"][0]["uri"];
    assert!(
        made_of
            .as_str()
            .unwrap()
            .starts_with("pkg:docker/busybox@latest")
    );
    let trace = blob(&channel, &record.trace.as_ref().expect("a trace").digest).await;
    assert!(String::from_utf8_lossy(&trace).contains("0af7651916cd43dd8448eb211c80319c"));
    let logs = record.logs.as_ref().expect("logs");
    assert!(!blob(&channel, &logs.digest).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_an_internal_build_of_nothing_is_not_remembered() {
    let rig = Rig::new();
    let mut control = rig.control().await;
    let mut building = control.clone();
    let built = tokio::spawn(async move {
        let request = api::SolveRequest {
            r#ref: "probe".to_owned(),
            internal: true,
            ..Default::default()
        };
        building.solve(request).await
    });
    let mut client = LlbBridgeClient::new(rig.channel().await);
    client
        .ping(of("probe", bridge::PingRequest {}))
        .await
        .expect("an answer");
    let nothing = bridge::ReturnRequest {
        result: Some(bridge::Result {
            result: Some(Given::Ref(bridge::Ref::default())),
            ..Default::default()
        }),
        ..Default::default()
    };
    client.r#return(of("probe", nothing)).await.expect("taken");
    built.await.unwrap().expect("the build");
    assert!(history(&mut control, "probe").await.is_empty());
    assert!(history(&mut control, "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p02_p17_p48_p49_p50_p51_p54_a_daemon_tells_of_itself_and_forgets_when_told() {
    let rig = Rig::new();
    let mut control = rig.control().await;
    let info = control.info(api::InfoRequest {}).await.expect("info");
    let version = info.into_inner().buildkit_version.expect("a version");
    assert!(!version.version.is_empty() && !version.package.is_empty());
    let workers = |mut control: ControlClient<Channel>| async move {
        let workers = control
            .list_workers(api::ListWorkersRequest::default())
            .await;
        workers.expect("workers").into_inner().record
    };
    let first = workers(control.clone()).await;
    assert!(!first[0].platforms.is_empty());
    assert_eq!(first[0].id, workers(rig.control().await).await[0].id);

    let build = |mut control: ControlClient<Channel>, name: &str, command: &str| {
        let request = api::SolveRequest {
            r#ref: name.to_owned(),
            definition: Some(theirs(&step(command))),
            ..Default::default()
        };
        async move { control.solve(request).await }
    };
    build(control.clone(), "good", "echo kept > /kept")
        .await
        .expect("the build");
    let failed = build(control.clone(), "bad", "exit 7").await;
    let failed = failed.expect_err("the step fails");
    assert_eq!(failed.code(), Code::Unknown);
    assert!(failed.message().contains("exit code: 7"), "{failed}");
    assert!(!failed.details().is_empty());
    let bad = history(&mut control, "bad").await.remove(0);
    let error = bad.error.expect("an error");
    assert!(error.message.contains("exit code: 7") && error.details.is_empty());
    let whole = bad.external_error.expect("the whole error").digest;
    let whole = blob(&rig.channel().await, &whole).await;
    let whole = gateway_proto::rpc::Status::decode(whole.as_slice()).expect("a status");
    assert!(!whole.details.is_empty());

    // One empty filter is none.
    let request = || api::DiskUsageRequest {
        filter: vec![String::new()],
        ..Default::default()
    };
    let used = control.disk_usage(request()).await.expect("usage");
    let used = used.into_inner().record;
    assert!(
        used.iter()
            .any(|record| record.description.contains("echo kept"))
    );
    let named = |records: &[api::BuildHistoryRecord]| {
        let mut names: Vec<String> = records.iter().map(|r| r.r#ref.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(named(&history(&mut control, "").await), ["bad", "good"]);
    assert!(history(&mut control, "unknown").await.is_empty());
    let prune = api::PruneRequest {
        all: true,
        ..Default::default()
    };
    let mut pruned = control.prune(prune).await.expect("pruning").into_inner();
    let mut gone = Vec::new();
    while let Some(record) = pruned.message().await.expect("a record") {
        gone.push(record.description);
    }
    assert!(
        gone.iter().any(|text| text.contains("echo kept")),
        "{gone:?}"
    );
    let left = control.disk_usage(request()).await.expect("usage");
    let left = left.into_inner().record;
    assert!(
        !left
            .iter()
            .any(|record| record.description.contains("echo kept"))
    );

    let update = |pinned: bool, delete: bool| api::UpdateBuildHistoryRequest {
        r#ref: "good".to_owned(),
        pinned,
        delete,
        ..Default::default()
    };
    control
        .update_build_history(update(true, false))
        .await
        .expect("pinned");
    assert!(history(&mut control, "good").await[0].pinned);
    control
        .update_build_history(update(false, true))
        .await
        .expect("deleted");
    assert!(history(&mut control, "good").await.is_empty());
    assert!(
        control
            .update_build_history(update(true, false))
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p56_a_daemon_serves_the_one_client_on_its_standard_input_and_output() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    let theirs = OwnedFd::from(theirs);
    let mut process = Command::new(binary())
        .args(["daemon", "--addr", "stdio://", "--root"])
        .arg(home.store())
        .arg("--config")
        .arg(home.dir.path().join("config.toml"))
        .stdin(Stdio::from(theirs.try_clone().unwrap()))
        .stdout(Stdio::from(theirs))
        .spawn()
        .expect("gateway daemon");
    ours.set_nonblocking(true).unwrap();
    let mut stream = Some(tokio::net::UnixStream::from_std(ours).unwrap());
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = stream.take().ok_or(std::io::ErrorKind::NotConnected);
            async move { Ok::<_, std::io::Error>(TokioIo::new(stream?)) }
        }))
        .await
        .expect("the one connection");
    let mut control = ControlClient::new(channel);
    let request = api::SolveRequest {
        r#ref: "one".to_owned(),
        definition: Some(theirs_of("echo one > /one")),
        ..Default::default()
    };
    control.solve(request).await.expect("the build");
    drop(control);
    // The client is gone with its connection, and the daemon with its client.
    let ended = tokio::task::spawn_blocking(move || process.wait());
    assert!(ended.await.unwrap().unwrap().success());
}

fn theirs_of(command: &str) -> bollard_buildkit_proto::pb::Definition {
    theirs(&step(command))
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Nothing {}

/// What a service says of its health.
#[derive(Clone, PartialEq, Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_of_a_daemon_is_that_it_serves() {
    let rig = Rig::new();
    let channel = rig.channel().await;
    let health = call::<_, Health>(&channel, "/grpc.health.v1.Health/Check", Nothing {}).await;
    assert_eq!(health.expect("an answer").status, 1, "SERVING");
}

#[tokio::test(flavor = "multi_thread")]
async fn p01_p25_unknown_services_are_unimplemented_and_traces_are_taken() {
    let rig = Rig::new();
    let channel = rig.channel().await;
    let unknown = call::<_, Nothing>(&channel, "/no.such.Service/Call", Nothing {}).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    call::<_, Nothing>(&channel, path, Nothing {})
        .await
        .expect("taken");
}

/// What a client answers, by the path that it was called by. Errors are codes of gRPC.
type Answers = Arc<dyn Fn(&str, &[u8]) -> Result<Vec<u8>, i32> + Send + Sync>;

/// Opens a session whose bytes travel in slices of this many.
async fn session(
    mut control: ControlClient<Channel>,
    id: &'static str,
    methods: &[&str],
    slice: usize,
    answers: Answers,
) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let service = hyper::service::service_fn(move |request: http::Request<_>| {
            answer(answers.clone(), request)
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(ours), service)
            .await;
    });
    let (mut from, mut to) = tokio::io::split(theirs);
    let (send, sent) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        let mut buffer = vec![0; slice];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let data = buffer[..count].to_vec();
            if send.send(api_bytes(data)).await.is_err() {
                return;
            }
        }
    });
    let mut request = Request::new(ReceiverStream::new(sent));
    let metadata = request.metadata_mut();
    metadata.insert("x-docker-expose-session-uuid", id.parse().unwrap());
    for method in methods {
        metadata.append(
            "x-docker-expose-session-grpc-method",
            method.parse().unwrap(),
        );
    }
    tokio::spawn(async move {
        let mut bytes = control
            .session(request)
            .await
            .expect("a session")
            .into_inner();
        while let Ok(Some(piece)) = bytes.message().await {
            if to.write_all(&piece.data).await.is_err() {
                return;
            }
        }
    });
}

fn api_bytes(data: Vec<u8>) -> api::BytesMessage {
    api::BytesMessage { data }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// One call without streams: five bytes, a message, and trailers.
async fn answer(
    answers: Answers,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("a message");
    let body = body.to_bytes();
    let (code, message) = match answers(&path, body.get(5..).unwrap_or_default()) {
        Ok(message) => (0, Some(message)),
        Err(code) => (code, None),
    };
    let mut frames = Vec::new();
    if let Some(message) = message {
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        frames.push(Ok(Frame::data(Bytes::from(framed))));
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    frames.push(Ok(Frame::trailers(trailers)));
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let mut response = http::Response::new(body.boxed_unsync());
    let kind = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}

#[derive(Clone, PartialEq, Message)]
struct WantedExporter {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(map = "string, string", tag = "2")]
    attrs: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct FindExporters {
    #[prost(string, repeated, tag = "2")]
    refs: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct FoundExporters {
    #[prost(message, repeated, tag = "1")]
    exporters: Vec<WantedExporter>,
}

#[derive(Clone, PartialEq, Message)]
struct Finalize {
    #[prost(map = "string, string", tag = "1")]
    response: HashMap<String, String>,
}

const FIND: &str = "/moby.exporter.v1.Exporter/FindExporters";
const FINALIZE: &str = "/moby.exporter.v1.Exporter/FinalizeExport";

#[tokio::test(flavor = "multi_thread")]
async fn p03_p04_p60_a_session_in_single_bytes_names_an_output_when_it_is_told_of_the_result() {
    let rig = Rig::new();
    let mut control = rig.control().await;
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = heard.clone();
    let answers: Answers = Arc::new(move |path, message| {
        let mut log = log.lock().unwrap();
        match path {
            FIND => {
                let asked = FindExporters::decode(message).expect("a request");
                log.push(format!("refs {}", asked.refs.len()));
                let named = ("name".to_owned(), "late/app:1".to_owned());
                let wanted = WantedExporter {
                    kind: "image".to_owned(),
                    attrs: HashMap::from([named]),
                };
                Ok(FoundExporters {
                    exporters: vec![wanted],
                }
                .encode_to_vec())
            }
            FINALIZE => {
                let told = Finalize::decode(message).expect("a request");
                let digest = told.response.contains_key("containerimage.digest");
                log.push(format!("digest {digest}"));
                Ok(Vec::new())
            }
            // As who does nothing else.
            _ => Err(12),
        }
    });
    session(control.clone(), "late", &[FIND, FINALIZE], 1, answers).await;
    let request = api::SolveRequest {
        r#ref: "late".to_owned(),
        session: "late".to_owned(),
        definition: Some(theirs(&step("echo late > /late"))),
        enable_session_exporter: true,
        ..Default::default()
    };
    let answer = control.solve(request).await.expect("the build");
    assert!(
        answer
            .into_inner()
            .exporter_response
            .contains_key("containerimage.digest")
    );
    assert_eq!(*heard.lock().unwrap(), ["refs 1", "digest true"]);
    assert!(rig.images().contains("late/app:1"), "{}", rig.images());
}

#[derive(Clone, PartialEq, Message)]
struct CheckPolicy {
    #[prost(message, optional, tag = "1")]
    platform: Option<pb::Platform>,
    #[prost(message, optional, tag = "2")]
    source: Option<bridge::ResolveSourceMetaResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct Decision {
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(message, optional, tag = "3")]
    update: Option<pb::SourceOp>,
}

#[derive(Clone, PartialEq, Message)]
struct Checked {
    #[prost(message, optional, tag = "1")]
    decision: Option<Decision>,
    #[prost(message, optional, tag = "2")]
    request: Option<bridge::ResolveSourceMetaRequest>,
}

const CHECK: &str = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy";
const ALLOW: i32 = 0;
const DENY: i32 = 1;
const CONVERT: i32 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn p60_every_source_is_judged_by_the_policy_of_a_session() {
    let rig = Rig::new();
    let mut control = rig.control().await;
    // busybox is converted into alpine, of which the digest is asked; nothing else is allowed.
    let answers: Answers = Arc::new(|path, message| {
        if path != CHECK {
            return Err(12);
        }
        let source = CheckPolicy::decode(message).expect("a request").source;
        let source = source.expect("what is asked about");
        let op = source.source.clone().expect("a source");
        let decided = |action, update| Checked {
            decision: Some(Decision { action, update }),
            request: None,
        };
        let checked = match op.identifier.as_str() {
            "docker-image://docker.io/library/busybox:latest" => {
                let other = pb::SourceOp {
                    identifier: "docker-image://docker.io/library/alpine:latest".to_owned(),
                    ..op
                };
                decided(CONVERT, Some(other))
            }
            "docker-image://docker.io/library/alpine:latest" => match source.image {
                Some(image) if image.digest.starts_with("sha256:") => decided(ALLOW, None),
                _ => Checked {
                    decision: None,
                    request: Some(bridge::ResolveSourceMetaRequest {
                        source: Some(op),
                        ..Default::default()
                    }),
                },
            },
            _ => decided(DENY, None),
        };
        Ok(checked.encode_to_vec())
    });
    session(control.clone(), "judge", &[CHECK], 1000, answers).await;
    let build = |name: &str, definition: &pb::Definition| api::SolveRequest {
        r#ref: name.to_owned(),
        session: "judge".to_owned(),
        source_policy_session: "judge".to_owned(),
        definition: Some(theirs(definition)),
        ..Default::default()
    };
    let good = build("good", &step("cat /etc/base > /seen; true"));
    control.solve(good).await.expect("the build");
    let said = said(&mut control, "good").await;
    let names: Vec<&str> = said.vertexes.iter().map(|v| v.name.as_str()).collect();
    assert!(
        names.iter().any(|name| name.contains("alpine:latest")),
        "{names:?}"
    );
    let scratch = ImageSource::new("docker.io/library/other:1").state(Constraints::new());
    let options = MarshalOptions::new(gateway_llb::platform::host());
    let bad = build("bad", &scratch.marshal(&options).expect("a graph"));
    let denied = control.solve(bad).await.expect_err("it is denied");
    assert!(
        denied.message().contains("not allowed by policy"),
        "{denied}"
    );
}
