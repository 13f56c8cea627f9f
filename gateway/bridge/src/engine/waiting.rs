//! The calls of a frontend that are not answered yet. A build that is cancelled ends when there are none: they notice
//! the cancellation by themselves and clean up, and a frontend that is elsewhere has to be waited for no longer.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Waiting {
    count: AtomicUsize,
    changed: Notify,
}

/// A call, until it is answered.
pub struct Call<'a>(&'a Waiting);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl Waiting {
    pub fn begun(&self) -> Call<'_> {
        self.count.fetch_add(1, Ordering::AcqRel);
        Call(self)
    }

    pub fn is_none(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Ends when there are none.
    pub async fn none(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // What ends from here on is not missed.
            changed.as_mut().enable();
            if self.is_none() {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn calls_are_waited_for_until_the_last_is_answered() {
        let waiting = Waiting::default();
        waiting.none().await;
        let (first, second) = (waiting.begun(), waiting.begun());
        let mut none = std::pin::pin!(waiting.none());
        assert!(none.as_mut().now_or_never().is_none());
        drop(first);
        assert!(none.as_mut().now_or_never().is_none());
        drop(second);
        none.await;
    }
}
