//! Our own copy of a remote repository: one for each address, with the commits that builds needed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway_api::Error;
use gateway_images::fail_point::fail_point;

use super::bundle;
use super::identifier::{Git, is_commit};
use super::program::Program;
use super::remote::Resolved;
use crate::job::JobInner;
use crate::shared::Outcome;
use crate::solve::internal;

/// Where fetched objects are kept from git's own cleaning.
fn kept(resolved: &Resolved) -> String {
    format!("refs/gateway/{}", resolved.checksum)
}

/// Brings the object into our copy; gives where that is.
pub async fn fetch(
    job: &Arc<JobInner>,
    program: &Program,
    git: &Git,
    resolved: &Resolved,
) -> Outcome<PathBuf> {
    let id = match resolved.is_sha256() {
        true => format!("{}.sha256", git.remote_id()),
        false => git.remote_id(),
    };
    let dir = job.store().git_dir(&id).map_err(internal)?;
    let _lock = job
        .store()
        .lock(&format!("git-{id}"))
        .await
        .map_err(internal)?;
    if !dir.join("HEAD").is_file() {
        init(job, program, &dir, resolved.is_sha256()).await?;
    }
    let program = program.of(&dir, None);
    if has(&program, &resolved.checksum).await? {
        return Ok(dir);
    }
    // Of a fetch that was killed.
    let _ = std::fs::remove_file(dir.join("shallow.lock"));
    if let Some(from) = &git.bundle {
        bundle::import(&program, from, resolved).await?;
        return Ok(dir);
    }
    let shown = |error: Error| error.context(format!("failed to fetch remote {}", git.shown()));
    let by_name = !is_commit(&resolved.reference) && !git.fetch_by_commit;
    if by_name {
        let spec = format!("+{}:{}", resolved.reference, kept(resolved));
        shallow(
            &program,
            &["fetch", "--no-tags", "--depth=1", "--", "origin", &spec],
        )
        .await
        .map_err(shown)?;
        let found = program.text(&["rev-parse", &kept(resolved)]).await?;
        if found == resolved.checksum {
            return Ok(dir);
        }
        // It moved since it was asked for; the cache key says the older one.
    }
    by_commit(&program, &dir, git, resolved).await?;
    program
        .run(&["update-ref", &kept(resolved), &resolved.checksum])
        .await?;
    Ok(dir)
}

/// Brings the whole history of the object into our copy.
pub async fn deepen(
    job: &Arc<JobInner>,
    program: &Program,
    git: &Git,
    resolved: &Resolved,
    copy: &Path,
) -> Outcome<()> {
    let name = copy.file_name().unwrap_or_default().to_string_lossy();
    let _lock = job
        .store()
        .lock(&format!("git-{name}"))
        .await
        .map_err(internal)?;
    if git.bundle.is_some() || !copy.join("shallow").exists() {
        return Ok(());
    }
    let program = program.of(copy, None);
    let _ = std::fs::remove_file(copy.join("shallow.lock"));
    let wanted = match is_commit(&resolved.reference) || git.fetch_by_commit {
        true => &resolved.checksum,
        false => &resolved.reference,
    };
    let args = ["fetch", "--no-tags", "--unshallow", "--", "origin", wanted];
    if program.attempt(&args).await?.is_ok() && !copy.join("shallow").exists() {
        return Ok(());
    }
    everything(&program, copy, git).await
}

/// Servers of today give any object that is asked for; others only what refs lead to.
async fn by_commit(program: &Program, dir: &Path, git: &Git, resolved: &Resolved) -> Outcome<()> {
    let alone = [
        "fetch",
        "--no-tags",
        "--depth=1",
        "--",
        "origin",
        &resolved.checksum,
    ];
    let refused = match program.attempt(&alone).await? {
        Ok(_) => None,
        Err(failure) => Some(failure.stderr),
    };
    if has(program, &resolved.checksum).await? {
        return Ok(());
    }
    everything(program, dir, git).await?;
    if has(program, &resolved.checksum).await? {
        return Ok(());
    }
    Err(Error::unknown(format!(
        "failed to fetch remote {}: commit {} can not be found in the repository{}",
        git.shown(),
        resolved.checksum,
        refused.map_or_else(String::new, |said| format!(": git stderr:\n{said}"))
    )))
}

/// All branches and tags with all their history.
async fn everything(program: &Program, dir: &Path, git: &Git) -> Outcome<()> {
    let mut all = vec!["fetch", "--no-tags"];
    if dir.join("shallow").exists() {
        all.push("--unshallow");
    }
    all.extend([
        "--",
        "origin",
        "+refs/heads/*:refs/remotes/origin/*",
        "+refs/tags/*:refs/tags/*",
    ]);
    if let Err(failure) = program.attempt(&all).await? {
        return Err(Error::unknown(format!(
            "failed to fetch remote {}: git stderr:\n{}",
            git.shown(),
            failure.stderr
        )));
    }
    Ok(())
}

pub async fn has(program: &Program, object: &str) -> Outcome<bool> {
    let commit = format!("{object}^{{commit}}");
    let found = program.attempt(&["cat-file", "-e", &commit]).await?;
    Ok(found.is_ok())
}

/// Without the depth again, for servers that know no depth.
pub async fn shallow(program: &Program, args: &[&str]) -> Outcome<Vec<u8>> {
    match program.attempt(args).await? {
        Ok(output) => Ok(output),
        Err(failure)
            if failure.stderr.contains("--depth") || failure.stderr.contains("shallow") =>
        {
            let args: Vec<&str> = args
                .iter()
                .copied()
                .filter(|arg| *arg != "--depth=1")
                .collect();
            program.run(&args).await
        }
        Err(failure) => Err(Error::unknown(format!("git stderr:\n{}", failure.stderr))),
    }
}

/// A new copy, whole before it is seen.
async fn init(job: &Arc<JobInner>, program: &Program, dir: &Path, sha256: bool) -> Outcome<()> {
    let work = job.store().work_dir().map_err(internal)?;
    let made = work.sub("repository").map_err(internal)?;
    create(program, &made, None, sha256).await?;
    let _ = std::fs::remove_dir_all(dir);
    fail_point("repository-unnamed");
    std::fs::rename(&made, dir).map_err(internal)
}

/// An empty repository without hooks and examples.
pub async fn create(
    program: &Program,
    git_dir: &Path,
    work_tree: Option<&Path>,
    sha256: bool,
) -> Outcome<()> {
    let mut args = vec!["init", "--quiet", "--template="];
    if work_tree.is_none() {
        args.push("--bare");
    }
    if sha256 {
        args.push("--object-format=sha256");
    }
    program.of(git_dir, work_tree).run(&args).await.map(drop)
}
