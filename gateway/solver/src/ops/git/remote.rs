//! Which commit a name means, by asking the remote repository.

use gateway_api::Error;

use super::identifier::{Git, is_commit};
use super::program::Program;
use crate::shared::Outcome;

/// What a name meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The full name; a commit's own when the source named one.
    pub reference: String,
    /// The object: a commit, or an annotated tag.
    pub checksum: String,
    /// The commit behind an annotated tag.
    pub commit: Option<String>,
}

impl Resolved {
    fn commit(id: &str) -> Resolved {
        Resolved {
            reference: id.to_owned(),
            checksum: id.to_owned(),
            commit: None,
        }
    }

    /// The commit that is checked out.
    pub fn checked_out(&self) -> &str {
        self.commit.as_deref().unwrap_or(&self.checksum)
    }

    pub fn is_sha256(&self) -> bool {
        self.checksum.len() == 64
    }
}

/// The answer when nobody needs to be asked.
///
/// # Errors
/// When the source contradicts itself.
pub fn known(git: &Git) -> Outcome<Option<Resolved>> {
    if is_commit(&git.reference) {
        if !git.reference.starts_with(&git.checksum) {
            return Err(mismatch(&git.checksum, &git.reference));
        }
        return Ok(Some(Resolved::commit(&git.reference)));
    }
    if !git.fetch_by_commit {
        return Ok(None);
    }
    if git.checksum.is_empty() {
        return Err(Error::unknown(
            "fetch-by-commit requires a checksum or a commit SHA ref",
        ));
    }
    if !is_commit(&git.checksum) {
        return Err(Error::unknown(format!(
            "fetch-by-commit requires a full commit SHA checksum, got {:?}",
            git.checksum
        )));
    }
    let mut resolved = Resolved::commit(&git.checksum);
    if git.reference.starts_with("refs/") {
        resolved.reference = git.reference.clone();
    } else if !git.reference.is_empty() {
        resolved.reference = format!("refs/heads/{}", git.reference);
    }
    Ok(Some(resolved))
}

fn mismatch(wanted: &str, found: &str) -> Error {
    Error::unknown(format!("expected checksum to match {wanted}, got {found}"))
}

/// Asks the repository behind `origin`.
pub async fn ask(program: &Program, git: &Git) -> Outcome<Resolved> {
    let resolved = if git.reference.is_empty() {
        let args = ["ls-remote", "--symref", "--", "origin", "HEAD"];
        let output = program.text(&args).await.map_err(|error| {
            let shown = git.shown();
            error.context(format!(
                "error fetching default branch for repository {shown}"
            ))
        })?;
        default_branch(&output).ok_or_else(|| {
            Error::unknown(format!(
                "could not find default branch for repository: {}",
                git.shown()
            ))
        })?
    } else {
        let peeled = format!("{}^{{}}", git.reference);
        let args = ["ls-remote", "--", "origin", &git.reference, &peeled];
        let output = program
            .text(&args)
            .await
            .map_err(|error| error.context(format!("failed to fetch remote {}", git.shown())))?;
        choose(&output, &git.reference).ok_or_else(|| {
            Error::unknown(format!(
                "repository does not contain ref {}, output: {output:?}",
                git.reference
            ))
        })?
    };
    if !is_commit(&resolved.checksum) {
        return Err(Error::unknown(format!(
            "invalid commit sha {:?}",
            resolved.checksum
        )));
    }
    let commit = resolved.commit.as_deref();
    let fits = resolved.checksum.starts_with(&git.checksum)
        || commit.is_some_and(|commit| commit.starts_with(&git.checksum));
    if !fits {
        let found = match commit {
            Some(commit) => format!("{} or {commit}", resolved.checksum),
            None => resolved.checksum,
        };
        return Err(mismatch(&git.checksum, &found));
    }
    Ok(Resolved {
        // With `.git` kept, the tag object is part of what is checked out.
        commit: resolved.commit.filter(|_| !git.keep_git_dir),
        ..resolved
    })
}

/// `ref: refs/heads/main<tab>HEAD` and `<commit><tab>HEAD`.
fn default_branch(output: &str) -> Option<Resolved> {
    let lines = || output.lines().filter_map(|line| line.split_once('\t'));
    let of_head = || {
        lines()
            .filter(|(_, name)| *name == "HEAD")
            .map(|(text, _)| text)
    };
    let reference = of_head()
        .find_map(|text| text.strip_prefix("ref: "))
        .filter(|name| name.starts_with("refs/heads/"))?;
    let commit = of_head().find(|text| !text.starts_with("ref: "))?;
    Some(Resolved {
        reference: reference.to_owned(),
        checksum: commit.to_owned(),
        commit: None,
    })
}

/// A full name before a branch before a tag, as git checks out.
fn choose(output: &str, reference: &str) -> Option<Resolved> {
    let below = |prefix: &str| {
        let rest = reference.strip_prefix(prefix).unwrap_or(reference);
        format!("{prefix}{rest}")
    };
    let find = |name: &str| {
        output
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .find(|(_, found)| *found == name)
            .map(|(id, _)| id.to_owned())
    };
    let (full, branch, tag) = (below("refs/"), below("refs/heads/"), below("refs/tags/"));
    let exact = |name: &str| {
        find(name).map(|checksum| Resolved {
            reference: name.to_owned(),
            checksum,
            commit: None,
        })
    };
    let tagged = |name: &str| {
        exact(name).map(|resolved| Resolved {
            commit: find(&format!("{name}^{{}}")),
            ..resolved
        })
    };
    let by_full = || match full.starts_with("refs/tags/") {
        true => tagged(&full),
        false => exact(&full),
    };
    by_full()
        .or_else(|| exact(&branch))
        .or_else(|| tagged(&tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn a_branch_comes_before_a_tag_and_a_tag_leads_to_its_commit() {
        let both = format!("{A}\trefs/heads/v1\n{B}\trefs/tags/v1\n");
        let found = choose(&both, "v1").unwrap();
        assert_eq!(
            (found.reference.as_str(), found.checksum.as_str()),
            ("refs/heads/v1", A)
        );
        assert_eq!(choose(&both, "refs/tags/v1").unwrap().checksum, B);
        let annotated = format!("{A}\trefs/tags/v1\n{B}\trefs/tags/v1^{{}}\n");
        for name in ["v1", "refs/tags/v1", "tags/v1"] {
            let found = choose(&annotated, name).unwrap();
            assert_eq!(found.checksum, A);
            assert_eq!(found.checked_out(), B, "{name}");
        }
        assert_eq!(choose(&both, "1"), None);
    }

    #[test]
    fn the_default_branch_is_where_head_points() {
        let output = format!("ref: refs/heads/main\tHEAD\n{A}\tHEAD\n{B}\trefs/remotes/x/HEAD");
        let found = default_branch(&output).unwrap();
        assert_eq!(
            (found.reference.as_str(), found.checksum.as_str()),
            ("refs/heads/main", A)
        );
        assert_eq!(default_branch(&format!("{A}\tHEAD")), None);
    }

    #[test]
    fn a_commit_needs_nobody_to_be_asked() {
        let mut git = Git {
            reference: A.into(),
            ..Git::default()
        };
        assert_eq!(known(&git).unwrap().unwrap().checksum, A);
        git.checksum = "aaaa".into();
        assert!(known(&git).is_ok());
        git.checksum = "bbbb".into();
        assert_eq!(
            known(&git).unwrap_err().message,
            format!("expected checksum to match bbbb, got {A}")
        );
    }
}
