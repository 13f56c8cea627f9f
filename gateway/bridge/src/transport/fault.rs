//! What the reader of a frontend's stdout saw, for whoever explains how the connection ended: the
//! HTTP/2 library may report a fault late, in its own words, or not at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::activity::Activity;

/// Shared between the reader and the host of a frontend.
#[derive(Debug)]
pub struct Observed {
    /// First fault only.
    fault: Mutex<Option<String>>,
    speaks_http2: watch::Sender<bool>,
    activity: Arc<Activity>,
    /// What was read last ends within a frame.
    torn: AtomicBool,
    empty_authority: AtomicBool,
}

impl Default for Observed {
    fn default() -> Self {
        Observed {
            fault: Mutex::default(),
            speaks_http2: watch::Sender::new(false),
            activity: Arc::default(),
            torn: AtomicBool::new(false),
            empty_authority: AtomicBool::new(false),
        }
    }
}

impl Observed {
    pub fn set_fault(&self, text: String) {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(text);
    }

    /// Of the connection.
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    pub fn fault(&self) -> Option<String> {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_frames(&self, torn: bool, empty_authority: bool) {
        self.torn.store(torn, Ordering::Relaxed);
        self.empty_authority
            .store(empty_authority, Ordering::Relaxed);
    }

    /// The stream ended within a frame.
    pub fn is_torn(&self) -> bool {
        self.torn.load(Ordering::Relaxed)
    }

    /// A request had an empty `:authority`.
    pub fn has_empty_authority(&self) -> bool {
        self.empty_authority.load(Ordering::Relaxed)
    }

    pub(super) fn set_speaks_http2(&self) {
        self.speaks_http2.send_replace(true);
    }

    pub fn spoke_http2(&self) -> bool {
        *self.speaks_http2.borrow()
    }

    /// Ends when the frontend has sent the connection preface; never, if it does not.
    pub async fn speaks_http2(&self) {
        let mut seen = self.speaks_http2.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = seen.wait_for(|seen| *seen).await;
    }
}
