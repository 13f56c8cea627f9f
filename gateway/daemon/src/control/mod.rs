//! The service `moby.buildkit.v1.Control`.

pub mod fuzzing;
mod history;
mod jobs;
mod late;
mod log;
mod outputs;
mod progress;
mod solve;
mod spans;
mod usage;

use std::pin::Pin;

use futures_util::StreamExt;
use gateway_api::{Code, Error};
use gateway_proto::error::to_status;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub use history::History;
pub use jobs::Jobs;
pub use solve::{Terms, solve};

use crate::connection::Pieces;
use crate::peer::Client;
use crate::proto::control::control_server::Control;
use crate::proto::control::*;
use crate::session::SessionInfo;
use crate::state::Daemon;

/// Tells clients our clock.
const NOW: &str = "buildkit-current-timestamp";

/// Messages of a stream that wait for the client.
const WAITING: usize = 8;

/// Bytes inside of a session that wait, each way.
const TUNNEL: usize = 1 << 20;
/// Bytes of one message of a session.
const PIECE: usize = 64 << 10;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service as one peer's connection sees it.
#[derive(Clone)]
pub struct ControlService {
    pub daemon: Daemon,
    pub client: Client,
}

fn dated<T>(answers: T) -> Response<T> {
    let mut response = Response::new(answers);
    let now = OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .unwrap_or_default();
    if let Ok(now) = now.parse() {
        response.metadata_mut().insert(NOW, now);
    }
    response
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse {
            buildkit_version: Some(self.daemon.version()),
        }))
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let worker = self.daemon.worker();
        let matches = usage::matches_worker(&request.get_ref().filter, &worker)
            .map_err(Status::invalid_argument)?;
        Ok(Response::new(ListWorkersResponse {
            record: matches.then_some(worker).into_iter().collect(),
        }))
    }

    async fn solve(
        &self,
        request: Request<SolveRequest>,
    ) -> Result<Response<SolveResponse>, Status> {
        let built = solve(
            self.daemon.clone(),
            self.client.peer.clone(),
            Terms::of_call(self.client.granted.clone(), request.metadata()),
            request.into_inner(),
        )
        .await;
        self.daemon.collect();
        match built {
            Ok(exporter_response) => Ok(Response::new(SolveResponse { exporter_response })),
            Err(error) => Err(to_status(&error)),
        }
    }

    type StatusStream = Answers<StatusResponse>;

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let name = request.into_inner().r#ref;
        let state = self.daemon.0.clone();
        let answers = async_stream(move |send| async move {
            let log = match state.history.replay(&name) {
                Some(log) => Some(log),
                None => state
                    .jobs
                    .find(&name)
                    .await
                    .map(|running| running.log.clone()),
            };
            let Some(log) = log else {
                let gone = Error::new(Code::NotFound, format!("no such job {name}"));
                let _ = send.send(Err(to_status(&gone))).await;
                return;
            };
            let mut reader = log.reader();
            while let Some(status) = reader.next().await {
                if send.send(Ok(status)).await.is_err() {
                    return;
                }
            }
        });
        Ok(dated(answers))
    }

    type SessionStream = Answers<BytesMessage>;

    async fn session(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let info = SessionInfo::of(&request.metadata().clone().into_headers())
            .map_err(|error| to_status(&error))?;
        if self.daemon.0.sessions.is_open(&self.client.peer, &info.id) {
            let text = format!("session {} already exists", info.id);
            return Err(Status::already_exists(text));
        }
        let pieces = request
            .into_inner()
            .map(|message| message.map(|message| bytes::Bytes::from(message.data)));
        let (ours, theirs) = tokio::io::duplex(TUNNEL);
        let (from_us, mut to_them) = (ours, theirs);
        let (state, peer) = (self.daemon.0.clone(), self.client.peer.clone());
        let answers = async_stream(
            move |send: mpsc::Sender<Result<BytesMessage, Status>>| async move {
                let (read, write) = tokio::io::split(from_us);
                drop(read);
                let io = tokio::io::join(Pieces::new(pieces), write);
                let stopping = state.stopping.child_token();
                let serve = state.sessions.serve(info, peer, io, stopping);
                let carry = async {
                    use tokio::io::AsyncReadExt;
                    let mut buffer = vec![0; PIECE];
                    loop {
                        let count = to_them.read(&mut buffer).await.unwrap_or(0);
                        let data = buffer.get(..count).unwrap_or_default().to_vec();
                        if data.is_empty() || send.send(Ok(BytesMessage { data })).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    served = serve => if let Err(error) = served {
                        let _ = send.send(Err(to_status(&error))).await;
                    },
                    () = carry => {}
                }
            },
        );
        Ok(Response::new(answers))
    }

    async fn disk_usage(
        &self,
        request: Request<DiskUsageRequest>,
    ) -> Result<Response<DiskUsageResponse>, Status> {
        let record = usage::disk_usage(&self.daemon, request.into_inner()).await;
        let record = record.map_err(|error| to_status(&error))?;
        Ok(Response::new(DiskUsageResponse { record }))
    }

    type PruneStream = Answers<UsageRecord>;

    async fn prune(
        &self,
        request: Request<PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let daemon = self.daemon.clone();
        let request = request.into_inner();
        Ok(Response::new(async_stream(move |send| async move {
            if let Err(error) = usage::prune(&daemon, request, &send).await {
                let _ = send.send(Err(to_status(&error))).await;
            }
        })))
    }

    type ListenBuildHistoryStream = Answers<BuildHistoryEvent>;

    async fn listen_build_history(
        &self,
        request: Request<BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        let request = request.into_inner();
        let filters =
            usage::HistoryFilters::parse(&request.filter).map_err(Status::invalid_argument)?;
        let history = self.daemon.0.history.clone();
        let stopping = self.daemon.0.stopping.clone();
        let answers = async_stream(move |send| async move {
            let mut events = history.listen();
            let wanted = |record: &BuildHistoryRecord| {
                (request.r#ref.is_empty() || record.r#ref == request.r#ref)
                    && filters.matches(record)
            };
            let mut known = history.list();
            known.retain(|record| wanted(record));
            known.retain(|record| record.completed_at.is_none() || !request.active_only);
            if let Ok(limit @ 1..) = usize::try_from(request.limit) {
                known.truncate(limit);
            }
            // Those that run come first.
            known.sort_by_key(|record| record.completed_at.is_some());
            for record in known {
                let kind = match record.completed_at {
                    Some(_) => BuildHistoryEventType::Complete,
                    None => BuildHistoryEventType::Started,
                };
                let event = BuildHistoryEvent {
                    r#type: kind as i32,
                    record: Some(BuildHistoryRecord::clone(&record)),
                };
                if send.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if request.early_exit {
                return;
            }
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = send.closed() => return,
                    () = stopping.cancelled() => return,
                };
                match event {
                    Ok(event) if event.record.as_ref().is_some_and(&wanted) => {
                        let done = event.r#type() != BuildHistoryEventType::Started;
                        if request.active_only && done && request.r#ref.is_empty() {
                            // Told as well: it is active no more.
                        }
                        if send.send(Ok(event)).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        Ok(dated(answers))
    }

    async fn update_build_history(
        &self,
        request: Request<UpdateBuildHistoryRequest>,
    ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
        let request = request.into_inner();
        let history = &self.daemon.0.history;
        let name = &request.r#ref;
        let missing = || Status::not_found(format!("no such build {name} in the history"));
        if history.get(name).is_none() {
            return Err(missing());
        }
        if request.delete {
            if !history.delete(name) {
                return Err(Status::failed_precondition(format!(
                    "build {name} runs: only finished builds can be deleted"
                )));
            }
        } else if !request.finalize && !history.pin(name, request.pinned) {
            return Err(missing());
        }
        Ok(Response::new(UpdateBuildHistoryResponse {}))
    }
}

/// Answers that a task makes; it is dropped with them.
fn async_stream<T, F>(make: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F) -> Answers<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (send, sent) = mpsc::channel(WAITING);
    let task = tokio::spawn(make(send)).abort_handle();
    Box::pin(Aborting {
        answers: ReceiverStream::new(sent),
        task,
    })
}

/// A stream whose maker ends with it.
struct Aborting<T> {
    answers: ReceiverStream<T>,
    task: tokio::task::AbortHandle,
}

impl<T> Stream for Aborting<T> {
    type Item = T;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        Pin::new(&mut self.answers).poll_next(cx)
    }
}

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
