//! Calls to a client: HTTP/2 inside of its session, with us as the client of that.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use gateway_proto::limits;
use http::uri::PathAndQuery;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

/// One connection. Cheap to clone.
#[derive(Clone)]
pub struct Channel(http2::SendRequest<Body>);

/// Says hello. The future beside the channel is the connection: it must run, and ends with the stream.
///
/// Clients write every message as a frame of its own, thousands of a few bytes each for a directory of
/// small files. HTTP/2's guard against such floods allows them in proportion to the window of the
/// connection, so that is far larger than any stream's.
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

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The scheme and authority that every client of a session has seen so far.
        let path = request.uri().path_and_query().cloned();
        let uri = http::Uri::builder().scheme("http").authority("localhost");
        if let Ok(uri) = uri
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build()
        {
            *request.uri_mut() = uri;
        }
        Box::pin(self.0.send_request(request))
    }
}

impl Channel {
    async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(format!("the client is gone: {error}")))?;
        Ok(grpc)
    }

    /// One request, one answer.
    pub async fn unary<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        self.unary_with(path, MetadataMap::new(), request).await
    }

    /// One request with metadata, one answer.
    pub async fn unary_with<Q, A>(
        &self,
        path: &'static str,
        metadata: MetadataMap,
        request: Q,
    ) -> Result<A, Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut request = Request::new(request);
        *request.metadata_mut() = metadata;
        let mut grpc = self.grpc().await?;
        let path = PathAndQuery::from_static(path);
        let answer = grpc.unary(request, path, ProstCodec::<Q, A>::default());
        Ok(answer.await?.into_inner())
    }

    /// Streams both ways.
    pub async fn streams<Q, A>(
        &self,
        path: &'static str,
        metadata: MetadataMap,
        requests: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut request = Request::new(requests);
        *request.metadata_mut() = metadata;
        let mut grpc = self.grpc().await?;
        let path = PathAndQuery::from_static(path);
        let answer = grpc.streaming(request, path, ProstCodec::<Q, A>::default());
        Ok(answer.await?.into_inner())
    }
}

/// How text that is not ASCII becomes metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Escaped, as clients undo it when told `KEY-encoded`.
    Escaped,
    /// As it is: clients before 2023 know nothing else.
    Raw,
}

/// Text as metadata, escaped where it must be.
pub fn insert(metadata: &mut MetadataMap, key: &'static str, values: &[String]) {
    insert_as(metadata, Encoding::Escaped, key, values);
}

/// The same in the encoding that the client knows.
pub fn insert_as(
    metadata: &mut MetadataMap,
    encoding: Encoding,
    key: &'static str,
    values: &[String],
) {
    let plain = values
        .iter()
        .all(|value| value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    let escape = !plain && encoding == Encoding::Escaped;
    let marker = format!("{key}-encoded");
    if escape && let Ok(marker) = AsciiMetadataKey::from_bytes(marker.as_bytes()) {
        metadata.insert(marker, AsciiMetadataValue::from_static("1"));
    }
    for value in values {
        let text = match escape {
            true => url::form_urlencoded::byte_serialize(value.as_bytes()).collect(),
            false => value.clone(),
        };
        if let Ok(text) = AsciiMetadataValue::try_from(text.as_bytes()) {
            metadata.append(key, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p14_what_is_not_ascii_is_escaped_and_said_to_be() {
        let mut metadata = MetadataMap::new();
        insert(&mut metadata, "followpaths", &["a b".to_owned()]);
        assert_eq!(metadata.get("followpaths").unwrap(), "a b");
        assert!(metadata.get("followpaths-encoded").is_none());
        insert(
            &mut metadata,
            "include-patterns",
            &["ü b".to_owned(), "x".to_owned()],
        );
        let values: Vec<_> = metadata.get_all("include-patterns").iter().collect();
        assert_eq!(values, ["%C3%BC+b", "x"]);
        assert_eq!(metadata.get("include-patterns-encoded").unwrap(), "1");
        let mut metadata = MetadataMap::new();
        let raw = ["ü".to_owned()];
        insert_as(&mut metadata, Encoding::Raw, "followpaths", &raw);
        assert_eq!(
            metadata.get("followpaths").unwrap().as_bytes(),
            "ü".as_bytes()
        );
        assert_eq!(metadata.len(), 1);
    }
}
