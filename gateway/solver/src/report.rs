//! Progress of vertices: who was announced, started, finished, and what counts as cached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gateway_api::progress::{Progress, ProgressGroup, Status, Vertex, VertexLog, VertexStatus};
use time::OffsetDateTime;

use crate::store::{Frame, WorkLog};

/// The vertices of one build as its client sees them.
pub struct Reports {
    progress: Progress,
    known: Mutex<HashMap<String, Known>>,
    /// Where output of vertices goes besides: to builds elsewhere that wait for the same work.
    copies: Mutex<HashMap<String, Arc<WorkLog>>>,
}

/// A vertex as it was last told.
struct Known {
    vertex: Vertex,
    /// Parts that work on it at this moment: layers of one image are needed from many sides.
    running: usize,
}

impl Reports {
    pub fn new(progress: Progress) -> Self {
        Reports {
            progress,
            known: Mutex::default(),
            copies: Mutex::default(),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, Known>) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows vertices for the first time; those already shown are passed over.
    pub fn announce(&self, vertices: Vec<Vertex>) {
        let fresh: Vec<Vertex> = self.with(|known| {
            vertices
                .into_iter()
                .filter(|vertex| {
                    let fresh = !known.contains_key(&vertex.digest);
                    if fresh {
                        let shown = Known {
                            vertex: vertex.clone(),
                            running: 0,
                        };
                        known.insert(vertex.digest.clone(), shown);
                    }
                    fresh
                })
                .collect()
        });
        if !fresh.is_empty() {
            self.progress.send(Status {
                vertexes: fresh,
                ..Status::default()
            });
        }
    }

    /// A vertex begins; inputs that never ran were not needed and count as cached.
    pub fn start(&self, digest: &str) -> Running<'_> {
        let now = OffsetDateTime::now_utc();
        let changed = self.with(|known| {
            let mut changed = cached_inputs(known, digest, now);
            if let Some(Known { vertex, running }) = known.get_mut(digest) {
                *running += 1;
                if *running == 1 {
                    vertex.started = Some(now);
                    vertex.completed = None;
                    vertex.cached = false;
                    vertex.error.clear();
                    changed.push(vertex.clone());
                }
            }
            changed
        });
        self.send(changed);
        Running {
            reports: self,
            digest: digest.to_owned(),
            done: false,
        }
    }

    /// A vertex whose result was found.
    pub fn cached(&self, digest: &str) {
        let now = OffsetDateTime::now_utc();
        let changed = self.with(|known| {
            let mut changed = cached_inputs(known, digest, now);
            if let Some(Known { vertex, running: 0 }) = known.get_mut(digest) {
                vertex.started = vertex.started.or(Some(now));
                vertex.completed = Some(now);
                vertex.cached = true;
                changed.push(vertex.clone());
            }
            changed
        });
        self.send(changed);
    }

    fn send(&self, vertexes: Vec<Vertex>) {
        if !vertexes.is_empty() {
            self.progress.send(Status {
                vertexes,
                ..Status::default()
            });
        }
    }

    fn complete(&self, digest: &str, error: &str) {
        let changed = self.with(|known| {
            let Known { vertex, running } = known.get_mut(digest)?;
            *running = running.saturating_sub(1);
            if vertex.error.is_empty() {
                vertex.error = error.to_owned();
            }
            if *running > 0 {
                return None;
            }
            vertex.completed = Some(OffsetDateTime::now_utc());
            Some(vertex.clone())
        });
        self.send(changed.into_iter().collect());
    }

    pub fn log(&self, digest: &str, stream: i64, data: Vec<u8>) {
        let timestamp = OffsetDateTime::now_utc();
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copies.get(digest).cloned() {
            drop(copies);
            copy.write(&Frame {
                stream: u8::try_from(stream).unwrap_or(2),
                time: i64::try_from(timestamp.unix_timestamp_nanos()).unwrap_or_default(),
                data: data.clone(),
            });
        }
        self.progress.log(VertexLog {
            vertex: digest.to_owned(),
            stream,
            data,
            timestamp,
        });
    }

    /// Copies the output of a vertex from now on, or no longer.
    pub fn copy_to(&self, digest: &str, log: Option<Arc<WorkLog>>) {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        match log {
            Some(log) => drop(copies.insert(digest.to_owned(), log)),
            None => drop(copies.remove(digest)),
        }
    }

    /// Output of the build that does the work which this one waits for.
    pub fn log_of_other(&self, digest: &str, frame: Frame) {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(frame.time));
        self.progress.log(VertexLog {
            vertex: digest.to_owned(),
            stream: i64::from(frame.stream),
            data: frame.data,
            timestamp: time.unwrap_or(OffsetDateTime::UNIX_EPOCH),
        });
    }

    /// A part of a vertex begins; bytes are told by the handle.
    pub fn status(&self, vertex: &str, id: impl Into<String>, name: &str) -> StatusHandle {
        self.status_of(vertex, id, name, 0)
    }

    /// The same of something whose size is known.
    pub fn status_of(
        &self,
        vertex: &str,
        id: impl Into<String>,
        name: &str,
        total: u64,
    ) -> StatusHandle {
        let handle = self.status_to_be(vertex, id, name, total);
        handle.progress.status(handle.status.clone());
        handle
    }

    /// A part that is told of only when it has something to tell, as transfers that are over at once.
    pub fn status_when_told(
        &self,
        vertex: &str,
        id: impl Into<String>,
        name: &str,
    ) -> StatusHandle {
        self.status_to_be(vertex, id, name, 0)
    }

    fn status_to_be(
        &self,
        vertex: &str,
        id: impl Into<String>,
        name: &str,
        total: u64,
    ) -> StatusHandle {
        let now = OffsetDateTime::now_utc();
        StatusHandle {
            open: true,
            progress: self.progress.clone(),
            status: VertexStatus {
                id: id.into(),
                vertex: vertex.to_owned(),
                name: name.to_owned(),
                total: i64::try_from(total).unwrap_or(i64::MAX),
                current: 0,
                timestamp: now,
                started: Some(now),
                completed: None,
            },
        }
    }
}

/// Marks inputs that never started, theirs too, and gives them inputs first. No recursion: graphs are deep.
fn cached_inputs(
    known: &mut HashMap<String, Known>,
    digest: &str,
    now: OffsetDateTime,
) -> Vec<Vertex> {
    let mut stack: Vec<String> = known
        .get(digest)
        .map(|known| known.vertex.inputs.clone())
        .unwrap_or_default();
    let mut changed = Vec::new();
    while let Some(input) = stack.pop() {
        let Some(Known { vertex, .. }) = known.get_mut(&input) else {
            continue;
        };
        if vertex.started.is_some() {
            continue;
        }
        vertex.started = Some(now);
        vertex.completed = Some(now);
        vertex.cached = true;
        stack.extend(vertex.inputs.iter().cloned());
        changed.push(vertex.clone());
    }
    changed.reverse();
    changed
}

/// A running vertex; ends as canceled when dropped without a word.
pub struct Running<'a> {
    reports: &'a Reports,
    digest: String,
    done: bool,
}

impl Running<'_> {
    pub fn finish<T>(mut self, outcome: &Result<T, gateway_api::Error>) {
        self.done = true;
        match outcome {
            Ok(_) => self.reports.complete(&self.digest, ""),
            Err(error) => self.reports.complete(&self.digest, &error.message),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.reports.complete(&self.digest, "context canceled");
        }
    }
}

/// A part of a vertex with progress of its own. Ends when dropped: work that fails half-way leaves
/// nothing that seems to go on.
pub struct StatusHandle {
    open: bool,
    progress: Progress,
    status: VertexStatus,
}

impl StatusHandle {
    pub fn update(&mut self, current: u64, total: u64) {
        self.status.current = i64::try_from(current).unwrap_or(i64::MAX);
        self.status.total = i64::try_from(total).unwrap_or(i64::MAX);
        self.status.timestamp = OffsetDateTime::now_utc();
        self.progress.status(self.status.clone());
    }

    pub fn done(mut self) {
        if self.status.total > 0 {
            self.status.current = self.status.total;
        }
        self.end();
    }

    fn end(&mut self) {
        let now = OffsetDateTime::now_utc();
        self.open = false;
        self.status.timestamp = now;
        self.status.completed = Some(now);
        self.progress.status(self.status.clone());
    }

    /// Ends with this many bytes, of no known total.
    pub fn done_with(mut self, bytes: u64) {
        self.status.current = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.done();
    }
}

impl Drop for StatusHandle {
    fn drop(&mut self) {
        if self.open {
            self.end();
        }
    }
}

/// A vertex for the stream, from what LLB says of it.
pub fn vertex(
    digest: &str,
    name: &str,
    inputs: Vec<String>,
    group: Option<&gateway_llb::pb::ProgressGroup>,
) -> Vertex {
    Vertex {
        digest: digest.to_owned(),
        inputs,
        name: name.to_owned(),
        progress_group: group.map(|group| ProgressGroup {
            id: group.id.clone(),
            name: group.name.clone(),
            weak: group.weak,
        }),
        ..Vertex::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vertex_with_several_parts_at_work_starts_and_ends_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let reports = Reports::new(Progress::new(move |status| {
            sink.lock().unwrap().extend(status.vertexes);
        }));
        reports.announce(vec![vertex("a", "a", vec![], None)]);
        let (one, two) = (reports.start("a"), reports.start("a"));
        one.finish(&Ok(()));
        assert_eq!(seen.lock().unwrap().len(), 2);
        two.finish(&Err::<(), _>(gateway_api::Error::unknown("broken")));
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 3);
        assert!(seen[2].completed.is_some());
        assert_eq!(seen[2].error, "broken");
    }

    #[test]
    fn a_part_that_is_given_up_ends_where_it_was() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let reports = Reports::new(Progress::new(move |status| {
            sink.lock().unwrap().extend(status.statuses);
        }));
        let mut status = reports.status("v", "blob", "");
        status.update(3, 10);
        drop(status);
        reports.status("v", "other", "").done();
        let ends: Vec<(String, i64, bool)> = seen
            .lock()
            .unwrap()
            .iter()
            .map(|s| (s.id.clone(), s.current, s.completed.is_some()))
            .collect();
        let told = [
            ("blob", 0, false),
            ("blob", 3, false),
            ("blob", 3, true),
            ("other", 0, false),
            ("other", 0, true),
        ];
        assert_eq!(
            ends,
            told.map(|(id, current, end)| (id.to_owned(), current, end))
        );
    }

    #[test]
    fn inputs_that_never_ran_count_as_cached_when_their_user_starts() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let reports = Reports::new(Progress::new(move |status| {
            sink.lock().unwrap().extend(status.vertexes);
        }));
        reports.announce(vec![
            vertex("a", "a", vec![], None),
            vertex("b", "b", vec!["a".into()], None),
            vertex("c", "c", vec!["b".into()], None),
        ]);
        reports.start("c").finish(&Ok(()));
        let seen = seen.lock().unwrap();
        let told: Vec<(&str, bool, bool)> = seen
            .iter()
            .skip(3)
            .map(|v| (v.name.as_str(), v.cached, v.completed.is_some()))
            .collect();
        assert_eq!(
            told,
            [
                ("a", true, true),
                ("b", true, true),
                ("c", false, false),
                ("c", false, true)
            ]
        );
    }
}
