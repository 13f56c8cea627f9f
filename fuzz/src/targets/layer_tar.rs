//! Tar streams, compressed or not: entries, their sizes, the end. An entry that was read is written
//! and read as the same.

use std::io::{self, Read};

use gateway_images::layer::{Decoder, Entry, Header, Kind, TarReader, clean_path};

/// A small input can be a large stream; reading all of it shows nothing new.
const MOST: u64 = 8 << 20;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let Ok(decoder) = Decoder::new(bytes) else {
        return;
    };
    let mut tar = TarReader::new(decoder.take(MOST));
    while let Ok(Some(entry)) = tar.next_entry() {
        for part in clean_path(&entry.name) {
            assert!(!part.is_empty() && part != b"." && part != b"..");
        }
        let read = io::copy(&mut tar, &mut io::sink());
        assert!(read.is_ok_and(|n| n == entry.size) || tar.next_entry().is_err());
        rewrite(&entry);
    }
}

fn rewrite(entry: &Entry) {
    let header = Header {
        kind: entry.kind,
        name: entry.name.clone(),
        link: entry.link.clone(),
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        size: entry.size,
        mtime: entry.mtime.0,
        device: entry.device,
        xattrs: entry.xattrs.clone(),
    };
    // What no header can say: names with zeros, records without a name.
    let zero = |name: &[u8]| name.contains(&0);
    let records = entry
        .xattrs
        .keys()
        .any(|k| k.is_empty() || k.contains(&b'='));
    if entry.name.is_empty() || zero(&entry.name) || zero(&entry.link) || records {
        return;
    }
    let mut again = TarReader::new(io::Cursor::new(header.encode()));
    let Ok(Some(again)) = again.next_entry() else {
        panic!("{header:?} does not read");
    };
    assert_eq!(again.name, entry.name);
    assert_eq!((again.kind, again.size), (entry.kind, entry.size));
    assert_eq!((again.uid, again.gid), (entry.uid, entry.gid));
    assert_eq!(again.mtime.0, entry.mtime.0);
    assert_eq!(again.xattrs, entry.xattrs);
    if matches!(entry.kind, Kind::Symlink | Kind::HardLink) {
        assert_eq!(again.link, entry.link);
    }
}
