//! Layers: a tar stream into an overlay directory (`unpack`), an overlay directory into a tar stream (`diff`),
//! and a tar stream into a compressed blob (`write_layer`).
//!
//! A layer on disk is a plain directory that overlayfs can take as a lower: removed paths are character devices 0:0,
//! replaced directories carry the opaque attribute. So layers are unpacked in parallel, each into its own directory.

mod compress;
mod decompress;
mod diff;
mod entry;
pub mod estargz;
mod header;
mod lower;
mod root;
mod sparse;
mod unpack;

pub use compress::{
    CompressError, CompressOptions, LayerBlob, LayerWriter, recompress, write_layer,
};
pub use decompress::{Compression, Decoder};
pub use diff::{DiffError, DiffOptions, DiffReport, diff};
pub use entry::{Content, Entry, TarError, TarReader};
pub use header::{END, Header, Kind, padding};
pub use root::clean_path;
pub use unpack::{Limits, OpaqueXattr, UnpackError, UnpackOptions, UnpackReport, unpack};

/// A tar block.
pub(crate) const BLOCK: usize = 512;
/// In front of the name of a removed path.
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// In front of names that are no paths at all (aufs).
pub(crate) const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
/// Where aufs keeps files of several names, at the top of a layer.
pub(crate) const WHITEOUT_LINK_DIR: &[u8] = b".wh..wh.plnk";
/// Says that nothing of the lower directory shows.
pub(crate) const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
pub(crate) const OPAQUE_XATTRS: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];
pub(crate) const CAPABILITY_XATTR: &str = "security.capability";

/// Extended attributes through which overlayfs steers itself. Taken from an image, they would let it name other layers' files.
pub(crate) fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}
