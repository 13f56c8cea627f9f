//! Layer streams as they are found: gzip of any number of members, zstd of any number of frames, or plain.
//!
//! The bytes decide, not the media type: real registries serve the one under the name of the other.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::read::MultiGzDecoder;

/// How a layer's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// From the first four bytes of the stream.
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
            // A frame, or the skippable frame that some writers put in front.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// Most bytes of history that a zstd frame may ask for: 128 MiB, as in the reference decoder. Without it a frame of
/// some bytes may claim gigabytes of memory.
const ZSTD_WINDOW_LOG: u32 = 27;
const READ_BUFFER: usize = 128 << 10;

type Source<R> = Chain<Cursor<Vec<u8>>, R>;

/// Reads the uncompressed bytes of a layer. A stream that ends inside a member or frame, or whose checksum is wrong, is an error.
pub struct Decoder<R: Read> {
    compression: Compression,
    inner: Inner<R>,
}

enum Inner<R: Read> {
    None(Source<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Source<R>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Source<R>>>),
}

impl<R: Read> Decoder<R> {
    pub fn new(mut reader: R) -> io::Result<Self> {
        let mut start = Vec::with_capacity(4);
        reader.by_ref().take(4).read_to_end(&mut start)?;
        let compression = Compression::sniff(&start);
        let source = Cursor::new(start).chain(reader);
        let buffered = |source| BufReader::with_capacity(READ_BUFFER, source);
        let inner = match compression {
            Compression::None => Inner::None(source),
            Compression::Gzip => Inner::Gzip(Box::new(MultiGzDecoder::new(buffered(source)))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered(source))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Inner::Zstd(decoder)
            }
        };
        Ok(Decoder { compression, inner })
    }

    pub fn compression(&self) -> Compression {
        self.compression
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::None(reader) => reader.read(buffer),
            Inner::Gzip(reader) => reader.read(buffer),
            Inner::Zstd(reader) => reader.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(bytes: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let mut decoder = Decoder::new(bytes)?;
        let mut out = Vec::new();
        decoder.read_to_end(&mut out)?;
        Ok((decoder.compression(), out))
    }

    #[test]
    fn members_and_frames_are_joined_whatever_their_number() {
        let two = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(
            decode(&two).unwrap(),
            (Compression::Gzip, b"one two".to_vec())
        );
        let frame = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
        let frames = [&skippable[..], &frame(b"one "), &skippable, &frame(b"two")].concat();
        assert_eq!(
            decode(&frames).unwrap(),
            (Compression::Zstd, b"one two".to_vec())
        );
        assert_eq!(
            decode(b"abc").unwrap(),
            (Compression::None, b"abc".to_vec())
        );
        assert_eq!(decode(b"").unwrap(), (Compression::None, Vec::new()));
    }

    #[test]
    fn a_cut_or_damaged_stream_is_an_error() {
        let text = b"some text that is long enough to have a middle";
        for whole in [gzip(text), zstd::bulk::compress(text, 1).unwrap()] {
            for end in 4..whole.len() {
                assert!(decode(&whole[..end]).is_err(), "cut at {end}");
            }
        }
        let mut damaged = gzip(text);
        let crc = damaged.len() - 6;
        damaged[crc] ^= 1;
        assert!(decode(&damaged).is_err());
    }
}
