//! The part of a directory that a filter lets through, for working with it in place: what was
//! there when it was walked, and how to tell that it still is.

use std::collections::HashMap;
use std::sync::Arc;

use super::digest::ContentDigest;
use super::error::{FsError, lossy};
use super::gopath;
use super::meta::Meta;
use super::walk::{Entry, settled_at};

/// What there is of a directory. What is known of large ones is held once, by who walked them.
#[derive(Clone, Default)]
pub struct Visible {
    paths: Paths,
    /// When the walk began; `None` when the stat is not looked at.
    walked: Option<i128>,
    digests: Option<Arc<Digests>>,
}

#[derive(Clone)]
enum Paths {
    /// These.
    Listed(HashMap<Vec<u8>, Meta>),
    /// Those that somebody else knows.
    Walked(Arc<dyn Walked>),
}

impl Default for Paths {
    fn default() -> Self {
        Paths::Listed(HashMap::new())
    }
}

/// Who has walked a directory and remembers what was there. Access times need not be kept.
pub trait Walked: Send + Sync {
    /// The stat of a path below the root, without a leading slash; the root's own for none.
    fn meta(&self, path: &[u8]) -> Option<Meta>;
    /// All paths but the root in the order of the walk.
    fn each(&self, visit: &mut dyn FnMut(&[u8], &Meta));
}

/// Gives the digest of a file that was hashed where it lies.
pub type Digests = dyn Fn(&[u8]) -> Option<ContentDigest> + Send + Sync;

impl Visible {
    /// What a walk has found, whatever happens to it after.
    pub fn of(entries: &[Entry]) -> Self {
        let entries = entries.iter();
        Self::new(Paths::Listed(
            entries
                .map(|entry| (entry.path.clone(), entry.meta))
                .collect(),
        ))
    }

    /// What somebody remembers.
    pub fn of_walk(walked: Arc<dyn Walked>) -> Self {
        Self::new(Paths::Walked(walked))
    }

    fn new(paths: Paths) -> Self {
        Self {
            paths,
            walked: None,
            digests: None,
        }
    }

    /// The same, of which nothing may have changed since a walk that began at `walked`
    /// (nanoseconds since the epoch). What was changed so shortly before that its stat does not
    /// tell is held against its digest.
    pub fn unchanged_since(self, walked: i128, digests: Arc<Digests>) -> Self {
        Self {
            walked: Some(walked),
            digests: Some(digests),
            ..self
        }
    }

    /// All paths below the root with their stat, in the order of the walk if there was one.
    pub fn each(&self, visit: &mut dyn FnMut(&[u8], &Meta)) {
        match &self.paths {
            Paths::Listed(paths) => {
                for (path, meta) in paths {
                    visit(path, meta);
                }
            }
            Paths::Walked(walked) => walked.each(visit),
        }
    }

    /// The same with these paths alone, as far as they are there.
    pub fn only<'p>(&self, paths: impl IntoIterator<Item = &'p [u8]>) -> Self {
        let known = |path: &[u8]| Some((path.to_vec(), self.meta(path)?));
        Self {
            paths: Paths::Listed(paths.into_iter().filter_map(known).collect()),
            walked: self.walked,
            digests: self.digests.clone(),
        }
    }

    pub(super) fn meta(&self, path: &[u8]) -> Option<Meta> {
        match &self.paths {
            Paths::Listed(paths) => paths.get(path).copied(),
            Paths::Walked(walked) => walked.meta(path),
        }
    }

    /// Whether a resolved path is among it. The root always is.
    pub fn has(&self, resolved: &[u8]) -> bool {
        let path = resolved.strip_prefix(b"/").unwrap_or(resolved);
        path.is_empty()
            || match &self.paths {
                Paths::Listed(paths) => paths.contains_key(path),
                Paths::Walked(walked) => walked.meta(path).is_some(),
            }
    }

    /// Refuses a file that is not what was walked.
    pub fn check(&self, path: &[u8], now: &Meta) -> Result<(), FsError> {
        if self.walked.is_none() {
            return Ok(());
        }
        let below = path.strip_prefix(b"/").unwrap_or(path);
        match self.meta(below) {
            // A list of entries has no root.
            None if below.is_empty() => Ok(()),
            Some(walked) if walked.is_still(now) => Ok(()),
            _ => Err(FsError::Changed(lossy(path))),
        }
    }

    /// Refuses a path that symbolic links have led elsewhere: they may lead to another place than
    /// when the files were hashed, which the stat of where they lead now does not tell.
    pub fn check_resolved(&self, path: &[u8], resolved: &[u8]) -> Result<(), FsError> {
        match self.walked.is_some() && gopath::absolute(path) != resolved {
            true => Err(FsError::Changed(lossy(path))),
            false => Ok(()),
        }
    }

    /// The digest that a copy of a file must have, where its stat does not suffice.
    pub fn digest_wanted(&self, path: &[u8], now: &Meta) -> Result<Option<ContentDigest>, FsError> {
        let Some(walked) = self.walked else {
            return Ok(None);
        };
        if settled_at(now.ctime, now.mtime) <= walked {
            return Ok(None);
        }
        let below = path.strip_prefix(b"/").unwrap_or(path);
        let digest = self.digests.as_ref().and_then(|digests| digests(below));
        // Never hashed: nothing to hold it against.
        digest
            .map(Some)
            .ok_or_else(|| FsError::Changed(lossy(path)))
    }
}

impl std::fmt::Debug for Visible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.paths {
            Paths::Listed(paths) => write!(f, "Visible({} paths)", paths.len()),
            Paths::Walked(_) => write!(f, "Visible(a walk)"),
        }
    }
}
