//! Hard links of an archive: to files of the same layer, or to files of the layers below, which are copied up.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::apply::{Applier, lstatat};
use super::below::entry_of;
use super::error::{UnpackError, at, lossy};
use crate::layer::entry::Entry;
use crate::layer::header::Kind;
use crate::layer::lower::is_whiteout;
use crate::layer::root::{clean_path, is_missing};

impl Applier<'_> {
    pub(super) fn hard_link(
        &mut self,
        name: &[u8],
        dir: &OwnedFd,
        base: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let target = clean_path(&entry.link);
        let missing = || UnpackError::LinkTarget {
            name: lossy(name),
            target: lossy(&entry.link),
        };
        let Some((&target_base, target_parent)) = target.split_last() else {
            return Err(missing());
        };
        let found = match self.root.open_dir(target_parent) {
            Ok(target_dir) => match lstatat(&target_dir, target_base) {
                Ok(stat) if is_whiteout(&stat) => return Err(missing()),
                Ok(_) => Some(target_dir),
                Err(Errno::NOENT) => None,
                Err(e) => return Err(at(name, "find link target")(e)),
            },
            Err(e) if is_missing(&e) => None,
            Err(e) => return Err(at(name, "find link target")(e)),
        };
        if let Some(target_dir) = found {
            if target == clean_path(name) {
                return Ok(()); // a link to itself
            }
            return self.replacing(name, dir, base, "make hard link", || {
                rustix::fs::linkat(&target_dir, target_base, dir, base, AtFlags::empty())
            });
        }
        if self.options.parents.is_none() {
            return Err(UnpackError::NeedsParents { name: lossy(name) });
        }
        self.link_from_below(name, dir, base, &target)?
            .then_some(())
            .ok_or_else(missing)
    }

    /// Copies a link's target up from the layers below, once; further links go to the copy. False if it is not there.
    fn link_from_below(
        &mut self,
        name: &[u8],
        dir: &OwnedFd,
        base: &[u8],
        target: &[&[u8]],
    ) -> Result<bool, UnpackError> {
        let key = target.join(&b'/');
        if let Some(copy) = self.copied.get(&key) {
            let copy = clean_path(copy)
                .iter()
                .map(|c| c.to_vec())
                .collect::<Vec<_>>();
            let parts: Vec<&[u8]> = copy.iter().map(Vec::as_slice).collect();
            if let Some((&copy_base, copy_parent)) = parts.split_last()
                && let Ok(copy_dir) = self.root.open_dir(copy_parent)
                && lstatat(&copy_dir, copy_base).is_ok()
            {
                self.replacing(name, dir, base, "make hard link", || {
                    rustix::fs::linkat(&copy_dir, copy_base, dir, base, AtFlags::empty())
                })?;
                return Ok(true);
            }
        }
        let components = target.iter().map(|c| OsStr::from_bytes(c));
        let found = match &self.lower {
            Some(lower) => lower
                .lookup_path(components)
                .map_err(at(name, "read layers below"))?,
            None => None,
        };
        let Some(found) = found.filter(|found| found.dir.is_none()) else {
            return Ok(false);
        };
        let entry = entry_of(&found).map_err(at(name, "read layers below"))?;
        if entry.kind == Kind::File {
            let mut source = File::open(&found.path).map_err(at(name, "read layers below"))?;
            self.file(name, dir, base, &entry, &mut source)?;
        } else {
            self.create(name, dir, base, &entry, &mut io::empty())?;
        }
        self.done.used_parents = true;
        self.remember(&key)?;
        self.remember(name)?;
        self.copied.insert(key, name.to_vec());
        Ok(true)
    }
}
