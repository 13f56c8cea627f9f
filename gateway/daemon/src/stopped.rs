//! What clients read when their daemon is stopped. Cancelled builds fail as if their clients had cancelled them, and
//! those did not.

use gateway_api::{Code, Error};
use http::{HeaderValue, Response};

/// Plain letters: it travels in a header too.
const CANCELED: &str = "the build was canceled: its daemon is being stopped";

/// Instead of what a build failed with that was cancelled with all others. The code stays: clients take such builds
/// for cancelled ones, not for failed ones.
pub fn instead_of(error: Error) -> Error {
    match error.code {
        Code::Canceled => Error::new(Code::Canceled, CANCELED),
        _ => error,
    }
}

/// For who would begin a build now; the code of a server that is not there, as it will be.
pub fn refused() -> Error {
    Error::new(
        Code::Unavailable,
        "this daemon is being stopped: it begins no more builds",
    )
}

/// The same as [`instead_of`], of an answer that is there already: clients that drive their build read this one.
pub fn tell<B>(mut answer: Response<B>) -> Response<B> {
    let headers = answer.headers_mut();
    let canceled = Code::Canceled as i32;
    let is_canceled = headers
        .get("grpc-status")
        .is_some_and(|status| status.as_bytes() == canceled.to_string().as_bytes());
    if is_canceled {
        headers.insert("grpc-message", HeaderValue::from_static(CANCELED));
        // They have the other message once more, and clients would take that one.
        headers.remove("grpc-status-details-bin");
    }
    answer
}

#[cfg(test)]
mod tests {
    use gateway_proto::error::to_status;

    use super::*;

    #[test]
    fn canceled_builds_say_why_and_failed_ones_what_failed() {
        let canceled = instead_of(Error::canceled());
        assert_eq!(canceled.code, Code::Canceled);
        assert_eq!(canceled.message, CANCELED);
        let failed = instead_of(Error::unknown("exit code: 1"));
        assert_eq!(failed.message, "exit code: 1");
    }

    #[test]
    fn answers_to_clients_that_drive_their_build_say_so_too() {
        let answer = |error| tell(to_status(&error).into_http::<()>());
        let told = answer(Error::canceled());
        let status = tonic::Status::from_header_map(told.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::Cancelled);
        assert_eq!(status.message(), CANCELED);
        assert!(status.details().is_empty());
        let told = answer(Error::invalid("no such thing"));
        let status = tonic::Status::from_header_map(told.headers()).unwrap();
        assert_eq!(status.message(), "no such thing");
    }
}
