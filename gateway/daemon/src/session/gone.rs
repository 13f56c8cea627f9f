//! Why a call to a client came to nothing: what the client did to this call, or the end of its connection. Where
//! the connection ends, its calls fail a moment before anybody else hears of it, with words about HTTP/2.

use std::error::Error;

use tonic::Status;

/// What users read of a client that is not there any more.
pub const GONE: &str = "the client closed its session";

/// A failure of HTTP/2 as gRPC tells it.
pub fn status_of(error: hyper::Error) -> Status {
    // The client gave up this call, and said with what number; it goes on otherwise.
    if reset(&error) {
        return Status::from_error(Box::new(error));
    }
    let mut reason: &dyn Error = &error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    Status::unavailable(format!("{GONE} ({reason})"))
}

fn reset(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_reset();
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::io::DuplexStream;
    use tokio::task::JoinHandle;
    use tonic::Code;
    use tonic::metadata::MetadataMap;

    use super::super::channel::{Answers, Channel, connect};
    use super::*;
    use crate::proto::session::Packet;

    const PATH: &str = "/moby.filesync.v1.FileSync/DiffCopy";

    /// A client that answers with one message, and then breaks this call off or says nothing any more.
    async fn client(io: DuplexStream, breaks_off: bool) {
        let service = hyper::service::service_fn(move |_| async move {
            let message = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 2]);
            let message = stream::iter([Ok::<_, std::fmt::Error>(Frame::data(message))]);
            let rest = match breaks_off {
                true => stream::iter([Err(std::fmt::Error)]).boxed(),
                false => stream::pending().boxed(),
            };
            let mut response = http::Response::new(StreamBody::new(message.chain(rest)));
            let kind = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", kind);
            Ok::<_, std::convert::Infallible>(response)
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(io), service)
            .await;
    }

    struct Call {
        theirs: JoinHandle<()>,
        ours: JoinHandle<()>,
        channel: Channel,
        answers: Answers<Packet>,
    }

    /// A call that is answered.
    async fn begun(breaks_off: bool) -> Result<Call, Status> {
        let (io, their_io) = tokio::io::duplex(1 << 16);
        let theirs = tokio::spawn(client(their_io, breaks_off));
        let (channel, connection) = connect(io).await.unwrap();
        let ours = tokio::spawn(async move {
            let _ = connection.await;
        });
        let nothing = tokio_stream::pending::<Packet>();
        let answers = channel.streams::<Packet, Packet>(PATH, MetadataMap::new(), nothing);
        Ok(Call {
            answers: answers.await?,
            theirs,
            ours,
            channel,
        })
    }

    fn is_gone(status: &Status) -> bool {
        status.code() == Code::Unavailable && status.message().starts_with(GONE)
    }

    #[tokio::test]
    async fn p47_a_connection_that_ends_is_told_as_its_end_on_either_side() {
        for given_up in [false, true] {
            let mut call = begun(false).await.unwrap();
            assert!(call.answers.message().await.unwrap().is_some());
            match given_up {
                true => call.ours.abort(),
                false => call.theirs.abort(),
            }
            let status = call.answers.message().await.unwrap_err();
            assert!(is_gone(&status), "{given_up}: {status:?}");
            let _ = call.ours.await;
            let nothing = tokio_stream::pending::<Packet>();
            let next = call
                .channel
                .streams::<Packet, Packet>(PATH, MetadataMap::new(), nothing);
            let status = next.await.err().unwrap();
            assert!(is_gone(&status), "{given_up}: {status:?}");
        }
    }

    #[tokio::test]
    async fn p47_a_call_that_is_broken_off_is_no_end_of_its_session() {
        // What was answered before is overtaken.
        let status = match begun(true).await {
            Err(status) => status,
            Ok(mut call) => loop {
                if let Err(status) = call.answers.message().await {
                    break status;
                }
            },
        };
        assert!(!is_gone(&status), "{status:?}");
    }
}
