//! What the store holds and what of it may go: usage records, filters, policies, collection.
//!
//! Records have the fields, names and rules of the reference. Nothing that a running build uses, in this
//! or any other process, is ever removed: builds hold what they touch (see `Lease`), and a thing is
//! claimed before it is looked at for the last time.

mod collect;
mod filter;
mod inventory;
mod policy;
mod record;
mod rows;
mod size;

pub use collect::{collect_if_due, prune, prune_unreferenced};
pub use inventory::{StoredBlob, disk_usage, list_blobs};
pub use policy::{PruneOptions, default_policies, percent, policies_with_limits};
pub use record::{RecordType, UsageRecord, time_text};

pub(crate) use inventory::reachable;

/// Nanoseconds since the epoch.
pub fn now() -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
    i64::try_from(now).unwrap_or(i64::MAX)
}
