//! The trace of a finished build, made of what the build said: a span for the build and one for each time
//! that a step ran, as JSON in the form in which history keeps traces (one object behind the other).

use std::collections::BTreeMap;

use prost_types::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::proto::control::{BuildHistoryRecord, StatusResponse};

/// Spans of one build; the rest of its steps are left out.
const MAX_SPANS: usize = 20_000;

/// Codes of a span's status.
const FAILED: u8 = 1;
const DONE: u8 = 2;

/// Kinds of spans.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;

/// Where in a client's trace a build is: what the header `traceparent` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    id: String,
    span: String,
}

impl Trace {
    /// `VERSION-TRACE-SPAN-FLAGS` in hexadecimal digits.
    pub fn parse(text: &str) -> Option<Trace> {
        let mut parts = text.split('-');
        let (_, id, span) = (parts.next()?, parts.next()?, parts.next()?);
        let is_id = |text: &str, length: usize| {
            text.len() == length
                && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                && text.bytes().any(|b| b != b'0')
        };
        (is_id(id, 32) && is_id(span, 16)).then(|| Trace {
            id: id.to_owned(),
            span: span.to_owned(),
        })
    }
}

/// Collects spans while a log is read.
pub struct Spans {
    trace: String,
    root: String,
    parent: Option<String>,
    /// By step and start.
    steps: BTreeMap<(String, (i64, i32)), Step>,
}

struct Step {
    name: String,
    started: Timestamp,
    completed: Option<Timestamp>,
    cached: bool,
    error: String,
}

/// An id that is the same for the same build.
fn id(of: &str, digits: usize) -> String {
    let digest = Sha256::digest(of.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.chars().take(digits).collect()
}

impl Spans {
    pub fn new(name: &str, trace: Option<Trace>) -> Spans {
        let (trace, parent) = match trace {
            Some(Trace { id, span }) => (id, Some(span)),
            None => (id(&format!("trace {name}"), 32), None),
        };
        Spans {
            trace,
            root: id(&format!("build {name}"), 16),
            parent,
            steps: BTreeMap::new(),
        }
    }

    pub fn see(&mut self, status: &StatusResponse) {
        for vertex in &status.vertexes {
            let Some(started) = vertex.started else {
                continue;
            };
            let key = (vertex.digest.clone(), (started.seconds, started.nanos));
            if self.steps.len() >= MAX_SPANS && !self.steps.contains_key(&key) {
                continue;
            }
            let step = self.steps.entry(key).or_insert_with(|| Step {
                name: vertex.name.clone(),
                started,
                completed: None,
                cached: false,
                error: String::new(),
            });
            step.completed = vertex.completed.or(step.completed);
            step.cached |= vertex.cached;
            if !vertex.error.is_empty() {
                step.error.clone_from(&vertex.error);
            }
        }
    }

    /// The whole trace.
    pub fn finish(self, record: &BuildHistoryRecord) -> Vec<u8> {
        let end = record.completed_at;
        let error = record.error.as_ref().map_or("", |error| &error.message);
        let mut attributes = vec![text("build.ref", &record.r#ref)];
        attributes.extend(
            (!record.frontend.is_empty()).then(|| text("build.frontend", &record.frontend)),
        );
        let root = self.span(Span {
            name: "build",
            id: &self.root,
            parent: self.parent.as_deref(),
            kind: SERVER,
            times: (record.created_at, end),
            attributes,
            error,
        });
        let mut out = root.to_string();
        for ((digest, at), step) in &self.steps {
            let number = id(&format!("{} {digest} {at:?}", self.root), 16);
            let span = self.span(Span {
                name: &step.name,
                id: &number,
                parent: Some(&self.root),
                kind: INTERNAL,
                times: (Some(step.started), step.completed.or(end)),
                attributes: vec![
                    text("vertex", digest),
                    json!({"Key": "cached", "Value": {"Type": "BOOL", "Value": step.cached}}),
                ],
                error: &step.error,
            });
            out.push('\n');
            out.push_str(&span.to_string());
        }
        out.push('\n');
        out.into_bytes()
    }

    fn span(&self, span: Span<'_>) -> Value {
        let context = |id: &str, remote: bool| {
            json!({
                "TraceID": self.trace, "SpanID": id, "TraceFlags": "01", "TraceState": "", "Remote": remote,
            })
        };
        let none = json!({
            "TraceID": "0".repeat(32), "SpanID": "0".repeat(16), "TraceFlags": "00", "TraceState": "", "Remote": false,
        });
        let status = match span.error {
            "" => json!({"Code": DONE, "Description": ""}),
            error => json!({"Code": FAILED, "Description": error}),
        };
        json!({
            "Name": span.name,
            "SpanContext": context(span.id, false),
            "Parent": span.parent.map_or(none, |id| context(id, span.kind == SERVER)),
            "SpanKind": span.kind,
            "StartTime": moment(span.times.0),
            "EndTime": moment(span.times.1),
            "Attributes": span.attributes,
            "Events": null,
            "Links": null,
            "Status": status,
            "DroppedAttributes": 0,
            "DroppedEvents": 0,
            "DroppedLinks": 0,
            "ChildSpanCount": if span.kind == SERVER { self.steps.len() } else { 0 },
            "Resource": [text("service.name", "gateway")],
            "InstrumentationLibrary": {"Name": "gateway", "Version": "", "SchemaURL": ""},
        })
    }
}

struct Span<'a> {
    name: &'a str,
    id: &'a str,
    parent: Option<&'a str>,
    kind: u8,
    times: (Option<Timestamp>, Option<Timestamp>),
    attributes: Vec<Value>,
    error: &'a str,
}

fn text(key: &str, value: &str) -> Value {
    json!({"Key": key, "Value": {"Type": "STRING", "Value": value}})
}

fn moment(time: Option<Timestamp>) -> String {
    let time = time.unwrap_or_default();
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::control::Vertex;

    #[test]
    fn p53_a_trace_has_a_span_for_each_time_that_a_step_ran() {
        let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let vertex = |started, completed, error: &str| StatusResponse {
            vertexes: vec![Vertex {
                digest: "d".to_owned(),
                name: "step".to_owned(),
                started: time(started),
                completed,
                error: error.to_owned(),
                ..Vertex::default()
            }],
            ..StatusResponse::default()
        };
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut spans = Spans::new("r", Trace::parse(trace));
        for status in [
            vertex(1, None, ""),
            vertex(1, time(2), ""),
            vertex(3, time(4), "broke"),
        ] {
            spans.see(&status);
        }
        let record = BuildHistoryRecord {
            r#ref: "r".to_owned(),
            created_at: time(0),
            completed_at: time(5),
            ..BuildHistoryRecord::default()
        };
        let bytes = spans.finish(&record);
        let spans: Vec<Value> = serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap();
        let names: Vec<&str> = spans.iter().map(|s| s["Name"].as_str().unwrap()).collect();
        assert_eq!(names, ["build", "step", "step"]);
        for span in &spans {
            assert_eq!(
                span["SpanContext"]["TraceID"],
                "0af7651916cd43dd8448eb211c80319c"
            );
        }
        assert_eq!(spans[0]["Parent"]["SpanID"], "b7ad6b7169203331");
        assert_eq!(spans[1]["Parent"], spans[0]["SpanContext"]);
        assert_eq!(spans[1]["EndTime"], "1970-01-01T00:00:02Z");
        assert_eq!(spans[2]["Status"]["Description"], "broke");
    }

    #[test]
    fn p53_what_is_no_parent_of_a_trace_is_none() {
        for text in [
            "",
            "00-x-y-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            assert_eq!(Trace::parse(text), None, "{text}");
        }
    }
}
