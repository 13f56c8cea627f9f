//! Messages that our own client never sends: missing parts, old forms, other services.

use std::sync::Arc;

use gateway_api::{BuildResult, Refs};
use gateway_bridge::FrontendLimits;
use gateway_bridge::service::{BridgeService, Outcome};
use gateway_bridge::transport::{Observed, serve};
use gateway_proto::frontend::llb_bridge_client::LlbBridgeClient;
use gateway_proto::frontend::result::Result as Form;
use gateway_proto::frontend::*;
use gateway_proto::health::HealthCheckRequest;
use gateway_proto::health::health_client::HealthClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tonic::Code;
use tonic::body::Body;
use tower::ServiceExt;

use crate::mock::Mock;

type Send = hyper::client::conn::http2::SendRequest<Body>;

/// A plain channel without any of our client's care.
fn channel(
    send: Send,
) -> impl tonic::client::GrpcService<
    Body,
    ResponseBody = hyper::body::Incoming,
    Error = hyper::Error,
    Future: std::marker::Send,
> + Clone {
    tower::service_fn(move |request: http::Request<Body>| {
        let mut send = send.clone();
        async move { send.send_request(request).await }
    })
}

fn start(mock: Mock) -> (DuplexStream, Arc<Outcome>) {
    let outcome = Arc::new(Outcome::default());
    let service = BridgeService::new(Arc::new(mock), outcome.clone(), &FrontendLimits::default());
    let (host, child) = tokio::io::duplex(64 * 1024);
    let (read, write) = tokio::io::split(host);
    tokio::spawn(serve(read, write, service, Arc::new(Observed::default())));
    (child, outcome)
}

async fn connect(child: DuplexStream) -> Send {
    let (send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(16 << 20)
        .handshake(TokioIo::new(child))
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

fn origin() -> http::Uri {
    http::Uri::from_static("http://localhost")
}

macro_rules! client {
    ($outcome:ident) => {{
        let (child, outcome) = start(Mock::new());
        let $outcome = outcome;
        let client = LlbBridgeClient::with_origin(channel(connect(child).await), origin());
        (client.max_encoding_message_size(64 << 20), $outcome)
    }};
}

fn solve() -> SolveRequest {
    let definition = gateway_llb::pb::Definition {
        def: vec![vec![1]],
        ..Default::default()
    };
    SolveRequest {
        definition: Some(definition),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..SolveRequest::default()
    }
}

fn returning(form: Option<Form>) -> ReturnRequest {
    ReturnRequest {
        result: Some(gateway_proto::frontend::Result {
            result: form,
            ..Default::default()
        }),
        error: None,
    }
}

fn reference(id: &str) -> Ref {
    Ref {
        id: id.to_owned(),
        def: None,
    }
}

#[tokio::test]
async fn p32_return_accepts_every_form() {
    let map = |id: &str| {
        vec![RefEntry {
            key: "linux/amd64".to_owned(),
            value: Some(reference(id)),
        }]
    };
    type Check = fn(&BuildResult) -> bool;
    let forms: Vec<(Option<Form>, Check)> = vec![
        (None, |r| r.refs == Refs::None),
        (
            Some(Form::RefDeprecated("ref0".to_owned())),
            |r| matches!(&r.refs, Refs::Single(r) if r.id == "ref0" && r.def.is_some()),
        ),
        (
            Some(Form::RefDeprecated(String::new())),
            |r| matches!(&r.refs, Refs::Single(r) if r.is_scratch()),
        ),
        (
            Some(Form::Ref(reference("ref0"))),
            |r| matches!(&r.refs, Refs::Single(r) if r.def.is_some()),
        ),
        (
            Some(Form::RefsDeprecated(RefMapDeprecated {
                refs: [("linux/amd64".to_owned(), "ref0".to_owned())].into(),
            })),
            |r| matches!(&r.refs, Refs::Map(map) if map["linux/amd64"].id == "ref0"),
        ),
        (
            Some(Form::Refs(RefMap { refs: map("ref0") })),
            |r| matches!(&r.refs, Refs::Map(map) if map["linux/amd64"].def.is_some()),
        ),
    ];
    for (form, check) in forms {
        let (mut client, outcome) = client!(outcome);
        client.solve(solve()).await.unwrap();
        client.r#return(returning(form.clone())).await.unwrap();
        let returned = outcome.get().unwrap().as_ref().unwrap();
        assert!(check(returned), "{form:?} became {returned:?}");
        // A ref can be read after the Return.
        let read = ReadFileRequest {
            r#ref: "ref0".to_owned(),
            file_path: "x".to_owned(),
            ..ReadFileRequest::default()
        };
        let status = client.read_file(read).await.unwrap_err();
        assert!(status.message().contains("no such file"), "{status}");
    }
}

#[tokio::test]
async fn p32_a_second_return_and_an_unknown_ref_are_refused() {
    let (mut client, outcome) = client!(outcome);
    let unknown = returning(Some(Form::Ref(reference("nope"))));
    let status = client.r#return(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert_eq!(status.message(), "return reference nope not found");
    assert!(outcome.get().is_none());
    client.r#return(returning(None)).await.unwrap();
    let status = client.r#return(returning(None)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert_eq!(status.message(), "gateway result is already set");
}

#[tokio::test]
async fn p33_missing_parts_are_errors_of_their_request() {
    let (mut client, outcome) = client!(outcome);
    let status = client.r#return(ReturnRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(outcome.get().is_none());
    let status = client
        .resolve_source_meta(ResolveSourceMetaRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "source is required");
    client.warn(WarnRequest::default()).await.unwrap();
    client
        .resolve_image_config(ResolveImageConfigRequest::default())
        .await
        .unwrap();
    for id in ["", "other"] {
        let call = ReadFileRequest {
            r#ref: id.to_owned(),
            ..ReadFileRequest::default()
        };
        let status = client.read_file(call).await.unwrap_err();
        assert!(
            status
                .message()
                .starts_with(&format!("no such ref: {id}, all ["))
        );
    }
}

#[tokio::test]
async fn p28_an_empty_solve_is_an_empty_ref() {
    let (mut client, _) = client!(outcome);
    for mut call in [SolveRequest::default(), solve()] {
        call.definition = call.definition.map(|_| Default::default());
        call.allow_result_return = true;
        call.allow_result_array_ref = true;
        let answer = client.solve(call).await.unwrap().into_inner();
        let form = answer.result.unwrap().result;
        assert_eq!(form, Some(Form::Ref(Ref::default())));
    }
}

#[tokio::test]
async fn p29_definition_and_frontend_together_are_refused() {
    let (mut client, _) = client!(outcome);
    let call = SolveRequest {
        frontend: "dockerfile.v0".to_owned(),
        ..solve()
    };
    let status = client.solve(call).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    let text = "cannot solve with both Definition and Frontend specified";
    assert_eq!(status.message(), text);
}

#[tokio::test]
async fn p30_equal_definitions_give_two_refs() {
    let (mut client, _) = client!(outcome);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = client.solve(solve()).await.unwrap().into_inner();
        ids.push(answer.result.unwrap().result);
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn p20_a_request_over_sixteen_mebibytes_is_resource_exhausted() {
    let (mut client, _) = client!(outcome);
    let mut call = solve();
    call.definition.as_mut().unwrap().def = vec![vec![0; 17 << 20]];
    let status = client.solve(call).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    client.ping(PingRequest {}).await.unwrap();
}

#[tokio::test]
async fn an_old_client_gets_large_answers_without_definitions() {
    for (agent, kept) in [("grpc-go/1.27.1", false), ("grpc-go/1.82.0", true)] {
        let (client, _) = client!(outcome);
        let mut call = solve();
        call.definition.as_mut().unwrap().def = vec![vec![0; 5 << 20]];
        let mut request = tonic::Request::new(call);
        let agent_header = agent.parse().unwrap();
        request.metadata_mut().insert("user-agent", agent_header);
        let mut client = client.clone().max_decoding_message_size(16 << 20);
        let answer = client.solve(request).await.unwrap().into_inner();
        match answer.result.unwrap().result {
            Some(Form::Ref(reference)) => assert_eq!(reference.def.is_some(), kept, "{agent}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn p21_health_is_serving_and_unknown_methods_are_unimplemented() {
    let (child, _) = start(Mock::new());
    let send = connect(child).await;
    let mut health = HealthClient::with_origin(channel(send.clone()), origin());
    let status = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(status.into_inner().status, 1);
    let other = HealthCheckRequest {
        service: "x".to_owned(),
    };
    assert_eq!(
        health.check(other).await.unwrap_err().code(),
        Code::NotFound
    );
    for path in [
        "/moby.buildkit.v1.frontend.LLBBridge/Nope",
        "/other.Service/Nope",
        "/",
    ] {
        let request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .body(Body::empty())
            .unwrap();
        let response = tower::service_fn(|request| send.clone().send_request(request))
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(response.headers()["grpc-status"], "12", "{path}");
    }
}

#[tokio::test]
async fn p19_settings_come_before_the_preface_and_pings_are_answered() {
    let (mut child, _) = start(Mock::new());
    let mut head = [0; 9];
    child.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
    let mut rest = vec![0; usize::from(head[2])];
    child.read_exact(&mut rest).await.unwrap();
    child
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    child
        .write_all(b"\0\0\x08\x06\0\0\0\0\0pingpong")
        .await
        .unwrap();
    loop {
        child.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        child.read_exact(&mut payload).await.unwrap();
        if head[3] == 6 {
            assert_eq!((head[4], payload.as_slice()), (1, &b"pingpong"[..]));
            break;
        }
    }
}

#[tokio::test]
async fn containers_are_refused_with_a_reason() {
    let (mut client, _) = client!(outcome);
    let status = client
        .new_container(NewContainerRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(status.message(), "no containers");
}
