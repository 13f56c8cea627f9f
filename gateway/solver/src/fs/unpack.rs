//! Archives that ADD unpacks: tar, plain or compressed with gzip, bzip2, xz or zstd, told by
//! what is in them. The destination is the archive's whole world: its paths and the links
//! on them are resolved as if the destination were `/`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use tar::EntryType;

use super::error::{FsError, lossy};
use super::gopath;
use super::meta::{Xattrs, XattrsOf};
use super::root::{self, Owner, Root};

/// Prefix of extended attributes among a header's records.
const XATTR_RECORD: &str = "SCHILY.xattr.";
/// Memory that unpacking xz may ask for, in KiB: the strongest preset (`xz -9`) needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 * 1024;
/// Permission bits of directories that an archive implies but does not list.
const IMPLIED_MODE: u32 = 0o755;

/// Unpacks the source into the directory `dest` if it is an archive with something in it;
/// `false` if it is not, and nothing was done.
pub fn unpack(
    from: &Root,
    source: &[u8],
    to: &Root,
    dest: &[u8],
    owner: Option<Owner>,
    time: Option<i128>,
) -> Result<bool, FsError> {
    let source = from.resolve(source)?;
    if !from.lstat(&source).is_ok_and(|meta| meta.is_file()) {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let Ok(fd) = from.open_resolved(&source, flags, Mode::empty()) else {
        return Ok(false);
    };
    let mut file = File::from(fd);
    if !is_archive(&mut file) {
        return Ok(false);
    }
    let dest = to.resolve(dest)?;
    to.mkdir_all(&dest, IMPLIED_MODE, owner, time)?;
    let failed = |error: std::io::Error| FsError::Archive {
        path: lossy(&source),
        reason: error.to_string(),
    };
    file.rewind().map_err(failed)?;
    let mut extraction = Extraction {
        root: to.below(&dest)?,
        owner,
        directories: Vec::new(),
    };
    let mut archive = tar::Archive::new(decompress(file).map_err(failed)?);
    for entry in archive.entries().map_err(failed)? {
        extraction.entry(entry.map_err(failed)?, &failed)?;
    }
    extraction.finish()?;
    Ok(true)
}

/// Whether a first header can be read.
fn is_archive(file: &mut File) -> bool {
    let Ok(reader) = file.try_clone().and_then(decompress) else {
        return false;
    };
    let mut archive = tar::Archive::new(reader);
    archive
        .entries()
        .is_ok_and(|mut entries| matches!(entries.next(), Some(Ok(_))))
}

/// A reader of the plain bytes, by the magic number at the start.
fn decompress(mut file: File) -> std::io::Result<Box<dyn Read>> {
    let mut magic = [0_u8; 6];
    let mut len = 0;
    while len < magic.len() {
        match file.read(&mut magic[len..])? {
            0 => break,
            n => len += n,
        }
    }
    file.rewind()?;
    let file = BufReader::with_capacity(128 * 1024, file);
    Ok(match &magic[..len] {
        [0x1f, 0x8b, 0x08, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(lzma_rust2::XzReader::new_mem_limit(
            file,
            true,
            XZ_MEMORY_KIB,
        )),
        // A frame, or one of the sixteen kinds that readers skip.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(file)?)
        }
        _ => Box::new(file),
    })
}

struct Extraction {
    root: Root,
    owner: Option<Owner>,
    /// Directories and their times, set when nothing more goes into them.
    directories: Vec<(Vec<u8>, i128)>,
}

impl Extraction {
    fn entry<R: Read>(
        &mut self,
        mut entry: tar::Entry<'_, R>,
        failed: &dyn Fn(std::io::Error) -> FsError,
    ) -> Result<(), FsError> {
        let mut kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        // Archives older than directory entries write a final slash.
        if kind == EntryType::Regular && entry.path_bytes().ends_with(b"/") {
            kind = EntryType::Directory;
        }
        let name = gopath::clean(&entry.path_bytes());
        if name == b".." || name.starts_with(b"../") {
            let text = format!("\"{}\" is outside of the destination", lossy(&name));
            return Err(FsError::Invalid(text));
        }
        let name = gopath::absolute(&name);
        if name == b"/" {
            // The destination itself keeps what it has.
            return Ok(());
        }
        let parent = self.root.resolve(&gopath::dir(&name))?;
        self.root.mkdir_all(&parent, IMPLIED_MODE, None, None)?;
        let path = gopath::join(&parent, gopath::base(&name));
        let header = Header::read(&mut entry, self.owner).map_err(failed)?;

        let is_dir = kind == EntryType::Directory;
        let existing = self.root.lstat_if_exists(&path)?;
        if existing.is_some_and(|meta| !(meta.is_dir() && is_dir)) {
            self.root
                .open_parent(&path)
                .and_then(|(dir, name)| root::remove_all(dir.as_fd(), name))
                .map_err(|errno| FsError::path("unlinkat", &path, errno))?;
        }
        match kind {
            EntryType::Directory => {
                if existing.is_none_or(|meta| !meta.is_dir()) {
                    self.root
                        .mkdir_all(&path, header.mode & 0o777, None, None)?;
                }
                self.directories.push((path.clone(), header.time));
            }
            EntryType::Symlink => self.symlink(&entry, &path)?,
            EntryType::Link => self.hard_link(&entry, &path)?,
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                if !self.device(kind, &entry, &path)? {
                    return Ok(());
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let fd = self
                    .root
                    .open_resolved(&path, flags, Mode::from_raw_mode(0o600))
                    .map_err(|errno| FsError::path("open", &path, errno))?;
                std::io::copy(&mut entry, &mut File::from(fd)).map_err(failed)?;
            }
            other => {
                let text = format!("unhandled tar header type {}", other.as_byte());
                return Err(FsError::Invalid(text));
            }
        }
        self.metadata(&path, &header)
    }

    fn symlink<R: Read>(&self, entry: &tar::Entry<'_, R>, path: &[u8]) -> Result<(), FsError> {
        let target = entry.link_name_bytes().unwrap_or_default();
        self.root
            .open_parent(path)
            .and_then(|(dir, name)| {
                let target = OsStr::from_bytes(&target);
                rustix::fs::symlinkat(target, &dir, OsStr::from_bytes(name))
            })
            .map_err(|errno| FsError::Link {
                op: "symlink",
                old: lossy(&target),
                new: lossy(path),
                errno,
            })
    }

    fn hard_link<R: Read>(&self, entry: &tar::Entry<'_, R>, path: &[u8]) -> Result<(), FsError> {
        let first = entry.link_name_bytes().unwrap_or_default();
        let resolved = self.root.resolve_parent(&first)?;
        let linked = || {
            let (old_dir, old) = self.root.open_parent(&resolved)?;
            let (dir, name) = self.root.open_parent(path)?;
            let (old, name) = (OsStr::from_bytes(old), OsStr::from_bytes(name));
            rustix::fs::linkat(&old_dir, old, &dir, name, AtFlags::empty())
        };
        linked().map_err(|errno| FsError::Link {
            op: "link",
            old: lossy(&resolved),
            new: lossy(path),
            errno,
        })
    }

    /// Makes a device file; `false` where that is nobody's right, in a user namespace: the
    /// archive's other files are still wanted.
    fn device<R: Read>(
        &self,
        kind: EntryType,
        entry: &tar::Entry<'_, R>,
        path: &[u8],
    ) -> Result<bool, FsError> {
        let number = |field: std::io::Result<Option<u32>>| field.ok().flatten().unwrap_or(0);
        let header = entry.header();
        let device =
            rustix::fs::makedev(number(header.device_major()), number(header.device_minor()));
        let kind = match kind {
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let made = self.root.open_parent(path).and_then(|(dir, name)| {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(&dir, OsStr::from_bytes(name), kind, mode, device)
        });
        match made {
            Ok(()) => Ok(true),
            Err(Errno::PERM) if kind != FileType::Fifo => Ok(false),
            Err(errno) => Err(FsError::path("mknod", path, errno)),
        }
    }

    fn metadata(&self, path: &[u8], header: &Header) -> Result<(), FsError> {
        let (dir, name) = self
            .root
            .open_parent(path)
            .map_err(|errno| FsError::path("open", path, errno))?;
        root::chown(dir.as_fd(), name, header.owner)
            .map_err(|errno| FsError::path("lchown", path, errno))?;
        XattrsOf::Path(&self.root.host_path(path)).set(&header.xattrs);
        // A hard link can be one to a symbolic link.
        if !self.root.lstat(path)?.is_symlink() {
            let mode = Mode::from_raw_mode(header.mode & 0o7777);
            rustix::fs::chmodat(&dir, OsStr::from_bytes(name), mode, AtFlags::empty())
                .map_err(|errno| FsError::path("chmod", path, errno))?;
        }
        root::set_times(dir.as_fd(), name, header.time, header.time)
            .map_err(|errno| root::utime_error(path, errno))
    }

    fn finish(self) -> Result<(), FsError> {
        for (path, time) in self.directories.iter().rev() {
            let result = self
                .root
                .open_parent(path)
                .and_then(|(dir, name)| root::set_times(dir.as_fd(), name, *time, *time));
            match result {
                // A later entry may have replaced the directory.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(root::utime_error(path, errno)),
            }
        }
        Ok(())
    }
}

/// What a header and its records say of a file's metadata.
struct Header {
    mode: u32,
    owner: Owner,
    /// Nanoseconds.
    time: i128,
    xattrs: Xattrs,
}

impl Header {
    fn read<R: Read>(entry: &mut tar::Entry<'_, R>, owner: Option<Owner>) -> std::io::Result<Self> {
        let mut xattrs = Xattrs::new();
        let mut time = None;
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            match record.key() {
                Ok("mtime") => time = record.value().ok().and_then(nanoseconds),
                Ok(key) => {
                    if let Some(name) = key.strip_prefix(XATTR_RECORD) {
                        xattrs.insert(name.as_bytes().to_vec(), record.value_bytes().to_vec());
                    }
                }
                Err(_) => {}
            }
        }
        let header = entry.header();
        let id = |value: u64| u32::try_from(value).unwrap_or(0);
        let owner = match owner {
            Some(owner) => owner,
            None => Owner {
                uid: id(header.uid()?),
                gid: id(header.gid()?),
            },
        };
        let time = match time {
            Some(time) => time,
            None => i128::from(header.mtime()?) * 1_000_000_000,
        };
        Ok(Self {
            mode: header.mode()?,
            owner,
            time,
            xattrs,
        })
    }
}

/// A time in a record: seconds with a fraction.
fn nanoseconds(text: &str) -> Option<i128> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = seconds.starts_with('-');
    let whole: i64 = seconds.parse().ok()?;
    let mut digits: String = fraction.chars().take(9).collect();
    if !digits.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    while digits.len() < 9 {
        digits.push('0');
    }
    let fraction: i128 = digits.parse().ok()?;
    let sign = if negative { -1 } else { 1 };
    Some(i128::from(whole) * 1_000_000_000 + sign * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_records_have_fractions() {
        for (text, want) in [
            ("1.5", Some(1_500_000_000)),
            ("7", Some(7_000_000_000)),
            ("-0.25", Some(-250_000_000)),
            ("1.1234567891", Some(1_123_456_789)),
            ("x", None),
            ("1.x", None),
        ] {
            assert_eq!(nanoseconds(text), want, "{text}");
        }
    }
}
