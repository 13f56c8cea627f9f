//! Keys in the forms of other programs than OpenSSH: EC keys as SEC 1 writes them (`EC PRIVATE KEY`), and EC and
//! Ed25519 keys in PKCS#8 (`PRIVATE KEY`), as openssl and `ssh-keygen -m` do. Those of RSA in both are the package
//! `rsa`'s to read.

use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use rsa::pkcs8::der::Decode as _;
use rsa::pkcs8::{ObjectIdentifier, PrivateKeyInfo, SecretDocument};
use sec1::EcPrivateKey;
use ssh_key::PrivateKey;
use ssh_key::private::{EcdsaKeypair, Ed25519Keypair, Ed25519PrivateKey, KeypairData};

const EC_BEGIN: &str = "-----BEGIN EC PRIVATE KEY-----";
const EC_LABEL: &str = "EC PRIVATE KEY";
const PKCS8_LABEL: &str = "PRIVATE KEY";
/// RFC 5480, section 2.1.1
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
pub(super) const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
pub(super) const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
pub(super) const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
/// RFC 8410, section 3
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// A string of 32 bytes, by which RFC 8410 wraps a secret once more.
const STRING_OF_32: [u8; 2] = [0x04, 0x20];

/// The key in the text; `None` for one in another form, of another kind, or with a passphrase.
pub(super) fn read(text: &str) -> Option<PrivateKey> {
    // What openssl writes begins with the parameters of the curve, unless told otherwise.
    let sec1 = text.find(EC_BEGIN).and_then(|at| text.get(at..));
    let (label, document) = SecretDocument::from_pem(sec1.unwrap_or(text).trim()).ok()?;
    let pair = match label {
        EC_LABEL => {
            let key = EcPrivateKey::from_der(document.as_bytes()).ok()?;
            ec(key.private_key, key.parameters?.named_curve()?)?
        }
        PKCS8_LABEL => pkcs8(&PrivateKeyInfo::from_der(document.as_bytes()).ok()?)?,
        _ => return None,
    };
    PrivateKey::new(pair, "").ok()
}

fn pkcs8(key: &PrivateKeyInfo<'_>) -> Option<KeypairData> {
    match key.algorithm.oid {
        EC => {
            let curve = key.algorithm.parameters_oid().ok()?;
            let inner = EcPrivateKey::from_der(key.private_key).ok()?;
            ec(inner.private_key, curve)
        }
        ED25519 => {
            let secret = key.private_key.strip_prefix(&STRING_OF_32)?;
            let secret = Ed25519PrivateKey::try_from(secret).ok()?;
            Some(KeypairData::Ed25519(Ed25519Keypair::from(secret)))
        }
        _ => None,
    }
}

/// The point is worked out: what a file says of it need not fit its secret.
pub(super) fn ec(secret: &[u8], curve: ObjectIdentifier) -> Option<KeypairData> {
    let pair = match curve {
        P256 => {
            let secret = p256::SecretKey::from_slice(secret).ok()?;
            EcdsaKeypair::NistP256 {
                public: secret.public_key().to_encoded_point(false),
                private: secret.into(),
            }
        }
        P384 => {
            let secret = p384::SecretKey::from_slice(secret).ok()?;
            EcdsaKeypair::NistP384 {
                public: secret.public_key().to_encoded_point(false),
                private: secret.into(),
            }
        }
        P521 => {
            let secret = p521::SecretKey::from_slice(secret).ok()?;
            EcdsaKeypair::NistP521 {
                public: secret.public_key().to_encoded_point(false),
                private: secret.into(),
            }
        }
        _ => return None,
    };
    Some(KeypairData::Ecdsa(pair))
}
