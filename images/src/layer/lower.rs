//! What shows through from below: a directory as overlayfs would merge it from layer directories, without a mount.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use super::OPAQUE_XATTRS;

/// The directories, topmost first, that make up one merged directory.
#[derive(Clone, Debug)]
pub(crate) struct LowerDir {
    dirs: Vec<PathBuf>,
}

/// A path that shows in the merged view.
#[derive(Debug)]
pub(crate) struct Found {
    pub stat: Stat,
    /// Where its own data and metadata are.
    pub path: PathBuf,
    /// For a directory: its merged content.
    pub dir: Option<LowerDir>,
}

impl LowerDir {
    /// The root of the view over layer directories, topmost first. `None` when there are none.
    pub fn new(parents: &[PathBuf]) -> Option<Self> {
        (!parents.is_empty()).then(|| LowerDir {
            dirs: parents.to_vec(),
        })
    }

    /// What shows under `name`.
    pub fn lookup(&self, name: &OsStr) -> io::Result<Option<Found>> {
        let mut found: Option<(Stat, Vec<PathBuf>)> = None;
        for (i, base) in self.dirs.iter().enumerate() {
            let path = base.join(name);
            let Some(stat) = lstat(&path)? else { continue };
            if is_whiteout(&stat) {
                break;
            }
            if !is_dir(&stat) {
                if found.is_none() {
                    return Ok(Some(Found {
                        stat,
                        path,
                        dir: None,
                    }));
                }
                break;
            }
            let last = i + 1 == self.dirs.len() || is_opaque(&path)?;
            match &mut found {
                Some((_, dirs)) => dirs.push(path),
                None => found = Some((stat, vec![path])),
            }
            if last {
                break;
            }
        }
        Ok(found.and_then(|(stat, dirs)| {
            Some(Found {
                stat,
                path: dirs.first()?.clone(),
                dir: Some(LowerDir { dirs }),
            })
        }))
    }

    /// Walks down `components`; symbolic links are not followed.
    pub fn lookup_path<'a>(
        &self,
        components: impl IntoIterator<Item = &'a OsStr>,
    ) -> io::Result<Option<Found>> {
        let mut here = Some(self.clone());
        let mut found = None;
        for name in components {
            let Some(dir) = here else { return Ok(None) };
            let Some(next) = dir.lookup(name)? else {
                return Ok(None);
            };
            here = next.dir.clone();
            found = Some(next);
        }
        Ok(found)
    }

    /// All names that show, sorted.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names: BTreeMap<OsString, bool> = BTreeMap::new();
        for dir in &self.dirs {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let name = entry.file_name();
                if let std::collections::btree_map::Entry::Vacant(slot) = names.entry(name) {
                    let shows = match lstat(&entry.path())? {
                        Some(stat) => !is_whiteout(&stat),
                        None => continue,
                    };
                    slot.insert(shows);
                }
            }
        }
        let shown = names.into_iter().filter(|(_, shows)| *shows);
        Ok(shown.map(|(name, _)| name).collect())
    }
}

/// `lstat`; `None` where nothing is.
pub(crate) fn lstat(path: &Path) -> io::Result<Option<Stat>> {
    use rustix::io::Errno;
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn is_dir(stat: &Stat) -> bool {
    file_type(stat) == FileType::Directory
}

/// A character device 0:0 says "removed" to overlayfs.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether overlayfs shows nothing below this directory. Both attribute families count, as in BuildKit's differ.
pub(crate) fn is_opaque(path: &Path) -> io::Result<bool> {
    for name in OPAQUE_XATTRS {
        if get_xattr(path, name)?.is_some_and(|value| value == b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The value of an extended attribute; `None` where it or all support for it is missing.
pub(crate) fn get_xattr(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    use rustix::io::Errno;
    // Most files have none: ask with a small buffer first.
    let mut value = vec![0; 64];
    loop {
        match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(n) => {
                value.truncate(n);
                return Ok(Some(value));
            }
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            // trusted.* is invisible or refused without privileges.
            Err(Errno::PERM) => return Ok(None),
            Err(Errno::RANGE) if value.len() < XATTR_SIZE_MAX => value.resize(XATTR_SIZE_MAX, 0),
            Err(e) => return Err(e.into()),
        }
    }
}

/// The kernel's limit on one attribute's value and on the list of names.
const XATTR_SIZE_MAX: usize = 64 << 10;

/// All extended attributes of a path, overlayfs's own left out.
pub(crate) fn all_xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    use rustix::io::Errno;
    let mut list = vec![0; XATTR_SIZE_MAX];
    let n = match rustix::fs::llistxattr(path, &mut list[..]) {
        Ok(n) => n,
        Err(Errno::NOTSUP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut xattrs = BTreeMap::new();
    for name in list[..n].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if super::is_overlay_xattr(name) {
            continue;
        }
        if let Ok(text) = std::str::from_utf8(name)
            && let Some(value) = get_xattr(path, text)?
        {
            xattrs.insert(name.to_vec(), value);
        }
    }
    Ok(xattrs)
}
