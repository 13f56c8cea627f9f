//! How calls to a client end: without what tonic could not read. It takes the details of a status for base64, and panics
//! where they are none.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tonic::Status;

use super::gone::status_of;

const DETAILS: &str = "grpc-status-details-bin";

/// As tonic decodes.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Takes details that are none away; the code and the message of a status are as good without.
pub fn readable(mut headers: HeaderMap) -> HeaderMap {
    let unreadable = |value: &http::HeaderValue| BASE64.decode(value).is_err();
    if headers.get_all(DETAILS).iter().any(unreadable) {
        headers.remove(DETAILS);
    }
    headers
}

/// A body whose trailers can be read.
pub struct Readable<B = Incoming>(pub B);

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Readable<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        Poll::Ready(
            frame.map(|frame| match frame.map_err(status_of)?.into_trailers() {
                Ok(trailers) => Ok(Frame::trailers(readable(trailers))),
                Err(frame) => Ok(frame),
            }),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_that_are_none_are_taken_away_and_nothing_else() {
        let with = |details: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", "2".parse().unwrap());
            for details in details {
                let details = http::HeaderValue::from_bytes(details).unwrap();
                headers.append(DETAILS, details);
            }
            headers
        };
        for good in [&b"CAISAXg="[..], b"CAISAXg", b"", b"CAISBHgreHg="] {
            assert_eq!(readable(with(&[good])), with(&[good]));
            assert!(tonic::Status::from_header_map(&with(&[good])).is_some());
        }
        for bad in [
            &b"?"[..],
            b"CAI*",
            b"CAISAXg==",
            b"CAISAXh",
            b"C",
            b"\xff\xfe",
            b"CAIS AXg=",
        ] {
            assert_eq!(readable(with(&[bad])), with(&[]), "{bad:?}");
        }
        assert_eq!(readable(with(&[b"CAIS", b"?"])), with(&[]));
    }
}
