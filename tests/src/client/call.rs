//! Calls: gRPC's messages in HTTP/2's bodies.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use prost::Message;
use tokio::task::JoinHandle;

use super::{Frames, framed};

/// How a call ended that did not end well.
#[derive(Debug, Clone)]
pub struct Failure {
    /// gRPC's number; `None` when there was no such answer.
    pub code: Option<u32>,
    pub message: String,
}

impl Failure {
    pub fn of(message: impl std::fmt::Display) -> Failure {
        Failure {
            code: None,
            message: message.to_string(),
        }
    }

    fn check(headers: &http::HeaderMap) -> Result<bool, Failure> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match text("grpc-status").map(str::parse::<u32>) {
            None => Ok(false),
            Some(Ok(0)) => Ok(true),
            Some(code) => Err(Failure {
                code: code.ok(),
                message: unescaped(text("grpc-message").unwrap_or_default()),
            }),
        }
    }
}

fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = text.get(at + 1..at + 3).filter(|_| *byte == b'%');
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The messages of a body.
pub struct Answers {
    body: Incoming,
    buffer: BytesMut,
    ended: bool,
}

impl Answers {
    pub fn new(body: Incoming) -> Answers {
        Answers {
            body,
            buffer: BytesMut::new(),
            ended: false,
        }
    }

    /// The bytes of the next message; `None` at the end.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(header) = self.buffer.get(1..5) {
                let length = u32::from_be_bytes(header.try_into().expect("four bytes")) as usize;
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(error)) => return Err(Failure::of(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers();
                        Failure::check(&trailers.unwrap_or_default())?;
                        self.ended = true;
                    }
                },
            }
        }
    }

    pub async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Failure> {
        let bytes = self.next_bytes().await?;
        bytes
            .map(|bytes| A::decode(bytes).map_err(Failure::of))
            .transpose()
    }
}

type Response = Result<http::Response<Incoming>, hyper::Error>;

/// A call that is under way.
pub struct Stream {
    send: Option<Frames>,
    answer: Option<JoinHandle<Response>>,
    answers: Option<Answers>,
}

impl Stream {
    pub(super) fn new(send: Frames, answer: JoinHandle<Response>) -> Stream {
        Stream {
            send: Some(send),
            answer: Some(answer),
            answers: None,
        }
    }

    /// Where more can be put.
    pub fn frames(&self) -> Frames {
        self.send.clone().expect("a call that is not finished")
    }

    /// What nobody takes any more is lost.
    pub async fn send(&self, message: &impl Message) {
        self.send_bytes(framed(message)).await;
    }

    pub async fn send_bytes(&self, bytes: Bytes) {
        if let Some(send) = &self.send {
            let _ = send.send(Ok(Frame::data(bytes))).await;
        }
    }

    /// No more messages from here.
    pub fn finish(&mut self) {
        self.send = None;
    }

    pub async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Failure> {
        if let Some(answer) = self.answer.take() {
            let answer = answer.await.map_err(Failure::of)?.map_err(Failure::of)?;
            if answer.status() != http::StatusCode::OK {
                return Err(Failure::of(answer.status()));
            }
            let ended = Failure::check(answer.headers())?;
            let mut answers = Answers::new(answer.into_body());
            answers.ended = ended;
            self.answers = Some(answers);
        }
        match &mut self.answers {
            Some(answers) => answers.next().await,
            None => Err(Failure::of("the call failed before")),
        }
    }
}
