//! Doors for the fuzz targets into what is read of requests.

use gateway_proto::types::WorkerRecord;

use super::outputs::wanted;
use super::spans::Trace;
use super::usage::{HistoryFilters, matches_worker};
use crate::proto::control::{BuildHistoryRecord, SolveRequest};

/// The outputs that a request names.
pub fn outputs(request: &SolveRequest) {
    let outputs = wanted(request);
    let given = request.exporters.len();
    assert!(outputs.len() == given || (given == 0 && outputs.len() == 1));
}

/// Filters over finished builds and over workers.
pub fn filters(filters: &[String], record: &BuildHistoryRecord, worker: &WorkerRecord) {
    if let Ok(parsed) = HistoryFilters::parse(filters) {
        parsed.matches(record);
    }
    let _ = matches_worker(filters, worker);
}

/// The header `traceparent`.
pub fn trace(text: &str) {
    Trace::parse(text);
}
