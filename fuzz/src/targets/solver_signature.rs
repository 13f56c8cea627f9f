//! Signatures and keys of OpenPGP and SSH, and the git objects that carry them: content, signature and
//! keys, with zero bytes between. What is not text is taken as what stands in an armored block.

use base64::Engine as _;
use gateway_solver::signature::try_verify;

fn text(bytes: &[u8], kind: &str) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains("-----BEGIN") || text.starts_with("ssh-") => text.to_owned(),
        _ => {
            let base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
            format!("-----BEGIN PGP {kind}-----\n\n{base64}\n-----END PGP {kind}-----\n")
        }
    }
}

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let content = parts.next().unwrap_or_default();
    let signature = text(parts.next().unwrap_or_default(), "SIGNATURE");
    let keys = text(parts.next().unwrap_or_default(), "PUBLIC KEY BLOCK");
    try_verify(content, &signature, &keys);
    // What is all one is read as each.
    try_verify(
        bytes,
        &text(bytes, "SIGNATURE"),
        &text(bytes, "PUBLIC KEY BLOCK"),
    );
}
