//! Content digests of parts of snapshots, remembered in the store.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use gateway_api::Error;

use crate::fs::hash::{
    ChecksumOptions, ContentHasher, HashOptions, Selector as HashSelector, checksum_all_of_nothing,
};
use crate::fs::{Root, Visible};
use crate::job::JobInner;
use crate::key::Selector;
use crate::ops::image;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{LocalFiles, Snapshot};
use crate::view::View;

/// An open tree whose hashes are kept while the build runs.
pub struct Hasher {
    hasher: ContentHasher,
    made: Instant,
    visible: OnceLock<Arc<Visible>>,
    _view: Option<View>,
}

/// Whether the files of a local source are hashed where they lie or in the copy that steps get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To look for a stored result: nothing is copied for it.
    Source,
    /// To store a result: the very bytes that it was made of.
    Copy,
}

/// The digest of what the selectors mean in the snapshot; without selectors, of the whole tree.
pub async fn digest(
    job: &Arc<JobInner>,
    snapshot: &Snapshot,
    selectors: Vec<Selector>,
    place: Place,
) -> Outcome<String> {
    let selectors: Vec<HashSelector> = selectors.into_iter().map(hash_selector).collect();
    if snapshot.layers.is_empty() {
        return checksum_all_of_nothing(&selectors)
            .map(|digest| digest.to_string())
            .map_err(|error| checksum_error(&error));
    }
    let (layers, asked) = (snapshot.ids().join("\n"), format!("{selectors:?}"));
    let lasting = !snapshot.is_local();
    if lasting
        && let Some(digest) = job
            .store()
            .db()
            .content_digest(&layers, &asked)
            .map_err(internal)?
    {
        return Ok(digest);
    }
    let local = snapshot.only_local();
    if local.is_none() || place == Place::Copy {
        image::ensure(job, snapshot).await?;
    }
    let (inner, snapshot) = (job.clone(), snapshot.clone());
    let digest = blocking(move || {
        let text = |hasher: &Hasher| {
            let digest = hasher.hasher.checksum_all(&selectors);
            digest
                .map(|digest| digest.to_string())
                .map_err(|error| checksum_error(&error))
        };
        match &local {
            Some(files) if place == Place::Source => {
                let digest = text(&*in_place(&inner, &snapshot, files)?);
                files.hashes(inner.store()).save();
                digest
            }
            Some(files) => match unchanged(&inner, &snapshot, files, &text)? {
                Some(digest) => Ok(digest),
                None => text(&*of_snapshot(&inner, &snapshot)?),
            },
            None => text(&*of_snapshot(&inner, &snapshot)?),
        }
    })
    .await?;
    if lasting {
        job.store()
            .db()
            .set_content_digest(&layers, &asked, &digest)
            .map_err(internal)?;
    }
    Ok(digest)
}

/// The reference names a random id here; the words around it are what people search for.
fn checksum_error(error: &dyn std::fmt::Display) -> Error {
    Error::unknown(format!(
        "failed to calculate checksum of ref {}: {error}",
        crate::store::new_id()
    ))
}

fn hash_selector(selector: Selector) -> HashSelector {
    HashSelector {
        path: selector.path,
        options: ChecksumOptions {
            wildcard: selector.wildcard,
            follow_links: selector.follow_links,
            include: selector.include,
            exclude: selector.exclude,
            required: selector.required,
        },
    }
}

/// The digest of a local source whose files are the same before and after they were copied: then
/// it is the copy's as well, and the copy need not be read.
fn unchanged(
    job: &Arc<JobInner>,
    snapshot: &Snapshot,
    files: &LocalFiles,
    text: &impl Fn(&Hasher) -> Outcome<String>,
) -> Outcome<Option<String>> {
    let Some(before) = job.known_hasher(&place_key(snapshot)) else {
        return Ok(None);
    };
    let copied = files.copy.get().map(|copy| copy.started);
    if copied.is_none_or(|started| before.made >= started) {
        return Ok(None);
    }
    let after = open_in_place(job, files)?;
    match (text(&before), text(&after)) {
        (Ok(before), Ok(after)) if before == after => Ok(Some(after)),
        _ => Ok(None),
    }
}

/// The files of a local source as they were hashed where they lie, for copying from there.
pub fn visible(
    job: &Arc<JobInner>,
    snapshot: &Snapshot,
    files: &LocalFiles,
) -> Outcome<Arc<Visible>> {
    let hasher = in_place(job, snapshot, files)?;
    Ok(hasher
        .visible
        .get_or_init(|| Arc::new(hasher.hasher.visible()))
        .clone())
}

fn place_key(snapshot: &Snapshot) -> String {
    format!("in place\n{}", snapshot.ids().join("\n"))
}

fn in_place(job: &Arc<JobInner>, snapshot: &Snapshot, files: &LocalFiles) -> Outcome<Arc<Hasher>> {
    job.hasher(&place_key(snapshot), || open_in_place(job, files))
}

fn open_in_place(job: &JobInner, files: &LocalFiles) -> Outcome<Hasher> {
    let root = Root::open(&files.dir).map_err(internal)?;
    let options = HashOptions {
        cache: Some(files.hashes(job.store())),
        still: files.still,
        ..HashOptions::default()
    };
    let hasher = ContentHasher::local(root, &files.filter, options);
    Ok(Hasher {
        hasher: hasher.map_err(|error| Error::unknown(error.to_string()))?,
        made: Instant::now(),
        visible: OnceLock::new(),
        _view: None,
    })
}

fn of_snapshot(job: &Arc<JobInner>, snapshot: &Snapshot) -> Outcome<Arc<Hasher>> {
    job.hasher(&snapshot.ids().join("\n"), || {
        let view = View::read_only(&job.store().lowers(snapshot)).map_err(internal)?;
        let root = Root::open(view.path()).map_err(internal)?;
        let hasher = match snapshot.only_local() {
            Some(_) => ContentHasher::local_copy(root, HashOptions::default()),
            None => ContentHasher::snapshot(root, HashOptions::default()),
        };
        Ok(Hasher {
            hasher: hasher.map_err(|error| Error::unknown(error.to_string()))?,
            made: Instant::now(),
            visible: OnceLock::new(),
            _view: Some(view),
        })
    })
}
