//! Containers over a connection: one ExecProcess stream is shared by all processes of a client.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gateway_api::{
    Code, Container, Detail, Error, FileRange, Process, ProcessEvent, ProcessRequest, Stat,
};
use gateway_proto::convert::container::process_to_wire;
use gateway_proto::convert::files;
use gateway_proto::error::{from_rpc, from_status};
use gateway_proto::frontend::exec_message::Input;
use gateway_proto::frontend::llb_bridge_client::LlbBridgeClient;
use gateway_proto::frontend::{self as wire, ExecMessage};
use tokio::sync::mpsc;

use crate::transport::Channel;

/// Messages to the host that wait for the connection; with more the caller waits.
const PENDING_MESSAGES: usize = 16;

/// What the host says when it cannot tell how a process ended.
const UNKNOWN_EXIT: u32 = 255;

type Bridge = LlbBridgeClient<Channel>;
type Route = mpsc::UnboundedSender<Result<Input, Error>>;

/// Where the host's messages to each process go; none once the stream has ended. The connection
/// may hold the other direction open for a while after that, so it cannot tell.
type Routes = Arc<Mutex<Option<HashMap<String, Route>>>>;

/// The stream, opened by the first process.
pub(crate) struct ExecStream {
    bridge: Bridge,
    // Held while the stream is opened, so that there is one.
    open: tokio::sync::Mutex<Option<(mpsc::Sender<ExecMessage>, Routes)>>,
    next_id: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> Error {
    Error::new(Code::Unavailable, "the build server has closed the stream")
}

impl ExecStream {
    pub fn new(bridge: Bridge) -> Self {
        ExecStream {
            bridge,
            open: tokio::sync::Mutex::default(),
            next_id: AtomicU64::new(1),
        }
    }

    /// A number that no other container or process of this client has.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The open stream; a new one where an error has ended the last.
    async fn stream(&self) -> (mpsc::Sender<ExecMessage>, Routes) {
        let mut open = self.open.lock().await;
        if let Some(stream) = open.as_ref().filter(|(_, routes)| locked(routes).is_some()) {
            return stream.clone();
        }
        let (sender, outgoing) = mpsc::channel(PENDING_MESSAGES);
        let routes = Routes::new(Mutex::new(Some(HashMap::new())));
        let bridge = self.bridge.clone();
        tokio::spawn(receive(bridge, outgoing, routes.clone()));
        let stream = (sender, routes);
        *open = Some(stream.clone());
        stream
    }
}

/// Hands the host's messages to the processes they are for, until the stream ends.
async fn receive(mut bridge: Bridge, outgoing: mpsc::Receiver<ExecMessage>, routes: Routes) {
    let outgoing = futures_util::stream::unfold(outgoing, |mut outgoing| async {
        let message = outgoing.recv().await?;
        Some((message, outgoing))
    });
    let ended = async {
        let mut incoming = bridge.exec_process(outgoing).await?.into_inner();
        while let Some(message) = incoming.message().await? {
            let Some(input) = message.input else { continue };
            let route = locked(&routes)
                .as_ref()
                .and_then(|routes| routes.get(&message.process_id).cloned());
            if let Some(route) = route {
                // Its process may have been dropped.
                let _ = route.send(Ok(input));
            }
        }
        Ok::<(), tonic::Status>(())
    }
    .await;
    let error = match ended {
        Ok(()) => closed(),
        Err(status) => from_status(&status),
    };
    for route in locked(&routes).take().unwrap_or_default().values() {
        let _ = route.send(Err(error.clone()));
    }
}

/// A container at the host. Dropping it releases it.
pub(crate) struct RemoteContainer {
    id: String,
    bridge: Bridge,
    stream: Arc<ExecStream>,
    /// Whether the host gives its files.
    filesystem: Result<(), Error>,
    /// Whether the host takes secrets as variables, and signals.
    secret_env: Result<(), Error>,
    signals: Result<(), Error>,
    released: AtomicBool,
}

/// What the host can do with containers.
pub(crate) struct Abilities {
    pub filesystem: Result<(), Error>,
    pub secret_env: Result<(), Error>,
    pub signals: Result<(), Error>,
}

impl RemoteContainer {
    pub fn new(id: String, bridge: Bridge, stream: Arc<ExecStream>, can: Abilities) -> Self {
        RemoteContainer {
            id,
            bridge,
            stream,
            filesystem: can.filesystem,
            secret_env: can.secret_env,
            signals: can.signals,
            released: AtomicBool::new(false),
        }
    }

    fn mount_index(mount: usize) -> Result<i32, Error> {
        i32::try_from(mount).map_err(|_| Error::invalid(format!("there is no mount {mount}")))
    }
}

impl Drop for RemoteContainer {
    fn drop(&mut self) {
        if self.released.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (mut bridge, container_id) = (self.bridge.clone(), self.id.clone());
        runtime.spawn(async move {
            let call = wire::ReleaseContainerRequest { container_id };
            // Nobody is left to care.
            let _ = bridge.release_container(call).await;
        });
    }
}

#[async_trait]
impl Container for RemoteContainer {
    async fn start(&self, request: ProcessRequest) -> Result<Box<dyn Process>, Error> {
        if !request.secret_env.is_empty() {
            self.secret_env.clone()?;
        }
        let id = format!("{}:{}", self.id, self.stream.next_id());
        let (route, events) = mpsc::unbounded_channel();
        let (outgoing, routes) = loop {
            let (outgoing, routes) = self.stream.stream().await;
            if let Some(known) = locked(&routes).as_mut() {
                known.insert(id.clone(), route);
            } else {
                // An error has just ended it.
                continue;
            }
            break (outgoing, routes);
        };
        let process = RemoteProcess {
            input_open: AtomicBool::new(request.fds.contains(&0)),
            id,
            outgoing,
            routes,
            events: tokio::sync::Mutex::new(events),
            signals: self.signals.clone(),
        };
        let init = process_to_wire(self.id.clone(), request);
        // A stream that ends now tells each of its processes why.
        let _ = process.send(Input::Init(init)).await;
        Ok(Box::new(process))
    }

    async fn read_file(
        &self,
        mount: usize,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        self.filesystem.clone()?;
        let call = wire::ReadFileRequest {
            r#ref: self.id.clone(),
            file_path: path.to_owned(),
            range: range.map(files::range_to_wire),
            mount_index: Self::mount_index(mount)?,
        };
        let answer = self.bridge.clone().read_file_container(call).await;
        Ok(crate::answer::open(answer)?.data)
    }

    async fn read_dir(
        &self,
        mount: usize,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        self.filesystem.clone()?;
        let call = wire::ReadDirRequest {
            r#ref: self.id.clone(),
            dir_path: path.to_owned(),
            include_pattern: include.unwrap_or_default().to_owned(),
            mount_index: Self::mount_index(mount)?,
        };
        let answer = self.bridge.clone().read_dir_container(call).await;
        let entries = crate::answer::open(answer)?.entries;
        Ok(entries.into_iter().map(files::stat_from_wire).collect())
    }

    async fn stat_file(&self, mount: usize, path: &str) -> Result<Stat, Error> {
        self.filesystem.clone()?;
        let call = wire::StatFileRequest {
            r#ref: self.id.clone(),
            path: path.to_owned(),
            mount_index: Self::mount_index(mount)?,
        };
        let answer = self.bridge.clone().stat_file_container(call).await;
        let stat = crate::answer::open(answer)?.stat;
        Ok(files::stat_from_wire(stat.unwrap_or_default()))
    }

    async fn release(&self) -> Result<(), Error> {
        if self.released.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let call = wire::ReleaseContainerRequest {
            container_id: self.id.clone(),
        };
        let answer = self.bridge.clone().release_container(call).await;
        crate::answer::open(answer).map(drop)
    }
}

struct RemoteProcess {
    id: String,
    outgoing: mpsc::Sender<ExecMessage>,
    routes: Routes,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Result<Input, Error>>>,
    input_open: AtomicBool,
    signals: Result<(), Error>,
}

impl RemoteProcess {
    async fn send(&self, input: Input) -> Result<(), Error> {
        let message = ExecMessage {
            process_id: self.id.clone(),
            input: Some(input),
        };
        self.outgoing.send(message).await.map_err(|_| closed())
    }

    async fn end_input(&self) -> Result<(), Error> {
        let end = wire::FdMessage {
            fd: 0,
            eof: true,
            data: Vec::new(),
        };
        self.send(Input::File(end)).await
    }
}

impl Drop for RemoteProcess {
    fn drop(&mut self) {
        if let Some(routes) = locked(&self.routes).as_mut() {
            routes.remove(&self.id);
        }
    }
}

/// The error of a process, with its code where the host knows it.
fn exit(message: wire::ExitMessage) -> Option<Error> {
    if message.code == 0 {
        return None;
    }
    let text = || Error::unknown(format!("exit code: {}", message.code));
    let error = message.error.map_or_else(text, from_rpc);
    Some(match error.exit_code() {
        None if message.code != UNKNOWN_EXIT => error.with(Detail::Exit { code: message.code }),
        _ => error,
    })
}

#[async_trait]
impl Process for RemoteProcess {
    async fn next_event(&self) -> Option<Result<ProcessEvent, Error>> {
        let mut events = self.events.lock().await;
        loop {
            let event = match events.recv().await? {
                Err(error) => {
                    events.close();
                    return Some(Err(error));
                }
                Ok(Input::Started(_)) => ProcessEvent::Started,
                Ok(Input::File(file)) if file.eof => ProcessEvent::OutputEnd { fd: file.fd },
                Ok(Input::File(file)) => ProcessEvent::Output {
                    fd: file.fd,
                    data: file.data,
                },
                Ok(Input::Exit(message)) => {
                    // The host waits for it before it says that all is done.
                    if self.input_open.swap(false, Ordering::Relaxed) {
                        let end = ExecMessage {
                            process_id: self.id.clone(),
                            input: Some(Input::File(wire::FdMessage {
                                fd: 0,
                                eof: true,
                                data: Vec::new(),
                            })),
                        };
                        let outgoing = self.outgoing.clone();
                        // Not awaited here: a dropped future must not lose the event.
                        tokio::spawn(async move { outgoing.send(end).await });
                    }
                    ProcessEvent::Exit(exit(message))
                }
                Ok(Input::Done(_)) => {
                    events.close();
                    return None;
                }
                // Only we send these.
                Ok(Input::Init(_) | Input::Resize(_) | Input::Signal(_)) => continue,
            };
            return Some(Ok(event));
        }
    }

    async fn write(&self, data: &[u8]) -> Result<(), Error> {
        if !self.input_open.load(Ordering::Relaxed) {
            return Err(no_input());
        }
        let file = wire::FdMessage {
            fd: 0,
            eof: false,
            data: data.to_vec(),
        };
        self.send(Input::File(file)).await
    }

    async fn close_input(&self) -> Result<(), Error> {
        match self.input_open.swap(false, Ordering::Relaxed) {
            true => self.end_input().await,
            false => Err(no_input()),
        }
    }

    async fn resize(&self, rows: u32, columns: u32) -> Result<(), Error> {
        let size = wire::ResizeMessage {
            rows,
            cols: columns,
        };
        self.send(Input::Resize(size)).await
    }

    async fn signal(&self, name: &str) -> Result<(), Error> {
        self.signals.clone()?;
        let name = name.to_owned();
        self.send(Input::Signal(wire::SignalMessage { name })).await
    }
}

fn no_input() -> Error {
    Error::new(Code::OutOfRange, "fd 0 unavailable to write")
}
