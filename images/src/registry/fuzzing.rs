//! Doors for the fuzz targets into readers that are nobody else's business. Only built with the feature `fuzzing`.

use super::{auth, challenge, transport};

/// All that is read out of header values.
pub fn header(value: &str) {
    challenge::parse(value);
    transport::retry_after(value);
}

/// All that is read out of the bodies of errors and of token services.
pub fn body(bytes: &[u8]) {
    transport::registry_error(bytes);
    transport::service_message(bytes);
    auth::token_of(bytes);
}
