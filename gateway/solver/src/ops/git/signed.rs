//! Commits and tags that must be signed.

use std::path::Path;

use gateway_api::Error;

use super::identifier::{Git, SignedBy};
use super::program::Program;
use super::remote::Resolved;
use crate::shared::{Outcome, blocking};
use crate::signature::{GitObject, ObjectKind, Policy, SignatureError, verify_git_object};

/// What a name leads to, as the objects themselves say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// As git keeps it; empty when the name leads to a commit at once.
    pub tag: Vec<u8>,
    /// The commit's name.
    pub commit_name: String,
    pub commit: Vec<u8>,
}

/// Reads the objects from our copy of the repository.
pub async fn objects(program: &Program, copy: &Path, resolved: &Resolved) -> Outcome<Objects> {
    let program = program.of(copy, None);
    let name = &resolved.checksum;
    let mut objects = Objects {
        commit_name: name.clone(),
        ..Objects::default()
    };
    match program.text(&["cat-file", "-t", name]).await?.as_str() {
        "commit" => {}
        "tag" => {
            let peeled = format!("{name}^{{commit}}");
            objects.commit_name = program.text(&["rev-parse", &peeled]).await?;
            objects.tag = program.run(&["cat-file", "tag", name]).await?;
        }
        other => {
            return Err(Error::unknown(format!(
                "expected commit or tag object, got {other}"
            )));
        }
    }
    objects.commit = program
        .run(&["cat-file", "commit", &objects.commit_name])
        .await?;
    Ok(objects)
}

/// # Errors
/// The source is not signed as it must be.
pub async fn verify(
    git: &Git,
    signed_by: &SignedBy,
    resolved: &Resolved,
    objects: Objects,
) -> Outcome<()> {
    let used = resolved.checked_out();
    // What a server says of its tags is no proof.
    if used != objects.commit_name && used != resolved.checksum {
        return Err(Error::unknown(format!(
            "the repository says that {} leads to commit {used}, but it leads to {}",
            resolved.reference, objects.commit_name
        )));
    }
    let (signed_by, resolved) = (signed_by.clone(), resolved.clone());
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let checked = blocking(move || Ok(check(&signed_by, &resolved, &objects, now))).await?;
    checked.map_err(|error| {
        Error::unknown(format!("{}: {}", git.shown(), error.said)).with_help(error.help)
    })
}

/// Why, and what else may help to understand it.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    said: String,
    help: String,
}

impl From<SignatureError> for Refused {
    fn from(error: SignatureError) -> Refused {
        Refused {
            said: error.to_string(),
            help: String::new(),
        }
    }
}

/// A signed tag is enough, and so is a signed commit unless the tag is required: BuildKit's rules.
fn check(
    signed_by: &SignedBy,
    resolved: &Resolved,
    objects: &Objects,
    now: i64,
) -> Result<(), Refused> {
    let one = |raw: &[u8], kind: ObjectKind, name: &str| {
        let object = GitObject::parse(raw, kind, name.len())?;
        object.verify_name(name)?;
        let policy = Policy {
            reject_expired: signed_by.reject_expired,
        };
        verify_git_object(&object, &signed_by.keys, policy, now)
    };
    let mut tag_error = None;
    if !signed_by.ignore_tag && !objects.tag.is_empty() {
        match one(&objects.tag, ObjectKind::Tag, &resolved.checksum) {
            Ok(()) => return Ok(()),
            Err(error) => tag_error = Some(error),
        }
    }
    if signed_by.require_tag {
        return Err(match tag_error {
            Some(error) => error.into(),
            None => Refused {
                said: "signed tag required but no signed tag found".into(),
                help: String::new(),
            },
        });
    }
    one(&objects.commit, ObjectKind::Commit, &objects.commit_name).map_err(|error| Refused {
        said: error.to_string(),
        help: tag_error.map_or_else(String::new, |error| {
            format!("that was the commit; of the tag before it: {error}\n")
        }),
    })
}
