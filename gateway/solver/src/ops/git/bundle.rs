//! Bundles: a repository's commits in one file, taken in the place of the repository, or made of it.

use std::path::Path;
use std::sync::Arc;

use gateway_api::Error;

use super::checkout::{Checkout, borrow};
use super::identifier::{Bundle, Git, is_commit};
use super::program::Program;
use super::remote::Resolved;
use super::repository;
use crate::job::JobInner;
use crate::shared::Outcome;
use crate::solve::internal;

/// The file that a checkout as a bundle consists of.
const FILE: &str = "bundle";
/// The name in a bundle of a commit that was asked for by its own name.
const NAMELESS: &str = "refs/heads/main";

/// The commit, when the source says it without the bundle being looked at.
///
/// # Errors
/// When it contradicts itself.
pub fn known(git: &Git) -> Outcome<Option<Resolved>> {
    if !git.reference.is_empty() && !is_commit(&git.reference) {
        return Ok(None);
    }
    let commit = match git.reference.as_str() {
        "" => git.checksum.as_str(),
        reference => reference,
    };
    if !commit.starts_with(&git.checksum) {
        return Err(Error::unknown(format!(
            "expected checksum to match {}, got {commit}",
            git.checksum
        )));
    }
    if !is_commit(commit) {
        return Err(Error::unknown(format!(
            "git.bundle without a ref requires a full commit SHA checksum, got {commit:?}"
        )));
    }
    Ok(Some(Resolved {
        reference: commit.to_owned(),
        checksum: commit.to_owned(),
        commit: None,
    }))
}

/// Brings what the bundle has into our copy of the repository. `program` has the bundle as its
/// origin.
pub async fn import(program: &Program, bundle: &Bundle, resolved: &Resolved) -> Outcome<()> {
    let shown = &bundle.locator;
    // By names that no two bundles share.
    let spec = format!(
        "+refs/*:refs/bundles/{}/*",
        bundle.digest().trim_start_matches("sha256:")
    );
    program
        .run(&["fetch", "--no-tags", "--", "origin", &spec])
        .await
        .map_err(|error| error.context(format!("failed to import git bundle {shown}")))?;
    if repository::has(program, &resolved.checksum).await? {
        return Ok(());
    }
    Err(Error::unknown(format!(
        "commit {} not found in bundle {shown}",
        resolved.checksum
    )))
}

/// A bundle of the commit and all before it. Bundles say nothing of missing parents, so that one
/// of a shallow repository is no use to anybody: the history is fetched first.
pub async fn create(
    job: &Arc<JobInner>,
    program: &Program,
    git: &Git,
    resolved: &Resolved,
    copy: &Path,
) -> Outcome<Checkout> {
    repository::deepen(job, program, git, resolved, copy).await?;
    let work = job.store().work_dir().map_err(internal)?;
    let dir = work.sub("tree").map_err(internal)?;
    let program = Program {
        origin: None,
        ..program.clone()
    };
    let git_dir = borrow(&program, resolved, copy, &work).await?;
    let program = program.of(&git_dir, None);
    let (name, file) = (target(git), dir.join(FILE));
    let failed = |error: Error| {
        error.context(format!(
            "failed to create git bundle for {}",
            resolved.checksum
        ))
    };
    let object = match name.starts_with("refs/tags/") {
        true => &resolved.checksum,
        // Branches lead to commits.
        false => &format!("{}^{{commit}}", resolved.checksum),
    };
    let object = program.text(&["rev-parse", object]).await?;
    program
        .run(&["update-ref", &name, &object])
        .await
        .map_err(failed)?;
    let path = file.to_string_lossy();
    // One thread packs the same way each time.
    let args = [
        "-c",
        "pack.threads=1",
        "bundle",
        "create",
        "--quiet",
        &path,
        &name,
    ];
    program.run(&args).await.map_err(failed)?;
    Ok(Checkout { work, dir })
}

/// The name of the commit in a bundle: as asked for. Short names are taken for branches.
fn target(git: &Git) -> String {
    let reference = git.reference.as_str();
    if reference.is_empty() || is_commit(reference) {
        return NAMELESS.to_owned();
    }
    if reference.starts_with("refs/tags/") {
        return reference.to_owned();
    }
    let name = reference.strip_prefix("refs/").unwrap_or(reference);
    format!("refs/heads/{}", name.strip_prefix("heads/").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(reference: &str, checksum: &str) -> Git {
        Git {
            reference: reference.to_owned(),
            checksum: checksum.to_owned(),
            ..Git::default()
        }
    }

    #[test]
    fn a_name_in_a_bundle_is_that_which_was_asked_for() {
        for (reference, name) in [
            ("", "refs/heads/main"),
            ("v1", "refs/heads/v1"),
            ("heads/x", "refs/heads/x"),
            ("refs/heads/x", "refs/heads/x"),
            ("refs/tags/v1", "refs/tags/v1"),
        ] {
            assert_eq!(target(&git(reference, "")), name, "{reference}");
        }
        assert_eq!(target(&git(&"a".repeat(40), "")), "refs/heads/main");
    }

    #[test]
    fn a_commit_is_known_without_the_bundle_and_a_name_is_not() {
        let commit = "a".repeat(40);
        for reference in ["", &commit] {
            let found = known(&git(reference, &commit)).unwrap().unwrap();
            assert_eq!(found.checksum, commit);
        }
        assert_eq!(known(&git("main", &commit)).unwrap(), None);
        assert!(known(&git(&commit, "bb")).is_err());
        assert!(known(&git("", "aa")).is_err());
    }
}
