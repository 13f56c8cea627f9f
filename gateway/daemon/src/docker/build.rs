//! `POST /build?version=2`: the build of docker's clients before they had buildx.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use prost::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::query::{Query, UPLOAD, UPLOADED_BEFORE};
use super::upload::{self, Context};
use super::{Answer, json, messages, problem};
use crate::control::{Terms, solve};
use crate::peer::{Client, Peer};
use crate::proto::control::StatusResponse;
use crate::session::Encoding;
use crate::state::Daemon;

/// How the id of a request begins that only brings a context: the build's id follows.
const UPLOAD_OF: &str = "upload-request:";

/// Messages that wait for the client.
const WAITING: usize = 16;

/// The build is over when its client is gone.
pub async fn build(daemon: Daemon, client: Client, request: Request<Incoming>) -> Answer {
    let Client { peer, granted } = client;
    let query = Query::of(request.uri());
    if let Some(id) = query.get("buildid").strip_prefix(UPLOAD_OF) {
        return upload::send(&daemon, &peer, id, request).await;
    }
    let mut wanted = match query.request() {
        Ok(wanted) => wanted,
        Err(message) => return problem(StatusCode::BAD_REQUEST, &message),
    };
    wanted.r#ref = match query.get("buildid") {
        "" => new_ref(),
        // Of the client's own choice: what is not letters and digits is no loss.
        id => id.chars().filter(char::is_ascii_alphanumeric).collect(),
    };
    let context = match query.get("remote") {
        "" => Some(Context::Body(request.into_body())),
        UPLOADED_BEFORE => Some(Context::Upload(query.get("buildid").to_owned())),
        _ => None,
    };
    let name = wanted.r#ref.clone();
    let quiet = query.get("q") == "1";
    let (send, sent) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let state = daemon.0.clone();
        let mut uploads = HashMap::new();
        let held = match context {
            None => None,
            Some(context) => match upload::receive(&daemon, &peer, context).await {
                Ok(file) => {
                    uploads.insert(UPLOAD.to_owned(), file.path().to_owned());
                    Some(file)
                }
                Err(message) => {
                    let _ = send.send(failure(&message)).await;
                    return;
                }
            },
        };
        let known = state.history.get(&name).is_some();
        let over = CancellationToken::new();
        let shown = async {
            let log = tokio::select! {
                running = state.jobs.find(&name) => running.map(|running| running.log.clone()),
                // It was refused, or over before it was seen.
                () = over.cancelled() => state.history.replay(&name).filter(|_| !known),
            };
            let Some(log) = log else {
                return;
            };
            let mut reader = log.reader();
            while let Some(status) = reader.next().await {
                // A quiet client shows whatever comes but the image's id.
                if !quiet && send.send(trace(&status)).await.is_err() {
                    return;
                }
            }
        };
        let terms = Terms {
            granted,
            encoding: Encoding::Raw,
            uploads,
            trace: None,
        };
        let built = async {
            let built = solve(daemon.clone(), peer, terms, wanted).await;
            over.cancel();
            built
        };
        let gone = send.closed();
        let built = tokio::select! {
            // What was said comes before how it ended.
            (built, ()) = async { tokio::join!(built, shown) } => built,
            () = gone => return,
        };
        drop(held);
        daemon.collect();
        let last = match built {
            Ok(response) => {
                let id = response
                    .get("containerimage.config.digest")
                    .or_else(|| response.get("containerimage.digest"));
                match id {
                    Some(id) if quiet => serde_json::json!({"stream": format!("{id}\n")}),
                    Some(id) => serde_json::json!({"id": "moby.image.id", "aux": {"ID": id}}),
                    None => return,
                }
            }
            Err(error) => failure(&error.message),
        };
        let _ = send.send(last).await;
    });
    messages(sent)
}

pub fn failure(message: &str) -> serde_json::Value {
    serde_json::json!({
        "errorDetail": {"code": 1, "message": message},
        "error": message,
    })
}

fn trace(status: &StatusResponse) -> serde_json::Value {
    serde_json::json!({
        "id": "moby.buildkit.trace",
        "aux": STANDARD.encode(status.encode_to_vec()),
    })
}

/// 25 letters and digits.
fn new_ref() -> String {
    let mut bytes = [0_u8; 25];
    // Weaker without random bytes, never wrong: it only has to differ from those of other builds.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        let now = time::OffsetDateTime::now_utc()
            .unix_timestamp_nanos()
            .to_le_bytes();
        for (byte, now) in bytes.iter_mut().zip(now) {
            *byte = now;
        }
    }
    bytes
        .iter()
        .filter_map(|byte| char::from_digit(u32::from(byte % 36), 36))
        .collect()
}

pub fn cancel(daemon: &Daemon, peer: &Peer, request: &Request<Incoming>) -> Answer {
    let query = Query::of(request.uri());
    let name: String = query
        .get("id")
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    daemon.0.jobs.cancel(peer, &name);
    super::text(StatusCode::NO_CONTENT, "text/plain", "")
}

/// `docker builder prune`.
pub async fn prune(daemon: &Daemon, request: &Request<Incoming>) -> Answer {
    let query = Query::of(request.uri());
    if !matches!(query.get("filters"), "" | "{}") {
        return problem(
            StatusCode::NOT_IMPLEMENTED,
            "filters of docker builder prune are not supported: use gateway prune or buildx prune",
        );
    }
    let options = gateway_solver::PruneOptions {
        all: query.get("all") == "1",
        reserved_space: query.get("keep-storage").parse().unwrap_or(0),
        ..gateway_solver::PruneOptions::default()
    };
    let solver = daemon.0.options.solver.clone();
    let pruned = tokio::task::spawn_blocking(move || {
        let (mut ids, mut space) = (Vec::new(), 0_u64);
        let done = solver.prune(&[options], |record| {
            ids.push(record.id.clone());
            space = space.saturating_add(record.size);
        });
        done.map(|()| (ids, space))
    });
    match pruned.await {
        Ok(Ok((ids, space))) => {
            json(&serde_json::json!({"CachesDeleted": ids, "SpaceReclaimed": space}))
        }
        Ok(Err(error)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal failure"),
    }
}
