//! Answers of the bridge, opened.

use gateway_api::Error;
use gateway_proto::error::from_status;

/// The answer's message, or the error with its details.
pub(crate) fn open<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Error> {
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| from_status(&status))
}
