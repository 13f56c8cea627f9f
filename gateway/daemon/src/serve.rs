//! Listeners, and what a connection is answered by.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use gateway_bridge::transport::{Http2Limits, Meter, routes, serve_http2, serve_http2_until};
use gateway_proto::limits::MAX_MESSAGE_BYTES;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tower::{Service, ServiceExt, service_fn};

use crate::connection::{Speech, listen_first};
use crate::content::ContentService;
use crate::control::ControlService;
use crate::docker;
use crate::handshakes::Handshakes;
use crate::peer::{Client, Credentials, Peer, groups, names};
use crate::proto::content::content_server::ContentServer;
use crate::proto::control::control_server::ControlServer;
use crate::proto::trace::trace_service_server::TraceServiceServer;
use crate::state::Daemon;
use crate::stopped;

/// Connections at once, of one listener.
const MAX_CONNECTIONS: usize = 4096;

/// A build has three streams that last as long as it does, and a client that makes hundreds (bake) does
/// so on one connection: with fewer its builds would wait for calls that wait for its builds. The
/// reference does not limit them at all. Each of their sessions may bring the list of a directory in
/// frames of 50 bytes, 1 MiB of it before it is read: dozens at once must not look like an attack.
const LIMITS: Http2Limits = Http2Limits {
    streams: 10_000,
    window: 256 << 20,
};

/// What the unfinished requests of one connection hold together, in bytes: some of the largest.
const MAX_UNFINISHED: usize = 128 << 20;

/// How long a client is told why it may not come in.
const REFUSAL: Duration = Duration::from_secs(10);

/// A refused `accept` (no descriptors left) is tried again after this.
const RETRY: Duration = Duration::from_millis(100);

/// A client proves itself within this time.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Where clients come from.
pub enum Listener {
    Unix(UnixListener),
    /// With certificates on both sides.
    Tls(TcpListener, TlsAcceptor),
    /// Anybody who reaches it may do everything. Only where that was asked for in so many words.
    OpenTcp(TcpListener),
}

/// How a listener ended: with the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served;

impl Daemon {
    /// Accepts connections until the daemon stops. Those open then go on until their builds are over.
    pub async fn serve(&self, listener: Listener) -> Served {
        let stopping = self.0.stopping.clone();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let handshakes = Handshakes::default();
        loop {
            // Who has still to prove itself holds no place: those that have would wait for it.
            let slot = match listener {
                Listener::Tls(..) => None,
                _ => match slots.clone().acquire_owned().await {
                    Ok(slot) => Some(slot),
                    Err(_) => return Served,
                },
            };
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                () = stopping.cancelled() => return Served,
            };
            let Ok(accepted) = accepted else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let daemon = self.clone();
            let (handshakes, slots) = (handshakes.clone(), slots.clone());
            tokio::spawn(async move {
                // How a client leaves is its own affair.
                let _ = daemon.accepted(accepted, &handshakes, slots).await;
                drop(slot);
            });
        }
    }

    /// Whoever it is.
    fn anyone(&self) -> Client {
        self.client(Peer::Anyone, &Credentials::default())
    }

    async fn accepted(
        &self,
        accepted: Accepted,
        handshakes: &Handshakes,
        slots: Arc<Semaphore>,
    ) -> io::Result<()> {
        match accepted {
            Accepted::Unix(stream, user, group) => {
                let mut credentials = Credentials {
                    groups: groups(stream.as_fd()),
                    ..Credentials::default()
                };
                credentials.groups.push(group);
                let client = self.client(Peer::User(user), &credentials);
                self.connection(stream, client).await
            }
            Accepted::Open(stream) => self.connection(stream, self.anyone()).await,
            Accepted::Tls(stream, address, acceptor) => {
                let handshake = handshakes.begin(address);
                let proven = async {
                    let shaken = acceptor.accept(stream).await?;
                    let slot = slots.acquire_owned().await.map_err(io::Error::other)?;
                    Ok::<_, io::Error>((shaken, slot))
                };
                let (shaken, _slot) = tokio::select! {
                    proven = tokio::time::timeout(HANDSHAKE, proven) => proven??,
                    () = handshake.given_up() => return Err(io::ErrorKind::ConnectionAborted.into()),
                };
                drop(handshake);
                let certificates = shaken.get_ref().1.peer_certificates();
                let certificate = certificates.and_then(|list| list.first());
                // The verifier does not let anybody in without.
                let certificate = certificate.ok_or(io::ErrorKind::PermissionDenied)?;
                let digest = Sha256::digest(certificate);
                let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                let credentials = Credentials {
                    names: names(certificate),
                    ..Credentials::default()
                };
                let client = self.client(Peer::Certificate(digest), &credentials);
                self.connection(shaken, client).await
            }
        }
    }

    /// One connection until its end: gRPC, or HTTP as docker's clients begin with.
    ///
    /// # Errors
    /// When the client says nothing that can be understood.
    pub(crate) async fn connection<T>(&self, io: T, client: Client) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connected = match self.connected(&client.peer) {
            Ok(connected) => connected,
            Err(refusal) => return self.refuse(io, refusal).await,
        };
        let (speech, io) = tokio::select! {
            heard = listen_first(io) => heard?,
            // Who has said nothing has nothing to lose.
            () = self.0.stopping.cancelled() => return Ok(()),
        };
        match speech {
            Speech::Http2 => self.grpc(io, client).await,
            Speech::Http1 => docker::serve(self.clone(), client, io).await,
        }
        drop(connected);
        Ok(())
    }

    /// Tells a client why it may not come in, if it listens and not too many do.
    async fn refuse<T>(&self, io: T, refusal: String) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(_place) = self.0.refusals.try_acquire() else {
            return Ok(());
        };
        let told = async {
            let (speech, io) = listen_first(io).await?;
            let refused = service_fn(move |_| {
                let answer = tonic::Status::resource_exhausted(refusal.clone()).into_http::<Body>();
                async { Ok::<_, Infallible>(answer) }
            });
            if speech == Speech::Http2 {
                // Whether it listens is its own affair.
                let _ = serve_http2(io, refused, LIMITS).await;
            }
            Ok(())
        };
        tokio::time::timeout(REFUSAL, told).await?
    }

    /// One client over a pair of pipes, e.g. standard input and output.
    ///
    /// # Errors
    /// When the client says nothing that can be understood.
    pub async fn serve_one<T>(&self, io: T) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.connection(io, self.anyone()).await
    }

    pub(crate) async fn grpc<T>(&self, io: T, client: Client)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Builds were cancelled: their clients hear of it before the connection goes.
        let told = async {
            self.0.stopping.cancelled().await;
            self.quiet().await;
        };
        let gone = async {
            self.0.stopping.cancelled().await;
            tokio::time::sleep(GOODBYE).await;
        };
        tokio::select! {
            // How a client leaves is its own affair.
            _ = serve_http2_until(io, self.services(client), LIMITS, told) => {}
            () = gone => {}
        }
    }

    /// Ends when nothing is built any more, and a moment after.
    async fn quiet(&self) {
        let mut jobs = self.0.jobs.count();
        while *jobs.borrow_and_update() > 0 {
            if jobs.changed().await.is_err() {
                return;
            }
        }
        tokio::time::sleep(RETRY).await;
    }

    fn services(
        &self,
        client: Client,
    ) -> impl Service<
        http::Request<hyper::body::Incoming>,
        Response = http::Response<Body>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + use<>
    + 'static {
        let bridge = routes(self.builds(&client.peer), &self.0.options.limits);
        let control = ControlServer::new(ControlService {
            daemon: self.clone(),
            client,
        })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let content = ContentServer::new(ContentService(self.clone()));
        let traces = TraceServiceServer::new(self.0.traces.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let meter = Meter::new(MAX_UNFINISHED);
        let jobs = self.0.jobs.clone();
        service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (control, content) = (control.clone(), content.clone());
            let (traces, bridge, meter) = (traces.clone(), bridge.clone(), meter.clone());
            let jobs = jobs.clone();
            async move {
                let path = request.uri().path();
                // What a session sends is used up as it comes.
                let measured = |request: http::Request<hyper::body::Incoming>| {
                    let streams = request.uri().path().ends_with("/Session");
                    request.map(|body| match streams {
                        true => Meter::pass(body),
                        false => meter.measure(body),
                    })
                };
                if path.starts_with("/moby.buildkit.v1.Control/") {
                    return control.oneshot(measured(request)).await;
                }
                if path.starts_with("/containerd.services.content.v1.Content/") {
                    return content.oneshot(measured(request)).await;
                }
                if path.starts_with("/opentelemetry.proto.collector.trace.v1.TraceService/") {
                    return traces.oneshot(measured(request)).await;
                }
                // LLBBridge, health, and the answer to what is neither.
                let answer = bridge.oneshot(request).await;
                match jobs.is_stopped() {
                    true => answer.map(stopped::tell),
                    false => answer,
                }
            }
        })
    }
}

/// How long the clients of cancelled builds are given.
pub(crate) const GOODBYE: Duration = Duration::from_secs(10);

enum Accepted {
    /// User and group of who connected.
    Unix(tokio::net::UnixStream, u32, u32),
    Tls(tokio::net::TcpStream, IpAddr, TlsAcceptor),
    Open(tokio::net::TcpStream),
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            let who = stream.peer_cred()?;
            Ok(Accepted::Unix(stream, who.uid(), who.gid()))
        }
        Listener::Tls(listener, acceptor) => {
            let (stream, from) = listener.accept().await?;
            far(&stream)?;
            Ok(Accepted::Tls(stream, from.ip(), acceptor.clone()))
        }
        Listener::OpenTcp(listener) => {
            let (stream, _) = listener.accept().await?;
            far(&stream)?;
            Ok(Accepted::Open(stream))
        }
    }
}

/// Between the last word of a machine and the first question whether it is still there.
const QUIET: Duration = Duration::from_secs(30);
/// Between questions, and how many may stay without an answer.
const ASK_AGAIN: Duration = Duration::from_secs(10);
const UNANSWERED: u32 = 3;

/// A machine that was switched off says no goodbye: the kernel asks whether it is there. It answers for
/// clients that are stopped or busy, so those are left alone.
fn far(stream: &tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, QUIET)?;
    rustix::net::sockopt::set_tcp_keepintvl(stream, ASK_AGAIN)?;
    rustix::net::sockopt::set_tcp_keepcnt(stream, UNANSWERED)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;

    use super::*;

    #[tokio::test]
    async fn p24_machines_that_say_nothing_are_asked_whether_they_are_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _client = tokio::net::TcpStream::connect(address).await.unwrap();
        let accepted = accept(&Listener::OpenTcp(listener)).await.unwrap();
        let Accepted::Open(stream) = accepted else {
            panic!("not as it was accepted");
        };
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let (quiet, again) = (
            sockopt::tcp_keepidle(&stream).unwrap(),
            sockopt::tcp_keepintvl(&stream).unwrap(),
        );
        let asked = sockopt::tcp_keepcnt(&stream).unwrap();
        assert_eq!(quiet + again * asked, Duration::from_secs(60));
    }
}
