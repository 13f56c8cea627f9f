//! A key with what its owner says of it: names, subkeys, lifetimes, revocations. Only what the
//! key itself has signed counts; others' certifications are passed over.

use super::SignatureError;
use super::crypto::{self, Hasher};
use super::packet::{self, Packet, PublicKey, Signature};

/// Signatures that are checked for one certificate: an honest one needs a handful, and each costs
/// as much as a login.
const MAX_CHECKS: usize = 200;

/// Kinds of signatures.
const CERTIFICATIONS: std::ops::RangeInclusive<u8> = 0x10..=0x13;
const SUBKEY_BINDING: u8 = 0x18;
const PRIMARY_BINDING: u8 = 0x19;
const DIRECT: u8 = 0x1f;
const KEY_REVOCATION: u8 = 0x20;
const SUBKEY_REVOCATION: u8 = 0x28;
const CERTIFICATION_REVOCATION: u8 = 0x30;

/// In the flags of a key: may sign documents.
const MAY_SIGN: u8 = 0x02;
/// Reasons for which a key was never to be trusted again, whenever it signed: none given, and
/// stolen.
const HARD_REASONS: [u8; 2] = [0, 2];

/// A name or picture, with the bytes that stand for it in what is signed.
#[derive(Debug)]
struct Name {
    hashed: Vec<u8>,
    signatures: Vec<Signature>,
}

#[derive(Debug)]
struct Subkey {
    key: PublicKey,
    id: [u8; 8],
    signatures: Vec<Signature>,
}

#[derive(Debug)]
pub struct Certificate {
    key: PublicKey,
    id: [u8; 8],
    signatures: Vec<Signature>,
    names: Vec<Name>,
    subkeys: Vec<Subkey>,
}

/// One of a certificate's keys.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    Primary,
    Subkey(usize),
}

fn id(key: &PublicKey) -> Option<[u8; 8]> {
    let length = u16::try_from(key.body.len()).ok()?.to_be_bytes();
    let fingerprint = crypto::sha1(&[&[0x99], &length, &key.body]);
    fingerprint.get(12..)?.try_into().ok()
}

/// How a key stands in what is signed.
fn hash_key(hasher: &mut Hasher, key: &PublicKey) {
    let length = u16::try_from(key.body.len()).unwrap_or_default();
    hasher.update(&[0x99]);
    hasher.update(&length.to_be_bytes());
    hasher.update(&key.body);
}

/// Ends what is signed with the signature's own part.
pub fn finish(mut hasher: Hasher, signature: &Signature) -> Vec<u8> {
    hasher.update(&suffix(signature));
    hasher.finish()
}

/// The signature's own part of what is signed, which stands at its end.
pub fn suffix(signature: &Signature) -> Vec<u8> {
    let length = u32::try_from(signature.head.len()).unwrap_or_default();
    [&signature.head[..], &[4, 0xff], &length.to_be_bytes()].concat()
}

/// The certificates of a block. Keys of other versions are left out; `skipped` counts them.
///
/// # Errors
/// It is no public key, or a secret one.
pub fn read(bytes: &[u8], skipped: &mut usize) -> Result<Vec<Certificate>, SignatureError> {
    let what = "public key";
    let mut found: Vec<Certificate> = Vec::new();
    // What signatures that follow are about; nothing after a key that was left out.
    enum At {
        Nothing,
        Key,
        Name,
        Subkey,
    }
    let mut at = At::Nothing;
    let mut inside = false;
    for Packet { tag, body } in packet::packets(bytes, what)? {
        match tag {
            packet::SECRET_KEY | packet::SECRET_SUBKEY => {
                return Err(SignatureError::malformed(
                    what,
                    "it is a secret key, which nobody else should see; give the public one",
                ));
            }
            packet::PUBLIC_KEY => {
                inside = false;
                at = At::Nothing;
                let key = PublicKey::parse(body);
                match key.and_then(|key| Some((id(&key)?, key))) {
                    Some((id, key)) => {
                        inside = true;
                        at = At::Key;
                        found.push(Certificate {
                            key,
                            id,
                            signatures: Vec::new(),
                            names: Vec::new(),
                            subkeys: Vec::new(),
                        });
                    }
                    None => *skipped += 1,
                }
                continue;
            }
            _ => {}
        }
        let Some(certificate) = found.last_mut().filter(|_| inside) else {
            continue;
        };
        match tag {
            packet::USER_ID | packet::USER_ATTRIBUTE => {
                let mark = if tag == packet::USER_ID { 0xb4 } else { 0xd1 };
                let length = u32::try_from(body.len()).unwrap_or_default();
                let mut hashed = vec![mark];
                hashed.extend(length.to_be_bytes());
                hashed.extend_from_slice(body);
                certificate.names.push(Name {
                    hashed,
                    signatures: Vec::new(),
                });
                at = At::Name;
            }
            packet::PUBLIC_SUBKEY => {
                let key = PublicKey::parse(body);
                at = match key.and_then(|key| Some((id(&key)?, key))) {
                    Some((id, key)) => {
                        certificate.subkeys.push(Subkey {
                            key,
                            id,
                            signatures: Vec::new(),
                        });
                        At::Subkey
                    }
                    None => At::Nothing,
                };
            }
            packet::SIGNATURE => {
                // Of another version: made by a key that is not known here, or for what is newer.
                let Ok(Some(signature)) = Signature::parse(body) else {
                    continue;
                };
                if signature.issuer != Some(certificate.id) {
                    continue;
                }
                let list = match at {
                    At::Nothing => None,
                    At::Key => Some(&mut certificate.signatures),
                    At::Name => certificate
                        .names
                        .last_mut()
                        .map(|name| &mut name.signatures),
                    At::Subkey => certificate
                        .subkeys
                        .last_mut()
                        .map(|subkey| &mut subkey.signatures),
                };
                if let Some(list) = list {
                    list.push(signature);
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

impl Certificate {
    /// Those of its keys that have this id.
    pub fn keys(&self, wanted: [u8; 8]) -> impl Iterator<Item = Which> + '_ {
        let primary = (self.id == wanted).then_some(Which::Primary);
        let subkeys = self.subkeys.iter().enumerate();
        primary.into_iter().chain(
            subkeys
                .filter(move |(_, subkey)| subkey.id == wanted)
                .map(|(at, _)| Which::Subkey(at)),
        )
    }

    pub fn key(&self, which: Which) -> &PublicKey {
        match which {
            Which::Primary => &self.key,
            Which::Subkey(at) => self.subkeys.get(at).map_or(&self.key, |subkey| &subkey.key),
        }
    }

    /// Why the key could not sign documents at `time` (seconds since 1970), if it could not.
    pub fn may_sign(&self, which: Which, time: i64) -> Result<(), String> {
        let mut checks = Checks(MAX_CHECKS);
        if let Some(why) = crypto::unusable(&self.key) {
            return Err(why);
        }
        let revoked = self.signatures.iter().filter(|s| s.kind == KEY_REVOCATION);
        for revocation in revoked {
            if checks.of(&self.key, revocation, |hasher| hash_key(hasher, &self.key))? {
                return Err("key revoked".into());
            }
        }
        let own = self
            .own_statement(&mut checks)?
            .ok_or("the key has no valid signature by itself")?;
        lifetime(&self.key, own, time)?;
        match which {
            Which::Primary => {
                let may = own.flags.is_some_and(|flags| flags & MAY_SIGN != 0);
                may.then_some(())
                    .ok_or_else(|| "the key was not made for signing".to_owned())
            }
            Which::Subkey(at) => match self.subkeys.get(at) {
                Some(subkey) => self.subkey_may_sign(subkey, time, &mut checks),
                None => Err("no such subkey".into()),
            },
        }
    }

    /// What the key last said of itself: with the name that it calls its main one, with another
    /// one, or without any.
    fn own_statement(&self, checks: &mut Checks) -> Result<Option<&Signature>, String> {
        let mut best: Option<&Signature> = None;
        for name in &self.names {
            let by_name = |hasher: &mut Hasher| {
                hash_key(hasher, &self.key);
                hasher.update(&name.hashed);
            };
            let newest = newest(&name.signatures, |kind| {
                CERTIFICATIONS.contains(&kind) || kind == CERTIFICATION_REVOCATION
            });
            for signature in newest {
                if !checks.of(&self.key, signature, by_name)? {
                    continue;
                }
                let better = best.is_none_or(|best| {
                    (signature.primary_user, signature.created) > (best.primary_user, best.created)
                });
                if signature.kind != CERTIFICATION_REVOCATION && better {
                    best = Some(signature);
                }
                break;
            }
        }
        if best.is_some() {
            return Ok(best);
        }
        for signature in newest(&self.signatures, |kind| kind == DIRECT) {
            if checks.of(&self.key, signature, |hasher| hash_key(hasher, &self.key))? {
                return Ok(Some(signature));
            }
        }
        Ok(None)
    }

    fn subkey_may_sign(
        &self,
        subkey: &Subkey,
        time: i64,
        checks: &mut Checks,
    ) -> Result<(), String> {
        if let Some(why) = crypto::unusable(&subkey.key) {
            return Err(why);
        }
        let both = |hasher: &mut Hasher| {
            hash_key(hasher, &self.key);
            hash_key(hasher, &subkey.key);
        };
        for revocation in newest(&subkey.signatures, |kind| kind == SUBKEY_REVOCATION) {
            let hard = HARD_REASONS.contains(&revocation.reason.unwrap_or_default());
            if (hard || i64::from(revocation.created) <= time)
                && checks.of(&self.key, revocation, both)?
            {
                return Err("subkey revoked".into());
            }
        }
        for binding in newest(&subkey.signatures, |kind| kind == SUBKEY_BINDING) {
            if !checks.of(&self.key, binding, both)? {
                continue;
            }
            lifetime(&subkey.key, binding, time)?;
            if binding.flags.is_none_or(|flags| flags & MAY_SIGN == 0) {
                return Err("the subkey was not made for signing".into());
            }
            // Else anybody could take another's signing key for his own.
            let back = binding
                .embedded
                .as_deref()
                .filter(|back| back.kind == PRIMARY_BINDING);
            let agreed = match back {
                Some(back) => checks.of(&subkey.key, back, both)?,
                None => false,
            };
            return agreed
                .then_some(())
                .ok_or_else(|| "the subkey has not agreed to belong to the key".to_owned());
        }
        Err("the subkey is not bound to the key".into())
    }
}

/// Counts what is left of the work that one certificate may cost.
struct Checks(usize);

impl Checks {
    fn of(
        &mut self,
        key: &PublicKey,
        signature: &Signature,
        what: impl FnOnce(&mut Hasher),
    ) -> Result<bool, String> {
        let left = self.0.checked_sub(1);
        self.0 = left.ok_or("the key has too many signatures by itself")?;
        if signature.unknown {
            return Ok(false);
        }
        let Some(mut hasher) = Hasher::of(signature.hash) else {
            return Ok(false);
        };
        what(&mut hasher);
        let digest = finish(hasher, signature);
        Ok(crypto::verifies(key, signature, &digest))
    }
}

/// Those of some kinds, newest first.
fn newest(signatures: &[Signature], kinds: impl Fn(u8) -> bool) -> Vec<&Signature> {
    let mut found: Vec<&Signature> = signatures.iter().filter(|s| kinds(s.kind)).collect();
    found.sort_by_key(|signature| std::cmp::Reverse(signature.created));
    found
}

/// Whether the key was good at that time, as the signature over it says.
fn lifetime(key: &PublicKey, statement: &Signature, time: i64) -> Result<(), String> {
    let created = i64::from(key.created);
    if created > time {
        return Err("the key is younger than the signature".into());
    }
    let ends = |from: i64, seconds: u32| (seconds != 0).then(|| from + i64::from(seconds));
    let key_end = ends(created, statement.key_expires_after);
    let statement_end = ends(i64::from(statement.created), statement.expires_after);
    let end = [key_end, statement_end].into_iter().flatten().min();
    match end {
        Some(end) if time > end => Err(format!("key expired at {}", shown(end))),
        _ => Ok(()),
    }
}

/// A time for people.
pub fn shown(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| {
            time.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_else(|| seconds.to_string())
}
