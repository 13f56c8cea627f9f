//! One block of the stream, compressed by itself: a gzip member or a zstd frame.
//!
//! Gzip by libdeflate: at its second level the result is a little smaller than that of Go's encoder at its default, for
//! about half the time (measured; zlib-rs needs twice as long). It takes whole buffers only, which blocks are.

use std::io;

use libdeflater::{CompressionLvl, Compressor};
use zstd::zstd_safe::CParameter;

use crate::layer::Compression;

/// Bytes of a gzip block. Large against what a fresh start costs in ratio, small enough that a layer of a few
/// megabytes uses every core. Part of the format: changing it changes the digests of the blobs that we make.
pub(super) const GZIP_SIZE: usize = 1 << 20;
/// Bytes of a zstd block. zstd finds what repeats over megabytes: against 4 MiB the result is 3 % smaller.
pub(super) const ZSTD_SIZE: usize = 8 << 20;
/// How far zstd looks back, as a power of two: the whole block. Its level 3 takes 2 MiB by itself, for the same time and
/// 5 % larger. 8 MiB is what every decoder must be able to hold.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Bytes of uncompressed blocks in memory, whatever the number of cores. Beyond this the hash of the tar, which is one
/// thread's work, is what takes the time.
const IN_FLIGHT: usize = 32 << 20;

const GZIP_LEVEL: i32 = 2;
/// zstd's own default, and BuildKit's.
const ZSTD_LEVEL: i32 = 3;

pub(super) fn size(compression: Compression) -> usize {
    match compression {
        Compression::None | Compression::Gzip => GZIP_SIZE,
        Compression::Zstd => ZSTD_SIZE,
    }
}

/// Blocks that may be in memory at once: one that is filled, and those that are hashed and compressed.
pub(super) fn most(compression: Compression) -> usize {
    IN_FLIGHT / size(compression)
}

/// Compresses blocks one after the other. Their order does not matter, and nothing of one shows in the next.
pub(super) struct Codec {
    format: Format,
    /// Room for the largest result, used again and again.
    out: Vec<u8>,
}

enum Format {
    Gzip(Box<Compressor>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Codec {
    pub fn new(compression: Compression, level: Option<i32>) -> io::Result<Self> {
        let format = match compression {
            // Bytes that stay as they are go straight to the store.
            Compression::None => return Err(io::ErrorKind::InvalidInput.into()),
            Compression::Gzip => {
                let level = level.unwrap_or(GZIP_LEVEL).clamp(0, 9);
                let level = CompressionLvl::new(level)
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                Format::Gzip(Box::new(Compressor::new(level)))
            }
            Compression::Zstd => {
                let level = level.unwrap_or(ZSTD_LEVEL).clamp(1, 22);
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                compressor.include_checksum(true)?;
                compressor.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
                Format::Zstd(compressor)
            }
        };
        Ok(Codec {
            format,
            out: Vec::new(),
        })
    }

    /// Compresses one block, of any length.
    pub fn pack(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        match &mut self.format {
            Format::Zstd(compressor) => {
                // Only as much of the room as the result takes is ever touched.
                self.out.clear();
                self.out
                    .reserve(zstd::zstd_safe::compress_bound(block.len()));
                compressor.compress_to_buffer(block, &mut self.out)?;
            }
            Format::Gzip(compressor) => {
                self.out
                    .resize(compressor.gzip_compress_bound(block.len()), 0);
                let n = compressor
                    .gzip_compress(block, &mut self.out)
                    .map_err(io::Error::other)?;
                self.out.truncate(n);
            }
        }
        Ok(self.out.clone())
    }
}
