//! Tar streams from generated entries. Mutating raw bytes breaks checksums and lengths long before
//! it finds a link that a later entry follows; entries drawn from few names find that at once.

use std::fmt;
use std::io::Write;
use std::path::Path;

use arbitrary::Arbitrary;
use gateway_images::layer::{END, Header, Kind, padding};

/// Most entries of one archive: more only cost time.
const MAX_ENTRIES: usize = 24;

/// The input of a target that reads archives.
#[derive(Arbitrary)]
pub struct Archive {
    pub packing: Packing,
    body: Body,
}

/// Whether and how the stream is compressed.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

#[derive(Arbitrary)]
enum Body {
    Entries(Vec<Entry>),
    /// The bytes as they are.
    Raw(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Entry {
    kind: EntryKind,
    name: Name,
    link: Name,
    mode: u16,
    owner: u8,
    mtime: i32,
    xattr: Option<(Attribute, Vec<u8>)>,
    content: Vec<u8>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// Up to three elements, so that entries meet each other.
#[derive(Arbitrary, Debug)]
struct Name {
    start: Start,
    elements: Vec<Element>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Start {
    Relative,
    Absolute,
    Dot,
    /// The directory that must not change.
    Outside,
    /// The same by way of `..`.
    UpOutside,
}

#[derive(Arbitrary, Debug)]
enum Element {
    A,
    B,
    C,
    File,
    Dir,
    Dot,
    Up,
    Empty,
    WhiteoutA,
    WhiteoutDir,
    Opaque,
    Aufs,
    Long,
    Any(Vec<u8>),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Attribute {
    User,
    Capability,
    Overlay,
    OverlayUser,
    Acl,
}

impl Archive {
    /// The stream; generated names lead to `outside`.
    pub fn bytes(&self, outside: &Path) -> Vec<u8> {
        let plain = match &self.body {
            Body::Entries(entries) => {
                let mut bytes = Vec::new();
                for entry in entries.iter().take(MAX_ENTRIES) {
                    entry.write(outside, &mut bytes);
                }
                bytes.extend_from_slice(&END);
                bytes
            }
            Body::Raw(bytes) => bytes.clone(),
        };
        match self.packing {
            Packing::Plain => plain,
            Packing::Gzip => gzip(&plain),
            Packing::Zstd => zstd::encode_all(&plain[..], 1).expect("compressed"),
        }
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(plain).expect("compressed");
    writer.finish().expect("compressed")
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ", self.packing)?;
        match &self.body {
            Body::Entries(entries) => f.debug_list().entries(entries).finish(),
            Body::Raw(bytes) => write!(f, "{} raw bytes", bytes.len()),
        }
    }
}

impl Entry {
    fn write(&self, outside: &Path, bytes: &mut Vec<u8>) {
        let kind = match self.kind {
            EntryKind::File => Kind::File,
            EntryKind::HardLink => Kind::HardLink,
            EntryKind::Symlink => Kind::Symlink,
            EntryKind::CharDevice => Kind::CharDevice,
            EntryKind::BlockDevice => Kind::BlockDevice,
            EntryKind::Directory => Kind::Directory,
            EntryKind::Fifo => Kind::Fifo,
        };
        let content: &[u8] = match kind {
            Kind::File => &self.content,
            _ => &[],
        };
        let mut header = Header::new(kind, self.name.bytes(outside));
        header.link = self.link.bytes(outside);
        header.mode = u32::from(self.mode) & 0o7777;
        header.uid = u32::from(self.owner);
        header.gid = u32::from(self.owner) * 1000;
        header.mtime = i64::from(self.mtime);
        header.size = content.len() as u64;
        if let Some((attribute, value)) = &self.xattr {
            let name = attribute.name().as_bytes().to_vec();
            header.xattrs.insert(name, value.clone());
        }
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(padding(header.size));
    }
}

impl Attribute {
    fn name(self) -> &'static str {
        match self {
            Attribute::User => "user.a",
            Attribute::Capability => "security.capability",
            Attribute::Overlay => "trusted.overlay.redirect",
            Attribute::OverlayUser => "user.overlay.opaque",
            Attribute::Acl => "system.posix_acl_access",
        }
    }
}

impl Name {
    fn bytes(&self, outside: &Path) -> Vec<u8> {
        let mut parts: Vec<Vec<u8>> = match self.start {
            Start::Relative => Vec::new(),
            Start::Absolute => vec![Vec::new()],
            Start::Dot => vec![b".".to_vec()],
            Start::Outside => vec![outside.as_os_str().as_encoded_bytes().to_vec()],
            Start::UpOutside => [&b".."[..], b"outside"].map(<[u8]>::to_vec).to_vec(),
        };
        parts.extend(self.elements.iter().take(3).map(Element::bytes));
        parts.join(&b'/')
    }
}

impl Element {
    fn bytes(&self) -> Vec<u8> {
        let text: &[u8] = match self {
            Element::A => b"a",
            Element::B => b"b",
            Element::C => b"c",
            Element::File => b"file",
            Element::Dir => b"dir",
            Element::Dot => b".",
            Element::Up => b"..",
            Element::Empty => b"",
            Element::WhiteoutA => b".wh.a",
            Element::WhiteoutDir => b".wh.dir",
            Element::Opaque => b".wh..wh..opq",
            Element::Aufs => b".wh..wh.plnk",
            Element::Long => return vec![b'l'; 200],
            // No NUL: names end there.
            Element::Any(bytes) => {
                let named = bytes.iter().copied().filter(|b| *b != 0);
                return named.take(300).collect();
            }
        };
        text.to_vec()
    }
}
