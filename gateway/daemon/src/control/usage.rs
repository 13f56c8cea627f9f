//! What the store holds, and removing some of it; filters over workers and history.

use std::time::Duration;

use gateway_api::Error;
use gateway_proto::types::WorkerRecord;
use gateway_solver::PruneOptions;
use tokio::sync::mpsc;
use tonic::Status;

use super::progress::timestamp;
use crate::proto::control as wire;
use crate::state::Daemon;

/// Clients send one empty filter for none.
fn given(filters: Vec<String>) -> Vec<String> {
    filters
        .into_iter()
        .filter(|filter| !filter.is_empty())
        .collect()
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn own(error: impl std::fmt::Display) -> Error {
    Error::unknown(error.to_string())
}

fn to_wire(record: &gateway_solver::UsageRecord) -> wire::UsageRecord {
    wire::UsageRecord {
        id: record.id.clone(),
        mutable: record.mutable,
        in_use: record.in_use,
        size: bytes(record.size),
        created_at: time(record.created_at),
        last_used_at: record.last_used_at.and_then(time),
        usage_count: bytes(record.usage_count),
        description: record.description.clone(),
        record_type: record.record_type.as_str().to_owned(),
        shared: record.shared,
        parents: record.parents.clone(),
        ..wire::UsageRecord::default()
    }
}

/// Of nanoseconds since the epoch.
fn time(nanos: i64) -> Option<prost_types::Timestamp> {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos))
        .ok()
        .map(timestamp)
}

pub async fn disk_usage(
    daemon: &Daemon,
    request: wire::DiskUsageRequest,
) -> Result<Vec<wire::UsageRecord>, Error> {
    let solver = daemon.0.options.solver.clone();
    let filters = given(request.filter);
    let records = tokio::task::spawn_blocking(move || solver.disk_usage(&filters));
    let records = records.await.map_err(own)?.map_err(own)?;
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
    let wanted = records.iter().filter(|record| {
        let used = record.last_used_at.unwrap_or(record.created_at);
        request.age_limit == 0 || now - i128::from(used) >= i128::from(request.age_limit)
    });
    Ok(wanted.map(to_wire).collect())
}

pub async fn prune(
    daemon: &Daemon,
    request: wire::PruneRequest,
    send: &mpsc::Sender<Result<wire::UsageRecord, Status>>,
) -> Result<(), Error> {
    let space = |bytes| u64::try_from(bytes).unwrap_or(0);
    let options = PruneOptions {
        filters: given(request.filter),
        all: request.all,
        keep_duration: Duration::from_nanos(space(request.keep_duration)),
        reserved_space: space(request.reserved_space),
        max_used_space: space(request.max_used_space),
        min_free_space: space(request.min_free_space),
    };
    let (solver, send) = (daemon.0.options.solver.clone(), send.clone());
    let pruned = tokio::task::spawn_blocking(move || {
        solver.prune(&[options], |record| {
            // What is gone is gone, whether the client hears of it or not.
            let _ = send.blocking_send(Ok(to_wire(record)));
        })
    });
    pruned.await.map_err(own)?.map_err(own)
}

impl Daemon {
    /// Brings the store below its limits, if that is due, behind the back of all clients.
    pub(crate) fn collect(&self) {
        let state = self.0.clone();
        let Some(policies) = state.options.policies.clone() else {
            return;
        };
        tokio::task::spawn_blocking(move || {
            // What could not be removed now is tried again after the next build.
            let _ = state.options.solver.collect_if_due(|disk| policies(disk));
        });
    }
}

/// Filters of `ListWorkers`: `id==X`, `id~=X` and the names of labels likewise.
pub fn matches_worker(filters: &[String], worker: &WorkerRecord) -> Result<bool, String> {
    let mut any = true;
    for filter in filters.iter().filter(|filter| !filter.is_empty()) {
        let mut all = true;
        for part in filter.split(',') {
            let (key, operator, value) = split(part)?;
            let actual = match key {
                "id" => Some(worker.id.as_str()),
                key => {
                    let label = key.strip_prefix("labels.").unwrap_or(key);
                    worker
                        .labels
                        .get(label.trim_matches('"'))
                        .map(String::as_str)
                }
            };
            all &= match operator {
                "==" => actual == Some(value),
                "!=" => actual != Some(value),
                _ => actual.is_some_and(|actual| actual.contains(value)),
            };
        }
        if all {
            return Ok(true);
        }
        any = false;
    }
    Ok(any)
}

fn split(part: &str) -> Result<(&str, &str, &str), String> {
    for operator in ["==", "!=", "~="] {
        if let Some((key, value)) = part.split_once(operator) {
            return Ok((key.trim(), operator, value.trim().trim_matches('"')));
        }
    }
    Err(format!("filter {part:?} is none: write KEY==VALUE"))
}

/// Filters over finished builds: `ref==X`, `status==completed`, `repository==URL`, `startedAt>TIME`.
pub struct HistoryFilters(Vec<Vec<Condition>>);

enum Condition {
    Text(String, bool, String),
    /// Field, `>` or `<`, and the moment or duration in nanoseconds.
    Number(String, bool, i128),
}

impl HistoryFilters {
    /// # Errors
    /// For what is no filter.
    pub fn parse(filters: &[String]) -> Result<HistoryFilters, String> {
        let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
        let given = filters.iter().filter(|filter| !filter.is_empty());
        let parsed =
            given.map(|filter| filter.split(',').map(|part| condition(part, now)).collect());
        parsed.collect::<Result<_, _>>().map(HistoryFilters)
    }

    /// One of them in all its parts.
    pub fn matches(&self, record: &wire::BuildHistoryRecord) -> bool {
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|parts| parts.iter().all(|part| part.matches(record)))
    }
}

fn condition(part: &str, now: i128) -> Result<Condition, String> {
    for (operator, equal) in [("==", true), ("!=", false)] {
        if let Some((key, value)) = part.split_once(operator) {
            let key = key.trim();
            if !["ref", "status", "repository"].contains(&key) {
                return Err(format!("builds have no {key:?} to filter by"));
            }
            return Ok(Condition::Text(
                key.to_owned(),
                equal,
                value.trim().to_owned(),
            ));
        }
    }
    for (operator, above) in [('>', true), ('<', false)] {
        if let Some((key, value)) = part.split_once(operator) {
            let (key, value) = (key.trim(), value.trim().trim_start_matches('='));
            if !["startedAt", "completedAt", "duration"].contains(&key) {
                return Err(format!("builds have no {key:?} to filter by"));
            }
            let moment =
                time::OffsetDateTime::parse(value, &time::format_description::well_known::Rfc3339);
            let number = match (moment, duration(value)) {
                (Ok(moment), _) => moment.unix_timestamp_nanos(),
                (_, Some(duration)) if key == "duration" => duration,
                // So long ago.
                (_, Some(duration)) => now - duration,
                _ => return Err(format!("{value:?} is neither a time nor a duration")),
            };
            return Ok(Condition::Number(key.to_owned(), above, number));
        }
    }
    Err(format!(
        "filter {part:?} is none: write KEY==VALUE or KEY>TIME"
    ))
}

/// A duration as Go writes it, in nanoseconds: `1h30m`.
fn duration(text: &str) -> Option<i128> {
    let mut rest = text;
    let mut total = 0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let factor = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    (!text.is_empty()).then_some(total as i128)
}

impl Condition {
    fn matches(&self, record: &wire::BuildHistoryRecord) -> bool {
        let nanos = |time: &Option<prost_types::Timestamp>| {
            time.as_ref()
                .map(|time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
        };
        match self {
            Condition::Text(key, equal, value) => {
                let attr = |key: &str| record.frontend_attrs.get(key).map(String::as_str);
                let actual = match key.as_str() {
                    "ref" => Some(record.r#ref.as_str()),
                    "status" => Some(status(record)),
                    _ => attr("vcs:source").or_else(|| attr("context")),
                };
                (actual == Some(value.as_str())) == *equal
            }
            Condition::Number(key, above, wanted) => {
                let (started, completed) = (nanos(&record.created_at), nanos(&record.completed_at));
                let actual = match key.as_str() {
                    "startedAt" => started,
                    "completedAt" => completed,
                    _ => completed.zip(started).map(|(end, start)| end - start),
                };
                actual.is_some_and(|actual| match above {
                    true => actual > *wanted,
                    false => actual < *wanted,
                })
            }
        }
    }
}

fn status(record: &wire::BuildHistoryRecord) -> &'static str {
    match (&record.completed_at, &record.error) {
        (None, _) => "running",
        (_, None) => "completed",
        (_, Some(error)) if error.code == 1 || error.message.ends_with("context canceled") => {
            "canceled"
        }
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p51_builds_are_filtered_by_state_and_time() {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let record = wire::BuildHistoryRecord {
            r#ref: "a".to_owned(),
            created_at: time(100),
            completed_at: time(190),
            ..wire::BuildHistoryRecord::default()
        };
        for (filter, matches) in [
            ("", true),
            ("ref==a", true),
            ("ref!=a", false),
            ("status==completed", true),
            ("status==error", false),
            ("status==completed,ref==b", false),
            ("startedAt<1h", true),
            ("startedAt>1h", false),
            ("duration>1m", true),
            ("duration>1m30.5s", false),
            ("completedAt<1971-01-01T00:00:00Z", true),
        ] {
            let filters = HistoryFilters::parse(&[filter.to_owned()]).unwrap();
            assert_eq!(filters.matches(&record), matches, "{filter}");
        }
        for wrong in ["x", "color==red", "size>3", "startedAt>soon"] {
            assert!(
                HistoryFilters::parse(&[wrong.to_owned()]).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn p02_workers_are_filtered_by_id_and_label() {
        let worker = WorkerRecord {
            id: "w".to_owned(),
            labels: [("l".to_owned(), "v".to_owned())].into(),
            ..WorkerRecord::default()
        };
        for (filter, matches) in [
            ("", true),
            ("id==w", true),
            ("id==x", false),
            ("labels.l==v", true),
        ] {
            assert_eq!(
                matches_worker(&[filter.to_owned()], &worker),
                Ok(matches),
                "{filter}"
            );
        }
        assert!(matches_worker(&["w".to_owned()], &worker).is_err());
    }
}
