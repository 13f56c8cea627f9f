//! Connections: what a new one speaks, and byte streams inside of other streams.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What every HTTP/2 connection begins with; no HTTP/1 request does.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";

/// A client that connects says something within this time; buildctl and docker do at once.
const FIRST_WORD: Duration = Duration::from_secs(30);

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    Http1,
    Http2,
}

/// Looks at the first bytes of a connection; they are read again by whoever reads next.
///
/// # Errors
/// When the client says nothing, or leaves.
pub async fn listen_first<T: AsyncRead + Unpin>(mut io: T) -> io::Result<(Speech, Replay<T>)> {
    let mut first = Vec::new();
    let read = async {
        while first.len() < HTTP2.len() && HTTP2.starts_with(&first) {
            let mut some = [0; HTTP2.len()];
            let room = some.get_mut(first.len()..).unwrap_or_default();
            let count = io.read(room).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let start = first.len();
            first.extend(some.iter().skip(start).take(count));
        }
        Ok(())
    };
    tokio::time::timeout(FIRST_WORD, read)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let speech = match first == HTTP2 {
        true => Speech::Http2,
        false => Speech::Http1,
    };
    let first = Bytes::from(first);
    Ok((speech, Replay { first, io }))
}

/// A connection some of whose first bytes were taken off already.
pub struct Replay<T> {
    first: Bytes,
    io: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Replay<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Replay<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Bytes that arrive in pieces, as something to read. Where one piece ends and the next begins means
/// nothing.
pub struct Pieces<S> {
    stream: S,
    current: Bytes,
}

impl<S> Pieces<S> {
    pub fn new(stream: S) -> Self {
        Pieces {
            stream,
            current: Bytes::new(),
        }
    }
}

impl<S, E> AsyncRead for Pieces<S>
where
    S: futures_util::Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match Pin::new(&mut self.stream).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(io::Error::other(error.to_string())));
                }
                Poll::Ready(Some(Ok(piece))) => self.current = piece,
            }
        }
        let count = self.current.len().min(buffer.remaining());
        if let Some(bytes) = self.current.get(..count) {
            buffer.put_slice(bytes);
        }
        self.current.advance(count);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn p01_http2_is_told_from_http1_in_any_slices_and_no_byte_is_lost() {
        for (words, speech) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest"[..], Speech::Http2),
            (b"POST /build HTTP/1.1\r\n\r\n", Speech::Http1),
            (b"PRINT", Speech::Http1),
        ] {
            for slice in [1, 7, 100] {
                let pieces = words
                    .chunks(slice)
                    .map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece)));
                let pieces = futures_util::stream::iter(pieces.collect::<Vec<_>>());
                let (heard, mut io) = listen_first(Pieces::new(pieces)).await.unwrap();
                assert_eq!(heard, speech);
                let mut all = Vec::new();
                io.read_to_end(&mut all).await.unwrap();
                assert_eq!(all, words);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_not_waited_for_for_ever() {
        let (_client, server) = tokio::io::duplex(64);
        let error = listen_first(server).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
