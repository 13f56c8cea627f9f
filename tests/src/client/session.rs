//! A session: HTTP/2 inside of a call, with the client answering.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::content::{self, Stores};
use super::files::{Received, Tree, receive};
use super::wire::{BytesMessage, Named, Nothing};
use super::{Answers, Body, Client, Frames, body, framed};

pub const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
pub const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
pub const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What a client gives to builds, and what it was asked for.
#[derive(Default)]
pub struct Offers {
    /// Directories by their names.
    pub trees: HashMap<String, Tree>,
    pub secrets: HashMap<String, Vec<u8>>,
    /// Questions after secrets are never answered.
    pub silent: bool,
    /// Questions after its health are never answered.
    pub dead: bool,
    /// What agents answer, by their ids.
    pub agents: HashMap<String, Vec<u8>>,
    /// How exported files are taken.
    pub received: Option<Arc<Received>>,
    /// Outputs, by their numbers, that come as one stream of bytes; and what came.
    pub streams: HashSet<String>,
    pub archives: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Blobs that are read and written.
    pub stores: Stores,
    /// Calls that are refused with details that are not base64: their path, and whether trailers say so.
    pub unreadable: Option<(&'static str, bool)>,
    /// Bytes of a header in every answer.
    pub header: usize,
    /// Every call, as it came.
    pub calls: Mutex<Vec<String>>,
    /// Calls that are being answered.
    pub open: AtomicUsize,
}

impl Offers {
    /// One directory, `context`.
    pub fn context(tree: Tree) -> Offers {
        let mut offers = Offers::default();
        offers
            .trees
            .insert("dockerfile".to_owned(), tree.only("Dockerfile"));
        offers.trees.insert("context".to_owned(), tree);
        offers
    }

    pub fn calls_of(&self, path: &str) -> usize {
        let calls = self.calls.lock().expect("the calls");
        calls.iter().filter(|call| call.ends_with(path)).count()
    }
}

/// What the other side hears of a session.
pub struct Settings {
    pub id: String,
    pub shared_key: String,
    /// Bytes of one message of the tunnel at most, from here.
    pub slice: usize,
    /// Streams at once, as Go's server says.
    pub streams: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            id: super::new_id(),
            shared_key: String::new(),
            slice: 32 << 10,
            streams: 250,
        }
    }
}

/// Open until dropped.
pub struct Session {
    pub id: String,
    pub offers: Arc<Offers>,
    tasks: JoinSet<()>,
    goodbye: Arc<tokio::sync::Notify>,
}

impl Session {
    pub async fn open(client: &Client, offers: Offers) -> Session {
        Session::with(client, offers, Settings::default()).await
    }

    pub async fn with(client: &Client, offers: Offers, settings: Settings) -> Session {
        let mut metadata = vec![
            ("x-docker-expose-session-uuid", settings.id.as_str()),
            ("x-docker-expose-session-sharedkey", &settings.shared_key),
        ];
        for method in [
            DIFF_COPY,
            SEND,
            SECRET,
            CHECK_AGENT,
            FORWARD_AGENT,
            HEALTH,
            content::INFO,
            content::READ,
            content::WRITE,
        ] {
            metadata.push(("x-docker-expose-session-grpc-method", method));
        }
        let mut outer = client
            .stream("/moby.buildkit.v1.Control/Session", &metadata)
            .await;
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (mut from_server, mut to_server) = tokio::io::split(ours);
        let offers = Arc::new(offers);
        let mut tasks = JoinSet::new();
        let frames = outer.frames();
        tasks.spawn(async move {
            let mut buffer = vec![0; settings.slice];
            loop {
                let count = from_server.read(&mut buffer).await.unwrap_or(0);
                let data = Bytes::copy_from_slice(&buffer[..count]);
                let frame = Frame::data(framed(&BytesMessage { data }));
                if count == 0 || frames.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
        });
        outer.finish();
        tasks.spawn(async move {
            while let Ok(Some(message)) = outer.next::<BytesMessage>().await {
                if to_server.write_all(&message.data).await.is_err() {
                    return;
                }
            }
            let _ = to_server.shutdown().await;
        });
        let goodbye = Arc::new(tokio::sync::Notify::new());
        let (offered, leaving) = (offers.clone(), goodbye.clone());
        tasks.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let offers = offered.clone();
                async move { Ok::<_, Infallible>(offers.answer(request)) }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(64 << 20)
                .max_concurrent_streams(settings.streams)
                .max_header_list_size(1 << 20)
                .serve_connection(TokioIo::new(theirs), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = &mut connection => {}
                () = leaving.notified() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
        Session {
            id: settings.id,
            offers,
            tasks,
            goodbye,
        }
    }

    /// No more calls (GOAWAY); those that are there go on.
    pub fn take_no_more(&self) {
        self.goodbye.notify_one();
    }

    /// Whether the other side ended it.
    pub async fn ended(mut self) {
        // The tunnel's two ways and the connection: one of them ends first.
        let _ = self.tasks.join_next().await;
    }
}

/// Counts calls that are open.
struct Open(Arc<Offers>);

impl Open {
    fn new(offers: &Arc<Offers>) -> Open {
        offers.open.fetch_add(1, Ordering::Relaxed);
        Open(offers.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The end of an answer.
pub async fn end(frames: &Frames, code: u32, message: &str) {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    if let Ok(message) = message.replace(' ', "%20").parse() {
        trailers.insert("grpc-message", message);
    }
    let _ = frames.send(Ok(Frame::trailers(trailers))).await;
}

impl Offers {
    fn answer(self: Arc<Self>, request: http::Request<Incoming>) -> http::Response<Body> {
        let path = request.uri().path().to_owned();
        self.calls.lock().expect("the calls").push(path.clone());
        let header = |name: &str| {
            let value = request.headers().get(name);
            let value = value.and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (dir, agent) = (header("dir-name"), header("buildkit.ssh.id"));
        let output = header("buildkit-attachable-exporter-id");
        let store = header("buildkit-attachable-store-id");
        // The only filter that tests need: which files are wanted at all is looked at before.
        let ignore_file = header("followpaths") == ".dockerignore";
        let mut asked = Answers::new(request.into_body());
        let (frames, body) = body();
        let mut response = http::Response::new(body);
        let headers = response.headers_mut();
        headers.insert(
            "content-type",
            http::HeaderValue::from_static("application/grpc"),
        );
        if self.header > 0 {
            headers.insert("x-more", "x".repeat(self.header).parse().expect("a header"));
        }
        let unreadable = self.unreadable.filter(|(of, _)| *of == path);
        if let Some((_, in_trailers)) = unreadable {
            let mut status = http::HeaderMap::new();
            for (name, value) in [
                ("grpc-status", "9"),
                ("grpc-message", "not today"),
                ("grpc-status-details-bin", "this is no base64"),
            ] {
                status.insert(name, http::HeaderValue::from_static(value));
            }
            match in_trailers {
                false => headers.extend(status),
                true => {
                    tokio::spawn(async move { frames.send(Ok(Frame::trailers(status))).await });
                }
            }
            return response;
        }
        let offers = self.clone();
        tokio::spawn(async move {
            let _open = Open::new(&offers);
            match path.as_str() {
                DIFF_COPY => match offers.trees.get(&dir) {
                    Some(_) if ignore_file => Tree::default().serve(asked, &frames).await,
                    Some(tree) => tree.clone().serve(asked, &frames).await,
                    None => end(&frames, 2, "no access allowed").await,
                },
                SEND if offers.streams.contains(&output) => {
                    let mut archive = Vec::new();
                    while let Ok(Some(piece)) = asked.next::<BytesMessage>().await {
                        archive.extend_from_slice(&piece.data);
                    }
                    {
                        let mut archives = offers.archives.lock().expect("the archives");
                        archives.insert(output, archive);
                    }
                    end(&frames, 0, "").await;
                }
                content::INFO | content::READ | content::WRITE => {
                    offers.stores.answer(&path, &store, asked, &frames).await;
                }
                SEND => match &offers.received {
                    Some(received) => receive(received, asked, &frames).await,
                    None => end(&frames, 12, "nothing is taken").await,
                },
                SECRET if offers.silent => {
                    // Until nobody asks any more.
                    frames.closed().await;
                }
                SECRET => {
                    let name = asked
                        .next::<Named>()
                        .await
                        .ok()
                        .flatten()
                        .unwrap_or_default();
                    match offers.secrets.get(&name.name) {
                        Some(value) => {
                            let data = Bytes::from(value.clone());
                            one(&frames, &BytesMessage { data }).await;
                        }
                        None => end(&frames, 5, "no such secret").await,
                    }
                }
                CHECK_AGENT => {
                    let name = asked
                        .next::<Named>()
                        .await
                        .ok()
                        .flatten()
                        .unwrap_or_default();
                    match offers.agents.contains_key(&name.name) {
                        true => one(&frames, &Nothing {}).await,
                        false => end(&frames, 5, "no such agent").await,
                    }
                }
                FORWARD_AGENT => {
                    let said = offers.agents.get(&agent).cloned().unwrap_or_default();
                    while let Ok(Some(_)) = asked.next::<BytesMessage>().await {
                        let data = Bytes::from(said.clone());
                        let frame = Frame::data(framed(&BytesMessage { data }));
                        if frames.send(Ok(frame)).await.is_err() {
                            return;
                        }
                    }
                    end(&frames, 0, "").await;
                }
                HEALTH if offers.dead => frames.closed().await,
                // SERVING
                HEALTH => one(&frames, &Health { status: 1 }).await,
                _ => end(&frames, 12, "not here").await,
            }
        });
        response
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

pub(super) async fn one(frames: &Frames, message: &impl Message) {
    let _ = frames.send(Ok(Frame::data(framed(message)))).await;
    end(frames, 0, "").await;
}
