//! Against keys and signatures that GnuPG made.

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// 2024-01-05, three days after the signatures were made.
const SOON: i64 = 1_704_456_000;
/// 2024-06-01: a key that was made for thirty days is no longer good.
const LATER: i64 = 1_717_200_000;

fn data(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/signature/testdata");
    std::fs::read_to_string(dir.join(name)).unwrap()
}

fn check(content: &[u8], signature: &str, keys: &str, now: i64) -> Result<(), SignatureError> {
    let mut content = std::io::Cursor::new(content);
    verify_detached(&mut content, signature, keys, Policy::default(), now)
}

fn named(signature: &str, key: &str) -> Result<(), SignatureError> {
    let content = data("content");
    let (signature, key) = (
        data(&format!("{signature}.sig")),
        data(&format!("{key}.pub")),
    );
    check(content.as_bytes(), &signature, &key, SOON)
}

fn refusal(signature: &str, key: &str) -> String {
    named(signature, key).unwrap_err().to_string()
}

#[test]
fn signatures_of_every_kind_of_key_that_gnupg_makes_are_verified() {
    for name in ["ed", "rsa", "p256", "p384", "p521", "sub"] {
        assert_eq!(named(name, name), Ok(()), "{name}");
    }
    assert_eq!(named("ed-text", "ed"), Ok(()));
}

#[test]
fn content_that_is_elsewhere_is_verified_by_its_digest() {
    use sha2::Digest as _;
    for name in ["ed", "rsa", "p256", "p384", "p521", "sub"] {
        let (signature, keys) = (data(&format!("{name}.sig")), data(&format!("{name}.pub")));
        let question = digest_question(&signature, &keys).unwrap();
        let hashed = |content: &str| {
            let bytes = [content.as_bytes(), &question.suffix].concat();
            match question.algorithm {
                "sha256" => sha2::Sha256::digest(bytes).to_vec(),
                "sha384" => sha2::Sha384::digest(bytes).to_vec(),
                _ => sha2::Sha512::digest(bytes).to_vec(),
            }
        };
        let verify =
            |digest: &[u8]| verify_digest(digest, &signature, &keys, Policy::default(), SOON);
        assert_eq!(verify(&hashed(&data("content"))), Ok(()), "{name}");
        assert!(matches!(
            verify(&hashed("other")),
            Err(SignatureError::Mismatch { .. })
        ));
        assert!(verify(b"").is_err());
    }
    let other = digest_question(&data("ed.sig"), &data("rsa.pub"));
    assert!(matches!(other, Err(SignatureError::UnknownIssuer { .. })));
    assert!(digest_question(&data("ed-sha1.sig"), &data("ed.pub")).is_err());
}

#[test]
fn signers_are_told_by_their_keys() {
    let Some(Signer::Pgp { version, key }) = signer(&data("ed.sig")) else {
        panic!("a signature of OpenPGP");
    };
    let key = key.unwrap();
    assert_eq!((version, key.len()), (4, 16));
    let refused = refusal("ed", "rsa");
    assert!(refused.to_lowercase().contains(&key), "{refused}: {key}");
    assert_eq!(
        signer("-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n"),
        None
    );
    assert_eq!(signer("no signature"), None);
}

#[test]
fn text_is_the_same_with_other_line_ends_and_bytes_are_not() {
    let other = data("content").replace('\n', "\r\n");
    let key = data("ed.pub");
    let text = check(other.as_bytes(), &data("ed-text.sig"), &key, SOON);
    assert_eq!(text, Ok(()));
    let bytes = check(other.as_bytes(), &data("ed.sig"), &key, SOON);
    assert!(matches!(bytes, Err(SignatureError::Mismatch { .. })));
}

#[test]
fn another_content_or_another_key_is_refused() {
    let content = b"the content\nof two line\n";
    for name in ["ed", "rsa", "p256", "p384", "p521", "sub"] {
        let (signature, key) = (data(&format!("{name}.sig")), data(&format!("{name}.pub")));
        let found = check(content, &signature, &key, SOON);
        assert!(
            matches!(found, Err(SignatureError::Mismatch { .. })),
            "{name}: {found:?}"
        );
    }
    assert!(refusal("ed", "rsa").contains("made by none of the given keys"));
    let all = format!(
        "{}\n{}{}",
        data("p256.pub"),
        data("ed.pub"),
        data("rsa.pub")
    );
    let content = data("content");
    let found = check(content.as_bytes(), &data("ed.sig"), &all, SOON);
    assert_eq!(found, Ok(()));
}

#[test]
fn weak_hashes_and_short_keys_are_refused() {
    assert_eq!(
        refusal("ed-sha1", "ed"),
        "rejecting weak/unknown hash: SHA-1"
    );
    assert!(refusal("small", "small").contains("RSA key too short: 1024 bits"));
}

#[test]
fn revoked_keys_and_subkeys_never_count() {
    assert!(refusal("revoked", "revoked").ends_with("key revoked"));
    assert!(refusal("subrev", "subrev").ends_with("subkey revoked"));
}

#[test]
fn an_expired_key_counts_for_what_it_signed_before_unless_that_is_refused() {
    let (content, signature, key) = (data("content"), data("short.sig"), data("short.pub"));
    let at = |now, reject_expired| {
        let mut content = std::io::Cursor::new(content.as_bytes());
        let policy = Policy { reject_expired };
        verify_detached(&mut content, &signature, &key, policy, now)
    };
    assert_eq!(at(SOON, true), Ok(()));
    assert_eq!(at(LATER, false), Ok(()));
    let refused = at(LATER, true).unwrap_err().to_string();
    assert!(
        refused.contains("key expired at 2024-01-31T12:00:00Z"),
        "{refused}"
    );
}

#[test]
fn a_signature_of_tomorrow_is_refused() {
    let content = data("content");
    let found = check(
        content.as_bytes(),
        &data("ed.sig"),
        &data("ed.pub"),
        SOON - 4 * 86_400,
    );
    assert_eq!(found, Err(SignatureError::Future));
}

/// The packets of a certificate, with a change.
fn edited(name: &str, keep: impl Fn(usize, u8) -> bool) -> String {
    use base64::Engine as _;
    let blocks = armor::blocks(&data(name), "key").unwrap();
    let mut bytes = Vec::new();
    for (at, packet) in packet::packets(&blocks[0].bytes, "key")
        .unwrap()
        .iter()
        .enumerate()
    {
        if keep(at, packet.tag) {
            bytes.extend([0xc0 | packet.tag, 255]);
            bytes.extend(u32::try_from(packet.body.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(packet.body);
        }
    }
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    format!("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{text}\n-----END PGP PUBLIC KEY BLOCK-----\n")
}

#[test]
fn a_subkey_counts_only_when_its_key_and_itself_say_so() {
    let (content, signature) = (data("content"), data("sub.sig"));
    let with = |keys: &str| check(content.as_bytes(), &signature, keys, SOON);
    assert_eq!(with(&edited("sub.pub", |_, _| true)), Ok(()));
    // The last packet is the binding of the subkey.
    let unbound = with(&edited("sub.pub", |at, _| at != 4)).unwrap_err();
    assert!(unbound.to_string().contains("not bound"), "{unbound}");
    // The second and third are the name and what the key says of itself with it.
    let silent = with(&edited("sub.pub", |at, _| at != 2)).unwrap_err();
    assert!(
        silent.to_string().contains("no valid signature by itself"),
        "{silent}"
    );
}

#[test]
fn a_key_that_was_not_made_for_signing_signs_nothing() {
    let blocks = armor::blocks(&data("certonly.pub"), "key").unwrap();
    let certificates = certificate::read(&blocks[0].bytes, &mut 0).unwrap();
    let why = certificates[0].may_sign(certificate::Which::Primary, SOON);
    assert_eq!(why.unwrap_err(), "the key was not made for signing");
}

#[test]
fn a_secret_key_is_refused_with_a_word_about_it() {
    let secret = data("ed.pub").replace("PUBLIC", "PRIVATE");
    let found = check(b"", &data("ed.sig"), &secret, SOON).unwrap_err();
    assert!(found.to_string().contains("secret key"), "{found}");
}

#[test]
fn no_byte_of_a_signature_can_be_changed() {
    use base64::Engine as _;
    let content = data("content");
    for name in ["ed", "rsa", "p256"] {
        let key = data(&format!("{name}.pub"));
        let blocks = armor::blocks(&data(&format!("{name}.sig")), "signature").unwrap();
        let whole = blocks[0].bytes.clone();
        let body = packet::packets(&whole, "signature").unwrap()[0].body;
        let offset = whole.len() - body.len();
        let unsigned_from = 6 + usize::from(u16::from_be_bytes([body[4], body[5]]));
        let unsigned = u16::from_be_bytes([body[unsigned_from], body[unsigned_from + 1]]);
        let unsigned = unsigned_from + 2..unsigned_from + 2 + usize::from(unsigned);
        for at in (0..body.len()).filter(|at| !unsigned.contains(at)) {
            let mut bytes = whole.clone();
            bytes[offset + at] ^= 1;
            // The length of a number in bits may be written in more than one way.
            if packet::Signature::parse(&bytes[offset..]) == packet::Signature::parse(body) {
                continue;
            }
            let text = base64::engine::general_purpose::STANDARD.encode(&bytes);
            let text =
                format!("-----BEGIN PGP SIGNATURE-----\n\n{text}\n-----END PGP SIGNATURE-----\n");
            let found = check(content.as_bytes(), &text, &key, SOON);
            assert!(found.is_err(), "{name}: byte {at}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_make_the_reader_panic(
        content in proptest::collection::vec(any::<u8>(), 0..64),
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(&bytes);
        let block = |kind: &str| format!("-----BEGIN PGP {kind}-----\n\n{text}\n-----END PGP {kind}-----\n");
        try_verify(&content, &block("SIGNATURE"), &block("PUBLIC KEY BLOCK"));
        try_verify(&bytes, &data("ed.sig"), &block("PUBLIC KEY BLOCK"));
    }
}
