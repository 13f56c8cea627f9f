//! Layers over each other as one detached mount, on every kernel that has such mounts.
//!
//! Linux takes the layers one by one (`lowerdir+`) since 6.7. Before that all of them are one option, of 255
//! bytes at most where a mount is made by descriptors, or a part of one page for the call of old. There the
//! layers are named by descriptors, seen from `/proc/self/fd` as the working directory: four bytes a layer,
//! so that the page is never the limit. That call attaches what it makes, therefore it is made in a mount
//! namespace that nobody else sees.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags, fsconfig_set_string,
    fsopen, mount, open_tree, unmount,
};

use crate::error::{At, SetupError, Stage};
use crate::new_fs::NewFs;
use crate::sys;

/// `OVL_MAX_STACK` of Linux.
pub const MAX_LAYERS: usize = 500;

/// What lies over what.
pub struct Overlay<'a> {
    /// Topmost first, at least one.
    pub lowers: &'a [PathBuf],
    /// The directory that takes the changes, and one beside it that overlayfs works in. Without them it
    /// is read-only.
    pub changes: Option<(&'a Path, &'a Path)>,
    /// Not all ids are mapped here: overlayfs keeps its marks in `user.` attributes.
    pub user_namespace: bool,
}

/// Where the calling thread is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a mount namespace that no other process is in, with nothing shared.
    PrivateNamespace,
    /// Anywhere: nothing is attached where others could see it.
    Shared,
}

impl Overlay<'_> {
    /// A mount that is attached nowhere; it goes with its descriptor. The error names `stage`.
    pub fn mount(
        &self,
        attributes: MountAttrFlags,
        place: Place,
        stage: Stage,
    ) -> Result<OwnedFd, SetupError> {
        // The kernel takes no directory twice. Images do contain a layer twice; the
        // lower one shows nothing that the upper one does not.
        let mut seen = HashSet::new();
        let mut lowers: Vec<&Path> = Vec::with_capacity(self.lowers.len());
        lowers.extend(
            self.lowers
                .iter()
                .filter(|lower| seen.insert(*lower))
                .map(PathBuf::as_path),
        );
        if lowers.len() > MAX_LAYERS {
            let count = lowers.len();
            let detail = format!(
                "{count} layers, the kernel puts no more than {MAX_LAYERS} over each other: join \
                 steps, or begin a stage FROM scratch and COPY what is needed into it"
            );
            return Err(SetupError::new(stage, 0, detail));
        }
        if takes_layers_one_by_one() {
            self.one_by_one(&lowers, attributes, stage)
        } else {
            self.at_once(&lowers, attributes, place, stage)
        }
    }

    /// Options without paths. What the differ could not read back is off.
    fn options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        // Off by itself with `userxattr`, which refuses to be told so.
        if self.user_namespace {
            &[
                ("userxattr", None),
                ("index", Some("off")),
                ("xino", Some("off")),
            ]
        } else {
            &[
                ("redirect_dir", Some("off")),
                ("metacopy", Some("off")),
                ("index", Some("off")),
                ("xino", Some("off")),
            ]
        }
    }

    fn one_by_one(
        &self,
        lowers: &[&Path],
        attributes: MountAttrFlags,
        stage: Stage,
    ) -> Result<OwnedFd, SetupError> {
        let fs = NewFs::open("overlay", stage)?;
        for lower in lowers {
            fs.set_path("lowerdir+", lower)?;
        }
        if let Some((upper, work)) = self.changes {
            fs.set_path("upperdir", upper)?;
            fs.set_path("workdir", work)?;
            // Without it each unmount writes back the whole file system that
            // holds the upper directory.
            fs.flag("volatile")?;
        }
        for (name, value) in self.options() {
            match value {
                Some(value) => fs.set(name, value)?,
                None => fs.flag(name)?,
            }
        }
        fs.mount(self.attributes(attributes))
    }

    fn attributes(&self, wanted: MountAttrFlags) -> MountAttrFlags {
        match self.changes {
            Some(_) => wanted,
            None => wanted | MountAttrFlags::MOUNT_ATTR_RDONLY,
        }
    }

    fn at_once(
        &self,
        lowers: &[&Path],
        attributes: MountAttrFlags,
        place: Place,
        stage: Stage,
    ) -> Result<OwnedFd, SetupError> {
        if place == Place::PrivateNamespace {
            return self.at_once_here(lowers, attributes, stage);
        }
        // A thread may have a namespace and a working directory of its own; both end with it.
        let own = || {
            sys::unshare(libc::CLONE_NEWNS).at(stage, || "a mount namespace".into())?;
            sys::mount_setattr(CWD, c"/", true, 0, libc::MS_PRIVATE)
                .at(stage, || "making all mounts private".into())?;
            self.at_once_here(lowers, attributes, stage)
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("overlay".into())
                .spawn_scoped(scope, own)
                .at(stage, || "starting a thread".into())?;
            thread
                .join()
                .unwrap_or_else(|_| Err(SetupError::new(stage, 0, "making an overlay")))
        })
    }

    fn at_once_here(
        &self,
        lowers: &[&Path],
        attributes: MountAttrFlags,
        stage: Stage,
    ) -> Result<OwnedFd, SetupError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| {
            rustix::fs::open(path, flags, Mode::empty()).at(stage, || path.display().to_string())
        };
        // In this namespace: the kernel refuses layers that are mounted in another one.
        let held: Vec<OwnedFd> = lowers
            .iter()
            .map(|path| open(path))
            .collect::<Result<_, _>>()?;
        let names: Vec<String> = held.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let mut text = format!("lowerdir={}", names.join(":"));
        let changes = match self.changes {
            Some((upper, work)) => Some((open(upper)?, open(work)?)),
            None => None,
        };
        if let Some((upper, work)) = &changes {
            let (upper, work) = (upper.as_raw_fd(), work.as_raw_fd());
            let _ = write!(text, ",upperdir={upper},workdir={work},volatile");
        }
        for (name, value) in self.options() {
            let _ = match value {
                Some(value) => write!(text, ",{name}={value}"),
                None => write!(text, ",{name}"),
            };
        }
        let before = open(Path::new("."))?;
        let descriptors = "/proc/self/fd";
        rustix::process::chdir(descriptors).at(stage, || descriptors.into())?;
        let mounted = attach_and_take(&text, stage);
        rustix::process::fchdir(&before).at(stage, || "the working directory".into())?;
        let mounted = mounted?;
        let attributes = u64::from(self.attributes(attributes).bits());
        sys::mount_setattr(mounted.as_fd(), c"", false, attributes, 0)
            .at(stage, || "attributes of the overlay".into())?;
        Ok(mounted)
    }
}

/// Makes the overlay at a place that every machine has, takes a copy that is attached nowhere, and
/// frees the place.
fn attach_and_take(options: &str, stage: Stage) -> Result<OwnedFd, SetupError> {
    const PLACE: &str = "/proc";
    let what = {
        let text = options.to_owned();
        move || format!("mounting an overlay ({text})")
    };
    // Numbers and words of ours: there is no zero byte in it.
    let options = std::ffi::CString::new(options).map_err(|_| SetupError::new(stage, 0, what()))?;
    mount(
        "overlay",
        PLACE,
        "overlay",
        MountFlags::empty(),
        Some(&*options),
    )
    .at(stage, &what)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let taken = open_tree(CWD, PLACE, flags).at(stage, &what);
    unmount(PLACE, UnmountFlags::DETACH).at(stage, &what)?;
    taken
}

/// Whether this kernel has `lowerdir+` (Linux 6.7). Asked once; the answer is inherited by forks.
pub(crate) fn takes_layers_one_by_one() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let Ok(context) = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) else {
            // Then making it fails too, and says why.
            return true;
        };
        // Before 6.5 any option is taken, and looked at when it is too late.
        let looks = fsconfig_set_string(&context, "an-option-that-nobody-has", "x").is_err();
        looks && fsconfig_set_string(&context, "lowerdir+", "/").is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(dir: &Path, names: impl IntoIterator<Item = String>) -> Vec<PathBuf> {
        names
            .into_iter()
            .map(|name| {
                let path = dir.join(&name);
                std::fs::create_dir(&path).unwrap();
                std::fs::write(path.join(format!("f{name}")), name).unwrap();
                path
            })
            .collect()
    }

    fn user_namespace() -> bool {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
    }

    fn mount_points() -> usize {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        text.lines()
            .filter(|line| line.contains(" overlay "))
            .count()
    }

    #[test]
    fn older_kernels_are_given_as_many_layers_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let lowers = dirs(dir.path(), (0..MAX_LAYERS).map(|i| i.to_string()));
        let paths: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
        let before = mount_points();
        let overlay = Overlay {
            lowers: &lowers,
            changes: None,
            user_namespace: user_namespace(),
        };
        let nodev = MountAttrFlags::MOUNT_ATTR_NODEV;
        let mounted = overlay
            .at_once(&paths, nodev, Place::Shared, Stage::RootFs)
            .unwrap();
        let root = format!("/proc/self/fd/{}/.", mounted.as_raw_fd());
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), MAX_LAYERS);
        assert!(std::fs::write(format!("{root}/new"), "").is_err());
        assert_eq!(mount_points(), before);
    }

    #[test]
    fn both_ways_show_and_keep_the_same() {
        for at_once in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let names = ["low", "top", "upper", "work"].map(str::to_owned);
            let paths = dirs(dir.path(), names);
            std::fs::remove_file(paths[3].join("fwork")).unwrap();
            std::fs::write(paths[0].join("ftop"), "hidden").unwrap();
            let lowers = [paths[1].clone(), paths[0].clone()];
            let layers: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
            let overlay = Overlay {
                lowers: &lowers,
                changes: Some((&paths[2], &paths[3])),
                user_namespace: user_namespace(),
            };
            let none = MountAttrFlags::empty();
            let mounted = match at_once {
                true => overlay.at_once(&layers, none, Place::Shared, Stage::RootFs),
                false => overlay.one_by_one(&layers, none, Stage::RootFs),
            }
            .unwrap();
            let root = PathBuf::from(format!("/proc/self/fd/{}/.", mounted.as_raw_fd()));
            assert_eq!(std::fs::read(root.join("ftop")).unwrap(), b"top");
            std::fs::write(root.join("flow"), "changed").unwrap();
            drop(mounted);
            assert_eq!(std::fs::read(paths[2].join("flow")).unwrap(), b"changed");
            assert_eq!(std::fs::read(paths[0].join("flow")).unwrap(), b"low");
        }
    }

    #[test]
    fn more_layers_than_the_kernel_takes_are_refused_with_a_way_out() {
        let lowers: Vec<PathBuf> = (0..=MAX_LAYERS)
            .map(|i| PathBuf::from(i.to_string()))
            .collect();
        let overlay = Overlay {
            lowers: &lowers,
            changes: None,
            user_namespace: false,
        };
        let none = MountAttrFlags::empty();
        let error = overlay
            .mount(none, Place::Shared, Stage::RootFs)
            .unwrap_err();
        assert!(error.detail.starts_with("501 layers"), "{error}");
        assert!(error.detail.contains("begin a stage"), "{error}");
    }
}
