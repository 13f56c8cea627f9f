//! A local source's `followpaths`: which paths must be in a context so that the paths a build
//! names can be reached through symbolic links.

use std::collections::BTreeSet;

use super::error::FsError;
use super::glob::{Glob, has_wildcard};
use super::gopath;
use super::root::{Root, read_dir};
use super::syntax::PatternError;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::os::fd::AsFd;

/// Resolves each path inside the root and gives, sorted, the include patterns that cover the
/// links on the way and what they lead to. `None` when everything is needed.
pub fn follow_paths(root: &Root, paths: &[String]) -> Result<Option<Vec<String>>, FsError> {
    let mut follower = Follower {
        root,
        resolved: BTreeSet::new(),
    };
    for path in paths {
        follower.follow(path.as_bytes())?;
    }
    let sorted: Vec<String> = follower
        .resolved
        .into_iter()
        .map(|path| String::from_utf8_lossy(&path).into_owned())
        .collect();
    Ok(dedupe(sorted))
}

/// Drops paths below the path before them; `None` when one of them is the root.
pub(crate) fn dedupe(paths: Vec<String>) -> Option<Vec<String>> {
    let mut out: Vec<String> = Vec::with_capacity(paths.len());
    for path in paths {
        if path == "." {
            return None;
        }
        let below = out.last().is_some_and(|last| {
            path.strip_prefix(last.as_str())
                .is_some_and(|r| r.starts_with('/'))
        });
        if !below {
            out.push(path);
        }
    }
    Some(out)
}

struct Follower<'a> {
    root: &'a Root,
    resolved: BTreeSet<Vec<u8>>,
}

impl Follower<'_> {
    fn follow(&mut self, path: &[u8]) -> Result<(), FsError> {
        let path = gopath::absolute(path);
        if path == b"/" {
            self.resolved.insert(b".".to_vec());
            return Ok(());
        }
        let mut current: Vec<u8> = Vec::new();
        let mut rest = path.get(1..).unwrap_or_default();
        loop {
            let (part, after) = match rest.iter().position(|b| *b == b'/') {
                Some(at) => (&rest[..at], &rest[at + 1..]),
                None => (rest, &rest[rest.len()..]),
            };
            if !current.is_empty() {
                current.push(b'/');
            }
            current.extend_from_slice(part);
            rest = after;
            let targets = self.targets(&current)?;
            if targets.is_empty() && !rest.is_empty() {
                continue;
            }
            // Links met before are not followed again: circles end here.
            if !self.resolved.insert(current) {
                return Ok(());
            }
            for target in targets {
                self.follow(&gopath::join(&target, rest))?;
            }
            return Ok(());
        }
    }

    /// Where a path leads if it is a link, or where all links lead that a wildcard matches.
    fn targets(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, FsError> {
        let name = gopath::base(path);
        if !has_wildcard(name) {
            return Ok(self.target(path)?.into_iter().collect());
        }
        let glob = match Glob::new(name) {
            Ok(glob) => glob,
            Err(PatternError::Syntax) => return Ok(Vec::new()),
            Err(over_limit) => return Err(over_limit.into()),
        };
        let parent = gopath::dir(path);
        let fd = match self.root.open_dir(&parent) {
            Ok(fd) => fd,
            Err(errno) if is_missing(errno) => return Ok(Vec::new()),
            Err(errno) => return Err(FsError::path("open", &parent, errno)),
        };
        let names = read_dir(fd.as_fd()).map_err(|errno| FsError::path("open", &parent, errno))?;
        let mut out = Vec::new();
        for (name, kind) in names {
            if kind == FileType::Symlink && glob.matches(&name)? {
                out.extend(self.target(&gopath::join(&parent, &name))?);
            }
        }
        Ok(out)
    }

    fn target(&self, path: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        match self.root.read_link(path) {
            Ok(target) if target.starts_with(b"/") => Ok(Some(gopath::absolute(&target))),
            Ok(target) => {
                let below = gopath::join(&gopath::dir(path), &target);
                Ok(Some(gopath::absolute(&below)))
            }
            // `EINVAL`: not a link.
            Err(errno) if is_missing(errno) || errno == Errno::INVAL => Ok(None),
            Err(errno) => Err(FsError::path("readlink", path, errno)),
        }
    }
}

fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn followed(links: &[(&str, &str)], paths: &[&str]) -> Option<Vec<String>> {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("dir/sub")).expect("made");
        for (link, target) in links {
            symlink(target, dir.path().join(link)).expect("linked");
        }
        let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
        let root = Root::open(dir.path()).expect("opens");
        follow_paths(&root, &paths).expect("follows")
    }

    fn list(paths: &[&str]) -> Option<Vec<String>> {
        Some(paths.iter().map(|p| (*p).to_owned()).collect())
    }

    #[test]
    fn links_and_their_targets_are_both_needed() {
        let links = [("l", "dir"), ("abs", "/dir/sub"), ("dir/up", "../../../x")];
        assert_eq!(followed(&links, &["l/file"]), list(&["dir/file", "l"]));
        assert_eq!(followed(&links, &["/abs"]), list(&["abs", "dir/sub"]));
        assert_eq!(followed(&links, &["dir/up"]), list(&["dir/up", "x"]));
        assert_eq!(followed(&links, &["l/up/y"]), list(&["dir/up", "l", "x/y"]));
    }

    #[test]
    fn plain_and_missing_paths_stay_and_nested_ones_are_dropped() {
        assert_eq!(
            followed(&[], &["dir/sub", "dir", "no/thing"]),
            list(&["dir", "no/thing"])
        );
        assert_eq!(followed(&[], &["dir", "/"]), None);
        assert_eq!(followed(&[], &["."]), None);
        assert_eq!(followed(&[], &[]), list(&[]));
    }

    #[test]
    fn wildcards_follow_the_links_they_match() {
        let links = [("l1", "dir/sub"), ("l2", "l1")];
        assert_eq!(followed(&links, &["l*"]), list(&["dir/sub", "l*", "l1"]));
        assert_eq!(followed(&links, &["d*/x"]), list(&["d*/x"]));
    }

    #[test]
    fn circles_end() {
        let links = [("a", "b"), ("b", "a"), ("self", "self/x")];
        assert_eq!(followed(&links, &["a", "self"]), list(&["a", "b", "self"]));
    }
}
