//! Certificates of a server: the chain that it sends (the first two bytes say where it is cut in two), judged
//! and described. What is said of it is fit for a terminal.

use gateway_images::registry::fuzzing;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let Some((at, chain)) = bytes.split_first_chunk() else {
        return;
    };
    let chain = match chain.split_at_checked(usize::from(u16::from_be_bytes(*at))) {
        Some((leaf, issuer)) => vec![leaf.to_vec(), issuer.to_vec()],
        None => vec![chain.to_vec()],
    };
    for name in ["registry.example", "127.0.0.1"] {
        for text in fuzzing::certificates(&chain, name) {
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(text.len() < 64 << 10, "{} bytes of text", text.len());
        }
    }
}
