//! A directory as the hasher sees it: nodes that are read from disk when first asked for, and
//! digests that are computed once.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::pool::{self, Job, Reader};
use crate::fs::digest::ContentDigest;
use crate::fs::error::FsError;
use crate::fs::gopath;
use crate::fs::meta::{CompactMeta, Meta};
use crate::fs::root::{Root, read_dir};
use crate::fs::walk::Entry;

/// Symbolic links followed on one path; the reference's limit.
const MAX_LINKS: u32 = 255;

/// Number of a node. Of more than four thousand million files the hashes do not fit into memory.
pub(super) type NodeId = u32;

/// The root directory's node.
pub(super) const ROOT: NodeId = 0;

/// One file. There may be hundreds of thousands, so it is small: names lie one behind the other in
/// [`Tree::names`], and what only links and directories have is kept apart.
#[derive(Debug)]
struct Node {
    meta: CompactMeta,
    parent: NodeId,
    name: u32,
    name_length: u16,
    hashed: bool,
    /// If `hashed`: the file itself, its metadata and a regular file's content.
    own: ContentDigest,
    /// Of a link or a directory: its place in [`Tree::links`] or [`Tree::dirs`].
    more: u32,
}

#[derive(Debug, Default)]
struct Dir {
    /// What is in it, in byte order; `None` until it has been read.
    children: Option<Vec<NodeId>>,
    /// It with all that is in it.
    whole: Option<ContentDigest>,
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    names: Vec<u8>,
    links: Vec<Box<[u8]>>,
    dirs: Vec<Dir>,
    /// A local source: files are root's, and the root directory has no header.
    local: bool,
}

/// A tree of a local source that is being walked, parents before children.
#[derive(Debug)]
pub(super) struct Growing {
    tree: Tree,
    /// The directories on the way to the entry before.
    open: Vec<(Vec<u8>, NodeId)>,
}

impl Growing {
    pub(super) fn new(root: &Root) -> Result<Self, FsError> {
        let mut tree = Tree::lazy(root, true)?;
        tree.set_children(ROOT, Vec::new());
        Ok(Self {
            tree,
            open: Vec::new(),
        })
    }

    pub(super) fn push(&mut self, entry: Entry) -> Result<(), FsError> {
        let (dir, name) = gopath::split(&entry.path);
        let dir = dir.strip_suffix(b"/").unwrap_or(dir);
        while self.open.last().is_some_and(|(path, _)| path != dir) {
            self.open.pop();
        }
        let parent = self.open.last().map_or(ROOT, |(_, node)| *node);
        let id = self.tree.add(parent, name, &entry.meta, entry.target)?;
        if let Some(children) = self.tree.children_mut(parent) {
            children.push(id);
        }
        if entry.meta.is_dir() {
            self.tree.set_children(id, Vec::new());
            self.open.push((entry.path, id));
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Tree {
        self.tree.nodes.shrink_to_fit();
        self.tree.names.shrink_to_fit();
        self.tree
    }
}

fn at(id: NodeId) -> usize {
    id as usize
}

fn number(length: usize) -> Result<u32, FsError> {
    u32::try_from(length).map_err(|_| FsError::Invalid("too many files to be hashed".into()))
}

impl Tree {
    /// A tree that reads directories when they are needed.
    pub(super) fn lazy(root: &Root, local: bool) -> Result<Self, FsError> {
        let meta = Meta::of_fd(root.fd()).map_err(|errno| FsError::path("lstat", "/", errno))?;
        let mut tree = Self {
            nodes: Vec::new(),
            names: Vec::new(),
            links: Vec::new(),
            dirs: Vec::new(),
            local: false,
        };
        tree.add(ROOT, b"", &meta, None)?;
        tree.local = local;
        if local {
            tree.set_own(ROOT, ContentDigest::of(b""));
        }
        Ok(tree)
    }

    fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        meta: &Meta,
        target: Option<Vec<u8>>,
    ) -> Result<NodeId, FsError> {
        let mut meta = *meta;
        if self.local {
            meta.uid = 0;
            meta.gid = 0;
        }
        let more = match target {
            Some(target) => {
                self.links.push(target.into());
                number(self.links.len())? - 1
            }
            None if meta.is_dir() => {
                self.dirs.push(Dir::default());
                number(self.dirs.len())? - 1
            }
            None => u32::MAX,
        };
        let node = Node {
            meta: CompactMeta::from(&meta),
            parent,
            name: number(self.names.len())?,
            name_length: u16::try_from(name.len())
                .map_err(|_| FsError::path("open", name, Errno::NAMETOOLONG))?,
            hashed: false,
            own: ContentDigest([0; 32]),
            more,
        };
        self.names.extend_from_slice(name);
        self.nodes.push(node);
        Ok(number(self.nodes.len())? - 1)
    }

    pub(super) fn meta(&self, id: NodeId) -> Meta {
        self.nodes[at(id)].meta.meta()
    }

    pub(super) fn is_dir(&self, id: NodeId) -> bool {
        self.nodes[at(id)].meta.is_dir()
    }

    /// A symbolic link's text.
    pub(super) fn target(&self, id: NodeId) -> Option<&[u8]> {
        match self.is_dir(id) {
            true => None,
            false => self.links.get(at(self.nodes[at(id)].more)).map(|l| &**l),
        }
    }

    fn dir(&self, id: NodeId) -> Option<&Dir> {
        match self.is_dir(id) {
            true => self.dirs.get(at(self.nodes[at(id)].more)),
            false => None,
        }
    }

    fn dir_mut(&mut self, id: NodeId) -> Option<&mut Dir> {
        match self.is_dir(id) {
            true => self.dirs.get_mut(at(self.nodes[at(id)].more)),
            false => None,
        }
    }

    fn known_children(&self, id: NodeId) -> Option<&[NodeId]> {
        self.dir(id)?.children.as_deref()
    }

    fn children_mut(&mut self, id: NodeId) -> Option<&mut Vec<NodeId>> {
        self.dir_mut(id)?.children.as_mut()
    }

    fn set_children(&mut self, id: NodeId, children: Vec<NodeId>) {
        if let Some(dir) = self.dir_mut(id) {
            dir.children = Some(children);
        }
    }

    fn whole(&self, id: NodeId) -> Option<ContentDigest> {
        self.dir(id)?.whole
    }

    fn known(&self, id: NodeId) -> Option<ContentDigest> {
        let node = &self.nodes[at(id)];
        node.hashed.then_some(node.own)
    }

    fn set_own(&mut self, id: NodeId, digest: ContentDigest) {
        let node = &mut self.nodes[at(id)];
        node.hashed = true;
        node.own = digest;
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        let node = &self.nodes[at(id)];
        let start = at(node.name);
        &self.names[start..start + usize::from(node.name_length)]
    }

    /// All that has been read of the directory in the order in which it was, by path below the
    /// root, the root left out.
    pub(super) fn each(&self, visit: &mut dyn FnMut(&[u8], &Meta)) {
        let mut path: Vec<u8> = Vec::new();
        // The directories on the way down, with the length of their paths.
        let mut open: Vec<(NodeId, usize)> = Vec::new();
        for (id, node) in (ROOT..).zip(&self.nodes).skip(1) {
            while open.last().is_some_and(|(dir, _)| *dir != node.parent) {
                open.pop();
            }
            match open.last() {
                Some((_, length)) => path.truncate(*length),
                None if node.parent == ROOT => path.clear(),
                // Read later than what is beside it.
                None => {
                    let parent = self.path(node.parent);
                    path.clear();
                    path.extend_from_slice(parent.get(1..).unwrap_or_default());
                }
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(self.name(id));
            if node.meta.is_dir() {
                open.push((id, path.len()));
            }
            visit(&path, &node.meta.meta());
        }
    }

    /// The node of a path below the root, as far as it has been read; links are not followed.
    fn find(&self, path: &[u8]) -> Option<NodeId> {
        let mut here = ROOT;
        for name in gopath::components(path) {
            let children = self.known_children(here)?;
            let index = children.binary_search_by(|child| self.name(*child).cmp(name));
            here = *children.get(index.ok()?)?;
        }
        Some(here)
    }

    /// The stat of a path below the root, if it has been read.
    pub(super) fn known_meta(&self, path: &[u8]) -> Option<Meta> {
        Some(self.meta(self.find(path)?))
    }

    /// The digest of a file alone, if it has been computed.
    pub(super) fn known_own(&self, path: &[u8]) -> Option<ContentDigest> {
        self.known(self.find(path)?)
    }

    /// The absolute path of a node.
    pub(super) fn path(&self, id: NodeId) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut here = id;
        while here != ROOT {
            names.push(self.name(here));
            here = self.nodes[at(here)].parent;
        }
        names.push(b"");
        names.reverse();
        names.join(&b'/')
    }

    /// What is in a directory; nothing if it is none.
    pub(super) fn children(&mut self, root: &Root, id: NodeId) -> Result<Vec<NodeId>, FsError> {
        self.read(root, id)?;
        Ok(self.known_children(id).unwrap_or_default().to_vec())
    }

    /// Reads a directory that has not been read.
    fn read(&mut self, root: &Root, id: NodeId) -> Result<(), FsError> {
        if !self.is_dir(id) || self.known_children(id).is_some() {
            return Ok(());
        }
        let path = self.path(id);
        let failed = |errno| {
            FsError::path("open", &path, errno)
                .context(format!("failed to walk {}", crate::fs::error::lossy(&path)))
        };
        let mut children = Vec::new();
        let dir = root.open_dir(&path).map_err(failed)?;
        for (name, _) in read_dir(dir.as_fd()).map_err(failed)? {
            let meta = Meta::of(dir.as_fd(), &name).map_err(failed)?;
            let mut target = None;
            if meta.is_symlink() {
                let name = OsStr::from_bytes(&name);
                let text = rustix::fs::readlinkat(&dir, name, Vec::new()).map_err(failed)?;
                target = Some(text.into_bytes());
            }
            children.push(self.add(id, &name, &meta, target)?);
        }
        self.set_children(id, children);
        Ok(())
    }

    fn child(&mut self, root: &Root, id: NodeId, name: &[u8]) -> Result<Option<NodeId>, FsError> {
        self.read(root, id)?;
        let children = self.known_children(id).unwrap_or_default();
        let found = children.binary_search_by(|child| self.name(*child).cmp(name));
        Ok(found.ok().and_then(|found| children.get(found).copied()))
    }

    /// Looks a path up, links on it followed inside the root; one at its end only if asked.
    pub(super) fn resolve(
        &mut self,
        root: &Root,
        path: &[u8],
        follow_last: bool,
    ) -> Result<Option<NodeId>, FsError> {
        let mut links = 0;
        let mut pending: Vec<Vec<u8>> = parts_reversed(path);
        let mut current: Vec<Option<NodeId>> = vec![Some(ROOT)];
        while let Some(part) = pending.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if current.len() > 1 {
                        current.pop();
                    }
                    continue;
                }
                name => {
                    let found = match current.last().copied().flatten() {
                        Some(dir) => self.child(root, dir, name)?,
                        None => None,
                    };
                    current.push(found);
                }
            }
            let Some(target) = current
                .last()
                .copied()
                .flatten()
                .and_then(|id| self.target(id).map(<[u8]>::to_vec))
            else {
                continue;
            };
            if !follow_last && pending.is_empty() {
                break;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(FsError::TooManyLinks);
            }
            current.pop();
            if target.starts_with(b"/") {
                current.truncate(1);
            }
            pending.extend(parts_reversed(&target));
        }
        Ok(current.last().copied().flatten())
    }

    /// The digest of a node alone. [`Tree::hash_own`] must have seen it.
    pub(super) fn own(&self, id: NodeId) -> Result<ContentDigest, FsError> {
        self.known(id)
            .ok_or_else(|| FsError::Invalid("a file was not hashed".into()))
    }

    /// Hashes nodes alone, as far as they have not been.
    pub(super) fn hash_own(&mut self, ids: &[NodeId], reader: &Reader<'_>) -> Result<(), FsError> {
        let mut todo: Vec<NodeId> = Vec::new();
        for &id in ids {
            if self.known(id).is_some() {
                continue;
            }
            // Nearly every file of an unchanged directory is found here, without its path.
            match reader.known(&self.meta(id)) {
                Some(digest) => self.set_own(id, digest),
                None => todo.push(id),
            }
        }
        let tree = &*self;
        let digests = pool::hash(reader, todo.len(), &|i| {
            let id = todo.get(i).copied().unwrap_or(ROOT);
            Job {
                path: tree.path(id),
                meta: tree.meta(id),
                target: tree.target(id),
                local: tree.local,
            }
        })?;
        for (id, digest) in todo.into_iter().zip(digests) {
            self.set_own(id, digest);
        }
        Ok(())
    }

    /// The digest of a node with all that is in it.
    pub(super) fn hash_whole(
        &mut self,
        id: NodeId,
        reader: &Reader<'_>,
    ) -> Result<ContentDigest, FsError> {
        // Parents come before their children here, so the list backwards is the order in
        // which directories can be summed up.
        let mut order = vec![id];
        let mut next = 0;
        while let Some(&id) = order.get(next) {
            next += 1;
            if self.whole(id).is_none() {
                self.read(reader.root, id)?;
                order.extend(self.known_children(id).unwrap_or_default());
            }
        }
        self.hash_own(&order, reader)?;
        for &id in order.iter().rev() {
            if self.is_dir(id) && self.whole(id).is_none() {
                let sum = self.sum(id)?;
                if let Some(dir) = self.dir_mut(id) {
                    dir.whole = Some(sum);
                }
            }
        }
        self.digest(id)
    }

    fn digest(&self, id: NodeId) -> Result<ContentDigest, FsError> {
        match self.whole(id) {
            Some(digest) => Ok(digest),
            None => self.own(id),
        }
    }

    /// A directory's record list: its own header, then each child by its key.
    fn sum(&self, id: NodeId) -> Result<ContentDigest, FsError> {
        let mut hasher = Sha256::new();
        hasher.update(b"\0");
        hasher.update(self.own(id)?.text());
        for &child in self.known_children(id).unwrap_or_default() {
            hasher.update(b"\0");
            hasher.update(self.name(child));
            hasher.update(self.digest(child)?.text());
        }
        Ok(ContentDigest::finish(hasher))
    }
}

fn parts_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    // Empty parts matter: behind a link a slash means that the link is followed.
    let mut parts: Vec<Vec<u8>> = path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
}
