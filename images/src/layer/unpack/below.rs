//! What a file of a layer below would look like in an archive: so it is copied up by the way that unpacks.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::FileType;

use crate::layer::entry::Entry;
use crate::layer::header::Kind;
use crate::layer::lower::{Found, all_xattrs, file_type};

pub(super) fn blank(kind: Kind) -> Entry {
    Entry {
        kind,
        name: Vec::new(),
        link: Vec::new(),
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        sparse: false,
        mtime: (0, 0),
        device: (0, 0),
        xattrs: BTreeMap::new(),
    }
}

/// What a file of a layer below would look like in an archive.
pub(super) fn entry_of(found: &Found) -> io::Result<Entry> {
    let stat = &found.stat;
    let mut entry = blank(match file_type(stat) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => Kind::Fifo,
    });
    if entry.kind == Kind::Symlink {
        entry.link = std::fs::read_link(&found.path)?.into_os_string().into_vec();
    }
    entry.mode = stat.st_mode & 0o7777;
    (entry.uid, entry.gid) = (stat.st_uid, stat.st_gid);
    entry.size = u64::try_from(stat.st_size).unwrap_or(0);
    entry.mtime = (stat.st_mtime, stat.st_mtime_nsec as u32);
    if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
        entry.device = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
    }
    entry.xattrs = all_xattrs(&found.path)?;
    Ok(entry)
}
