//! Receives a directory of the client into one of ours: what is there already and has not changed by
//! its stat is not asked for. The listing is not trusted: paths out of order, out of the directory or
//! below what is no directory end the transfer. All of it blocks.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use gateway_proto::fsutil::types::Stat;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::mode;
use super::space::{self, Space};

/// Files of a list, in bytes together, for which the disk is asked whether they fit: most are a few small ones.
const WORTH_ASKING: u64 = 1 << 20;

/// As the kernel's.
const MAX_PATH: usize = 4096;
/// Extended attributes of one file; the kernel keeps less for most file systems.
const MAX_XATTR_BYTES: usize = 64 << 10;
/// Files whose bytes come at the same time: clients send four, and each is open here.
const MAX_INCOMING: usize = 64;
/// What a file may grow while it is read, beyond what its stat says: a log that is being written.
const MAX_GROWTH: u64 = 64 << 20;

/// What one transfer may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries. A repository of a million files is a large one.
    pub entries: u32,
    /// Names, texts of links and attributes of the list together: five million names of 100 bytes.
    pub list_bytes: usize,
    /// Bytes that stay free on the disk.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            entries: 5_000_000,
            list_bytes: 512 << 20,
            reserve: space::RESERVE,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("{0}")]
    Protocol(String),
    #[error("{call} {path}: {errno}")]
    File {
        call: &'static str,
        path: String,
        errno: Errno,
    },
}

type Result<T> = std::result::Result<T, ReceiveError>;

fn protocol<T>(text: impl Into<String>) -> Result<T> {
    Err(ReceiveError::Protocol(text.into()))
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn failed(call: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> ReceiveError {
    let path = shown(path);
    move |errno| ReceiveError::File { call, path, errno }
}

/// The order of a listing: `/` comes before every other byte.
pub fn order(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: &u8| match byte {
        b'/' => 0,
        other => u16::from(*other) + 1,
    };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// A directory of the listing that is being gone through.
struct Level {
    path: Vec<u8>,
    /// What was there before and has not been named yet.
    extra: BTreeSet<Vec<u8>>,
}

/// A file that was asked for.
struct Wanted {
    path: Vec<u8>,
    stat: Stat,
}

/// A file whose bytes come.
struct Incoming {
    file: File,
    path: Vec<u8>,
    stat: Stat,
    received: u64,
}

/// One transfer.
pub struct Receiver {
    root: OwnedFd,
    /// Every file is taken anew.
    fresh: bool,
    next: u32,
    last: Vec<u8>,
    levels: Vec<Level>,
    limits: Limits,
    list_bytes: usize,
    /// Bytes of the files that were asked for, by their stats.
    announced: u64,
    space: Space,
    /// The directory that files were last put into.
    current: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Hashes of the paths of regular files, for links to them. Two paths of one hash would make a link
    /// to what is no file be tried, no more.
    files: HashSet<u64>,
    hasher: RandomState,
    links: Vec<(Vec<u8>, Vec<u8>)>,
    dirs: Vec<(Vec<u8>, Stat)>,
    wanted: HashMap<u32, Wanted>,
    incoming: HashMap<u32, Incoming>,
    listed: bool,
    bytes: u64,
}

impl Receiver {
    /// Into the directory `to`, which nobody else uses meanwhile.
    pub fn new(to: &Path, fresh: bool, limits: Limits) -> Result<Receiver> {
        let path = to.as_os_str().as_bytes();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(to, flags, Mode::empty()).map_err(failed("open", path))?;
        let mut receiver = Receiver {
            root,
            fresh,
            next: 0,
            last: Vec::new(),
            levels: Vec::new(),
            limits,
            list_bytes: 0,
            announced: 0,
            space: Space::new(limits.reserve),
            current: None,
            files: HashSet::new(),
            hasher: RandomState::new(),
            links: Vec::new(),
            dirs: Vec::new(),
            wanted: HashMap::new(),
            incoming: HashMap::new(),
            listed: false,
            bytes: 0,
        };
        receiver.enter(Vec::new(), true)?;
        Ok(receiver)
    }

    /// Bytes of files so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries so far.
    pub fn entries(&self) -> u32 {
        self.next
    }

    /// The whole list is there, and every file that was asked for.
    pub fn is_complete(&self) -> bool {
        self.listed && self.wanted.is_empty() && self.incoming.is_empty()
    }

    /// An entry of the list; gives the id of the file if its bytes are wanted.
    pub fn entry(&mut self, mut stat: Stat) -> Result<Option<u32>> {
        if self.listed {
            return protocol("an entry after the end of the list");
        }
        let id = self.next;
        if id >= self.limits.entries {
            return protocol(format!(
                "more than {} files: exclude what the build does not need (.dockerignore)",
                self.limits.entries
            ));
        }
        self.next += 1;
        self.measure(&mut stat)?;
        let path = std::mem::take(&mut stat.path).into_bytes();
        self.check(&path)?;
        self.leave_until(&path)?;
        let (parent, name) = split(&path);
        let Some(level) = self.levels.last_mut().filter(|level| level.path == parent) else {
            return protocol(format!("{}: its directory was not announced", shown(&path)));
        };
        let existed = level.extra.remove(name);
        let Some(kind) = mode::kind(stat.mode) else {
            return protocol(format!(
                "{}: mode {:#x} is of no file",
                shown(&path),
                stat.mode
            ));
        };
        self.last = path.clone();
        if kind == FileType::Directory {
            let old = self.directory(&path, existed)?;
            self.dirs.push((path.clone(), stat));
            self.enter(path, old)?;
            return Ok(None);
        }
        if kind == FileType::RegularFile && !stat.linkname.is_empty() {
            let target = stat.linkname.clone().into_bytes();
            if !self.files.contains(&self.hasher.hash_one(&target)) {
                return protocol(format!(
                    "invalid link {} to unknown path {:?}",
                    shown(&path),
                    stat.linkname
                ));
            }
            self.links.push((path, target));
            return Ok(None);
        }
        let same = existed && !self.fresh && self.is_same(&path, kind, &stat)?;
        if kind == FileType::RegularFile {
            self.files.insert(self.hasher.hash_one(&path));
            if same {
                return Ok(None);
            }
            if existed {
                self.remove(&path)?;
            }
            self.announce(&path, &stat)?;
            self.wanted.insert(id, Wanted { path, stat });
            return Ok(Some(id));
        }
        if !same {
            if existed {
                self.remove(&path)?;
            }
            self.special(&path, kind, &stat)?;
        }
        Ok(None)
    }

    /// Counts what is kept of an entry until the end.
    fn measure(&mut self, stat: &mut Stat) -> Result<()> {
        let size = |(name, value): (&String, &Vec<u8>)| name.len() + value.len();
        if stat.xattrs.iter().map(size).sum::<usize>() > MAX_XATTR_BYTES {
            // No file system has so many; left out, as others that it does not take.
            stat.xattrs.clear();
        }
        let xattrs = stat.xattrs.iter().map(size).sum::<usize>();
        self.list_bytes += stat.path.len() + stat.linkname.len() + xattrs;
        if self.list_bytes > self.limits.list_bytes {
            return protocol(format!(
                "the list of files is larger than {} bytes: exclude what the build does not need (.dockerignore)",
                self.limits.list_bytes
            ));
        }
        Ok(())
    }

    /// A file will come: all of them must fit.
    fn announce(&mut self, path: &[u8], stat: &Stat) -> Result<()> {
        let Ok(size) = u64::try_from(stat.size) else {
            return protocol(format!("{}: a size below zero", shown(path)));
        };
        let before = self.announced;
        self.announced = before.saturating_add(size);
        // Most files are small: the disk is asked when it becomes much.
        if before >> 28 != self.announced >> 28 {
            let left = self.announced.saturating_sub(self.bytes);
            space::fits(&self.root, left, self.limits.reserve).or_else(protocol)?;
        }
        Ok(())
    }

    /// The end of the list.
    pub fn end_of_list(&mut self) -> Result<()> {
        if self.listed {
            return protocol("the list ended twice");
        }
        self.listed = true;
        while let Some(level) = self.levels.pop() {
            self.remove_extra(level)?;
        }
        let left = self.announced.saturating_sub(self.bytes);
        if left >= WORTH_ASKING {
            space::fits(&self.root, left, self.limits.reserve).or_else(protocol)?;
        }
        Ok(())
    }

    /// Bytes of a file that was asked for; none: its end.
    pub fn data(&mut self, id: u32, data: &[u8]) -> Result<()> {
        if let Some(Wanted { path, stat }) = self.wanted.remove(&id) {
            if self.incoming.len() >= MAX_INCOMING {
                return protocol(format!("more than {MAX_INCOMING} files sent at once"));
            }
            let incoming = Incoming {
                file: self.create(&path)?,
                path,
                stat,
                received: 0,
            };
            self.incoming.insert(id, incoming);
        }
        let Some(incoming) = self.incoming.get_mut(&id) else {
            return protocol(format!("invalid file request {id}"));
        };
        if data.is_empty() {
            return match self.incoming.remove(&id) {
                Some(done) => finish_file(&done),
                None => Ok(()),
            };
        }
        let count = data.len() as u64;
        self.bytes += count;
        incoming.received += count;
        let size = u64::try_from(incoming.stat.size).unwrap_or(0);
        if incoming.received > size.saturating_add(MAX_GROWTH) {
            return protocol(format!(
                "{}: {} bytes came of a file of {size}",
                shown(&incoming.path),
                incoming.received
            ));
        }
        self.space.take(&self.root, count).or_else(protocol)?;
        incoming.file.write_all(data).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            failed("write", &incoming.path)(errno)
        })
    }

    /// What can be done when everything is there: links, and the times of directories.
    pub fn finish(mut self) -> Result<()> {
        if !self.is_complete() {
            return protocol("the transfer ended early");
        }
        for (path, target) in std::mem::take(&mut self.links) {
            let (target_dir, target_name) = self.parent(&target)?;
            let wanted = rustix::fs::statat(&target_dir, target_name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("lstat", &target))?;
            let (dir, name) = self.parent(&path)?;
            if let Ok(old) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                if old.st_ino == wanted.st_ino {
                    continue;
                }
                remove_all(&dir, name).map_err(failed("unlink", &path))?;
            }
            rustix::fs::linkat(&target_dir, target_name, &dir, name, AtFlags::empty())
                .map_err(failed("link", &path))?;
        }
        self.current = None;
        for (path, stat) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let dir = self.open_dir(&path)?;
            let now = rustix::fs::fstat(&dir).map_err(failed("fstat", &path))?;
            let permissions = mode::permissions(stat.mode);
            if now.st_mode & 0o7777 != permissions {
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(permissions))
                    .map_err(failed("chmod", &path))?;
            }
            set_xattrs(&dir, &stat);
            if nanos(now.st_mtime, now.st_mtime_nsec) != i128::from(stat.mod_time) {
                rustix::fs::futimens(&dir, &times(stat.mod_time))
                    .map_err(failed("utime", &path))?;
            }
        }
        Ok(())
    }

    fn check(&self, path: &[u8]) -> Result<()> {
        let sound = !path.is_empty()
            && path.len() < MAX_PATH
            && !path.contains(&0)
            && path
                .split(|byte| *byte == b'/')
                .all(|part| !matches!(part, b"" | b"." | b".."));
        if !sound {
            return protocol(format!("invalid path {:?}", shown(path)));
        }
        if order(&self.last, path) != Ordering::Less {
            return protocol(format!(
                "changes out of order: {:?} {:?}",
                shown(&self.last),
                shown(path)
            ));
        }
        Ok(())
    }

    /// `old`: there may be something in it.
    fn enter(&mut self, path: Vec<u8>, old: bool) -> Result<()> {
        let mut extra = BTreeSet::new();
        if !old {
            self.levels.push(Level { path, extra });
            return Ok(());
        }
        let dir = self.open_dir(&path)?;
        for entry in rustix::fs::Dir::read_from(&dir).map_err(failed("open", &path))? {
            let entry = entry.map_err(failed("readdir", &path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                extra.insert(name.to_vec());
            }
        }
        self.levels.push(Level { path, extra });
        Ok(())
    }

    /// Leaves the directories that this path is not in.
    fn leave_until(&mut self, path: &[u8]) -> Result<()> {
        let (parent, _) = split(path);
        while let Some(level) = self.levels.last() {
            if level.path.is_empty() || level.path == parent || is_below(parent, &level.path) {
                break;
            }
            if let Some(level) = self.levels.pop() {
                self.remove_extra(level)?;
            }
        }
        Ok(())
    }

    fn remove_extra(&mut self, level: Level) -> Result<()> {
        if level.extra.is_empty() {
            return Ok(());
        }
        let dir = self.open_dir(&level.path)?;
        for name in level.extra {
            remove_all(&dir, OsStr::from_bytes(&name)).map_err(failed("unlink", &name))?;
        }
        Ok(())
    }

    /// A directory of ours, without following links.
    fn open_dir(&self, path: &[u8]) -> Result<OwnedFd> {
        let name = match path {
            b"" => OsStr::new("."),
            path => OsStr::from_bytes(path),
        };
        rustix::fs::openat2(
            &self.root,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
        .map_err(failed("open", path))
    }

    /// The directory that a path is in, kept open for the next one.
    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<(Rc<OwnedFd>, &'a OsStr)> {
        let (parent, name) = split(path);
        let dir = match &self.current {
            Some((known, fd)) if known == parent => fd.clone(),
            _ => {
                let fd = Rc::new(self.open_dir(parent)?);
                self.current = Some((parent.to_vec(), fd.clone()));
                fd
            }
        };
        Ok((dir, OsStr::from_bytes(name)))
    }

    fn remove(&mut self, path: &[u8]) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        remove_all(&dir, name).map_err(failed("unlink", path))
    }

    /// Makes it; true when there was one already.
    fn directory(&mut self, path: &[u8], existed: bool) -> Result<bool> {
        let (dir, name) = self.parent(path)?;
        if existed {
            let old = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("lstat", path))?;
            if FileType::from_raw_mode(old.st_mode) == FileType::Directory {
                return Ok(true);
            }
            remove_all(&dir, name).map_err(failed("unlink", path))?;
        }
        rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700))
            .map_err(failed("mkdir", path))?;
        Ok(false)
    }

    /// Whether what is there has the stat that the client says.
    fn is_same(&mut self, path: &[u8], kind: FileType, stat: &Stat) -> Result<bool> {
        let (dir, name) = self.parent(path)?;
        let old = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("lstat", path))?;
        if FileType::from_raw_mode(old.st_mode) != kind
            || nanos(old.st_mtime, old.st_mtime_nsec) != i128::from(stat.mod_time)
        {
            return Ok(false);
        }
        if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(&dir, name, Vec::new());
            return Ok(target.is_ok_and(|target| target.to_bytes() == stat.linkname.as_bytes()));
        }
        // What was linked there may be linked no longer; links are compared by themselves.
        Ok(old.st_mode & 0o7777 == mode::permissions(stat.mode)
            && (kind != FileType::RegularFile || (old.st_size == stat.size && old.st_nlink == 1))
            && old.st_rdev == device(stat, kind))
    }

    /// What is neither a directory nor a regular file.
    fn special(&mut self, path: &[u8], kind: FileType, stat: &Stat) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        if kind == FileType::Symlink {
            if stat.linkname.is_empty() || stat.linkname.len() >= MAX_PATH {
                return protocol(format!("{}: invalid link text", shown(path)));
            }
            rustix::fs::symlinkat(stat.linkname.as_str(), &dir, name)
                .map_err(failed("symlink", path))?;
        } else {
            let permissions = Mode::from_raw_mode(mode::permissions(stat.mode));
            rustix::fs::mknodat(&dir, name, kind, permissions, device(stat, kind))
                .map_err(failed("mknod", path))?;
            rustix::fs::chmodat(&dir, name, permissions, AtFlags::empty())
                .map_err(failed("chmod", path))?;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(&dir, name, &times(stat.mod_time), flags)
            .map_err(failed("utime", path))
    }

    /// A new file: a build that still reads an old one keeps it.
    fn create(&mut self, path: &[u8]) -> Result<File> {
        let (dir, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(failed("open", path))
    }
}

fn finish_file(done: &Incoming) -> Result<()> {
    let (file, path) = (&done.file, &done.path);
    // All local sources belong to root, whoever the client is.
    rustix::fs::fchown(file, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(failed("chown", path))?;
    let permissions = Mode::from_raw_mode(mode::permissions(done.stat.mode));
    rustix::fs::fchmod(file, permissions).map_err(failed("chmod", path))?;
    set_xattrs(file, &done.stat);
    rustix::fs::futimens(file, &times(done.stat.mod_time)).map_err(failed("utime", path))
}

/// Those that a file system takes; others are left out, as by the reference.
fn set_xattrs(file: impl AsFd, stat: &Stat) {
    for (name, value) in &stat.xattrs {
        if name.starts_with("user.") || name == "security.capability" {
            let _ = rustix::fs::fsetxattr(
                file.as_fd(),
                name.as_str(),
                value,
                rustix::fs::XattrFlags::empty(),
            );
        }
    }
}

fn device(stat: &Stat, kind: FileType) -> u64 {
    match kind {
        FileType::BlockDevice | FileType::CharacterDevice => rustix::fs::makedev(
            u32::try_from(stat.devmajor).unwrap_or(0),
            u32::try_from(stat.devminor).unwrap_or(0),
        ),
        _ => 0,
    }
}

fn nanos(seconds: impl Into<i128>, nanos: impl Into<i128>) -> i128 {
    seconds.into() * 1_000_000_000 + nanos.into()
}

fn times(nanos: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: nanos.div_euclid(1_000_000_000),
        tv_nsec: nanos.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (
            path.get(..at).unwrap_or_default(),
            path.get(at + 1..).unwrap_or_default(),
        ),
        None => (b"", path),
    }
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with(b"/"))
}

/// A file or a whole directory. Links are never followed. However deep it is, few directories are open
/// at a time: a client that sends a deep one must not use up what all have.
fn remove_all(dir: impl AsFd, name: &OsStr) -> std::result::Result<(), Errno> {
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    // Directories to go, and whether their content went.
    let mut left = vec![(name.as_bytes().to_vec(), false)];
    while let Some((path, empty)) = left.pop() {
        if empty {
            rustix::fs::unlinkat(&dir, OsStr::from_bytes(&path), AtFlags::REMOVEDIR)?;
            continue;
        }
        let inner = rustix::fs::openat2(
            &dir,
            OsStr::from_bytes(&path),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
        // Its names first: a directory must not change while it is read.
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&inner)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        left.push((path.clone(), true));
        for name in names {
            match rustix::fs::unlinkat(&inner, OsStr::from_bytes(&name), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    left.push(([&path, b"/".as_slice(), &name].concat(), false));
                }
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
