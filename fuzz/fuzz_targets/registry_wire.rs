//! What registries and token services send beside documents: challenges, error bodies, tokens, pauses.

#![no_main]

use gateway_images::registry::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::body(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        fuzzing::header(text);
    }
});
