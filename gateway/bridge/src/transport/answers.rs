//! Bounds what answers hold in memory that a frontend asked for and does not read: each may be as
//! large as a message. An answer counts from before it is made until its last byte has left.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use gateway_api::{Code, Error};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;

/// How long a request waits for older answers to be read. A frontend that reads at all reads them
/// at once.
const WAIT: Duration = Duration::from_secs(60);

/// What is counted in: semaphores count to less than memory has bytes.
const UNIT: usize = 1024;

/// What all answers of a connection may hold. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Answers {
    room: Arc<Semaphore>,
    limit: usize,
    message: usize,
}

/// Room for one answer; free again when the answer is gone.
#[derive(Debug, Clone)]
pub struct Room {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Answers {
    /// `limit` for all, `message` for one, in bytes.
    pub fn new(limit: usize, message: usize) -> Self {
        // One answer must always fit.
        let limit = limit.max(message);
        Answers {
            room: Arc::new(Semaphore::new(limit.div_ceil(UNIT))),
            limit,
            message,
        }
    }

    /// Room for an answer of any size that may be sent.
    pub async fn reserve(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.take(self.message).await
    }

    /// Room for an answer of this size, out of what was reserved for it.
    pub async fn room(
        &self,
        reserved: Option<OwnedSemaphorePermit>,
        bytes: usize,
    ) -> Result<Room, Error> {
        let units = bytes.div_ceil(UNIT);
        let permit = match reserved {
            None => self.take(bytes).await?,
            Some(mut permit) => {
                let excess = permit.num_permits().saturating_sub(units);
                drop(permit.split(excess));
                permit
            }
        };
        Ok(Room {
            _permit: Arc::new(permit),
        })
    }

    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let permit = self.room.clone().acquire_many_owned(units);
        match tokio::time::timeout(WAIT, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::new(
                Code::ResourceExhausted,
                format!(
                    "answers of {} bytes wait for the frontend to read them",
                    self.limit
                ),
            )),
        }
    }
}

/// The body of an answer, its bytes counted until they are gone.
pub fn counted(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove::<Room>() {
        None => response,
        Some(room) => response.map(|body| Body::new(Counted { body, room })),
    }
}

struct Counted {
    body: Body,
    room: Room,
}

/// Bytes on their way; HTTP/2 holds them until the frontend takes them.
struct OnTheWay {
    bytes: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for OnTheWay {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map_ok(|frame| {
            frame.map_data(|mut data| {
                Bytes::from_owner(OnTheWay {
                    bytes: data.copy_to_bytes(data.remaining()),
                    _room: self.room.clone(),
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_room_and_gives_up_with_a_reason() {
        let answers = Answers::new(10 * UNIT, 6 * UNIT);
        let reserved = answers.reserve().await.unwrap();
        let first = answers.room(Some(reserved), 3 * UNIT).await.unwrap();
        let second = answers.room(None, 7 * UNIT).await.unwrap();
        let refused = answers.reserve().await.unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert!(refused.message.contains("10240 bytes"), "{refused}");
        drop((first, second));
        assert!(answers.reserve().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_kept_while_bytes_are_on_their_way() {
        use http_body_util::BodyExt;
        let answers = Answers::new(UNIT, UNIT);
        let room = answers.room(None, UNIT).await.unwrap();
        let body = Body::new(http_body_util::Full::new(Bytes::from_static(b"abc")));
        let mut response = http::Response::new(body);
        response.extensions_mut().insert(room);
        let mut body = counted(response).into_body();
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert_eq!(data, "abc");
        assert!(answers.reserve().await.is_err());
        drop(data);
        assert!(answers.reserve().await.is_ok());
    }
}
