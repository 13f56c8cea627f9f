//! A client of the daemon whose every word a test chooses: gRPC by hand over HTTP/2, with a session
//! inside of it that offers what the test says, in pieces of the size that the test says. It shares no
//! code with what it tests.

pub mod build;
pub mod call;
pub mod content;
pub mod files;
pub mod graph;
pub mod session;
pub mod wire;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustix::process::{Gid, Uid};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;

pub use call::{Answers, Failure, Stream};
pub use files::{Content, Tree};
pub use session::{Offers, Session};

/// Messages are made as the other side takes them.
pub type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, std::convert::Infallible>>>;
/// Where the frames of a body are put.
pub type Frames = mpsc::Sender<Result<Frame<Bytes>, std::convert::Infallible>>;

/// A body and where its frames come from.
pub fn body() -> (Frames, Body) {
    let (send, sent) = mpsc::channel(64);
    (send, StreamBody::new(ReceiverStream::new(sent)))
}

/// A message as gRPC frames it.
pub fn framed(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    let mut all = vec![0];
    all.extend(
        u32::try_from(bytes.len())
            .expect("a small message")
            .to_be_bytes(),
    );
    all.extend(bytes);
    Bytes::from(all)
}

/// One connection.
pub struct Client {
    sender: http2::SendRequest<Body>,
    connection: JoinHandle<()>,
    tasks: Tasks,
}

/// What the connection runs beside itself: the socket is open until all of it has ended.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let mut tasks = self.0.lock().expect("the tasks");
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            future.await;
        });
    }
}

impl Client {
    pub async fn unix(socket: &Path) -> Client {
        let stream = tokio::net::UnixStream::connect(socket).await;
        Client::over(stream.expect("the daemon's socket")).await
    }

    /// As another user of this machine: the kernel tells who connects.
    pub async fn unix_as(socket: &Path, user: u32) -> Client {
        let client = Client::try_unix_in(socket, user, &[]).await;
        client.expect("HTTP/2")
    }

    /// The same in these groups.
    pub async fn unix_in(socket: &Path, user: u32, groups: &[u32]) -> Client {
        let client = Client::try_unix_in(socket, user, groups).await;
        client.expect("HTTP/2")
    }

    /// As [`Client::unix_as`] where the other side may close the connection before a word was said.
    pub async fn try_unix_as(socket: &Path, user: u32) -> Result<Client, Failure> {
        Client::try_unix_in(socket, user, &[]).await
    }

    async fn try_unix_in(socket: &Path, user: u32, groups: &[u32]) -> Result<Client, Failure> {
        let stream = connected_as(socket, user, groups);
        stream.set_nonblocking(true).expect("a socket");
        let stream = tokio::net::UnixStream::from_std(stream).expect("a socket");
        Client::try_over(stream).await
    }

    pub async fn over<T>(io: T) -> Client
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Client::try_over(io).await.expect("HTTP/2")
    }

    async fn try_over<T>(io: T) -> Result<Client, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tasks = Tasks::default();
        let (sender, connection) = http2::Builder::new(tasks.clone())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(256 << 20)
            .max_header_list_size(16 << 20)
            .handshake(TokioIo::new(io))
            .await
            .map_err(Failure::of)?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Client {
            sender,
            connection,
            tasks,
        })
    }

    /// Gone from one moment to the next, as a killed process is.
    pub fn vanish(&self) {
        self.connection.abort();
        let mut tasks = self.tasks.0.lock().expect("the tasks");
        tasks.abort_all();
    }

    /// A call whose messages go both ways.
    pub async fn stream(&self, path: &str, metadata: &[(&str, &str)]) -> Stream {
        let mut request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let (send, body) = body();
        let request = request.body(body).expect("a request");
        let mut sender = self.sender.clone();
        let answer = tokio::spawn(async move {
            sender.ready().await?;
            sender.send_request(request).await
        });
        Stream::new(send, answer)
    }

    /// One message, one answer.
    pub async fn ask<A: Message + Default>(
        &self,
        path: &str,
        metadata: &[(&str, &str)],
        message: &impl Message,
    ) -> Result<A, Failure> {
        let mut stream = self.stream(path, metadata).await;
        stream.send(message).await;
        stream.finish();
        let answer = stream.next::<A>().await?;
        match (answer, stream.next::<A>().await?) {
            (Some(answer), None) => Ok(answer),
            _ => Err(Failure::of("not one answer")),
        }
    }

    /// A build of a definition.
    pub async fn define(
        &self,
        session: &str,
        definition: wire::Definition,
    ) -> Result<wire::SolveResponse, Failure> {
        self.solve(&wire::SolveRequest {
            name: new_id(),
            session: session.to_owned(),
            definition: Some(definition),
            ..wire::SolveRequest::default()
        })
        .await
    }

    /// A build of a build file.
    pub async fn build(
        &self,
        session: &str,
        exporters: Vec<wire::Exporter>,
    ) -> Result<wire::SolveResponse, Failure> {
        self.solve(&wire::SolveRequest {
            name: new_id(),
            session: session.to_owned(),
            frontend: "dockerfile.v0".to_owned(),
            exporters,
            ..wire::SolveRequest::default()
        })
        .await
    }

    /// Builds that run, as everybody may see them.
    pub async fn running(&self) -> Result<Vec<wire::HistoryRecord>, Failure> {
        let request = wire::HistoryRequest {
            active_only: true,
            early_exit: true,
            ..wire::HistoryRequest::default()
        };
        let path = "/moby.buildkit.v1.Control/ListenBuildHistory";
        let mut events = self.stream(path, &[]).await;
        events.send(&request).await;
        events.finish();
        let mut running = Vec::new();
        while let Some(event) = events.next::<wire::HistoryEvent>().await? {
            running.extend(event.record);
        }
        Ok(running)
    }

    /// `Control.Solve`.
    pub async fn solve(
        &self,
        request: &wire::SolveRequest,
    ) -> Result<wire::SolveResponse, Failure> {
        self.solve_within(request, LIMIT).await
    }

    /// The same for builds that may take longer.
    pub async fn solve_within(
        &self,
        request: &wire::SolveRequest,
        limit: Duration,
    ) -> Result<wire::SolveResponse, Failure> {
        let solved = self.ask("/moby.buildkit.v1.Control/Solve", &[], request);
        match tokio::time::timeout(limit, solved).await {
            Ok(solved) => solved,
            Err(_) => Err(Failure::of("the build hangs")),
        }
    }
}

/// A connection as another user of this machine who is in these groups and no others.
pub fn connected_as(socket: &Path, user: u32, groups: &[u32]) -> std::os::unix::net::UnixStream {
    let socket = socket.to_owned();
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let stream = std::thread::spawn(move || {
        let user = Uid::from_raw(user);
        // Of this thread alone.
        rustix::thread::set_thread_groups(&groups).expect("leaving the groups");
        rustix::thread::set_thread_res_uid(user, user, user).expect("becoming another user");
        std::os::unix::net::UnixStream::connect(socket).expect("the daemon's socket")
    });
    stream.join().expect("the thread that connects")
}

/// A build that takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(280);

impl Drop for Client {
    fn drop(&mut self) {
        self.vanish();
    }
}

/// An id that nothing else has, as long as clients' own.
pub fn new_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = || RandomState::new().hash_one(std::time::Instant::now());
    format!("{:016x}{:09x}", random(), random() >> 28)
}
