//! Requests to the daemon: builds and their outputs, filters, spans, manifests that its content service reads
//! (the first byte chooses). Spans go on as they came.

use gateway_daemon::fuzzing;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    fuzzing::control(bytes);
}
