//! One block of the stream, compressed by itself: a gzip member or a zstd frame.
//!
//! Gzip by libdeflate: at its second level the result is a little smaller than that of Go's encoder at its default, for
//! about half the time (measured; zlib-rs needs twice as long). It takes whole buffers only, which blocks are.

use std::io;

use libdeflater::{CompressionLvl, Compressor};
use zstd::zstd_safe::{CParameter, Strategy};

use super::CompressOptions;
use crate::layer::{Compression, estargz};

/// Bytes of a gzip block. Large against what a fresh start costs in ratio, small enough that a layer of a few
/// megabytes uses every core. Part of the format: changing it changes the digests of the blobs that we make.
pub(super) const GZIP_SIZE: usize = 1 << 20;
/// Bytes of a zstd block. zstd finds what repeats over megabytes: with 4 MiB the result is 4 % larger, with 8 MiB 2 %
/// smaller, for a third more memory.
pub(super) const ZSTD_SIZE: usize = 6 << 20;
/// How far zstd looks back, as a power of two: the whole block. 8 MiB is what every decoder must be able to hold.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Without a wish of the user's, what finds repeats is the fast search of level 2 with a table that fits into the
/// nearest caches of any processor, twice that level's. Measured on 250 MB of programs, libraries and text, seconds of
/// CPU and size against level 3: 0.77 and 1.035; with 2^18 entries 0.87 and 1.025, with 2^16 0.66 and 1.05.
const ZSTD_SEARCH: [CParameter; 3] = [
    CParameter::Strategy(Strategy::ZSTD_fast),
    CParameter::HashLog(17),
    CParameter::MinMatch(6),
];
/// Bytes of uncompressed blocks in memory, whatever the number of cores: with the results that wait for their turn, an
/// export stays within 64 MiB. Beyond this the hash of the tar, which is one thread's work, takes the time anyway.
const IN_FLIGHT: usize = 24 << 20;

const GZIP_LEVEL: i32 = 2;
const ZSTD_LEVEL: i32 = 2;

pub(super) fn size(compression: Compression) -> usize {
    match compression {
        Compression::None | Compression::Gzip => GZIP_SIZE,
        Compression::Zstd => ZSTD_SIZE,
    }
}

/// Blocks that may be in memory at once: one that is filled, and those that are hashed and compressed.
pub(super) fn most(options: &CompressOptions) -> usize {
    match options.estargz {
        true => IN_FLIGHT / estargz::MEMBER,
        false => IN_FLIGHT / size(options.compression),
    }
}

/// Compresses blocks one after the other. Their order does not matter, and nothing of one shows in the next.
pub(crate) struct Codec {
    format: Format,
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
                let mut compressor =
                    zstd::bulk::Compressor::new(level.unwrap_or(ZSTD_LEVEL).clamp(1, 22))?;
                compressor.include_checksum(true)?;
                compressor.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
                if level.is_none() {
                    for parameter in ZSTD_SEARCH {
                        compressor.set_parameter(parameter)?;
                    }
                }
                Format::Zstd(compressor)
            }
        };
        Ok(Codec { format })
    }

    /// Compresses one block, of any length.
    pub fn pack(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        // Only as much of the room as the result takes is ever touched.
        match &mut self.format {
            Format::Zstd(compressor) => {
                let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(block.len()));
                compressor.compress_to_buffer(block, &mut out)?;
                Ok(out)
            }
            Format::Gzip(compressor) => {
                let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
                let n = compressor
                    .gzip_compress(block, &mut out)
                    .map_err(io::Error::other)?;
                out.truncate(n);
                Ok(out)
            }
        }
    }
}
