//! The file systems of the kernel that every sandbox has: `/proc`, `/dev` and
//! below, `/sys`; and the parts of them that a confined payload may not use.
//! Which and with what options: as observed in a BuildKit step.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::detached;
use crate::error::{At, SetupError, Stage};
use crate::host::Host;
use crate::new_fs::NewFs;
use crate::spec::{Profile, SandboxSpec, Security};
use crate::sys;
use crate::walk::{self, Create};

const STAGE: Stage = Stage::SystemMounts;

/// Device nodes, with the numbers they must have on the host to be lent.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Also lent to an unconfined payload, as far as the host has them.
pub(super) const MORE_DEVICES: [&str; 13] = [
    "kmsg",
    "cuse",
    "fuse",
    "kvm",
    "loop-control",
    "loop0",
    "loop1",
    "loop2",
    "loop3",
    "loop4",
    "loop5",
    "loop6",
    "loop7",
];

const DEV_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Hidden from the payload: an empty directory or an empty file is there.
pub(super) const MASKED: [&str; 11] = [
    "proc/acpi",
    "proc/asound",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "proc/scsi",
    "sys/firmware",
    "sys/devices/virtual/powercap",
];

pub(super) const READ_ONLY: [&str; 5] = [
    "proc/bus",
    "proc/fs",
    "proc/irq",
    "proc/sys",
    "proc/sysrq-trigger",
];

/// As BuildKit's: also when the host has more memory.
pub(super) const DEV_SIZE: &str = "65536k";

/// The detached file systems.
pub(super) struct KernelFs {
    proc: OwnedFd,
    /// The processes it shows are the host's.
    pub(super) proc_is_hosts: bool,
    dev: OwnedFd,
    devices: Vec<(&'static str, OwnedFd)>,
    /// Below `/dev`, in order.
    below_dev: Vec<(&'static str, OwnedFd)>,
    sys: Option<OwnedFd>,
    cgroup: Option<OwnedFd>,
}

pub(super) fn private() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV
}

/// Opens them. The kernel lets a user namespace mount `/proc` and `/sys` only
/// while the host's are visible, so it happens before the host's are left.
pub(super) fn open(spec: &SandboxSpec, host: &Host) -> Result<KernelFs, SetupError> {
    let strict = spec.profile == Profile::FrontendStrict;
    let (proc, proc_is_hosts) = procfs(strict, host)?;
    let insecure = spec.security == Security::Insecure;
    let dev = dev(strict, insecure)?;
    let mut devices = Vec::with_capacity(DEVICES.len());
    for (name, major, minor) in DEVICES {
        if !(strict && name == "tty") {
            devices.push((name, host_device(name, major, minor)?));
        }
    }
    if insecure {
        for name in MORE_DEVICES {
            let path = Path::new("/dev").join(name);
            if let Ok(node) = detached::clone_tree(rustix::fs::CWD, &path, false) {
                make_device_file(&dev, name)?;
                devices.push((name, node));
            }
        }
    }
    let mut below_dev = Vec::new();
    if !strict {
        below_dev.push(("pts", devpts(host)?));
        let overridden = |path: &str| spec.mounts.iter().any(|m| m.dest == path);
        if !overridden("/dev/shm") {
            let options = [("mode", "1777"), ("size", DEV_SIZE)];
            below_dev.push(("shm", detached::tmpfs(&options, private(), STAGE)?));
        }
        below_dev.push(("mqueue", NewFs::open("mqueue", STAGE)?.mount(private())?));
    }
    let (sys, cgroup) = if strict {
        (None, None)
    } else {
        (sysfs(spec, host)?, cgroupfs(spec, host))
    };
    Ok(KernelFs {
        proc,
        proc_is_hosts,
        dev,
        devices,
        below_dev,
        sys,
        cgroup,
    })
}

/// The sandbox's own `/proc`, and whether it had to be the host's instead: a
/// user namespace may only mount one if no part of the one outside is hidden,
/// as container engines do by default.
fn procfs(strict: bool, host: &Host) -> Result<(OwnedFd, bool), SetupError> {
    let fs = NewFs::open("proc", STAGE)?;
    if strict {
        fs.set("subset", "pid")?;
    }
    match fs.mount(private()) {
        Err(error) if error.errno == libc::EPERM && host.user_namespace => {
            let what = || "lending the host's /proc".to_owned();
            let proc =
                detached::clone_tree(rustix::fs::CWD, Path::new("/proc"), true).at(STAGE, what)?;
            let attributes = u64::from(private().bits());
            sys::mount_setattr(proc.as_fd(), c"", true, attributes, 0).at(STAGE, what)?;
            Ok((proc, true))
        }
        result => Ok((result?, false)),
    }
}

/// What a device node is mounted on.
fn make_device_file(dev: &OwnedFd, name: &str) -> Result<(), SetupError> {
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(dev, name, FileType::RegularFile, mode, 0)
        .at(STAGE, || format!("making /dev/{name}"))
}

fn dev(strict: bool, insecure: bool) -> Result<OwnedFd, SetupError> {
    let options = [("mode", "755"), ("size", DEV_SIZE)];
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    if !insecure {
        // No device node made here can be opened; those that can are lent by
        // the host one by one.
        attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    let dev = detached::tmpfs(&options, attributes, STAGE)?;
    let what = || "filling /dev".to_owned();
    for (name, _, _) in DEVICES {
        if strict && name == "tty" {
            continue;
        }
        make_device_file(&dev, name)?;
    }
    for (name, target) in DEV_LINKS {
        if !(strict && name == "ptmx") {
            rustix::fs::symlinkat(target, &dev, name).at(STAGE, what)?;
        }
    }
    if !strict {
        for name in ["pts", "shm", "mqueue"] {
            rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).at(STAGE, what)?;
        }
    }
    Ok(dev)
}

/// A detached copy of one of the host's device nodes, after making sure that
/// it is the device it says.
fn host_device(name: &str, major: u32, minor: u32) -> Result<OwnedFd, SetupError> {
    let path = Path::new("/dev").join(name);
    let what = || path.display().to_string();
    let node = detached::clone_tree(rustix::fs::CWD, &path, false).at(STAGE, what)?;
    let stat = rustix::fs::fstat(&node).at(STAGE, what)?;
    let is_it = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(major, minor);
    if !is_it {
        let detail = format!("{} is not character device {major}:{minor}", what());
        return Err(SetupError::new(STAGE, 0, detail));
    }
    let attributes = sys::ATTR_NOSUID | sys::ATTR_NOEXEC;
    sys::mount_setattr(node.as_fd(), c"", false, attributes, 0).at(STAGE, what)?;
    Ok(node)
}

fn devpts(host: &Host) -> Result<OwnedFd, SetupError> {
    let fs = NewFs::open("devpts", STAGE)?;
    fs.flag("newinstance")?;
    fs.set("ptmxmode", "0666")?;
    fs.set("mode", "0620")?;
    if host.tty_group {
        fs.set("gid", "5")?;
    }
    fs.mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

/// A user namespace may mount sysfs only together with a network namespace of
/// its own; else the host's is lent, read-only throughout.
pub(super) fn sysfs(spec: &SandboxSpec, host: &Host) -> Result<Option<OwnedFd>, SetupError> {
    let mut attributes = private();
    if spec.security == Security::Sandbox {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    if !host.user_namespace || spec.network.is_ours() {
        return Ok(Some(NewFs::open("sysfs", STAGE)?.mount(attributes)?));
    }
    let Ok(tree) = detached::clone_tree(rustix::fs::CWD, Path::new("/sys"), true) else {
        return Ok(None);
    };
    let attributes = u64::from((private() | MountAttrFlags::MOUNT_ATTR_RDONLY).bits());
    let lent = sys::mount_setattr(tree.as_fd(), c"", true, attributes, 0);
    Ok(lent.is_ok().then_some(tree))
}

/// The sandbox's view of its own control group; only where the host has
/// nothing but version 2.
pub(super) fn cgroupfs(spec: &SandboxSpec, host: &Host) -> Option<OwnedFd> {
    if !host.pure_cgroup2 {
        return None;
    }
    let mut attributes = private();
    if spec.security == Security::Sandbox {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    NewFs::open("cgroup2", STAGE).ok()?.mount(attributes).ok()
}

impl KernelFs {
    /// Attaches them inside the root. Mount points that the root lacks are
    /// made and stay, as under BuildKit.
    ///
    /// Returns `/dev/null`, opened before any mount of the caller could cover
    /// it.
    pub(super) fn attach(self, root: BorrowedFd<'_>) -> Result<OwnedFd, SetupError> {
        attach_dir(root, "proc", &self.proc)?;
        attach_dir(root, "dev", &self.dev)?;
        for (name, node) in &self.devices {
            let target = rustix::fs::openat(
                &self.dev,
                *name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            );
            target
                .and_then(|target| detached::attach(node.as_fd(), target.as_fd()))
                .at(STAGE, || format!("/dev/{name}"))?;
        }
        for (name, mount) in &self.below_dev {
            attach_dir(self.dev.as_fd(), name, mount)?;
        }
        if let Some(sys) = &self.sys {
            attach_dir(root, "sys", sys)?;
            if let Some(cgroup) = &self.cgroup {
                attach_dir(root, "sys/fs/cgroup", cgroup)?;
            }
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dev, "null", flags, Mode::empty()).at(STAGE, || "/dev/null".into())
    }
}

fn attach_dir(root: BorrowedFd<'_>, path: &str, mount: &OwnedFd) -> Result<(), SetupError> {
    let what = || format!("/{path}");
    // A link in place of /proc or /dev could only be there to mislead.
    let target = walk::resolve(root, Path::new(path), Create::Directory).at(STAGE, what)?;
    if target.path != Path::new(path) {
        let detail = format!("/{path} is a symbolic link in the root file system");
        return Err(SetupError::new(STAGE, 0, detail));
    }
    detached::attach(mount.as_fd(), target.fd.as_fd()).at(STAGE, what)
}

/// Hides and write-protects what a confined payload may not reach.
pub(super) fn confine(root: BorrowedFd<'_>, null: BorrowedFd<'_>) -> Result<(), SetupError> {
    let mut empty: Option<OwnedFd> = None;
    for path in MASKED {
        let Some(target) = open_if_there(root, path)? else {
            continue;
        };
        let what = || format!("hiding /{path}");
        let stat = rustix::fs::fstat(&target).at(STAGE, what)?;
        let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            match &empty {
                None => {
                    let attributes = private() | MountAttrFlags::MOUNT_ATTR_RDONLY;
                    detached::tmpfs(&[("size", "4k")], attributes, STAGE)?
                }
                Some(attached) => {
                    detached::clone_tree(attached.as_fd(), Path::new(""), false).at(STAGE, what)?
                }
            }
        } else {
            detached::clone_tree(null, Path::new(""), false).at(STAGE, what)?
        };
        detached::attach(cover.as_fd(), target.as_fd()).at(STAGE, what)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            empty.get_or_insert(cover);
        }
    }
    for path in READ_ONLY {
        let Some(target) = open_if_there(root, path)? else {
            continue;
        };
        let what = || format!("write-protecting /{path}");
        let copy = detached::clone_tree(target.as_fd(), Path::new(""), true).at(STAGE, what)?;
        let attributes = sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOEXEC;
        sys::mount_setattr(copy.as_fd(), c"", true, attributes, 0).at(STAGE, what)?;
        detached::attach(copy.as_fd(), target.as_fd()).at(STAGE, what)?;
    }
    Ok(())
}

fn open_if_there(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, SetupError> {
    match walk::resolve(root, Path::new(path), Create::Nothing) {
        Ok(resolved) => Ok(Some(resolved.fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(SetupError::new(STAGE, errno, format!("/{path}"))),
    }
}
