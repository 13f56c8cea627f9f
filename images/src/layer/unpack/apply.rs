//! One archive entry after the other onto the disk.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags, makedev};
use rustix::io::Errno;

use super::below::{blank, entry_of};
use super::error::{UnpackError, at, lossy};
use super::metadata::{Metadata, timestamps};
use super::{MAX_DEPTH, MAX_PATH_BYTES, MAX_REMEMBERED_BYTES, OpaqueXattr, UnpackOptions};
use crate::layer::entry::{Content, Entry, TarReader};
use crate::layer::header::Kind;
use crate::layer::lower::{Found, LowerDir, file_type};
use crate::layer::root::{Root, clean_path, is_missing, remove_all};
use crate::layer::{
    OPAQUE_XATTRS, WHITEOUT_LINK_DIR, WHITEOUT_META_PREFIX, WHITEOUT_OPAQUE, WHITEOUT_PREFIX,
};
use crate::write_back;

/// The mode of a directory while it is filled: writable by its owner, and not giving its group to what is made in it.
/// It gets its own when the layer is complete.
fn filling(mode: u32) -> u32 {
    (mode | 0o700) & !0o2000
}

pub(super) struct Applier<'a> {
    pub(super) options: &'a UnpackOptions<'a>,
    pub(super) root: Root,
    pub(super) lower: Option<LowerDir>,
    /// Mode and time of each directory, set when nothing is written into it any more.
    dirs: BTreeMap<Vec<u8>, (u32, (i64, u32))>,
    /// Paths here that hold a copy of a file of the layers below.
    pub(super) copied: HashMap<Vec<u8>, Vec<u8>>,
    /// Bytes of the paths in `dirs` and `copied`.
    remembered: u64,
    metadata: Metadata,
    buffer: Vec<u8>,
    pub(super) done: Done,
}

#[derive(Default)]
pub(super) struct Done {
    pub entries: u64,
    pub used_parents: bool,
    pub opaque_root: bool,
    /// Filled when all is done.
    pub notes: Vec<String>,
}

impl<'a> Applier<'a> {
    pub fn new(dest: &Path, options: &'a UnpackOptions<'a>) -> io::Result<Self> {
        let root = Root::open(dest)?;
        Ok(Applier {
            options,
            metadata: Metadata::new(options.owners, root.as_fd())?,
            root,
            lower: options.parents.and_then(LowerDir::new),
            dirs: BTreeMap::new(),
            copied: HashMap::new(),
            remembered: 0,
            buffer: vec![0; 64 << 10],
            done: Done::default(),
        })
    }

    /// Applies every entry of the archive that `plain` gives.
    pub fn apply(&mut self, plain: &mut dyn Read) -> Result<(), UnpackError> {
        let limits = self.options.limits;
        let mut archive = TarReader::new(plain);
        let mut left = limits.bytes;
        while let Some(entry) = archive.next_entry()? {
            self.done.entries += 1;
            if self.done.entries > limits.entries {
                return Err(UnpackError::TooManyEntries(limits.entries));
            }
            // What a header claims is refused before any of it is read; and a sparse file holds more than the stream.
            left = left
                .checked_sub(entry.size)
                .ok_or(UnpackError::TooManyBytes(limits.bytes))?;
            self.entry(entry, &mut archive)?;
        }
        Ok(())
    }

    /// Gives the directories their modes and times, children first.
    pub fn finish(mut self) -> Result<Done, UnpackError> {
        remove_all(self.root.as_fd(), WHITEOUT_LINK_DIR)
            .map_err(at(WHITEOUT_LINK_DIR, "remove"))?;
        for (path, (mode, mtime)) in self.dirs.iter().rev() {
            let fd = match self.root.open_dir_nofollow(path) {
                Ok(fd) => fd,
                Err(e) if is_missing(&e) => continue, // replaced by a later entry
                Err(e) => return Err(at(path, "open")(e)),
            };
            if filling(*mode) != *mode {
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(*mode)).map_err(at(path, "chmod"))?;
            }
            rustix::fs::futimens(&fd, &timestamps(*mtime)).map_err(at(path, "set times of"))?;
        }
        self.done.notes = self.metadata.notes.into_list();
        Ok(self.done)
    }

    /// Counts a path that is kept until the end.
    pub(super) fn remember(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        self.remembered += path.len() as u64;
        match self.remembered > MAX_REMEMBERED_BYTES {
            true => Err(UnpackError::TooManyPaths),
            false => Ok(()),
        }
    }

    fn entry(&mut self, mut entry: Entry, content: &mut dyn Content) -> Result<(), UnpackError> {
        let name = std::mem::take(&mut entry.name);
        let path = clean_path(&name);
        let Some((&base, parent)) = path.split_last() else {
            return Ok(()); // the root itself
        };
        let length = name.len().max(entry.link.len());
        if length > MAX_PATH_BYTES || path.len() > MAX_DEPTH || base.len() > 255 {
            return Err(UnpackError::Path { name: lossy(&name) });
        }
        if let ([top], Kind::File) = (parent, entry.kind)
            && *top == WHITEOUT_LINK_DIR
        {
            return self.link_target(&name, base, &entry, content);
        }
        let reserved = |c: &&[u8]| c.starts_with(WHITEOUT_META_PREFIX);
        if parent.iter().any(reserved) || (reserved(&base) && base != WHITEOUT_OPAQUE) {
            return Ok(()); // the bookkeeping of aufs
        }
        if parent.iter().any(|c| c.starts_with(WHITEOUT_PREFIX)) {
            return Err(UnpackError::InvalidWhiteout { name: lossy(&name) });
        }
        if base == WHITEOUT_OPAQUE {
            return self.make_opaque(&name, parent);
        }
        if let Some(hidden) = base.strip_prefix(WHITEOUT_PREFIX) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(UnpackError::InvalidWhiteout { name: lossy(&name) });
            }
            let dir = self.parent_dir(&name, parent)?;
            return self.whiteout(&name, &dir, hidden);
        }
        let dir = self.parent_dir(&name, parent)?;
        self.create(&name, &dir, base, &entry, content)
    }

    /// A file that aufs keeps aside because several names lead to it: later entries are hard links to it. It stays
    /// until the layer is complete, under the name that no entry can make.
    fn link_target(
        &mut self,
        name: &[u8],
        base: &[u8],
        entry: &Entry,
        content: &mut dyn Content,
    ) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(0o700);
        match rustix::fs::mkdirat(self.root.as_fd(), WHITEOUT_LINK_DIR, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(at(name, "make directory")(e)),
        }
        let dir = self.root.open_dir(&[WHITEOUT_LINK_DIR]);
        let dir = dir.map_err(at(name, "open"))?;
        self.file(name, &dir, base, entry, content)
    }

    fn make_opaque(&mut self, name: &[u8], parent: &[&[u8]]) -> Result<(), UnpackError> {
        if parent.is_empty() {
            self.done.opaque_root = true;
            return Ok(());
        }
        let dir = self.parent_dir(name, parent)?;
        self.set_opaque(name, &dir)
    }

    fn set_opaque(&mut self, name: &[u8], dir: impl AsFd) -> Result<(), UnpackError> {
        let set = |key| rustix::fs::fsetxattr(dir.as_fd(), key, b"y", XattrFlags::empty());
        let [trusted, user] = OPAQUE_XATTRS;
        let made = match self.options.opaque {
            OpaqueXattr::User => set(user),
            // Who may not set it may not mount an overlay that reads it either.
            OpaqueXattr::Trusted => match set(trusted) {
                Err(Errno::PERM) => set(user),
                made => made,
            },
        };
        made.map_err(at(name, "make opaque"))
    }

    fn whiteout(&mut self, name: &[u8], dir: &OwnedFd, hidden: &[u8]) -> Result<(), UnpackError> {
        let make = || {
            let mode = Mode::empty();
            rustix::fs::mknodat(dir, hidden, FileType::CharacterDevice, mode, 0)
        };
        match make() {
            Err(Errno::EXIST) => {
                self.remove(name, dir, hidden)?;
                make().map_err(at(name, "make whiteout"))
            }
            other => other.map_err(at(name, "make whiteout")),
        }
    }

    fn remove(&mut self, name: &[u8], dir: &OwnedFd, base: &[u8]) -> Result<(), UnpackError> {
        self.root.forget();
        remove_all(dir, base).map_err(at(name, "remove"))
    }

    /// The directory that an entry goes into, made with what the layers below say about it if it has no header here.
    fn parent_dir(
        &mut self,
        name: &[u8],
        parent: &[&[u8]],
    ) -> Result<std::rc::Rc<OwnedFd>, UnpackError> {
        match self.root.open_dir(parent) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other.map_err(at(name, "open parent directory")),
        }
        let real = self
            .root
            .real_path(parent)
            .map_err(at(name, "resolve parent directory"))?;
        // A link may name what an entry may not.
        if real.iter().any(|c| c.starts_with(WHITEOUT_PREFIX)) {
            return Err(UnpackError::InvalidWhiteout { name: lossy(name) });
        }
        let mut lower = self.lower.clone();
        for depth in 1..=real.len() {
            let here: Vec<&[u8]> = real[..depth].iter().map(Vec::as_slice).collect();
            let found = match &lower {
                Some(dir) => dir
                    .lookup(OsStr::from_bytes(here[depth - 1]))
                    .map_err(at(name, "read layers below"))?,
                None => None,
            };
            match self.root.open_dir(&here) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.implicit_dir(name, &here, found.as_ref())?;
                }
                Err(e) => return Err(at(name, "open parent directory")(e)),
            }
            lower = found.and_then(|found| found.dir);
        }
        let real: Vec<&[u8]> = real.iter().map(Vec::as_slice).collect();
        self.root
            .open_dir(&real)
            .map_err(at(name, "open parent directory"))
    }

    fn implicit_dir(
        &mut self,
        name: &[u8],
        path: &[&[u8]],
        lower: Option<&Found>,
    ) -> Result<(), UnpackError> {
        if self.options.parents.is_none() {
            return Err(UnpackError::NeedsParents { name: lossy(name) });
        }
        let mut entry = blank(Kind::Directory);
        entry.mode = 0o755;
        if let Some(found) = lower.filter(|found| found.dir.is_some()) {
            entry = entry_of(found).map_err(at(name, "read layers below"))?;
            self.done.used_parents = true;
        }
        let Some((&base, parent)) = path.split_last() else {
            return Ok(());
        };
        let dir = self
            .root
            .open_dir(parent)
            .map_err(at(name, "open parent directory"))?;
        let full = path.join(&b'/');
        self.create(&full, &dir, base, &entry, &mut io::empty())
    }

    pub(super) fn create(
        &mut self,
        name: &[u8],
        dir: &OwnedFd,
        base: &[u8],
        entry: &Entry,
        content: &mut dyn Content,
    ) -> Result<(), UnpackError> {
        match entry.kind {
            Kind::Directory => self.directory(name, dir, base, entry),
            Kind::File => self.file(name, dir, base, entry, content),
            Kind::HardLink => self.hard_link(name, dir, base, entry),
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(at(name, "make symbolic link")(Errno::NOENT));
                }
                self.replacing(name, dir, base, "make symbolic link", || {
                    rustix::fs::symlinkat(&entry.link[..], dir, base)
                })?;
                self.metadata.of_name(name, dir, base, entry)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.special(name, dir, base, entry)
            }
        }
    }

    /// Makes something new under a name; what the layer put there before goes.
    pub(super) fn replacing<T>(
        &mut self,
        name: &[u8],
        dir: &OwnedFd,
        base: &[u8],
        action: &'static str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EXIST) => {
                self.remove(name, dir, base)?;
                make().map_err(at(name, action))
            }
            other => other.map_err(at(name, action)),
        }
    }

    fn directory(
        &mut self,
        name: &[u8],
        dir: &OwnedFd,
        base: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let mode = filling(entry.mode);
        let make = || rustix::fs::mkdirat(dir, base, Mode::from_raw_mode(mode));
        let (mut hides, mut fresh) = (false, true);
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = lstatat(dir, base).map_err(at(name, "stat"))?;
                if file_type(&stat) != FileType::Directory {
                    // What was here took the place of anything below, so the directory starts empty.
                    hides = true;
                    self.remove(name, dir, base)?;
                    make().map_err(at(name, "make directory"))?;
                } else {
                    fresh = false;
                }
            }
            Err(e) => return Err(at(name, "make directory")(e)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, base, flags, Mode::empty()).map_err(at(name, "open"))?;
        if hides {
            self.set_opaque(name, &fd)?;
        }
        self.metadata.of_open(name, &fd, entry, mode, fresh)?;
        let key = clean_path(name).join(&b'/');
        self.remember(&key)?;
        self.dirs.insert(key, (entry.mode, entry.mtime));
        Ok(())
    }

    pub(super) fn file(
        &mut self,
        name: &[u8],
        dir: &OwnedFd,
        base: &[u8],
        entry: &Entry,
        content: &mut dyn Content,
    ) -> Result<(), UnpackError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let fd = self.replacing(name, dir, base, "create", || {
            rustix::fs::openat(dir, base, flags, mode)
        })?;
        let mut file = File::from(fd);
        let mut left = entry.size;
        while left > 0 {
            let hole = content.hole().min(left);
            if hole > 0 {
                left -= hole;
                let skipped = file.seek(SeekFrom::Current(hole.cast_signed()));
                skipped.map_err(at(name, "write"))?;
                if left == 0 {
                    // A hole at the end leaves nothing to write behind it.
                    file.set_len(entry.size).map_err(at(name, "write"))?;
                }
                continue;
            }
            let want = left.min(self.buffer.len() as u64) as usize;
            let n = match content.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(crate::layer::TarError::Truncated.into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(crate::layer::TarError::Truncated.into());
                }
                Err(e) => return Err(UnpackError::Read(e)),
            };
            file.write_all(&self.buffer[..n])
                .map_err(at(name, "write"))?;
            left -= n as u64;
        }
        if entry.size >= write_back::SMALL {
            write_back::begin(&file, 0, 0);
        }
        self.metadata
            .of_open(name, &file, entry, entry.mode, true)?;
        rustix::fs::futimens(&file, &timestamps(entry.mtime)).map_err(at(name, "set times of"))
    }

    fn special(
        &mut self,
        name: &[u8],
        dir: &OwnedFd,
        base: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let file_type = match entry.kind {
            Kind::CharDevice if entry.device == (0, 0) => {
                // To overlayfs this node removes the path, and so it does for every user of the image.
                self.metadata
                    .notes
                    .add(|| format!("{}: device 0:0 taken as a whiteout", lossy(name)));
                return self.whiteout(name, dir, base);
            }
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = makedev(entry.device.0, entry.device.1);
        let make = || rustix::fs::mknodat(dir, base, file_type, Mode::from_raw_mode(0o600), device);
        let made = match make() {
            Err(Errno::EXIST) => {
                self.remove(name, dir, base)?;
                make()
            }
            other => other,
        };
        match made {
            Ok(()) => self.metadata.of_name(name, dir, base, entry),
            Err(Errno::PERM) => {
                self.metadata
                    .notes
                    .add(|| format!("{}: device left out, no right to make it", lossy(name)));
                Ok(())
            }
            Err(e) => Err(at(name, "make device")(e)),
        }
    }
}

pub(super) fn lstatat(dir: &OwnedFd, base: &[u8]) -> rustix::io::Result<Stat> {
    rustix::fs::statat(dir, base, AtFlags::SYMLINK_NOFOLLOW)
}
