//! Plain progress: lines as the reference client prints them, one step at a time so that the output
//! of parallel steps stays readable. In two styles: today's, and the one of 2018.

use std::collections::{BTreeSet, HashMap};

use gateway_api::progress::{Status, Vertex, VertexStatus};
use time::{Duration, OffsetDateTime};

use super::bytes::format_bytes;
use super::go;
use super::trace::Trace;

/// A shown step keeps the screen at least this long against busier ones.
const ANTI_FLICKER: Duration = Duration::seconds(5);
/// A step that waited this long with something to say is shown next.
const MAX_WAIT: Duration = Duration::seconds(10);
/// An unfinished status is printed again after this time ...
const STATUS_INTERVAL: Duration = Duration::seconds(5);
/// ... or after this share of its total.
const STATUS_SHARE: f64 = 0.05;

/// Form of the lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    #[default]
    Current,
    /// Of Docker 18.09: digest, name and times of every step, no `DONE` at its end.
    V2018,
}

#[derive(Default)]
pub struct Plain {
    style: Style,
    trace: Trace,
    /// What changed of steps, in lines of the old style, not yet printed.
    changes: HashMap<usize, Vec<String>>,
    shown: HashMap<usize, Vertex>,
    out: Vec<u8>,
    /// The very first header has no blank line before it.
    printed_any: bool,
    current: Option<usize>,
    /// Running numbers (`#1`) in order of first print.
    numbers: HashMap<usize, usize>,
    printed_warnings: HashMap<usize, usize>,
    /// Bytes of the first pending line that are on the screen already.
    printed_partial: HashMap<usize, usize>,
    /// Status id -> what was last printed of it.
    last_status: HashMap<String, (i64, OffsetDateTime)>,
}

impl Plain {
    pub fn new(style: Style) -> Self {
        Plain {
            style,
            ..Plain::default()
        }
    }

    pub fn update(&mut self, status: Status, now: OffsetDateTime) {
        if self.style == Style::Current {
            self.trace.update(status, now);
            return;
        }
        // One change at a time: a step that ran twice in one batch shows both runs.
        for vertex in status.vertexes {
            let one = Status {
                vertexes: vec![vertex.clone()],
                ..Status::default()
            };
            self.trace.update(one, now);
            if let Some(index) = self.trace.index_of(&vertex.digest)
                && vertex.started.is_some()
            {
                // What was announced before its start has not been shown yet.
                let after = &self.trace.vertices[index].vertex;
                let before = self.shown.insert(index, after.clone()).unwrap_or_default();
                let lines = changes(&before, after);
                self.changes.entry(index).or_default().extend(lines);
            }
        }
        let rest = Status {
            vertexes: Vec::new(),
            ..status
        };
        self.trace.update(rest, now);
    }

    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What is to be written now.
    pub fn render(&mut self, now: OffsetDateTime) -> Vec<u8> {
        self.print(now);
        std::mem::take(&mut self.out)
    }

    /// The rest, and the blocks of failed steps.
    pub fn finish(&mut self, now: OffsetDateTime) -> Vec<u8> {
        while !self.trace.updated.is_empty() {
            let before = self.trace.updated.len();
            self.print(now);
            if self.trace.updated.len() == before {
                // Only steps that never ended are left; show them all the same.
                for index in self.updated() {
                    self.print_vertex(index);
                }
            }
        }
        self.out.extend_from_slice(&self.trace.error_blocks());
        std::mem::take(&mut self.out)
    }

    fn updated(&self) -> BTreeSet<usize> {
        self.trace.updated.iter().copied().collect()
    }

    fn print(&mut self, now: OffsetDateTime) {
        let updated = self.updated();
        let (mut completed, mut open): (Vec<usize>, BTreeSet<usize>) =
            (Vec::new(), BTreeSet::new());
        for index in updated {
            if self.trace.vertices[index].is_completed() {
                completed.push(index);
            } else {
                open.insert(index);
            }
        }
        let current = self.current;
        let current_completed = current.is_some_and(|current| completed.contains(&current));
        if let (Some(current), true) = (current, current_completed) {
            self.print_vertex(current);
        }
        completed.sort_by_key(|index| self.trace.vertices[*index].last_end());
        for index in completed {
            if Some(index) != current {
                self.print_vertex(index);
            }
        }
        if open.is_empty() {
            self.show_any_open();
            return;
        }
        if let Some(current) = current.filter(|current| open.contains(current)) {
            self.print_vertex(current);
        }
        self.choose_next(open, current, current_completed, now);
    }

    fn show_any_open(&mut self) {
        let running =
            |state: &super::trace::VertexState| state.is_started() && !state.is_completed();
        if self
            .current
            .is_some_and(|current| running(&self.trace.vertices[current]))
        {
            return;
        }
        if let Some(index) = self.trace.vertices.iter().position(running) {
            self.print_vertex(index);
        }
    }

    /// Sticks to the shown step unless another one waited too long or is much busier.
    fn choose_next(
        &mut self,
        mut open: BTreeSet<usize>,
        current: Option<usize>,
        current_completed: bool,
        now: OffsetDateTime,
    ) {
        open.extend(current);
        let mut speeds: Vec<(usize, Duration, f64)> = Vec::new();
        for index in &open {
            let state = &self.trace.vertices[*index];
            let Some(since) = state.waiting_since else {
                continue;
            };
            let waited = now - since;
            let speed = state.activity as f64 / waited.as_seconds_f64().max(1e-6);
            speeds.push((*index, waited, speed));
        }
        let overdue = speeds
            .iter()
            .find(|(index, waited, _)| *waited > MAX_WAIT && Some(*index) != current)
            .map(|(index, ..)| *index);
        let busiest = speeds
            .iter()
            .max_by(|a, b| a.2.total_cmp(&b.2))
            .map(|(index, ..)| *index);
        let Some(next) = overdue.or(busiest) else {
            return;
        };
        let Some(current) = current.filter(|_| !current_completed) else {
            self.print_vertex(next);
            return;
        };
        if overdue.is_some() {
            self.print_vertex(next);
            return;
        }
        let total: f64 = speeds.iter().map(|(_, _, speed)| speed).sum();
        let shown = speeds.iter().find(|(index, ..)| *index == current);
        if let Some((_, waited, speed)) = shown {
            let fair = ANTI_FLICKER.as_seconds_f64() / (1.0 - speed / total).max(1e-9);
            if fair < waited.as_seconds_f64() {
                self.print_vertex(next);
            }
        }
    }

    fn print_vertex(&mut self, index: usize) {
        let next_number = self.numbers.len() + 1;
        let number = *self.numbers.entry(index).or_insert(next_number);
        if self.current != Some(index) {
            if let Some(old) = self.current {
                self.leave(old);
            }
            let first = !std::mem::replace(&mut self.printed_any, true);
            if !first || self.style == Style::V2018 {
                self.out.push(b'\n');
            }
            let name = self.trace.vertices[index].vertex.name.clone();
            self.line(number, name.as_bytes());
        }
        for line in self.changes.remove(&index).unwrap_or_default() {
            self.line(number, line.as_bytes());
        }
        let has_open_status = self.print_statuses(index, number);
        self.print_warnings(index, number);
        self.print_logs(index, number);

        self.current = Some(index);
        self.trace.updated.remove(&index);
        let state = &self.trace.vertices[index];
        // A failure may leave parts open that nobody will end.
        if state.is_completed() && (!has_open_status || !state.vertex.error.is_empty()) {
            self.print_end(index, number);
        }
    }

    fn leave(&mut self, old: usize) {
        let number = self.numbers.get(&old).copied().unwrap_or_default();
        let state = &mut self.trace.vertices[old];
        if state.partial && self.printed_partial.remove(&old).is_some() {
            self.out.push(b'\n');
        }
        state.activity = 0;
        state.waiting_since = None;
        self.line(number, b"...");
    }

    fn line(&mut self, number: usize, text: &[u8]) {
        self.out.extend_from_slice(format!("#{number} ").as_bytes());
        self.out.extend_from_slice(text);
        self.out.push(b'\n');
    }

    fn print_statuses(&mut self, index: usize, number: usize) -> bool {
        let state = &mut self.trace.vertices[index];
        let changed = std::mem::take(&mut state.changed_statuses);
        let statuses: Vec<VertexStatus> = state
            .statuses
            .iter()
            .filter(|status| changed.contains(&status.id))
            .cloned()
            .collect();
        let mut open = false;
        for status in statuses {
            if !self.is_worth_printing(&status) {
                continue;
            }
            self.last_status
                .insert(status.id.clone(), (status.current, status.timestamp));
            open |= status.completed.is_none();
            self.line(number, status_text(&status).as_bytes());
        }
        open
    }

    fn is_worth_printing(&self, status: &VertexStatus) -> bool {
        let Some((current, at)) = self.last_status.get(&status.id) else {
            return true;
        };
        let share = if status.total > 0 {
            (status.current - current) as f64 / status.total as f64
        } else {
            0.0
        };
        status.completed.is_some()
            || share >= STATUS_SHARE
            || status.timestamp - *at >= STATUS_INTERVAL
    }

    fn print_warnings(&mut self, index: usize, number: usize) {
        let printed = self.printed_warnings.entry(index).or_default();
        let texts: Vec<Vec<u8>> = self.trace.vertices[index]
            .warnings
            .iter()
            .skip(*printed)
            .map(|warning| [b"WARN: ", warning.short.as_slice()].concat())
            .collect();
        *printed += texts.len();
        for text in texts {
            self.line(number, &text);
        }
    }

    fn print_logs(&mut self, index: usize, number: usize) {
        let state = &mut self.trace.vertices[index];
        let partial = state.partial;
        let lines: Vec<Vec<u8>> = state.lines.drain(..).collect();
        let count = lines.len();
        for (position, line) in lines.into_iter().enumerate() {
            let skip = self
                .printed_partial
                .remove(&index)
                .filter(|_| position == 0);
            match skip {
                Some(skip) => self
                    .out
                    .extend_from_slice(line.get(skip..).unwrap_or_default()),
                None => {
                    self.out.extend_from_slice(format!("#{number} ").as_bytes());
                    self.out.extend_from_slice(&line);
                }
            }
            if position + 1 == count && partial {
                self.printed_partial.insert(index, line.len());
                self.trace.vertices[index].lines.push_back(line);
            } else {
                self.out.push(b'\n');
            }
        }
    }

    fn print_end(&mut self, index: usize, number: usize) {
        self.current = None;
        let state = &mut self.trace.vertices[index];
        state.activity = 0;
        if state.partial && self.printed_partial.remove(&index).is_some() {
            state.lines.clear();
            state.partial = false;
            self.out.push(b'\n');
        }
        let state = &self.trace.vertices[index];
        if self.style == Style::V2018 {
            self.out.push(b'\n');
            return;
        }
        let text = if state.vertex.error.ends_with("context canceled") {
            "CANCELED".to_owned()
        } else if !state.vertex.error.is_empty() {
            format!("ERROR: {}", state.vertex.error)
        } else if state.vertex.cached {
            "CACHED".to_owned()
        } else {
            format!("DONE {:.1}s", state.seconds())
        };
        self.line(number, text.as_bytes());
    }
}

/// The old style's lines for what is new of a step.
fn changes(before: &Vertex, after: &Vertex) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |key: &str, value: String| lines.push(format!("{key:>12}: {value}"));
    if after.digest != before.digest {
        line("digest", after.digest.clone());
    }
    if after.name != before.name {
        line("name", go::quote(&after.name));
    }
    if let (Some(started), true) = (after.started, after.started != before.started) {
        line("started", go::time(started));
    }
    if let (Some(completed), true) = (after.completed, after.completed != before.completed) {
        line("completed", go::time(completed));
        if let Some(started) = after.started {
            line("duration", go::duration(completed - started));
        }
    }
    if after.cached != before.cached {
        line("cached", after.cached.to_string());
    }
    if after.error != before.error {
        line("error", go::quote(&after.error));
    }
    lines
}

fn status_text(status: &VertexStatus) -> String {
    let mut text = status.id.clone();
    if status.total != 0 {
        text += &format!(
            " {} / {}",
            format_bytes(status.current),
            format_bytes(status.total)
        );
    } else if status.current != 0 {
        text += &format!(" {}", format_bytes(status.current));
    }
    if let Some(started) = status.started {
        let end = status.completed.unwrap_or(status.timestamp);
        let seconds = (end - started).as_seconds_f64();
        if seconds > 0.01 {
            text += &format!(" {seconds:.1}s");
        }
    }
    if status.completed.is_some() {
        text += " done";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(recorded: &str) -> String {
        replay_in(Style::Current, recorded)
    }

    fn replay_in(style: Style, recorded: &str) -> String {
        let mut plain = Plain::new(style);
        let mut out = Vec::new();
        let mut now = OffsetDateTime::UNIX_EPOCH;
        let mut printed = now;
        for line in recorded.lines().filter(|line| line.starts_with('{')) {
            let status: Status = serde_json::from_str(line).unwrap();
            for vertex in &status.vertexes {
                now = now.max(vertex.completed.or(vertex.started).unwrap_or(now));
            }
            plain.update(status, now);
            // The pace of the display, in the recording's own time.
            if now - printed >= Duration::milliseconds(100) {
                out.extend(plain.render(now));
                printed = now;
            }
        }
        out.extend(plain.finish(now));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn p61_a_recorded_build_reads_like_the_reference() {
        insta::assert_snapshot!(replay(include_str!("testdata/ok.rawjson")));
    }

    #[test]
    fn p61_a_recorded_cached_build_reads_like_the_reference() {
        insta::assert_snapshot!(replay(include_str!("testdata/ok.again.rawjson")));
    }

    #[test]
    fn p61_a_recorded_failure_ends_with_the_log_of_the_failed_step() {
        let text = replay(include_str!("testdata/fail.rawjson"));
        assert!(
            text.contains("ERROR: process \"/bin/sh -c echo about to fail"),
            "{text}"
        );
        assert!(
            text.ends_with("second line\n------\n"),
            "the block of the failed step is last:\n{text}"
        );
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_recorded_build_reads_like_2018_when_asked() {
        insta::assert_snapshot!(replay_in(Style::V2018, include_str!("testdata/ok.rawjson")));
    }

    #[test]
    fn a_step_of_2018_reads_word_for_word_as_then() {
        let at = |nanos: i128| {
            OffsetDateTime::from_unix_timestamp_nanos(1_535_742_429_000_000_000 + nanos).unwrap()
        };
        let vertex = |started, completed: Option<i128>| Status {
            vertexes: vec![Vertex {
                digest: "sha256:4b4b".into(),
                name: "[internal] load .dockerignore".into(),
                started: Some(at(started)),
                completed: completed.map(at),
                ..Vertex::default()
            }],
            ..Status::default()
        };
        let mut plain = Plain::new(Style::V2018);
        for status in [
            vertex(246_319_297, None),
            vertex(246_319_297, Some(246_386_115)),
            vertex(250_000_000, Some(264_432_052)),
        ] {
            plain.update(status, at(300_000_000));
        }
        plain.update(
            Status {
                statuses: vec![VertexStatus {
                    id: "transferring context:".into(),
                    vertex: "sha256:4b4b".into(),
                    name: String::new(),
                    total: 0,
                    current: 142,
                    timestamp: at(264_000_000),
                    started: Some(at(260_000_000)),
                    completed: Some(at(264_000_000)),
                }],
                ..Status::default()
            },
            at(300_000_000),
        );
        let text = String::from_utf8(plain.finish(at(300_000_000))).unwrap();
        let expected = "
#1 [internal] load .dockerignore
#1       digest: sha256:4b4b
#1         name: \"[internal] load .dockerignore\"
#1      started: 2018-08-31 19:07:09.246319297 +0000 UTC
#1    completed: 2018-08-31 19:07:09.246386115 +0000 UTC
#1     duration: 66.818µs
#1      started: 2018-08-31 19:07:09.25 +0000 UTC
#1    completed: 2018-08-31 19:07:09.264432052 +0000 UTC
#1     duration: 14.432052ms
#1 transferring context: 142B done

";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_one_line() {
        let at = |ms: i64| OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(ms);
        let mut plain = Plain::default();
        let vertex = gateway_api::progress::Vertex {
            digest: "sha256:a".into(),
            name: "[1/1] RUN x".into(),
            started: Some(at(0)),
            ..Default::default()
        };
        let log = |data: &str, ms| Status {
            logs: vec![gateway_api::progress::VertexLog {
                vertex: "sha256:a".into(),
                stream: 1,
                data: data.as_bytes().to_vec(),
                timestamp: at(ms),
            }],
            ..Status::default()
        };
        plain.update(
            Status {
                vertexes: vec![vertex.clone()],
                ..Status::default()
            },
            at(0),
        );
        let mut out = plain.render(at(1));
        plain.update(log("one t", 10), at(10));
        out.extend(plain.render(at(11)));
        plain.update(log("wo\nthree", 20), at(20));
        out.extend(plain.render(at(21)));
        plain.update(
            Status {
                vertexes: vec![gateway_api::progress::Vertex {
                    completed: Some(at(30)),
                    ..vertex
                }],
                ..Status::default()
            },
            at(30),
        );
        out.extend(plain.finish(at(31)));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "#1 [1/1] RUN x\n#1 0.010 one two\n#1 0.020 three\n#1 DONE 0.0s\n"
        );
    }
}
