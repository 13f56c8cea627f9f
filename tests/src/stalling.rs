//! A registry behind a line that goes dead in the middle of a blob: bytes are passed on until one is under way, and
//! then no more, without an end.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// When the line goes dead.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dead {
    /// Once a blob was asked for, after this many bytes of answers.
    Fetching(usize),
    /// Once a blob is being uploaded.
    Uploading,
}

/// Serves until the test's process ends.
pub struct Stalling {
    pub address: SocketAddr,
    stalled: Receiver<()>,
}

struct Line {
    dead: Dead,
    asked: AtomicBool,
    answered: AtomicUsize,
    told: Mutex<Sender<()>>,
}

impl Line {
    /// The line is dead from now on: this thread never comes back.
    fn stall(&self) -> ! {
        let _ = self.told.lock().expect("the channel").send(());
        loop {
            std::thread::park();
        }
    }
}

impl Stalling {
    /// Before a registry that speaks without TLS.
    pub fn before(registry: SocketAddr, dead: Dead) -> Stalling {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (told, stalled) = channel();
        let line = Arc::new(Line {
            dead,
            asked: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            told: Mutex::new(told),
        });
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(registry).expect("the registry");
                let ways = [
                    (
                        near.try_clone().expect("a socket"),
                        far.try_clone().expect("a socket"),
                        true,
                    ),
                    (far, near, false),
                ];
                for (from, to, is_request) in ways {
                    let line = line.clone();
                    std::thread::spawn(move || pass(from, to, is_request, &line));
                }
            }
        });
        Stalling { address, stalled }
    }

    /// Configuration by which it is used.
    pub fn table(&self) -> String {
        format!("[registry.\"{}\"]\nhttp = true\n", self.address)
    }

    /// Returns when the line is dead.
    pub fn wait(&self) {
        self.stalled
            .recv_timeout(Duration::from_secs(60))
            .expect("no blob was under way");
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_request: bool, line: &Line) {
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        let bytes = &piece[..count];
        let has = |word: &str| bytes.windows(word.len()).any(|at| at == word.as_bytes());
        match line.dead {
            Dead::Fetching(_) if is_request => {
                if has("GET ") && has("/blobs/") {
                    line.asked.store(true, Ordering::SeqCst);
                }
            }
            Dead::Fetching(most) => {
                let asked = line.asked.load(Ordering::SeqCst);
                if asked && line.answered.fetch_add(count, Ordering::SeqCst) > most {
                    line.stall();
                }
            }
            Dead::Uploading => {
                if is_request && (has("PATCH ") || has("PUT ")) && has("/blobs/uploads/") {
                    line.stall();
                }
            }
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
