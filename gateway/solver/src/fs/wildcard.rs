//! Wildcards of COPY and `rm` actions, expanded over a tree.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::FsError;
use super::glob::{Glob, split_wildcard};
use super::gopath;
use super::meta::Meta;
use super::root::{Root, read_dir};
use super::syntax::PatternError;
use super::visible::Visible;

/// The paths that a source with wildcards means, in walking order. A source without any
/// means itself, whether it exists or not. A directory that matches is not entered. A
/// malformed pattern matches nothing.
///
/// With `visible`, nothing else is there.
pub fn expand(
    root: &Root,
    source: &[u8],
    follow: bool,
    visible: Option<&Visible>,
) -> Result<Vec<Vec<u8>>, FsError> {
    let (literal, pattern) = split_wildcard(source);
    if pattern.is_empty() {
        return Ok(vec![literal]);
    }
    let base = if follow {
        root.resolve(&literal)?
    } else {
        root.resolve_parent(&literal)?
    };
    if let Some(visible) = visible {
        visible.check_resolved(&literal, &base)?;
    }
    if visible.is_some_and(|visible| !visible.has(&base)) {
        return Err(FsError::path("lstat", &base, Errno::NOENT));
    }
    if !root.lstat(&base)?.is_dir() {
        return Ok(Vec::new());
    }
    let whole = match Glob::new(&pattern) {
        Ok(whole) => whole,
        Err(PatternError::Syntax) => return Ok(Vec::new()),
        Err(over_limit) => return Err(over_limit.into()),
    };
    // Without a class no wildcard matches a slash: each element has its own pattern, and
    // only directories that match theirs need to be entered.
    let elements = if pattern.contains(&b'[') || pattern.contains(&b'\\') {
        None
    } else {
        pattern
            .split(|b| *b == b'/')
            .map(|part| Glob::new(part).ok())
            .collect()
    };
    let mut walk = Walk {
        whole,
        elements,
        base: &base,
        visible,
        found: Vec::new(),
    };
    let dir = root
        .open_dir(&base)
        .map_err(|errno| FsError::path("open", &base, errno))?;
    walk.directory(dir.as_fd(), &[], 0)?;
    Ok(walk.found)
}

struct Walk<'a> {
    whole: Glob,
    elements: Option<Vec<Glob>>,
    base: &'a [u8],
    visible: Option<&'a Visible>,
    found: Vec<Vec<u8>>,
}

impl Walk<'_> {
    fn directory(&mut self, dir: BorrowedFd<'_>, path: &[u8], depth: usize) -> Result<(), FsError> {
        let failed = |errno| FsError::path("open", gopath::join(self.base, path), errno);
        let entries = read_dir(dir).map_err(failed)?;
        for (name, kind) in entries {
            let below = match path {
                [] => name.clone(),
                path => [path, b"/", &name].concat(),
            };
            let full = gopath::join(self.base, &below);
            if self.visible.is_some_and(|visible| !visible.has(&full)) {
                continue;
            }
            if self.whole.matches(&below)? {
                self.found.push(full);
                continue;
            }
            if kind != FileType::Directory || !self.leads_on(&name, depth) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(dir, OsStr::from_bytes(&name), flags, Mode::empty())
                .map_err(|errno| FsError::path("open", &full, errno))?;
            self.directory(fd.as_fd(), &below, depth + 1)?;
        }
        if let Some(visible) = self.visible {
            // What was there when the source was walked must have been listed.
            let meta = Meta::of_fd(dir).map_err(failed)?;
            visible.check(&gopath::join(self.base, path), &meta)?;
        }
        Ok(())
    }

    fn leads_on(&self, name: &[u8], depth: usize) -> bool {
        self.elements.as_ref().is_none_or(|elements| {
            depth + 1 < elements.len()
                && elements
                    .get(depth)
                    .is_some_and(|e| e.matches(name) == Ok(true))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_star_stays_in_its_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        for path in [
            "a.txt",
            "b.txt",
            "c.log",
            "dir/x.md",
            "dir/sub/y.md",
            "dur/z.md",
        ] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        let root = Root::open(dir.path()).expect("opens");
        let expand = |source: &str| -> Vec<String> {
            expand(&root, source.as_bytes(), true, None)
                .expect("expands")
                .iter()
                .map(|p| super::super::error::lossy(p))
                .collect()
        };
        assert_eq!(expand("/*.txt"), ["/a.txt", "/b.txt"]);
        assert_eq!(expand("/d?r/*.md"), ["/dir/x.md", "/dur/z.md"]);
        assert_eq!(expand("/dir/*"), ["/dir/sub", "/dir/x.md"]);
        assert_eq!(expand("/d[i]r/*/y.md"), ["/dir/sub/y.md"]);
        assert_eq!(expand("/nothing*"), Vec::<String>::new());
        assert_eq!(expand("/plain"), ["/plain"]);
        assert_eq!(expand("/a["), Vec::<String>::new());
    }

    #[test]
    fn a_wildcard_below_nothing_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::open(dir.path()).expect("opens");
        let error = expand(&root, b"/x/*.md", true, None).expect_err("no such directory");
        assert_eq!(error.to_string(), "lstat /x: no such file or directory");
    }
}
