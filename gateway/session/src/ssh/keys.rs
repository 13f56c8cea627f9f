//! Private keys given as files, used without an agent.

use std::io::Read;
use std::path::{Path, PathBuf};

use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::DecodePrivateKey;
use rsa::signature::{SignatureEncoding, Signer};
use ssh_key::PrivateKey;
use ssh_key::private::{KeypairData, RsaKeypair};

use super::wire::{IDENTITIES_ANSWER, SIGN_RESPONSE, put_string, sign_request};

/// Largest key file: the limit of the reference's clients.
pub const MAX_KEY_BYTES: u64 = 100 * 1024;
/// Flags of a sign request: which hash an RSA signature is to have.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key {path}: {source}")]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is larger than {MAX_KEY_BYTES} bytes: no key is")]
    TooLarge { path: PathBuf },
    #[error(
        "the key {path} has a passphrase, which a build cannot ask for: add it to an agent \
         (ssh-add {path}) and forward that"
    )]
    Encrypted { path: PathBuf },
    #[error("{path} is not a private key that can be used: {problem}")]
    Malformed { path: PathBuf, problem: String },
}

/// Keys of one agent. Printing them never shows anything of a key.
pub struct Keys(Vec<Key>);

struct Key {
    key: PrivateKey,
    /// As requests name it.
    public: Vec<u8>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// Reads keys in the OpenSSH form, and those of RSA, ECDSA and Ed25519 in the PEM forms of other programs.
    ///
    /// # Errors
    /// For a file that cannot be read, is too large, needs a passphrase, or holds no key.
    pub fn read(paths: &[PathBuf]) -> Result<Keys, KeyError> {
        paths
            .iter()
            .map(|path| Key::read(path))
            .collect::<Result<_, _>>()
            .map(Keys)
    }

    /// The answer to who is here.
    pub(super) fn list(&self) -> Vec<u8> {
        let mut out = vec![IDENTITIES_ANSWER];
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for key in &self.0 {
            put_string(&mut out, &key.public);
            put_string(&mut out, key.key.comment().as_bytes());
        }
        out
    }

    /// The answer to a sign request; `None` for a key that is not here, or a request that makes no
    /// sense.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (public, data, flags) = sign_request(message)?;
        let key = self.0.iter().find(|key| key.public == public)?;
        let (algorithm, signature) = key.sign(data, flags)?;
        let mut blob = Vec::new();
        put_string(&mut blob, algorithm.as_bytes());
        put_string(&mut blob, &signature);
        let mut out = vec![SIGN_RESPONSE];
        put_string(&mut out, &blob);
        Some(out)
    }
}

/// Overwrites what holds a key: it must not stay behind in freed memory.
pub(super) fn forget(mut bytes: Vec<u8>) {
    bytes.fill(0);
    std::hint::black_box(&bytes);
}

impl Key {
    fn read(path: &Path) -> Result<Key, KeyError> {
        let unreadable = |source| KeyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let malformed = |problem: String| KeyError::Malformed {
            path: path.to_owned(),
            problem,
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(MAX_KEY_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        if text.len() as u64 > MAX_KEY_BYTES {
            return Err(KeyError::TooLarge {
                path: path.to_owned(),
            });
        }
        let encrypted = text.contains("ENCRYPTED");
        let rsa = rsa::RsaPrivateKey::from_pkcs1_pem(&text)
            .ok()
            .or_else(|| rsa::RsaPrivateKey::from_pkcs8_pem(&text).ok());
        let key = match rsa {
            Some(rsa) => RsaKeypair::try_from(rsa)
                .and_then(|pair| PrivateKey::new(KeypairData::Rsa(pair), "")),
            None => PrivateKey::from_openssh(&text)
                .or_else(|error| super::short::read(&text).ok_or(error))
                .or_else(|error| super::pem::read(&text).ok_or(error)),
        };
        forget(text.into_bytes());
        let is_encrypted = encrypted || key.as_ref().is_ok_and(PrivateKey::is_encrypted);
        if is_encrypted {
            return Err(KeyError::Encrypted {
                path: path.to_owned(),
            });
        }
        let key = key.map_err(|error| malformed(error.to_string()))?;
        let public = key
            .public_key()
            .to_bytes()
            .map_err(|error| malformed(error.to_string()))?;
        let key = Key { key, public };
        // A kind of key that cannot sign is told at once, not in the middle of the build.
        if key.sign(b"", RSA_SHA2_512).is_none() {
            let kind = key.key.algorithm();
            return Err(malformed(format!(
                "keys of the kind {kind} cannot sign here"
            )));
        }
        Ok(key)
    }

    /// Name of the signature's algorithm, and the signature.
    fn sign(&self, data: &[u8], flags: u32) -> Option<(String, Vec<u8>)> {
        if let KeypairData::Rsa(pair) = self.key.key_data() {
            let key = rsa_key(pair)?;
            // Without a flag SHA-1 is asked for, which no server of today takes.
            return if flags & RSA_SHA2_512 != 0 {
                let signature = SigningKey::<sha2::Sha512>::new(key).try_sign(data).ok()?;
                Some(("rsa-sha2-512".to_owned(), signature.to_vec()))
            } else if flags & RSA_SHA2_256 != 0 {
                let signature = SigningKey::<sha2::Sha256>::new(key).try_sign(data).ok()?;
                Some(("rsa-sha2-256".to_owned(), signature.to_vec()))
            } else {
                None
            };
        }
        let signature = self.key.try_sign(data).ok()?;
        Some((
            signature.algorithm().to_string(),
            signature.as_bytes().to_vec(),
        ))
    }
}

/// The numbers of the key as `rsa` wants them: the conversion of `ssh-key` 0.6 hands over one prime
/// twice, which `rsa` refuses.
fn rsa_key(pair: &RsaKeypair) -> Option<rsa::RsaPrivateKey> {
    let number = |number: &ssh_key::Mpint| rsa::BigUint::try_from(number).ok();
    rsa::RsaPrivateKey::from_components(
        number(&pair.public.n)?,
        number(&pair.public.e)?,
        number(&pair.private.d)?,
        vec![number(&pair.private.p)?, number(&pair.private.q)?],
    )
    .ok()
}
