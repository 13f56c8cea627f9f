//! Bodies that a server or something on the way encoded although that was not asked for (`Content-Encoding`): decoded
//! piece by piece, so that size and digest are those of the content.

use std::io::{self, Write};

use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

/// Takes encoded pieces and gives decoded ones.
pub(crate) enum Decoder {
    Gzip(flate2::write::MultiGzDecoder<Capped>),
    Deflate(flate2::write::ZlibDecoder<Capped>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Capped>>),
    /// An encoding that is not understood.
    Unknown(String),
}

/// Output that stops at a limit: a small piece may decode to a huge one.
#[derive(Default)]
pub(crate) struct Capped {
    bytes: Vec<u8>,
    left: u64,
    over: bool,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            self.over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.left -= bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reason, or `None` when the limit was passed.
type Refused = Option<String>;

impl Decoder {
    /// `None` when the body is as it is.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Decoder> {
        let coding = name(headers)?;
        Some(match coding.as_str() {
            "gzip" | "x-gzip" => {
                Decoder::Gzip(flate2::write::MultiGzDecoder::new(Capped::default()))
            }
            "deflate" => Decoder::Deflate(flate2::write::ZlibDecoder::new(Capped::default())),
            "zstd" => match zstd::stream::write::Decoder::new(Capped::default()) {
                Ok(decoder) => Decoder::Zstd(Box::new(decoder)),
                Err(_) => Decoder::Unknown(coding),
            },
            _ => Decoder::Unknown(coding),
        })
    }

    /// Decodes a piece, to at most `limit` bytes.
    pub(crate) fn feed(&mut self, piece: &[u8], limit: u64) -> Result<Bytes, Refused> {
        match self {
            Decoder::Gzip(decoder) => {
                decoder.get_mut().left = limit;
                let outcome = decoder.write_all(piece).and_then(|()| decoder.flush());
                taken(decoder.get_mut(), outcome)
            }
            Decoder::Deflate(decoder) => {
                decoder.get_mut().left = limit;
                let outcome = decoder.write_all(piece).and_then(|()| decoder.flush());
                taken(decoder.get_mut(), outcome)
            }
            Decoder::Zstd(decoder) => {
                decoder.get_mut().left = limit;
                let outcome = decoder.write_all(piece).and_then(|()| decoder.flush());
                taken(decoder.get_mut(), outcome)
            }
            Decoder::Unknown(coding) => Err(Some(format!("the encoding {coding:?} is not known"))),
        }
    }

    /// What is left at the end of the body.
    pub(crate) fn finish(self, limit: u64) -> Result<Bytes, Refused> {
        let broken = |error: io::Error| Some(format!("the encoded body is damaged: {error}"));
        match self {
            Decoder::Gzip(mut decoder) => {
                decoder.get_mut().left = limit;
                decoder
                    .finish()
                    .map(|rest| rest.bytes.into())
                    .map_err(broken)
            }
            Decoder::Deflate(mut decoder) => {
                decoder.get_mut().left = limit;
                decoder
                    .finish()
                    .map(|rest| rest.bytes.into())
                    .map_err(broken)
            }
            Decoder::Zstd(mut decoder) => {
                decoder.get_mut().left = limit;
                let outcome = decoder.flush();
                taken(decoder.get_mut(), outcome)
            }
            Decoder::Unknown(_) => Ok(Bytes::new()),
        }
    }
}

fn taken(output: &mut Capped, outcome: io::Result<()>) -> Result<Bytes, Refused> {
    match outcome {
        _ if output.over => Err(None),
        Ok(()) => Ok(std::mem::take(&mut output.bytes).into()),
        Err(error) => Err(Some(format!("the encoded body is damaged: {error}"))),
    }
}

/// The encoding of a body; `None` when it is as it is.
pub(crate) fn name(headers: &HeaderMap) -> Option<String> {
    let coding = headers.get(CONTENT_ENCODING)?.to_str().ok()?;
    let coding = coding.trim().to_ascii_lowercase();
    (!matches!(coding.as_str(), "" | "identity")).then_some(coding)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn headers(coding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(coding))])
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn check_41_each_encoding_is_decoded_piece_by_piece() {
        let content: Vec<u8> = (0..50_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&content).unwrap();
        for (coding, encoded) in [
            ("gzip", gzip(&content)),
            ("deflate", zlib.finish().unwrap()),
            ("zstd", zstd::encode_all(&content[..], 1).unwrap()),
        ] {
            let mut decoder = Decoder::of(&headers(coding)).unwrap();
            let mut decoded = Vec::new();
            for piece in encoded.chunks(1000) {
                decoded.extend_from_slice(&decoder.feed(piece, 1 << 20).unwrap());
            }
            decoded.extend_from_slice(&decoder.finish(1 << 20).unwrap());
            assert!(decoded == content, "{coding}");
        }
        assert!(Decoder::of(&headers("identity")).is_none());
        let mut unknown = Decoder::of(&headers("br")).unwrap();
        assert!(unknown.feed(b"x", 10).is_err());
    }

    #[test]
    fn check_41_a_small_piece_that_decodes_to_a_huge_one_is_stopped() {
        let bomb = gzip(&vec![0; 10 << 20]);
        let mut decoder = Decoder::of(&headers("gzip")).unwrap();
        let outcome = bomb
            .chunks(1000)
            .try_for_each(|piece| decoder.feed(piece, 1000).map(drop));
        assert_eq!(outcome, Err(None));
    }

    proptest::proptest! {
        #[test]
        fn damaged_bodies_are_refused_or_cut(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for coding in ["gzip", "deflate", "zstd"] {
                let mut decoder = Decoder::of(&headers(coding)).unwrap();
                if decoder.feed(&bytes, 1000).is_ok() {
                    let _ = decoder.finish(1000);
                }
            }
        }
    }
}
