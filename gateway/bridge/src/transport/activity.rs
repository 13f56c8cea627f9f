//! Whether anything goes on between a frontend and us: bytes either way, or work that it asked for.
//! A frontend that stopped is told from one that waits for a build of hours.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Of one connection.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    /// The last sign of life, in milliseconds after the start.
    last: AtomicU64,
    /// Pieces of work under way.
    busy: AtomicUsize,
}

impl Default for Activity {
    fn default() -> Self {
        Activity {
            start: Instant::now(),
            last: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
        }
    }
}

impl Activity {
    /// Something moved.
    pub fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    /// Work that the frontend waits for, until the guard is dropped.
    pub fn work(&self) -> Working<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Working(self)
    }

    /// How long nothing has happened; `None` while there is work.
    fn quiet(&self) -> Option<Duration> {
        if self.busy.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        Some(self.start.elapsed().saturating_sub(last))
    }

    /// Ends when nothing has happened for this long; never without a limit.
    pub async fn idle(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        loop {
            let left = match self.quiet() {
                None => limit,
                Some(quiet) if quiet >= limit => return,
                Some(quiet) => limit.saturating_sub(quiet),
            };
            tokio::time::sleep(left).await;
        }
    }
}

/// A piece of work under way.
#[derive(Debug)]
pub struct Working<'a>(&'a Activity);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_the_limit_and_a_touch_puts_it_off() {
        let activity = Activity::default();
        let started = Instant::now();
        tokio::time::sleep(Duration::from_secs(4)).await;
        activity.touch();
        activity.idle(Some(LIMIT)).await;
        assert_eq!(started.elapsed().as_secs(), 14);
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_never_silence_and_its_end_is_a_sign_of_life() {
        let activity = Activity::default();
        let working = activity.work();
        let waited = tokio::time::timeout(LIMIT * 100, activity.idle(Some(LIMIT))).await;
        assert!(waited.is_err());
        drop(working);
        let ended = Instant::now();
        activity.idle(Some(LIMIT)).await;
        assert_eq!(ended.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_it_may_be_silent_for_ever() {
        let activity = Activity::default();
        let year = Duration::from_secs(365 * 24 * 3600);
        let waited = tokio::time::timeout(year, activity.idle(None)).await;
        assert!(waited.is_err());
    }
}
