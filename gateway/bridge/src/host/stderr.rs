//! A frontend's stderr: shown as output of a step of its own, its end kept for error messages.

use gateway_api::progress::{Progress, Vertex, VertexLog};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Shown of one call; more is read and dropped, so that a flood hurts nobody. The limit that the
/// reference has for a step's output.
const MAX_SHOWN_BYTES: usize = 2 << 20;

/// Kept for an error message.
const TAIL_BYTES: usize = 4096;

/// Follows one call's stderr.
pub struct StderrLog {
    progress: Progress,
    vertex: Vertex,
    shown: usize,
    /// The step is shown once there is something to show.
    started: bool,
    tail: Vec<u8>,
}

impl StderrLog {
    /// `unique` tells calls of the same image apart.
    pub fn new(progress: Progress, image: &str, unique: &str) -> Self {
        let digest = gateway_llb::digest_of(format!("frontend {image} {unique}").as_bytes());
        StderrLog {
            progress,
            vertex: Vertex {
                digest: digest.to_string(),
                name: format!("[frontend] {image}"),
                ..Vertex::default()
            },
            shown: 0,
            started: false,
            tail: Vec::new(),
        }
    }

    /// Reads to the end.
    pub(super) async fn follow(&mut self, mut stderr: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 16 * 1024];
        // A failing read is an end: the process is gone.
        while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
            let data = buffer.get(..length).unwrap_or_default();
            self.keep(data);
            self.show(data);
        }
    }

    fn keep(&mut self, data: &[u8]) {
        self.tail.extend_from_slice(data);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
    }

    fn show(&mut self, data: &[u8]) {
        let room = MAX_SHOWN_BYTES.saturating_sub(self.shown);
        if room == 0 {
            return;
        }
        if !self.started {
            self.started = true;
            self.vertex.started = Some(OffsetDateTime::now_utc());
            self.progress.vertex(self.vertex.clone());
        }
        let part = data.get(..room.min(data.len())).unwrap_or_default();
        self.shown += part.len();
        self.log(part.to_vec());
        if self.shown == MAX_SHOWN_BYTES {
            self.log(b"\n[output clipped, the frontend wrote more than 2 MiB]\n".to_vec());
        }
    }

    fn log(&self, data: Vec<u8>) {
        self.progress.log(VertexLog {
            vertex: self.vertex.digest.clone(),
            stream: 2,
            data,
            timestamp: OffsetDateTime::now_utc(),
        });
    }

    /// Ends the step; the last lines.
    pub(super) fn finish(mut self) -> String {
        if self.started {
            self.vertex.completed = Some(OffsetDateTime::now_utc());
            self.progress.vertex(self.vertex);
        }
        let text = String::from_utf8_lossy(&self.tail);
        let cut = self.tail.len() == TAIL_BYTES;
        // The first line may be cut in two.
        let text = match text.split_once('\n') {
            Some((_, rest)) if cut => rest,
            _ => &text,
        };
        text.trim().to_owned()
    }
}
