//! A build's turn at a step that other builds may be at as well: one of them works, the others wait,
//! show what it prints, and take over when it ends without a result.

use std::sync::Arc;

use gateway_api::{Code, Error};

use crate::job::JobInner;
use crate::live::LiveVertex;
use crate::report::Running;
use crate::shared::Outcome;
use crate::store::{Frame, WorkLock, WorkLog};

/// The right to do the work, until dropped.
pub struct Turn<'a> {
    job: &'a JobInner,
    vertex: String,
    /// Shown as running since the wait began; `None`: there was no wait.
    pub waited: Option<Running<'a>>,
    log: Arc<WorkLog>,
    /// Lines of another build were shown.
    shown: bool,
    _lock: WorkLock,
}

/// What is said when lines of another build were shown and its work came to nothing.
const TAKEN_OVER: &[u8] =
    b"[the build that ran this step ended without its result; it runs again]\n";

impl JobInner {
    /// Waits for the turn at the work that `key` names.
    pub(crate) async fn turn<'a>(&'a self, vertex: &LiveVertex, key: &str) -> Outcome<Turn<'a>> {
        let failed = |error: std::io::Error| {
            Error::new(Code::Internal, format!("lock of {}: {error}", vertex.name))
        };
        let mut shown = false;
        let mut show = |frames: Vec<Frame>| {
            shown |= !frames.is_empty();
            for frame in frames {
                self.reports.log_of_other(&vertex.digest, frame);
            }
        };
        let mut waited = None;
        let mut follower = None;
        let lock = self
            .store()
            .lock_watching(key, || {
                waited.get_or_insert_with(|| self.reports.start(&vertex.digest));
                let follower = follower.get_or_insert_with(|| self.store().follow(key));
                show(follower.read());
            })
            .await
            .map_err(failed)?;
        if let Some(mut follower) = follower {
            show(follower.read());
            follower.end();
        }
        let log = Arc::new(self.store().work_log(key));
        self.reports.copy_to(&vertex.digest, Some(log.clone()));
        Ok(Turn {
            job: self,
            vertex: vertex.digest.clone(),
            waited,
            log,
            shown,
            _lock: lock,
        })
    }
}

impl Turn<'_> {
    /// Nobody left a result: the work is ours. Says so if lines of another were shown.
    pub fn take_over(&self) {
        if self.shown {
            let reports = &self.job.reports;
            reports.log(&self.vertex, 2, TAKEN_OVER.to_vec());
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.job.reports.copy_to(&self.vertex, None);
        // The log ends before the lock is free.
        self.log.end();
    }
}
