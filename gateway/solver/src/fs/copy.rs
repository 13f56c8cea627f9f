//! Copies files and trees between two roots: the COPY action. Where something lands, what
//! keeps its metadata and what is refused follows BuildKit to the letter.
//!
//! The walk holds one open directory on either side per level, so no path is resolved twice.
//! With include patterns a directory is made only once something in it matches.

mod leaf;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use self::leaf::Names;
use super::chmod::ModeChange;
use super::content::ContentCopier;
use super::error::{FsError, lossy};
use super::gopath;
use super::meta::Meta;
use super::pattern::{MatchInfo, PatternMatcher};
use super::root::{self, Owner, Root};
use super::visible::Visible;
use super::walk::matcher;

/// Permission bits of directories made for a destination when no mode is asked for.
const DIRECTORY_MODE: u32 = 0o755;

/// How to copy.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions<'a> {
    /// Owner of everything copied; `None` keeps the source's.
    pub owner: Option<Owner>,
    /// Time of everything copied, in nanoseconds; `None` keeps the source's.
    pub time: Option<i128>,
    /// Permission bits of everything copied; `None` keeps the source's.
    pub mode: Option<u32>,
    /// A symbolic change of permission bits; wins over `mode`.
    pub mode_change: Option<ModeChange>,
    /// Follow the source when it is a link itself.
    pub follow: bool,
    /// A source directory stands for what is in it.
    pub contents: bool,
    /// Replace what is in the way, of whatever type.
    pub replace: bool,
    /// Copy only what matches, relative to the source directory; empty for all.
    pub include: &'a [String],
    /// Leave out what matches.
    pub exclude: &'a [String],
    /// Stop soon after this becomes true.
    pub cancel: Option<&'a AtomicBool>,
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyStats {
    /// Everything but directories.
    pub files: u64,
    /// Bytes of regular files.
    pub bytes: u64,
}

/// Copies `source` of one root to `dest` of another. Wildcards are not looked at.
pub fn copy(
    from: &Root,
    source: &[u8],
    to: &Root,
    dest: &[u8],
    options: &CopyOptions<'_>,
) -> Result<CopyStats, FsError> {
    copy_seeing(from, source, to, dest, options, None)
}

/// Copies from a local source in place: of it only `visible` is there, and files that keep
/// their owner belong to root.
pub fn copy_seeing(
    from: &Root,
    source: &[u8],
    to: &Root,
    dest: &[u8],
    options: &CopyOptions<'_>,
    visible: Option<&Visible>,
) -> Result<CopyStats, FsError> {
    let mut made = ensure_parent(to, dest, options)?;
    let mut copier = Copier::new(from, to, options, visible)?;
    let dest = to.resolve(&gopath::clean(dest))?;
    let resolved = if options.follow {
        from.resolve(source)?
    } else {
        from.resolve_parent(source)?
    };
    if let Some(visible) = visible {
        visible.check_resolved(source, &resolved)?;
    }
    if visible.is_some_and(|visible| !visible.has(&resolved)) {
        return Err(FsError::path("lstat", &resolved, Errno::NOENT));
    }
    let source_meta = from.lstat(&resolved)?;
    let dest_meta = to
        .lstat_if_exists(&dest)
        .map_err(|error| error.context("failed to lstat destination path"))?;

    let into = if source_meta.is_dir() {
        !options.contents && dest_meta.is_some()
    } else {
        dest_meta.is_some_and(|meta| meta.is_dir())
    };
    let dest = if into {
        gopath::join(&dest, gopath::base(source))
    } else {
        dest
    };
    let ensured = if options.contents && source_meta.is_dir() && dest_meta.is_none() {
        dest.clone()
    } else {
        gopath::dir(&dest)
    };
    let mode = options.mode.unwrap_or(DIRECTORY_MODE);
    made.extend(to.mkdir_all(&ensured, mode, options.owner, options.time)?);

    copier.top(&resolved, &dest)?;
    fix_times(to, &made, options)?;
    Ok(copier.stats)
}

/// Makes the directory that the destination's spelling implies: its parent, or all of it
/// when it ends in a slash.
fn ensure_parent(
    to: &Root,
    dest: &[u8],
    options: &CopyOptions<'_>,
) -> Result<Vec<Vec<u8>>, FsError> {
    let (dir, name) = gopath::split(dest);
    let ensure = if name.is_empty() || name == b"." {
        dest
    } else {
        dir
    };
    if ensure.is_empty() {
        return Ok(Vec::new());
    }
    let path = to.resolve(ensure)?;
    let mode = options.mode.unwrap_or(DIRECTORY_MODE);
    to.mkdir_all(&path, mode, options.owner, options.time)
}

/// What is put into a new directory changes its time; sets it again.
fn fix_times(to: &Root, made: &[Vec<u8>], options: &CopyOptions<'_>) -> Result<(), FsError> {
    let Some(time) = options.time else {
        return Ok(());
    };
    for path in made.iter().rev() {
        to.open_parent(path)
            .and_then(|(dir, name)| root::set_times(dir.as_fd(), name, time, time))
            .map_err(|errno| root::utime_error(path, errno))?;
    }
    Ok(())
}

struct Copier<'a> {
    from: &'a Root,
    to: &'a Root,
    options: &'a CopyOptions<'a>,
    visible: Option<&'a Visible>,
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    /// Where the first name of an inode with several was copied to.
    links: HashMap<(u64, u64), Vec<u8>>,
    content: ContentCopier,
    stats: CopyStats,
}

/// A directory on the way down, on both sides.
struct Level<'p> {
    parent: Option<&'p Level<'p>>,
    /// Path in the source root, and of the copy in the destination root.
    source_path: Vec<u8>,
    dest_path: Vec<u8>,
    source: OwnedFd,
    meta: Meta,
    target: OnceCell<Target>,
}

struct Target {
    fd: OwnedFd,
    /// Made by this copy: nothing can be in the way in it.
    fresh: bool,
}

/// One name in a level, with the matching results of its directory.
struct Entry<'e> {
    source_name: &'e [u8],
    dest_name: &'e [u8],
    /// Path below the source that patterns are held against; empty for the source itself.
    relative: Vec<u8>,
    include: MatchInfo,
    exclude: MatchInfo,
}

impl<'a> Copier<'a> {
    fn new(
        from: &'a Root,
        to: &'a Root,
        options: &'a CopyOptions<'a>,
        visible: Option<&'a Visible>,
    ) -> Result<Self, FsError> {
        Ok(Self {
            from,
            to,
            options,
            visible,
            include: matcher("include", options.include)?,
            exclude: matcher("exclude", options.exclude)?,
            links: HashMap::new(),
            content: ContentCopier::default(),
            stats: CopyStats::default(),
        })
    }

    /// Copies the source itself, both paths resolved.
    fn top(&mut self, source: &[u8], dest: &[u8]) -> Result<(), FsError> {
        let stat_failed = |path: &[u8], errno| {
            FsError::path("lstat", path, errno).context(format!("failed to stat {}", lossy(path)))
        };
        let (source_dir, source_name) = self
            .from
            .open_parent(source)
            .map_err(|errno| stat_failed(source, errno))?;
        let (dest_dir, dest_name) = self
            .to
            .open_parent(dest)
            .map_err(|errno| stat_failed(dest, errno))?;
        let meta = Meta::of_fd(source_dir.as_fd()).map_err(|e| stat_failed(source, e))?;
        let level = Level {
            parent: None,
            source_path: gopath::dir(source),
            dest_path: gopath::dir(dest),
            source: source_dir,
            meta,
            target: OnceCell::from(Target {
                fd: dest_dir,
                fresh: false,
            }),
        };
        let entry = Entry {
            source_name,
            dest_name,
            relative: Vec::new(),
            include: MatchInfo::default(),
            exclude: MatchInfo::default(),
        };
        self.entry(&level, entry, None)
    }

    fn entry(
        &mut self,
        level: &Level<'_>,
        mut entry: Entry<'_>,
        kind: Option<FileType>,
    ) -> Result<(), FsError> {
        if self
            .options
            .cancel
            .is_some_and(|c| c.load(Ordering::Relaxed))
        {
            return Err(FsError::Cancelled);
        }
        let (included, excluded) = self.decide(&mut entry)?;
        if !included {
            let excepted = self
                .exclude
                .as_ref()
                .is_some_and(PatternMatcher::has_exclusions);
            let nothing_below = self.include.is_none() && !excepted;
            let not_a_directory = kind.is_some_and(|kind| kind != FileType::Directory);
            if nothing_below || not_a_directory {
                return Ok(());
            }
        }
        let source_path = gopath::join(&level.source_path, entry.source_name);
        if self
            .visible
            .is_some_and(|visible| !visible.has(&source_path))
        {
            return Ok(());
        }
        let meta = match Meta::of(level.source.as_fd(), entry.source_name) {
            Ok(meta) => meta,
            // It was there when the source was walked.
            Err(Errno::NOENT) if self.visible.is_some() => {
                return Err(FsError::Changed(lossy(&source_path)));
            }
            Err(errno) => {
                return Err(FsError::path("lstat", &source_path, errno)
                    .context(format!("failed to stat {}", lossy(&source_path))));
            }
        };
        self.check(&source_path, &meta)?;
        if meta.is_dir() {
            return self.directory(level, &entry, meta, included, excluded);
        }
        if !included {
            return Ok(());
        }
        let dest_path = gopath::join(&level.dest_path, entry.dest_name);
        let target = self.target(level)?;
        self.clear(target, entry.dest_name, &dest_path)?;
        let names = Names {
            source: level.source.as_fd(),
            source_name: entry.source_name,
            source_path: &source_path,
            dest: target.fd.as_fd(),
            dest_name: entry.dest_name,
            dest_path: &dest_path,
        };
        self.stats.files += 1;
        match meta.kind() {
            FileType::RegularFile => self.file(&names, &meta),
            FileType::Symlink => self.symlink(&names, &meta),
            _ => self.device(&names, &meta),
        }
    }

    /// Refuses what has changed since the source was walked.
    fn check(&self, path: &[u8], meta: &Meta) -> Result<(), FsError> {
        match self.visible {
            Some(visible) => visible.check(path, meta),
            None => Ok(()),
        }
    }

    /// The same for an open file, after it was read.
    fn check_open(&self, path: &[u8], fd: &OwnedFd) -> Result<(), FsError> {
        if self.visible.is_none() {
            return Ok(());
        }
        let meta = Meta::of_fd(fd.as_fd()).map_err(|errno| FsError::path("fstat", path, errno))?;
        self.check(path, &meta)
    }

    /// Whether the patterns let an entry through, and whether an exclude pattern stopped it.
    fn decide(&self, entry: &mut Entry<'_>) -> Result<(bool, bool), FsError> {
        if entry.relative.is_empty() {
            return Ok((true, false));
        }
        let mut included = true;
        if let Some(matcher) = &self.include {
            let (hit, info) = matcher
                .matches_below(&entry.relative, &entry.include)
                .map_err(|e| FsError::from(e).context("failed to match includepatterns"))?;
            entry.include = info;
            included = hit;
        }
        let mut excluded = false;
        if let Some(matcher) = &self.exclude {
            let (hit, info) = matcher
                .matches_below(&entry.relative, &entry.exclude)
                .map_err(|e| FsError::from(e).context("failed to match excludepatterns"))?;
            entry.exclude = info;
            excluded = hit;
        }
        Ok((included && !excluded, excluded))
    }

    /// Makes room for something that is not a directory.
    fn clear(&self, target: &Target, name: &[u8], path: &[u8]) -> Result<(), FsError> {
        if target.fresh {
            return Ok(());
        }
        let dir = target.fd.as_fd();
        match rustix::fs::unlinkat(dir, OsStr::from_bytes(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) if is_dir(dir, name) => {
                if !self.options.replace {
                    return Err(FsError::FileOverDirectory(lossy(path)));
                }
                root::remove_all(dir, name).map_err(|errno| FsError::path("unlinkat", path, errno))
            }
            Err(errno) => Err(FsError::path("remove", path, errno)),
        }
    }

    /// The copy of a directory that has something to hold; made now if it was put off.
    fn target<'l>(&self, level: &'l Level<'_>) -> Result<&'l Target, FsError> {
        if let Some(target) = level.target.get() {
            return Ok(target);
        }
        let Some(parent) = level.parent else {
            return Err(FsError::Invalid("a copy without a destination".into()));
        };
        let into = self.target(parent)?;
        let name = gopath::base(&level.dest_path);
        let target = self.make_dir(into, name, &level.dest_path, &level.meta, true)?;
        if target.fresh {
            self.open_metadata(&level.source, &target.fd, &level.meta, &level.dest_path)?;
        }
        Ok(level.target.get_or_init(|| target))
    }

    fn directory(
        &mut self,
        parent: &Level<'_>,
        entry: &Entry<'_>,
        meta: Meta,
        included: bool,
        excluded: bool,
    ) -> Result<(), FsError> {
        let nested = !entry.relative.is_empty();
        let source_path = gopath::join(&parent.source_path, entry.source_name);
        let dest_path = gopath::join(&parent.dest_path, entry.dest_name);
        let read_failed = |errno| {
            FsError::path("open", &source_path, errno)
                .context(format!("failed to read {}", lossy(&source_path)))
        };
        let source = open_dir(parent.source.as_fd(), entry.source_name).map_err(read_failed)?;
        let level = Level {
            parent: Some(parent),
            source_path: source_path.clone(),
            dest_path,
            source,
            meta,
            target: OnceCell::new(),
        };
        if included {
            let into = self.target(parent)?;
            let target = self.make_dir(into, entry.dest_name, &level.dest_path, &meta, nested)?;
            level.target.get_or_init(|| target);
        }
        let excepted = self
            .exclude
            .as_ref()
            .is_some_and(PatternMatcher::has_exclusions);
        if !excluded || excepted {
            for (name, kind) in root::read_dir(level.source.as_fd()).map_err(read_failed)? {
                let relative = match entry.relative.as_slice() {
                    [] => name.clone(),
                    path => [path, b"/", &name].concat(),
                };
                let child = Entry {
                    source_name: &name,
                    dest_name: &name,
                    relative,
                    include: entry.include.clone(),
                    exclude: entry.exclude.clone(),
                };
                self.entry(&level, child, Some(kind))?;
            }
        }
        let Some(target) = level.target.get().filter(|_| included) else {
            return Ok(());
        };
        if nested || target.fresh {
            self.open_metadata(&level.source, &target.fd, &meta, &level.dest_path)?;
            return self.check_open(&source_path, &level.source);
        }
        // The destination itself was there already: it keeps all but its time.
        let (atime, mtime) = self.times(&meta);
        rustix::fs::futimens(&target.fd, &root::timestamps(atime, mtime)).map_err(|errno| {
            root::utime_error(&level.dest_path, errno).context("failed to restore file timestamp")
        })?;
        self.check_open(&source_path, &level.source)
    }

    /// Makes or takes over a destination directory.
    fn make_dir(
        &self,
        into: &Target,
        name: &[u8],
        path: &[u8],
        meta: &Meta,
        take_mode: bool,
    ) -> Result<Target, FsError> {
        let dir = into.fd.as_fd();
        if self.options.replace && !into.fresh && !is_dir(dir, name) {
            root::remove_all(dir, name).map_err(|e| FsError::path("unlinkat", path, e))?;
        }
        let mode = Mode::from_raw_mode(meta.permissions());
        let fresh = match rustix::fs::mkdirat(dir, OsStr::from_bytes(name), mode) {
            Ok(()) => true,
            Err(Errno::EXIST) if is_dir(dir, name) => false,
            Err(Errno::EXIST) => return Err(FsError::DirectoryOverFile(lossy(path))),
            Err(errno) => {
                return Err(FsError::path("mkdir", path, errno)
                    .context(format!("failed to mkdir {}", lossy(path))));
            }
        };
        if !fresh && take_mode {
            rustix::fs::chmodat(dir, OsStr::from_bytes(name), mode, AtFlags::empty()).map_err(
                |errno| {
                    FsError::path("chmod", path, errno)
                        .context(format!("failed to chmod on {}", lossy(path)))
                },
            )?;
        }
        let fd = open_dir(dir, name).map_err(|errno| FsError::path("open", path, errno))?;
        Ok(Target { fd, fresh })
    }
}

fn is_dir(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    Meta::of(dir, name).is_ok_and(|meta| meta.is_dir())
}

fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        dir,
        OsStr::from_bytes(name),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
