//! Signatures of sources: OpenPGP (armored) and SSH. Only verifying, and only what signers of today
//! use: what else there is gets refused by name. The arithmetic is that of the RustCrypto crates;
//! here is how the bytes around it are read, and what must hold before a signature counts.
//!
//! The rules are BuildKit's: SHA-2 over the content, keys of RSA (2048 bits and more), ECDSA and
//! Ed25519 that were made for signing, no revoked key at all, and expired keys only when the
//! signature is as old as the key was good (or not at all, if the build says so).

mod armor;
mod certificate;
mod crypto;
mod git_object;
mod openpgp;
mod packet;
mod ssh;

pub use git_object::{GitObject, ObjectKind};
pub use openpgp::{DigestQuestion, Policy, digest_question, verify_detached, verify_digest};

/// Largest signature or set of keys, in bytes of text: a release team's whole key ring.
pub const MAX_TEXT: usize = 4 << 20;

/// Why something does not count as signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("git object is not signed")]
    NotSigned,
    /// Of what, and what is wrong with it.
    #[error("the {what} cannot be read: {why}")]
    Malformed {
        what: &'static str,
        why: &'static str,
    },
    #[error("unsupported {0}")]
    Unsupported(String),
    #[error("rejecting weak/unknown hash: {0}")]
    WeakHash(String),
    #[error("signature by {issuer}: made by none of the given keys")]
    UnknownIssuer { issuer: String },
    #[error("signature by {issuer}: it is not a signature of this content")]
    Mismatch { issuer: String },
    /// The key exists and fits, but may not be used.
    #[error("signature by {issuer}: {why}")]
    Key { issuer: String, why: String },
    #[error("signature creation time is in the future")]
    Future,
    #[error("the content cannot be read: {0}")]
    Content(String),
    #[error("checksum mismatch: expected {expected}, got {found}")]
    Checksum { expected: String, found: String },
    #[error("failed to verify ssh signature: {0}")]
    Ssh(String),
}

impl SignatureError {
    fn malformed(what: &'static str, why: &'static str) -> SignatureError {
        SignatureError::Malformed { what, why }
    }
}

/// The signature of a git object by one of the keys: OpenPGP blocks, or a line of an SSH key.
/// `now` is in seconds since 1970.
///
/// # Errors
/// It has none, or none that counts.
pub fn verify_git_object(
    object: &GitObject<'_>,
    keys: &str,
    policy: Policy,
    now: i64,
) -> Result<(), SignatureError> {
    let signature = object
        .signature
        .as_deref()
        .ok_or(SignatureError::NotSigned)?;
    if signature.starts_with(ssh::BEGIN) {
        return ssh::verify(&object.payload, signature, keys);
    }
    if signature.starts_with(armor::BEGIN_SIGNATURE) {
        let mut content = std::io::Cursor::new(&object.payload);
        return verify_detached(&mut content, signature, keys, policy, now);
    }
    Err(SignatureError::malformed(
        "signature",
        "it is neither an OpenPGP nor an SSH signature",
    ))
}

/// Who says to have signed, as far as a signature tells it: nothing of it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// The number of the key, if it is told.
    Pgp { version: u8, key: Option<String> },
    /// The fingerprint of the key, as `ssh-keygen` writes it.
    Ssh { version: u32, key: String },
}

/// None for what cannot be read.
pub fn signer(signature: &str) -> Option<Signer> {
    if signature.starts_with(ssh::BEGIN) {
        let (version, key) = ssh::signer(signature)?;
        return Some(Signer::Ssh { version, key });
    }
    let (version, key) = openpgp::signer(signature)?;
    Some(Signer::Pgp { version, key })
}

/// For fuzzing: reads keys and a signature, and tries them on some content.
pub fn try_verify(content: &[u8], signature: &str, keys: &str) {
    let mut reader = std::io::Cursor::new(content);
    let _ = verify_detached(&mut reader, signature, keys, Policy::default(), i64::MAX);
    for kind in [ObjectKind::Commit, ObjectKind::Tag] {
        if let Ok(object) = GitObject::parse(content, kind, 40) {
            let _ = verify_git_object(&object, keys, Policy::default(), i64::MAX);
        }
    }
    let _ = ssh::verify(content, signature, keys);
    let _ = signer(signature);
    if digest_question(signature, keys).is_ok() {
        let _ = verify_digest(content, signature, keys, Policy::default(), i64::MAX);
    }
}

#[cfg(test)]
mod tests;
