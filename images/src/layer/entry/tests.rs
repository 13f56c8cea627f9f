use super::*;
use crate::layer::header::{END, Header, padding};
use proptest::prelude::*;

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut tar = TarReader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = tar.next_entry()? {
        let mut content = Vec::new();
        tar.read_to_end(&mut content)?;
        entries.push((entry, content));
    }
    Ok(entries)
}

/// A header block with these fields set as text and a right checksum.
fn block(kind: u8, name: &[u8], fields: &[(usize, &[u8])]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[156] = kind;
    block[257..263].copy_from_slice(b"ustar\0");
    for (at, text) in fields {
        block[*at..*at + text.len()].copy_from_slice(text);
    }
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    [bytes, padding(bytes.len() as u64)].concat()
}

fn extension(kind: u8, data: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}", data.len());
    [
        &block(kind, b"x", &[(124, size.as_bytes())])[..],
        &padded(data),
    ]
    .concat()
}

fn single(parts: &[&[u8]]) -> Result<Entry, TarError> {
    Ok(read_all(&parts.concat())?.swap_remove(0).0)
}

#[test]
fn long_names_come_from_gnu_and_pax_headers_and_pax_wins() {
    let file = block(b'0', b"short", &[]);
    let gnu = extension(b'L', b"gnu/name\0");
    let link = extension(b'K', b"gnu/link\0");
    let pax = extension(b'x', b"17 path=pax/name\n");
    let entry = single(&[&gnu, &link, &file]).unwrap();
    assert_eq!(
        (&entry.name[..], &entry.link[..]),
        (&b"gnu/name"[..], &b"gnu/link"[..])
    );
    assert_eq!(single(&[&gnu, &pax, &file]).unwrap().name, b"pax/name");
}

#[test]
fn pax_records_override_and_carry_attributes() {
    let mut data = Vec::new();
    for record in [
        ("uid", &b"3000000"[..]),
        ("gid", b"80000"),
        ("mtime", b"1600000000.12"),
        ("size", b"3"),
        ("SCHILY.xattr.user.a", b"b=\0c"),
    ] {
        let rest = record.0.len() + record.1.len() + 3;
        let length = rest + (rest + 2).to_string().len();
        data.extend(format!("{length} {}=", record.0).bytes());
        data.extend(record.1);
        data.push(b'\n');
    }
    let pax = extension(b'x', &data);
    let file = block(b'0', b"f", &[(124, b"00000000001")]);
    let all = read_all(&[&pax[..], &file, &padded(b"abc"), &END].concat()).unwrap();
    let (entry, content) = &all[0];
    assert_eq!((entry.uid, entry.gid), (3_000_000, 80_000));
    assert_eq!(entry.mtime, (1_600_000_000, 120_000_000));
    assert_eq!(content, b"abc");
    assert_eq!(entry.xattrs[&b"user.a".to_vec()], b"b=\0c");
}

#[test]
fn numbers_may_be_base_256_and_negative_times_are_kept() {
    let mut big = [0u8; 8];
    big[0] = 0x80;
    big[4..].copy_from_slice(&2_200_000_000u32.to_be_bytes());
    let before = [0xff; 12];
    let file = block(b'0', b"f", &[(108, &big), (136, &before)]);
    let entry = single(&[&file]).unwrap();
    assert_eq!(entry.uid, 2_200_000_000);
    assert_eq!(entry.mtime, (-1, 0));
    assert_eq!(pax_time(b"-1.25").unwrap(), (-2, 750_000_000));
}

#[test]
fn directories_and_links_have_no_content_whatever_size_they_claim() {
    let dir = block(b'5', b"d/", &[(124, b"00000001000")]);
    let next = block(b'0', b"next", &[]);
    let old = block(0, b"old/", &[]);
    let all = read_all(&[&dir[..], &next, &old].concat()).unwrap();
    let kinds: Vec<Kind> = all.iter().map(|(e, _)| e.kind).collect();
    assert_eq!(kinds, [Kind::Directory, Kind::File, Kind::Directory]);
}

#[test]
fn damaged_and_unsupported_headers_are_refused() {
    let good = block(b'0', b"f", &[]);
    let mut damaged = good;
    damaged[0] ^= 1;
    assert!(matches!(
        single(&[&damaged]),
        Err(TarError::Header("checksum mismatch"))
    ));
    // The mark of a sparse file means nothing outside GNU's format.
    assert!(matches!(
        single(&[&block(b'S', b"f", &[])]),
        Err(TarError::Header(_))
    ));
    assert!(matches!(
        single(&[&block(b'V', b"f", &[])]),
        Err(TarError::UnknownType(b'V'))
    ));
    let sparse = extension(b'x', b"22 GNU.sparse.major=9\n");
    assert!(matches!(
        single(&[&sparse, &good]),
        Err(TarError::Header(_))
    ));
    let negative = block(b'0', b"f", &[(124, &[0xff; 12])]);
    assert!(matches!(single(&[&negative]), Err(TarError::Header(_))));
    let huge = block(b'x', b"f", &[(124, b"77777777777")]);
    assert!(matches!(
        single(&[&huge]),
        Err(TarError::ExtensionTooLarge(_))
    ));
    let no_owner = block(
        b'0',
        b"f",
        &[(108, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])],
    );
    assert!(matches!(single(&[&no_owner]), Err(TarError::Header(_))));
    for bad in [
        &b"8 path=x\n"[..],
        b"x",
        b"5 a\n\n",
        b"99999999999999999999 a=b\n",
        b"4 =\n",
    ] {
        assert!(single(&[&extension(b'x', bad), &good]).is_err(), "{bad:?}");
    }
    assert!(single(&[&extension(b'x', b"10 path=\0\n"), &good]).is_err());
}

#[test]
fn a_cut_stream_is_an_error_except_between_entries() {
    let file = block(b'0', b"f", &[(124, b"00000000003")]);
    let whole = [&file[..], &padded(b"abc")].concat();
    assert_eq!(read_all(&whole).unwrap().len(), 1);
    for end in [1, 511, 512, 513, 515, 1023] {
        assert!(read_all(&whole[..end]).is_err(), "cut at {end}");
    }
    let one_zero_block = [&[0; BLOCK][..], &file].concat();
    assert!(read_all(&one_zero_block).is_err());
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8..=255, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(
        name in names(),
        link in names(),
        kind in prop::sample::select(vec![
            Kind::File, Kind::HardLink, Kind::Symlink, Kind::CharDevice,
            Kind::BlockDevice, Kind::Directory, Kind::Fifo,
        ]),
        mode in 0u32..0o10000,
        (uid, gid) in (0u32..u32::MAX, 0u32..u32::MAX),
        mtime in -1i64 << 40..1 << 40,
        device in (0u32..4096, 0u32..1 << 20),
        content in prop::collection::vec(any::<u8>(), 0..2000),
        value in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut header = Header::new(kind, name.clone());
        let content = if kind == Kind::File { content } else { Vec::new() };
        if matches!(kind, Kind::HardLink | Kind::Symlink) {
            header.link = link;
        }
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            header.device = device;
        }
        (header.mode, header.uid, header.gid, header.mtime) = (mode, uid, gid, mtime);
        header.size = content.len() as u64;
        if !value.is_empty() {
            header.xattrs.insert(b"user.x".to_vec(), value);
        }
        let mut bytes = header.encode();
        prop_assert_eq!(bytes.len() % BLOCK, 0);
        bytes.extend(padded(&content));
        bytes.extend(END);
        let all = read_all(&bytes).unwrap();
        prop_assert_eq!(all.len(), 1);
        let (entry, read) = &all[0];
        prop_assert_eq!(&entry.name, &header.name);
        prop_assert_eq!(&entry.link, &header.link);
        prop_assert_eq!((entry.kind, entry.mode), (kind, mode));
        prop_assert_eq!((entry.uid, entry.gid, entry.mtime), (uid, gid, (mtime, 0)));
        prop_assert_eq!(entry.device, header.device);
        prop_assert_eq!(&entry.xattrs, &header.xattrs);
        prop_assert_eq!(read, &content);
        // The tar crate sees the same, but for line breaks in PAX records, which it cuts at.
        if !name.contains(&b'\n') && !header.link.contains(&b'\n') && header.xattrs.is_empty() {
            let mut other = tar::Archive::new(&bytes[..]);
            let seen = other.entries().unwrap().next().unwrap().unwrap();
            prop_assert_eq!(seen.path_bytes(), &header.name[..]);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        at in 0usize..512, value in any::<u8>(),
    ) {
        let _ = read_all(&bytes);
        let mut header = Header::new(Kind::File, "f").encode();
        header[at] = value;
        let sum: u32 = header.iter().enumerate()
            .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) }).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.extend(bytes);
        let _ = read_all(&header);
    }
}
