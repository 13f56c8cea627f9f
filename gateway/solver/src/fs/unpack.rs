//! Archives that ADD unpacks: tar, plain or compressed with gzip, bzip2, xz or zstd, told by
//! what is in them. The destination is the archive's whole world: its paths and the links
//! on them are resolved as if the destination were `/`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use gateway_images::layer::{Content, Entry, Kind, Limits, TarError, TarReader};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::{FsError, lossy};
use super::gopath;
use super::meta::XattrsOf;
use super::root::{self, Owner, Root};
use super::syntax::MAX_PATH_BYTES;

/// Memory that unpacking xz may ask for, in KiB: the strongest preset (`xz -9`) needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 * 1024;
/// Most bytes that are written at once.
const WRITE_BYTES: u64 = 128 * 1024;
/// Permission bits of directories that an archive implies but does not list.
const IMPLIED_MODE: u32 = 0o755;

/// Unpacks the source into the directory `dest` if it is an archive with something in it;
/// `false` if it is not, and nothing was done. An archive may hold what a layer may.
pub fn unpack(
    from: &Root,
    source: &[u8],
    to: &Root,
    dest: &[u8],
    owner: Option<Owner>,
    time: Option<i128>,
) -> Result<bool, FsError> {
    unpack_within(Limits::default(), from, source, to, dest, owner, time)
}

fn unpack_within(
    limits: Limits,
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
    let failed = |error: TarError| match error {
        // Not the archive's fault: it is well formed.
        TarError::UnknownType(_) => FsError::Invalid(error.to_string()),
        error => FsError::Archive {
            path: lossy(&source),
            reason: error.to_string(),
        },
    };
    file.rewind().map_err(|error| failed(error.into()))?;
    let mut extraction = Extraction {
        root: to.below(&dest)?,
        owner,
        directories: Vec::new(),
    };
    let reader = decompress(file).map_err(|error| failed(error.into()))?;
    let mut archive = TarReader::new(Bounded {
        reader,
        left: limits.bytes,
        limit: limits.bytes,
    });
    let mut entries = 0;
    let mut left = limits.bytes;
    while let Some(entry) = archive.next_entry().map_err(failed)? {
        entries += 1;
        // A sparse file holds more than the stream does.
        left = left.checked_sub(entry.size).ok_or_else(|| {
            let error = format!("more than the limit of {} bytes", limits.bytes);
            failed(std::io::Error::other(error).into())
        })?;
        if entries > limits.entries {
            let error = format!("more than the limit of {} entries", limits.entries);
            return Err(failed(std::io::Error::other(error).into()));
        }
        extraction.entry(entry, &mut archive, &failed)?;
    }
    extraction.finish()?;
    Ok(true)
}

/// Whether a first header can be read. One of a kind that is not unpacked is a header, too:
/// the archive is refused then, not copied.
fn is_archive(file: &mut File) -> bool {
    let Ok(reader) = file.try_clone().and_then(decompress) else {
        return false;
    };
    matches!(
        TarReader::new(reader).next_entry(),
        Ok(Some(_)) | Err(TarError::SparseRuns(_) | TarError::UnknownType(_))
    )
}

/// Ends with an error where more bytes come than an archive may hold: some kilobytes that are
/// compressed well must not fill the disk.
struct Bounded<R> {
    reader: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                let text = format!("more than the limit of {} bytes", self.limit);
                return Err(std::io::Error::other(text));
            }
        }
        Ok(read)
    }
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
    fn entry(
        &mut self,
        entry: Entry,
        content: &mut impl Content,
        failed: &dyn Fn(TarError) -> FsError,
    ) -> Result<(), FsError> {
        if entry.name.len() > MAX_PATH_BYTES || entry.link.len() > MAX_PATH_BYTES {
            return Err(failed(TarError::Header("name longer than any path")));
        }
        let mut kind = entry.kind;
        // Archives older than directory entries write a final slash.
        if kind == Kind::File && entry.name.ends_with(b"/") {
            kind = Kind::Directory;
        }
        let name = gopath::clean(&entry.name);
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
        let metadata = Metadata::of(&entry, self.owner);

        let is_dir = kind == Kind::Directory;
        let existing = self.root.lstat_if_exists(&path)?;
        if existing.is_some_and(|meta| !(meta.is_dir() && is_dir)) {
            self.root
                .open_parent(&path)
                .and_then(|(dir, name)| root::remove_all(dir.as_fd(), name))
                .map_err(|errno| FsError::path("unlinkat", &path, errno))?;
        }
        match kind {
            Kind::Directory => {
                if existing.is_none_or(|meta| !meta.is_dir()) {
                    self.root.mkdir_all(&path, entry.mode & 0o777, None, None)?;
                }
                self.directories.push((path.clone(), metadata.time));
            }
            Kind::Symlink => self.symlink(&entry, &path)?,
            Kind::HardLink => self.hard_link(&entry, &path)?,
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                if !self.device(&entry, &path)? {
                    return Ok(());
                }
            }
            Kind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let fd = self
                    .root
                    .open_resolved(&path, flags, Mode::from_raw_mode(0o600))
                    .map_err(|errno| FsError::path("open", &path, errno))?;
                write(content, entry.size, File::from(fd)).map_err(|error| failed(error.into()))?;
            }
        }
        self.metadata(&path, &entry, &metadata)
    }

    fn symlink(&self, entry: &Entry, path: &[u8]) -> Result<(), FsError> {
        let target = &entry.link;
        self.root
            .open_parent(path)
            .and_then(|(dir, name)| {
                let target = OsStr::from_bytes(target);
                rustix::fs::symlinkat(target, &dir, OsStr::from_bytes(name))
            })
            .map_err(|errno| FsError::Link {
                op: "symlink",
                old: lossy(target),
                new: lossy(path),
                errno,
            })
    }

    fn hard_link(&self, entry: &Entry, path: &[u8]) -> Result<(), FsError> {
        let resolved = self.root.resolve_parent(&entry.link)?;
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
    fn device(&self, entry: &Entry, path: &[u8]) -> Result<bool, FsError> {
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let kind = match entry.kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
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

    fn metadata(&self, path: &[u8], entry: &Entry, metadata: &Metadata) -> Result<(), FsError> {
        let (dir, name) = self
            .root
            .open_parent(path)
            .map_err(|errno| FsError::path("open", path, errno))?;
        root::chown(dir.as_fd(), name, metadata.owner)
            .map_err(|errno| FsError::path("lchown", path, errno))?;
        XattrsOf::Path(&self.root.host_path(path)).set(&entry.xattrs);
        // A hard link can be one to a symbolic link.
        if !self.root.lstat(path)?.is_symlink() {
            let mode = Mode::from_raw_mode(entry.mode & 0o7777);
            rustix::fs::chmodat(&dir, OsStr::from_bytes(name), mode, AtFlags::empty())
                .map_err(|errno| FsError::path("chmod", path, errno))?;
        }
        root::set_times(dir.as_fd(), name, metadata.time, metadata.time)
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

/// Writes a file's data between its holes, which stay holes.
fn write(content: &mut impl Content, size: u64, mut file: File) -> std::io::Result<()> {
    let mut buffer = vec![0; size.min(WRITE_BYTES) as usize];
    let mut left = size;
    while left > 0 {
        let hole = content.hole().min(left);
        if hole > 0 {
            file.seek(SeekFrom::Current(hole.cast_signed()))?;
            left -= hole;
            if left == 0 {
                // Nothing is written behind a hole at the end.
                file.set_len(size)?;
            }
            continue;
        }
        let want = left.min(buffer.len() as u64) as usize;
        let read = match content.read(&mut buffer[..want]) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        file.write_all(&buffer[..read])?;
        left -= read as u64;
    }
    Ok(())
}

/// Whose an unpacked file is, and of when.
struct Metadata {
    owner: Owner,
    /// Nanoseconds.
    time: i128,
}

impl Metadata {
    fn of(entry: &Entry, owner: Option<Owner>) -> Self {
        let (seconds, nanoseconds) = entry.mtime;
        Self {
            owner: owner.unwrap_or(Owner {
                uid: entry.uid,
                gid: entry.gid,
            }),
            time: i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use gateway_images::layer::{END, Header, padding};

    use super::*;

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new(Kind::File, name);
        header.mode = 0o644;
        header.size = content.len() as u64;
        [&header.encode(), content, padding(header.size)].concat()
    }

    fn unpacked(archive: &[u8], limits: Limits, dest: &Path) -> Result<bool, String> {
        let source = tempfile::tempdir().expect("a directory");
        std::fs::write(source.path().join("a.tar"), archive).expect("written");
        let (from, to) = (Root::open(source.path()), Root::open(dest));
        let (from, to) = (from.expect("opens"), to.expect("opens"));
        let uid = rustix::process::getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        let me = Some(Owner { uid, gid });
        unpack_within(limits, &from, b"/a.tar", &to, b"/", me, None).map_err(|e| e.to_string())
    }

    /// A header whose type or size is another one, its sum made right again.
    fn forged(mut block: Vec<u8>, kind: u8, size: Option<&[u8; 11]>) -> Vec<u8> {
        block[156] = kind;
        if let Some(size) = size {
            block[124..135].copy_from_slice(size);
        }
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block[..512].iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }

    #[test]
    fn an_archive_ends_at_its_limits() {
        let archive = [file("a", b"one"), file("b", b"two"), END.to_vec()].concat();
        let dest = tempfile::tempdir().expect("a directory");
        let unpacked = |bytes, entries| unpacked(&archive, Limits { bytes, entries }, dest.path());
        assert_eq!(unpacked(archive.len() as u64, 2), Ok(true));
        let text = "failed to unpack /a.tar: read layer: more than the limit of ";
        let error = unpacked(archive.len() as u64, 1).expect_err("two entries");
        assert_eq!(error, format!("{text}1 entries"));
        let error = unpacked(1500, 2).expect_err("more bytes");
        assert_eq!(error, format!("{text}1500 bytes"));
    }

    #[test]
    fn sparse_files_are_expanded_and_keep_their_holes() {
        use std::os::unix::fs::{FileExt, MetadataExt};

        for form in [
            &["--format=gnu"][..],
            &["--format=posix", "--sparse-version=0.1"],
            &["--format=posix", "--sparse-version=1.0"],
        ] {
            let source = tempfile::tempdir().expect("a directory");
            let path = source.path().join("sparse");
            let file = File::create(&path).expect("created");
            file.write_all_at(&[7; 4096], 1 << 20).expect("written");
            file.set_len(3 << 20).expect("sized");
            std::fs::write(source.path().join("after"), "whole").expect("written");
            let tar = std::process::Command::new("tar")
                .args(["--sparse", "-cf", "-"])
                .args(form)
                .arg("-C")
                .arg(source.path())
                .args(["sparse", "after"])
                .output()
                .expect("tar, which every Debian has");
            assert!(tar.status.success() && tar.stdout.len() < 100_000);

            let dest = tempfile::tempdir().expect("a directory");
            let limits = Limits::default();
            assert_eq!(unpacked(&tar.stdout, limits, dest.path()), Ok(true));
            let read = |name| std::fs::read(dest.path().join(name)).expect("unpacked");
            assert!(read("sparse") == std::fs::read(&path).expect("read"));
            assert_eq!(read("after"), b"whole");
            let unpacked = std::fs::metadata(dest.path().join("sparse")).expect("unpacked");
            assert!(unpacked.blocks() * 512 < 1 << 20, "{form:?}");
        }
    }

    #[test]
    fn a_sparse_file_that_claims_more_than_the_limit_writes_nothing() {
        // A header of the old form: no data, and a file of eight gigabytes.
        let mut header = file("zeros", b"");
        header[257..265].copy_from_slice(b"ustar  \0");
        header[483..495].copy_from_slice(b"77777777777\0");
        let sparse = forged(header, b'S', None);
        let dest = tempfile::tempdir().expect("a directory");
        let (bytes, entries) = (1 << 30, 10);
        let limits = Limits { bytes, entries };
        let error = unpacked(&sparse, limits, dest.path()).expect_err("too large");
        assert_eq!(
            error,
            "failed to unpack /a.tar: read layer: more than the limit of 1073741824 bytes"
        );
        assert_eq!(std::fs::read_dir(dest.path()).expect("listed").count(), 0);
    }

    #[test]
    fn an_extension_header_that_claims_gigabytes_is_not_read() {
        let long = forged(file("x", b""), b'x', Some(b"77777777777"));
        let archive = [file("a", b"one"), long.clone()].concat();
        let dest = tempfile::tempdir().expect("a directory");
        let error = unpacked(&archive, Limits::default(), dest.path()).expect_err("too long");
        assert_eq!(
            error,
            "failed to unpack /a.tar: tar extension header of 8589934591 bytes is over the limit of 1048576"
        );
        // As the first entry it makes the file no archive, as in the reference.
        assert_eq!(unpacked(&long, Limits::default(), dest.path()), Ok(false));
    }

    #[test]
    fn an_entry_of_unknown_kind_is_refused_by_its_number() {
        let odd = forged(file("x", b""), b'Z', None);
        let dest = tempfile::tempdir().expect("a directory");
        let error = unpacked(&odd, Limits::default(), dest.path()).expect_err("unknown");
        assert_eq!(error, "unhandled tar header type 90");
    }
}
