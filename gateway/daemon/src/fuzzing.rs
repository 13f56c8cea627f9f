//! Doors for the fuzz targets into readers that are nobody else's business.

use gateway_proto::types::WorkerRecord;
use prost::Message;

pub use crate::session::fuzzing::{answer, receive, send};

use crate::control::fuzzing as control;
use crate::docker::fuzzing as docker;
use crate::proto::control::{BuildHistoryRecord, SolveRequest};
use crate::proto::trace::ExportTraceServiceRequest;
use crate::session::SessionInfo;

/// What docker's clients say in HTTP: a path with its query on the first line, a header on each other.
pub fn http(text: &str) {
    let mut lines = text.lines();
    let target = lines.next().unwrap_or_default();
    docker::target(target);
    let mut headers = http::HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name = http::HeaderName::try_from(name);
        let value = http::HeaderValue::from_str(value);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    if let Ok(info) = SessionInfo::of(&headers) {
        assert!(!info.id.is_empty() && !info.id.contains(['/', ':']));
    }
    let parent = headers.get("traceparent");
    control::trace(
        parent
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default(),
    );
}

/// Requests of clients over gRPC (the first byte chooses).
pub fn control(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else {
        return;
    };
    match choice % 4 {
        0 => {
            if let Ok(request) = SolveRequest::decode(body) {
                control::outputs(&request);
            }
        }
        1 => {
            let filters: Vec<String> = String::from_utf8_lossy(body)
                .lines()
                .map(str::to_owned)
                .collect();
            control::filters(
                &filters,
                &BuildHistoryRecord::default(),
                &WorkerRecord::default(),
            );
        }
        2 => {
            if let Ok(request) = ExportTraceServiceRequest::decode(body) {
                // What goes on to a collector says the same.
                let again = ExportTraceServiceRequest::decode(request.encode_to_vec().as_slice());
                assert_eq!(again.ok(), Some(request));
            }
        }
        _ => {
            if let Ok(value) = serde_json::from_slice(body) {
                crate::content::told_of(&value);
            }
        }
    }
}
