//! What registries and token services send beside documents: challenges, error bodies, tokens, pauses.

use gateway_images::registry::fuzzing;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    fuzzing::body(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        fuzzing::header(text);
    }
}
