//! Writes to a frontend's stdin. A frontend that has ended closed it, while its last words may
//! still lie unread in the other pipe: those count, so a closed stdin is no failure here. The end
//! of the connection is the end of what we read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::activity::Activity;

pub struct FrontendWriter<W> {
    inner: W,
    closed: bool,
    activity: Arc<Activity>,
}

impl<W> FrontendWriter<W> {
    pub fn new(inner: W, activity: Arc<Activity>) -> Self {
        FrontendWriter {
            inner,
            closed: false,
            activity,
        }
    }

    fn forgive<T>(&mut self, done: Poll<io::Result<T>>, instead: T) -> Poll<io::Result<T>> {
        match done {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Poll::Ready(Ok(instead))
            }
            done => done,
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for FrontendWriter<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Ok(bytes.len()));
        }
        let done = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if matches!(done, Poll::Ready(Ok(1..))) {
            self.activity.touch();
        }
        self.forgive(done, bytes.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        let done = Pin::new(&mut self.inner).poll_flush(cx);
        self.forgive(done, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        let done = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.forgive(done, ())
    }
}
