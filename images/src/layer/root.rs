//! Paths of an archive inside the directory it is unpacked into: nothing resolves to a place outside, whatever links say.
//!
//! The kernel does the walking (`openat2` with RESOLVE_IN_ROOT): absolute links and `..` are clamped at the directory.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Links followed in one path before it is called a loop, as in the kernel.
const MAX_LINKS: usize = 40;

/// The components of a name with `.`, `..` and doubled slashes resolved by text, `..` clamped at the top.
pub fn clean_path(name: &[u8]) -> Vec<&[u8]> {
    let mut clean = Vec::new();
    for component in name.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(clean.pop()),
            name => clean.push(name),
        }
    }
    clean
}

/// The directory that an archive is unpacked into.
pub(crate) struct Root {
    fd: Rc<OwnedFd>,
    /// The parent used last: archives list a directory's entries together.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
}

impl Root {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Root {
            fd: Rc::new(fd),
            last: None,
        })
    }

    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        (*self.fd).as_fd()
    }

    /// Must be called when a name that may lead somewhere was removed or replaced.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Opens the directory at a cleaned path; links on the way are followed inside the root.
    pub fn open_dir(&mut self, components: &[&[u8]]) -> io::Result<Rc<OwnedFd>> {
        if components.is_empty() {
            return Ok(self.fd.clone());
        }
        let path = components.join(&b'/');
        if let Some((last, fd)) = &self.last
            && *last == path
        {
            return Ok(fd.clone());
        }
        let fd = Rc::new(self.open_at(&path, OFlags::RDONLY | OFlags::DIRECTORY)?);
        self.last = Some((path, fd.clone()));
        Ok(fd)
    }

    /// Opens the directory itself at a cleaned path, not what a link in its place points to.
    pub fn open_dir_nofollow(&self, path: &[u8]) -> io::Result<OwnedFd> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)
    }

    fn open_at(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            let flags = flags | OFlags::CLOEXEC;
            match rustix::fs::openat2(self.fd.as_fd(), path, flags, Mode::empty(), resolve) {
                // A rename anywhere on the system may ask for another try.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Where a path really is: every link resolved inside the root, missing components kept as they are.
    pub fn real_path(&self, components: &[&[u8]]) -> io::Result<Vec<Vec<u8>>> {
        let mut todo: VecDeque<Vec<u8>> = components.iter().map(|c| c.to_vec()).collect();
        let mut real: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(component) = todo.pop_front() {
            if component == b".." {
                real.pop();
                continue;
            }
            real.push(component);
            let Some(target) = self.link_at(&real)? else {
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            real.pop();
            if target.first() == Some(&b'/') {
                real.clear();
            }
            for part in target.split(|&b| b == b'/').rev() {
                if !part.is_empty() && part != b"." {
                    todo.push_front(part.to_vec());
                }
            }
        }
        Ok(real)
    }

    /// The target of the link at a path without links in its middle; `None` if it is missing or no link.
    fn link_at(&self, path: &[Vec<u8>]) -> io::Result<Option<Vec<u8>>> {
        let fd = match self.open_at(&path.join(&b'/'), OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => fd,
            Err(e) if is_missing(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        Ok(Some(
            rustix::fs::readlinkat(&fd, c"", Vec::new())?.into_bytes(),
        ))
    }
}

pub(crate) fn is_missing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Removes `name` in `dir` and everything below it, following no link. A tree may be deeper than a thread's stack.
pub(crate) fn remove_all(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    /// A directory on the way: open, its name in the one above, and what is still in it.
    struct Level {
        fd: OwnedFd,
        name: Vec<u8>,
        names: Vec<Vec<u8>>,
    }
    let top = dir.as_fd();
    let mut levels: Vec<Level> = Vec::new();
    let mut next = Some(name.to_vec());
    loop {
        let above = levels.last().map_or(top, |level| level.fd.as_fd());
        if let Some(name) = next {
            match rustix::fs::unlinkat(above, &name[..], AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    let flags =
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let fd = rustix::fs::openat(above, &name[..], flags, Mode::empty())?;
                    let names = names_in(&fd)?;
                    levels.push(Level { fd, name, names });
                }
                Err(e) => return Err(e.into()),
            }
        } else if let Some(done) = levels.pop() {
            let above = levels.last().map_or(top, |level| level.fd.as_fd());
            rustix::fs::unlinkat(above, &done.name[..], AtFlags::REMOVEDIR)?;
        }
        match levels.last_mut() {
            Some(level) => next = level.names.pop(),
            None => return Ok(()),
        }
    }
}

fn names_in(dir: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_clamped_at_the_top() {
        let clean = |name: &str| {
            let parts = clean_path(name.as_bytes());
            String::from_utf8(parts.join(&b'/')).unwrap()
        };
        assert_eq!(clean("./a//b/./c/"), "a/b/c");
        assert_eq!(clean("/../../x"), "x");
        assert_eq!(clean("a/../../x"), "x");
        assert_eq!(clean("./"), "");
    }
}
