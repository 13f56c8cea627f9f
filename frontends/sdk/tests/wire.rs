//! What a frontend sends over the wire, seen by a server that is none of ours.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gateway_api::{BuildResult, ContainerRequest, Error, Gateway, ProcessRequest};
use gateway_frontend::{Environment, RunError};
use prost::Message;

type Seen = Arc<Mutex<Vec<http::request::Parts>>>;

/// Answers every call with an empty message; the heads of the calls.
async fn host(io: tokio::io::DuplexStream, seen: Seen) {
    // Sends its settings before it has read anything.
    let mut connection = h2::server::handshake(io).await.expect("HTTP/2 at once");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        seen.lock().unwrap().push(request.into_parts().0);
        let head = http::Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .expect("a head");
        let mut body = respond.send_response(head, false).expect("a response");
        body.send_data(Bytes::from_static(&[0; 5]), false)
            .expect("a message");
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        body.send_trailers(trailers).expect("trailers");
    }
}

/// Runs a frontend against [`host`]; how it ended, and the heads of its calls.
async fn run(
    frontend: fn(Arc<dyn Gateway>) -> Result<BuildResult, Error>,
) -> (Result<(), RunError>, Vec<http::request::Parts>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let seen = Seen::default();
    let served = tokio::spawn(host(far, seen.clone()));
    let function = gateway_frontend::function(move |gateway| async move { frontend(gateway) });
    let ended = gateway_frontend::serve(near, Environment::default(), function).await;
    served.abort();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (ended, seen)
}

#[tokio::test]
async fn calls_go_to_localhost_over_http2_without_an_upgrade() {
    let (_, calls) = run(|_| Ok(BuildResult::default())).await;
    let ping = calls.first().expect("a call");
    assert_eq!(
        ping.uri.authority().expect("an authority").as_str(),
        "localhost"
    );
    assert_eq!(ping.uri.path(), "/moby.buildkit.v1.frontend.LLBBridge/Ping");
    assert_eq!(ping.headers["content-type"], "application/grpc");
    assert_eq!(ping.headers["te"], "trailers");
}

#[tokio::test]
async fn a_host_that_lists_no_capabilities_has_those_of_2018() {
    let (_, calls) = run(|gateway| {
        let call = gateway.invocation();
        assert!(call.frontend_caps.supports("solve.base"));
        assert!(call.llb_caps.supports("source.image"));
        assert!(!call.llb_caps.supports("file.base"));
        assert!(!call.frontend_caps.supports("return"));
        Ok(BuildResult::default())
    })
    .await;
    // Without Return the result is what the last Solve is told to export.
    let last = calls.last().expect("calls").uri.path();
    assert!(last.ends_with("/Solve"), "{last}");
}

#[tokio::test]
async fn a_host_that_hangs_up_ends_the_frontend() {
    let (near, far) = tokio::io::duplex(1024);
    drop(far);
    let function = gateway_frontend::function(|_| async { Ok(BuildResult::default()) });
    let ended = gateway_frontend::serve(near, Environment::default(), function).await;
    assert!(ended.is_err());
}

/// Has containers, and ends every stream of processes with an error before it has read the
/// request, whose end it never waits for.
async fn host_without_processes(io: tokio::io::DuplexStream) {
    let mut connection = h2::server::handshake(io).await.expect("HTTP/2 at once");
    let mut unread = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (head, body) = request.into_parts();
        unread.push(body);
        let exec = head.uri.path().ends_with("/ExecProcess");
        let pong = gateway_proto::frontend::PongResponse {
            frontend_api_caps: vec![gateway_proto::apicaps::ApiCap {
                id: "gateway.exec".to_owned(),
                enabled: true,
                ..Default::default()
            }],
            ..Default::default()
        };
        let message = match head.uri.path().ends_with("/Ping") {
            true => pong.encode_to_vec(),
            false => Vec::new(),
        };
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len()).expect("small").to_be_bytes());
        framed.extend(message);
        let head = http::Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .expect("a head");
        let mut body = respond.send_response(head, false).expect("a response");
        if !exec {
            body.send_data(framed.into(), false).expect("a message");
        }
        let mut trailers = http::HeaderMap::new();
        let status = if exec { "7" } else { "0" };
        trailers.insert("grpc-status", http::HeaderValue::from_static(status));
        body.send_trailers(trailers).expect("trailers");
    }
}

#[tokio::test]
async fn a_process_after_the_end_of_the_stream_is_told_of_it() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let served = tokio::spawn(host_without_processes(far));
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let function = gateway_frontend::function(move |gateway: Arc<dyn Gateway>| {
        let seen = seen.clone();
        async move {
            let container = gateway.new_container(ContainerRequest::default()).await?;
            for _ in 0..20 {
                let process = container.start(ProcessRequest::default()).await?;
                let event = process.next_event().await.expect("an event");
                seen.lock().unwrap().push(event.expect_err("refused").code);
            }
            Ok(BuildResult::default())
        }
    });
    let run = gateway_frontend::serve(near, Environment::default(), function);
    tokio::time::timeout(std::time::Duration::from_secs(60), run)
        .await
        .expect("a process waits for ever")
        .expect("a result");
    served.abort();
    let told = told.lock().unwrap();
    assert_eq!(*told, [gateway_api::Code::PermissionDenied; 20]);
}
