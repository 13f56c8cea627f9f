//! Progress events as messages.

use gateway_api::progress as api;
use gateway_llb::pb;
use prost_types::Timestamp;
use time::OffsetDateTime;

use crate::proto::control as wire;

pub fn timestamp(time: OffsetDateTime) -> Timestamp {
    Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap_or(0),
    }
}

pub fn to_wire(status: api::Status) -> wire::StatusResponse {
    wire::StatusResponse {
        vertexes: status.vertexes.into_iter().map(vertex).collect(),
        statuses: status.statuses.into_iter().map(part).collect(),
        logs: status
            .logs
            .into_iter()
            .map(|log| wire::VertexLog {
                vertex: log.vertex,
                timestamp: Some(timestamp(log.timestamp)),
                stream: log.stream,
                msg: log.data,
            })
            .collect(),
        warnings: status.warnings.into_iter().map(warning).collect(),
    }
}

fn vertex(vertex: api::Vertex) -> wire::Vertex {
    wire::Vertex {
        digest: vertex.digest,
        inputs: vertex.inputs,
        name: vertex.name,
        cached: vertex.cached,
        started: vertex.started.map(timestamp),
        completed: vertex.completed.map(timestamp),
        error: vertex.error,
        progress_group: vertex.progress_group.map(|group| pb::ProgressGroup {
            id: group.id,
            name: group.name,
            weak: group.weak,
        }),
    }
}

fn part(status: api::VertexStatus) -> wire::VertexStatus {
    wire::VertexStatus {
        id: status.id,
        vertex: status.vertex,
        name: status.name,
        current: status.current,
        total: status.total,
        timestamp: Some(timestamp(status.timestamp)),
        started: status.started.map(timestamp),
        completed: status.completed.map(timestamp),
    }
}

fn warning(warning: api::VertexWarning) -> wire::VertexWarning {
    let position = |position: api::Position| {
        Some(pb::Position {
            line: position.line,
            character: position.character,
        })
    };
    wire::VertexWarning {
        vertex: warning.vertex,
        level: warning.level,
        short: warning.short,
        detail: warning.detail,
        url: warning.url,
        info: warning.source_info.map(|info| pb::SourceInfo {
            filename: info.filename,
            data: info.data,
            definition: info.definition,
            language: info.language,
        }),
        ranges: warning
            .ranges
            .into_iter()
            .map(|range| pb::Range {
                start: position(range.start),
                end: position(range.end),
            })
            .collect(),
    }
}
