//! What a build says, on disk as history keeps it: a length and a message, again and again. Whoever
//! reads gets all of it from the beginning, and what comes while the build runs.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use tokio::sync::watch;

use crate::proto::control::StatusResponse;

/// Bytes of one message to a reader, about: clients take 4 MiB.
const BATCH: usize = 512 << 10;
/// Largest message that is read back.
const MAX_FRAME: usize = 16 << 20;
/// What one build may say; the rest of its output is left out.
const MAX_BYTES: u64 = 256 << 20;

/// Cheap to clone.
#[derive(Clone)]
pub struct StatusLog(Arc<Inner>);

struct Inner {
    file: File,
    /// Bytes of it; later output is left out.
    most: u64,
    writing: Mutex<Counts>,
    /// Bytes that are there, and whether it is all.
    written: watch::Sender<(u64, bool)>,
}

/// What history tells in numbers.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    steps: std::collections::HashMap<String, Step>,
    warnings: i32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Step {
    completed: bool,
    cached: bool,
}

impl Counts {
    fn see(&mut self, status: &StatusResponse) {
        for vertex in &status.vertexes {
            let step = self.steps.entry(vertex.digest.clone()).or_default();
            step.completed |= vertex.completed.is_some() && vertex.error.is_empty();
            step.cached |= vertex.cached;
        }
        self.warnings += i32::try_from(status.warnings.len()).unwrap_or(0);
    }

    /// Cached, all and completed steps, and warnings.
    pub fn numbers(&self) -> (i32, i32, i32, i32) {
        let count = |wanted: fn(&&Step) -> bool| {
            i32::try_from(self.steps.values().filter(wanted).count()).unwrap_or(i32::MAX)
        };
        (
            count(|step| step.cached),
            count(|_| true),
            count(|step| step.completed),
            self.warnings,
        )
    }
}

impl StatusLog {
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> io::Result<StatusLog> {
        StatusLog::within(MAX_BYTES, path)
    }

    fn within(most: u64, path: &Path) -> io::Result<StatusLog> {
        let file = File::options()
            .read(true)
            .append(true)
            .create_new(true)
            .open(path)?;
        Ok(StatusLog(Arc::new(Inner {
            file,
            most,
            writing: Mutex::default(),
            written: watch::Sender::new((0, false)),
        })))
    }

    /// A finished one.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(path: &Path) -> io::Result<StatusLog> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(StatusLog(Arc::new(Inner {
            file,
            most: MAX_BYTES,
            writing: Mutex::default(),
            written: watch::Sender::new((length, true)),
        })))
    }

    /// Never fails: a build is more than what is said of it.
    pub fn write(&self, mut status: StatusResponse) {
        let mut counts = self
            .0
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (length, _) = *self.0.written.borrow();
        counts.see(&status);
        if length > self.0.most {
            status.logs.clear();
            status.statuses.clear();
        }
        let size = status.encoded_len();
        if size == 0 || size > MAX_FRAME {
            return;
        }
        let mut frame = Vec::with_capacity(size + 4);
        frame.extend(u32::try_from(size).unwrap_or(0).to_le_bytes());
        if status.encode(&mut frame).is_err() || (&self.0.file).write_all(&frame).is_err() {
            return;
        }
        let length = length + frame.len() as u64;
        self.0.written.send_replace((length, false));
    }

    /// Nothing more comes.
    pub fn end(&self) {
        self.0.written.send_modify(|(_, done)| *done = true);
    }

    pub fn counts(&self) -> Counts {
        self.0
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Every message of a finished one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn each(&self, mut see: impl FnMut(&StatusResponse)) -> io::Result<()> {
        let (length, _) = *self.0.written.borrow();
        let mut reader = self.reader();
        while reader.at < length {
            see(&reader.read(length)?);
        }
        Ok(())
    }

    /// From the beginning.
    pub fn reader(&self) -> Reader {
        Reader {
            log: self.clone(),
            written: self.0.written.subscribe(),
            at: 0,
        }
    }
}

/// Reads what was said and is being said.
pub struct Reader {
    log: StatusLog,
    written: watch::Receiver<(u64, bool)>,
    at: u64,
}

impl Reader {
    /// The next messages as one; `None` at the end.
    pub async fn next(&mut self) -> Option<StatusResponse> {
        loop {
            let (length, done) = *self.written.borrow_and_update();
            if self.at < length {
                return self.read(length).ok();
            }
            if done {
                return None;
            }
            self.written.changed().await.ok()?;
        }
    }

    /// Messages one behind the other are one message with all their parts.
    fn read(&mut self, length: u64) -> io::Result<StatusResponse> {
        let file = &self.log.0.file;
        let mut all = Vec::new();
        while self.at < length && all.len() < BATCH {
            let mut size = [0; 4];
            file.read_exact_at(&mut size, self.at)?;
            let size = u32::from_le_bytes(size) as usize;
            if size > MAX_FRAME {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let start = all.len();
            all.resize(start + size, 0);
            let part = all.get_mut(start..).unwrap_or_default();
            file.read_exact_at(part, self.at + 4)?;
            self.at += 4 + size as u64;
        }
        StatusResponse::decode(all.as_slice()).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::control::Vertex;

    fn named(name: &str) -> StatusResponse {
        StatusResponse {
            vertexes: vec![Vertex {
                digest: name.to_owned(),
                name: name.to_owned(),
                ..Vertex::default()
            }],
            ..StatusResponse::default()
        }
    }

    #[tokio::test]
    async fn p13_a_reader_gets_all_from_the_beginning_and_what_comes_then_and_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = StatusLog::create(&path).unwrap();
        log.write(named("a"));
        log.write(named("b"));
        let mut reader = log.reader();
        let names = |status: StatusResponse| -> Vec<String> {
            status
                .vertexes
                .into_iter()
                .map(|vertex| vertex.name)
                .collect()
        };
        assert_eq!(names(reader.next().await.unwrap()), ["a", "b"]);
        let (next, ()) = tokio::join!(reader.next(), async { log.write(named("c")) });
        assert_eq!(names(next.unwrap()), ["c"]);
        let (end, ()) = tokio::join!(reader.next(), async { log.end() });
        assert!(end.is_none());
        assert_eq!(log.counts().numbers(), (0, 3, 0, 0));
        let mut again = StatusLog::open(&path).unwrap().reader();
        assert_eq!(names(again.next().await.unwrap()), ["a", "b", "c"]);
        assert!(again.next().await.is_none());
    }

    #[tokio::test]
    async fn p13_what_a_build_says_in_excess_is_left_out_and_its_steps_are_told_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let log = StatusLog::within(1000, &dir.path().join("log")).unwrap();
        let said = |name: &str| StatusResponse {
            logs: vec![crate::proto::control::VertexLog {
                vertex: name.to_owned(),
                msg: vec![b'x'; 300],
                ..Default::default()
            }],
            ..named(name)
        };
        for number in 0..10 {
            log.write(said(&number.to_string()));
        }
        log.end();
        let (mut steps, mut bytes) = (0, 0);
        let each = |status: &StatusResponse| {
            steps += status.vertexes.len();
            bytes += status.logs.iter().map(|log| log.msg.len()).sum::<usize>();
        };
        log.each(each).unwrap();
        // The one that goes over the limit is whole.
        assert_eq!((steps, bytes), (10, 1200));
    }
}
