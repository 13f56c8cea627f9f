//! Ctrl-C and its like: ask first, end second.

use tokio_util::sync::CancellationToken;

/// The first signal cancels the build and lets it clean up; a second one ends at once.
pub async fn cancel_on_signal(cancel: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
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
