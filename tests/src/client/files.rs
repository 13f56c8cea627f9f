//! Directories by the file sync protocol, made up as a test likes: true, or lies.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;

use super::session::end;
use super::wire::{DATA, ERR, FIN, Packet, REQ, STAT, Stat};
use super::{Answers, Frames, framed};

/// Bytes of one packet, as Go's clients send them.
const PIECE: usize = 32 << 10;

pub const DIR: u32 = 1 << 31 | 0o755;
pub const LINK: u32 = 1 << 27 | 0o777;

/// What a file holds.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Bytes),
    /// So many.
    Zeros(u64),
    /// Without end.
    Endless,
    /// Never comes.
    Never,
}

/// How a list of files goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    #[default]
    None,
    /// It never ends; entries are made up.
    EndlessList,
    /// Files are sent that nobody asked for.
    Unasked,
    /// Every file is begun before one is ended.
    AllAtOnce,
    /// The transfer is over before it began.
    EarlyEnd,
    /// Nothing comes behind the list's first half.
    Stall,
    /// The call never ends.
    NoGoodbye,
}

/// A directory. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tree(Arc<Inner>);

#[derive(Default)]
struct Inner {
    entries: Vec<(Stat, Content)>,
    lie: Lie,
    /// What was asked for, one list for each transfer.
    asked: Mutex<Vec<Vec<String>>>,
    /// A stalled transfer goes on.
    go_on: AtomicBool,
    /// Packets that were sent.
    sent: AtomicUsize,
}

/// A regular file of this time.
pub fn file(path: &str, size: usize, time: i64) -> Stat {
    Stat {
        path: path.to_owned(),
        mode: 0o644,
        size: i64::try_from(size).expect("a size"),
        time,
        ..Stat::default()
    }
}

impl Tree {
    /// Entries in the order of the protocol.
    pub fn new(entries: Vec<(Stat, Content)>) -> Tree {
        Tree::lying(entries, Lie::None)
    }

    pub fn lying(entries: Vec<(Stat, Content)>, lie: Lie) -> Tree {
        Tree(Arc::new(Inner {
            entries,
            lie,
            ..Inner::default()
        }))
    }

    /// Files with content; sorted, none in directories.
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let mut entries: Vec<_> = files
            .iter()
            .map(|(path, text)| {
                let content = Bytes::copy_from_slice(text.as_bytes());
                (file(path, text.len(), 1), Content::Bytes(content))
            })
            .collect();
        entries.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        Tree::new(entries)
    }

    /// So many files of a few bytes, a hundred in a directory; and a build file that copies them.
    pub fn many(count: usize) -> Tree {
        let mut entries = vec![Tree::dockerfile("FROM scratch\nCOPY d* /\n")];
        for number in 0..count {
            if number % 100 == 0 {
                let dir = Stat {
                    path: format!("d{:05}", number / 100),
                    mode: DIR,
                    time: 1,
                    ..Stat::default()
                };
                entries.push((dir, Content::Never));
            }
            let text = format!("{number}");
            let path = format!("d{:05}/f{:02}", number / 100, number % 100);
            entries.push((file(&path, text.len(), 1), Content::Bytes(text.into())));
        }
        Tree::new(entries)
    }

    /// The same without all but one file.
    pub fn only(&self, path: &str) -> Tree {
        let entries = self.0.entries.iter();
        Tree::new(
            entries
                .filter(|(stat, _)| stat.path == path)
                .cloned()
                .collect(),
        )
    }

    pub fn dockerfile(text: &str) -> (Stat, Content) {
        let content = Bytes::copy_from_slice(text.as_bytes());
        (file("Dockerfile", text.len(), 1), Content::Bytes(content))
    }

    /// The files that were asked for, of each transfer.
    pub fn asked(&self) -> Vec<Vec<String>> {
        self.0.asked.lock().expect("what was asked").clone()
    }

    /// Files that were asked for, of all transfers.
    pub fn asked_count(&self) -> usize {
        self.asked().iter().map(Vec::len).sum()
    }

    pub fn sent(&self) -> usize {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Ends a stall.
    pub fn go_on(&self) {
        self.0.go_on.store(true, Ordering::Relaxed);
    }

    async fn put(&self, frames: &Frames, packet: &Packet) -> Result<(), ()> {
        self.0.sent.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::data(framed(packet));
        frames.send(Ok(frame)).await.map_err(|_| ())
    }

    /// The sender's side. The list goes out before any request is looked at.
    pub async fn serve(self, mut asked: Answers, frames: &Frames) {
        let (heard, mut requests) = tokio::sync::mpsc::unbounded_channel();
        let reader = tokio::spawn(async move {
            while let Ok(Some(packet)) = asked.next::<Packet>().await {
                if heard.send(packet).is_err() {
                    return;
                }
            }
        });
        let served = self.send(&mut requests, frames).await;
        reader.abort();
        match served {
            Ok(()) if self.0.lie == Lie::NoGoodbye => frames.closed().await,
            Ok(()) => end(frames, 0, "").await,
            Err(()) => end(frames, 2, "transfer failed").await,
        }
    }

    async fn send(
        &self,
        requests: &mut tokio::sync::mpsc::UnboundedReceiver<Packet>,
        frames: &Frames,
    ) -> Result<(), ()> {
        let place = {
            let mut asked = self.0.asked.lock().expect("what was asked");
            asked.push(Vec::new());
            asked.len() - 1
        };
        let fin = Packet {
            kind: FIN,
            ..Packet::default()
        };
        for (number, (stat, _)) in self.0.entries.iter().enumerate() {
            let stat = Packet {
                kind: STAT,
                stat: Some(stat.clone()),
                ..Packet::default()
            };
            self.put(frames, &stat).await?;
            if self.0.lie == Lie::Stall && number >= self.0.entries.len() / 2 {
                while !self.0.go_on.load(Ordering::Relaxed) {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(20)) => {}
                        () = frames.closed() => return Err(()),
                    }
                }
            }
        }
        if self.0.lie == Lie::EndlessList {
            for number in 0_u64.. {
                let stat = Packet {
                    kind: STAT,
                    stat: Some(Stat {
                        xattrs: [("user.x".to_owned(), vec![0; 60_000])].into(),
                        ..file(&format!("~{number:020}"), 1, 1)
                    }),
                    ..Packet::default()
                };
                self.put(frames, &stat).await?;
            }
        }
        self.put(frames, &Packet::default()).await?;
        match self.0.lie {
            Lie::EarlyEnd => return self.put(frames, &fin).await,
            Lie::Unasked => {
                let data = Packet {
                    kind: DATA,
                    id: 4_000_000,
                    data: Bytes::from_static(b"x"),
                    ..Packet::default()
                };
                self.put(frames, &data).await?;
            }
            _ => {}
        }
        while let Some(packet) = requests.recv().await {
            match packet.kind {
                REQ => {
                    let (stat, content) = self.0.entries.get(packet.id as usize).ok_or(())?;
                    let path = stat.path.clone();
                    self.0.asked.lock().expect("what was asked")[place].push(path);
                    let content = content.clone();
                    self.content(frames, packet.id, content).await?;
                }
                FIN => return self.put(frames, &fin).await,
                _ => return Err(()),
            }
        }
        Err(())
    }

    async fn content(&self, frames: &Frames, id: u32, content: Content) -> Result<(), ()> {
        let packet = |data: Bytes| Packet {
            kind: DATA,
            id,
            data,
            ..Packet::default()
        };
        let mut left = match content {
            Content::Never => return Ok(()),
            Content::Bytes(bytes) => {
                for piece in bytes.chunks(PIECE) {
                    let piece = bytes.slice_ref(piece);
                    self.put(frames, &packet(piece)).await?;
                }
                0
            }
            Content::Zeros(count) => count,
            Content::Endless => u64::MAX,
        };
        let zeros = Bytes::from(vec![0; PIECE]);
        while left > 0 {
            let piece = zeros.slice(..PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
            left -= piece.len() as u64;
            self.put(frames, &packet(piece)).await?;
        }
        if self.0.lie == Lie::AllAtOnce {
            return Ok(());
        }
        self.put(frames, &packet(Bytes::new())).await
    }
}

/// How exported files are taken, and what came.
#[derive(Default)]
pub struct Received {
    pub entries: AtomicUsize,
    pub bytes: AtomicU64,
    /// Paths, as they came.
    pub paths: Mutex<Vec<String>>,
    /// Nothing is read while this is so.
    pub stalled: AtomicBool,
    /// The first packet came.
    pub begun: AtomicBool,
}

impl Received {
    fn note(&self, path: &str) {
        let mut paths = self.paths.lock().expect("the paths");
        paths.push(path.to_owned());
    }
}

/// The receiver's side: every regular file is asked for, and counted.
pub async fn receive(received: &Received, mut packets: Answers, frames: &Frames) {
    let put = |kind, id| {
        let packet = Packet {
            kind,
            id,
            ..Packet::default()
        };
        frames.send(Ok(Frame::data(framed(&packet))))
    };
    let (mut id, mut waiting, mut listed) = (0, 0, false);
    loop {
        while received.stalled.load(Ordering::Relaxed) {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                () = frames.closed() => return,
            }
        }
        let Ok(Some(packet)) = packets.next::<Packet>().await else {
            return end(frames, 2, "the transfer broke").await;
        };
        received.begun.store(true, Ordering::Relaxed);
        let sent = match (packet.kind, packet.stat) {
            (STAT, Some(stat)) => {
                received.entries.fetch_add(1, Ordering::Relaxed);
                received.note(&stat.path);
                id += 1;
                match stat.mode >> 20 == 0 && stat.link.is_empty() {
                    true => {
                        waiting += 1;
                        put(REQ, id - 1).await
                    }
                    false => Ok(()),
                }
            }
            (STAT, None) => {
                listed = true;
                Ok(())
            }
            (DATA, _) => {
                let count = packet.data.len() as u64;
                received.bytes.fetch_add(count, Ordering::Relaxed);
                waiting -= usize::from(count == 0);
                Ok(())
            }
            (FIN, _) => return end(frames, 0, "").await,
            (ERR, _) => return end(frames, 2, "the sender failed").await,
            _ => return end(frames, 2, "what is that").await,
        };
        if sent.is_err() {
            return;
        }
        if listed && waiting == 0 {
            listed = false;
            if put(FIN, 0).await.is_err() {
                return;
            }
        }
    }
}
