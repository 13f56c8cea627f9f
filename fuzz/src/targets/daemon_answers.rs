//! What clients answer in their sessions: decisions about sources, tokens and proofs, documents of their
//! stores (the first byte chooses). Nothing is a proof but the signature of the key.

use gateway_daemon::fuzzing;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    fuzzing::answer(bytes);
}
