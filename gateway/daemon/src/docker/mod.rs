//! The HTTP that docker's clients speak before they speak gRPC: a few questions, and connections that
//! become something else. `docker build` of 2018 to 2020 asks for its build here as well.

mod build;
pub mod fuzzing;
mod inspect;
mod load;
mod push;
mod query;
mod upload;

pub use upload::Uploads;

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::wrappers::ReceiverStream;
use tower::service_fn;

use crate::peer::Client;
use crate::serve::GOODBYE;
use crate::session::SessionInfo;
use crate::state::Daemon;

/// The version of docker's API that we answer in; clients come down to it.
const API_VERSION: &str = "1.41";
const LEAST_API_VERSION: &str = "1.24";

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;
type Answer = Response<Body>;

/// Serves one connection until its end.
pub async fn serve<T>(daemon: Daemon, client: Client, io: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stopping = daemon.0.stopping.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (daemon, client) = (daemon.clone(), client.clone());
        async move { Ok::<_, Infallible>(answer(daemon, client, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    // How a client leaves is its own affair.
    tokio::select! {
        _ = &mut connection => {}
        () = stopping.cancelled() => {
            // What is being answered is answered; most connections only wait for another question.
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(GOODBYE, connection).await;
        }
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    for (name, value) in [
        ("api-version", API_VERSION),
        ("ostype", "linux"),
        ("builder-version", "2"),
        ("docker-experimental", "false"),
        ("swarm", "inactive"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    answer
}

fn json(value: &serde_json::Value) -> Answer {
    text(StatusCode::OK, "application/json", value.to_string())
}

fn problem(status: StatusCode, message: &str) -> Answer {
    let body = serde_json::json!({ "message": message }).to_string();
    text(status, "application/json", body)
}

/// The path without the version that most clients put before it.
fn unversioned(path: &str) -> &str {
    let Some(rest) = path.strip_prefix("/v") else {
        return path;
    };
    match rest.find('/') {
        Some(at)
            if rest
                .as_bytes()
                .iter()
                .take(at)
                .all(|b| b.is_ascii_digit() || *b == b'.') =>
        {
            rest.get(at..).unwrap_or(path)
        }
        _ => path,
    }
}

/// The single image that a path is about, and what is asked of it: `/images/NAME/push`. Names have slashes.
fn image(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("/images/")?
        .rsplit_once('/')
        .filter(|(name, _)| !name.is_empty())
}

async fn answer(daemon: Daemon, client: Client, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    match (&method, image(unversioned(&path))) {
        (&Method::POST, Some((name, "push"))) => return push::push(daemon, name, &request),
        (&Method::GET, Some((name, "json"))) => return inspect::inspect(&daemon, name),
        _ => {}
    }
    match (method, unversioned(&path)) {
        (Method::GET | Method::HEAD, "/_ping") => text(StatusCode::OK, "text/plain", "OK"),
        (Method::GET, "/version") => json(&version(&daemon)),
        (Method::GET, "/info") => json(&info(&daemon)),
        (Method::POST, "/grpc") => upgrade(
            request,
            |_| Ok(()),
            move |(), io| async move {
                daemon.grpc(io, client).await;
            },
        ),
        (Method::POST, "/session") => {
            let stopping = daemon.0.stopping.clone();
            let sessions = daemon.0.sessions.clone();
            let peer = client.peer;
            let open = (sessions.clone(), peer.clone());
            upgrade(
                request,
                move |headers| {
                    let info = SessionInfo::of(headers).map_err(|error| error.message)?;
                    match open.0.is_open(&open.1, &info.id) {
                        true => Err(format!("session {} already exists", info.id)),
                        false => Ok(info),
                    }
                },
                move |info, io| async move {
                    // The client sees its connection end; there is nobody else to tell.
                    let _ = sessions.serve(info, peer, io, stopping.child_token()).await;
                },
            )
        }
        (Method::POST, "/build") => build::build(daemon, client, request).await,
        (Method::POST, "/build/cancel") => build::cancel(&daemon, &client.peer, &request),
        (Method::POST, "/build/prune") => build::prune(&daemon, &request).await,
        (Method::POST, "/images/load") => load::load(daemon, request).await,
        (method, path) => problem(
            StatusCode::NOT_FOUND,
            &format!(
                "{method} {path}: this daemon builds; it has no containers, volumes or networks to manage, and images are only taken (images/load) and pushed"
            ),
        ),
    }
}

fn version(daemon: &Daemon) -> serde_json::Value {
    let version = &daemon.0.options.version;
    serde_json::json!({
        "Platform": {"Name": "gateway"},
        "Components": [{"Name": "Engine", "Version": version, "Details": {
            "ApiVersion": API_VERSION, "MinAPIVersion": LEAST_API_VERSION, "Os": "linux", "Arch": arch(daemon),
        }}],
        "Version": version,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": LEAST_API_VERSION,
        "Os": "linux",
        "Arch": arch(daemon),
        "Experimental": false,
    })
}

fn arch(daemon: &Daemon) -> String {
    let platforms = &daemon.0.options.worker.platforms;
    platforms
        .first()
        .map_or_else(String::new, |platform| platform.architecture.clone())
}

fn info(daemon: &Daemon) -> serde_json::Value {
    serde_json::json!({
        "ID": daemon.0.options.worker.id,
        "Name": "gateway",
        "ServerVersion": daemon.0.options.version,
        "OSType": "linux",
        "Architecture": arch(daemon),
        "Driver": "overlayfs",
        // Clients take it that images of several platforms can be had from this.
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "Containers": 0,
        "Images": 0,
        "Swarm": {"LocalNodeState": "inactive"},
        "SecurityOptions": [],
        "RegistryConfig": {"IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": []},
        "Plugins": {"Volume": [], "Network": [], "Authorization": null, "Log": []},
    })
}

/// Answers 101 and goes on with the bytes behind it.
fn upgrade<I, F>(
    request: Request<Incoming>,
    check: impl FnOnce(&HeaderMap) -> Result<I, String>,
    then: impl FnOnce(I, TokioIo<hyper::upgrade::Upgraded>) -> F + Send + 'static,
) -> Answer
where
    I: Send + 'static,
    F: Future<Output = ()> + Send,
{
    let wanted = request.headers().get(header::UPGRADE);
    if wanted.is_none_or(|wanted| !wanted.as_bytes().eq_ignore_ascii_case(b"h2c")) {
        return problem(
            StatusCode::BAD_REQUEST,
            "the connection must be upgraded to h2c (headers Connection: Upgrade, Upgrade: h2c)",
        );
    }
    let checked = match check(request.headers()) {
        Ok(checked) => checked,
        Err(message) => return problem(StatusCode::BAD_REQUEST, &message),
    };
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            then(checked, TokioIo::new(upgraded)).await;
        }
    });
    let mut answer = Response::new(Full::default().boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONNECTION,
        header::HeaderValue::from_static("Upgrade"),
    );
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("h2c"));
    answer
}

/// An answer of JSON messages that come one by one.
fn messages(sent: tokio::sync::mpsc::Receiver<serde_json::Value>) -> Answer {
    let frames = ReceiverStream::new(sent).map(|message| {
        let mut line = message.to_string();
        line.push_str("\r\n");
        Ok::<_, Infallible>(Frame::data(Bytes::from(line)))
    });
    let mut answer = text(StatusCode::OK, "application/json", "");
    *answer.body_mut() = StreamBody::new(frames).boxed_unsync();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p57_paths_are_known_with_and_without_a_version() {
        assert_eq!(unversioned("/v1.41/build"), "/build");
        assert_eq!(unversioned("/_ping"), "/_ping");
        assert_eq!(unversioned("/version"), "/version");
        assert_eq!(unversioned("/v1.50/version"), "/version");
    }

    #[test]
    fn p57_paths_name_images_with_and_without_slashes() {
        assert_eq!(image("/images/app/push"), Some(("app", "push")));
        let deep = image("/images/h.example:5000/a/b:1/json");
        assert_eq!(deep, Some(("h.example:5000/a/b:1", "json")));
        for other in ["/images/json", "/images//json", "/images/load", "/push"] {
            assert_eq!(image(other), None, "{other}");
        }
    }
}
