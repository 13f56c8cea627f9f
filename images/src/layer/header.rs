//! Tar headers as BuildKit writes them: ustar where it fits, a PAX record only for what does not.
//!
//! The diffID is the digest of these bytes, so the form is that of Go's archive/tar down to the padding
//! (observed): no user names, no access or change times, octal numbers with zeros in front and a NUL behind.

use std::collections::BTreeMap;

use super::BLOCK;

/// The PAX key in front of an extended attribute's name.
pub(crate) const PAX_XATTR: &str = "SCHILY.xattr.";

/// What a tar entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        }
    }
}

/// The metadata of one entry to write.
#[derive(Clone, Debug)]
pub struct Header {
    pub kind: Kind,
    /// Relative, directories with a slash at the end.
    pub name: Vec<u8>,
    /// Target of a hard or symbolic link.
    pub link: Vec<u8>,
    /// Permission bits, 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Major and minor number.
    pub device: (u32, u32),
    /// Extended attributes to record, by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Header {
    pub fn new(kind: Kind, name: impl Into<Vec<u8>>) -> Self {
        Header {
            kind,
            name: name.into(),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            device: (0, 0),
            xattrs: BTreeMap::new(),
        }
    }

    /// The header's blocks: 512 bytes, with a PAX header and its records in front where one is needed.
    pub fn encode(&self) -> Vec<u8> {
        let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let split = split_path(&self.name);
        let mut ustar = self.xattrs.is_empty();
        if !fits_text(&self.name, 100) {
            records.insert(b"path".to_vec(), self.name.clone());
            ustar &= split.is_some();
        }
        if !fits_text(&self.link, 100) {
            records.insert(b"linkpath".to_vec(), self.link.clone());
            ustar = false;
        }
        for (key, value) in [
            ("uid", i64::from(self.uid)),
            ("gid", i64::from(self.gid)),
            ("size", i64::try_from(self.size).unwrap_or(i64::MAX)),
            ("mtime", self.mtime),
        ] {
            let width = if matches!(key, "uid" | "gid") { 8 } else { 12 };
            if !fits_octal(value, width) {
                records.insert(key.into(), value.to_string().into_bytes());
                ustar = false;
            }
        }
        for (name, value) in &self.xattrs {
            let key = [PAX_XATTR.as_bytes(), name].concat();
            records.insert(key, value.clone());
        }
        if ustar {
            return match split {
                Some((prefix, name)) => self.block(name, prefix, |s| s.to_vec()).to_vec(),
                None => self.block(&self.name, b"", |s| s.to_vec()).to_vec(),
            };
        }
        let mut out = pax_blocks(&self.name, &records);
        out.extend(self.block(&self.name, b"", ascii_only));
        out
    }

    fn block(&self, name: &[u8], prefix: &[u8], text: impl Fn(&[u8]) -> Vec<u8>) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put_text(&mut block[0..100], &text(name));
        put_octal(&mut block[100..108], i64::from(self.mode & 0o7777));
        put_octal(&mut block[108..116], i64::from(self.uid));
        put_octal(&mut block[116..124], i64::from(self.gid));
        put_octal(
            &mut block[124..136],
            i64::try_from(self.size).unwrap_or(i64::MAX),
        );
        put_octal(&mut block[136..148], self.mtime);
        block[156] = self.kind.flag();
        put_text(&mut block[157..257], &text(&self.link));
        put_octal(&mut block[329..337], i64::from(self.device.0));
        put_octal(&mut block[337..345], i64::from(self.device.1));
        put_text(&mut block[345..500], prefix);
        seal(&mut block);
        block
    }
}

/// The zeros that fill the last block of `size` bytes of content.
pub fn padding(size: u64) -> &'static [u8] {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { &[] } else { &ZEROS[over..] }
}

/// The end of an archive: two zero blocks, without further padding.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

fn pax_blocks(name: &[u8], records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        data.extend(pax_record(key, value));
    }
    let (dir, base) = match name.iter().rposition(|&b| b == b'/') {
        Some(slash) => name.split_at(slash + 1),
        None => (&b""[..], name),
    };
    let mut full = ascii_only(&[dir, b"PaxHeaders.0/", base].concat());
    full.truncate(100);
    while full.last() == Some(&b'/') {
        full.pop();
    }
    let mut block = [0; BLOCK];
    put_text(&mut block[0..100], &full);
    for field in [100..108, 108..116, 116..124] {
        put_octal(&mut block[field], 0);
    }
    put_octal(&mut block[124..136], data.len() as i64);
    put_octal(&mut block[136..148], 0);
    block[156] = b'x';
    seal(&mut block);
    let fill = padding(data.len() as u64);
    [&block[..], &data, fill].concat()
}

/// `"<length> key=value\n"`, where the length counts itself.
fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} ").into_bytes();
    record.extend_from_slice(key);
    record.push(b'=');
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

fn fits_text(text: &[u8], width: usize) -> bool {
    text.len() <= width && is_ascii(text)
}

fn is_ascii(text: &[u8]) -> bool {
    text.iter().all(|&b| b < 0x80 && b != 0)
}

fn ascii_only(text: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .filter(|&b| b < 0x80 && b != 0)
        .collect()
}

fn fits_octal(value: i64, width: usize) -> bool {
    value >= 0 && value < 1 << ((width - 1) * 3)
}

/// Splits a long name into ustar's prefix (155 bytes) and name (100 bytes) at the last slash that allows it.
fn split_path(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 || !is_ascii(name) {
        return None;
    }
    let mut end = name.len();
    if end > 156 {
        end = 156;
    } else if name.last() == Some(&b'/') {
        end -= 1;
    }
    let slash = name[..end].iter().rposition(|&b| b == b'/')?;
    let rest = name.len() - slash - 1;
    (slash > 0 && slash <= 155 && rest > 0 && rest <= 100)
        .then(|| (&name[..slash], &name[slash + 1..]))
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let n = text.len().min(field.len());
    field[..n].copy_from_slice(&text[..n]);
    // A cut name that happens to end in a slash would make old readers see a directory.
    if text.len() > field.len() && field.last() == Some(&b'/') {
        let mut end = n - 1;
        while end > 0 && field[end - 1] == b'/' {
            end -= 1;
        }
        field[end] = 0;
    }
}

fn put_octal(field: &mut [u8], value: i64) {
    let value = if fits_octal(value, field.len()) {
        value
    } else {
        0 // a PAX record carries the value
    };
    let text = format!("{value:0width$o}", width = field.len() - 1);
    field[..text.len()].copy_from_slice(text.as_bytes());
}

/// Sets the magic and the checksum (the sum of all bytes with the field itself as spaces).
fn seal(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].copy_from_slice(b"        ");
    let sum: i64 = block.iter().map(|&b| i64::from(b)).sum();
    put_octal(&mut block[148..155], sum);
    block[154] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &[u8]) -> Header {
        let mut header = Header::new(Kind::File, name);
        header.mode = 0o644;
        header
    }

    #[test]
    fn a_short_name_takes_one_block() {
        let bytes = header(b"etc/passwd").encode();
        assert_eq!(bytes.len(), BLOCK);
        assert_eq!(&bytes[..11], b"etc/passwd\0");
        assert_eq!(&bytes[100..108], b"0000644\0");
        assert_eq!(&bytes[257..265], b"ustar\x0000");
        assert_eq!(&bytes[329..345], b"0000000\x000000000\0");
    }

    #[test]
    fn a_long_ascii_name_is_split_and_a_longer_one_gets_a_record() {
        let long = [&[b'a'; 90][..], b"/", &[b'b'; 90]].concat();
        let bytes = header(&long).encode();
        assert_eq!(bytes.len(), BLOCK);
        assert_eq!(&bytes[345..435], &[b'a'; 90]);

        let longer = vec![b'a'; 120];
        let bytes = header(&longer).encode();
        assert_eq!(bytes.len(), 3 * BLOCK);
        assert_eq!(bytes[156], b'x');
        assert_eq!(
            &bytes[512..512 + 130],
            [b"130 path=", &longer[..], b"\n"].concat()
        );
    }

    #[test]
    fn a_name_outside_ascii_and_a_time_before_1970_get_records() {
        let mut header = header("naïve".as_bytes());
        header.mtime = -5;
        let bytes = header.encode();
        let records = [&b"12 mtime=-5\n"[..], "15 path=naïve\n".as_bytes()].concat();
        assert_eq!(&bytes[512..512 + records.len()], records);
        assert_eq!(&bytes[1024..1029], b"nave\0");
    }

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for n in [1, 5, 86, 87, 88, 89, 90, 91, 92, 985, 986, 987, 990, 9990] {
            let record = pax_record(b"path", &vec![b'x'; n]);
            let text = String::from_utf8(record.clone()).unwrap();
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, record.len());
        }
    }

    /// An archive written by Go's archive/tar, with every kind of entry, name, number and time that needs care.
    #[test]
    fn headers_are_those_of_go_byte_for_byte() {
        use crate::layer::{Decoder, TarReader};
        use std::io::Read;
        let packed = include_bytes!("../../testdata/headers.tar.gz");
        let mut tar = Vec::new();
        Decoder::new(&packed[..])
            .unwrap()
            .read_to_end(&mut tar)
            .unwrap();
        let mut reader = TarReader::new(&tar[..]);
        let mut written = Vec::new();
        let mut count = 0;
        while let Some(entry) = reader.next_entry().unwrap() {
            let header = Header {
                kind: entry.kind,
                name: entry.name,
                link: entry.link,
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                size: entry.size,
                mtime: entry.mtime.0,
                device: entry.device,
                xattrs: entry.xattrs,
            };
            written.extend(header.encode());
            let at = written.len();
            reader.read_to_end(&mut written).unwrap();
            written.extend(padding((written.len() - at) as u64));
            let name = String::from_utf8_lossy(&header.name);
            let same = tar.get(..written.len()) == Some(&written[..]);
            assert!(same, "{:?} {name} {:?}", header.kind, header.mtime);
            count += 1;
        }
        written.extend(END);
        assert!(written == tar);
        assert_eq!(count, 90);
    }
}
