//! One block of the stream, compressed by itself.

use std::io;

use flate2::{Compress, Crc, FlushCompress, Status};

use crate::layer::Compression;

/// Bytes of a block. Large against what a fresh start costs in ratio (below 0.1 percent), small enough that a layer of
/// a few megabytes still uses every core. Part of the format: changing it changes the digests of the blobs we make.
pub(super) const SIZE: usize = 1 << 20;
/// How far deflate looks back.
const WINDOW: usize = 32 << 10;
/// Gzip's default level here.
const GZIP_LEVEL: i32 = 6;
/// zstd's own default, and BuildKit's.
const ZSTD_LEVEL: i32 = 3;

pub(super) struct Packed {
    pub bytes: Vec<u8>,
    /// Of the uncompressed bytes; gzip's trailer needs it.
    pub check: Crc,
}

/// Compresses blocks one after the other; the order does not matter to it.
pub(super) enum Codec {
    None,
    Gzip(flate2::Compression),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Codec {
    pub fn new(compression: Compression, level: Option<i32>) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Codec::None,
            Compression::Gzip => Codec::Gzip(flate2::Compression::new(gzip_level(level) as u32)),
            Compression::Zstd => {
                let level = level.unwrap_or(ZSTD_LEVEL).clamp(1, 22);
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                compressor.include_checksum(true)?;
                Codec::Zstd(compressor)
            }
        })
    }

    /// Compresses `block`, which follows `before` in the stream and ends it if it is the `last`.
    pub fn pack(&mut self, before: &[u8], block: &[u8], last: bool) -> io::Result<Packed> {
        let mut check = Crc::new();
        let bytes = match self {
            Codec::None => block.to_vec(),
            Codec::Zstd(compressor) => compressor.compress(block)?,
            Codec::Gzip(level) => {
                check.update(block);
                deflate(
                    *level,
                    &before[before.len().saturating_sub(WINDOW)..],
                    block,
                    last,
                )?
            }
        };
        Ok(Packed { bytes, check })
    }
}

fn gzip_level(level: Option<i32>) -> i32 {
    level.unwrap_or(GZIP_LEVEL).clamp(0, 9)
}

fn deflate(
    level: flate2::Compression,
    dictionary: &[u8],
    block: &[u8],
    last: bool,
) -> io::Result<Vec<u8>> {
    // A new state each time: one that is reset still finds matches by what the block before left in it (observed with
    // zlib-rs 0.6), and the result would depend on which thread takes which block.
    let mut compress = Compress::new(level, false);
    if !dictionary.is_empty() {
        compress.set_dictionary(dictionary)?;
    }
    let flush = if last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    // Deflate's worst case is a little over the input.
    let mut out = Vec::with_capacity(block.len() + block.len() / 1000 + 1024);
    loop {
        let taken = compress.total_in() as usize;
        let status = compress.compress_vec(&block[taken..], &mut out, flush)?;
        match status {
            Status::StreamEnd => return Ok(out),
            Status::Ok | Status::BufError => {
                let all = compress.total_in() as usize == block.len();
                // Room left after a flush means that all of it is out.
                if all && !last && out.len() < out.capacity() {
                    return Ok(out);
                }
                out.reserve(64 << 10);
            }
        }
    }
}

/// What stands around the blocks.
pub(super) struct Frame {
    gzip_level: Option<i32>,
}

impl Frame {
    pub fn of(compression: Compression, level: Option<i32>) -> Self {
        Frame {
            gzip_level: (compression == Compression::Gzip).then(|| gzip_level(level)),
        }
    }

    /// The gzip header as Go writes it: no name, no time, unknown system.
    pub fn start(&self) -> Vec<u8> {
        let hint = match self.gzip_level {
            None => return Vec::new(),
            Some(9) => 2,
            Some(1) => 4,
            Some(_) => 0,
        };
        vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, hint, 0xff]
    }

    pub fn end(&self, check: &Crc) -> Vec<u8> {
        if self.gzip_level.is_none() {
            return Vec::new();
        }
        [check.sum().to_le_bytes(), check.amount().to_le_bytes()].concat()
    }
}
