//! The walk over a local source: what a client would send for its filters, in its order.
//!
//! Directories come before what is in them, names in byte order. Parents of what is included
//! come too, matched or not; the root itself does not.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::FsError;
use super::follow;
use super::meta::Meta;
use super::pattern::{MatchInfo, PatternMatcher};
use super::root::{Root, read_dir};

/// Which part of a directory is meant. The default is all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only what matches, or lies below what matches.
    pub include: Vec<String>,
    /// Not what matches.
    pub exclude: Vec<String>,
    /// Include these paths and what their symbolic links lead to.
    pub follow: Vec<String>,
}

/// One file of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path below the root, without a leading slash.
    pub path: Vec<u8>,
    /// Its stat.
    pub meta: Meta,
    /// A symbolic link's text.
    pub target: Option<Vec<u8>>,
    /// The first path of the walk with the same inode, when it has several names.
    pub hard_link: Option<Vec<u8>>,
}

/// All entries that a filter lets through.
pub fn entries(root: &Root, filter: &Filter) -> Result<Vec<Entry>, FsError> {
    let mut out = Vec::new();
    walk(root, filter, &mut |entry| {
        out.push(entry);
        Ok(())
    })?;
    Ok(out)
}

/// Calls `visit` with each entry that a filter lets through.
pub fn walk(
    root: &Root,
    filter: &Filter,
    visit: &mut dyn FnMut(Entry) -> Result<(), FsError>,
) -> Result<(), FsError> {
    let mut walker = Walker {
        include: include_matcher(root, filter)?,
        exclude: matcher("exclude", &filter.exclude)?,
        visit,
        seen: HashMap::new(),
        pending: Vec::new(),
    };
    let dir = root
        .open_dir(b"/")
        .map_err(|errno| FsError::path("open", "/", errno))?;
    walker.directory(
        dir.as_fd(),
        &[],
        &MatchInfo::default(),
        &MatchInfo::default(),
    )
}

fn include_matcher(root: &Root, filter: &Filter) -> Result<Option<PatternMatcher>, FsError> {
    let mut include = filter.include.clone();
    if !filter.follow.is_empty()
        && let Some(targets) = follow::follow_paths(root, &filter.follow)?
    {
        include.extend(targets);
        include = follow::dedupe(include).unwrap_or_default();
    }
    matcher("include", &include)
}

/// A matcher for a list; none for an empty one, which means no filter.
pub(crate) fn matcher(
    kind: &'static str,
    patterns: &[String],
) -> Result<Option<PatternMatcher>, FsError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    PatternMatcher::new(patterns)
        .map(Some)
        .map_err(|source| FsError::Patterns {
            kind,
            patterns: patterns.to_vec(),
            source,
        })
}

/// Nanoseconds. Clocks of kernels tick at least every 10 ms: what was changed longer ago than ten
/// of them cannot change again and look the same.
const TICK: i128 = 100_000_000;
/// The same for file systems that count in seconds (two, on FAT).
const COARSE_TICK: i128 = 3_000_000_000;

/// From when on a file with these times (nanoseconds since the epoch) shows every change by them:
/// what was read before may have changed again within the same tick of the clock.
pub fn settled_at(ctime: i128, mtime: i128) -> i128 {
    let coarse = ctime % 1_000_000_000 == 0;
    ctime.max(mtime) + if coarse { COARSE_TICK } else { TICK }
}

struct Walker<'a> {
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    visit: &'a mut dyn FnMut(Entry) -> Result<(), FsError>,
    /// First path of each inode with several names.
    seen: HashMap<(u64, u64), Vec<u8>>,
    /// The directories on the way down, each until it has been visited.
    pending: Vec<Option<Entry>>,
}

impl Walker<'_> {
    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        include: &MatchInfo,
        exclude: &MatchInfo,
    ) -> Result<(), FsError> {
        let names = read_dir(dir).map_err(|errno| FsError::path("open", path, errno))?;
        for (name, kind) in names {
            let path = match path {
                [] => name.clone(),
                path => [path, b"/", &name].concat(),
            };
            self.entry(
                dir,
                &name,
                path,
                kind == FileType::Directory,
                include,
                exclude,
            )?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: Vec<u8>,
        is_dir: bool,
        include: &MatchInfo,
        exclude: &MatchInfo,
    ) -> Result<(), FsError> {
        let mut skip = false;
        let mut include_below = MatchInfo::default();
        if let Some(matcher) = &self.include {
            let (hit, info) = matcher
                .matches_below(&path, include)
                .map_err(|e| FsError::from(e).context("failed to match includepatterns"))?;
            include_below = info;
            if !hit {
                if !is_dir || !matcher.may_include_below(&path) {
                    return Ok(());
                }
                skip = true;
            }
        }
        let mut exclude_below = MatchInfo::default();
        if let Some(matcher) = &self.exclude {
            let (hit, info) = matcher
                .matches_below(&path, exclude)
                .map_err(|e| FsError::from(e).context("failed to match excludepatterns"))?;
            exclude_below = info;
            if hit {
                if !is_dir || !matcher.may_except_below(&path) {
                    return Ok(());
                }
                skip = true;
            }
        }
        let meta = match Meta::of(dir, name) {
            Ok(meta) => meta,
            // It has gone since the directory was read.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(FsError::path("lstat", &path, errno)),
        };
        let Some(entry) = self.describe(dir, name, path.clone(), meta)? else {
            return Ok(());
        };
        if !meta.is_dir() {
            return if skip { Ok(()) } else { self.emit(entry) };
        }
        if skip {
            self.pending.push(Some(entry));
        } else {
            self.emit(entry)?;
            self.pending.push(None);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty()) {
            Ok(fd) => self.directory(fd.as_fd(), &path, &include_below, &exclude_below)?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(Errno::ACCESS) if skip => {}
            Err(errno) => return Err(FsError::path("open", &path, errno)),
        }
        self.pending.pop();
        Ok(())
    }

    fn describe(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: Vec<u8>,
        meta: Meta,
    ) -> Result<Option<Entry>, FsError> {
        let mut target = None;
        if meta.is_symlink() {
            target = match rustix::fs::readlinkat(dir, OsStr::from_bytes(name), Vec::new()) {
                Ok(text) => Some(text.into_bytes()),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(FsError::path("readlink", &path, errno)),
            };
        }
        Ok(Some(Entry {
            path,
            meta,
            target,
            hard_link: None,
        }))
    }

    /// Visits an entry, after those of its parents that have not been visited yet.
    fn emit(&mut self, mut entry: Entry) -> Result<(), FsError> {
        for parent in self.pending.iter_mut().filter_map(Option::take) {
            (self.visit)(parent)?;
        }
        let meta = &entry.meta;
        if meta.nlink > 1 && !meta.is_dir() && !meta.is_symlink() {
            let key = (meta.dev, meta.ino);
            if let Some(first) = self.seen.get(&key) {
                entry.hard_link = Some(first.clone());
            } else {
                self.seen.insert(key, entry.path.clone());
            }
        }
        (self.visit)(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree(files: &[&str]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a directory");
        for path in files {
            let file = dir.path().join(path);
            std::fs::create_dir_all(file.parent().expect("has one")).expect("made");
            std::fs::write(file, "").expect("written");
        }
        let root = Root::open(dir.path()).expect("opens");
        (dir, root)
    }

    fn list(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|p| (*p).to_owned()).collect()
    }

    fn paths(root: &Root, filter: &Filter) -> Vec<String> {
        entries(root, filter)
            .expect("walks")
            .iter()
            .map(|e| super::super::error::lossy(&e.path))
            .collect()
    }

    #[test]
    fn everything_comes_in_order() {
        let (_dir, root) = tree(&["a/b", "a.txt", "a-b", "c/d/e"]);
        let all = paths(&root, &Filter::default());
        assert_eq!(all, ["a", "a/b", "a-b", "a.txt", "c", "c/d", "c/d/e"]);
    }

    #[test]
    fn excluded_files_are_left_out_and_parents_of_exceptions_come() {
        let (_dir, root) = tree(&["keep/x", "drop/x", "drop/in/y", "z.md"]);
        let filter = Filter {
            exclude: list(&["drop", "*.md", "!drop/in/y"]),
            ..Filter::default()
        };
        assert_eq!(
            paths(&root, &filter),
            ["drop", "drop/in", "drop/in/y", "keep", "keep/x"]
        );
    }

    #[test]
    fn included_files_bring_their_parents() {
        let (_dir, root) = tree(&["a/b/c.txt", "a/b/d.md", "e/f.md", "g.txt"]);
        let filter = Filter {
            include: list(&["**/*.txt"]),
            ..Filter::default()
        };
        assert_eq!(paths(&root, &filter), ["a", "a/b", "a/b/c.txt", "g.txt"]);
    }

    #[test]
    fn followed_paths_bring_what_their_links_lead_to() {
        let (dir, root) = tree(&["real/f", "real/g", "other"]);
        symlink("real", dir.path().join("link")).expect("linked");
        let filter = Filter {
            follow: list(&["/link/f"]),
            ..Filter::default()
        };
        assert_eq!(paths(&root, &filter), ["link", "real", "real/f"]);
        let all = Filter {
            follow: list(&["/"]),
            ..Filter::default()
        };
        assert_eq!(paths(&root, &all).len(), 5);
    }

    #[test]
    fn further_names_of_a_file_point_to_the_first_that_is_left() {
        let (dir, root) = tree(&["a"]);
        for name in ["b", "c"] {
            std::fs::hard_link(dir.path().join("a"), dir.path().join(name)).expect("linked");
        }
        let filter = Filter {
            exclude: list(&["a"]),
            ..Filter::default()
        };
        let links: Vec<_> = entries(&root, &filter)
            .expect("walks")
            .into_iter()
            .map(|e| e.hard_link)
            .collect();
        assert_eq!(links, [None, Some(b"b".to_vec())]);
    }
}
