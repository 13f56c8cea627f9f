//! Clients that speak the protocol themselves: as raw messages, and as the frontends of their own
//! builds over a socket.

use std::sync::Arc;
use std::time::Duration;

use gateway_api::Gateway;
use gateway_bridge::FrontendLimits;
use gateway_bridge::service::{BUILD_ID, BridgeService, Builds, Outcome};
use gateway_bridge::transport::{Observed, serve, serve_socket};
use gateway_proto::frontend::llb_bridge_client::LlbBridgeClient;
use gateway_proto::frontend::result::Result as Form;
use gateway_proto::frontend::*;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Request, Status};
use tower::util::BoxCloneSyncService;

use crate::both::{definition, root};
use crate::rig::Rig;

type Channel =
    BoxCloneSyncService<http::Request<Body>, http::Response<hyper::body::Incoming>, hyper::Error>;
pub type Client = LlbBridgeClient<Channel>;

/// A plain client of a connection, without any care of its own.
async fn client(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Client {
    let (send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(16 << 20)
        .handshake(TokioIo::new(io))
        .await
        .unwrap();
    tokio::spawn(connection);
    let channel = tower::service_fn(move |request: http::Request<Body>| {
        let mut send = send.clone();
        async move { send.send_request(request).await }
    });
    let origin = http::Uri::from_static("http://localhost");
    LlbBridgeClient::with_origin(BoxCloneSyncService::new(channel), origin)
}

/// A plain client of the service over this gateway.
pub async fn client_of(gateway: Arc<dyn Gateway>) -> Client {
    let limits = FrontendLimits::default();
    let service = BridgeService::new(gateway, Arc::new(Outcome::default()), &limits);
    let (host, child) = tokio::io::duplex(64 * 1024);
    let (read, write) = tokio::io::split(host);
    tokio::spawn(serve(read, write, service, Arc::new(Observed::default())));
    client(child).await
}

pub fn solve_root() -> SolveRequest {
    SolveRequest {
        definition: Some(definition(&root())),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..SolveRequest::default()
    }
}

pub fn id_of(answer: SolveResponse) -> String {
    match answer.result.unwrap().result {
        Some(Form::Ref(reference)) => reference.id,
        other => panic!("{other:?}"),
    }
}

struct Served {
    builds: Builds,
    socket: std::path::PathBuf,
    cancel: CancellationToken,
}

impl Served {
    fn start(rig: &Rig) -> Served {
        let socket = rig.path("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let (builds, cancel) = (Builds::default(), CancellationToken::new());
        tokio::spawn(serve_socket(
            listener,
            builds.clone(),
            FrontendLimits::default(),
            cancel.clone(),
        ));
        Served {
            builds,
            socket,
            cancel,
        }
    }

    async fn client(&self) -> Client {
        client(UnixStream::connect(&self.socket).await.unwrap()).await
    }
}

fn of_build<T>(id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(BUILD_ID, id.parse().unwrap());
    request
}

fn returning(id: &str, key: &str) -> ReturnRequest {
    ReturnRequest {
        result: Some(gateway_proto::frontend::Result {
            result: Some(Form::Ref(Ref {
                id: id.to_owned(),
                def: None,
            })),
            metadata: [(key.to_owned(), b"v".to_vec())].into(),
            ..Default::default()
        }),
        error: None,
    }
}

pub async fn p50_a_client_is_the_frontend_of_its_own_build_over_a_socket() {
    let rig = Rig::new();
    let served = Served::start(&rig);
    let mut client = served.client().await;
    let frontend = served
        .builds
        .frontend("the-build", &FrontendLimits::default());
    let request = rig.request("", &[("filename", "F")], CancellationToken::new());
    let engine = rig.engine().await;
    let build = tokio::spawn(async move { engine.build_with(request, frontend).await });
    let pong = client.ping(of_build("the-build", PingRequest {})).await;
    assert!(!pong.unwrap().into_inner().llb_caps.is_empty());
    let solved = client
        .solve(of_build("the-build", solve_root()))
        .await
        .unwrap();
    let id = id_of(solved.into_inner());
    let read = ReadFileRequest {
        r#ref: id.clone(),
        file_path: "bin/none".to_owned(),
        ..ReadFileRequest::default()
    };
    let missing = client
        .read_file(of_build("the-build", read))
        .await
        .unwrap_err();
    assert_eq!(
        missing.message(),
        "open bin/none: no such file or directory"
    );
    assert!(!build.is_finished());
    let last = of_build("the-build", returning(&id, "frontend.key"));
    client.r#return(last).await.unwrap();
    let built = build.await.unwrap().unwrap();
    assert_eq!(built.exporter["frontend.key"], "v");
    // The build is over, and with it what the client may ask.
    let late = client
        .ping(of_build("the-build", PingRequest {}))
        .await
        .unwrap_err();
    assert_eq!(late.code(), Code::NotFound);
    assert_eq!(late.message(), "forwarding Ping: no such job the-build");
    served.cancel.cancel();
}

pub async fn p50_calls_name_their_build_and_may_come_before_it() {
    let rig = Rig::new();
    let served = Served::start(&rig);
    let mut client = served.client().await;
    let nameless = client.ping(PingRequest {}).await.unwrap_err();
    assert_eq!(nameless.code(), Code::Unknown);
    assert_eq!(
        nameless.message(),
        "forwarding Ping: no buildid found in context"
    );
    // The call is first, the build a second later.
    let mut early = client.clone();
    let early = tokio::spawn(async move { early.ping(of_build("later", PingRequest {})).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!early.is_finished());
    let frontend = served.builds.frontend("later", &FrontendLimits::default());
    let request = rig.request("", &[], CancellationToken::new());
    let engine = rig.engine().await;
    let again = served.builds.frontend("later", &FrontendLimits::default());
    let second = rig.request("", &[], CancellationToken::new());
    let other = engine.clone();
    let build = tokio::spawn(async move { engine.build_with(request, frontend).await });
    early.await.unwrap().unwrap();
    let twice = other.build_with(second, again).await.unwrap_err();
    assert_eq!(twice.message, "a build with the id later is under way");
    // An error of the client is that of the build.
    let failed = ReturnRequest {
        result: None,
        error: Some(gateway_proto::rpc::Status {
            code: 9,
            message: "the client gave up".to_owned(),
            details: Vec::new(),
        }),
    };
    client.r#return(of_build("later", failed)).await.unwrap();
    let error = build.await.unwrap().unwrap_err();
    assert_eq!(error.message, "the client gave up");
    assert_eq!(error.code, gateway_api::Code::FailedPrecondition);
}

pub async fn p50_two_builds_share_a_connection_but_no_refs() {
    let rig = Rig::new();
    let served = Served::start(&rig);
    let mut client = served.client().await;
    let engine = rig.engine().await;
    let mut builds = Vec::new();
    for id in ["one", "two"] {
        let frontend = served.builds.frontend(id, &FrontendLimits::default());
        let (engine, request) = (
            engine.clone(),
            rig.request("", &[], CancellationToken::new()),
        );
        builds.push(tokio::spawn(async move {
            engine.build_with(request, frontend).await
        }));
    }
    let solved = client.solve(of_build("one", solve_root())).await.unwrap();
    let id = id_of(solved.into_inner());
    let stolen = EvaluateRequest { r#ref: id.clone() };
    let refused = client.evaluate(of_build("two", stolen)).await.unwrap_err();
    assert_eq!(refused.message(), format!("no such ref: {id}, all []"));
    for build in ["one", "two"] {
        let own = if build == "one" { id.as_str() } else { "" };
        let last = of_build(build, returning(own, "frontend.key"));
        client.r#return(last).await.unwrap();
    }
    for build in builds {
        build.await.unwrap().unwrap();
    }
}

/// Sends these messages on one stream and half-closes it; how it ends.
pub async fn exec(client: &mut Client, messages: Vec<ExecMessage>) -> Status {
    let stream = tokio_stream::iter(messages);
    let mut answers = client.exec_process(stream).await.unwrap().into_inner();
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        }
    }
}
