//! Digests, and what a key says of one.

use ecdsa::signature::hazmat::PrehashVerifier;
use rsa::traits::PublicKeyParts as _;
use rsa::{BigUint, Pkcs1v15Sign, RsaPublicKey};
use sha1_checked::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::packet::{Material, PublicKey, Signature};

/// Shortest modulus, in bits.
const MIN_RSA: usize = 2048;
/// Longest, so that nobody's key takes seconds.
const MAX_RSA: usize = 8192;

const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];
/// Before the coordinate of an Ed25519 key.
const NATIVE_POINT: u8 = 0x40;

/// Hash algorithms by their numbers in OpenPGP. The first is taken only where keys sign
/// themselves, and with the detection of collisions.
pub const SHA1: u8 = 2;
pub const SHA256: u8 = 8;
pub const SHA384: u8 = 9;
pub const SHA512: u8 = 10;
const SHA224: u8 = 11;

/// A running digest of a chosen algorithm.
pub enum Hasher {
    Sha1(Box<Sha1>),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    /// None for an algorithm that is not known here.
    pub fn of(algorithm: u8) -> Option<Hasher> {
        Some(match algorithm {
            SHA1 => Hasher::Sha1(Box::default()),
            SHA224 => Hasher::Sha224(Sha224::new()),
            SHA256 => Hasher::Sha256(Sha256::new()),
            SHA384 => Hasher::Sha384(Sha384::new()),
            SHA512 => Hasher::Sha512(Sha512::new()),
            _ => return None,
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha1(hasher) => Digest::update(hasher.as_mut(), bytes),
            Hasher::Sha224(hasher) => hasher.update(bytes),
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha384(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub fn finish(self) -> Vec<u8> {
        match self {
            Hasher::Sha1(hasher) => Digest::finalize(*hasher).to_vec(),
            Hasher::Sha224(hasher) => hasher.finalize().to_vec(),
            Hasher::Sha256(hasher) => hasher.finalize().to_vec(),
            Hasher::Sha384(hasher) => hasher.finalize().to_vec(),
            Hasher::Sha512(hasher) => hasher.finalize().to_vec(),
        }
    }
}

/// The name of an algorithm, for messages.
pub fn hash_name(algorithm: u8) -> String {
    match algorithm {
        1 => "MD5".into(),
        SHA1 => "SHA-1".into(),
        3 => "RIPEMD-160".into(),
        SHA224 => "SHA-224".into(),
        other => format!("number {other}"),
    }
}

/// SHA-1 as a name of things; blocks made for collisions get another one than they were made for.
pub fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    for part in parts {
        Digest::update(&mut hasher, part);
    }
    Digest::finalize(hasher).into()
}

/// Why a key cannot be used for verifying at all.
pub fn unusable(key: &PublicKey) -> Option<String> {
    match &key.material {
        Material::Rsa { n, .. } => {
            let bits = BigUint::from_bytes_be(n).bits();
            if bits < MIN_RSA {
                return Some(format!("RSA key too short: {bits} bits"));
            }
            (bits > MAX_RSA).then(|| format!("RSA key too long: {bits} bits"))
        }
        Material::Ecdsa { curve, .. } => {
            let known = [P256, P384, P521].contains(&curve.as_slice());
            (!known).then(|| "its elliptic curve is not supported".to_owned())
        }
        Material::EdDsa { curve, .. } => {
            (curve != ED25519).then(|| "its elliptic curve is not supported".to_owned())
        }
        Material::Other(number) => Some(format!(
            "public keys of the algorithm with number {number} are not supported"
        )),
    }
}

/// Whether the signature is the key's, over this digest.
pub fn verifies(key: &PublicKey, signature: &Signature, digest: &[u8]) -> bool {
    if unusable(key).is_some() || digest.get(..2) != Some(&signature.left[..]) {
        return false;
    }
    let fits = match key.material {
        Material::Rsa { .. } => matches!(signature.key_algorithm, 1 | 3),
        Material::Ecdsa { .. } => signature.key_algorithm == 19,
        Material::EdDsa { .. } => signature.key_algorithm == 22,
        Material::Other(_) => false,
    };
    let verified = match (&key.material, signature.numbers.as_slice()) {
        _ if !fits => None,
        (Material::Rsa { n, e }, [s]) => rsa(n, e, signature.hash, digest, s),
        (Material::Ecdsa { curve, point }, [r, s]) => ecdsa(curve, point, digest, r, s),
        (Material::EdDsa { point, .. }, [r, s]) => ed25519(point, digest, r, s),
        _ => None,
    };
    verified.is_some()
}

/// At the right of `length` bytes.
fn padded(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length.checked_sub(number.len())?];
    bytes.extend_from_slice(number);
    Some(bytes)
}

fn rsa(n: &[u8], e: &[u8], hash: u8, digest: &[u8], s: &[u8]) -> Option<()> {
    let (n, e) = (BigUint::from_bytes_be(n), BigUint::from_bytes_be(e));
    let key = RsaPublicKey::new_with_max_size(n, e, MAX_RSA).ok()?;
    let scheme = match hash {
        SHA1 => Pkcs1v15Sign::new::<Sha1>(),
        SHA224 => Pkcs1v15Sign::new::<Sha224>(),
        SHA256 => Pkcs1v15Sign::new::<Sha256>(),
        SHA384 => Pkcs1v15Sign::new::<Sha384>(),
        SHA512 => Pkcs1v15Sign::new::<Sha512>(),
        _ => return None,
    };
    let s = padded(s, key.size())?;
    key.verify(scheme, digest, &s).ok()
}

fn ecdsa(curve: &[u8], point: &[u8], digest: &[u8], r: &[u8], s: &[u8]) -> Option<()> {
    macro_rules! on {
        ($curve:ident, $bytes:literal) => {{
            let key = $curve::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?;
            let mut both = padded(r, $bytes)?;
            both.extend(padded(s, $bytes)?);
            let signature = $curve::ecdsa::Signature::from_slice(&both).ok()?;
            key.verify_prehash(digest, &signature).ok()
        }};
    }
    match curve {
        P256 => on!(p256, 32),
        P384 => on!(p384, 48),
        P521 => on!(p521, 66),
        _ => None,
    }
}

fn ed25519(point: &[u8], digest: &[u8], r: &[u8], s: &[u8]) -> Option<()> {
    let point: &[u8; 32] = point.strip_prefix(&[NATIVE_POINT])?.try_into().ok()?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(point).ok()?;
    let (r, s) = (padded(r, 32)?, padded(s, 32)?);
    let signature = ed25519_dalek::Signature::from_components(
        r.as_slice().try_into().ok()?,
        s.as_slice().try_into().ok()?,
    );
    key.verify_strict(digest, &signature).ok()
}
