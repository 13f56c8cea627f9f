//! A commit's files as a directory: with or without `.git`, whole or a folder of it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway_api::Error;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::identifier::{Git, is_commit};
use super::program::Program;
use super::remote::Resolved;
use super::repository::{create, shallow};
use crate::job::JobInner;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::WorkDir;

/// Deepest folder: of more nothing good can come.
const MAX_DEPTH: usize = 512;

/// A finished checkout; `dir` is in `work`.
pub struct Checkout {
    pub work: WorkDir,
    pub dir: PathBuf,
}

/// Checks out from our copy of the repository.
pub async fn checkout(
    job: &Arc<JobInner>,
    program: &Program,
    git: &Git,
    resolved: &Resolved,
    copy: &Path,
) -> Outcome<Checkout> {
    let work = job.store().work_dir().map_err(internal)?;
    let tree = work.sub("tree").map_err(internal)?;
    let keep = git.keep_git_dir && git.subdir.is_empty();
    let program = Program {
        origin: None,
        ..program.clone()
    };
    let failed = |error: Error| error.context(format!("failed to checkout remote {}", git.shown()));
    let inside = match keep {
        true => kept(&program, git, resolved, copy, &tree).await,
        false => borrowed(&program, resolved, copy, &work, &tree).await,
    };
    let inside = inside.map_err(failed)?;
    let is_file = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file());
    if !git.skip_submodules && is_file(&tree.join(".gitmodules")) {
        // Addresses of submodules may be relative to that of the repository.
        let inside = Program {
            origin: Some(git.shown()).filter(|_| !keep),
            ..inside.clone()
        };
        let args = ["submodule", "update", "--init", "--recursive", "--depth=1"];
        shallow(&inside, &args).await.map_err(|error| {
            error.context(format!("failed to update submodules for {}", git.shown()))
        })?;
    }
    let time = match git.mtime.as_str() {
        "commit" => Some(commit_time(&inside, resolved).await?),
        _ => None,
    };
    let subdir = git.subdir.clone();
    blocking(move || {
        tidy(&tree, keep, time, 0).map_err(internal)?;
        let dir = folder(&tree, &subdir)?;
        Ok(Checkout { work, dir })
    })
    .await
}

/// A repository of its own beside the files, with one commit.
async fn kept(
    program: &Program,
    git: &Git,
    resolved: &Resolved,
    copy: &Path,
    tree: &Path,
) -> Outcome<Program> {
    let git_dir = tree.join(".git");
    create(program, &git_dir, Some(tree), resolved.is_sha256()).await?;
    let inside = program.of(&git_dir, Some(tree));
    // By the protocol: a clone by links could be led to other files.
    let from = format!("file://{}", copy.display());
    let object = format!("refs/gateway/{}", resolved.checksum);
    let spec = match is_commit(&resolved.reference) {
        true => object,
        false => format!("+{object}:{}", resolved.reference),
    };
    inside
        .run(&[
            "fetch",
            "--update-head-ok",
            "--no-tags",
            "--depth=1",
            "--",
            &from,
            &spec,
        ])
        .await?;
    inside
        .run(&[
            "checkout",
            "--quiet",
            "--force",
            "--detach",
            &resolved.checksum,
        ])
        .await?;
    inside
        .run(&["config", "remote.origin.url", &git.shown()])
        .await?;
    let fetch = "+refs/heads/*:refs/remotes/origin/*";
    inside
        .run(&["config", "remote.origin.fetch", fetch])
        .await?;
    for left in ["FETCH_HEAD", "logs"] {
        let path = git_dir.join(left);
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_dir_all(&path);
    }
    Ok(inside)
}

/// The files alone; the objects stay where they are.
async fn borrowed(
    program: &Program,
    resolved: &Resolved,
    copy: &Path,
    work: &WorkDir,
    tree: &Path,
) -> Outcome<Program> {
    let git_dir = borrow(program, resolved, copy, work).await?;
    let inside = program.of(&git_dir, Some(tree));
    inside
        .run(&[
            "checkout",
            "--quiet",
            "--force",
            "--detach",
            resolved.checked_out(),
        ])
        .await?;
    Ok(inside)
}

/// A repository that has the objects of our copy, and nothing else.
pub async fn borrow(
    program: &Program,
    resolved: &Resolved,
    copy: &Path,
    work: &WorkDir,
) -> Outcome<PathBuf> {
    let git_dir = work.sub("git").map_err(internal)?;
    create(program, &git_dir, None, resolved.is_sha256()).await?;
    let info = git_dir.join("objects/info");
    let alternates = format!("{}\n", copy.join("objects").display());
    std::fs::create_dir_all(&info).map_err(internal)?;
    std::fs::write(info.join("alternates"), alternates).map_err(internal)?;
    match std::fs::copy(copy.join("shallow"), git_dir.join("shallow")) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(internal(error)),
    }
    Ok(git_dir)
}

async fn commit_time(program: &Program, resolved: &Resolved) -> Outcome<i64> {
    let commit = format!("{}^{{commit}}", resolved.checksum);
    let text = program
        .text(&["log", "-1", "--format=%ct", &commit])
        .await?;
    text.parse()
        .map_err(|_| Error::unknown(format!("failed to parse commit timestamp {text:?}")))
}

/// Makes the files what they would be on any machine: modes without the umask, no links to where
/// submodules have their repositories, times if asked for.
fn tidy(path: &Path, keep: bool, time: Option<i64>, depth: usize) -> std::io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(std::io::Error::other("folders are nested too deeply"));
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let (name, kind, path) = (entry.file_name(), entry.file_type()?, entry.path());
        let is_git = name == ".git";
        if kind.is_dir() {
            // What git wrote for itself keeps its modes.
            match is_git {
                true => times_below(&path, time, depth + 1)?,
                false => tidy(&path, keep, time, depth + 1)?,
            }
            continue;
        }
        if is_git && !keep {
            std::fs::remove_file(&path)?;
            continue;
        }
        if kind.is_file() {
            let mode = entry.metadata()?.permissions().mode() & 0o7777;
            let wanted = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
            if mode != wanted {
                std::fs::set_permissions(&path, Permissions::from_mode(wanted))?;
            }
        }
        set_time(&path, time)?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o755))?;
    set_time(path, time)
}

fn times_below(path: &Path, time: Option<i64>, depth: usize) -> std::io::Result<()> {
    if time.is_none() {
        return Ok(());
    }
    if depth > MAX_DEPTH {
        return Err(std::io::Error::other("folders are nested too deeply"));
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => times_below(&entry.path(), time, depth + 1)?,
            false => set_time(&entry.path(), time)?,
        }
    }
    set_time(path, time)
}

fn set_time(path: &Path, time: Option<i64>) -> std::io::Result<()> {
    let Some(seconds) = time else {
        return Ok(());
    };
    let at = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: at,
        last_modification: at,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A folder of the tree. None of its parents may be a link.
fn folder(tree: &Path, subdir: &str) -> Outcome<PathBuf> {
    let wrong = |why: &str| Error::unknown(format!("invalid subdir {subdir}: {why}"));
    let mut dir = tree.to_owned();
    for part in subdir.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            return Err(wrong("it leads out of the repository"));
        }
        dir.push(part);
        match std::fs::symlink_metadata(&dir) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(wrong("not a directory")),
            Err(error) => return Err(wrong(&error.to_string())),
        }
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_reached_by_real_folders_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(folder(dir.path(), "a/b").unwrap(), dir.path().join("a/b"));
        assert_eq!(folder(dir.path(), "").unwrap(), dir.path());
        for bad in ["link/b", "link", "file", "none", "a/../..", ".."] {
            assert!(folder(dir.path(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes_do_not_depend_on_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d/f");
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(&file, "").unwrap();
        std::fs::write(dir.path().join("d/.git"), "gitdir: elsewhere").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
        tidy(dir.path(), false, Some(5), 0).unwrap();
        let metadata = std::fs::metadata(&file).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
        let since = metadata.modified().unwrap();
        let since = since.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_secs(), 5);
        assert!(!dir.path().join("d/.git").exists());
    }
}
