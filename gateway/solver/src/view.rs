//! A snapshot's layers as one directory tree, without mounting anything anywhere.
//!
//! The overlay is a detached mount: it hangs on a file descriptor alone, is reached through it,
//! and is gone when the descriptor is closed, whatever ends this process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use gateway_sandbox::Stage;
use gateway_sandbox::overlay::{Overlay, Place};
use rustix::mount::MountAttrFlags;

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
        let overlay = Overlay {
            lowers,
            changes,
            // Unpacked layers carry the attributes that overlayfs reads there.
            user_namespace: in_user_namespace(),
        };
        let mount = overlay
            .mount(MountAttrFlags::empty(), Place::Shared, Stage::RootFs)
            .map_err(|error| match error.errno {
                0 => io::Error::other(error.detail),
                errno => {
                    let reason = io::Error::from_raw_os_error(errno);
                    io::Error::new(reason.kind(), format!("{}: {reason}", error.detail))
                }
            })?;
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
