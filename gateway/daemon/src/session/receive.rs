//! Receives a directory of the client into one of ours: what is there already and has not changed by
//! its stat is not asked for. The listing is not trusted: paths out of order, out of the directory or
//! below what is no directory end the transfer. All of it blocks.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use gateway_proto::fsutil::types::Stat;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::mode;

/// Entries of one transfer. A repository of a million files is a large one.
pub const MAX_ENTRIES: usize = 5_000_000;
/// As the kernel's.
const MAX_PATH: usize = 4096;
/// Extended attributes of one file; the kernel keeps less for most file systems.
const MAX_XATTR_BYTES: usize = 64 << 10;

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

/// A file whose bytes come.
struct Incoming {
    file: File,
    path: Vec<u8>,
    stat: Stat,
}

/// One transfer.
pub struct Receiver {
    root: OwnedFd,
    /// Every file is taken anew.
    fresh: bool,
    next: u32,
    last: Vec<u8>,
    levels: Vec<Level>,
    /// The directory that files were last put into.
    current: Option<(Vec<u8>, OwnedFd)>,
    /// Paths of regular files, for links to them.
    files: BTreeSet<Vec<u8>>,
    links: Vec<(Vec<u8>, Vec<u8>)>,
    dirs: Vec<(Vec<u8>, Stat)>,
    wanted: HashMap<u32, (Vec<u8>, Stat)>,
    incoming: HashMap<u32, Incoming>,
    listed: bool,
    bytes: u64,
}

impl Receiver {
    /// Into the directory `to`, which nobody else uses meanwhile.
    pub fn new(to: &Path, fresh: bool) -> Result<Receiver> {
        let path = to.as_os_str().as_bytes();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(to, flags, Mode::empty()).map_err(failed("open", path))?;
        let mut receiver = Receiver {
            root,
            fresh,
            next: 0,
            last: Vec::new(),
            levels: Vec::new(),
            current: None,
            files: BTreeSet::new(),
            links: Vec::new(),
            dirs: Vec::new(),
            wanted: HashMap::new(),
            incoming: HashMap::new(),
            listed: false,
            bytes: 0,
        };
        receiver.enter(Vec::new())?;
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
    pub fn entry(&mut self, stat: Stat) -> Result<Option<u32>> {
        if self.listed {
            return protocol("an entry after the end of the list");
        }
        let id = self.next;
        if id as usize >= MAX_ENTRIES {
            return protocol(format!("more than {MAX_ENTRIES} files"));
        }
        self.next += 1;
        let path = stat.path.clone().into_bytes();
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
            self.directory(&path, existed)?;
            self.dirs.push((path.clone(), stat));
            self.enter(path)?;
            return Ok(None);
        }
        if kind == FileType::RegularFile && !stat.linkname.is_empty() {
            let target = stat.linkname.clone().into_bytes();
            if !self.files.contains(&target) {
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
            self.files.insert(path.clone());
            if same {
                return Ok(None);
            }
            if existed {
                self.remove(&path)?;
            }
            self.wanted.insert(id, (path, stat));
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

    /// The end of the list.
    pub fn end_of_list(&mut self) -> Result<()> {
        if self.listed {
            return protocol("the list ended twice");
        }
        self.listed = true;
        while let Some(level) = self.levels.pop() {
            self.remove_extra(level)?;
        }
        Ok(())
    }

    /// Bytes of a file that was asked for; none: its end.
    pub fn data(&mut self, id: u32, data: &[u8]) -> Result<()> {
        if let Some((path, stat)) = self.wanted.remove(&id) {
            let file = self.create(&path)?;
            self.incoming.insert(id, Incoming { file, path, stat });
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
        self.bytes += data.len() as u64;
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

    fn enter(&mut self, path: Vec<u8>) -> Result<()> {
        let dir = self.open_dir(&path)?;
        let mut extra = BTreeSet::new();
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
    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<(OwnedFd, &'a OsStr)> {
        let (parent, name) = split(path);
        let open = match &self.current {
            Some((known, fd)) if known == parent => fd,
            _ => {
                let fd = self.open_dir(parent)?;
                &self.current.insert((parent.to_vec(), fd)).1
            }
        };
        let dir = open.try_clone().map_err(|error| {
            failed("dup", path)(Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
        })?;
        Ok((dir, OsStr::from_bytes(name)))
    }

    fn remove(&mut self, path: &[u8]) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        remove_all(&dir, name).map_err(failed("unlink", path))
    }

    fn directory(&mut self, path: &[u8], existed: bool) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        if existed {
            let old = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("lstat", path))?;
            if FileType::from_raw_mode(old.st_mode) == FileType::Directory {
                return Ok(());
            }
            remove_all(&dir, name).map_err(failed("unlink", path))?;
        }
        rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700)).map_err(failed("mkdir", path))
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
    let size = |(name, value): (&String, &Vec<u8>)| name.len() + value.len();
    if stat.xattrs.iter().map(size).sum::<usize>() > MAX_XATTR_BYTES {
        return;
    }
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

/// A file or a whole directory. Links are never followed.
fn remove_all(dir: impl AsFd, name: &OsStr) -> std::result::Result<(), Errno> {
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
    // Its names first: a directory must not change while it is read.
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&inner)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    for name in names {
        remove_all(&inner, OsStr::from_bytes(&name))?;
    }
    rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
