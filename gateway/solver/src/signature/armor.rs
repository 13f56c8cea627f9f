//! Text around binary OpenPGP data.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, GeneralPurpose as Engine};

use super::{MAX_TEXT, SignatureError};

pub const BEGIN_SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// Some writers leave out the padding.
const BASE64: Engine = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A block: its kind, e.g. `PGP SIGNATURE`, and what it holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    pub kind: String,
    pub bytes: Vec<u8>,
}

/// All blocks of a text. What is between them does not matter, as with other readers. The checksum
/// of 24 bits says nothing about who wrote the block and is not looked at.
///
/// # Errors
/// A block has no end, or is no base64.
pub fn blocks(text: &str, what: &'static str) -> Result<Vec<Block>, SignatureError> {
    let malformed = |why| SignatureError::malformed(what, why);
    if text.len() > MAX_TEXT {
        return Err(malformed("it is too large"));
    }
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        let Some(kind) = line
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(DASHES))
        else {
            continue;
        };
        let end = format!("-----END {kind}-----");
        let (mut base64, mut in_headers, mut ended) = (String::new(), true, false);
        for line in lines.by_ref() {
            if line == end {
                ended = true;
                break;
            }
            // Headers end with an empty line; without any, some writers leave it out.
            if in_headers && line.contains(':') {
                continue;
            }
            in_headers = false;
            if !line.is_empty() && !line.starts_with('=') {
                base64.push_str(line);
            }
        }
        if !ended {
            return Err(malformed("an armored block has no end"));
        }
        let bytes = BASE64
            .decode(base64)
            .map_err(|_| malformed("an armored block is not base64"))?;
        found.push(Block {
            kind: kind.to_owned(),
            bytes,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_with_and_without_headers_and_checksums() {
        let text = "words\n-----BEGIN PGP SIGNATURE-----\nVersion: x\nComment: y\n\naGVs\nbG8=\n=abcd\n\
                    -----END PGP SIGNATURE-----\r\nmore\n-----BEGIN A-----\r\naGk\r\n-----END A-----";
        let found = blocks(text, "signature").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].kind, "PGP SIGNATURE");
        assert_eq!(found[0].bytes, b"hello");
        assert_eq!(found[1].bytes, b"hi");
    }

    #[test]
    fn a_block_without_end_or_of_other_characters_is_an_error() {
        for text in [
            "-----BEGIN A-----\naGk=\n",
            "-----BEGIN A-----\n\n!!\n-----END A-----",
            "-----BEGIN A-----\n\naGk=\n-----END B-----",
        ] {
            assert!(blocks(text, "signature").is_err(), "{text}");
        }
    }
}
