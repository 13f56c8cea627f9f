//! The actions of a file op (mkfile, mkdir, symlink, rm, copy), applied to a merged view.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicBool;

use gateway_llb::pb;
use gateway_llb::pb::file_action::Action;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::chmod::ModeChange;
use super::content;
use super::copy::{CopyOptions, CopyStats, copy_seeing};
use super::error::{FsError, lossy};
use super::gopath;
use super::owner;
use super::root::{self, Owner, Root};
use super::unpack;
use super::visible::Visible;
use super::wildcard;

/// The file systems that one action works with, as plain directories.
#[derive(Debug, Clone, Copy)]
pub struct ActionInputs<'a> {
    /// What the action changes.
    pub target: &'a Root,
    /// What a copy reads; `None` is an empty one.
    pub source: Option<&'a Root>,
    /// Where user names are looked up: the input that the action's owner names.
    pub users: Option<&'a Root>,
    /// Where group names are looked up.
    pub groups: Option<&'a Root>,
    /// Stop soon after this becomes true.
    pub cancel: Option<&'a AtomicBool>,
}

/// Applies one action.
pub fn apply(action: &pb::FileAction, inputs: &ActionInputs<'_>) -> Result<CopyStats, FsError> {
    apply_seeing(action, inputs, None)
}

/// Applies one action whose source is a local source in place: of it only `visible` is there.
pub fn apply_seeing(
    action: &pb::FileAction,
    inputs: &ActionInputs<'_>,
    visible: Option<&Visible>,
) -> Result<CopyStats, FsError> {
    let owner = |chown: Option<&pb::ChownOpt>| owner::resolve(chown, inputs.users, inputs.groups);
    let root = inputs.target;
    match &action.action {
        Some(Action::Mkfile(file)) => mkfile(root, file, owner(file.owner.as_ref())?)?,
        Some(Action::Mkdir(dir)) => mkdir(root, dir, owner(dir.owner.as_ref())?)?,
        Some(Action::Symlink(link)) => symlink(root, link, owner(link.owner.as_ref())?)?,
        Some(Action::Rm(rm)) => remove(root, rm)?,
        Some(Action::Copy(action)) => {
            let owner = owner(action.owner.as_ref())?;
            return copy_action(action, inputs, owner, visible);
        }
        None => return Err(FsError::Invalid("invalid empty file action".into())),
    }
    Ok(CopyStats::default())
}

/// Nanoseconds of an action; -1 leaves the time that the change itself brings.
fn time(timestamp: i64) -> Option<i128> {
    (timestamp != -1).then_some(timestamp.into())
}

fn bits(mode: i32) -> u32 {
    mode.cast_unsigned() & 0o777
}

/// Writes a file. One that exists keeps its mode; a link is followed inside the root.
fn mkfile(root: &Root, action: &pb::FileActionMkFile, owner: Option<Owner>) -> Result<(), FsError> {
    let path = root.resolve(action.path.as_bytes())?;
    let failed = |errno| FsError::path("open", &path, errno);
    let mode = Mode::from_raw_mode(bits(action.mode));
    let flags = OFlags::WRONLY | OFlags::NONBLOCK;
    let fd = match root.open_resolved(&path, flags | OFlags::CREATE | OFlags::EXCL, mode) {
        Ok(fd) => {
            // The umask may have taken bits away.
            rustix::fs::fchmod(&fd, mode).map_err(|errno| FsError::path("chmod", &path, errno))?;
            fd
        }
        Err(Errno::EXIST) => root
            .open_resolved(&path, flags | OFlags::TRUNC, Mode::empty())
            .map_err(failed)?,
        Err(errno) => return Err(failed(errno)),
    };
    content::write_all(fd.as_fd(), &action.data)
        .map_err(|errno| FsError::path("write", &path, errno))?;
    finish(root, &path, owner, time(action.timestamp))
}

/// Makes a directory. Without `makeParents` one that exists is left as it is.
fn mkdir(root: &Root, action: &pb::FileActionMkDir, owner: Option<Owner>) -> Result<(), FsError> {
    let path = root.resolve(action.path.as_bytes())?;
    let time = time(action.timestamp);
    if action.make_parents {
        root.mkdir_all(&path, bits(action.mode), owner, time)?;
        return Ok(());
    }
    let made = root
        .open_parent(&path)
        .and_then(|(dir, name)| root::make_dir(dir.as_fd(), name, bits(action.mode)));
    match made {
        Ok(()) => finish(root, &path, owner, time),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(FsError::path("mkdir", &path, errno)),
    }
}

fn symlink(
    root: &Root,
    action: &pb::FileActionSymlink,
    owner: Option<Owner>,
) -> Result<(), FsError> {
    let path = root.resolve(action.newpath.as_bytes())?;
    root.open_parent(&path)
        .and_then(|(dir, name)| {
            rustix::fs::symlinkat(action.oldpath.as_str(), &dir, OsStr::from_bytes(name))
        })
        .map_err(|errno| FsError::Link {
            op: "symlink",
            old: action.oldpath.clone(),
            new: lossy(&path),
            errno,
        })?;
    finish(root, &path, owner, time(action.timestamp))
}

/// Owner and time of what was just made.
fn finish(
    root: &Root,
    path: &[u8],
    owner: Option<Owner>,
    time: Option<i128>,
) -> Result<(), FsError> {
    if owner.is_none() && time.is_none() {
        return Ok(());
    }
    let (dir, name) = root
        .open_parent(path)
        .map_err(|errno| FsError::path("open", path, errno))?;
    if let Some(owner) = owner {
        root::chown(dir.as_fd(), name, owner)
            .map_err(|errno| FsError::path("lchown", path, errno))?;
    }
    if let Some(time) = time {
        root::set_times(dir.as_fd(), name, time, time)
            .map_err(|errno| root::utime_error(path, errno))?;
    }
    Ok(())
}

fn remove(root: &Root, action: &pb::FileActionRm) -> Result<(), FsError> {
    if !action.allow_wildcard {
        return remove_path(root, action.path.as_bytes(), action.allow_not_found);
    }
    let pattern = gopath::clean_keeping_tail(action.path.as_bytes());
    for path in wildcard::expand(root, &pattern, false, None)? {
        remove_path(root, &path, action.allow_not_found)?;
    }
    Ok(())
}

/// Removes one path with all below it; a link at its end is removed itself.
fn remove_path(root: &Root, path: &[u8], allow_missing: bool) -> Result<(), FsError> {
    let path = gopath::absolute(path);
    if path == b"/" {
        return Err(FsError::Invalid("rmPath: invalid empty path".into()));
    }
    let resolved = root.resolve_parent(&path)?;
    match root.lstat(&resolved) {
        Ok(_) => {}
        Err(error) if allow_missing && error.is_not_found() => return Ok(()),
        Err(FsError::Path { errno, .. }) => return Err(FsError::path("stat", &resolved, errno)),
        Err(error) => return Err(error),
    }
    root.open_parent(&resolved)
        .and_then(|(dir, name)| root::remove_all(dir.as_fd(), name))
        .map_err(|errno| FsError::path("unlinkat", &resolved, errno))
}

fn copy_action(
    action: &pb::FileActionCopy,
    inputs: &ActionInputs<'_>,
    owner: Option<Owner>,
    visible: Option<&Visible>,
) -> Result<CopyStats, FsError> {
    let source = gopath::clean_keeping_tail(action.src.as_bytes());
    let dest = gopath::clean_keeping_tail(action.dest.as_bytes());
    let to = inputs.target;
    if !action.create_dest_path {
        let parent = gopath::dir(&to.resolve(&dest)?);
        to.lstat(&parent)
            .map_err(|error| error.context(format!("failed to stat {}", action.dest)))?;
    }
    let Some(from) = inputs.source else {
        return Err(FsError::path("lstat", &source, Errno::NOENT));
    };
    let options = copy_options(action, owner, inputs.cancel)?;
    let sources = if action.allow_wildcard {
        let found = wildcard::expand(from, &source, action.follow_symlink, visible)?;
        if found.is_empty() && !action.allow_empty_wildcard {
            return Err(FsError::NoMatch(lossy(&source)));
        }
        found
    } else {
        vec![source]
    };
    let mut stats = CopyStats::default();
    for source in sources {
        if action.attempt_unpack_docker_compatibility
            && is_visible(from, &source, visible)?
            && unpack::unpack(from, &source, to, &dest, owner, options.time)?
        {
            check_unpacked(from, &source, visible)?;
            continue;
        }
        let copied = copy_seeing(from, &source, to, &dest, &options, visible)?;
        stats.files += copied.files;
        stats.bytes += copied.bytes;
    }
    Ok(stats)
}

/// What a copy action asks for, with its owner looked up.
pub fn copy_options<'a>(
    action: &'a pb::FileActionCopy,
    owner: Option<Owner>,
    cancel: Option<&'a AtomicBool>,
) -> Result<CopyOptions<'a>, FsError> {
    let mode_change = match action.mode_str.as_str() {
        "" => None,
        text => Some(ModeChange::parse(text).map_err(|error| FsError::Invalid(error.to_string()))?),
    };
    Ok(CopyOptions {
        owner,
        time: time(action.timestamp),
        // A symbolic mode leaves the directories made for the destination alone.
        mode: (mode_change.is_none() && action.mode != -1)
            .then_some(action.mode.cast_unsigned() & 0o7777),
        mode_change,
        follow: action.follow_symlink,
        contents: action.dir_copy_contents,
        replace: action.always_replace_existing_dest_paths,
        include: &action.include_patterns,
        exclude: &action.exclude_patterns,
        cancel,
    })
}

fn is_visible(root: &Root, path: &[u8], visible: Option<&Visible>) -> Result<bool, FsError> {
    match visible {
        None => Ok(true),
        Some(visible) => {
            let resolved = root.resolve(path)?;
            visible.check_resolved(path, &resolved)?;
            Ok(visible.has(&resolved))
        }
    }
}

/// Refuses an archive that may have changed since it was hashed: what came out of it cannot be
/// held against a digest.
fn check_unpacked(root: &Root, path: &[u8], visible: Option<&Visible>) -> Result<(), FsError> {
    let Some(visible) = visible else {
        return Ok(());
    };
    let resolved = root.resolve(path)?;
    let meta = root.lstat(&resolved)?;
    visible.check(&resolved, &meta)?;
    match visible.digest_wanted(&resolved, &meta)? {
        None => Ok(()),
        Some(_) => Err(FsError::Changed(lossy(&resolved))),
    }
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
