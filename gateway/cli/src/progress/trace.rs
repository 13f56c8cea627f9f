//! The state of a build as its progress events tell it: what every renderer reads.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use gateway_api::progress::{Status, Vertex, VertexLog, VertexStatus, VertexWarning};
use time::OffsetDateTime;

/// Log lines kept for the block that ends a failed build.
const TAIL_LINES: usize = 10;

#[derive(Debug, Default)]
pub struct Trace {
    pub vertices: Vec<VertexState>,
    by_digest: HashMap<String, usize>,
    /// Indexes of vertices that changed since a renderer last took them.
    pub updated: HashSet<usize>,
}

#[derive(Debug, Default)]
pub struct VertexState {
    pub vertex: Vertex,
    /// Start to end; a vertex may run more than once (key phase, then the work).
    intervals: BTreeMap<OffsetDateTime, Option<OffsetDateTime>>,
    pub statuses: Vec<VertexStatus>,
    pub changed_statuses: HashSet<String>,
    pub warnings: Vec<VertexWarning>,
    /// Lines not yet printed, each with its time prefix.
    pub lines: VecDeque<Vec<u8>>,
    /// The last line of `lines` has no end yet.
    pub partial: bool,
    tail: VecDeque<Vec<u8>>,
    /// Events since it was last shown, and when the first of them came.
    pub activity: u64,
    pub waiting_since: Option<OffsetDateTime>,
}

impl VertexState {
    pub fn is_started(&self) -> bool {
        !self.intervals.is_empty()
    }

    pub fn is_completed(&self) -> bool {
        self.is_started() && self.intervals.values().all(Option::is_some)
    }

    pub fn last_end(&self) -> Option<OffsetDateTime> {
        self.intervals.values().next_back().copied().flatten()
    }

    fn last_start(&self) -> Option<OffsetDateTime> {
        self.intervals.keys().next_back().copied()
    }

    /// Seconds of all runs, overlapping time counted once.
    pub fn seconds(&self) -> f64 {
        let mut total = time::Duration::ZERO;
        let mut covered: Option<OffsetDateTime> = None;
        for (start, end) in &self.intervals {
            let Some(end) = end else { continue };
            let from = covered.map_or(*start, |covered| covered.max(*start));
            if *end > from {
                total += *end - from;
                covered = Some(*end);
            }
        }
        total.as_seconds_f64()
    }

    pub fn tail(&self) -> impl Iterator<Item = &[u8]> {
        self.tail.iter().map(Vec::as_slice)
    }

    fn touch(&mut self, now: OffsetDateTime) {
        self.activity += 1;
        self.waiting_since.get_or_insert(now);
    }

    fn add_log(&mut self, log: &VertexLog) {
        let mut continues = self.partial && !self.lines.is_empty();
        for piece in log.data.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            if continues {
                append(self.lines.back_mut(), text);
                append(self.tail.back_mut(), text);
            } else {
                let mut line = seconds_prefix(log.timestamp, self.last_start()).into_bytes();
                line.push(b' ');
                line.extend_from_slice(text);
                if self.tail.len() == TAIL_LINES {
                    self.tail.pop_front();
                }
                self.tail.push_back(line.clone());
                self.lines.push_back(line);
            }
            continues = false;
            self.partial = !piece.ends_with(b"\n");
        }
    }
}

fn append(line: Option<&mut Vec<u8>>, text: &[u8]) {
    if let Some(line) = line {
        line.extend_from_slice(text);
    }
}

/// Seconds since the start: three decimals below 10 s, two below 100 s, then one.
fn seconds_prefix(at: OffsetDateTime, start: Option<OffsetDateTime>) -> String {
    let seconds = start.map_or(0.0, |start| (at - start).as_seconds_f64());
    let decimals = match seconds {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.decimals$}")
}

impl Trace {
    pub fn update(&mut self, status: Status, now: OffsetDateTime) {
        for vertex in status.vertexes {
            self.update_vertex(vertex, now);
        }
        for status in status.statuses {
            if let Some(index) = self.touch(&status.vertex, now) {
                let state = &mut self.vertices[index];
                state.changed_statuses.insert(status.id.clone());
                match state.statuses.iter_mut().find(|old| old.id == status.id) {
                    Some(old) => *old = status,
                    None => state.statuses.push(status),
                }
            }
        }
        for warning in status.warnings {
            if let Some(index) = self.touch(&warning.vertex, now) {
                self.vertices[index].warnings.push(warning);
            }
        }
        for log in status.logs {
            if let Some(index) = self.touch(&log.vertex, now) {
                self.vertices[index].add_log(&log);
            }
        }
    }

    fn update_vertex(&mut self, vertex: Vertex, now: OffsetDateTime) {
        let index = *self
            .by_digest
            .entry(vertex.digest.clone())
            .or_insert_with(|| {
                self.vertices.push(VertexState::default());
                self.vertices.len() - 1
            });
        let state = &mut self.vertices[index];
        if let Some(started) = vertex.started {
            state.intervals.insert(started, vertex.completed);
            self.updated.insert(index);
            state.touch(now);
        }
        state.vertex = vertex;
    }

    fn touch(&mut self, digest: &str, now: OffsetDateTime) -> Option<usize> {
        let index = *self.by_digest.get(digest)?;
        self.updated.insert(index);
        self.vertices[index].touch(now);
        Some(index)
    }

    /// The blocks that repeat the last output of failed steps.
    pub fn error_blocks(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for state in &self.vertices {
            let error = &state.vertex.error;
            if error.is_empty() || error.ends_with("context canceled") {
                continue;
            }
            out.extend_from_slice(b"------\n > ");
            out.extend_from_slice(state.vertex.name.as_bytes());
            out.extend_from_slice(b":\n");
            for line in state.tail() {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
            out.extend_from_slice(b"------\n");
        }
        out
    }
}
