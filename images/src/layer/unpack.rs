//! A layer's tar stream into a directory of its own, as overlayfs wants a lower directory.
//!
//! Every layer is unpacked alone, so the layers of an image are unpacked at the same time. Only two things look at the
//! layers below: a hard link whose target is down there, and a directory that has entries here but no header of its own.
//!
//! Form on disk: `.wh.x` becomes a character device 0:0 named `x`, `.wh..wh..opq` the opaque attribute. An entry for
//! the root itself is passed over (observed: BuildKit's layers never set the root's mode).

mod apply;
mod below;
mod error;
mod links;
mod metadata;
mod stream;

use std::io::Read;
use std::path::{Path, PathBuf};

use super::decompress::{Compression, Decoder};
use crate::digest::Digest;
use apply::Applier;
pub use error::UnpackError;

/// Bounds on one layer. What is over them is refused, with what was unpacked so far left to the caller to drop.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Uncompressed bytes of the stream.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
}

impl Default for Limits {
    /// 256 GiB, more than the largest images in use (machine-learning layers of some tens of GiB), and ten million
    /// entries, about ten times the largest: a small bomb must not fill the disk or use up its inodes.
    fn default() -> Self {
        Limits {
            bytes: 256 << 30,
            entries: 10_000_000,
        }
    }
}

/// Longest path of an entry, the kernel's limit for one call.
const MAX_PATH_BYTES: usize = 4095;
/// Deepest entry. The deepest real trees (nested node_modules) have some 60 levels.
const MAX_DEPTH: usize = 256;

/// Bytes of paths kept in memory while a layer is unpacked. The largest trees (a hundred thousand directories) need 10
/// MiB; without it a layer of some megabytes, compressed, could name ten million paths of 4 KiB.
const MAX_REMEMBERED_BYTES: u64 = 64 << 20;

/// Which attribute marks an opaque directory: overlayfs reads `user` when mounted with `userxattr`, in user namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpaqueXattr {
    /// Where it may not be set (in a user namespace), `User` is used instead.
    Trusted,
    User,
}

#[derive(Clone, Debug)]
pub struct UnpackOptions<'a> {
    pub opaque: OpaqueXattr,
    /// The unpacked layers below, topmost first. `Some(&[])` for the lowest layer. With `None` a layer that needs
    /// them fails with [`UnpackError::NeedsParents`], and the result of one that succeeds holds above any parents.
    pub parents: Option<&'a [PathBuf]>,
    /// Give files their owners. Needs root, of the machine or of a user namespace.
    pub owners: bool,
    /// What the image's config says the uncompressed stream is.
    pub diff_id: Option<Digest>,
    pub limits: Limits,
}

impl Default for UnpackOptions<'_> {
    fn default() -> Self {
        UnpackOptions {
            opaque: OpaqueXattr::Trusted,
            parents: None,
            owners: true,
            diff_id: None,
            limits: Limits::default(),
        }
    }
}

/// What was unpacked.
#[derive(Clone, Debug)]
pub struct UnpackReport {
    /// Digest of the uncompressed stream, all of it.
    pub diff_id: Digest,
    /// Uncompressed bytes.
    pub size: u64,
    pub entries: u64,
    pub compression: Compression,
    /// The result holds metadata or content taken from the parents: it is good above these parents only.
    pub used_parents: bool,
    /// The layer hides everything below it. overlayfs knows no opaque root: leave the lower layers out of the mount.
    pub opaque_root: bool,
    /// What could not be kept (devices or attributes without the right to set them), for a log; the first hundred.
    pub notes: Vec<String>,
}

/// Unpacks the layer that `reader` gives into `dest`, which is made if missing and must be empty.
///
/// The stream is read to its end and hashed on the way. On an error `dest` holds a part of the layer and must be
/// dropped; so unpack under a temporary name and rename. Nothing is synced.
pub fn unpack<R: Read + Send>(
    reader: R,
    dest: &Path,
    options: &UnpackOptions<'_>,
) -> Result<UnpackReport, UnpackError> {
    let destination = |source| UnpackError::Destination {
        path: dest.to_owned(),
        source,
    };
    std::fs::create_dir_all(dest).map_err(destination)?;
    if std::fs::read_dir(dest)
        .map_err(destination)?
        .next()
        .is_some()
    {
        return Err(UnpackError::NotEmpty(dest.to_owned()));
    }
    let mut applier = Applier::new(dest, options).map_err(destination)?;
    let decoder = Decoder::new(reader).map_err(UnpackError::Read)?;
    let compression = decoder.compression();
    let (diff_id, size) =
        stream::consume(decoder, options.limits.bytes, |plain| applier.apply(plain))?;
    if let Some(expected) = &options.diff_id
        && *expected != diff_id
    {
        return Err(UnpackError::DiffId {
            expected: expected.clone(),
            actual: diff_id,
        });
    }
    let done = applier.finish()?;
    Ok(UnpackReport {
        diff_id,
        size,
        entries: done.entries,
        compression,
        used_parents: done.used_parents,
        opaque_root: done.opaque_root,
        notes: done.notes,
    })
}

#[cfg(test)]
mod tests;
