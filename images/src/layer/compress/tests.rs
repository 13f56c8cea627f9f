use std::io::Read;

use super::*;
use crate::layer::Decoder;

fn store() -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    (dir, store)
}

/// Bytes that compress to about a half, with repeats across block borders.
fn sample(size: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(size + 16);
    while bytes.len() < size {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        let word = (state >> 40) as u8;
        bytes.extend_from_slice(&[word & 0x3f, word >> 2, b'a', b'b']);
    }
    bytes.truncate(size);
    bytes
}

fn write(
    store: &BlobStore,
    options: &CompressOptions,
    bytes: &[u8],
) -> Result<LayerBlob, CompressError<io::Error>> {
    write_layer(store, options, |out| {
        for piece in bytes.chunks(100_003) {
            out.write_all(piece)?;
        }
        Ok(())
    })
    .map(|(layer, ())| layer)
}

#[test]
fn every_compression_gives_the_bytes_back() {
    let (_dir, store) = store();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for size in [
            0,
            1,
            1000,
            block::GZIP_SIZE,
            block::GZIP_SIZE + 1,
            2 * block::ZSTD_SIZE + 77,
        ] {
            let bytes = sample(size);
            let options = CompressOptions::new(compression);
            let layer = write(&store, &options, &bytes).unwrap();
            assert_eq!(layer.diff_id, Digest::of(&bytes));
            assert_eq!(layer.size, size as u64);
            let blob = store.read(&layer.descriptor.digest, u64::MAX).unwrap();
            assert_eq!(blob.len() as u64, layer.descriptor.size);
            let mut back = Vec::new();
            let mut decoder = Decoder::new(&blob[..]).unwrap();
            decoder.read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{compression:?} of {size} bytes");
        }
    }
}

#[test]
fn a_gzip_layer_starts_as_go_writes_it() {
    let (_dir, store) = store();
    let options = CompressOptions::new(Compression::Gzip);
    for size in [0, 3 * block::GZIP_SIZE] {
        let layer = write(&store, &options, &sample(size)).unwrap();
        let blob = store.read(&layer.descriptor.digest, u64::MAX).unwrap();
        assert_eq!(blob[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    }
}

#[test]
fn levels_out_of_range_are_taken_as_the_nearest() {
    let (_dir, store) = store();
    let bytes = sample(100_000);
    for (compression, over, highest) in [(Compression::Gzip, 99, 9), (Compression::Zstd, 99, 22)] {
        let with = |level| {
            let mut options = CompressOptions::new(compression);
            options.level = Some(level);
            write(&store, &options, &bytes).unwrap()
        };
        assert_eq!(with(over), with(highest));
        with(-7);
    }
}

/// A compressor that packs differently makes new blobs of old layers everywhere: that must be seen, not slip in.
#[test]
fn the_blob_of_a_known_layer_does_not_change() {
    let (_dir, store) = store();
    let digest = |compression| {
        let options = CompressOptions::new(compression);
        let layer = write(&store, &options, &sample(2 << 20)).unwrap();
        layer.descriptor.digest.to_string()
    };
    insta::assert_snapshot!(digest(Compression::Gzip), @"sha256:2aad1e862adc7eff6bafe3cd508be2ea96099d8c511cf8170d9354308318d6c4");
    insta::assert_snapshot!(digest(Compression::Zstd), @"sha256:e2106d954a69a3825d8b67c5c708e2b0488dab1ed382128a624fda79efc30314");
}

#[test]
fn the_number_of_threads_does_not_show_in_the_blob() {
    let (_dir, store) = store();
    let bytes = sample(4 * block::ZSTD_SIZE + 5);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let with = |threads| {
            let mut options = CompressOptions::new(compression);
            options.threads = NonZeroUsize::new(threads);
            write(&store, &options, &bytes).unwrap().descriptor
        };
        let one = with(1);
        assert_eq!(one, with(2));
        assert_eq!(one, with(7));
    }
}

#[test]
fn a_source_that_fails_leaves_no_blob() {
    let (_dir, store) = store();
    let options = CompressOptions::new(Compression::Gzip);
    for before in [10, 3 * block::GZIP_SIZE] {
        let result = write_layer(&store, &options, |out| {
            out.write_all(&sample(before))?;
            Err::<(), _>(io::Error::other("the tree vanished"))
        });
        let error = result.unwrap_err();
        assert!(matches!(&error, CompressError::Source(e) if e.to_string() == "the tree vanished"));
    }
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_layer_packed_anew_keeps_its_diff_id() {
    let (_dir, store) = store();
    let gzip = CompressOptions::new(Compression::Gzip);
    let first = write(&store, &gzip, &sample(3_000_000)).unwrap();
    let mut options = CompressOptions::new(Compression::Zstd);
    options.docker_types = true;
    let second = recompress(&store, &first.descriptor.digest, &options).unwrap();
    assert_eq!(second.diff_id, first.diff_id);
    assert_eq!(second.descriptor.media_type, DOCKER_LAYER_ZSTD);
    let back = recompress(&store, &second.descriptor.digest, &gzip).unwrap();
    assert_eq!(back, first);
    let missing = Digest::of(b"missing");
    assert!(recompress(&store, &missing, &gzip).is_err());
}
