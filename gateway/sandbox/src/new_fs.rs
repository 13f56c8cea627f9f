//! File systems made by the mount calls that give descriptors, with what the kernel says when it refuses.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::error::{SetupError, Stage};

/// A file system being configured. Failures carry what the kernel wrote about
/// them, which is the only place where it says which option was wrong.
pub(crate) struct NewFs {
    fd: OwnedFd,
    name: &'static str,
    stage: Stage,
}

impl NewFs {
    pub(crate) fn open(name: &'static str, stage: Stage) -> Result<NewFs, SetupError> {
        match fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fd) => {
                // What the first column of /proc/mounts shows.
                let _ = fsconfig_set_string(&fd, "source", name);
                Ok(NewFs { fd, name, stage })
            }
            Err(errno) => Err(SetupError::new(stage, errno, format!("opening {name}"))),
        }
    }

    pub(crate) fn set(&self, key: &str, value: &str) -> Result<(), SetupError> {
        fsconfig_set_string(&self.fd, key, value)
            .map_err(|e| self.error(e, &format!("option {key}={value}")))
    }

    pub(crate) fn set_path(&self, key: &str, value: &Path) -> Result<(), SetupError> {
        fsconfig_set_string(&self.fd, key, value)
            .map_err(|e| self.error(e, &format!("option {key}={}", value.display())))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<(), SetupError> {
        fsconfig_set_flag(&self.fd, key).map_err(|e| self.error(e, &format!("option {key}")))
    }

    /// Sets an option that older kernels or user namespaces may refuse.
    pub(crate) fn try_flag(&self, key: &str) {
        let _ = fsconfig_set_flag(&self.fd, key);
    }

    pub(crate) fn mount(self, attributes: MountAttrFlags) -> Result<OwnedFd, SetupError> {
        fsconfig_create(&self.fd).map_err(|e| self.error(e, "creating"))?;
        fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|e| self.error(e, "mounting"))
    }

    fn error(&self, errno: Errno, what: &str) -> SetupError {
        let mut detail = format!("{what} ({})", self.name);
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = rustix::io::read(&self.fd, &mut buffer) {
            let line = buffer.get(..length).unwrap_or_default();
            detail.push_str("; kernel: ");
            // Each line starts with its severity and a blank.
            let text = String::from_utf8_lossy(line);
            detail.push_str(text.get(2..).unwrap_or_default().trim());
        }
        SetupError::new(self.stage, errno, detail)
    }
}
