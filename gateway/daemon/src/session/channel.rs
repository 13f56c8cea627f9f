//! Calls to a client: HTTP/2 inside of its session, with us as the client of that.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use codec::Codec as _;
use gateway_proto::limits;
use http::uri::PathAndQuery;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status, Streaming, codec};
use tonic_prost::ProstCodec;
use tower::Service;

use super::MAX_CALLS;
use super::gone::{GONE, status_of};
use super::trailers::{Readable, readable};

/// Headers of an answer, in bytes: errors of clients have details, of which none is a file.
const MAX_ANSWER_HEADERS: u32 = 1 << 20;

/// Values of metadata; with more of them, each of a byte, it is larger than clients take.
const MOST_VALUES: usize = 31_500;

/// Headers of a call, in bytes: what Go's clients take at most, less some for what is always there.
const MAX_CALL_HEADERS: usize = (1 << 20) - (16 << 10);

/// The type of gRPC's requests.
const GRPC: &str = "application/grpc";

/// All streams of a session are ours, and each holds back what is not read by its own window; so the
/// connection's need not hold back more. HTTP/2's guard against floods of small frames allows them in
/// proportion to it, and clients write every message as a frame of its own, thousands of a few bytes
/// for a directory of small files: 1 MiB of the smallest frames, on every stream at once, is allowed.
const CONNECTION_WINDOW: u32 = i32::MAX as u32;

/// One connection. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    sender: http2::SendRequest<Body>,
    calls: Arc<Semaphore>,
}

/// Says hello. The future beside the channel is the connection: it must run, and ends with the stream.
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
    let tasks = Tasks::default();
    let (sender, connection) = http2::Builder::new(tasks.clone())
        .max_header_list_size(MAX_ANSWER_HEADERS)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(io))
        .await?;
    let calls = Arc::new(Semaphore::new(MAX_CALLS));
    let ends = tasks.end_when_dropped();
    let connection = async move {
        let ended = connection.await;
        // A client that says goodbye (GOAWAY) takes no more calls; those that are open go on.
        std::future::poll_fn(|cx| ends.0.poll_ended(cx)).await;
        ended
    };
    Ok((Channel { sender, calls }, connection))
}

/// Runs what belongs to the connection, and ends with it: by itself it would go on as long as any call
/// is open, also to a client that is given up.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

struct EndTasks(Tasks);

impl Tasks {
    fn end_when_dropped(self) -> EndTasks {
        EndTasks(self)
    }

    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut tasks = self.locked();
        while std::task::ready!(tasks.poll_join_next(cx)).is_some() {}
        Poll::Ready(())
    }

    fn locked(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for EndTasks {
    fn drop(&mut self) {
        self.0.locked().abort_all();
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let mut tasks = self.locked();
        // Of calls that are over.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            future.await;
        });
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Readable>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx).map_err(status_of)
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
        let answer = self.sender.send_request(request);
        Box::pin(async move {
            let (mut head, body) = answer.await.map_err(status_of)?.into_parts();
            head.headers = readable(head.headers);
            Ok(http::Response::from_parts(head, Readable(body)))
        })
    }
}

impl Channel {
    /// Whether the client takes no more calls.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
        grpc.ready().await?;
        Ok(grpc)
    }

    /// Waits until the client takes one more call.
    async fn call(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = self.calls.clone().acquire_owned().await;
        permit.map_err(|_| Status::unavailable(GONE))
    }

    /// One request, one answer, beside all calls that wait their turn.
    pub async fn urgent<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc().await?;
        let path = PathAndQuery::from_static(path);
        let answer = grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default());
        Ok(answer.await?.into_inner())
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
        *request.metadata_mut() = fitting(metadata)?;
        let _call = self.call().await?;
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
    ) -> Result<Answers<A>, Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut request = Request::new(requests);
        *request.metadata_mut() = fitting(metadata)?;
        let call = self.call().await?;
        let mut grpc = self.grpc().await?;
        let path = PathAndQuery::from_static(path);
        let answer = grpc.streaming(request, path, ProstCodec::<Q, A>::default());
        Ok(Answers {
            stream: answer.await?.into_inner(),
            _call: call,
        })
    }

    /// Streams both ways, of which ours comes as pieces with many messages in each, every one behind gRPC's prefix.
    pub async fn pieces<A>(
        &self,
        path: &'static str,
        metadata: MetadataMap,
        pieces: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Answers<A>, Status>
    where
        A: prost::Message + Default + 'static,
    {
        let pieces =
            tokio_stream::StreamExt::map(pieces, |piece| Ok::<_, Infallible>(Frame::data(piece)));
        let mut request = http::Request::new(Body::new(StreamBody::new(pieces)));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_static(path);
        *request.headers_mut() = fitting(metadata)?.into_headers();
        for (name, value) in [
            (http::header::TE, "trailers"),
            (http::header::CONTENT_TYPE, GRPC),
        ] {
            let value = http::HeaderValue::from_static(value);
            request.headers_mut().insert(name, value);
        }
        let call = self.call().await?;
        let mut channel = self.clone();
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
        let answer = Service::call(&mut channel, request).await?;
        let (head, body) = answer.into_parts();
        let decoder = ProstCodec::<A, A>::default().decoder();
        let stream = match Status::from_header_map(&head.headers) {
            Some(status) if status.code() != tonic::Code::Ok => return Err(status),
            Some(_) => Streaming::new_empty(decoder, body),
            None => Streaming::new_response(
                decoder,
                body,
                head.status,
                None,
                Some(limits::MAX_MESSAGE_BYTES),
            ),
        };
        Ok(Answers {
            stream,
            _call: call,
        })
    }
}

/// What a client answers, one message after the other; it counts as a call until dropped.
pub struct Answers<A> {
    stream: Streaming<A>,
    _call: OwnedSemaphorePermit,
}

impl<A> Answers<A> {
    /// The next one.
    ///
    /// # Errors
    /// Of the client, at the end.
    pub async fn message(&mut self) -> Result<Option<A>, Status> {
        self.stream.message().await
    }
}

impl<A> Stream for Answers<A> {
    type Item = Result<A, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.stream).poll_next(cx)
    }
}

/// Metadata that a client takes: more of it would end in an answer that nobody understands.
fn fitting(metadata: MetadataMap) -> Result<MetadataMap, Status> {
    let headers = metadata.into_headers();
    // As HTTP/2 counts.
    let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + 32
    };
    let size: usize = headers.iter().map(size).sum();
    if size > MAX_CALL_HEADERS {
        return Err(Status::resource_exhausted(format!(
            "the names and patterns of one call to the client are {size} bytes, more than {MAX_CALL_HEADERS}: use fewer, e.g. directories instead of their files"
        )));
    }
    Ok(MetadataMap::from_headers(headers))
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
        if metadata.len() >= MOST_VALUES {
            return;
        }
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
    use futures_util::StreamExt;

    use super::*;

    /// Answers every call with so many messages of a few bytes, each in a frame of its own.
    async fn many_small(io: tokio::io::DuplexStream, count: usize) {
        use http_body_util::StreamBody;
        use hyper::body::Frame;
        let service = hyper::service::service_fn(move |_| async move {
            let message = [0, 0, 0, 0, 2, 8, 2].as_slice();
            let frames = futures_util::stream::iter(0..count).map(move |_| {
                Ok::<_, std::convert::Infallible>(Frame::data(bytes::Bytes::from_static(message)))
            });
            let mut response = http::Response::new(StreamBody::new(frames));
            let kind = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", kind);
            Ok::<_, std::convert::Infallible>(response)
        });
        let _ = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .serve_connection(TokioIo::new(io), service)
            .await;
    }

    /// The frames of several lists wait in full while the disk does not keep up; HTTP/2 takes as many for
    /// an attack elsewhere.
    #[tokio::test(flavor = "multi_thread")]
    async fn p05_lists_of_small_files_that_nobody_reads_yet_are_no_attack() {
        use crate::proto::session::Packet;
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let count = 100_000;
        tokio::spawn(many_small(theirs, count));
        let (channel, connection) = connect(ours).await.unwrap();
        tokio::spawn(connection);
        let mut lists = Vec::new();
        for _ in 0..20 {
            let nothing = tokio_stream::pending::<Packet>();
            let path = "/moby.filesync.v1.FileSync/DiffCopy";
            let list = channel.streams::<Packet, Packet>(path, MetadataMap::new(), nothing);
            lists.push(list.await.unwrap());
        }
        // All that fits is on its way, and nobody reads.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        for mut list in lists {
            for _ in 0..2000 {
                assert!(list.message().await.unwrap().is_some());
            }
        }
    }

    #[test]
    fn p22_more_metadata_than_clients_take_is_refused_by_us() {
        let mut metadata = MetadataMap::new();
        let pattern = ["x".repeat(1000)];
        for _ in 0..900 {
            insert(&mut metadata, "exclude-patterns", &pattern);
        }
        let mut metadata = fitting(metadata).unwrap();
        for _ in 0..200 {
            insert(&mut metadata, "exclude-patterns", &pattern);
        }
        let refused = fitting(metadata).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let mut many = MetadataMap::new();
        insert(&mut many, "followpaths", &vec!["x".to_owned(); 100_000]);
        assert!(fitting(many).is_err());
    }

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
