//! eStargz: layers of which single files can be fetched. A gzip layer whose members begin where the content of a file
//! begins, with a table of contents as last file of the tar, and a footer that says where that is.
//!
//! Every reader of gzip layers reads them. Written for exports that ask for it, by the rules of BuildKit's (nothing is
//! put in front to be fetched early, the tar stays as it is); read to describe and to verify them.

mod read;
mod toc;
mod write;

#[cfg(test)]
mod tests;

pub use read::{Estargz, EstargzError};
pub use write::TocInfo;
pub(crate) use write::write;

/// The last file of the tar.
const TOC_NAME: &str = "stargz.index.json";
/// Content of a file that goes into one gzip member, at most.
const CHUNK: u64 = 4 << 20;
/// Bytes that a member may hold before another one begins, where no content demands it.
pub(super) const MEMBER: usize = CHUNK as usize;
/// An empty gzip member with one extra field, that holds the offset and the name of the format.
const FOOTER_SIZE: usize = 51;
/// In front of the offset in the footer: a gzip header with an extra field of 26 bytes, `SG` of 22 bytes.
const FOOTER_START: [u8; 16] = [
    0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0,
];
/// Behind it: the name, an empty stored block, the checksum and the length of nothing.
const FOOTER_END: [u8; 19] = [
    b'S', b'T', b'A', b'R', b'G', b'Z', 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Annotation of a layer's descriptor: the digest of its table of contents.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Annotation of a layer's descriptor: bytes of its tar, the table of contents included.
pub const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

fn footer(toc_offset: u64) -> [u8; FOOTER_SIZE] {
    let mut footer = [0; FOOTER_SIZE];
    footer[..16].copy_from_slice(&FOOTER_START);
    footer[16..32].copy_from_slice(format!("{toc_offset:016x}").as_bytes());
    footer[32..].copy_from_slice(&FOOTER_END);
    footer
}

/// The offset of the table of contents, when this is the footer of an eStargz layer.
fn toc_offset(footer: &[u8; FOOTER_SIZE]) -> Option<u64> {
    let start = footer[..16] == FOOTER_START;
    let digits = std::str::from_utf8(&footer[16..32]).ok()?;
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    // How nothing is packed is the writer's choice; what follows is of no use to a reader.
    let name = footer[32..38] == FOOTER_END[..6];
    (start && plain && name).then(|| u64::from_str_radix(digits, 16).ok())?
}
