//! Ctrl-C and its like: ask first, end second.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The first signal cancels the build and lets it clean up; a second one ends at once. Signals are noticed from this
/// call on, whenever what it gives is first polled. To be called inside a runtime.
pub fn cancel_on_signal(cancel: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            return;
        };
        for count in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if count > 0 {
                std::process::exit(i32::from(crate::error::INTERRUPTED));
            }
            cancel.cancel();
        }
    }
}
