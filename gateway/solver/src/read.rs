//! Reading files of results for frontends.

use std::sync::Arc;

use gateway_api::{Error, FileRange, Stat};

use crate::job::JobInner;
use crate::shared::Outcome;
use crate::store::Snapshot;

pub async fn file(
    _job: &Arc<JobInner>,
    _snapshot: Snapshot,
    _path: &str,
    _range: Option<FileRange>,
) -> Outcome<Vec<u8>> {
    Err(Error::unknown("not supported yet"))
}

pub async fn dir(
    _job: &Arc<JobInner>,
    _snapshot: Snapshot,
    _path: &str,
    _include: Option<&str>,
) -> Outcome<Vec<Stat>> {
    Err(Error::unknown("not supported yet"))
}

pub async fn stat(_job: &Arc<JobInner>, _snapshot: Snapshot, _path: &str) -> Outcome<Stat> {
    Err(Error::unknown("not supported yet"))
}
