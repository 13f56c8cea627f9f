//! Bounds what the requests of one connection hold in memory together: each may be as large as a
//! message, and a frontend may leave many of them unfinished.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::Status;

/// What all bodies of a connection hold.
#[derive(Debug, Clone)]
pub struct Meter {
    held: Arc<AtomicUsize>,
    limit: usize,
}

impl Meter {
    /// `limit` in bytes.
    pub fn new(limit: usize) -> Self {
        Meter {
            held: Arc::default(),
            limit,
        }
    }

    /// A body that counts until it is dropped.
    pub fn measure(&self, body: Incoming) -> Metered {
        Metered {
            body,
            meter: Some(self.clone()),
            held: 0,
        }
    }

    /// A body whose messages are used up while it goes on.
    pub fn pass(body: Incoming) -> Metered {
        Metered {
            body,
            meter: None,
            held: 0,
        }
    }

    fn add(&self, bytes: usize) -> Result<(), Status> {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.limit {
            return Ok(());
        }
        let limit = self.limit;
        Err(Status::resource_exhausted(format!(
            "unfinished requests hold more than {limit} bytes"
        )))
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The body of a request.
#[derive(Debug)]
pub struct Metered {
    body: Incoming,
    meter: Option<Meter>,
    held: usize,
}

impl Body for Metered {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let Poll::Ready(Some(Ok(frame))) = &polled else {
            return polled.map_err(Into::into);
        };
        let bytes = frame.data_ref().map_or(0, Buf::remaining);
        self.held += bytes;
        if let Some(Err(status)) = self.meter.as_ref().map(|meter| meter.add(bytes)) {
            return Poll::Ready(Some(Err(status.into())));
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            meter.give_back(self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_held_again() {
        let meter = Meter::new(100);
        assert!(meter.add(100).is_ok());
        let refused = meter.add(1).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        meter.give_back(101);
        assert!(meter.add(1).is_ok());
    }
}
