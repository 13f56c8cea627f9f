//! Reading a result for a frontend: ReadFile, ReadDir and StatFile of the gateway protocol.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::{FsError, lossy};
use super::gopath;
use super::meta::{Meta, Xattrs, XattrsOf};
use super::pattern::MatchInfo;
use super::root::{Root, read_dir as read_names};
use super::walk;

/// Largest file that is handed to a frontend: more does not fit into one gRPC message of any
/// client (their limit is 16 MiB).
pub const MAX_FILE: u64 = 16 << 20;

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    /// First byte; a negative one is an error.
    pub offset: i64,
    /// Bytes at most; none at all when 0.
    pub length: i64,
}

/// A file's description as it goes over the wire (`fsutil.types.Stat`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileStat {
    /// The name alone.
    pub path: String,
    /// Go's `os.FileMode`, not `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes; 0 for directories.
    pub size: i64,
    /// Modification time, nanoseconds since the epoch.
    pub mod_time: i64,
    /// A symbolic link's text.
    pub link_name: String,
    /// Major number of a device file.
    pub dev_major: i64,
    /// Minor number of a device file.
    pub dev_minor: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// Reads a file or a part of it. A range past the end gives what there is.
pub fn read_file(root: &Root, path: &str, range: Option<FileRange>) -> Result<Vec<u8>, FsError> {
    let failed = |errno| FsError::path("open", path, errno);
    let resolved = root.resolve(path.as_bytes())?;
    // Opening a pipe must not wait for somebody to write to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let fd = root
        .open_resolved(&resolved, flags, Mode::empty())
        .map_err(failed)?;
    let meta = Meta::of_fd(fd.as_fd()).map_err(failed)?;
    if !meta.is_file() {
        return Err(FsError::NotRegular(path.to_owned()));
    }
    let file = File::from(fd);
    let io_failed = |error: std::io::Error| {
        FsError::path(
            "read",
            path,
            Errno::from_io_error(&error).unwrap_or(Errno::IO),
        )
    };
    let mut data = Vec::new();
    match range {
        None => {
            let limited = (&file).take(MAX_FILE + 1);
            { limited }.read_to_end(&mut data).map_err(io_failed)?;
            if data.len() as u64 > MAX_FILE {
                return Err(FsError::TooLarge {
                    path: path.to_owned(),
                    limit: MAX_FILE,
                });
            }
        }
        Some(range) => {
            let offset = u64::try_from(range.offset).map_err(|_| {
                FsError::path("read", path, Errno::INVAL).context("negative offset")
            })?;
            let wanted = u64::try_from(range.length).unwrap_or(0).min(MAX_FILE);
            let wanted = wanted.min(meta.size.saturating_sub(offset));
            data.resize(usize::try_from(wanted).unwrap_or(0), 0);
            let mut done = 0;
            while let Some(room) = data.get_mut(done..).filter(|room| !room.is_empty()) {
                match file
                    .read_at(room, offset + done as u64)
                    .map_err(io_failed)?
                {
                    0 => break,
                    n => done += n,
                }
            }
            data.truncate(done);
        }
    }
    Ok(data)
}

/// Lists a directory, sorted by name: what matches the pattern, or all for an empty one.
pub fn read_dir(root: &Root, path: &str, include: &str) -> Result<Vec<FileStat>, FsError> {
    let resolved = root.resolve(path.as_bytes())?;
    let failed = |errno| FsError::path("open", path, errno);
    let patterns = match include {
        "" => Vec::new(),
        include => vec![include.to_owned()],
    };
    let matcher = walk::matcher("include", &patterns)?;
    let dir = root.open_dir(&resolved).map_err(failed)?;
    let mut out = Vec::new();
    for (name, _) in read_names(dir.as_fd()).map_err(failed)? {
        if let Some(matcher) = &matcher
            && !matcher.matches_below(&name, &MatchInfo::default())?.0
        {
            continue;
        }
        let meta = Meta::of(dir.as_fd(), &name).map_err(failed)?;
        out.push(describe(root, &gopath::join(&resolved, &name), &meta)?);
    }
    Ok(out)
}

/// Describes a file; a link, also at the path's end, stands for what it leads to.
pub fn stat_file(root: &Root, path: &str) -> Result<FileStat, FsError> {
    let resolved = root.resolve(path.as_bytes())?;
    let meta = root.lstat(&resolved).map_err(|error| match error.errno() {
        Some(errno) => FsError::path("lstat", path, errno),
        None => error,
    })?;
    describe(root, &resolved, &meta)
}

/// Describes a file like [`stat_file`], under the name it was asked by; but where a link on the way
/// leads out of the root, the path's last link stands for itself, so that the asker can follow it
/// where the root is mounted.
pub fn stat_or_link(root: &Root, path: &str) -> Result<FileStat, FsError> {
    let relative = path.trim_start_matches('/');
    let opened = rustix::fs::openat2(
        root.fd(),
        if relative.is_empty() { "." } else { relative },
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    );
    let mut stat = match opened {
        Err(Errno::XDEV) => {
            let resolved = root.resolve_parent(path.as_bytes())?;
            let meta = root.lstat(&resolved)?;
            describe(root, &resolved, &meta)?
        }
        // Also for its words about what is missing.
        _ => stat_file(root, path)?,
    };
    stat.path = lossy(gopath::base(path.as_bytes()));
    Ok(stat)
}

fn describe(root: &Root, resolved: &[u8], meta: &Meta) -> Result<FileStat, FsError> {
    let link_name = if meta.is_symlink() {
        let target = root.read_link(resolved);
        lossy(&target.map_err(|errno| FsError::path("readlink", resolved, errno))?)
    } else {
        String::new()
    };
    let is_device = meta.mode & 0o170_000 == 0o020_000 || meta.mode & 0o170_000 == 0o060_000;
    let (major, minor) = if is_device { meta.device() } else { (0, 0) };
    Ok(FileStat {
        path: lossy(gopath::base(resolved)),
        mode: meta.go_mode(),
        uid: meta.uid,
        gid: meta.gid,
        size: if meta.is_dir() {
            0
        } else {
            i64::try_from(meta.size).unwrap_or(i64::MAX)
        },
        mod_time: i64::try_from(meta.mtime).unwrap_or(0),
        link_name,
        dev_major: major.into(),
        dev_minor: minor.into(),
        xattrs: XattrsOf::Path(&root.host_path(resolved))
            .read()
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir(at("d")).expect("made");
        for (path, text) in [
            ("f", "hello"),
            ("d/b.txt", "b"),
            ("d/a.txt", "a"),
            ("d/c.md", "c"),
        ] {
            std::fs::write(at(path), text).expect("written");
            std::fs::set_permissions(at(path), PermissionsExt::from_mode(0o640)).expect("set");
        }
        symlink("/f", at("link")).expect("linked");
        symlink("d", at("dlink")).expect("linked");
        symlink("nowhere", at("dangling")).expect("linked");
        let root = Root::open(dir.path()).expect("opens");
        (dir, root)
    }

    fn read(root: &Root, path: &str, range: Option<(i64, i64)>) -> Result<String, String> {
        let range = range.map(|(offset, length)| FileRange { offset, length });
        read_file(root, path, range)
            .map(|d| lossy(&d))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn files_are_read_whole_or_in_part() {
        let (_dir, root) = tree();
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(read(&root, "f", None), ok("hello"));
        assert_eq!(read(&root, "/../link", None), ok("hello"));
        assert_eq!(read(&root, "f", Some((1, 3))), ok("ell"));
        assert_eq!(read(&root, "f", Some((3, 100))), ok("lo"));
        assert_eq!(read(&root, "f", Some((100, 1))), ok(""));
        assert_eq!(read(&root, "f", Some((2, 0))), ok(""));
        assert!(read(&root, "f", Some((-1, 1))).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_named_as_it_was_asked_for() {
        let (_dir, root) = tree();
        let error = |text: &str| Err(text.to_owned());
        let missing = "open .dockerignore: no such file or directory";
        assert_eq!(read(&root, ".dockerignore", None), error(missing));
        assert_eq!(read(&root, "d", None), error("d is not a regular file"));
    }

    #[test]
    fn a_directory_lists_what_matches() {
        let (_dir, root) = tree();
        let names = |path: &str, include: &str| -> Vec<String> {
            let list = read_dir(&root, path, include).expect("reads");
            list.into_iter().map(|s| s.path).collect()
        };
        assert_eq!(names("d", ""), ["a.txt", "b.txt", "c.md"]);
        assert_eq!(names("/dlink", "*.txt"), ["a.txt", "b.txt"]);
        assert_eq!(names(".", "*.txt"), Vec::<String>::new());
        let error = read_dir(&root, "d", "a[").expect_err("a bad pattern");
        assert_eq!(
            error.to_string(),
            "invalid includepatterns: [a[]: syntax error in pattern"
        );
        assert!(read_dir(&root, "f", "").is_err());
        assert!(read_dir(&root, "nowhere", "").is_err());
    }

    #[test]
    fn a_stat_follows_links_and_speaks_go() {
        let (_dir, root) = tree();
        let stat = stat_file(&root, "link").expect("stats");
        assert_eq!((stat.path.as_str(), stat.mode, stat.size), ("f", 0o640, 5));
        let stat = stat_file(&root, "d").expect("stats");
        assert_eq!((stat.mode >> 31, stat.size), (1, 0));
        let list = read_dir(&root, "/", "link").expect("reads");
        assert_eq!(
            (list[0].link_name.as_str(), list[0].mode),
            ("/f", 0x0800_01ff)
        );
        let error = stat_file(&root, "dangling").expect_err("leads nowhere");
        assert_eq!(
            error.to_string(),
            "lstat dangling: no such file or directory"
        );
    }
}
