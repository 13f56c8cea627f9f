//! Progress events, in the shape of the reference's `rawjson` stream: one `Status` is a batch of
//! changes. Solver and bridge send them; renderers are pure functions of them.

use gateway_llb::pb;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A batch of changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vertexes: Vec<Vertex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<VertexStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<VertexLog>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<VertexWarning>,
}

/// A step. The same digest is sent again whenever something of it changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Vertex {
    pub digest: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    pub name: String,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    pub started: Option<OffsetDateTime>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    pub completed: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    #[serde(
        default,
        rename = "progressGroup",
        skip_serializing_if = "Option::is_none"
    )]
    pub progress_group: Option<ProgressGroup>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressGroup {
    pub id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weak: bool,
}

/// A part of a step with its own progress, e.g. one layer's transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VertexStatus {
    pub id: String,
    pub vertex: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub total: i64,
    /// Bytes.
    pub current: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub timestamp: OffsetDateTime,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    pub started: Option<OffsetDateTime>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    pub completed: Option<OffsetDateTime>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Output of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VertexLog {
    pub vertex: String,
    /// 1 stdout, 2 stderr.
    pub stream: i64,
    #[serde(with = "base64_bytes")]
    pub data: Vec<u8>,
    #[serde(with = "time::serde::rfc3339")]
    pub timestamp: OffsetDateTime,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VertexWarning {
    pub vertex: String,
    pub level: i64,
    #[serde(with = "base64_bytes")]
    pub short: Vec<u8>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "base64_list")]
    pub detail: Vec<Vec<u8>>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    #[serde(
        default,
        rename = "sourceInfo",
        skip_serializing_if = "Option::is_none"
    )]
    pub source_info: Option<SourceInfo>,
    #[serde(default, rename = "range", skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Range>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceInfo {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filename: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "base64_bytes")]
    pub data: Vec<u8>,
    /// Where the file was read from. Written for those who read BuildKit's progress, never read.
    #[serde(
        default,
        skip_deserializing,
        skip_serializing_if = "Option::is_none",
        serialize_with = "definition"
    )]
    pub definition: Option<pb::Definition>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub language: String,
}

fn definition<S: serde::Serializer>(
    definition: &Option<pb::Definition>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let json = definition.as_ref().map(gateway_llb::json::embedded);
    json.serialize(serializer)
}

impl From<&pb::SourceInfo> for SourceInfo {
    fn from(info: &pb::SourceInfo) -> Self {
        SourceInfo {
            filename: info.filename.clone(),
            data: info.data.clone(),
            definition: info.definition.clone(),
            language: info.language.clone(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub start: Position,
    pub end: Position,
}

impl From<&pb::Range> for Range {
    fn from(range: &pb::Range) -> Self {
        let position = |p: &Option<pb::Position>| {
            p.as_ref().map_or(Position::default(), |p| Position {
                line: p.line,
                character: p.character,
            })
        };
        Range {
            start: position(&range.start),
            end: position(&range.end),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    #[serde(default)]
    pub line: i32,
    #[serde(default, skip_serializing_if = "is_zero_i32")]
    pub character: i32,
}

fn is_zero_i32(number: &i32) -> bool {
    *number == 0
}

/// Where events go. Cheap to clone; sending never blocks and never fails (nobody may be listening).
#[derive(Clone)]
pub struct Progress(std::sync::Arc<dyn Fn(Status) + Send + Sync>);

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    pub fn new(sink: impl Fn(Status) + Send + Sync + 'static) -> Self {
        Progress(std::sync::Arc::new(sink))
    }

    pub fn discard() -> Self {
        Progress::new(|_| ())
    }

    pub fn send(&self, status: Status) {
        (self.0)(status);
    }

    pub fn vertex(&self, vertex: Vertex) {
        self.send(Status {
            vertexes: vec![vertex],
            ..Status::default()
        });
    }

    pub fn status(&self, status: VertexStatus) {
        self.send(Status {
            statuses: vec![status],
            ..Status::default()
        });
    }

    pub fn log(&self, log: VertexLog) {
        self.send(Status {
            logs: vec![log],
            ..Status::default()
        });
    }

    pub fn warning(&self, warning: VertexWarning) {
        self.send(Status {
            warnings: vec![warning],
            ..Status::default()
        });
    }
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        STANDARD
            .decode(text.as_bytes())
            .map_err(serde::de::Error::custom)
    }
}

mod base64_list {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|bytes| STANDARD.encode(bytes)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Vec<u8>>, D::Error> {
        Vec::<String>::deserialize(deserializer)?
            .into_iter()
            .map(|text| STANDARD.decode(text).map_err(serde::de::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_line_reads_and_writes_back_the_same() {
        let line = r#"{"vertexes":[{"digest":"sha256:aa","inputs":["sha256:bb"],"name":"[1/1] RUN x","started":"2026-11-20T19:43:39.038134589Z","completed":"2026-11-20T19:43:39.046148215Z","cached":true}]}"#;
        let status: Status = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&status).unwrap(), line);
    }

    #[test]
    fn a_log_travels_as_base64() {
        let line = r#"{"logs":[{"vertex":"sha256:aa","stream":1,"data":"YWJvdXQgdG8gZmFpbAo=","timestamp":"2026-11-20T19:43:41.420871156Z"}]}"#;
        let status: Status = serde_json::from_str(line).unwrap();
        assert_eq!(status.logs[0].data, b"about to fail\n");
        assert_eq!(serde_json::to_string(&status).unwrap(), line);
    }
}
