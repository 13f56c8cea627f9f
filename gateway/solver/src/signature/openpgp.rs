//! Detached OpenPGP signatures: of files, and of git objects.

use std::io::{Read, Seek, SeekFrom};

use super::certificate::{self, Certificate, Which};
use super::crypto::{self, Hasher, SHA256, SHA384, SHA512};
use super::packet::{self, Signature};
use super::{SignatureError, armor};

/// Signatures of one content that are tried: teams sign with a few keys.
const MAX_SIGNATURES: usize = 16;
/// A clock may be wrong by this much, in seconds.
const CLOCK_SKEW: i64 = 5 * 60;

/// Kinds of signatures over content.
const BINARY: u8 = 0x00;
const TEXT: u8 = 0x01;

/// What else must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Keys must be good today, and not only when they signed.
    pub reject_expired: bool,
}

/// Checks an armored signature of `content` by one of the armored `keys`. `now` is in seconds
/// since 1970.
///
/// # Errors
/// Why it does not count.
pub fn verify_detached(
    content: &mut (impl Read + Seek),
    signature: &str,
    keys: &str,
    policy: Policy,
    now: i64,
) -> Result<(), SignatureError> {
    let signatures = signatures(signature)?;
    let certificates = certificates(keys)?;
    let deciding = deciding(signatures, &certificates)?;
    let digest = |signature: &Signature| digest(content, signature);
    check(
        &deciding.signature,
        &deciding.candidates,
        digest,
        policy,
        now,
    )
}

/// What must be asked about content that is elsewhere before a signature of it can be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestQuestion {
    /// Of `sha256`, `sha384`, `sha512`.
    pub algorithm: &'static str,
    /// What is hashed behind the content.
    pub suffix: Vec<u8>,
}

/// What [`verify_digest`] needs to know for this signature and these keys.
///
/// # Errors
/// It would not count whatever the content is.
pub fn digest_question(signature: &str, keys: &str) -> Result<DigestQuestion, SignatureError> {
    let signatures = signatures(signature)?;
    let certificates = certificates(keys)?;
    let signature = deciding(signatures, &certificates)?.signature;
    let algorithm = match signature.hash {
        SHA256 => "sha256",
        SHA384 => "sha384",
        SHA512 => "sha512",
        other => return Err(SignatureError::WeakHash(crypto::hash_name(other))),
    };
    Ok(DigestQuestion {
        algorithm,
        suffix: certificate::suffix(&signature),
    })
}

/// As [`verify_detached`], of content that is elsewhere: `digest` answers [`digest_question`].
///
/// # Errors
/// Why it does not count.
pub fn verify_digest(
    digest: &[u8],
    signature: &str,
    keys: &str,
    policy: Policy,
    now: i64,
) -> Result<(), SignatureError> {
    let signatures = signatures(signature)?;
    let certificates = certificates(keys)?;
    let deciding = deciding(signatures, &certificates)?;
    let given = |_: &Signature| Ok(digest.to_vec());
    check(
        &deciding.signature,
        &deciding.candidates,
        given,
        policy,
        now,
    )
}

/// Version and issuer of the first signature of a block.
pub(super) fn signer(signature: &str) -> Option<(u8, Option<String>)> {
    let first = signatures(signature).ok()?.into_iter().next()?;
    // Those of other versions cannot be read.
    Some((4, first.issuer.map(hex::encode)))
}

/// A signature, and the keys that it may be by.
struct Deciding<'a> {
    signature: Signature,
    candidates: Vec<(&'a Certificate, Which)>,
}

/// As with BuildKit, the first by a known key decides.
fn deciding(
    signatures: Vec<Signature>,
    certificates: &[Certificate],
) -> Result<Deciding<'_>, SignatureError> {
    let mut unknown = None;
    for signature in signatures {
        let Some(issuer) = signature.issuer else {
            return Err(SignatureError::malformed(
                "signature",
                "it does not say by which key it is",
            ));
        };
        let candidates: Vec<(&Certificate, Which)> = certificates
            .iter()
            .flat_map(|certificate| certificate.keys(issuer).map(move |key| (certificate, key)))
            .collect();
        match candidates.is_empty() {
            true => unknown = unknown.or(Some(signature.issuer_name())),
            false => {
                return Ok(Deciding {
                    signature,
                    candidates,
                });
            }
        }
    }
    Err(match unknown {
        Some(issuer) => SignatureError::UnknownIssuer { issuer },
        None => SignatureError::malformed("signature", "there is none in it"),
    })
}

fn signatures(text: &str) -> Result<Vec<Signature>, SignatureError> {
    let malformed = |why| SignatureError::malformed("signature", why);
    let mut found = Vec::new();
    let blocks = armor::blocks(text, "signature")?;
    let block = blocks
        .first()
        .ok_or_else(|| malformed("it is not armored (-----BEGIN PGP SIGNATURE-----)"))?;
    for packet in packet::packets(&block.bytes, "signature")? {
        if packet.tag != packet::SIGNATURE {
            return Err(malformed("something else stands in it"));
        }
        let signature = Signature::parse(packet.body)
            .map_err(|version| {
                SignatureError::Unsupported(format!("OpenPGP signature of version {version}"))
            })?
            .ok_or_else(|| malformed("it is broken"))?;
        found.push(signature);
        if found.len() > MAX_SIGNATURES {
            return Err(malformed("there are too many in it"));
        }
    }
    Ok(found)
}

fn certificates(text: &str) -> Result<Vec<Certificate>, SignatureError> {
    let malformed = |why| SignatureError::malformed("public key", why);
    let (mut found, mut skipped) = (Vec::new(), 0);
    for block in armor::blocks(text, "public key")? {
        match block.kind.as_str() {
            "PGP PUBLIC KEY BLOCK" => {
                found.extend(certificate::read(&block.bytes, &mut skipped)?);
            }
            "PGP PRIVATE KEY BLOCK" => {
                return Err(malformed(
                    "it is a secret key, which nobody else should see; give the public one",
                ));
            }
            _ => return Err(malformed("an armored block of another kind stands in it")),
        }
    }
    match (found.is_empty(), skipped) {
        (false, _) => Ok(found),
        (true, 0) => Err(malformed(
            "there is none in it (-----BEGIN PGP PUBLIC KEY BLOCK-----)",
        )),
        (true, _) => Err(SignatureError::Unsupported(
            "OpenPGP key: only those of version 4 are known".into(),
        )),
    }
}

fn check(
    signature: &Signature,
    candidates: &[(&Certificate, Which)],
    digest: impl FnOnce(&Signature) -> Result<Vec<u8>, SignatureError>,
    policy: Policy,
    now: i64,
) -> Result<(), SignatureError> {
    let issuer = signature.issuer_name();
    let refused = |why: &str| SignatureError::Key {
        issuer: issuer.clone(),
        why: why.to_owned(),
    };
    if !matches!(signature.hash, SHA256 | SHA384 | SHA512) {
        return Err(SignatureError::WeakHash(crypto::hash_name(signature.hash)));
    }
    if !matches!(signature.key_algorithm, 1 | 3 | 19 | 22) {
        return Err(SignatureError::Unsupported(format!(
            "public key algorithm of a signature: number {}",
            signature.key_algorithm
        )));
    }
    if !matches!(signature.kind, BINARY | TEXT) {
        return Err(refused("it is not a signature of documents"));
    }
    if signature.unknown {
        return Err(refused("it has a critical part that is not understood"));
    }
    let digest = digest(signature)?;
    let by = candidates
        .iter()
        .find(|(certificate, which)| crypto::verifies(certificate.key(*which), signature, &digest));
    let Some((certificate, which)) = by else {
        let unusable = candidates
            .iter()
            .find_map(|(certificate, which)| crypto::unusable(certificate.key(*which)));
        return Err(match unusable {
            Some(why) => refused(&why),
            None => SignatureError::Mismatch { issuer },
        });
    };
    let created = i64::from(signature.created);
    if created > now.saturating_add(CLOCK_SKEW) {
        return Err(SignatureError::Future);
    }
    let time = if policy.reject_expired { now } else { created };
    let end = created + i64::from(signature.expires_after);
    if signature.expires_after != 0 && time > end {
        let why = format!("the signature expired at {}", certificate::shown(end));
        return Err(refused(&why));
    }
    certificate
        .may_sign(*which, time)
        .map_err(|why| refused(&why))
}

fn digest(
    content: &mut (impl Read + Seek),
    signature: &Signature,
) -> Result<Vec<u8>, SignatureError> {
    let mut hasher = Hasher::of(signature.hash)
        .ok_or_else(|| SignatureError::WeakHash(crypto::hash_name(signature.hash)))?;
    let mut feed = || -> std::io::Result<()> {
        content.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 16];
        let mut after_return = false;
        loop {
            let count = content.read(&mut buffer)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            match signature.kind {
                TEXT => canonical(bytes, &mut after_return, &mut hasher),
                _ => hasher.update(bytes),
            }
        }
    };
    feed().map_err(|error| SignatureError::Content(error.to_string()))?;
    Ok(certificate::finish(hasher, signature))
}

/// Text is signed with the line ends of networks.
fn canonical(bytes: &[u8], after_return: &mut bool, hasher: &mut Hasher) {
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                let returned = text.last().map_or(*after_return, |byte| *byte == b'\r');
                hasher.update(text);
                hasher.update(if returned { b"\n" } else { b"\r\n" });
                *after_return = false;
            }
            None => {
                hasher.update(line);
                *after_return = line.last() == Some(&b'\r');
            }
        }
    }
}
