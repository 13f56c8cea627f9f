//! The table of contents: its JSON, with the names and in the order of the format's reference.

use std::collections::BTreeMap;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::layer::{Entry, Kind};

/// The only version there is.
pub(super) const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Toc {
    pub version: u32,
    pub entries: Vec<TocEntry>,
}

/// One entry of the tar, or one more chunk of a file. What is zero or empty is left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TocEntry {
    pub name: String,
    /// `dir`, `reg`, `symlink`, `hardlink`, `char`, `block`, `fifo`; `chunk` for what follows the first of a file.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
    /// RFC 3339 in whole seconds.
    #[serde(rename = "modtime", skip_serializing_if = "String::is_empty")]
    pub modified: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub gid: u64,
    /// Where in the blob the gzip member with the content begins.
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// Bytes of other content in front of it in that member.
    #[serde(skip_serializing_if = "is_zero")]
    pub inner_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// Of the whole file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Where in its file the chunk begins, and its bytes; no bytes mean all that is left.
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub chunk_digest: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Toc {
    /// The JSON as the format's reference indents it.
    pub fn json(&self) -> io::Result<Vec<u8>> {
        let mut json = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut json, tabs);
        self.serialize(&mut serializer)?;
        Ok(json)
    }
}

impl TocEntry {
    pub fn of(entry: &Entry) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let is_link = matches!(entry.kind, Kind::HardLink | Kind::Symlink);
        let is_device = matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice);
        let device = if is_device { entry.device } else { (0, 0) };
        let xattrs = entry.xattrs.iter();
        TocEntry {
            name: text(&entry.name),
            kind: kind_name(entry.kind).into(),
            size: if entry.kind == Kind::File {
                entry.size
            } else {
                0
            },
            modified: modified(entry.mtime),
            link_name: if is_link {
                text(&entry.link)
            } else {
                String::new()
            },
            mode: entry.mode.into(),
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            dev_major: device.0.into(),
            dev_minor: device.1.into(),
            xattrs: xattrs
                .map(|(name, value)| (text(name), STANDARD.encode(value)))
                .collect(),
            ..TocEntry::default()
        }
    }

    /// Content of a file that lies in the blob.
    pub fn has_content(&self) -> bool {
        (self.kind == "reg" && self.size > 0) || self.kind == "chunk"
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "reg",
        Kind::HardLink => "hardlink",
        Kind::Symlink => "symlink",
        Kind::CharDevice => "char",
        Kind::BlockDevice => "block",
        Kind::Directory => "dir",
        Kind::Fifo => "fifo",
    }
}

/// Rounded to seconds. The epoch means "unknown" in this format, and is left out; so is what no date can say.
fn modified((seconds, nanoseconds): (i64, u32)) -> String {
    let rounded = seconds.saturating_add(i64::from(nanoseconds >= 500_000_000));
    match OffsetDateTime::from_unix_timestamp(rounded) {
        Ok(time) if seconds != 0 => time.format(&Rfc3339).unwrap_or_default(),
        _ => String::new(),
    }
}
