//! Notices clients that are gone without a word.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Handle;
use crate::proto::session::{HealthCheckRequest, HealthCheckResponse};

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(5);
/// An answer may take this long, or half as long again as the last one.
const LEAST_TIMEOUT: Duration = Duration::from_secs(15);
/// Answers that may be missing in a row.
const MISSED: u32 = 2;

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Ends when the client does not answer any more; never for one that cannot be asked.
pub async fn watch(handle: Arc<Handle>) {
    if !handle.has(CHECK) {
        return std::future::pending().await;
    }
    let mut last = Duration::ZERO;
    let mut missed = 0;
    loop {
        tokio::time::sleep(INTERVAL).await;
        if handle.channel().is_closed() {
            // It said goodbye, and stays until its last call is over.
            return std::future::pending().await;
        }
        let asked = Instant::now();
        let answer = handle
            .channel()
            .urgent::<_, HealthCheckResponse>(CHECK, HealthCheckRequest::default());
        let limit = LEAST_TIMEOUT.max(last.mul_f32(1.5));
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(_)) => missed = 0,
            // It is there and says so, whatever it thinks of the question.
            Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => missed = 0,
            Ok(Err(_)) | Err(_) => missed += 1,
        }
        last = asked.elapsed();
        if missed >= MISSED {
            return;
        }
    }
}
