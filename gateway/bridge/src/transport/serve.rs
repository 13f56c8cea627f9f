//! Serves LLBBridge on one connection: HTTP/2 without TLS or upgrade, the client speaks first or
//! we do. With a frontend's process one connection is one frontend call.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use gateway_proto::frontend::llb_bridge_server::{LlbBridge, LlbBridgeServer};
use gateway_proto::health::health_server::HealthServer;
use gateway_proto::limits;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tonic::body::Body;
use tower::{Service, ServiceExt, service_fn};

use super::answers::counted;
use super::fault::Observed;
use super::meter::Meter;
use super::reader::FrontendReader;
use super::writer::FrontendWriter;
use crate::host::FrontendLimits;
use crate::service::{BridgeService, HealthService};

/// Streams of a frontend at once. Those of 2018 start three calls per stage at the same time; what is
/// beyond waits in the client.
const MAX_CONCURRENT_STREAMS: u32 = 250;

/// Headers of a request: a few hundred bytes in every client seen. Large ones are only ours, with
/// details of errors. All streams may have as many at once.
const MAX_REQUEST_HEADERS_BYTES: u32 = 256 << 10;

/// What one connection may hold.
#[derive(Debug, Clone, Copy)]
pub struct Http2Limits {
    /// Streams at once.
    pub streams: u32,
    /// Bytes of all streams that wait to be read. HTTP/2's guard against floods of small frames allows
    /// them in proportion to it.
    pub window: u32,
}

impl Http2Limits {
    /// Those of a frontend.
    const FRONTEND: Http2Limits = Http2Limits {
        streams: MAX_CONCURRENT_STREAMS,
        window: limits::CONNECTION_WINDOW_BYTES,
    };
}

/// Runs the connection until it ends. Handlers that still run then are dropped.
///
/// # Errors
/// What broke the connection, in words for the user. A frontend may well be gone between its last
/// bytes and ours, so an error after its Return means nothing.
pub async fn serve<R, W>(
    read: R,
    write: W,
    mut bridge: BridgeService,
    observed: Arc<Observed>,
) -> Result<(), String>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let activity = observed.activity();
    let io = tokio::io::join(
        FrontendReader::new(read, observed.clone()),
        FrontendWriter::new(write, activity.clone()),
    );
    bridge.report_to(activity.clone());
    let limits = bridge.limits().clone();
    let ended = connection(io, bridge, &limits).await;
    match (observed.fault(), ended) {
        (Some(fault), _) => Err(fault),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(format!(
            "frontend broke the HTTP/2 protocol: {}",
            with_causes(&error)
        )),
    }
}

/// One connection until its end.
pub(super) async fn connection<T, B>(
    io: T,
    bridge: B,
    limits: &FrontendLimits,
) -> Result<(), hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: LlbBridge,
{
    serve_http2(io, routes(bridge, limits), Http2Limits::FRONTEND).await
}

/// One HTTP/2 connection until its end, its requests answered by `service`. Handlers that still run
/// then are dropped.
///
/// # Errors
/// What broke the connection.
pub async fn serve_http2<T, S>(io: T, service: S, may: Http2Limits) -> Result<(), hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
{
    serve_http2_until(io, service, may, std::future::pending()).await
}

/// The same until `leave` ends: no more requests are taken then, and the connection ends when those that were are
/// answered to their last byte.
///
/// # Errors
/// What broke the connection.
pub async fn serve_http2_until<T, S>(
    io: T,
    service: S,
    may: Http2Limits,
    leave: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
{
    let handlers = Handlers::default();
    let service = TowerToHyperService::new(service);
    let connection = http2::Builder::new(handlers.clone())
        .max_header_list_size(MAX_REQUEST_HEADERS_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(may.window)
        .max_concurrent_streams(may.streams)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = leave => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    handlers.abort();
    ended
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The services by their path; what is neither is answered by the bridge's own "unimplemented".
pub fn routes<B: LlbBridge>(
    bridge: B,
    limits: &FrontendLimits,
) -> impl Service<
    http::Request<hyper::body::Incoming>,
    Response = http::Response<Body>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ use<B>
+ 'static {
    let bridge = LlbBridgeServer::new(bridge)
        .max_decoding_message_size(limits.message_bytes)
        .max_encoding_message_size(limits.message_bytes);
    let health = HealthServer::new(HealthService);
    let meter = Meter::new(limits.buffered_bytes);
    service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (bridge, health, meter) = (bridge.clone(), health.clone(), meter.clone());
        async move {
            let streams = request.uri().path().ends_with("/ExecProcess");
            let request = request.map(|body| match streams {
                true => Meter::pass(body),
                false => meter.measure(body),
            });
            let path = request.uri().path();
            if path.starts_with("/grpc.health.v1.Health/") {
                return health.oneshot(request).await;
            }
            if path.starts_with("/moby.buildkit.v1.frontend.LLBBridge/") {
                let answered = bridge.oneshot(request).await;
                return answered.map(plain_limit_error).map(counted);
            }
            Ok(unknown_method(path))
        }
    })
}

fn unknown_method(path: &str) -> http::Response<Body> {
    let (service, method) = path
        .trim_start_matches('/')
        .rsplit_once('/')
        .unwrap_or((path, ""));
    let message = format!("unknown method {method} for service {service}");
    tonic::Status::unimplemented(message).into_http()
}

/// A message over the limit is `ResourceExhausted` to every gRPC client; tonic says `OutOfRange`.
fn plain_limit_error(mut response: http::Response<Body>) -> http::Response<Body> {
    let out_of_range = response
        .headers()
        .get("grpc-status")
        .is_some_and(|code| code == "11");
    let too_large = response
        .headers()
        .get("grpc-message")
        .and_then(|message| message.to_str().ok())
        .is_some_and(|message| message.contains("message%20length%20too%20large"));
    if out_of_range && too_large {
        let code = http::HeaderValue::from_static("8");
        response.headers_mut().insert("grpc-status", code);
    }
    response
}

/// Runs the handlers of one connection, and ends with it: hyper's own executor would let them go on.
#[derive(Clone, Default)]
struct Handlers(Arc<Mutex<JoinSet<()>>>);

impl Handlers {
    fn abort(&self) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.abort_all();
    }
}

impl<F> hyper::rt::Executor<F> for Handlers
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Keeps the set small while a long build makes thousands of calls.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            future.await;
        });
    }
}
