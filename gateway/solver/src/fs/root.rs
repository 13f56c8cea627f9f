//! A directory that is a root: paths are resolved inside it, symbolic links included, and
//! nothing leaves it.
//!
//! A path is first *resolved* to one without links (what does not exist yet counts as no
//! link, as in BuildKit), and then *opened* by a call that refuses links altogether. Whoever
//! swaps in a link between the two gets an error, not our hands outside of the root.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timestamps};
use rustix::io::Errno;

use super::error::FsError;
use super::gopath;
use super::meta::{self, Meta};

/// Links followed on one path; the reference's limit.
const MAX_LINKS: u32 = 255;

/// Owner and group of what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// Who owns what comes from a local source: root. Whoever is not root cannot give files
    /// away; their copies are their own.
    pub(crate) fn of_local_sources() -> Self {
        if rustix::process::geteuid().is_root() {
            return Self { uid: 0, gid: 0 };
        }
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }
}

/// An open root directory.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens a directory of the host.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let fd = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| FsError::path("open", path.as_os_str().as_bytes(), errno))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// A resolved directory of this root as a root of its own.
    pub fn below(&self, resolved: &[u8]) -> Result<Self, FsError> {
        let fd = self
            .open_dir(resolved)
            .map_err(|errno| FsError::path("open", resolved, errno))?;
        Ok(Self {
            fd,
            path: self.host_path(resolved),
        })
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where a resolved path is on the host, for calls that know only paths.
    pub fn host_path(&self, resolved: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(relative(resolved)))
    }

    /// Resolves a path, links in it and at its end followed inside the root. Gives an
    /// absolute, clean path without links; missing elements stay as they are.
    pub fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, FsError> {
        let path = gopath::absolute(path);
        // Nearly all paths have no link: one call tells.
        let is_plain = |fd: OwnedFd| Meta::of_fd(fd.as_fd()).is_ok_and(|meta| !meta.is_symlink());
        let opened = self.open_resolved(&path, OFlags::PATH, Mode::empty());
        if path == b"/" || opened.is_ok_and(is_plain) {
            return Ok(path);
        }
        self.resolve_slowly(&path)
    }

    /// Like [`Root::resolve`], but a link at the end of the path is itself what is meant.
    pub fn resolve_parent(&self, path: &[u8]) -> Result<Vec<u8>, FsError> {
        let path = gopath::absolute(path);
        let (dir, name) = gopath::split(&path);
        if name.is_empty() {
            return Ok(path);
        }
        Ok(gopath::join(&self.resolve(dir)?, name))
    }

    fn resolve_slowly(&self, path: &[u8]) -> Result<Vec<u8>, FsError> {
        let mut links = 0;
        let mut pending: Vec<Vec<u8>> = reversed(path);
        let mut current: Vec<u8> = Vec::new();
        let mut dir: Option<OwnedFd> = None;
        let mut missing = false;
        while let Some(part) = pending.pop() {
            let next = [&current, b"/".as_slice(), &part].concat();
            if missing {
                current = next;
                continue;
            }
            let parent = dir.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let opened = rustix::fs::openat(
                parent,
                OsStr::from_bytes(&part),
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            );
            let fd = match opened {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    missing = true;
                    current = next;
                    continue;
                }
                Err(errno) => return Err(FsError::path("lstat", &next, errno)),
            };
            let is_link = Meta::of_fd(fd.as_fd())
                .map_err(|errno| FsError::path("lstat", &next, errno))?
                .is_symlink();
            if !is_link {
                dir = Some(fd);
                current = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(FsError::TooManyLinks);
            }
            let target = rustix::fs::readlinkat(&fd, "", Vec::new())
                .map_err(|errno| FsError::path("readlink", &next, errno))?;
            let target = target.as_bytes();
            let goal = if target.starts_with(b"/") {
                gopath::absolute(target)
            } else {
                gopath::absolute(&[&current, b"/".as_slice(), target].concat())
            };
            pending.extend(reversed(&goal));
            current.clear();
            dir = None;
        }
        if current.is_empty() {
            current.push(b'/');
        }
        Ok(current)
    }

    /// Opens a resolved path; a link anywhere on it is refused. (With `O_PATH` a link at its
    /// end is opened itself, never followed.)
    pub fn open_resolved(
        &self,
        resolved: &[u8],
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
        let path = relative(resolved);
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.fd, OsStr::from_bytes(path), flags, mode, resolve) {
            // Old kernels, and filters that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => self.open_by_steps(path, flags, mode),
            other => other,
        }
    }

    fn open_by_steps(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let (parents, name) = gopath::split(path);
        let mut dir: Option<OwnedFd> = None;
        for part in gopath::components(parents) {
            let parent = dir.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = Some(rustix::fs::openat(
                parent,
                OsStr::from_bytes(part),
                step,
                Mode::empty(),
            )?);
        }
        let parent = dir.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
        let name = if name.is_empty() { b"." } else { name };
        rustix::fs::openat(parent, OsStr::from_bytes(name), flags, mode)
    }

    /// Opens a resolved directory for reading.
    pub fn open_dir(&self, resolved: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_resolved(resolved, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Opens the directory that holds a resolved path, and gives the name in it. The root
    /// itself is `.` in itself.
    pub fn open_parent<'a>(&self, resolved: &'a [u8]) -> Result<(OwnedFd, &'a [u8]), Errno> {
        let (dir, name) = gopath::split(resolved);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = self.open_resolved(&gopath::clean(dir), flags, Mode::empty())?;
        Ok((fd, if name.is_empty() { b"." } else { name }))
    }

    /// The text of a symbolic link at a resolved path; `EINVAL` if it is something else.
    pub fn read_link(&self, resolved: &[u8]) -> Result<Vec<u8>, Errno> {
        let (dir, name) = self.open_parent(resolved)?;
        let target = rustix::fs::readlinkat(dir, OsStr::from_bytes(name), Vec::new())?;
        Ok(target.into_bytes())
    }

    /// The stat of a resolved path, its last link not followed.
    pub fn lstat(&self, resolved: &[u8]) -> Result<Meta, FsError> {
        self.open_parent(resolved)
            .and_then(|(dir, name)| Meta::of(dir.as_fd(), name))
            .map_err(|errno| FsError::path("lstat", resolved, errno))
    }

    /// Like [`Root::lstat`]; `None` when there is nothing.
    pub fn lstat_if_exists(&self, resolved: &[u8]) -> Result<Option<Meta>, FsError> {
        match self.lstat(resolved) {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a resolved directory and what is missing above it. Only what is made gets the
    /// permission bits, the owner and the time (nanoseconds). Gives the paths that were made,
    /// outermost first.
    pub fn mkdir_all(
        &self,
        resolved: &[u8],
        permissions: u32,
        owner: Option<Owner>,
        time: Option<i128>,
    ) -> Result<Vec<Vec<u8>>, FsError> {
        match self.lstat_if_exists(resolved) {
            Ok(Some(meta)) if meta.is_dir() => return Ok(Vec::new()),
            Ok(Some(_)) => return Err(FsError::path("mkdir", resolved, Errno::NOTDIR)),
            Ok(None) => {}
            Err(error) if error.errno() == Some(Errno::NOTDIR) => {}
            Err(error) => return Err(error),
        }
        let mut made = match gopath::dir(resolved) {
            parent if parent == b"/" => Vec::new(),
            parent => self.mkdir_all(&parent, permissions, owner, time)?,
        };
        let failed = |errno| FsError::path("mkdir", resolved, errno);
        let (dir, name) = self.open_parent(resolved).map_err(failed)?;
        make_dir(dir.as_fd(), name, permissions).map_err(failed)?;
        if let Some(owner) = owner {
            chown(dir.as_fd(), name, owner)
                .map_err(|errno| FsError::path("lchown", resolved, errno))?;
        }
        if let Some(time) = time {
            set_times(dir.as_fd(), name, time, time)
                .map_err(|errno| utime_error(resolved, errno))?;
        }
        made.push(resolved.to_vec());
        Ok(made)
    }
}

/// Makes a directory with exactly these permission bits, whatever the umask.
pub(crate) fn make_dir(dir: BorrowedFd<'_>, name: &[u8], permissions: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(permissions & 0o777);
    rustix::fs::mkdirat(dir, OsStr::from_bytes(name), mode)?;
    rustix::fs::chmodat(dir, OsStr::from_bytes(name), mode, AtFlags::empty())
}

/// Changes the owner of a name, a link itself included.
pub(crate) fn chown(dir: BorrowedFd<'_>, name: &[u8], owner: Owner) -> Result<(), Errno> {
    rustix::fs::chownat(
        dir,
        OsStr::from_bytes(name),
        Some(rustix::fs::Uid::from_raw(owner.uid)),
        Some(rustix::fs::Gid::from_raw(owner.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// Sets access and modification time of a name, a link itself included.
pub(crate) fn set_times(
    dir: BorrowedFd<'_>,
    name: &[u8],
    atime: i128,
    mtime: i128,
) -> Result<(), Errno> {
    rustix::fs::utimensat(
        dir,
        OsStr::from_bytes(name),
        &timestamps(atime, mtime),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

pub(crate) fn timestamps(atime: i128, mtime: i128) -> Timestamps {
    Timestamps {
        last_access: meta::timespec(atime),
        last_modification: meta::timespec(mtime),
    }
}

pub(crate) fn utime_error(path: &[u8], errno: Errno) -> FsError {
    FsError::path("utime", path, errno)
        .context(format!("failed to utime {}", super::error::lossy(path)))
}

/// A resolved path as seen from the root's descriptor.
fn relative(resolved: &[u8]) -> &[u8] {
    match resolved.strip_prefix(b"/").unwrap_or(resolved) {
        b"" => b".",
        path => path,
    }
}

fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = gopath::components(path).map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
}

/// The names in an open directory with their types, sorted by bytes.
pub(crate) fn read_dir(dir: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, rustix::fs::FileType)>, Errno> {
    let mut out = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            rustix::fs::FileType::Unknown => Meta::of(dir, name)?.kind(),
            kind => kind,
        };
        out.push((name.to_vec(), kind));
    }
    out.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// Removes a name and everything below it; nothing there is no error.
pub(crate) fn remove_all(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, OsStr::from_bytes(name), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let below = rustix::fs::openat(
        dir,
        OsStr::from_bytes(name),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for (child, _) in read_dir(below.as_fd())? {
        remove_all(below.as_fd(), &child)?;
    }
    match rustix::fs::unlinkat(dir, OsStr::from_bytes(name), AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = Root::open(dir.path()).expect("it opens");
        (dir, root)
    }

    fn resolved(root: &Root, path: &str) -> String {
        super::super::error::lossy(&root.resolve(path.as_bytes()).expect("resolves"))
    }

    #[test]
    fn links_are_resolved_inside_the_root() {
        let (dir, root) = root();
        std::fs::create_dir_all(dir.path().join("real/sub")).expect("made");
        symlink("/real", dir.path().join("abs")).expect("made");
        symlink("../../../real", dir.path().join("up")).expect("made");
        symlink("abs/sub", dir.path().join("two")).expect("made");
        symlink("missing/x", dir.path().join("dangling")).expect("made");
        assert_eq!(resolved(&root, "abs/sub"), "/real/sub");
        assert_eq!(resolved(&root, "/up/new/file"), "/real/new/file");
        assert_eq!(resolved(&root, "two"), "/real/sub");
        assert_eq!(resolved(&root, "dangling"), "/missing/x");
        assert_eq!(resolved(&root, "../../etc/passwd"), "/etc/passwd");
        assert_eq!(resolved(&root, "/"), "/");
        assert_eq!(
            root.resolve_parent(b"abs/../two").expect("resolves"),
            b"/two"
        );
    }

    #[test]
    fn a_circle_of_links_ends() {
        let (dir, root) = root();
        symlink("b", dir.path().join("a")).expect("made");
        symlink("a", dir.path().join("b")).expect("made");
        let error = root.resolve(b"a").expect_err("a circle");
        assert_eq!(error.to_string(), "too many links");
    }

    #[test]
    fn opening_refuses_links() {
        let (dir, root) = root();
        symlink("/etc", dir.path().join("etc")).expect("made");
        for flags in [OFlags::RDONLY, OFlags::PATH] {
            let result = root.open_resolved(b"/etc/passwd", flags, Mode::empty());
            assert!(result.is_err());
            let result = root.open_by_steps(b"etc/passwd", flags | OFlags::NOFOLLOW, Mode::empty());
            assert!(result.is_err());
        }
        let result = root.open_resolved(b"/etc", OFlags::RDONLY, Mode::empty());
        assert!(result.is_err());
    }

    #[test]
    fn missing_parents_are_made_with_their_mode_and_time() {
        use std::os::unix::fs::MetadataExt;
        let (dir, root) = root();
        let made = root
            .mkdir_all(b"/a/b/c", 0o711, None, Some(5_000_000_000))
            .expect("made");
        assert_eq!(made, [b"/a".to_vec(), b"/a/b".to_vec(), b"/a/b/c".to_vec()]);
        let meta = std::fs::metadata(dir.path().join("a/b/c")).expect("exists");
        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o711, 5));
        let again = root.mkdir_all(b"/a/b", 0o700, None, None).expect("exists");
        assert!(again.is_empty());
    }

    #[test]
    fn a_file_in_the_way_of_a_directory_is_named() {
        let (dir, root) = root();
        std::fs::write(dir.path().join("f"), "").expect("written");
        let error = root
            .mkdir_all(b"/f/x", 0o755, None, None)
            .expect_err("a file");
        assert_eq!(error.to_string(), "mkdir /f: not a directory");
    }

    #[test]
    fn removing_a_tree_leaves_link_targets_alone() {
        let (dir, root) = root();
        std::fs::create_dir_all(dir.path().join("t/sub")).expect("made");
        std::fs::create_dir(dir.path().join("keep")).expect("made");
        std::fs::write(dir.path().join("keep/f"), "x").expect("written");
        symlink("../keep", dir.path().join("t/link")).expect("made");
        remove_all(root.fd(), b"t").expect("removed");
        assert!(!dir.path().join("t").exists());
        assert!(dir.path().join("keep/f").exists());
        remove_all(root.fd(), b"t").expect("nothing to remove");
    }
}
