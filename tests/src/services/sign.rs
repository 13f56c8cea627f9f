//! Signatures, from the side of who checks them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::{ACCOUNT, ACCOUNT_KEY, Asked, KEY_ID, SECRET, decoded};

fn mac(key: &[u8], message: &str) -> [u8; 32] {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

fn escaped(text: &str, keep: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c);
    let escape = |c: char| -> String {
        let mut bytes = [0; 4];
        let bytes = c.encode_utf8(&mut bytes).bytes();
        bytes.map(|byte| format!("%{byte:02X}")).collect()
    };
    text.chars()
        .map(|c| if plain(c) { c.to_string() } else { escape(c) })
        .collect()
}

/// Why AWS would refuse a request; `None` when it would not.
pub fn aws(asked: &Asked) -> Option<&'static str> {
    let Some(given) = asked
        .header("authorization")
        .strip_prefix("AWS4-HMAC-SHA256 ")
    else {
        return Some("AccessDenied");
    };
    let said = |name: &str| {
        let parts = given.split(',').map(str::trim);
        let mut found = parts.filter_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        found.next().unwrap_or_default().to_owned()
    };
    let credential = said("Credential");
    let (key_id, scope) = credential.split_once('/').unwrap_or_default();
    if key_id != KEY_ID {
        return Some("InvalidAccessKeyId");
    }
    let body = hex::encode(Sha256::digest(&asked.body));
    let hash = asked.header("x-amz-content-sha256");
    if hash != body && hash != "UNSIGNED-PAYLOAD" {
        return Some("XAmzContentSHA256Mismatch");
    }
    let names = said("SignedHeaders");
    let signed: Vec<&str> = names.split(';').collect();
    let must = asked
        .headers
        .keys()
        .filter(|name| name.starts_with("x-amz-"));
    if !signed.contains(&"host") || must.clone().any(|name| !signed.contains(&name.as_str())) {
        return Some("AccessDenied");
    }
    let lines: Vec<String> = signed
        .iter()
        .map(|name| format!("{name}:{}", asked.header(name)))
        .collect();
    let mut query: Vec<String> = asked
        .query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let encoded = |text: &str| escaped(&decoded(text), "");
            format!("{}={}", encoded(name), encoded(value))
        })
        .collect();
    query.sort();
    let canonical = [
        asked.method.clone(),
        escaped(&decoded(&asked.path), "/"),
        query.join("&"),
        lines.join("\n"),
        String::new(),
        names.clone(),
        hash.to_owned(),
    ]
    .join("\n");
    let digest = hex::encode(Sha256::digest(canonical));
    let time = asked.header("x-amz-date");
    let message = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
    let start = format!("AWS4{SECRET}").into_bytes();
    let key = scope
        .split('/')
        .fold(start, |key, part| mac(&key, part).to_vec());
    let right = hex::encode(mac(&key, &message));
    (said("Signature") != right).then_some("SignatureDoesNotMatch")
}

/// Whether the account's key signed it.
pub fn azure(asked: &Asked) -> bool {
    let length = match asked.body.len() {
        0 => String::new(),
        length => length.to_string(),
    };
    let mut lines = vec![asked.method.clone()];
    for name in [
        "content-encoding",
        "content-language",
        "",
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ] {
        lines.push(match name {
            "" => length.clone(),
            name => asked.header(name).to_owned(),
        });
    }
    // A map is sorted.
    let ms = asked
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-ms-"));
    lines.extend(ms.map(|(name, value)| format!("{name}:{value}")));
    lines.push(format!("/{ACCOUNT}{}", asked.path));
    let mut query: Vec<String> = asked
        .query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| format!("{name}:{}", decoded(value)))
        .collect();
    query.sort();
    lines.extend(query);
    let key = STANDARD.decode(ACCOUNT_KEY).expect("a key");
    let right = STANDARD.encode(mac(&key, &lines.join("\n")));
    asked.header("authorization") == format!("SharedKey {ACCOUNT}:{right}")
}

/// What a URL that is signed for its object has in its query.
pub fn seal(seal: u32) -> String {
    format!("sv=2021&sig=secret-{seal}")
}

pub fn sealed(asked: &Asked, number: u32) -> bool {
    // Clients put queries into an order of their own.
    let seal = seal(number);
    let given = seal
        .split('&')
        .all(|pair| asked.query.split('&').any(|own| own == pair));
    given && asked.header("authorization").is_empty()
}
