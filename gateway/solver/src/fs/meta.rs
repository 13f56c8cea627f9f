//! What is known of one file without reading it: its stat, in the kernel's and in Go's terms,
//! and its extended attributes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat, Timespec, XattrFlags};
use rustix::io::Errno;

/// A file's stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// `st_mode`: type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime: i128,
    /// Access time, nanoseconds since the epoch.
    pub atime: i128,
    /// Change time, nanoseconds since the epoch.
    pub ctime: i128,
    /// Device that holds the file.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Hard links.
    pub nlink: u64,
    /// Device number of a device file.
    pub rdev: u64,
}

impl Meta {
    /// The stat of `name` in an open directory, a final link not followed.
    pub fn of(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Self, Errno> {
        rustix::fs::statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| Self::from(&stat))
    }

    /// The stat of an open file.
    pub fn of_fd(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        rustix::fs::fstat(fd).map(|stat| Self::from(&stat))
    }

    /// The file's type.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == FileType::RegularFile
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind() == FileType::Symlink
    }

    /// Permission bits with set-uid, set-gid and sticky.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// The mode as Go's `os.FileMode`, the form of every wire message. A socket has no bit
    /// there: archives cannot hold one.
    pub fn go_mode(&self) -> u32 {
        let mut mode = self.mode & 0o777;
        for (bit, go) in [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)] {
            if self.mode & bit != 0 {
                mode |= go;
            }
        }
        mode | match self.kind() {
            FileType::Directory => 1 << 31,
            FileType::Symlink => 1 << 27,
            FileType::BlockDevice => 1 << 26,
            FileType::CharacterDevice => 1 << 26 | 1 << 21,
            FileType::Fifo => 1 << 25,
            _ => 0,
        }
    }

    /// Whether a later stat of the same name shows the same, unchanged file.
    pub fn is_still(&self, now: &Meta) -> bool {
        let same = (self.dev, self.ino, self.mode, self.mtime, self.ctime)
            == (now.dev, now.ino, now.mode, now.mtime, now.ctime);
        same && (self.is_dir() || (self.size, self.rdev) == (now.size, now.rdev))
    }

    /// Major and minor number of a device file.
    pub fn device(&self) -> (u32, u32) {
        (rustix::fs::major(self.rdev), rustix::fs::minor(self.rdev))
    }
}

impl From<&Stat> for Meta {
    // Some fields are narrower on other architectures.
    #[allow(clippy::useless_conversion)]
    fn from(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: nanos(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
            atime: nanos(stat.st_atime.into(), stat.st_atime_nsec.into()),
            ctime: nanos(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
            dev: stat.st_dev,
            ino: stat.st_ino,
            nlink: stat.st_nlink.into(),
            rdev: stat.st_rdev,
        }
    }
}

fn nanos(seconds: i128, nanos: i128) -> i128 {
    seconds * 1_000_000_000 + nanos
}

/// A stat in little more than half the memory, without its access time: contexts of a hundred
/// thousand files are held as these.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompactMeta {
    size: u64,
    dev: u64,
    ino: u64,
    rdev: u64,
    mtime: i64,
    ctime: i64,
    mtime_nanos: u32,
    ctime_nanos: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
}

impl From<&Meta> for CompactMeta {
    fn from(meta: &Meta) -> Self {
        let (mtime, mtime_nanos) = split_time(meta.mtime);
        let (ctime, ctime_nanos) = split_time(meta.ctime);
        Self {
            size: meta.size,
            dev: meta.dev,
            ino: meta.ino,
            rdev: meta.rdev,
            mtime,
            ctime,
            mtime_nanos,
            ctime_nanos,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            nlink: u32::try_from(meta.nlink).unwrap_or(u32::MAX),
        }
    }
}

impl CompactMeta {
    /// The stat, as if nobody had ever accessed the file.
    pub(crate) fn meta(&self) -> Meta {
        Meta {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            mtime: join_time((self.mtime, self.mtime_nanos)),
            atime: 0,
            ctime: join_time((self.ctime, self.ctime_nanos)),
            dev: self.dev,
            ino: self.ino,
            nlink: self.nlink.into(),
            rdev: self.rdev,
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Directory
    }
}

/// Seconds and nanoseconds of a time, as files are kept with them. The kernel has no others.
pub(crate) fn split_time(time: i128) -> (i64, u32) {
    let time = timespec(time);
    (time.tv_sec, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The reverse.
pub(crate) fn join_time((seconds, rest): (i64, u32)) -> i128 {
    nanos(seconds.into(), rest.into())
}

/// A time as the kernel takes it.
pub(crate) fn timespec(nanos: i128) -> Timespec {
    let seconds = nanos.div_euclid(1_000_000_000);
    let clamped = seconds.clamp(i64::MIN.into(), i64::MAX.into());
    Timespec {
        tv_sec: i64::try_from(clamped).unwrap_or(0),
        tv_nsec: i64::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0) as _,
    }
}

/// Extended attributes by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Longest list of names, and longest value, that the kernel hands out (`XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 * 1024;

/// Whether an attribute enters content hashes: all do, but labels, access lists, and the marks
/// of an overlay, which say how a layer is stored and not what is in it.
pub(crate) fn is_portable_xattr(name: &[u8]) -> bool {
    let foreign = name.starts_with(b"security.") || name.starts_with(b"system.");
    name == b"security.capability" || !foreign && !is_overlay_mark(name)
}

/// Attributes by which an overlay marks whiteouts, opaque directories and redirects.
pub(crate) fn is_overlay_mark(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// A file whose attributes are meant: an open one, or one that cannot be opened (a link, a
/// device) by its path, a final link not followed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum XattrsOf<'a> {
    /// Open for reading or writing.
    Fd(BorrowedFd<'a>),
    /// On the host.
    Path(&'a Path),
}

impl XattrsOf<'_> {
    /// All attributes. A file system without any has none; a value that cannot be read is
    /// left out.
    pub(crate) fn read(self) -> Result<Xattrs, Errno> {
        let names = match with_room(|buffer| self.list(buffer)) {
            Ok(names) => names,
            Err(Errno::NOTSUP) => return Ok(Xattrs::new()),
            Err(error) => return Err(error),
        };
        let mut out = Xattrs::new();
        for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
            if let Ok(value) = with_room(|buffer| self.get(OsStr::from_bytes(name), buffer)) {
                out.insert(name.to_vec(), value);
            }
        }
        Ok(out)
    }

    /// Sets attributes. What the file system or our rights do not allow is left out: builds
    /// must not fail over labels of another host. An overlay's own marks are never set: on a
    /// layer they would hide files.
    pub(crate) fn set(self, xattrs: &Xattrs) {
        for (name, value) in xattrs {
            if is_overlay_mark(name) {
                continue;
            }
            let name = OsStr::from_bytes(name);
            let flags = XattrFlags::empty();
            let _ = match self {
                Self::Fd(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
                Self::Path(path) => rustix::fs::lsetxattr(path, name, value, flags),
            };
        }
    }

    fn list(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Fd(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Path(path) => rustix::fs::llistxattr(path, buffer),
        }
    }

    fn get(self, name: &OsStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Fd(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Path(path) => rustix::fs::lgetxattr(path, name, buffer),
        }
    }
}

/// Nearly every file has no attributes or few: one call with a small buffer decides.
fn with_room(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0_u8; 256];
    match read(&mut small) {
        Ok(len) => Ok(small.get(..len).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0_u8; XATTR_MAX];
            let len = read(&mut large)?;
            large.truncate(len);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_mode(mode: u32) -> Meta {
        Meta {
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            atime: 0,
            ctime: 0,
            dev: 0,
            ino: 0,
            nlink: 1,
            rdev: 0,
        }
    }

    #[test]
    fn modes_are_told_in_go_s_bits() {
        for (mode, go) in [
            (0o100_644, 0o644),
            (0o040_755, 0x8000_01ed),
            (0o120_777, 0x0800_01ff),
            (0o104_755, 0o755 | 1 << 23),
            (0o041_777, 0o777 | 1 << 31 | 1 << 20),
            (0o020_600, 0o600 | 1 << 26 | 1 << 21),
            (0o140_755, 0o755),
        ] {
            assert_eq!(with_mode(mode).go_mode(), go, "{mode:o}");
        }
    }

    #[test]
    fn times_before_the_epoch_are_kept() {
        let time = timespec(-1);
        assert_eq!((time.tv_sec, time.tv_nsec), (-1, 999_999_999));
        assert_eq!(join_time(split_time(-1)), -1);
    }

    proptest::proptest! {
        #[test]
        fn a_compact_stat_is_the_stat_without_its_access_time(
            (mode, uid, gid, nlink) in proptest::arbitrary::any::<(u32, u32, u32, u32)>(),
            (size, dev, ino, rdev) in proptest::arbitrary::any::<(u64, u64, u64, u64)>(),
            (mtime, ctime) in proptest::arbitrary::any::<(i64, i64)>(),
            (m, c) in (0..1_000_000_000_i128, 0..1_000_000_000_i128),
        ) {
            let meta = Meta {
                mode, uid, gid, size, dev, ino, rdev,
                mtime: nanos(mtime.into(), m),
                atime: 0,
                ctime: nanos(ctime.into(), c),
                nlink: nlink.into(),
            };
            proptest::prop_assert_eq!(CompactMeta::from(&meta).meta(), meta);
        }
    }
}
