//! Signatures of `ssh-keygen -Y sign`, as git makes them.

use ssh_key::{AuthorizedKeys, HashAlg, PublicKey, SshSig};

use super::{MAX_TEXT, SignatureError};

pub const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
/// What git's signatures are made for: one made for a mail is none of a commit.
const NAMESPACE: &str = "git";

/// `keys` is read as `authorized_keys` files are; its first key counts, as with BuildKit.
pub fn verify(content: &[u8], signature: &str, keys: &str) -> Result<(), SignatureError> {
    if signature.len() > MAX_TEXT || keys.len() > MAX_TEXT {
        return Err(SignatureError::malformed("signature", "it is too large"));
    }
    let signature = SshSig::from_pem(signature.trim_end())
        .map_err(|_| SignatureError::malformed("signature", "it is no SSH signature"))?;
    if !matches!(signature.hash_alg(), HashAlg::Sha256 | HashAlg::Sha512) {
        return Err(SignatureError::Unsupported(
            "SSH signature hash algorithm".into(),
        ));
    }
    if signature.namespace() != NAMESPACE {
        return Err(SignatureError::Ssh(format!(
            "unexpected SSH signature namespace: {:?}",
            signature.namespace()
        )));
    }
    let key = first_key(keys).ok_or_else(|| {
        SignatureError::malformed(
            "public key",
            "an SSH signature needs an SSH key: a line as in authorized_keys",
        )
    })?;
    if key.key_data() != signature.public_key() {
        return Err(SignatureError::Ssh(format!(
            "it was made by another key ({}) than the given one ({})",
            signature.public_key().fingerprint(HashAlg::Sha256),
            key.fingerprint(HashAlg::Sha256)
        )));
    }
    key.verify(NAMESPACE, content, &signature)
        .map_err(|_| SignatureError::Ssh("it is not a signature of this content".into()))
}

/// Version, and fingerprint of the key that a signature names.
pub fn signer(signature: &str) -> Option<(u32, String)> {
    if signature.len() > MAX_TEXT {
        return None;
    }
    let signature = SshSig::from_pem(signature.trim_end()).ok()?;
    let key = signature.public_key().fingerprint(HashAlg::Sha256);
    Some((signature.version(), key.to_string()))
}

fn first_key(keys: &str) -> Option<PublicKey> {
    // Line by line: what is not understood is passed over.
    keys.lines().find_map(|line| {
        let mut entries = AuthorizedKeys::new(line);
        let entry = entries.next()?.ok()?;
        Some(entry.public_key().clone())
    })
}
