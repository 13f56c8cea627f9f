//! OpenPGP packets (RFC 4880 and 9580): keys and signatures of version 4.

use super::SignatureError;

/// Packets in one block: a key ring of hundreds of certificates with their certifications.
const MAX_PACKETS: usize = 20_000;

/// Tags of packets.
pub const SIGNATURE: u8 = 2;
pub const SECRET_KEY: u8 = 5;
pub const PUBLIC_KEY: u8 = 6;
pub const SECRET_SUBKEY: u8 = 7;
pub const USER_ID: u8 = 13;
pub const PUBLIC_SUBKEY: u8 = 14;
pub const USER_ATTRIBUTE: u8 = 17;

/// Subpackets that are understood or may be left unread; others that are marked as critical make a
/// signature worthless.
const KNOWN_SUBPACKETS: [u8; 26] = [
    2, 3, 4, 5, 6, 7, 9, 11, 12, 16, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 39,
];
/// Remarks of signers: critical ones must be understood, and none is.
const NOTATION: u8 = 20;

#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    pub tag: u8,
    pub body: &'a [u8],
}

/// Reads forward; every read may find the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<usize> {
        let bytes: [u8; 2] = self.take(2)?.try_into().ok()?;
        Some(usize::from(u16::from_be_bytes(bytes)))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A number without its leading zeros.
    fn mpi(&mut self) -> Option<&'a [u8]> {
        let bits = self.u16()?;
        let bytes = self.take(bits.div_ceil(8))?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.get(zeros..)
    }

    /// The length of a packet or subpacket; none for the partial ones, which stand only before data.
    fn length(&mut self, partial: bool) -> Option<usize> {
        let first = usize::from(self.u8()?);
        match first {
            0..=191 => Some(first),
            255 => usize::try_from(self.u32()?).ok(),
            224..=254 if partial => None,
            _ => {
                let second = usize::from(self.u8()?);
                Some(((first - 192) << 8) + second + 192)
            }
        }
    }
}

/// # Errors
/// The bytes are no packets.
pub fn packets<'a>(bytes: &'a [u8], what: &'static str) -> Result<Vec<Packet<'a>>, SignatureError> {
    let mut reader = Reader(bytes);
    let mut found = Vec::new();
    while !reader.0.is_empty() {
        let packet = next(&mut reader)
            .ok_or_else(|| SignatureError::malformed(what, "it is no sequence of packets"))?;
        found.push(packet);
        if found.len() > MAX_PACKETS {
            return Err(SignatureError::malformed(what, "it has too many packets"));
        }
    }
    Ok(found)
}

fn next<'a>(reader: &mut Reader<'a>) -> Option<Packet<'a>> {
    let first = reader.u8()?;
    if first & 0x80 == 0 {
        return None;
    }
    let (tag, length) = if first & 0x40 != 0 {
        (first & 0x3f, reader.length(true)?)
    } else {
        let length = match first & 3 {
            0 => usize::from(reader.u8()?),
            1 => reader.u16()?,
            2 => usize::try_from(reader.u32()?).ok()?,
            _ => return None,
        };
        ((first >> 2) & 0xf, length)
    };
    let body = reader.take(length)?;
    Some(Packet { tag, body })
}

/// What a public key is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Ecdsa {
        curve: Vec<u8>,
        point: Vec<u8>,
    },
    EdDsa {
        curve: Vec<u8>,
        point: Vec<u8>,
    },
    /// Of another algorithm, by its number.
    Other(u8),
}

/// A public key of version 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// As hashed.
    pub body: Vec<u8>,
    /// Seconds since 1970.
    pub created: u32,
    pub material: Material,
}

impl PublicKey {
    /// None for another version, or when the bytes end too early.
    pub fn parse(body: &[u8]) -> Option<PublicKey> {
        let mut reader = Reader(body);
        if reader.u8()? != 4 {
            return None;
        }
        let created = reader.u32()?;
        let algorithm = reader.u8()?;
        let material = match algorithm {
            1 | 3 => Material::Rsa {
                n: reader.mpi()?.to_owned(),
                e: reader.mpi()?.to_owned(),
            },
            19 | 22 => {
                let length = usize::from(reader.u8()?);
                let curve = reader.take(length)?.to_owned();
                let point = reader.mpi()?.to_owned();
                match algorithm {
                    19 => Material::Ecdsa { curve, point },
                    _ => Material::EdDsa { curve, point },
                }
            }
            other => Material::Other(other),
        };
        Some(PublicKey {
            body: body.to_owned(),
            created,
            material,
        })
    }
}

/// A signature of version 4.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signature {
    pub kind: u8,
    pub key_algorithm: u8,
    pub hash: u8,
    /// What of it is signed too: from its version to the end of its first subpackets.
    pub head: Vec<u8>,
    /// Seconds since 1970.
    pub created: u32,
    /// Seconds after that; 0 for never.
    pub expires_after: u32,
    /// Seconds after the key was made; 0 for never.
    pub key_expires_after: u32,
    pub primary_user: bool,
    pub issuer: Option<[u8; 8]>,
    /// What the key may be used for, if it says so.
    pub flags: Option<u8>,
    /// Why the key was revoked.
    pub reason: Option<u8>,
    /// That of a subkey, by which it agrees to belong to the key.
    pub embedded: Option<Box<Signature>>,
    /// Something critical that is not understood.
    pub unknown: bool,
    /// The first bytes of the digest, to find mistakes early.
    pub left: [u8; 2],
    pub numbers: Vec<Vec<u8>>,
}

impl Signature {
    /// The version when it is another one; none when the bytes end too early.
    pub fn parse(body: &[u8]) -> Result<Option<Signature>, u8> {
        match body.first() {
            Some(4) => Ok(Signature::version_4(body, true)),
            Some(other) => Err(*other),
            None => Ok(None),
        }
    }

    fn version_4(body: &[u8], may_embed: bool) -> Option<Signature> {
        let mut reader = Reader(body);
        if reader.u8()? != 4 {
            return None;
        }
        let (kind, key_algorithm, hash) = (reader.u8()?, reader.u8()?, reader.u8()?);
        let hashed_length = reader.u16()?;
        let hashed = reader.take(hashed_length)?;
        let unhashed_length = reader.u16()?;
        let unhashed = reader.take(unhashed_length)?;
        let mut signature = Signature {
            kind,
            key_algorithm,
            hash,
            head: body.get(..6 + hashed.len())?.to_owned(),
            left: reader.take(2)?.try_into().ok()?,
            ..Signature::default()
        };
        let mut dated = false;
        signature.subpackets(hashed, true, may_embed, &mut dated)?;
        signature.subpackets(unhashed, false, may_embed, &mut dated)?;
        if !dated {
            return None;
        }
        while !reader.0.is_empty() {
            signature.numbers.push(reader.mpi()?.to_owned());
        }
        Some(signature)
    }

    /// Of what is not signed, only who made it (which the key proves) and signatures (which prove
    /// themselves) are taken.
    fn subpackets(
        &mut self,
        bytes: &[u8],
        signed: bool,
        may_embed: bool,
        dated: &mut bool,
    ) -> Option<()> {
        let mut reader = Reader(bytes);
        while !reader.0.is_empty() {
            let length = reader.length(false)?;
            let mut content = Reader(reader.take(length)?);
            let first = content.u8()?;
            let (critical, kind) = (first & 0x80 != 0, first & 0x7f);
            match kind {
                16 => self.issuer = Some(content.take(8)?.try_into().ok()?),
                33 if self.issuer.is_none() && content.u8() == Some(4) => {
                    let fingerprint = content.take(20)?;
                    self.issuer = Some(fingerprint.get(12..)?.try_into().ok()?);
                }
                32 if may_embed => {
                    self.embedded = Signature::version_4(content.0, false).map(Box::new);
                }
                _ if !signed => {}
                2 => {
                    self.created = content.u32()?;
                    *dated = true;
                }
                3 => self.expires_after = content.u32()?,
                9 => self.key_expires_after = content.u32()?,
                25 => self.primary_user = content.u8()? != 0,
                27 => self.flags = Some(content.u8().unwrap_or_default()),
                29 => self.reason = Some(content.u8()?),
                NOTATION => self.unknown |= critical,
                kind => self.unknown |= critical && !KNOWN_SUBPACKETS.contains(&kind),
            }
        }
        Some(())
    }

    /// As people write the key's id.
    pub fn issuer_name(&self) -> String {
        self.issuer
            .map_or_else(|| "an unnamed key".to_owned(), hex::encode_upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_both_forms_are_read_and_broken_ones_refused() {
        let bytes = [0xc2, 2, 7, 8, 0x88, 1, 9, 0x99, 0, 1, 5];
        let found = packets(&bytes, "key").unwrap();
        let tags: Vec<(u8, &[u8])> = found.iter().map(|p| (p.tag, p.body)).collect();
        assert_eq!(tags, [(2, &[7, 8][..]), (2, &[9]), (6, &[5])]);
        for bad in [
            &[0x02, 1, 1][..],
            &[0xc2, 5, 1],
            &[0xc2, 230, 1],
            &[0x8b, 1],
        ] {
            assert!(packets(bad, "key").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_signature_without_a_signed_date_is_none() {
        // Version 4, over a document, Ed25519, SHA-256; the date stands among what is not signed.
        let body = [4, 0, 22, 8, 0, 0, 0, 6, 5, 2, 1, 2, 3, 4, 0xaa, 0xbb];
        assert_eq!(Signature::parse(&body), Ok(None));
        let body = [4, 0, 22, 8, 0, 6, 5, 2, 1, 2, 3, 4, 0, 0, 0xaa, 0xbb];
        let signature = Signature::parse(&body).unwrap().unwrap();
        assert_eq!(signature.created, 0x0102_0304);
        assert_eq!(signature.head, &body[..12]);
        assert_eq!(Signature::parse(&[6, 0]), Err(6));
    }

    #[test]
    fn what_is_critical_and_unknown_is_marked() {
        for (kind, unknown) in [
            (0x80 | 99, true),
            (99, false),
            (0x80 | 20, true),
            (20, false),
        ] {
            let body = [
                4, 0, 22, 8, 0, 9, 5, 2, 1, 2, 3, 4, 2, kind, 0, 0, 0, 0xaa, 0xbb,
            ];
            let signature = Signature::parse(&body).unwrap().unwrap();
            assert_eq!(signature.unknown, unknown, "{kind}");
        }
    }
}
