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
            block::SIZE,
            block::SIZE + 1,
            5 * block::SIZE + 77,
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
fn gzip_layers_are_one_member() {
    let (_dir, store) = store();
    let bytes = sample(3 * block::SIZE);
    let options = CompressOptions::new(Compression::Gzip);
    let layer = write(&store, &options, &bytes).unwrap();
    let blob = store.read(&layer.descriptor.digest, u64::MAX).unwrap();
    assert_eq!(blob[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    let mut back = Vec::new();
    let mut one = flate2::bufread::GzDecoder::new(&blob[..]);
    one.read_to_end(&mut back).unwrap();
    assert!(back == bytes);
    assert!(one.into_inner().is_empty());
}

#[test]
fn the_number_of_threads_does_not_show_in_the_blob() {
    let (_dir, store) = store();
    let bytes = sample(6 * block::SIZE + 5);
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
    for before in [10, 3 * block::SIZE] {
        let result = write_layer(&store, &options, |out| {
            out.write_all(&sample(before))?;
            Err::<(), _>(io::Error::other("the tree vanished"))
        });
        let error = result.unwrap_err();
        assert!(matches!(&error, CompressError::Source(e) if e.to_string() == "the tree vanished"));
    }
    assert!(store.list().unwrap().is_empty());
}
