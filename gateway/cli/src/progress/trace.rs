//! The state of a build as its progress events tell it: what every renderer reads.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use gateway_api::progress::{Status, Vertex, VertexLog, VertexStatus, VertexWarning};
use time::OffsetDateTime;

/// Log lines that plain output repeats in the block that ends a failed build.
const TAIL_LINES: usize = 10;

/// What is kept of the output of steps.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Lines for a renderer that prints each of them.
    pub lines: bool,
    /// Last lines of each step, for the block that ends a failed build.
    pub tail: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Keep {
            lines: true,
            tail: TAIL_LINES,
        }
    }
}

#[derive(Debug, Default)]
pub struct Trace {
    keep: Keep,
    pub vertices: Vec<VertexState>,
    /// Members of a group lead to the group, which is shown in their place.
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
    /// Steps that are shown as this one.
    members: BTreeMap<String, Vertex>,
    /// A group of which nothing but weak members has happened yet.
    pub hidden: bool,
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

    pub fn last_start(&self) -> Option<OffsetDateTime> {
        self.intervals.keys().next_back().copied()
    }

    /// Seconds of all ended runs, overlapping time counted once.
    pub fn seconds(&self) -> f64 {
        self.covered(None)
    }

    /// The same, with runs that go on counted up to `now`.
    pub fn seconds_until(&self, now: OffsetDateTime) -> f64 {
        self.covered(Some(now))
    }

    fn covered(&self, now: Option<OffsetDateTime>) -> f64 {
        let mut total = time::Duration::ZERO;
        let mut covered: Option<OffsetDateTime> = None;
        for (start, end) in &self.intervals {
            let Some(end) = end.as_ref().or(now.as_ref()) else {
                continue;
            };
            let from = covered.map_or(*start, |covered| covered.max(*start));
            if *end > from {
                total += *end - from;
                covered = Some(*end);
            }
        }
        total.as_seconds_f64()
    }

    pub fn first_start(&self) -> Option<OffsetDateTime> {
        self.intervals.keys().next().copied()
    }

    /// Frees what is kept for the end of a failed step.
    pub fn forget_output(&mut self) {
        self.tail = VecDeque::new();
    }

    pub fn tail(&self) -> impl Iterator<Item = &[u8]> {
        self.tail.iter().map(Vec::as_slice)
    }

    fn touch(&mut self, now: OffsetDateTime) {
        self.activity += 1;
        self.waiting_since.get_or_insert(now);
    }

    fn add_log(&mut self, log: &VertexLog, keep: Keep) {
        let mut continues = self.partial;
        for piece in log.data.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            if continues {
                append(self.lines.back_mut(), text);
                append(self.tail.back_mut(), text);
            } else {
                let mut line = seconds_prefix(log.timestamp, self.last_start()).into_bytes();
                line.push(b' ');
                line.extend_from_slice(text);
                if self.tail.len() >= keep.tail {
                    self.tail.pop_front();
                }
                if keep.lines {
                    self.lines.push_back(line.clone());
                }
                self.tail.push_back(line);
            }
            continues = false;
            self.partial = !piece.ends_with(b"\n");
        }
    }

    /// A group is what its members are together.
    fn refresh(&mut self) {
        self.vertex.cached = true;
        self.vertex.error.clear();
        self.hidden = true;
        self.intervals.clear();
        for member in self.members.values() {
            self.vertex.cached &= member.cached;
            if self.vertex.error.is_empty() {
                self.vertex.error.clone_from(&member.error);
            }
            let weak = member.progress_group.as_ref().is_some_and(|g| g.weak);
            if let Some(started) = member.started {
                self.intervals.insert(started, member.completed);
                self.hidden &= weak;
            }
            self.hidden &= member.error.is_empty();
        }
        self.vertex.started = self.intervals.keys().next().copied();
        self.vertex.completed = self.last_end().filter(|_| self.is_completed());
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
    pub fn new(keep: Keep) -> Self {
        Trace {
            keep,
            ..Trace::default()
        }
    }

    /// Where the state of this step, or of the group that it is in, stands in `vertices`.
    pub fn index_of(&self, digest: &str) -> Option<usize> {
        self.by_digest.get(digest).copied()
    }

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
                self.vertices[index].add_log(&log, self.keep);
            }
        }
    }

    fn entry(&mut self, digest: &str) -> usize {
        *self.by_digest.entry(digest.to_owned()).or_insert_with(|| {
            self.vertices.push(VertexState::default());
            self.vertices.len() - 1
        })
    }

    fn update_vertex(&mut self, vertex: Vertex, now: OffsetDateTime) {
        if let Some(group) = &vertex.progress_group
            && !group.id.is_empty()
        {
            let index = self.entry(&group.id);
            self.by_digest.insert(vertex.digest.clone(), index);
            let state = &mut self.vertices[index];
            if state.vertex.digest.is_empty() {
                state.vertex.digest.clone_from(&group.id);
                state.vertex.name.clone_from(&group.name);
            }
            state.members.insert(vertex.digest.clone(), vertex);
            state.refresh();
            if state.is_started() && !state.hidden {
                state.touch(now);
                self.updated.insert(index);
            }
            return;
        }
        let index = self.entry(&vertex.digest);
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
        if !self.vertices[index].hidden {
            self.updated.insert(index);
        }
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

#[cfg(test)]
mod tests {
    use gateway_api::progress::ProgressGroup;
    use time::Duration;

    use super::*;

    fn at(ms: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(ms)
    }

    fn member(digest: &str, weak: bool, started: Option<i64>, completed: Option<i64>) -> Status {
        Status {
            vertexes: vec![Vertex {
                digest: digest.into(),
                name: format!("part {digest}"),
                started: started.map(at),
                completed: completed.map(at),
                cached: true,
                progress_group: Some(ProgressGroup {
                    id: "g".into(),
                    name: "[1/1] COPY --link a b".into(),
                    weak,
                }),
                ..Vertex::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn a_group_is_one_step_and_shows_with_its_first_strong_member() {
        let mut trace = Trace::default();
        trace.update(member("a", true, Some(0), Some(10)), at(10));
        assert!(trace.updated.is_empty(), "only a weak member ran");
        trace.update(member("b", false, Some(20), None), at(20));
        assert_eq!(trace.vertices.len(), 1);
        let group = &trace.vertices[0];
        assert_eq!(group.vertex.name, "[1/1] COPY --link a b");
        assert!(!group.is_completed());
        assert!((group.seconds_until(at(50)) - 0.04).abs() < 1e-9);
        trace.update(member("b", false, Some(20), Some(60)), at(60));
        assert!(trace.vertices[0].is_completed() && trace.vertices[0].vertex.cached);
        assert_eq!(trace.index_of("a"), trace.index_of("b"));
    }
}
