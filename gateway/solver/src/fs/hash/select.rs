//! The part of a tree that a wildcard or patterns choose, for its digest: an ordered list of
//! files and directory headers, with the headers of their parents.

use super::tree::{NodeId, ROOT, Tree};
use super::{ChecksumOptions, ContentDigest};
use crate::fs::error::FsError;
use crate::fs::glob::{Glob, split_wildcard};
use crate::fs::gopath;
use crate::fs::pattern::{MatchInfo, PatternMatcher};
use crate::fs::root::Root;
use crate::fs::walk::matcher;

/// One chosen entry.
#[derive(Debug)]
pub(super) struct Chosen {
    /// Path as the request spells it (its links unresolved); empty for the root.
    pub path: Vec<u8>,
    pub node: NodeId,
    /// If it is a link, what it leads to counts instead.
    pub follow: bool,
}

/// What was chosen, and the literal start of all paths.
#[derive(Debug)]
pub(super) struct Selection {
    pub prefix: Vec<u8>,
    pub chosen: Vec<Chosen>,
}

/// Chooses. `path` is absolute and clean.
pub(super) fn select(
    tree: &mut Tree,
    root: &Root,
    path: &[u8],
    options: &ChecksumOptions,
) -> Result<Selection, FsError> {
    // The root's path is the empty one here, and its own header is left out.
    let path = if path == b"/" { b"" } else { path };
    let mut selector = Selector {
        tree,
        root,
        path,
        glob: None,
        flat: !path.iter().any(|b| matches!(b, b'[' | b'\\')),
        include: matcher("include", &options.include)?,
        exclude: matcher("exclude", &options.exclude)?,
        follow: options.follow_links,
        parents: Vec::new(),
        chosen: Vec::new(),
    };
    let (prefix, start) = if options.wildcard {
        selector.glob = Some(Glob::new(path)?);
        let (literal, pattern) = split_wildcard(path);
        if literal == b"/" {
            (Vec::new(), Some(ROOT))
        } else {
            let start = selector.tree.resolve(root, &literal, !pattern.is_empty())?;
            (literal, start)
        }
    } else {
        (path.to_vec(), selector.tree.resolve(root, path, false)?)
    };
    if let Some(start) = start {
        selector.visit(start, prefix.clone(), None)?;
    }
    let chosen = selector.chosen;
    for required in &options.required {
        let found = chosen
            .iter()
            .any(|c| c.path.starts_with(required.as_bytes()));
        if !found {
            return Err(FsError::NotFound(required.clone()));
        }
    }
    Ok(Selection { prefix, chosen })
}

/// The key of an entry in a digest: its path with other separators.
pub(super) fn key(path: &[u8], prefix: &[u8]) -> Vec<u8> {
    let below = path.strip_prefix(prefix).unwrap_or(path);
    if below.is_empty() {
        return vec![0];
    }
    below
        .iter()
        .map(|b| if *b == b'/' { 0 } else { *b })
        .collect()
}

/// The digest of chosen entries, their own digests given in their order.
pub(super) fn sum(selection: &Selection, digests: &[ContentDigest], path: &[u8]) -> ContentDigest {
    match (selection.chosen.as_slice(), digests) {
        ([], _) => return ContentDigest::of(b""),
        ([only], [digest]) if gopath::base(path) == gopath::base(&only.path) => return *digest,
        _ => {}
    }
    let mut list = Vec::new();
    for (chosen, digest) in selection.chosen.iter().zip(digests) {
        list.extend(key(&chosen.path, &selection.prefix));
        list.extend(digest.to_string().into_bytes());
    }
    ContentDigest::of(&list)
}

struct Selector<'a> {
    tree: &'a mut Tree,
    root: &'a Root,
    path: &'a [u8],
    glob: Option<Glob>,
    /// The pattern matches no slash by a wildcard: deeper paths than it cannot match.
    flat: bool,
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    follow: bool,
    /// The headers of the directories on the way down.
    parents: Vec<Parent>,
    chosen: Vec<Chosen>,
}

struct Parent {
    path: Vec<u8>,
    node: NodeId,
    follow: bool,
    chosen: bool,
    include: MatchInfo,
    exclude: MatchInfo,
}

impl Selector<'_> {
    /// Looks at a node and what is below it. `matched` is the path that the wildcard has
    /// matched, here or above.
    fn visit(
        &mut self,
        node: NodeId,
        path: Vec<u8>,
        matched: Option<&[u8]>,
    ) -> Result<(), FsError> {
        let is_dir = self.tree.is_dir(node);
        let mut base = matched.unwrap_or(self.path);
        let mut inside = matched.is_some();
        if let Some(glob) = &self.glob
            && !inside
        {
            if !glob.matches(&path)? {
                let depth = |p: &[u8]| gopath::components(p).count();
                if is_dir && (!self.flat || depth(&path) < depth(self.path)) {
                    self.below(node, &path, None)?;
                }
                return Ok(());
            }
            base = &path;
            inside = true;
        }
        let base = base.to_vec();
        let candidate = path
            .strip_prefix(base.as_slice())
            .map_or(path.as_slice(), |rest| {
                rest.strip_prefix(b"/").unwrap_or(rest)
            });
        let mut entry = Parent {
            path: path.clone(),
            node,
            follow: self.follow && self.parents.is_empty(),
            chosen: false,
            include: MatchInfo::default(),
            exclude: MatchInfo::default(),
        };
        let (included, descend) = self.decide(candidate, &mut entry)?;
        // A source that ends in a slash, which only the root does, leaves its header out.
        if is_dir && self.path.is_empty() && path.is_empty() {
            return self.below(node, &path, inside.then_some(&base));
        }
        if included {
            self.choose(&mut entry);
        }
        if is_dir && descend {
            self.parents.push(entry);
            self.below(node, &path, inside.then_some(&base))?;
            self.parents.pop();
        }
        Ok(())
    }

    fn below(&mut self, node: NodeId, path: &[u8], matched: Option<&[u8]>) -> Result<(), FsError> {
        for child in self.tree.children(self.root, node)? {
            let path = [path, b"/", self.tree.name(child)].concat();
            self.visit(child, path, matched)?;
        }
        Ok(())
    }

    /// Chooses an entry, after those of its parents that have not been chosen.
    fn choose(&mut self, entry: &mut Parent) {
        for parent in self.parents.iter_mut().chain([entry]) {
            if !parent.chosen {
                parent.chosen = true;
                self.chosen.push(Chosen {
                    path: parent.path.clone(),
                    node: parent.node,
                    follow: parent.follow,
                });
            }
        }
    }

    /// Whether the patterns let a path through, and whether something below it could be.
    fn decide(&self, candidate: &[u8], entry: &mut Parent) -> Result<(bool, bool), FsError> {
        let parent = self.parents.last();
        if let Some(matcher) = &self.include {
            let known = parent.map(|p| p.include.clone()).unwrap_or_default();
            let (hit, info) = matcher
                .matches_below(candidate, &known)
                .map_err(|e| FsError::from(e).context("failed to match includepatterns"))?;
            entry.include = info;
            if !hit {
                return Ok((
                    false,
                    candidate.is_empty() || matcher.may_include_below(candidate),
                ));
            }
        }
        if let Some(matcher) = &self.exclude {
            let known = parent.map(|p| p.exclude.clone()).unwrap_or_default();
            let (hit, info) = matcher
                .matches_below(candidate, &known)
                .map_err(|e| FsError::from(e).context("failed to match excludepatterns"))?;
            entry.exclude = info;
            if hit {
                return Ok((
                    false,
                    candidate.is_empty() || matcher.may_except_below(candidate),
                ));
            }
        }
        Ok((true, true))
    }
}
