//! Resolves paths inside a root directory component by component, so that no
//! symbolic link, however made, leads out of it, and makes what is missing.
//!
//! Every component is opened relative to the descriptor of the one before,
//! never following links; `..` goes back in the list of descriptors and so
//! cannot climb above the root. Links are expanded as text, which also takes
//! the magic out of `/proc`'s.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// As the kernel's own limit.
const MAX_LINKS: u32 = 40;

/// What to make when the last component is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Create {
    Nothing,
    File,
    Directory,
}

/// A path made on the way, with what is needed to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// Relative to the root, free of links.
    pub path: PathBuf,
    /// The parent's access and modification time before.
    pub parent_times: [(i64, i64); 2],
    /// The parent's modification time after.
    pub parent_mtime_after: (i64, i64),
    /// The device of the parent: tells whether it belongs to the root's own
    /// file system.
    pub device: u64,
}

/// A resolved path.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// An `O_PATH` descriptor.
    pub fd: OwnedFd,
    /// Relative to the root, free of links.
    pub path: PathBuf,
    /// What had to be made, outermost first.
    pub made: Vec<Made>,
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// Names and descriptors from the root down to where the walk is.
    stack: Vec<(Vec<u8>, OwnedFd)>,
    todo: VecDeque<Vec<u8>>,
    links: u32,
}

impl Walk<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.root, |(_, fd)| fd.as_fd())
    }

    fn path(&self) -> PathBuf {
        self.stack
            .iter()
            .map(|(name, _)| OsStr::from_bytes(name))
            .collect()
    }

    fn push_todo(&mut self, path: &[u8]) {
        for component in path.rsplit(|b| *b == b'/') {
            if !component.is_empty() && component != b"." {
                self.todo.push_front(component.to_vec());
            }
        }
    }
}

/// Resolves `path` inside `root`. Missing parents are made as directories if
/// anything may be made at all.
pub(crate) fn resolve(
    root: BorrowedFd<'_>,
    path: &Path,
    create: Create,
) -> Result<Resolved, Errno> {
    let mut walk = Walk {
        root,
        stack: Vec::new(),
        todo: VecDeque::new(),
        links: 0,
    };
    let mut made = Vec::new();
    walk.push_todo(path.as_os_str().as_bytes());
    while let Some(name) = walk.todo.pop_front() {
        if name == b".." {
            walk.stack.pop();
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(walk.here(), &name[..], flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) if create != Create::Nothing => {
                let directory = create == Create::Directory || !walk.todo.is_empty();
                made.push(make(&walk, &name, directory)?);
                rustix::fs::openat(walk.here(), &name[..], flags, Mode::empty())?
            }
            Err(errno) => return Err(errno),
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if kind == FileType::Symlink {
            walk.links += 1;
            if walk.links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes();
            if target.first() == Some(&b'/') {
                walk.stack.clear();
            }
            walk.push_todo(&target);
            continue;
        }
        if kind != FileType::Directory && !walk.todo.is_empty() {
            return Err(Errno::NOTDIR);
        }
        walk.stack.push((name, fd));
    }
    let path = walk.path();
    let fd = match walk.stack.pop() {
        Some((_, fd)) => fd,
        None => rustix::fs::openat(
            root,
            ".",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?,
    };
    Ok(Resolved { fd, path, made })
}

fn make(walk: &Walk<'_>, name: &[u8], directory: bool) -> Result<Made, Errno> {
    let parent = walk.here();
    let before = rustix::fs::fstat(parent)?;
    if directory {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    } else {
        rustix::fs::mknodat(
            parent,
            name,
            FileType::RegularFile,
            Mode::from_raw_mode(0o644),
            0,
        )?;
    }
    let after = rustix::fs::fstat(parent)?;
    Ok(Made {
        path: walk.path().join(OsStr::from_bytes(name)),
        parent_times: [
            (before.st_atime as i64, before.st_atime_nsec as i64),
            (before.st_mtime as i64, before.st_mtime_nsec as i64),
        ],
        parent_mtime_after: (after.st_mtime as i64, after.st_mtime_nsec as i64),
        device: before.st_dev as u64,
    })
}

/// Reads a small regular file inside the root; `None` when there is none or
/// it is something else, such as a FIFO that would never end.
pub(crate) fn read_file(
    root: BorrowedFd<'_>,
    path: &Path,
    limit: u64,
) -> Result<Option<Vec<u8>>, Errno> {
    let resolved = match resolve(root, path, Create::Nothing) {
        Ok(resolved) => resolved,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let stat = rustix::fs::fstat(&resolved.fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    if stat.st_size as u64 > limit {
        return Err(Errno::FBIG);
    }
    let (Some(parent), Some(name)) = (resolved.path.parent(), resolved.path.file_name()) else {
        return Ok(None);
    };
    let parent = resolve(root, parent, Create::Nothing)?;
    let file = rustix::fs::openat(
        &parent.fd,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if rustix::fs::fstat(&file)?.st_ino != stat.st_ino {
        return Ok(None);
    }
    let mut content = Vec::new();
    use std::io::Read;
    std::fs::File::from(file)
        .take(limit)
        .read_to_end(&mut content)
        .map_err(|e| Errno::from_raw_os_error(e.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    struct Root {
        dir: tempfile::TempDir,
        fd: OwnedFd,
    }

    impl Root {
        fn new() -> Root {
            let dir = tempfile::tempdir().expect("tempdir");
            fs::create_dir_all(dir.path().join("a/b")).expect("mkdir");
            fs::write(dir.path().join("a/file"), "inside").expect("write");
            let fd = fs::File::open(dir.path()).expect("open").into();
            Root { dir, fd }
        }

        fn link(&self, target: &str, name: &str) {
            symlink(target, self.dir.path().join(name)).expect("symlink");
        }

        fn resolve(&self, path: &str, create: Create) -> Result<PathBuf, Errno> {
            resolve(self.fd.as_fd(), Path::new(path), create).map(|resolved| resolved.path)
        }
    }

    #[test]
    fn no_spelling_leads_above_the_root() {
        let root = Root::new();
        root.link("/../../a", "absolute");
        root.link("../../../../a", "a/climbing");
        for path in [
            "a",
            "/../a",
            "a/b/../../../../a",
            "absolute",
            "a/climbing",
            "./a//.",
        ] {
            assert_eq!(
                root.resolve(path, Create::Nothing),
                Ok("a".into()),
                "{path}"
            );
        }
        assert_eq!(root.resolve("/../..", Create::Nothing), Ok(PathBuf::new()));
    }

    #[test]
    fn a_folder_swapped_for_a_link_ten_thousand_times_never_leads_outside() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let outside = tempfile::tempdir().expect("tempdir");
        fs::create_dir(outside.path().join("b")).expect("mkdir");
        let root = Root::new();
        root.link(&outside.path().display().to_string(), "link");
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                while !end.load(Ordering::Relaxed) {
                    rustix::fs::renameat_with(&root.fd, "a", &root.fd, "link", flags)
                        .expect("swap");
                }
            });
            let mut inside = 0;
            for n in 0..10_000 {
                let name = format!("a/b/{n}");
                if let Ok(found) = resolve(root.fd.as_fd(), Path::new(&name), Create::File) {
                    let link = format!("/proc/self/fd/{}", found.fd.as_raw_fd());
                    let place = fs::read_link(link).expect("readlink");
                    assert!(place.starts_with(root.dir.path()), "{place:?}");
                    inside += 1;
                }
            }
            end.store(true, Ordering::Relaxed);
            assert!(inside > 0);
        });
        let entries = fs::read_dir(outside.path().join("b")).expect("read_dir");
        assert_eq!(entries.count(), 0);
    }

    #[test]
    fn links_in_a_circle_end() {
        let root = Root::new();
        root.link("two", "one");
        root.link("one", "two");
        assert_eq!(root.resolve("one", Create::Directory), Err(Errno::LOOP));
    }

    #[test]
    fn what_is_missing_is_made_where_a_dangling_link_points() {
        let root = Root::new();
        root.link("/new/place", "a/link");
        let resolved = resolve(root.fd.as_fd(), Path::new("a/link/x"), Create::File);
        let resolved = resolved.expect("made");
        assert_eq!(resolved.path, Path::new("new/place/x"));
        let made: Vec<_> = resolved.made.into_iter().map(|made| made.path).collect();
        assert_eq!(made, ["new", "new/place", "new/place/x"].map(PathBuf::from));
        assert!(root.dir.path().join("new/place/x").is_file());
    }

    #[test]
    fn a_file_is_no_directory_and_nothing_is_made_unasked() {
        let root = Root::new();
        assert_eq!(
            root.resolve("a/file/x", Create::Directory),
            Err(Errno::NOTDIR)
        );
        assert_eq!(
            root.resolve("a/missing", Create::Nothing),
            Err(Errno::NOENT)
        );
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let root = Root::new();
        let read = |path: &str, limit| read_file(root.fd.as_fd(), Path::new(path), limit);
        assert_eq!(read("a/file", 100), Ok(Some(b"inside".to_vec())));
        assert_eq!(read("a/file", 3), Err(Errno::FBIG));
        assert_eq!(read("a/missing", 100), Ok(None));
        assert_eq!(read("a", 100), Ok(None));
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(&root.fd, "fifo", FileType::Fifo, mode, 0).expect("mkfifo");
        assert_eq!(read("fifo", 100), Ok(None));
    }
}
