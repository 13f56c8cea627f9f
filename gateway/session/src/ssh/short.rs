//! ECDSA keys whose secret number begins with zeros. OpenSSH writes numbers without them; the decoder of `ssh-key`
//! 0.6 takes a secret of the curve's whole size only, and so refuses one key of 256 on P-256 and P-384, and one of
//! four on P-521.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ssh_key::PrivateKey;

use super::keys::forget;
use super::pem::{P256, P384, P521, ec};
use super::wire::take_string;

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// The key in the text; `None` for anything but an ECDSA key without passphrase.
pub(super) fn read(text: &str) -> Option<PrivateKey> {
    let inner = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    let inner: String = inner.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(&inner).ok()?;
    let key = decoded(&bytes);
    forget(inner.into_bytes());
    forget(bytes);
    key
}

/// <https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.key>
fn decoded(bytes: &[u8]) -> Option<PrivateKey> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let cipher = take_string(&mut rest)?;
    let _derivation = take_string(&mut rest)?;
    let _options = take_string(&mut rest)?;
    let (_count, mut rest) = rest.split_first_chunk::<4>()?;
    let _public = take_string(&mut rest)?;
    let private = take_string(&mut rest)?;
    if cipher != b"none" {
        return None;
    }
    // Two equal numbers; then the kind, the curve, the point, the secret and the comment.
    let (_checks, mut rest) = private.split_first_chunk::<8>()?;
    let (curve, size) = match take_string(&mut rest)? {
        b"ecdsa-sha2-nistp256" => (P256, 32),
        b"ecdsa-sha2-nistp384" => (P384, 48),
        b"ecdsa-sha2-nistp521" => (P521, 66),
        _ => return None,
    };
    let _curve = take_string(&mut rest)?;
    let _point = take_string(&mut rest)?;
    let secret = take_string(&mut rest)?;
    let comment = take_string(&mut rest)?;
    let mut whole = vec![0; usize::checked_sub(size, secret.len())?];
    whole.extend_from_slice(secret);
    let pair = ec(&whole, curve);
    forget(whole);
    PrivateKey::new(pair?, String::from_utf8_lossy(comment)).ok()
}
