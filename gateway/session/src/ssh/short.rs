//! ECDSA keys whose secret number begins with zeros. OpenSSH writes numbers without them; the decoder of `ssh-key`
//! 0.6 takes a secret of the curve's whole size only, and so refuses one key of 256 on P-256 and P-384, and one of
//! four on P-521.

use base64::Engine as _;
use ssh_key::PrivateKey;

use super::wire::{put_string, take_string};

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// What the secret half is filled up to where nothing encrypts it.
const BLOCK: usize = 8;

/// The key in the text with its secret at whole size; `None` for anything but an ECDSA key without passphrase.
pub(super) fn read(text: &str) -> Option<PrivateKey> {
    let inner = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    let inner: String = inner.split_ascii_whitespace().collect();
    let mut bytes = base64::engine::general_purpose::STANDARD
        .decode(&inner)
        .ok()?;
    let mut whole = at_whole_size(&bytes);
    let key = whole
        .as_deref()
        .and_then(|whole| PrivateKey::from_bytes(whole).ok());
    super::keys::forget(inner.into_bytes());
    super::keys::forget(std::mem::take(&mut bytes));
    super::keys::forget(whole.take().unwrap_or_default());
    key
}

/// Bytes of the secret number of a curve.
fn size(kind: &[u8]) -> Option<usize> {
    match kind {
        b"ecdsa-sha2-nistp256" => Some(32),
        b"ecdsa-sha2-nistp384" => Some(48),
        b"ecdsa-sha2-nistp521" => Some(66),
        _ => None,
    }
}

fn at_whole_size(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let cipher = take_string(&mut rest)?;
    let derivation = take_string(&mut rest)?;
    let options = take_string(&mut rest)?;
    if cipher != b"none" {
        return None;
    }
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let public = take_string(&mut rest)?;
    let private = secret_half(take_string(&mut rest)?)?;

    let mut out = MAGIC.to_vec();
    put_string(&mut out, cipher);
    put_string(&mut out, derivation);
    put_string(&mut out, options);
    out.extend_from_slice(count);
    put_string(&mut out, public);
    put_string(&mut out, &private);
    super::keys::forget(private);
    Some(out)
}

/// Two equal check numbers, the kind, the curve, the point, the secret, the comment, and 1, 2, 3… to a full block.
fn secret_half(private: &[u8]) -> Option<Vec<u8>> {
    let (checks, mut rest) = private.split_first_chunk::<8>()?;
    let kind = take_string(&mut rest)?;
    let curve = take_string(&mut rest)?;
    let point = take_string(&mut rest)?;
    let secret = take_string(&mut rest)?;
    let comment = take_string(&mut rest)?;
    let missing = size(kind)?.checked_sub(secret.len())?;

    let mut out = Vec::with_capacity(private.len() + missing + 2 * BLOCK);
    out.extend_from_slice(checks);
    put_string(&mut out, kind);
    put_string(&mut out, curve);
    put_string(&mut out, point);
    let mut padded = vec![0; missing];
    padded.extend_from_slice(secret);
    put_string(&mut out, &padded);
    super::keys::forget(padded);
    put_string(&mut out, comment);
    let fill = out.len().next_multiple_of(BLOCK) - out.len();
    out.extend((1..=u8::try_from(fill).ok()?).collect::<Vec<u8>>());
    Some(out)
}
