//! A snapshot's layers as one directory tree, without mounting anything anywhere.
//!
//! The overlay is a detached mount: it hangs on a file descriptor alone, is reached through it,
//! and is gone when the descriptor is closed, whatever ends this process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

/// `OVL_MAX_STACK` of Linux.
const MOST_LOWERS: usize = 500;

/// An open view; the tree stays as long as this.
pub struct View {
    path: PathBuf,
    _mount: Option<OwnedFd>,
}

impl View {
    /// The layers, topmost first, read-only. At least one.
    pub fn read_only(lowers: &[PathBuf]) -> io::Result<View> {
        match lowers {
            [single] => Ok(View {
                path: single.clone(),
                _mount: None,
            }),
            lowers => View::overlay(lowers, None),
        }
    }

    /// The layers with a directory that takes the changes; without layers that directory itself.
    pub fn writable(lowers: &[PathBuf], upper: &Path, work: &Path) -> io::Result<View> {
        if lowers.is_empty() {
            return Ok(View {
                path: upper.to_owned(),
                _mount: None,
            });
        }
        View::overlay(lowers, Some((upper, work)))
    }

    fn overlay(lowers: &[PathBuf], changes: Option<(&Path, &Path)>) -> io::Result<View> {
        if lowers.len() > MOST_LOWERS {
            return Err(io::Error::other(format!(
                "{} layers, more than the {MOST_LOWERS} that the kernel puts over each other",
                lowers.len()
            )));
        }
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let context = &context;
        let _held = set_lowers(context, lowers)?;
        if in_user_namespace() {
            // Unpacked layers carry the attributes that overlayfs reads with this.
            fsconfig_set_flag(context, "userxattr")?;
        }
        // What the differ could not read back is off.
        for option in ["index", "metacopy", "redirect_dir"] {
            // Off by itself with `userxattr`, which refuses to be told so.
            if option != "redirect_dir" || !in_user_namespace() {
                fsconfig_set_string(context, option, "off")?;
            }
        }
        if let Some((upper, work)) = changes {
            fsconfig_set_string(context, "upperdir", upper)?;
            fsconfig_set_string(context, "workdir", work)?;
            // Without it the unmount syncs the whole file system below.
            fsconfig_set_flag(context, "volatile")?;
        }
        fsconfig_create(context)?;
        let attributes = match changes {
            Some(_) => MountAttrFlags::empty(),
            None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        };
        let mount = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        Ok(View {
            path: PathBuf::from(format!("/proc/self/fd/{}/.", mount.as_raw_fd())),
            _mount: Some(mount),
        })
    }

    /// The root of the tree.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Names the lower layers. What is given back must live until the overlay is made.
fn set_lowers(context: &OwnedFd, lowers: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    for (index, lower) in lowers.iter().enumerate() {
        // One call a layer: no limit on the length of the whole text.
        match fsconfig_set_string(context, "lowerdir+", lower) {
            Ok(()) => {}
            // Linux before 6.5.
            Err(Errno::INVAL) if index == 0 => return set_lowers_at_once(context, lowers),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Vec::new())
}

/// The kernel takes 255 bytes here: descriptors keep the names short enough for some 12 layers.
fn set_lowers_at_once(context: &OwnedFd, lowers: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    let held: Vec<OwnedFd> = lowers
        .iter()
        .map(|lower| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(lower, flags, Mode::empty())
        })
        .collect::<Result<_, _>>()?;
    let names: Vec<String> = held
        .iter()
        .map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .collect();
    fsconfig_set_string(context, "lowerdir", names.join(":")).map_err(|errno| {
        io::Error::other(format!(
            "{errno}: {} layers are too many for this kernel, Linux 6.5 takes them",
            lowers.len()
        ))
    })?;
    Ok(held)
}

/// Whether ids are mapped here, so that `trusted` attributes are out of reach.
pub fn in_user_namespace() -> bool {
    static MAPPED: OnceLock<bool> = OnceLock::new();
    *MAPPED.get_or_init(|| {
        std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
            let numbers: Vec<&str> = map.split_whitespace().collect();
            numbers != ["0", "0", "4294967295"]
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_can_be_named_at_once_for_older_kernels() {
        let dir = tempfile::tempdir().unwrap();
        let lowers: Vec<PathBuf> = (0..10)
            .map(|i| {
                let path = dir.path().join(i.to_string());
                std::fs::create_dir(&path).unwrap();
                std::fs::write(path.join(format!("f{i}")), "").unwrap();
                path
            })
            .collect();
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        let _held = set_lowers_at_once(&context, &lowers).unwrap();
        fsconfig_create(&context).unwrap();
        let mount = fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_RDONLY,
        )
        .unwrap();
        let root = format!("/proc/self/fd/{}/.", mount.as_raw_fd());
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 10);
    }

    #[test]
    fn a_view_shows_all_layers_and_keeps_changes_in_its_upper() {
        let dir = tempfile::tempdir().unwrap();
        let sub = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (low, top, upper, work) = (sub("low"), sub("top"), sub("upper"), sub("work"));
        std::fs::write(low.join("a"), "low").unwrap();
        std::fs::write(top.join("a"), "top").unwrap();
        std::fs::write(low.join("b"), "b").unwrap();
        let lowers = [top, low.clone()];
        let view = View::writable(&lowers, &upper, &work).unwrap();
        assert_eq!(std::fs::read(view.path().join("a")).unwrap(), b"top");
        std::fs::write(view.path().join("b"), "changed").unwrap();
        std::fs::create_dir(view.path().join("d")).unwrap();
        drop(view);
        assert_eq!(std::fs::read(upper.join("b")).unwrap(), b"changed");
        assert_eq!(std::fs::read(low.join("b")).unwrap(), b"b");
        assert!(upper.join("d").is_dir());
        let view = View::read_only(&lowers).unwrap();
        assert_eq!(std::fs::read(view.path().join("b")).unwrap(), b"b");
        assert!(std::fs::write(view.path().join("c"), "").is_err());
    }
}
