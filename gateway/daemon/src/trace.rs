//! The spans that clients send at their end: on to a collector, where there is one. A client never waits
//! for that: its answer comes at once, and what the collector does not take is lost.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use gateway_images::registry::{KeyPair, SystemTrust, client_config};
use http::{HeaderName, HeaderValue, Request as HttpRequest, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tonic::{Request, Response, Status};

use crate::proto::trace::trace_service_server::TraceService;
use crate::proto::trace::{ExportTraceServiceRequest, ExportTraceServiceResponse};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Bytes of spans that wait for a collector; more are dropped.
const WAITING: usize = 32 << 20;
/// How long one delivery may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a collector is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CollectorProtocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protobuf in the body of `POST` to this path.
    Http { path: String },
}

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// `HOST:PORT`.
    pub authority: String,
    /// `None`: without, on this machine or in a network that is trusted.
    pub tls: Option<CollectorTls>,
    pub protocol: CollectorProtocol,
    /// Sent with every delivery, e.g. a key.
    pub headers: Vec<(String, String)>,
}

/// Whom we trust to be the collector, and who we are. The files are read for each delivery: certificates are
/// renewed while a daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorTls {
    /// A PEM file, instead of the system's certificates.
    pub ca: Option<PathBuf>,
    pub system: SystemTrust,
    pub keypair: Option<KeyPair>,
}

/// The service, and what it hands on to.
#[derive(Clone)]
pub struct Traces(Option<Arc<Forward>>);

struct Forward {
    collector: Collector,
    /// Bytes that may still wait.
    room: Arc<Semaphore>,
}

impl Traces {
    pub fn new(collector: Option<Collector>) -> Traces {
        Traces(collector.map(|collector| {
            Arc::new(Forward {
                collector,
                room: Arc::new(Semaphore::new(WAITING)),
            })
        }))
    }
}

#[tonic::async_trait]
impl TraceService for Traces {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if let Some(forward) = self.0.clone() {
            let spans = Bytes::from(request.into_inner().encode_to_vec());
            let size = u32::try_from(spans.len()).unwrap_or(u32::MAX);
            if let Ok(place) = forward.room.clone().try_acquire_many_owned(size) {
                tokio::spawn(async move {
                    let delivered = forward.collector.deliver(spans);
                    // A build is not worse for it.
                    let _ = tokio::time::timeout(PATIENCE, delivered).await;
                    drop(place);
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse {}))
    }
}

impl Collector {
    /// Whether it can be spoken to at all.
    ///
    /// # Errors
    /// In words, when files for TLS cannot be used.
    pub fn check(&self) -> Result<(), String> {
        self.connector().map(drop)
    }

    fn connector(&self) -> Result<Option<TlsConnector>, String> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let protocol: &[u8] = match &self.protocol {
            CollectorProtocol::Grpc => b"h2",
            CollectorProtocol::Http { .. } => b"http/1.1",
        };
        let config = client_config(
            tls.ca.clone(),
            &tls.system,
            tls.keypair.clone(),
            &[protocol],
        )?;
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }

    /// # Errors
    /// When it is not there or does not answer as one.
    async fn deliver(&self, spans: Bytes) -> io::Result<()> {
        let stream = TcpStream::connect(&self.authority).await?;
        match self.connector().map_err(io::Error::other)? {
            None => self.deliver_over(stream, spans).await,
            Some(connector) => {
                let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
                let host = host
                    .trim_start_matches('[')
                    .trim_end_matches(']')
                    .to_owned();
                let name = ServerName::try_from(host).map_err(io::Error::other)?;
                let stream = connector.connect(name, stream).await?;
                self.deliver_over(stream, spans).await
            }
        }
    }

    async fn deliver_over<T>(&self, stream: T, spans: Bytes) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let failed = |error: hyper::Error| io::Error::other(error);
        let status = match &self.protocol {
            CollectorProtocol::Grpc => {
                let mut framed = BytesMut::with_capacity(spans.len() + 5);
                framed.put_u8(0);
                framed.put_u32(u32::try_from(spans.len()).map_err(io::Error::other)?);
                framed.put(spans);
                let mut request = self.request(EXPORT, framed.freeze(), "application/grpc")?;
                let trailers = HeaderValue::from_static("trailers");
                request.headers_mut().insert(header::TE, trailers);
                let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
                let (mut sender, connection) = handshake.await.map_err(failed)?;
                let connection = tokio::spawn(connection);
                let answer = sender.send_request(request).await.map_err(failed)?;
                let status = answer.status();
                answer.into_body().collect().await.map_err(failed)?;
                connection.abort();
                status
            }
            CollectorProtocol::Http { path } => {
                let request = self.request(path, spans, "application/x-protobuf")?;
                let handshake = hyper::client::conn::http1::handshake(io);
                let (mut sender, connection) = handshake.await.map_err(failed)?;
                let connection = tokio::spawn(connection);
                let answer = sender.send_request(request).await.map_err(failed)?;
                connection.abort();
                answer.status()
            }
        };
        match status.is_success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("the collector says {status}"))),
        }
    }

    fn request(
        &self,
        path: &str,
        body: Bytes,
        kind: &'static str,
    ) -> io::Result<HttpRequest<Full<Bytes>>> {
        let uri = match self.protocol {
            CollectorProtocol::Grpc => {
                let scheme = if self.tls.is_some() { "https" } else { "http" };
                format!("{scheme}://{}{path}", self.authority)
            }
            CollectorProtocol::Http { .. } => path.to_owned(),
        };
        let mut request = HttpRequest::post(uri)
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let headers = request.headers_mut();
        if matches!(self.protocol, CollectorProtocol::Http { .. }) {
            let host = HeaderValue::from_str(&self.authority).map_err(io::Error::other)?;
            headers.insert(header::HOST, host);
        }
        for (name, value) in &self.headers {
            let name = HeaderName::try_from(name).map_err(io::Error::other)?;
            let value = HeaderValue::try_from(value).map_err(io::Error::other)?;
            headers.append(name, value);
        }
        Ok(request)
    }
}
