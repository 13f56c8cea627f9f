//! HTTP/2 over any byte stream, as a gRPC channel.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use gateway_proto::limits;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tower::Service;

/// One connection. Cheap to clone.
#[derive(Clone)]
pub struct Channel(http2::SendRequest<Body>);

/// Says hello. The future returned beside the channel is the connection: it must run, and ends with
/// the stream.
pub async fn connect<T>(
    io: T,
) -> Result<
    (
        Channel,
        impl Future<Output = Result<(), hyper::Error>> + Send,
    ),
    hyper::Error,
>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(limits::MAX_HEADER_LIST_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .handshake(TokioIo::new(io))
        .await?;
    Ok((Channel(sender), connection))
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
