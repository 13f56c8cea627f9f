//! A directory as the hasher sees it: nodes that are read from disk when first asked for, and
//! digests that are computed once.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use sha2::{Digest as _, Sha256};

use super::header::ContentDigest;
use super::pool::{self, Job, Reader};
use crate::fs::error::FsError;
use crate::fs::gopath;
use crate::fs::meta::Meta;
use crate::fs::root::{Root, read_dir};
use crate::fs::walk::Entry;

/// Symbolic links followed on one path; the reference's limit.
const MAX_LINKS: u32 = 255;

/// Index of a node.
pub(super) type NodeId = usize;

/// The root directory's node.
pub(super) const ROOT: NodeId = 0;

#[derive(Debug)]
pub(super) struct Node {
    parent: NodeId,
    name: Box<[u8]>,
    pub meta: Meta,
    /// A symbolic link's text.
    pub target: Option<Box<[u8]>>,
    /// What is in a directory, in byte order; `None` until it has been read.
    children: Option<Vec<NodeId>>,
    /// The file itself: metadata, and a regular file's content.
    own: Option<ContentDigest>,
    /// A directory with all that is in it.
    whole: Option<ContentDigest>,
}

impl Node {
    fn new(parent: NodeId, name: &[u8], meta: Meta, target: Option<Vec<u8>>) -> Self {
        Self {
            parent,
            name: name.into(),
            meta,
            target: target.map(Vec::into_boxed_slice),
            children: None,
            own: None,
            whole: None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// A local source: files are root's, and the root directory has no header.
    local: bool,
}

impl Tree {
    /// A tree that reads directories when they are needed.
    pub(super) fn lazy(root: &Root, local: bool) -> Result<Self, FsError> {
        let meta = Meta::of_fd(root.fd()).map_err(|errno| FsError::path("lstat", "/", errno))?;
        let mut node = Node::new(ROOT, b"", meta, None);
        if local {
            node.own = Some(ContentDigest::of(b""));
        }
        Ok(Self {
            nodes: vec![node],
            local,
        })
    }

    /// The tree of a local source's entries, parents before children.
    pub(super) fn of_entries(root: &Root, entries: Vec<Entry>) -> Result<Self, FsError> {
        let mut tree = Self::lazy(root, true)?;
        tree.nodes[ROOT].children = Some(Vec::new());
        // The directories on the way to the entry before.
        let mut open: Vec<(Vec<u8>, NodeId)> = Vec::new();
        for entry in entries {
            let (dir, name) = gopath::split(&entry.path);
            let dir = dir.strip_suffix(b"/").unwrap_or(dir);
            while open.last().is_some_and(|(path, _)| path != dir) {
                open.pop();
            }
            let parent = open.last().map_or(ROOT, |(_, node)| *node);
            let id = tree.add(parent, name, entry.meta, entry.target);
            if entry.meta.is_dir() {
                tree.nodes[id].children = Some(Vec::new());
                open.push((entry.path, id));
            }
            tree.nodes[parent].children.get_or_insert_default().push(id);
        }
        Ok(tree)
    }

    fn add(&mut self, parent: NodeId, name: &[u8], meta: Meta, target: Option<Vec<u8>>) -> NodeId {
        let mut meta = meta;
        if self.local {
            meta.uid = 0;
            meta.gid = 0;
        }
        self.nodes.push(Node::new(parent, name, meta, target));
        self.nodes.len() - 1
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        &self.nodes[id].name
    }

    /// All that has been read of the directory, by path below the root.
    pub(super) fn paths(&self) -> Vec<(Vec<u8>, Meta)> {
        let mut paths: Vec<(Vec<u8>, Meta)> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let path = match paths.get(node.parent) {
                Some((parent, _)) if !parent.is_empty() => {
                    [parent.as_slice(), b"/", &node.name].concat()
                }
                _ => node.name.to_vec(),
            };
            paths.push((path, node.meta));
        }
        // The root itself has no path.
        paths.split_off(1.min(paths.len()))
    }

    /// The digest of a file alone, if it has been computed.
    pub(super) fn known_own(&self, path: &[u8]) -> Option<ContentDigest> {
        let mut at = ROOT;
        for name in gopath::components(path) {
            let children = self.nodes[at].children.as_ref()?;
            let index = children.binary_search_by(|child| self.name(*child).cmp(name));
            at = *children.get(index.ok()?)?;
        }
        self.nodes[at].own
    }

    /// The absolute path of a node.
    fn path(&self, id: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            let node = &self.nodes[at];
            names.push(node.name.as_ref());
            at = node.parent;
        }
        names.push(b"");
        names.reverse();
        names.join(&b'/')
    }

    /// What is in a directory; nothing if it is none.
    pub(super) fn children(&mut self, root: &Root, id: NodeId) -> Result<Vec<NodeId>, FsError> {
        if let Some(children) = &self.nodes[id].children {
            return Ok(children.clone());
        }
        let mut children = Vec::new();
        if self.nodes[id].meta.is_dir() {
            let path = self.path(id);
            let failed = |errno| {
                FsError::path("open", &path, errno)
                    .context(format!("failed to walk {}", crate::fs::error::lossy(&path)))
            };
            let dir = root.open_dir(&path).map_err(failed)?;
            for (name, _) in read_dir(dir.as_fd()).map_err(failed)? {
                let meta = Meta::of(dir.as_fd(), &name).map_err(failed)?;
                let mut target = None;
                if meta.is_symlink() {
                    let name = OsStr::from_bytes(&name);
                    let text = rustix::fs::readlinkat(&dir, name, Vec::new()).map_err(failed)?;
                    target = Some(text.into_bytes());
                }
                children.push(self.add(id, &name, meta, target));
            }
        }
        self.nodes[id].children = Some(children.clone());
        Ok(children)
    }

    fn child(&mut self, root: &Root, id: NodeId, name: &[u8]) -> Result<Option<NodeId>, FsError> {
        let children = self.children(root, id)?;
        let at = children.binary_search_by(|child| self.name(*child).cmp(name));
        Ok(at.ok().and_then(|at| children.get(at).copied()))
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
                .and_then(|id| self.nodes[id].target.clone())
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
        self.nodes[id]
            .own
            .ok_or_else(|| FsError::Invalid("a file was not hashed".into()))
    }

    /// Hashes nodes alone, as far as they have not been.
    pub(super) fn hash_own(&mut self, ids: &[NodeId], reader: &Reader<'_>) -> Result<(), FsError> {
        let todo: Vec<NodeId> = ids
            .iter()
            .copied()
            .filter(|id| self.nodes[*id].own.is_none())
            .collect();
        let tree = &*self;
        let digests = pool::hash(reader, todo.len(), &|i| {
            let id = todo.get(i).copied().unwrap_or(ROOT);
            let node = tree.node(id);
            Job {
                path: tree.path(id),
                meta: node.meta,
                target: node.target.as_deref(),
                local: tree.local,
            }
        })?;
        for (id, digest) in todo.into_iter().zip(digests) {
            self.nodes[id].own = Some(digest);
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
        let mut at = 0;
        while let Some(&next) = order.get(at) {
            at += 1;
            if self.nodes[next].whole.is_none() {
                order.extend(self.children(reader.root, next)?);
            }
        }
        self.hash_own(&order, reader)?;
        for &next in order.iter().rev() {
            if self.nodes[next].meta.is_dir() && self.nodes[next].whole.is_none() {
                self.nodes[next].whole = Some(self.sum(next)?);
            }
        }
        self.digest(id)
    }

    fn digest(&self, id: NodeId) -> Result<ContentDigest, FsError> {
        match self.nodes[id].whole {
            Some(digest) => Ok(digest),
            None => self.own(id),
        }
    }

    /// A directory's record list: its own header, then each child by its key.
    fn sum(&self, id: NodeId) -> Result<ContentDigest, FsError> {
        let mut hasher = Sha256::new();
        hasher.update(b"\0");
        hasher.update(self.own(id)?.text());
        for &child in self.nodes[id].children.iter().flatten() {
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
