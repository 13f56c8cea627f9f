//! One block of the stream, compressed by itself: a gzip member or a zstd frame.
//!
//! Gzip by libdeflate: at its second level the result is a little smaller than that of Go's encoder at its default, for
//! about half the time (measured; zlib-rs needs twice as long). It takes whole buffers only, which blocks are.

use std::io;

use libdeflater::{CompressionLvl, Compressor};

use crate::layer::Compression;

/// Bytes of a gzip block. Large against what a fresh start costs in ratio, small enough that a layer of a few
/// megabytes uses every core. Part of the format: changing it changes the digests of the blobs that we make.
pub(super) const GZIP_SIZE: usize = 1 << 20;
/// Bytes of a zstd block: zstd looks back farther (2 MiB at its default level).
pub(super) const ZSTD_SIZE: usize = 4 << 20;

const GZIP_LEVEL: i32 = 2;
/// zstd's own default, and BuildKit's.
const ZSTD_LEVEL: i32 = 3;

pub(super) fn size(compression: Compression) -> usize {
    match compression {
        Compression::None | Compression::Gzip => GZIP_SIZE,
        Compression::Zstd => ZSTD_SIZE,
    }
}

/// Compresses blocks one after the other. Their order does not matter, and nothing of one shows in the next.
pub(super) enum Codec {
    Gzip(Box<Compressor>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Codec {
    pub fn new(compression: Compression, level: Option<i32>) -> io::Result<Self> {
        Ok(match compression {
            // Bytes that stay as they are go straight to the store.
            Compression::None => return Err(io::ErrorKind::InvalidInput.into()),
            Compression::Gzip => {
                let level = level.unwrap_or(GZIP_LEVEL).clamp(0, 9);
                let level = CompressionLvl::new(level)
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                Codec::Gzip(Box::new(Compressor::new(level)))
            }
            Compression::Zstd => {
                let level = level.unwrap_or(ZSTD_LEVEL).clamp(1, 22);
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                compressor.include_checksum(true)?;
                Codec::Zstd(compressor)
            }
        })
    }

    /// Compresses one block, of any length.
    pub fn pack(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        Ok(match self {
            Codec::Zstd(compressor) => compressor.compress(block)?,
            Codec::Gzip(compressor) => {
                let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
                let n = compressor
                    .gzip_compress(block, &mut out)
                    .map_err(io::Error::other)?;
                out.truncate(n);
                out
            }
        })
    }
}
