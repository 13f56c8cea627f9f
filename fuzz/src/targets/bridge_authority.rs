//! The patch of empty authorities: the same output however the stream is cut (the first byte is the
//! size of the pieces), nothing but 0x81 to 0x91 changed.

use gateway_bridge::transport::authority::AuthorityPatch;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else {
        return;
    };
    let mut whole = stream.to_vec();
    AuthorityPatch::default().apply(&mut whole);
    let mut cut = stream.to_vec();
    let mut patch = AuthorityPatch::default();
    for piece in cut.chunks_mut(usize::from(*size).max(1)) {
        patch.apply(piece);
    }
    assert_eq!(whole, cut);
    for (sent, passed) in stream.iter().zip(&whole) {
        assert!(sent == passed || (*sent, *passed) == (0x81, 0x91));
    }
}
