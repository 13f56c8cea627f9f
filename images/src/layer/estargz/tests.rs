use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroUsize;

use super::*;
use crate::digest::Digest;
use crate::layer::{
    CompressOptions, Compression, Decoder, END, Header, Kind, LayerBlob, TarReader, padding,
    recompress, write_layer,
};
use crate::store::BlobStore;

fn store() -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    (dir, store)
}

fn noise(size: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 40) as u8 & 0x3f
    };
    (0..size).map(|_| next()).collect()
}

/// Every kind of entry; files of no byte, of one block, of exactly one chunk, of several.
fn tar() -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |mut header: Header, content: &[u8]| {
        header.size = content.len() as u64;
        out.extend(header.encode());
        out.extend(content);
        out.extend(padding(header.size));
    };
    let mut dir = Header::new(Kind::Directory, "etc/");
    dir.mode = 0o755;
    dir.mtime = 1_600_000_000;
    add(dir, b"");
    add(Header::new(Kind::File, "etc/empty"), b"");
    let mut small = Header::new(Kind::File, "etc/small");
    (small.mode, small.uid, small.gid) = (0o4755, 1000, 100);
    small.xattrs.insert(b"user.mark".into(), b"\0\xff".to_vec());
    add(small, b"of one block");
    add(Header::new(Kind::File, "one-chunk"), &noise(CHUNK as usize));
    add(
        Header::new(Kind::File, "large"),
        &noise(2 * CHUNK as usize + 77),
    );
    for (kind, name) in [(Kind::Symlink, "link"), (Kind::HardLink, "hard")] {
        let mut link = Header::new(kind, name);
        link.link = b"etc/small".to_vec();
        add(link, b"");
    }
    let mut device = Header::new(Kind::CharDevice, "null");
    device.device = (1, 3);
    add(device, b"");
    add(Header::new(Kind::File, "etc/.wh.gone"), b"");
    add(Header::new(Kind::File, "last"), &[b'x'; 512]);
    out.extend(END);
    out
}

fn options() -> CompressOptions {
    let mut options = CompressOptions::new(Compression::Gzip);
    options.estargz = true;
    options
}

fn made(store: &BlobStore, options: &CompressOptions, tar: &[u8]) -> LayerBlob {
    let (layer, ()) = write_layer(store, options, |out| {
        tar.chunks(70_001)
            .try_for_each(|piece| out.write_all(piece))
    })
    .unwrap();
    layer
}

fn opened(store: &BlobStore, layer: &LayerBlob) -> Estargz {
    let blob = store.reader(&layer.descriptor.digest).unwrap();
    Estargz::open(blob).unwrap().unwrap()
}

#[test]
fn a_layer_is_its_tar_with_a_table_of_contents_behind_it() {
    let (_dir, store) = store();
    let tar = tar();
    let layer = made(&store, &options(), &tar);
    let blob = store.reader(&layer.descriptor.digest).unwrap();
    let mut whole = Vec::new();
    Decoder::new(blob).unwrap().read_to_end(&mut whole).unwrap();
    assert_eq!(layer.diff_id, Digest::of(&whole));
    assert_eq!(layer.size, whole.len() as u64);
    assert_eq!(layer.toc.as_ref().unwrap().tar, Digest::of(&tar));
    assert!(whole.starts_with(&tar));

    let mut rest = TarReader::new(&whole[tar.len()..]);
    let entry = rest.next_entry().unwrap().unwrap();
    assert_eq!(entry.name, b"stargz.index.json");
    let mut json = Vec::new();
    rest.read_to_end(&mut json).unwrap();
    assert_eq!(layer.toc.as_ref().unwrap().digest, Digest::of(&json));
    assert_eq!(rest.next_entry().unwrap(), None);
}

#[test]
fn every_content_is_found_where_the_table_says_and_is_of_its_digest() {
    let (_dir, store) = store();
    let layer = made(&store, &options(), &tar());
    let opened = opened(&store, &layer);
    assert_eq!(opened.toc_digest, layer.toc.unwrap().digest);
    opened.verify().unwrap();
}

#[test]
fn the_table_has_a_line_for_each_entry_and_each_further_chunk() {
    let (_dir, store) = store();
    let layer = made(&store, &options(), &tar());
    let toc = opened(&store, &layer).toc();
    let shown: Vec<String> = String::from_utf8(toc.json().unwrap())
        .unwrap()
        .lines()
        // Where a member begins is the compressor's business.
        .filter(|line| !line.contains("\"offset\""))
        .map(|line| line.replace('\t', "  "))
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn the_same_tar_gives_the_same_blob_on_any_number_of_threads() {
    let (_dir, store) = store();
    let tar = tar();
    let with = |threads| {
        let mut options = options();
        options.threads = NonZeroUsize::new(threads);
        made(&store, &options, &tar)
    };
    let one = with(1);
    assert_eq!(one, with(2));
    assert_eq!(one, with(7));
}

/// A compressor that packs differently makes new blobs, tables and diffIDs of old layers: that must be seen.
#[test]
fn the_blob_of_a_known_layer_does_not_change() {
    let (_dir, store) = store();
    let layer = made(&store, &options(), &tar());
    insta::assert_snapshot!(layer.descriptor.digest, @"sha256:a443b0b0e016d9cb5b644702fe7c1ea164853c13155d8a3b6b050d3d5bd598e3");
}

#[test]
fn the_footer_is_that_of_the_format() {
    let footer = footer(0xabc);
    // An empty gzip member, for those who know nothing of it.
    let mut nothing = Vec::new();
    let mut member = flate2::read::GzDecoder::new(&footer[..]);
    member.read_to_end(&mut nothing).unwrap();
    assert!(nothing.is_empty());
    assert_eq!(
        member.header().unwrap().extra(),
        Some(&b"SG\x16\x000000000000000abcSTARGZ"[..])
    );
    assert_eq!(toc_offset(&footer), Some(0xabc));
    for at in 0..38 {
        let mut broken = footer;
        broken[at] = if (16..32).contains(&at) {
            b'+'
        } else {
            !broken[at]
        };
        assert_eq!(toc_offset(&broken), None, "byte {at}");
    }
}

#[test]
fn many_entries_without_content_are_cut_into_members() {
    let (_dir, store) = store();
    let mut tar = Vec::new();
    for number in 0..2 * MEMBER / 512 + 3 {
        tar.extend(Header::new(Kind::Directory, format!("d{number}/")).encode());
    }
    let mut file = Header::new(Kind::File, "file");
    file.size = 3;
    tar.extend(file.encode());
    tar.extend(b"abc");
    tar.extend(padding(3));
    tar.extend(END);
    let layer = made(&store, &options(), &tar);
    opened(&store, &layer).verify().unwrap();
    assert_eq!(layer.toc.unwrap().tar, Digest::of(&tar));
}

#[test]
fn what_no_table_can_hold_is_refused_by_name() {
    let (_dir, store) = store();
    let refused = |tar: &[u8]| {
        let result = write_layer(&store, &options(), |out| out.write_all(tar));
        result.unwrap_err().to_string()
    };
    let mut named = Header::new(Kind::File, "./stargz.index.json").encode();
    named.extend(END);
    assert_eq!(
        refused(&named),
        "compress layer: a file named stargz.index.json cannot be in an estargz layer: its table of contents has \
         this name"
    );
    let cut = &tar()[..5 << 20];
    assert!(
        refused(cut).starts_with("compress layer: "),
        "{}",
        refused(cut)
    );
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_layer_packed_again_has_one_table() {
    let (_dir, store) = store();
    let tar = tar();
    let layer = made(&store, &options(), &tar);
    let again = recompress(&store, &layer.descriptor.digest, &options()).unwrap();
    assert_eq!(again, layer);
    let gzip = made(&store, &CompressOptions::new(Compression::Gzip), &tar);
    assert_eq!(
        recompress(&store, &gzip.descriptor.digest, &options()).unwrap(),
        layer
    );
}

#[test]
fn other_blobs_are_none_and_damage_is_found() {
    let (dir, store) = store();
    let tar = tar();
    let gzip = made(&store, &CompressOptions::new(Compression::Gzip), &tar);
    let blob = store.reader(&gzip.descriptor.digest).unwrap();
    assert!(Estargz::open(blob).unwrap().is_none());

    let layer = made(&store, &options(), &tar);
    let bytes = store.read(&layer.descriptor.digest, u64::MAX).unwrap();
    let found = |bytes: &[u8]| {
        let path = dir.path().join("damaged");
        std::fs::write(&path, bytes).unwrap();
        match Estargz::open(File::open(&path).unwrap()) {
            Ok(Some(opened)) => opened.verify().is_err(),
            Ok(None) | Err(_) => true,
        }
    };
    assert!(!found(&bytes));
    for at in (20..bytes.len() - 60).step_by(bytes.len() / 40) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        // What lies between contents is no content; it is the blob's digest that holds it.
        let between = !found(&damaged);
        assert!(
            !between || at < 2000,
            "a flipped bit at {at} of {}",
            bytes.len()
        );
    }
    assert!(found(&bytes[..bytes.len() - 1]));
}
