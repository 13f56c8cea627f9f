//! The layer tar of an overlay upper directory, as BuildKit makes it: same entries, same order, same bytes, so the same diffID.
//!
//! What is left out and what is not (observed): a file or directory that was copied up without a change is no entry; a
//! directory counts as changed by its mode, owner or capability only; but before any entry come all its parents that
//! were not written yet, with their current metadata. Opaque directories become one whiteout for each lower name that is gone.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use super::header::{END, Header, Kind, padding};
use super::lower::{Found, LowerDir, file_type, get_xattr, is_dir, is_opaque, is_whiteout, lstat};
use super::{CAPABILITY_XATTR, WHITEOUT_PREFIX};

/// A renamed directory whose content is elsewhere below.
const REDIRECT_XATTRS: [&str; 2] = ["trusted.overlay.redirect", "user.overlay.redirect"];
/// A file of which only the metadata was copied up. Its value may be empty.
const METACOPY_XATTRS: [&str; 2] = ["trusted.overlay.metacopy", "user.overlay.metacopy"];

#[derive(Clone, Debug, Default)]
pub struct DiffOptions {
    /// Later modification times become this one (`rewrite-timestamp` with a source date epoch). Seconds since the epoch.
    pub latest_mtime: Option<i64>,
}

/// What a layer tar holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffReport {
    /// Bytes of the tar stream.
    pub size: u64,
    pub entries: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error("read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write layer: {0}")]
    Write(#[source] io::Error),
    #[error("{0}: overlay redirects are not supported in a layer")]
    Redirect(PathBuf),
    /// The data is in a lower layer: the overlay must be mounted with `metacopy=off`.
    #[error("{0}: overlay files without data of their own are not supported in a layer")]
    Metacopy(PathBuf),
    #[error("{0} changed while its layer was made")]
    Changed(PathBuf),
}

fn read(path: &Path) -> impl FnOnce(io::Error) -> DiffError {
    let path = path.to_owned();
    move |source| DiffError::Read { path, source }
}

/// Writes the changes in `upper` against the layers below it (`parents`, topmost first; or the one mounted view of
/// them; or none) to `out` as a layer tar.
pub fn diff(
    upper: &Path,
    parents: &[PathBuf],
    options: &DiffOptions,
    out: impl Write,
) -> Result<DiffReport, DiffError> {
    let mut tar = LayerTar {
        upper,
        options,
        out,
        report: DiffReport::default(),
        written_dirs: HashSet::new(),
        first_names: HashMap::new(),
        waiting_links: HashMap::new(),
        buffer: vec![0; 128 << 10],
    };
    let mut stack = vec![Frame::overlay(
        upper,
        PathBuf::new(),
        LowerDir::new(parents),
    )?];
    // A stack of our own: trees may be deeper than a thread's.
    while let Some(frame) = stack.last_mut() {
        let Some(name) = frame.names.pop() else {
            stack.pop();
            continue;
        };
        let path = frame.path.join(&name);
        let full = upper.join(&path);
        let below = match &frame.lower {
            Some(lower) => lower.lookup(&name).map_err(read(&path))?,
            None => None,
        };
        let above = lstat(&full)
            .map_err(read(&full))?
            .filter(|stat| !(frame.opaque && is_whiteout(stat)));
        let opaque = frame.opaque;
        let next = match above {
            Some(stat) => tar.visit(&path, &stat, below, opaque)?,
            None if below.is_some() => {
                tar.whiteout(&path)?;
                None
            }
            None => None,
        };
        stack.extend(next);
    }
    tar.emit(&END)?;
    tar.out.flush().map_err(DiffError::Write)?;
    Ok(tar.report)
}

/// A directory on the way: the names still to visit, in falling order.
struct Frame {
    path: PathBuf,
    names: Vec<OsString>,
    lower: Option<LowerDir>,
    /// Nothing shines through here, so every lower name that is missing above is a removal.
    opaque: bool,
}

impl Frame {
    fn overlay(upper: &Path, path: PathBuf, lower: Option<LowerDir>) -> Result<Self, DiffError> {
        let mut names = names_in(&upper.join(&path))?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Frame {
            path,
            names,
            lower,
            opaque: false,
        })
    }

    fn opaque(upper: &Path, path: PathBuf, lower: Option<LowerDir>) -> Result<Self, DiffError> {
        let mut names = names_in(&upper.join(&path))?;
        if let Some(lower) = &lower {
            names.extend(lower.names().map_err(read(&path))?);
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.dedup();
        Ok(Frame {
            path,
            names,
            lower,
            opaque: true,
        })
    }
}

fn names_in(dir: &Path) -> Result<Vec<OsString>, DiffError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(read(dir))? {
        names.push(entry.map_err(read(dir))?.file_name());
    }
    Ok(names)
}

struct LayerTar<'a, W> {
    upper: &'a Path,
    options: &'a DiffOptions,
    out: W,
    report: DiffReport,
    written_dirs: HashSet<PathBuf>,
    /// The name under which a file of several names was written, by inode.
    first_names: HashMap<(u64, u64), Vec<u8>>,
    /// Unchanged names of files of several names, written as links if another of their names changed.
    waiting_links: HashMap<(u64, u64), Vec<PathBuf>>,
    buffer: Vec<u8>,
}

impl<W: Write> LayerTar<'_, W> {
    /// Writes what one path of the upper directory means, and gives the directory to go into.
    fn visit(
        &mut self,
        path: &Path,
        stat: &Stat,
        below: Option<Found>,
        inside_opaque: bool,
    ) -> Result<Option<Frame>, DiffError> {
        let full = self.upper.join(path);
        if is_whiteout(stat) {
            if below.is_some() {
                self.whiteout(path)?;
            }
            return Ok(None);
        }
        let dir = is_dir(stat);
        if dir && has_xattr(&full, &REDIRECT_XATTRS)? {
            return Err(DiffError::Redirect(path.to_owned()));
        }
        let unchanged = match &below {
            Some(found) => same(found, stat, &full)?,
            None => false,
        };
        if !unchanged {
            self.entry(path, stat, &[])?;
        } else if inside_opaque && !dir && stat.st_nlink > 1 {
            self.unchanged_link(path, stat)?;
        }
        if !dir {
            return Ok(None);
        }
        let exists_below = below.is_some();
        let lower = below.and_then(|found| found.dir);
        let opaque = inside_opaque || (exists_below && is_opaque(&full).map_err(read(&full))?);
        let path = path.to_owned();
        Ok(Some(if opaque {
            Frame::opaque(self.upper, path, lower)?
        } else {
            Frame::overlay(self.upper, path, lower)?
        }))
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), DiffError> {
        self.parents_of(path)?;
        let bytes = path.as_os_str().as_bytes();
        let slash = bytes.iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
        let (dir, base) = bytes.split_at(slash);
        let name = [dir, WHITEOUT_PREFIX, base].concat();
        self.report.entries += 1;
        self.emit(&Header::new(Kind::File, name).encode())
    }

    /// The first changed name of a file takes along its unchanged names (`also`), once known.
    fn entry(&mut self, path: &Path, stat: &Stat, also: &[PathBuf]) -> Result<(), DiffError> {
        let full = self.upper.join(path);
        let Some(mut header) = self.header(path, stat, &full)? else {
            return Ok(()); // a socket
        };
        let mut links = also.to_vec();
        if !is_dir(stat) && stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.first_names.get(&inode) {
                header.kind = Kind::HardLink;
                header.link = first.clone();
                header.size = 0;
            } else {
                self.first_names.insert(inode, header.name.clone());
                links.extend(self.waiting_links.remove(&inode).unwrap_or_default());
            }
        }
        self.parents_of(path)?;
        if header.kind == Kind::Directory {
            self.written_dirs.insert(path.to_owned());
        }
        self.report.entries += 1;
        self.emit(&header.encode())?;
        if header.kind == Kind::File && header.size > 0 {
            // Such a file is all hole, so others need not be asked for the attribute.
            if stat.st_blocks == 0 && has_xattr(&full, &METACOPY_XATTRS)? {
                return Err(DiffError::Metacopy(path.to_owned()));
            }
            self.content(&full, header.size)?;
        }
        for link in links {
            header.link = std::mem::replace(&mut header.name, link.as_os_str().as_bytes().to_vec());
            let first = header.link.clone();
            header.kind = Kind::HardLink;
            header.size = 0;
            self.parents_of(&link)?;
            self.report.entries += 1;
            self.emit(&header.encode())?;
            header.name = first;
        }
        Ok(())
    }

    fn unchanged_link(&mut self, path: &Path, stat: &Stat) -> Result<(), DiffError> {
        let inode = (stat.st_dev, stat.st_ino);
        if self.first_names.contains_key(&inode) {
            return self.entry(path, stat, &[]);
        }
        let waiting = self.waiting_links.entry(inode).or_default();
        waiting.push(path.to_owned());
        Ok(())
    }

    fn header(&self, path: &Path, stat: &Stat, full: &Path) -> Result<Option<Header>, DiffError> {
        let kind = match file_type(stat) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(None),
        };
        let mut name = path.as_os_str().as_bytes().to_vec();
        if kind == Kind::Directory {
            name.push(b'/');
        }
        let mut header = Header::new(kind, name);
        header.mode = stat.st_mode & 0o7777;
        (header.uid, header.gid) = (stat.st_uid, stat.st_gid);
        header.mtime = match self.options.latest_mtime {
            Some(latest) => stat.st_mtime.min(latest),
            None => stat.st_mtime,
        };
        match kind {
            Kind::File => header.size = u64::try_from(stat.st_size).unwrap_or(0),
            Kind::Symlink => {
                let target = fs::read_link(full).map_err(read(full))?;
                header.link = target.into_os_string().into_vec();
            }
            Kind::CharDevice | Kind::BlockDevice => {
                let device = stat.st_rdev;
                header.device = (rustix::fs::major(device), rustix::fs::minor(device));
            }
            _ => {}
        }
        // The only attribute that layers carry (observed).
        let capability = get_xattr(full, CAPABILITY_XATTR).map_err(read(full))?;
        if let Some(value) = capability.filter(|value| !value.is_empty()) {
            header.xattrs.insert(CAPABILITY_XATTR.into(), value);
        }
        Ok(Some(header))
    }

    /// Writes the directories above `path` that were not written yet.
    fn parents_of(&mut self, path: &Path) -> Result<(), DiffError> {
        let mut missing = Vec::new();
        for parent in path.ancestors().skip(1) {
            if parent.as_os_str().is_empty() || self.written_dirs.contains(parent) {
                break;
            }
            missing.push(parent.to_owned());
        }
        for parent in missing.into_iter().rev() {
            let full = self.upper.join(&parent);
            let stat = rustix::fs::lstat(&full).map_err(|e| read(&full)(e.into()))?;
            let Some(header) = self.header(&parent, &stat, &full)? else {
                continue;
            };
            self.written_dirs.insert(parent);
            self.report.entries += 1;
            self.emit(&header.encode())?;
        }
        Ok(())
    }

    fn content(&mut self, full: &Path, size: u64) -> Result<(), DiffError> {
        let mut file = File::open(full).map_err(read(full))?;
        let mut left = size;
        while left > 0 {
            let want = left.min(self.buffer.len() as u64) as usize;
            let n = file.read(&mut self.buffer[..want]).map_err(read(full))?;
            if n == 0 {
                return Err(DiffError::Changed(full.to_owned()));
            }
            self.out
                .write_all(&self.buffer[..n])
                .map_err(DiffError::Write)?;
            left -= n as u64;
        }
        self.report.size += size;
        if file.read(&mut [0]).map_err(read(full))? != 0 {
            return Err(DiffError::Changed(full.to_owned()));
        }
        self.emit(padding(size))
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<(), DiffError> {
        self.report.size += bytes.len() as u64;
        self.out.write_all(bytes).map_err(DiffError::Write)
    }
}

fn has_xattr(path: &Path, names: &[&str]) -> Result<bool, DiffError> {
    for name in names {
        if get_xattr(path, name).map_err(read(path))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a path above is the same as what it covers. Contents are compared only where both times have no
/// nanoseconds: then they may have been cut by a tar, and an equal second says nothing.
fn same(below: &Found, above: &Stat, full: &Path) -> Result<bool, DiffError> {
    let lower = &below.stat;
    if (lower.st_dev, lower.st_ino) == (above.st_dev, above.st_ino) {
        return Ok(true);
    }
    let key = |s: &Stat| (s.st_mode, s.st_uid, s.st_gid, s.st_rdev);
    if key(lower) != key(above) {
        return Ok(false);
    }
    let capability = |path: &Path| get_xattr(path, CAPABILITY_XATTR).map_err(read(path));
    if capability(&below.path)?.unwrap_or_default() != capability(full)?.unwrap_or_default() {
        return Ok(false);
    }
    if is_dir(above) {
        return Ok(true);
    }
    let time = |s: &Stat| (s.st_mtime, s.st_mtime_nsec as u32);
    if lower.st_size != above.st_size || time(lower) != time(above) {
        return Ok(false);
    }
    if time(above).1 != 0 {
        return Ok(true);
    }
    match file_type(above) {
        FileType::Symlink => {
            let target = |path: &Path| fs::read_link(path).map_err(read(path));
            Ok(target(&below.path)? == target(full)?)
        }
        FileType::RegularFile if above.st_size > 0 => same_content(&below.path, full),
        _ => Ok(true),
    }
}

fn same_content(a: &Path, b: &Path) -> Result<bool, DiffError> {
    let mut left = File::open(a).map_err(read(a))?;
    let mut right = File::open(b).map_err(read(b))?;
    let (mut one, mut two) = (Vec::new(), Vec::new());
    loop {
        for (file, buffer, path) in [(&mut left, &mut one, a), (&mut right, &mut two, b)] {
            buffer.clear();
            file.take(64 << 10)
                .read_to_end(buffer)
                .map_err(read(path))?;
        }
        if one != two {
            return Ok(false);
        }
        if one.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests;
