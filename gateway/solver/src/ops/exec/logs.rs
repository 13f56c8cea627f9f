//! Output of a step, on its way to the progress stream, within BuildKit's limits.

use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::job::JobInner;
use crate::live::LiveVertex;

/// Most bytes of one stream of a step that are shown.
const MAX_BYTES: u64 = 2 << 20;
/// Most bytes a second of one stream, counted from the start of the step.
const MAX_SPEED: u64 = 200 << 10;
/// One event: small enough to be timely, large enough not to flood the stream.
const CHUNK: usize = 32 << 10;

pub struct Logs {
    job: Arc<JobInner>,
    vertex: Arc<LiveVertex>,
    started: Instant,
}

impl Logs {
    pub fn new(job: &Arc<JobInner>, vertex: &Arc<LiveVertex>) -> Self {
        Logs {
            job: job.clone(),
            vertex: vertex.clone(),
            started: Instant::now(),
        }
    }

    /// Reads the stream to its end. Output past the limits is dropped, never blocked.
    pub async fn copy(&self, mut pipe: Receiver, stream: i64) {
        let mut buffer = vec![0; CHUNK];
        let mut limit = Limit::default();
        loop {
            let read = match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            let data = buffer.get(..read).unwrap_or_default();
            if let Some(shown) = limit.pass(data, self.started.elapsed().as_secs_f64()) {
                self.job.reports.log(&self.vertex.digest, stream, shown);
            }
        }
    }
}

/// What has been shown of a stream.
#[derive(Default)]
struct Limit {
    shown: u64,
    clipped: bool,
}

impl Limit {
    /// What to show of `data`: it, a notice once where it begins to be dropped, or nothing.
    fn pass(&mut self, data: &[u8], seconds: f64) -> Option<Vec<u8>> {
        let after = self.shown + data.len() as u64;
        // The first second is free: short bursts are the common case.
        let allowed = MAX_SPEED as f64 * seconds.max(1.0);
        let reached = if after > MAX_BYTES {
            Some("2MiB")
        } else if after as f64 > allowed {
            Some("200KiB/s")
        } else {
            None
        };
        match (reached, self.clipped) {
            (None, _) => {
                self.shown = after;
                self.clipped = false;
                Some(data.to_vec())
            }
            (Some(limit), false) => {
                self.clipped = true;
                Some(format!("\n[output clipped, log limit {limit} reached]\n").into_bytes())
            }
            (Some(_), true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_with_one_notice_and_goes_on_when_it_calms_down() {
        let mut limit = Limit::default();
        let chunk = vec![b'x'; 150 << 10];
        assert_eq!(limit.pass(&chunk, 0.1), Some(chunk.clone()));
        let notice = limit.pass(&chunk, 0.2).unwrap();
        assert!(String::from_utf8(notice).unwrap().contains("200KiB/s"));
        assert_eq!(limit.pass(&chunk, 0.3), None);
        assert_eq!(limit.pass(&chunk, 10.0), Some(chunk.clone()));
        let mut limit = Limit {
            shown: MAX_BYTES,
            clipped: false,
        };
        let notice = limit.pass(b"x", 1e6).unwrap();
        assert!(String::from_utf8(notice).unwrap().contains("2MiB"));
    }
}
