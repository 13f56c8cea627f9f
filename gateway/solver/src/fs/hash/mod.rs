//! Content hashes: digests of a path, a tree or a choice of files that are the same wherever
//! the content is, and the same as BuildKit's. They are what cache keys of copies and mounts
//! are made of.
//!
//! A [`ContentHasher`] belongs to one directory that does not change while it is hashed (a
//! change that is noticed is an error, never a wrong digest). It remembers what it has read,
//! so a second question costs little.

mod header;
mod pool;
mod select;
mod tree;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::pool::Reader;
use self::tree::{Growing, Tree};
pub use super::digest::ContentDigest;
use super::error::{FsError, lossy};
use super::gopath;
use super::meta::{Meta, Xattrs};
use super::root::Root;
use super::visible::{Visible, Walked};
use super::walk::{self, Filter};

/// What to hash of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// The path, or a pattern.
    pub path: String,
    /// How to read it.
    pub options: ChecksumOptions,
}

/// How a path chooses content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChecksumOptions {
    /// The path is a pattern.
    pub wildcard: bool,
    /// A link at the end of the path counts as what it leads to.
    pub follow_links: bool,
    /// Only what matches, relative to the path; empty for all.
    pub include: Vec<String>,
    /// Not what matches.
    pub exclude: Vec<String>,
    /// Paths that must be among what is chosen.
    pub required: Vec<String>,
}

/// A file's stat, as a cache of digests knows it again. A change of content, mode, owner or
/// attributes changes at least the change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatKey {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds.
    pub mtime: i128,
    /// Change time, nanoseconds.
    pub ctime: i128,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner as it is hashed: 0 in a local source, whoever has the file on disk.
    pub uid: u32,
    /// Group as it is hashed.
    pub gid: u32,
}

impl std::hash::Hash for StatKey {
    /// Inode numbers are as good as distinct.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.ino);
    }
}

impl StatKey {
    fn of(meta: &Meta) -> Self {
        Self {
            dev: meta.dev,
            ino: meta.ino,
            size: meta.size,
            mtime: meta.mtime,
            ctime: meta.ctime,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
        }
    }
}

/// Digests of files by their stat, kept from build to build. It must not keep files that had just
/// changed when they were read (git's rule for racy times, [`settled_at`]).
///
/// [`settled_at`]: super::walk::settled_at
pub trait HashCache: Send + Sync {
    /// The digest of a regular file with this stat, if it is known.
    fn get(&self, key: &StatKey) -> Option<ContentDigest>;
    /// Remembers a digest. The reading began at `began`, nanoseconds since the epoch.
    fn put(&self, key: StatKey, digest: ContentDigest, began: i128);
}

/// How to hash.
#[derive(Clone, Default)]
pub struct HashOptions {
    /// Digests known from before.
    pub cache: Option<Arc<dyn HashCache>>,
    /// Threads at most; 0 for one per core.
    pub threads: usize,
    /// Stop soon after this becomes true.
    pub cancel: Option<Arc<AtomicBool>>,
    /// Files are never written to, only replaced by others with another stat: what was read shortly after a change
    /// is as good as anything (see [`HashCache`]).
    pub still: bool,
}

/// The time from which on stats of files that nobody writes to tell all: any.
const ALWAYS: i128 = i128::MAX;

/// The content hashes of one directory.
pub struct ContentHasher {
    root: Root,
    tree: Arc<Mutex<Tree>>,
    options: HashOptions,
    /// When the walk of a local source began, nanoseconds since the epoch.
    walked: i128,
    /// The root directory before the walk.
    top: Option<Meta>,
}

impl ContentHasher {
    /// Of a result: a merged view, or a plain directory with owners that count.
    pub fn snapshot(root: Root, options: HashOptions) -> Result<Self, FsError> {
        let tree = Tree::lazy(&root, false)?;
        Ok(Self::new(root, tree, options))
    }

    /// Of a local source that has been copied (see [`super::local`]): everything belongs to
    /// root, and the root directory's own mode does not count.
    pub fn local_copy(root: Root, options: HashOptions) -> Result<Self, FsError> {
        let tree = Tree::lazy(&root, true)?;
        Ok(Self::new(root, tree, options))
    }

    /// Of a local source in place, seen through its filter.
    pub fn local(root: Root, filter: &Filter, options: HashOptions) -> Result<Self, FsError> {
        let walked = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
        let top = Meta::of_fd(root.fd()).map_err(|errno| FsError::path("lstat", "/", errno))?;
        let mut tree = Growing::new(&root)?;
        walk::walk(&root, filter, &mut |entry| tree.push(entry))?;
        let mut hasher = Self::new(root, tree.finish(), options);
        hasher.walked = walked;
        hasher.top = Some(top);
        Ok(hasher)
    }

    fn new(root: Root, tree: Tree, options: HashOptions) -> Self {
        Self {
            root,
            tree: Arc::new(Mutex::new(tree)),
            options,
            walked: time::OffsetDateTime::now_utc().unix_timestamp_nanos(),
            top: None,
        }
    }

    /// What was walked of a local source, for copying from it in place: every file must still be
    /// what was hashed.
    pub fn visible(&self) -> Visible {
        let tree = self.tree.clone();
        let digests = move |path: &[u8]| lock(&tree).known_own(path);
        let walked = WalkedTree {
            tree: self.tree.clone(),
            top: self.top,
        };
        let since = if self.options.still {
            ALWAYS
        } else {
            self.walked
        };
        Visible::of_walk(Arc::new(walked)).unchanged_since(since, Arc::new(digests))
    }

    /// The digest of a path (its whole content, if it is a directory) or of what a pattern
    /// and filters choose. A plain path that does not exist is an error.
    pub fn checksum(
        &self,
        path: &str,
        options: &ChecksumOptions,
    ) -> Result<ContentDigest, FsError> {
        let path = gopath::absolute(path.as_bytes());
        let mut tree = lock(&self.tree);
        let reader = self.reader();
        if !options.wildcard && options.include.is_empty() && options.exclude.is_empty() {
            return whole(&mut tree, &path, options.follow_links, &reader);
        }
        let selection = select::select(&mut tree, &self.root, &path, options)?;
        let nodes: Vec<_> = selection.chosen.iter().map(|c| c.node).collect();
        tree.hash_own(&nodes, &reader)?;
        let mut digests = Vec::with_capacity(selection.chosen.len());
        for chosen in &selection.chosen {
            digests.push(if chosen.follow && tree.target(chosen.node).is_some() {
                whole(&mut tree, &chosen.path, true, &reader)?
            } else {
                tree.own(chosen.node)?
            });
        }
        Ok(select::sum(&selection, &digests, &path))
    }

    /// The digest of several choices together, in their order: what a cache key takes. No
    /// selector at all means the whole tree.
    pub fn checksum_all(&self, selectors: &[Selector]) -> Result<ContentDigest, FsError> {
        let everything = [Selector::default()];
        let selectors = if selectors.is_empty() {
            &everything
        } else {
            selectors
        };
        let digests = selectors
            .iter()
            .map(|s| self.checksum(&s.path, &s.options))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(combine(&digests))
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            root: &self.root,
            cache: self.options.cache.as_deref(),
            threads: self.options.threads,
            cancel: self.options.cancel.as_deref(),
            still: self.options.still,
        }
    }
}

/// What was walked, for who copies it.
struct WalkedTree {
    tree: Arc<Mutex<Tree>>,
    top: Option<Meta>,
}

impl Walked for WalkedTree {
    fn meta(&self, path: &[u8]) -> Option<Meta> {
        match path {
            // The tree's own was looked at by another call, or not at all.
            [] => self.top,
            path => lock(&self.tree).known_meta(path),
        }
    }

    fn each(&self, visit: &mut dyn FnMut(&[u8], &Meta)) {
        lock(&self.tree).each(visit);
    }
}

fn lock(tree: &Mutex<Tree>) -> MutexGuard<'_, Tree> {
    // Digests are put in whole; what is missing is computed again.
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The digest of a local source's regular file alone, from its stat, attributes and content.
pub fn of_local_file(
    meta: &Meta,
    xattrs: &Xattrs,
    content: impl std::io::Read,
) -> std::io::Result<ContentDigest> {
    let meta = Meta {
        uid: 0,
        gid: 0,
        ..*meta
    };
    let header = header::Header {
        meta: &meta,
        target: None,
        xattrs,
        device: (0, 0),
    };
    let mut hasher = header.hasher();
    header::feed(&mut hasher, content, &mut vec![0; 64 * 1024])?;
    Ok(ContentDigest::finish(hasher))
}

fn whole(
    tree: &mut Tree,
    path: &[u8],
    follow: bool,
    reader: &Reader<'_>,
) -> Result<ContentDigest, FsError> {
    match tree.resolve(reader.root, path, follow)? {
        Some(node) => tree.hash_whole(node, reader),
        None => Err(FsError::NotFound(lossy(path))),
    }
}

/// The digest of digests.
pub fn combine(digests: &[ContentDigest]) -> ContentDigest {
    let texts: Vec<_> = digests.iter().map(ContentDigest::text).collect();
    let texts: Vec<&[u8]> = texts.iter().map(<[u8; _]>::as_slice).collect();
    ContentDigest::of(&texts.join(&0))
}

/// The digest of several choices of an empty result, which has no directory at all.
pub fn checksum_all_of_nothing(selectors: &[Selector]) -> Result<ContentDigest, FsError> {
    for selector in selectors {
        let path = gopath::absolute(selector.path.as_bytes());
        if path != b"/" {
            let text = format!("{}: no such file or directory", lossy(&path));
            return Err(FsError::Invalid(text));
        }
    }
    let count = selectors.len().max(1);
    Ok(combine(&vec![ContentDigest::of(b""); count]))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
